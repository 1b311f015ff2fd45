package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/lnd/channelstate"
	"github.com/sluice-lsp/sluice/internal/lnd/remotesigner"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/pgreplica"
	"github.com/sluice-lsp/sluice/lws/tenant/guard/gate"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
	"github.com/sluice-lsp/sluice/lws/tenant/recovery"
)

// SignerRecoverCmd is for a tenant whose operator and gateway are gone.
type SignerRecoverCmd struct {
	Check RecoverCheckCmd `cmd:"" help:"Say of each channel whether the replica may be used to close it; start no lnd on it before."`
	Node  RecoverNodeCmd  `cmd:"" help:"Prepare a node of your own on the promoted replica."`
	Close RecoverCloseCmd `cmd:"" help:"Force-close the channels that the check called fresh and whose peer does not answer."`
}

// recoveryFile is where the check leaves its verdicts.
const recoveryFile = "recovery.json"

// recoverAt is the directory of a recovery.
type recoverAt struct {
	Dir string `required:"" type:"path" placeholder:"DIR" help:"The directory of the node of your own; it is made if it is not there."`
}

// verdict is one channel's, on the disk.
type verdict struct {
	Point   string           `json:"channel"`
	Peer    string           `json:"peer"`
	State   uint64           `json:"state"`
	Sat     int64            `json:"local_sat"`
	HTLCs   int              `json:"htlcs"`
	Closing bool             `json:"closing,omitempty"`
	Verdict recovery.Verdict `json:"verdict"`
	Said    string           `json:"said"`
}

// verdicts are what was found.
type verdicts struct {
	MadeMs      int64     `json:"made_ms"`
	System      string    `json:"system_identifier"`
	Replication string    `json:"replication"`
	Proven      bool      `json:"proven"`
	Channels    []verdict `json:"channels"`
}

func (r recoverAt) read() (v verdicts, err error) {
	raw, err := os.ReadFile(filepath.Join(r.Dir, recoveryFile))
	if errors.Is(err, os.ErrNotExist) {
		return v, fmt.Errorf("the replica was not checked: sluicectl signer recover check, before anything else")
	}
	if err == nil {
		err = json.Unmarshal(raw, &v)
	}
	return v, err
}

// RecoverCheckCmd proves that a replica is fresh, or not.
type RecoverCheckCmd struct {
	recoverAt
	DSN   string `name:"dsn-file" required:"" type:"path" placeholder:"FILE" help:"Connection string of a superuser, to the node's database in the replica."`
	Note  string `required:"" type:"path" placeholder:"FILE" help:"What sluicectl signer replica watch noted."`
	Guard string `type:"path" placeholder:"DIR" help:"The guard's directory, which has the last state of each channel."`
}

// openDSN connects to the database that a file names.
func openDSN(ctx context.Context, file string) (*sql.DB, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return pgreplica.Open(ctx, strings.TrimSpace(string(raw)))
}

const checkTime = 5 * time.Minute

// Exit codes of the check, beside those of the onboarding.
const (
	exitUnproven = 3
	exitStale    = 4
)

