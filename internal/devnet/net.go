package devnet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// DirPrefix begins the name of every network's temporary directory.
const DirPrefix = "sluice-devnet-"

// Config says where a network lives.
type Config struct {
	// Dir is the parent of the network's directory (default: the system's
	// directory for temporary files).
	Dir string

	// PeersDir holds btcd and lnd (default: see [FindPeers]).
	PeersDir string

	// Log tells what the network does (default: nothing).
	Log *zap.Logger

	// KeepDir leaves the directory behind after Close, for reading logs.
	KeepDir bool
}

// Net is a running network. Its methods may be called concurrently.
type Net struct {
	dir     string
	lnd     string
	log     *zap.Logger
	started time.Time

	miner *Miner
	fees  *FeeServer
	ports *ports

	mu       sync.Mutex // guards what follows
	keepDir  bool
	closed   bool
	nodes    []*Node
	links    []*Link
	redials  map[*Link]*redial
	closers  []func() error // processes and servers that others added
	extras   []ProcInfo     // described beside the nodes
	programs []*Proc        // of NewProc: Go programs, as all nodes are
	closeErr error
}

// FindPeers returns the directory that holds btcd and lnd: the environment's
// SLUICE_PEERS, or .build/peers in this directory or one above it, or peers
// beside the directory of this program.
func FindPeers() (string, error) {
	var candidates []string
	if dir := os.Getenv("SLUICE_PEERS"); dir != "" {
		candidates = append(candidates, dir)
	}
	if exe, err := os.Executable(); err == nil {
		candidates = append(candidates, filepath.Join(filepath.Dir(exe), "..", "peers"))
	}
	if dir, err := os.Getwd(); err == nil {
		for {
			candidates = append(candidates, filepath.Join(dir, ".build", "peers"))
			parent := filepath.Dir(dir)
			if parent == dir {
				break
			}
			dir = parent
		}
	}
	for _, dir := range candidates {
		if isFile(filepath.Join(dir, "btcd")) && isFile(filepath.Join(dir, "lnd")) {
			return filepath.Abs(dir)
		}
	}
	return "", errors.New("btcd and lnd are not built: run `make peers` in the repository (or set SLUICE_PEERS to their directory)")
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// Start starts btcd with 450 blocks and the fee source. ctx bounds the start
// only; Close ends the network.
func Start(ctx context.Context, config Config) (_ *Net, err error) {
	if config.Log == nil {
		config.Log = zap.NewNop()
	}
	if config.PeersDir == "" {
		if config.PeersDir, err = FindPeers(); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp(config.Dir, DirPrefix)
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	// Other users' processes (PostgreSQL's, under root) must get through.
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	n := &Net{
		dir: dir, lnd: filepath.Join(config.PeersDir, "lnd"), log: config.Log,
		keepDir: config.KeepDir, started: time.Now(), redials: map[*Link]*redial{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if n.ports, err = reservePorts(); err != nil {
		return nil, err
	}
	if n.fees, err = startFeeServer(); err != nil {
		return nil, err
	}
	n.miner, err = startMiner(ctx, filepath.Join(config.PeersDir, "btcd"), filepath.Join(dir, "btcd"), n.LogFile("btcd"), n.ports)
	if err != nil {
		return nil, err
	}
	n.log.Info("btcd is ready", zap.String("rpc", n.miner.RPC().Host), zap.Duration("after", time.Since(n.started)))
	return n, nil
}

// Dir is the network's directory.
func (n *Net) Dir() string { return n.dir }

// LogFile is where a process of the network with this name logs.
func (n *Net) LogFile(name string) string { return filepath.Join(n.dir, "logs", name+".log") }

// Port returns a free port of the network's block for a server that a test
// starts, as host:port on loopback. It stays reserved until Close.
func (n *Net) Port() (string, error) { return n.ports.takeAddr() }

// Miner is the network's btcd.
func (n *Net) Miner() *Miner { return n.miner }

// Fees is the fee source of every lnd.
func (n *Net) Fees() *FeeServer { return n.fees }

// Nodes lists the lnds in the order in which they were asked for.
func (n *Net) Nodes() []*Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.nodes)
}

// Node returns the lnd of this name, or nil.
func (n *Net) Node(name string) *Node {
	for _, node := range n.Nodes() {
		if node.Name == name {
			return node
		}
	}
	return nil
}

// NewNode starts an lnd and returns when it serves every call.
func (n *Net) NewNode(ctx context.Context, name string, config NodeConfig) (*Node, error) {
	nodes, err := n.NewNodes(ctx, NodeSpec{name, config})
	if err != nil {
		return nil, err
	}
	return nodes[0], nil
}

// NodeSpec names a node to start.
type NodeSpec struct {
	Name   string
	Config NodeConfig
}

// NewNodes starts several lnds at once, which costs little more than one.
func (n *Net) NewNodes(ctx context.Context, specs ...NodeSpec) ([]*Node, error) {
	for _, spec := range specs {
		if spec.Name == "" || strings.ContainsAny(spec.Name, "/ ") {
			return nil, fmt.Errorf("node name %q: must be a plain word", spec.Name)
		}
		if n.Node(spec.Name) != nil || spec.Name == "btcd" || spec.Name == "logs" {
			return nil, fmt.Errorf("node name %q is taken", spec.Name)
		}
	}
	begin := time.Now()
	nodes := make([]*Node, len(specs))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, spec := range specs {
		group.Go(func() (err error) {
			nodes[i], err = n.startNode(groupCtx, spec.Name, spec.Config)
			return err
		})
	}
	err := group.Wait()
	started := slices.DeleteFunc(slices.Clone(nodes), func(node *Node) bool { return node == nil })

	n.mu.Lock()
	n.nodes = append(n.nodes, started...)
	n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, node := range started {
		n.log.Info("lnd is ready", zap.String("node", node.Name), zap.String("pubkey", node.PubKey),
			zap.String("rpc", node.RPCAddr), zap.Duration("after", time.Since(begin)))
	}
	return nodes, nil
}

// NewProc adds a program to the network: Close kills it, its log is in the
// network's directory, and the description lists it. It is not started.
func (n *Net) NewProc(cmd Command) *Proc {
	if cmd.LogFile == "" {
		cmd.LogFile = n.LogFile(cmd.Name)
	}
	proc := NewProc(cmd)
	n.OnClose(proc.Kill)
	n.mu.Lock()
	n.extras = append(n.extras, ProcInfo{Name: cmd.Name, Log: cmd.LogFile, proc: proc})
	n.programs = append(n.programs, proc)
	n.mu.Unlock()
	return proc
}

// OnClose adds something that Close ends, in reverse order, before the nodes.
func (n *Net) OnClose(closer func() error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closers = append(n.closers, closer)
}

// Mine makes blocks and waits until every running node has seen them.
func (n *Net) Mine(ctx context.Context, blocks int) error {
	if _, err := n.miner.Mine(ctx, blocks); err != nil {
		return err
	}
	return n.WaitSynced(ctx)
}

// Keep leaves the directory behind at Close.
func (n *Net) Keep() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.keepDir = true
}

// Trace ends every program and node, each of which writes where its goroutines
// stand into its log: for a test that has failed, before Close.
func (n *Net) Trace() error {
	n.mu.Lock()
	procs := slices.Clone(n.programs)
	for _, node := range n.nodes {
		procs = append(procs, node.proc)
	}
	n.mu.Unlock()
	errs := make([]error, len(procs))
	var wg sync.WaitGroup
	for i, proc := range procs {
		wg.Go(func() { errs[i] = proc.Trace() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close kills every process, removes the directory and checks that nothing is
// left. Closing again returns the same.
func (n *Net) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return n.closeErr
	}
	n.closed = true
	closers, nodes, links, keep := n.closers, n.nodes, n.links, n.keepDir
	redials := slices.Collect(maps.Values(n.redials))
	n.mu.Unlock()

	var errs []error
	for _, closer := range slices.Backward(closers) {
		errs = append(errs, closer())
	}
	for _, r := range redials {
		r.stop()
	}
	for _, link := range links {
		errs = append(errs, link.Close())
	}
	for _, node := range nodes {
		errs = append(errs, node.close())
	}
	if n.miner != nil {
		errs = append(errs, n.miner.proc.Kill())
		n.miner.rpc.close()
	}
	if n.fees != nil {
		errs = append(errs, n.fees.close())
	}
	if !keep {
		errs = append(errs, os.RemoveAll(n.dir))
	}
	errs = append(errs, CheckLeaks(n.dir, keep))
	if n.ports != nil {
		errs = append(errs, n.ports.release())
	}
	err := errors.Join(errs...)
	n.mu.Lock()
	n.closeErr = err
	n.mu.Unlock()
	n.log.Info("network closed", zap.String("dir", n.dir), zap.Bool("dir_kept", keep), zap.Error(err))
	return err
}

// CheckLeaks reports processes whose command line names dir, and dir itself
// unless it was meant to stay.
func CheckLeaks(dir string, dirMayStay bool) error {
	pids, err := processesMentioning(dir)
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		return fmt.Errorf("processes of the network %s are still running: %v", dir, pids)
	}
	if _, err := os.Stat(dir); err == nil && !dirMayStay {
		return fmt.Errorf("the network's directory %s is still there", dir)
	}
	return nil
}
