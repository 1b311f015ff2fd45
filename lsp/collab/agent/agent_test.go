package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	wallet "github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/lsp/collab/api"
	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
	"github.com/sluice-lsp/sluice/lsp/collab/engine"
	"github.com/sluice-lsp/sluice/lsp/funding"
	lspstore "github.com/sluice-lsp/sluice/lsp/store"
)

// net5 is a gateway with joint fundings and a wallet with this agent, on the fake.
type net5 struct {
	t                 *testing.T
	w                 *lndfake.World
	gatewayNode, node *lndfake.Node
	gateway, wallet   *lnd.Client
	gatewayKey, key   ln.PubKey
	e                 *engine.Engine
	dir               string
	a                 *Agent
	stop              func()
	mu                sync.Mutex
	lie               func(*collabv1.Funding)
	fail              func(method string, done bool) error
	script            func([]byte) []byte
	signed            int
	before            int64
	rate              ln.FeeRateSatPerKW
}

type desk struct{ n *net5 }

func (desk) Spendable(c []ln.Coin) []ln.Coin { return c }
func (desk) ReserveSat() ln.Sat              { return 0 }
func (d desk) Rate() funding.Rate {
	d.n.mu.Lock()
	defer d.n.mu.Unlock()
	return funding.Rate{Rate: d.n.rate, Asked: d.n.rate}
}

type opener struct{ *lnd.Client }

func (o opener) OpenChannel(ctx context.Context, r ln.OpenRequest) (engine.Negotiation, error) {
	return o.Client.OpenChannel(ctx, r)
}

// walletNode is the wallet's lnd; the fake makes no channel backups, so the script
// is what the gateway's transaction has, unless a test says otherwise.
type walletNode struct {
	*lnd.Client
	n *net5
}

func (w walletNode) FundingScript(ctx context.Context, op ln.Outpoint, _ ln.Sat) ([]byte, error) {
	list, err := w.n.e.List(ctx, engine.Filter{})
	if err != nil {
		return nil, err
	}
	for _, v := range list {
		if v.Tx.Funding == op {
			p, err := funding.ParsePsbt(v.Tx.Psbt)
			if err != nil {
				return nil, err
			}
			script := p.UnsignedTx.TxOut[op.Index].PkScript
			w.n.mu.Lock()
			defer w.n.mu.Unlock()
			if w.n.script != nil {
				script = w.n.script(append([]byte(nil), script...))
			}
			return script, nil
		}
	}
	return nil, ln.ErrNotFound
}

func (w walletNode) SignPsbt(ctx context.Context, psbt []byte) ([]byte, int, error) {
	w.n.mu.Lock()
	w.n.signed++
	w.n.mu.Unlock()
	return w.Client.SignPsbt(ctx, psbt)
}

