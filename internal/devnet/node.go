package devnet

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/chainrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/peersrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/signrpc"
	"github.com/lightningnetwork/lnd/lnrpc/verrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
)

// NodeConfig says how one lnd runs.
type NodeConfig struct {
	// ExtraArgs follow the network's own flags. lnd refuses most flags that
	// are given twice, so an argument here replaces ours of the same name.
	ExtraArgs []string

	// Stock leaves out every flag that changes what lnd does: it runs with its own
	// defaults but for what a network on one machine needs (where things are, few
	// confirmations, quick gossip).
	Stock bool

	// Conf is the content of its lnd.conf. Flags take precedence.
	Conf string

	// Seeded creates the wallet from a seed that Node.Seed returns, as a
	// person's node does, instead of the faster --noseedbackup.
	Seeded bool

	// Seed are the words of a lost node: this one is made anew from them, with
	// nothing else of it.
	Seed []string

	// DebugLevel is lnd's --debuglevel (default "info").
	DebugLevel string
}

func (c NodeConfig) seeded() bool { return c.Seeded || len(c.Seed) > 0 }

// Node is an unpatched lnd with a client for each of its RPC services. The
// clients stay valid over restarts.
type Node struct {
	Name   string
	Dir    string // lnd's --lnddir
	PubKey string // identity, hex

	RPCAddr     string // gRPC, host:port
	P2PAddr     string // Lightning, host:port
	TLSCertPath string
	MacaroonDir string // admin.macaroon and the narrower ones

	LN       lnrpc.LightningClient
	Router   routerrpc.RouterClient
	Invoices invoicesrpc.InvoicesClient
	Wallet   walletrpc.WalletKitClient
	Notifier chainrpc.ChainNotifierClient
	Chain    chainrpc.ChainKitClient
	Signer   signrpc.SignerClient
	Peers    peersrpc.PeersClient
	Version  verrpc.VersionerClient
	State    lnrpc.StateClient
	Conn     *grpc.ClientConn // with the admin macaroon

	proc     *Proc
	macaroon atomic.Pointer[string]
	seed     []string
	restore  []string
	seeded   bool
	// chainless: it has no chain to search for coins.
	chainless bool
	password  string
}

// defaultArgs are the flags of every lnd of a network. The short delays make
// gossip and reconnections fast; they change no behaviour.
func (n *Net) defaultArgs(node *Node, config NodeConfig) []string {
	btcd := n.miner.RPC()
	args := []string{
		"--lnddir=" + node.Dir,
		"--alias=" + node.Name,
		"--rpclisten=" + node.RPCAddr,
		"--listen=" + node.P2PAddr,
		"--norest",
		"--nobootstrap",
		"--bitcoin.regtest",
		"--bitcoin.node=btcd",
		"--btcd.rpchost=" + btcd.Host,
		"--btcd.rpcuser=" + btcd.User,
		"--btcd.rpcpass=" + btcd.Pass,
		"--btcd.rpccert=" + btcd.Cert,
		"--fee.url=" + n.fees.URL(),
		"--fee.min-update-timeout=1s",
		"--fee.max-update-timeout=2s",
		fmt.Sprintf("--bitcoin.defaultchanconfs=%d", chanConfs),
		"--trickledelay=50",
		"--minbackoff=200ms",
		"--maxbackoff=1s",
		// The log file of the process has everything; a second copy only costs.
		"--logging.file.disable",
		// A machine low on disk must not look like a failure of ours.
		"--healthcheck.diskspace.attempts=0",
		"--debuglevel=" + config.DebugLevel,
	}
	if !config.Stock {
		args = append(args,
			"--protocol.zero-conf",
			"--protocol.option-scid-alias",
			"--protocol.simple-taproot-chans",
			"--maxpendingchannels=100",
			"--accept-keysend",
			"--keep-failed-payment-attempts",
			"--store-final-htlc-resolutions")
	}
	if config.seeded() {
		args = append(args,
			"--wallet-unlock-password-file="+filepath.Join(node.Dir, "password"),
			"--wallet-unlock-allow-create")
	} else {
		args = append(args, "--noseedbackup")
	}
	return mergeArgs(args, config.ExtraArgs)
}