// Run implements the command.
func (c RecoverCheckCmd) Run(w *world, g *Globals) error {
	ctx, cancel := context.WithTimeout(w.ctx, checkTime)
	defer cancel()
	seen, err := readSighting(c.Note)
	if err != nil {
		return err
	}
	states := map[wire.OutPoint]gate.State{}
	if c.Guard != "" {
		if states, err = gate.ReadStates(c.Guard); err != nil {
			return fmt.Errorf("the guard's states: %w", err)
		}
	}
	db, err := openDSN(ctx, c.DSN)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	cp, err := pgreplica.Inspect(ctx, db)
	if err != nil {
		return err
	}
	copied := recovery.Copy{System: cp.System, Replica: cp.Replica, Following: cp.Following, Position: cp.Position}
	if !cp.Last.IsZero() {
		copied.LastMs = cp.Last.UnixMilli()
	}
	r := recovery.Synchronous(seen, copied)
	channels, err := channelstate.Read(ctx, db)
	if err != nil {
		return err
	}
	out := verdicts{MadeMs: w.now().UnixMilli(), System: cp.System, Replication: r.Said, Proven: r.Proven, Channels: []verdict{}}
	code := exitCode(0)
	for _, ch := range channels {
		witness, err := witnessOf(states, ch.Point)
		if err != nil {
			return err
		}
		j := recovery.Judge(recovery.Channel(ch), witness, r)
		out.Channels = append(out.Channels, verdict{
			Point: j.Point, Peer: j.Peer.String(), State: j.Local, Sat: j.LocalSat, HTLCs: j.HTLCs, Closing: j.Closing, Verdict: j.Verdict, Said: j.Said,
		})
		switch {
		case j.Verdict == recovery.Stale:
			code = exitStale
		case j.Verdict == recovery.Unproven && code != exitStale:
			code = exitUnproven
		}
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(c.Dir, recoveryFile), append(raw, '\n'), 0o600); err != nil {
		return err
	}
	if err := out.show(w, g); err != nil {
		return err
	}
	if code != 0 {
		return code
	}
	return nil
}

func witnessOf(states map[wire.OutPoint]gate.State, point string) (*recovery.Witness, error) {
	txid, index, _ := strings.Cut(point, ":")
	hash, err := chainhash.NewHashFromStr(txid)
	if err != nil {
		return nil, fmt.Errorf("the channel %q: %w", point, err)
	}
	var n uint32
	if _, err := fmt.Sscanf(index, "%d", &n); err != nil {
		return nil, fmt.Errorf("the channel %q: %w", point, err)
	}
	s, ok := states[wire.OutPoint{Hash: *hash, Index: n}]
	if !ok {
		return nil, nil //nolint:nilnil // nothing was noted
	}
	return &recovery.Witness{Tx: s.TxID.String(), LockTime: s.LockTime, Sequence: s.Sequence}, nil
}

func (v verdicts) show(w *world, g *Globals) error {
	if g.JSON {
		return cli.WriteJSON(w.stdout, v)
	}
	p := w.printer()
	p.Printf("Replication: %s\n\n", v.Replication)
	t := cli.NewTable("CHANNEL", "PEER", "SAT", "HTLCS", "STATE", "", "")
	for _, c := range v.Channels {
		word := string(c.Verdict)
		if c.Verdict != recovery.Fresh {
			word = strings.ToUpper(word)
		}
		t.Row(c.Point, c.Peer[:12], fmt.Sprint(c.Sat), fmt.Sprint(c.HTLCs), fmt.Sprint(c.State), word, c.Said)
	}
	p.Table(t)
	if len(v.left(recovery.Stale)) > 0 {
		p.Printf("\nDO NOT START AN lnd ON THIS REPLICA. A channel is older here than what was signed for it: whoever publishes its state loses its money.\n")
	} else if len(v.left(recovery.Unproven)) > 0 {
		p.Printf("\nStart no lnd on this replica unless you know that nothing is missing: see docs/recovery.md.\n")
	}
	return p.Err
}

// left are the channels with a verdict.
func (v verdicts) left(of recovery.Verdict) (out []verdict) {
	for _, c := range v.Channels {
		if c.Verdict == of {
			out = append(out, c)
		}
	}
	return out
}

// RecoverNodeCmd prepares the node.
type RecoverNodeCmd struct {
	recoverAt
	File    string `arg:"" type:"path" help:"What the operator gave you (TENANT.replica)."`
	DSN     string `name:"dsn-file" required:"" type:"path" placeholder:"FILE" help:"Connection string of the node's database in the promoted replica."`
	Backend string `required:"" type:"path" placeholder:"FILE" help:"Lines of lnd.conf for a chain backend of your own."`
	Signer  string `name:"signer-dir" required:"" type:"path" placeholder:"DIR" help:"The signer lnd's directory."`
	RPC     string `name:"signer-rpc" default:"127.0.0.1:10019" placeholder:"HOST:PORT" help:"Where its RPC answers (${default})."`
	NodeRPC string `name:"node-rpc" default:"127.0.0.1:10109" placeholder:"HOST:PORT" help:"Where the node's RPC shall listen (${default})."`
	Peers   string `name:"node-peers" default:"127.0.0.1:9736" placeholder:"HOST:PORT" help:"Where it shall listen for peers (${default})."`
	Risk    bool   `name:"accept-unproven" help:"Go on although the proof is not whole. Stale channels are never accepted."`
}