func newNet(t *testing.T) *net5 {
	t.Helper()
	n := &net5{t: t, w: lndfake.New(lndfake.Config{Seed: 9}), dir: t.TempDir(), rate: 500}
	add := func(name string) (*lndfake.Node, *lnd.Client, ln.PubKey) {
		node, err := n.w.AddNode(name, lndfake.NodeConfig{MaxPendingChannels: 3})
		require.NoError(t, err)
		client, err := lnd.Dial(lnd.Config{Address: "passthrough:///" + name, Network: "regtest", DialOptions: node.DialOptions()})
		require.NoError(t, err)
		t.Cleanup(func() { _ = client.Close() })
		key, err := ln.ParsePubKey(node.PubKey())
		require.NoError(t, err)
		return node, client, key
	}
	n.gatewayNode, n.gateway, n.gatewayKey = add("gateway")
	n.node, n.wallet, n.key = add("wallet")
	for range 3 {
		_, err := n.gatewayNode.Fund(700_000)
		require.NoError(t, err)
		_, err = n.node.Fund(300_000)
		require.NoError(t, err)
	}
	n.w.Connect(n.gatewayNode, n.node)
	n.w.Mine(3)
	n.before = n.w.Wealth(n.node).TotalMsat() / 1000

	db := storetest.Open(t, storetest.SQLite(t))
	require.NoError(t, fsm.Migrate(t.Context(), db))
	require.NoError(t, ledger.Migrate(t.Context(), db))
	require.NoError(t, lspstore.Migrate(t.Context(), db))
	cfg := engine.Defaults()
	cfg.Network, cfg.Self, cfg.ZeroConf, cfg.BuriedConfs, cfg.MaxEach = "regtest", n.gatewayKey, true, 3, 10
	e, err := engine.New(engine.Options{
		Node: engine.Node{Opener: opener{n.gateway}, Channels: n.gateway, Coins: n.gateway, Chain: n.gateway}, Desk: desk{n}, DB: db, Config: cfg, Log: zaptest.NewLogger(t),
	})
	require.NoError(t, err)
	n.e = e
	service := api.New()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	ready := make(chan struct{})
	running.Go(func() { require.NoError(t, e.Run(ctx, func() { service.Ready(e); close(ready) })) })
	<-ready
	listener := bufconn.Listen(1 << 20)
	who := func(ctx context.Context) context.Context {
		return auth.WithIdentity(ctx, auth.Identity{Kind: auth.KindWallet, NodeKey: n.key, Services: []string{"lsp"}})
	}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			n.mu.Lock()
			fail, lie := n.fail, n.lie
			n.mu.Unlock()
			if fail != nil {
				if err := fail(info.FullMethod, false); err != nil {
					return nil, err
				}
			}
			resp, err := handle(who(ctx), req)
			if fail != nil {
				if err := fail(info.FullMethod, true); err != nil {
					return nil, err
				}
			}
			if with, ok := resp.(interface{ GetFunding() *collabv1.Funding }); ok && err == nil && lie != nil {
				lie(with.GetFunding())
			}
			return resp, err
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			n.mu.Lock()
			fail := n.fail
			n.mu.Unlock()
			if fail != nil {
				if err := fail(info.FullMethod, false); err != nil {
					return err
				}
			}
			return handle(srv, &named{ServerStream: s, ctx: who(s.Context()), n: n})
		}),
	)
	service.RegisterGRPC(server)
	running.Go(func() { _ = server.Serve(listener) })
	running.Go(func() {
		for ctx.Err() == nil {
			_ = n.wallet.RunAcceptor(ctx, func(p ln.OpenProposal) ln.AcceptVerdict {
				n.mu.Lock()
				a := n.a
				n.mu.Unlock()
				if !a.Expects(p) {
					return ln.AcceptVerdict{Refusal: "not asked for"}
				}
				return ln.AcceptVerdict{Accept: true, ZeroConf: p.WantsZeroConf}
			})
		}
	})
	dial := func(wallet.LSP, ln.PubKey) (collabv1.JointFundingServiceClient, func() error, error) {
		conn, err := grpc.NewClient("passthrough:///gateway", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
		if err != nil {
			return nil, nil, err
		}
		return collabv1.NewJointFundingServiceClient(conn), conn.Close, nil
	}
	n.start(dial)
	t.Cleanup(func() {
		n.stop()
		cancel()
		server.Stop()
		running.Wait()
		n.w.Close()
	})
	return n
}

// named is a stream whose caller is known, and may be lied to.
type named struct {
	grpc.ServerStream
	ctx context.Context
	n   *net5
}

func (s *named) Context() context.Context { return s.ctx }

func (s *named) SendMsg(m any) error {
	s.n.mu.Lock()
	lie, fail := s.n.lie, s.n.fail
	s.n.mu.Unlock()
	if fail != nil {
		if err := fail(collabv1.JointFundingService_WatchFunding_FullMethodName, true); err != nil {
			return err
		}
	}
	if with, ok := m.(interface{ GetFunding() *collabv1.Funding }); ok && lie != nil {
		lie(with.GetFunding())
	}
	return s.ServerStream.SendMsg(m)
}

// start runs the agent as a process does that finds what an earlier one left.
func (n *net5) start(dial Connect) {
	n.t.Helper()
	node := walletNode{n.wallet, n}
	a, err := New(n.dir, Ports{
		Wallet: node, Chain: n.wallet, Channels: node, Spender: n.wallet, Connect: dial, Log: zaptest.NewLogger(n.t),
		LSPs: func() []wallet.LSP { return []wallet.LSP{{Name: "gateway", NodeKey: n.gatewayKey}} },
	})
	require.NoError(n.t, err)
	n.mu.Lock()
	n.a = a
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = a.Run(ctx) }()
	n.stop = func() { cancel(); <-done }
}

