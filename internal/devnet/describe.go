package devnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// DescriptionFile is the name of a network's description in its directory.
const DescriptionFile = "network.json"

// Description is what other programs need to use a running network.
type Description struct {
	PID     int        `json:"pid"` // the process whose end is the network's end
	Dir     string     `json:"dir"`
	Started time.Time  `json:"started"`
	FeeURL  string     `json:"fee_url"`
	Btcd    BtcdRPC    `json:"btcd"`
	Nodes   []NodeInfo `json:"nodes"`
	Procs   []ProcInfo `json:"processes"`
}

// NodeInfo describes an lnd.
type NodeInfo struct {
	Name          string `json:"name"`
	PID           int    `json:"pid"` // 0 when it is down
	PubKey        string `json:"pubkey"`
	RPC           string `json:"rpc"`
	P2P           string `json:"p2p"`
	Dir           string `json:"dir"`
	TLSCert       string `json:"tls_cert"`
	AdminMacaroon string `json:"admin_macaroon"`
	Log           string `json:"log"`
	Lncli         string `json:"lncli"` // a command that reaches it
}

// ProcInfo describes another process of the network.
type ProcInfo struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	Log  string `json:"log"`

	proc *Proc
}

// Describe tells how to reach everything in the network now.
func (n *Net) Describe() Description {
	lncli := filepath.Join(filepath.Dir(n.lnd), "lncli")
	d := Description{
		PID: os.Getpid(), Dir: n.dir, Started: n.started, FeeURL: n.fees.URL(), Btcd: n.miner.RPC(),
		Procs: []ProcInfo{{Name: "btcd", PID: n.miner.proc.PID(), Log: n.miner.proc.LogFile()}},
	}
	for _, node := range n.Nodes() {
		d.Nodes = append(d.Nodes, NodeInfo{
			Name: node.Name, PID: node.proc.PID(), PubKey: node.PubKey, RPC: node.RPCAddr, P2P: node.P2PAddr,
			Dir: node.Dir, TLSCert: node.TLSCertPath, AdminMacaroon: node.AdminMacaroonPath(),
			Log:   node.proc.LogFile(),
			Lncli: fmt.Sprintf("%s --network=regtest --lnddir=%s --rpcserver=%s", lncli, node.Dir, node.RPCAddr),
		})
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, extra := range n.extras {
		extra.PID = extra.proc.PID()
		d.Procs = append(d.Procs, extra)
	}
	return d
}

// WriteDescription writes the description to the network's directory and
// returns the file's path.
func (n *Net) WriteDescription() (string, error) {
	data, err := json.MarshalIndent(n.Describe(), "", "  ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(n.dir, DescriptionFile)
	// A reader must never see half of it.
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o644); err != nil {
		return "", err
	}
	return path, os.Rename(path+".new", path)
}

// Alive tells whether the process that runs the network still exists.
func (d Description) Alive() bool { return alive(d.PID) }

// FindNetworks lists the networks below a directory for temporary files
// (default: the system's) that wrote a description, dead ones included.
func FindNetworks(parent string) ([]Description, error) {
	if parent == "" {
		parent = os.TempDir()
	}
	files, err := filepath.Glob(filepath.Join(parent, DirPrefix+"*", DescriptionFile))
	if err != nil {
		return nil, err
	}
	var found []Description
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // closed meanwhile
		}
		if err != nil {
			return nil, err
		}
		var d Description
		if err := json.Unmarshal(data, &d); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		found = append(found, d)
	}
	return found, nil
}

// RemoveStale removes the directory of a network whose process is gone, with
// whatever still runs in it.
func RemoveStale(d Description) error {
	if d.Alive() {
		return fmt.Errorf("the network in %s still runs (pid %d)", d.Dir, d.PID)
	}
	if !strings.HasPrefix(filepath.Base(d.Dir), DirPrefix) {
		return fmt.Errorf("%s does not look like a network's directory", d.Dir)
	}
	pids, err := processesMentioning(d.Dir)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill %d: %w", pid, err)
		}
	}
	return os.RemoveAll(d.Dir)
}