// Run implements the command.
func (c RecoverNodeCmd) Run(w *world, _ *Globals) error {
	v, err := c.read()
	if err != nil {
		return err
	}
	if stale := v.left(recovery.Stale); len(stale) > 0 {
		return fmt.Errorf("%d channel(s) are stale in this replica: an lnd on it could publish their old states by itself, and lose their money", len(stale))
	}
	if len(v.left(recovery.Unproven)) > 0 && !c.Risk {
		return fmt.Errorf("of %d channel(s) it is not proven that the replica is fresh: see docs/recovery.md, and --accept-unproven", len(v.left(recovery.Unproven)))
	}
	h, err := readHandover(c.File)
	if err != nil {
		return err
	}
	backend, err := os.ReadFile(c.Backend)
	if err != nil {
		return fmt.Errorf("the chain backend: %w", err)
	}
	dsn, err := os.ReadFile(c.DSN)
	if err != nil {
		return fmt.Errorf("the database: %w", err)
	}
	at := signerAt{Dir: c.Signer, RPC: c.RPC, Network: h.Network}
	unlock, err := lockDir(c.Signer)
	if err != nil {
		return err
	}
	defer unlock()
	state, err := at.state()
	if err != nil {
		return err
	}
	if state.good() {
		return errors.New("the operator's macaroon is still good: its node could go on beside yours, and two nodes of one seed lose their channels' money. First: sluicectl signer revoke")
	}
	conf, err := onboard.NodeConf{
		Tenant: h.Tenant, Network: h.Network, Dir: c.Dir, RPC: c.NodeRPC, Peers: c.Peers, Signer: c.RPC, DSN: strings.TrimSpace(string(dsn)), Backend: string(backend),
	}.LndConf()
	if err != nil {
		return err
	}
	cert, err := os.ReadFile(filepath.Join(c.Signer, "tls.cert"))
	if err != nil {
		return err
	}
	mac, err := c.homeMacaroon(w.ctx, at)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{onboard.FileCert, cert},
		{onboard.FileMacaroon, mac},
		{onboard.FilePassword, []byte(h.Password)},
		// Last: with it lnd can be started.
		{onboard.FileConf, []byte(conf)},
	} {
		if err := auth.WriteFileAtomic(filepath.Join(c.Dir, f.name), f.content); err != nil {
			return err
		}
	}
	p := w.printer()
	p.Printf("Promote the replica, if that is not done (pg_ctl promote), then start the node:  lnd --lnddir=%s\nWhen it serves:  sluicectl signer recover close --dir %s --node-rpc %s --network %s\n", c.Dir, c.Dir, c.NodeRPC, h.Network)
	return p.Err
}

// homeMacaroon is one for the tenant's own node, under a root key that is not the
// operator's.
func (c RecoverNodeCmd) homeMacaroon(ctx context.Context, at signerAt) ([]byte, error) {
	if have, err := os.ReadFile(filepath.Join(c.Dir, onboard.FileMacaroon)); err == nil {
		return have, nil
	}
	admin, err := at.dial(true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = admin.Close() }()
	ids, err := admin.RootKeys(ctx)
	if err != nil {
		return nil, err
	}
	root := uint64(1)
	for _, id := range ids {
		root = max(root, id+1)
	}
	return admin.Bake(ctx, onboard.Rights(), root)
}