func (n *net5) restart() {
	n.t.Helper()
	dial := n.a.ports.Connect
	n.stop()
	n.start(dial)
}

func (n *net5) leases() int {
	n.t.Helper()
	list, err := n.wallet.ListLeases(n.t.Context())
	require.NoError(n.t, err)
	return len(list)
}

func (n *net5) channels() int {
	n.t.Helper()
	pending, err := n.wallet.PendingChannels(n.t.Context())
	require.NoError(n.t, err)
	open, err := n.wallet.ListChannels(n.t.Context())
	require.NoError(n.t, err)
	return len(pending) + len(open)
}

func (n *net5) phase(key string, want Phase) Record {
	n.t.Helper()
	var last Record
	require.Eventually(n.t, func() bool {
		n.a.wake()
		for _, r := range n.a.List() {
			if r.Key() == key {
				last = r
			}
		}
		return last.Phase == want
	}, time.Minute, 20*time.Millisecond, "it is not %s", want)
	return last
}

func request() Request { return Request{WalletSat: 400_000, InboundSat: 600_000} }

// The whole way against the gateway's own engine: what the review says is what the
// wallet pays, to the sat, also over restarts of the agent.
func TestFund(t *testing.T) {
	for name, q := range map[string]Request{
		"confirmed": request(), "zero-conf": {WalletSat: 400_000, InboundSat: 600_000, ZeroConf: true, Taproot: true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNet(t)
			r, err := n.a.Open(t.Context(), q)
			require.NoError(t, err)
			require.Equal(t, PhaseReady, r.Phase)
			require.Zero(t, n.signed, "nothing is signed before the user has seen it")
			n.restart()
			signed, err := n.a.Sign(t.Context(), r.Key(), nil)
			require.NoError(t, err)
			require.Equal(t, PhaseSigned, signed.Phase)
			_, err = n.a.Abort(t.Context(), r.Key())
			require.Equal(t, errkind.Conflict, errkind.Of(err), "too late to end it")
			n.restart()
			require.Eventually(t, func() bool { return len(n.w.Mempool()) == 1 }, time.Minute, 10*time.Millisecond)
			n.w.Mine(3)
			n.phase(r.Key(), PhaseDone)
			after := n.w.Wealth(n.node).TotalMsat() / 1000
			require.EqualValues(t, n.before-int64(r.ServiceFeeSat)-int64(r.ChainFeeSat), after)
			require.EqualValues(t, 400_000, n.w.Wealth(n.node).ChannelMsat/1000)
			require.NoError(t, n.w.Err())
		})
	}
}

// A gateway that shows something else than was agreed gets no signature, and the
// wallet's coins are free.
func TestNothingIsSignedForALiar(t *testing.T) {
	for name, c := range map[string]struct {
		lie    func(*collabv1.Funding)
		script func([]byte) []byte
		says   string
	}{
		"another channel": {lie: func(f *collabv1.Funding) {
			if f.GetChannel() != "" {
				f.Channel = ln.Outpoint{TxID: ln.TxID{1}}.String()
			}
		}, says: "does not show a channel"},
		"no channel":       {lie: func(f *collabv1.Funding) { f.Channel = "" }, says: "names no channel"},
		"no transaction":   {lie: func(f *collabv1.Funding) { f.Psbt = nil }, says: "names no channel"},
		"another script":   {script: func(s []byte) []byte { s[5]++; return s }, says: "keys of both nodes"},
		"given up at once": {lie: func(f *collabv1.Funding) { f.Terminal, f.Reason = true, "no coins" }, says: "no coins"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNet(t)
			n.mu.Lock()
			n.lie, n.script = c.lie, c.script
			n.mu.Unlock()
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
			defer cancel()
			_, err := n.a.Open(ctx, request())
			require.Error(t, err)
			require.ErrorContains(t, err, c.says)
			require.Zero(t, n.signed)
			require.Zero(t, n.leases(), "the coins are free")
			require.Equal(t, PhaseGivenUp, n.a.List()[0].Phase)
			n.mu.Lock()
			n.lie = nil
			n.mu.Unlock()
		})
	}
}