// mergeArgs appends extra to base, dropping flags of base that extra sets too.
func mergeArgs(base, extra []string) []string {
	set := map[string]bool{}
	for _, arg := range extra {
		set[flagName(arg)] = true
	}
	base = slices.DeleteFunc(slices.Clone(base), func(arg string) bool { return set[flagName(arg)] })
	return append(base, extra...)
}

func flagName(arg string) string {
	for i, c := range arg {
		if c == '=' {
			return arg[:i]
		}
	}
	return arg
}

// startNode starts an lnd and returns when its server is active.
func (n *Net) startNode(ctx context.Context, name string, config NodeConfig) (*Node, error) {
	if config.DebugLevel == "" {
		config.DebugLevel = "info"
	}
	node := &Node{
		Name: name, Dir: filepath.Join(n.dir, name), seeded: config.seeded(), restore: config.Seed, password: "devnet-" + name,
	}
	node.TLSCertPath = filepath.Join(node.Dir, "tls.cert")
	node.MacaroonDir = filepath.Join(node.Dir, "data", "chain", "bitcoin", "regtest")
	var err error
	if node.RPCAddr, err = n.ports.takeAddr(); err != nil {
		return nil, err
	}
	if node.P2PAddr, err = n.ports.takeAddr(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(node.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := makeRoom(node.Dir); err != nil {
		return nil, err
	}
	// An empty file keeps lnd from writing a sample configuration.
	for file, content := range map[string]string{"lnd.conf": config.Conf, "password": node.password} {
		if err := os.WriteFile(filepath.Join(node.Dir, file), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	if err := writeCert(node.TLSCertPath, filepath.Join(node.Dir, "tls.key"), "devnet lnd "+name); err != nil {
		return nil, err
	}
	if err := node.dial(); err != nil {
		return nil, err
	}
	node.proc = NewProc(Command{
		Name: name, Path: n.lnd, Args: n.defaultArgs(node, config),
		LogFile: n.LogFile(name), Dir: node.Dir, Ready: node.WaitServerActive,
	})
	if err := node.proc.Start(ctx); err != nil {
		return nil, errors.Join(err, node.Conn.Close())
	}
	info, err := node.LN.GetInfo(ctx, &lnrpc.GetInfoRequest{})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), node.close())
	}
	node.PubKey = info.IdentityPubkey
	return node, nil
}

func (n *Node) dial() error {
	pem, err := os.ReadFile(n.TLSCertPath)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)

	retry := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 200 * time.Millisecond}
	n.Conn, err = grpc.NewClient(n.RPCAddr,
		grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(pool, "")),
		grpc.WithPerRPCCredentials(nodeCredentials{n}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: 2 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(200<<20)),
	)
	if err != nil {
		return err
	}
	n.LN = lnrpc.NewLightningClient(n.Conn)
	n.Router = routerrpc.NewRouterClient(n.Conn)
	n.Invoices = invoicesrpc.NewInvoicesClient(n.Conn)
	n.Wallet = walletrpc.NewWalletKitClient(n.Conn)
	n.Notifier = chainrpc.NewChainNotifierClient(n.Conn)
	n.Chain = chainrpc.NewChainKitClient(n.Conn)
	n.Signer = signrpc.NewSignerClient(n.Conn)
	n.Peers = peersrpc.NewPeersClient(n.Conn)
	n.Version = verrpc.NewVersionerClient(n.Conn)
	n.State = lnrpc.NewStateClient(n.Conn)
	return nil
}

// nodeCredentials adds the node's admin macaroon once it exists.
type nodeCredentials struct{ node *Node }

func (c nodeCredentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if mac := c.node.macaroon.Load(); mac != nil {
		return map[string]string{"macaroon": *mac}, nil
	}
	return nil, nil
}

func (nodeCredentials) RequireTransportSecurity() bool { return true }