// RecoverCloseCmd closes.
type RecoverCloseCmd struct {
	recoverAt
	NodeRPC string        `name:"node-rpc" default:"127.0.0.1:10109" placeholder:"HOST:PORT" help:"Where the node's RPC answers (${default})."`
	Network string        `default:"mainnet" enum:"mainnet,testnet,signet,regtest" help:"The bitcoin network (${default})."`
	Grace   time.Duration `default:"2m" help:"How long a peer may take to connect before its channel is closed without it (${default})."`
	Wait    time.Duration `default:"30m" help:"How long to wait for the node to serve (${default})."`
}

// Run implements the command.
func (c RecoverCloseCmd) Run(w *world, g *Globals) error {
	v, err := c.read()
	if err != nil {
		return err
	}
	at := &nodeProcess{n: hostedNode{Dir: c.Dir, RPC: c.NodeRPC, Network: c.Network}}
	ctx, cancel := context.WithTimeout(w.ctx, c.Wait)
	defer cancel()
	node, err := at.dial(handleTimeout)
	if err != nil {
		return fmt.Errorf("the node: %w; start it first", err)
	}
	defer func() { _ = node.Close() }()
	if _, err := node.Await(ctx, remotesigner.Active); err != nil {
		return fmt.Errorf("%w: see its log", err)
	}
	done, err := closeFresh(ctx, node, v, w.now().Add(c.Grace), w.now)
	if err != nil {
		return err
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, done)
	}
	t := cli.NewTable("CHANNEL", "", "")
	for _, d := range done {
		t.Row(d.Point, d.Did, cli.Clean(d.Said))
	}
	p := w.printer()
	p.Table(t)
	p.Printf("\nYour side of a channel that is force-closed can be spent after its delay (up to two weeks): leave the node and the signer running until\nlncli pendingchannels is empty. Then send the coins where you like: lncli sendcoins.\n")
	return p.Err
}

// closed is what was done with a channel.
type closed struct {
	Point string `json:"channel"`
	Did   string `json:"did"`
	Said  string `json:"said"`
	Tx    string `json:"closing_txid,omitempty"`
}

// closer is the node whose channels are closed.
type closer interface {
	Channels(ctx context.Context) ([]remotesigner.Channel, error)
	ForceClose(ctx context.Context, point string) (string, error)
}

// closeFresh closes what may be closed. A peer that answers knows the channel's last
// state: with it the channel is closed together, or lnd leaves the closing to it.
func closeFresh(ctx context.Context, node closer, v verdicts, patience time.Time, now func() time.Time) (out []closed, err error) {
	judged := map[string]verdict{}
	for _, c := range v.Channels {
		judged[c.Point] = c
	}
	for {
		list, err := node.Channels(ctx)
		if err != nil {
			return nil, err
		}
		away := 0
		for _, ch := range list {
			if !ch.Active {
				away++
			}
		}
		if away == 0 || !now().Before(patience) {
			for _, ch := range list {
				c, err := closeOne(ctx, node, ch, judged)
				if err != nil {
					return out, err
				}
				out = append(out, c)
			}
			return out, nil
		}
		if err := pace.Pause(ctx, lookEvery); err != nil {
			return nil, err
		}
	}
}

func closeOne(ctx context.Context, node closer, ch remotesigner.Channel, judged map[string]verdict) (closed, error) {
	c, known := judged[ch.Point]
	out := closed{Point: ch.Point, Did: "left"}
	switch {
	case !known:
		out.Said = "the check did not see it"
	case c.Verdict != recovery.Fresh:
		out.Said = "the check calls it " + string(c.Verdict) + ": " + c.Said
	case ch.Updates < c.State:
		// Another database than the one that was checked.
		out.Said = fmt.Sprintf("the node has state %d, and the check saw %d: this is not the replica that was checked", ch.Updates, c.State)
	case ch.Active:
		out.Said = "its peer answers: lncli closechannel --chan_point " + ch.Point
	default:
		tx, err := node.ForceClose(ctx, ch.Point)
		if err != nil {
			return out, err
		}
		out.Did, out.Tx, out.Said = "force-closed", tx, "by "+tx
	}
	return out, nil
}