// Until it is signed it can be ended on either side, and both sides' coins are free.
func TestAbort(t *testing.T) {
	n := newNet(t)
	r, err := n.a.Open(t.Context(), request())
	require.NoError(t, err)
	require.Equal(t, 1, n.channels())
	r, err = n.a.Abort(t.Context(), r.Key())
	require.NoError(t, err)
	require.Equal(t, PhaseGivenUp, r.Phase)
	require.Zero(t, n.leases())
	require.Zero(t, n.channels())
	require.Eventually(t, func() bool {
		list, err := n.gateway.ListLeases(t.Context())
		return err == nil && len(list) == 0
	}, time.Minute, 10*time.Millisecond)

	// The gateway's word is enough before anything is signed.
	r, err = n.a.Open(t.Context(), request())
	require.NoError(t, err)
	_, err = n.e.End(t.Context(), r.ID)
	require.NoError(t, err)
	n.phase(r.Key(), PhaseGivenUp)
	require.Zero(t, n.leases())
	require.Zero(t, n.channels())

	// One that was cut off by a crash is let go of at the next start.
	r, err = n.a.Open(t.Context(), request())
	require.NoError(t, err)
	r.Phase = PhaseChosen
	require.NoError(t, n.a.save(r))
	n.restart()
	n.phase(r.Key(), PhaseGivenUp)
	require.Zero(t, n.leases())
}

// A gateway that takes the signature and says it gave up is not believed: the
// channel is kept until the wallet has spent its coins otherwise and that is buried.
func TestReclaim(t *testing.T) {
	n := newNet(t)
	r, err := n.a.Open(t.Context(), request())
	require.NoError(t, err)
	// It swallows the signature and lies.
	n.mu.Lock()
	n.fail = func(method string, _ bool) error {
		if method == collabv1.JointFundingService_SignFunding_FullMethodName {
			return errors.New("the line went dead")
		}
		return nil
	}
	n.mu.Unlock()
	_, err = n.a.Sign(t.Context(), r.Key(), nil)
	require.Error(t, err)
	require.Equal(t, PhaseSigned, n.a.List()[0].Phase, "it may have arrived")
	_, err = n.a.Abort(t.Context(), r.Key())
	require.Equal(t, errkind.Conflict, errkind.Of(err))
	n.restart()
	n.w.Mine(10)
	n.phase(r.Key(), PhaseSigned)
	require.Equal(t, 1, n.channels(), "the channel is not forgotten")

	_, err = n.a.Reclaim(t.Context(), r.Key())
	require.NoError(t, err)
	n.w.Mine(1)
	n.a.wake()
	require.Equal(t, 1, n.channels(), "a reorg could undo it")
	n.w.Mine(2)
	n.phase(r.Key(), PhaseVoid)
	require.Zero(t, n.channels())
	after := n.w.Wealth(n.node).TotalMsat() / 1000
	require.Less(t, n.before-after, int64(2_000), "it cost a transaction's fee")
	require.NoError(t, n.w.Err())
}

func TestRequestsAreJudged(t *testing.T) {
	n := newNet(t)
	for name, q := range map[string]Request{
		"another LSP":   {LSP: "other", WalletSat: 400_000, InboundSat: 600_000},
		"too little":    {WalletSat: 1, InboundSat: 600_000},
		"no inbound":    {WalletSat: 400_000},
		"too much":      {WalletSat: 400_000, InboundSat: 1 << 62},
		"a low bound":   {WalletSat: 400_000, InboundSat: 600_000, MaxServiceFeeSat: 1},
		"a low rate":    {WalletSat: 400_000, InboundSat: 600_000, MaxFeeRate: 300},
		"no such coins": {WalletSat: 5_000_000, InboundSat: 600_000},
	} {
		_, err := n.a.Open(t.Context(), q)
		require.Error(t, err, name)
		require.NotEqual(t, errkind.Internal, errkind.Of(err), "%s: %v", name, err)
		require.Zero(t, n.leases(), name)
	}
	require.NoError(t, os.WriteFile(filepath.Join(n.dir, Dir, "broken.json"), []byte("{"), 0o600))
	_, err := New(n.dir, n.a.ports)
	require.ErrorContains(t, err, "damaged")
}