// AdminMacaroonPath is the path of the macaroon with every right.
func (n *Node) AdminMacaroonPath() string { return filepath.Join(n.MacaroonDir, "admin.macaroon") }

// Seed returns the words of a Seeded node's wallet.
func (n *Node) Seed() []string { return slices.Clone(n.seed) }

// WaitServerActive follows lnd's state until it serves every call. On the
// first start of a Seeded node it creates the wallet.
func (n *Node) WaitServerActive(ctx context.Context) error {
	for {
		err := n.followState(ctx)
		if err == nil {
			break
		}
		// The stream also breaks when lnd changes from its unlocker to its
		// full server, so a broken one is followed again until ctx ends.
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for %s to be active: %w (last: %w)", n.Name, context.Cause(ctx), err)
		}
		timer := time.NewTimer(pollInterval)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	mac, err := os.ReadFile(n.AdminMacaroonPath())
	if err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	text := hex.EncodeToString(mac)
	n.macaroon.Store(&text)
	return nil
}

func (n *Node) followState(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := n.State.SubscribeState(ctx, &lnrpc.SubscribeStateRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	for {
		update, err := stream.Recv()
		if err != nil {
			return err
		}
		switch update.State {
		case lnrpc.WalletState_SERVER_ACTIVE:
			return nil
		case lnrpc.WalletState_NON_EXISTING:
			if n.seeded && n.seed == nil {
				if err := n.createWallet(ctx); err != nil {
					return err
				}
			}
		}
	}
}

// recoveryWindow is how many unused addresses in a row end the search for coins.
const recoveryWindow = 100

func (n *Node) createWallet(ctx context.Context) error {
	unlocker := lnrpc.NewWalletUnlockerClient(n.Conn)
	words := n.restore
	if len(words) == 0 {
		seed, err := unlocker.GenSeed(ctx, &lnrpc.GenSeedRequest{}, grpc.WaitForReady(true))
		if err != nil {
			return fmt.Errorf("%s: make a seed: %w", n.Name, err)
		}
		words = seed.CipherSeedMnemonic
	}
	req := &lnrpc.InitWalletRequest{WalletPassword: []byte(n.password), CipherSeedMnemonic: words}
	if len(n.restore) > 0 && !n.chainless {
		req.RecoveryWindow = recoveryWindow
	}
	if _, err := unlocker.InitWallet(ctx, req, grpc.WaitForReady(true)); err != nil {
		return fmt.Errorf("%s: create the wallet: %w", n.Name, err)
	}
	n.seed = words
	return nil
}

// Proc is lnd's process.
func (n *Node) Proc() *Proc { return n.proc }

// Stop ends lnd in an orderly way.
func (n *Node) Stop(ctx context.Context) error { return n.proc.Stop(ctx) }

// Kill ends lnd as a power cut would (SIGKILL).
func (n *Node) Kill() error { return n.proc.Kill() }

// Freeze suspends lnd: its connections stay open and nothing answers.
func (n *Node) Freeze() error { return n.proc.Freeze() }

// Thaw ends Freeze.
func (n *Node) Thaw() error { return n.proc.Thaw() }

// Start starts a stopped or killed lnd and waits until it is active. Extra
// arguments replace flags of the same name and stay for later starts.
func (n *Node) Start(ctx context.Context, extraArgs ...string) error {
	n.proc.SetArgs(mergeArgs(n.proc.Args(), extraArgs)...)
	return n.proc.Start(ctx)
}

// Restart is Stop and Start.
func (n *Node) Restart(ctx context.Context, extraArgs ...string) error {
	if err := n.Stop(ctx); err != nil {
		return err
	}
	return n.Start(ctx, extraArgs...)
}

// RemoveArg drops a flag (with or without value) from later starts.
func (n *Node) RemoveArg(name string) {
	n.proc.SetArgs(slices.DeleteFunc(n.proc.Args(), func(arg string) bool { return flagName(arg) == name })...)
}

func (n *Node) close() error {
	err := n.proc.Kill()
	return errors.Join(err, n.Conn.Close())
}
