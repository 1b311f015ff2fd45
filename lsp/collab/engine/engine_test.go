package engine

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/collab"
	"github.com/sluice-lsp/sluice/lsp/funding"
	lspstore "github.com/sluice-lsp/sluice/lsp/store"
)

// net is a gateway and a wallet on the fake, and an engine that can be started
// again.
type net struct {
	t                 *testing.T
	w                 *lndfake.World
	gatewayNode, node *lndfake.Node
	gateway, wallet   *lnd.Client
	key               ln.PubKey
	db                *store.DB
	cfg               Config
	e                 *Engine
	stop              func()
	mu                sync.Mutex
	accept            func(ln.OpenProposal) ln.AcceptVerdict
	before            [2]int64
	rate              ln.FeeRateSatPerKW
	deaf              chan struct{}
	// mined are transactions of blocks that the fake does not make.
	mined map[ln.TxID][]byte
}

type desk struct{ n *net }

// chainOf is the gateway's node, whose news of spends a test may hold back.
type chainOf struct {
	*lnd.Client
	n *net
}

func (c chainOf) WatchSpend(ctx context.Context, op ln.Outpoint, script []byte, since uint32, handle func(ln.SpendEvent)) error {
	return c.Client.WatchSpend(ctx, op, script, since, func(ev ln.SpendEvent) {
		c.n.mu.Lock()
		deaf := c.n.deaf
		c.n.mu.Unlock()
		if deaf != nil {
			<-deaf
		}
		handle(ev)
	})
}

func (c chainOf) TxInBlock(ctx context.Context, height uint32, id ln.TxID) ([]byte, error) {
	c.n.mu.Lock()
	raw, mined := c.n.mined[id]
	c.n.mu.Unlock()
	if mined {
		return raw, nil
	}
	return c.Client.TxInBlock(ctx, height, id)
}

// hearNoSpends holds back what lnd tells of spends from now on.
func (n *net) hearNoSpends() (hear func()) {
	deaf := make(chan struct{})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deaf = deaf
	return sync.OnceFunc(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.deaf = nil
		close(deaf)
	})
}

func (d desk) Spendable(c []ln.Coin) []ln.Coin { return c }
func (d desk) ReserveSat() ln.Sat              { return 10_000 }
func (d desk) Rate() funding.Rate {
	d.n.mu.Lock()
	defer d.n.mu.Unlock()
	return funding.Rate{Rate: d.n.rate, Asked: d.n.rate}
}

type opener struct{ *lnd.Client }

func (o opener) OpenChannel(ctx context.Context, r ln.OpenRequest) (Negotiation, error) {
	return o.Client.OpenChannel(ctx, r)
}

func newNet(t *testing.T, cfg store.Config) *net {
	t.Helper()
	n := &net{t: t, w: lndfake.New(lndfake.Config{Seed: 7}), rate: 500, cfg: Defaults()}
	n.cfg.Network, n.cfg.BuriedConfs, n.cfg.ZeroConf = "regtest", 3, true
	add := func(name string) (*lndfake.Node, *lnd.Client) {
		node, err := n.w.AddNode(name, lndfake.NodeConfig{MaxPendingChannels: 3})
		require.NoError(t, err)
		client, err := lnd.Dial(lnd.Config{Address: "passthrough:///" + name, Network: "regtest", DialOptions: node.DialOptions()})
		require.NoError(t, err)
		t.Cleanup(func() { _ = client.Close() })
		return node, client
	}
	n.gatewayNode, n.gateway = add("gateway")
	n.node, n.wallet = add("wallet")
	var err error
	n.key, err = ln.ParsePubKey(n.node.PubKey())
	require.NoError(t, err)
	for range 3 {
		_, err := n.gatewayNode.Fund(700_000)
		require.NoError(t, err)
		_, err = n.node.Fund(300_000)
		require.NoError(t, err)
	}
	n.w.Connect(n.gatewayNode, n.node)
	n.w.Mine(3)
	n.before = n.wealth()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			_ = n.wallet.RunAcceptor(ctx, func(p ln.OpenProposal) ln.AcceptVerdict {
				n.mu.Lock()
				f := n.accept
				n.mu.Unlock()
				if f != nil {
					return f(p)
				}
				return ln.AcceptVerdict{Accept: true, ZeroConf: p.WantsZeroConf}
			})
		}
	})
	n.db = storetest.Open(t, cfg)
	require.NoError(t, fsm.Migrate(t.Context(), n.db))
	require.NoError(t, ledger.Migrate(t.Context(), n.db))
	require.NoError(t, lspstore.Migrate(t.Context(), n.db))
	n.start()
	t.Cleanup(func() {
		n.stop()
		cancel()
		running.Wait()
		n.w.Close()
	})
	return n
}

func (n *net) wealth() [2]int64 {
	return [2]int64{n.w.Wealth(n.gatewayNode).TotalMsat() / 1000, n.w.Wealth(n.node).TotalMsat() / 1000}
}

// start runs an engine as a process does.
func (n *net) start() {
	n.t.Helper()
	e, err := New(Options{
		Node: Node{Opener: opener{n.gateway}, Channels: n.gateway, Coins: n.gateway, Chain: chainOf{n.gateway, n}},
		Desk: desk{n}, DB: n.db, Config: n.cfg, Log: zaptest.NewLogger(n.t),
	})
	require.NoError(n.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- e.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		require.NoError(n.t, err)
	case <-time.After(time.Minute):
		require.Fail(n.t, "the engine does not start")
	}
	n.e = e
	n.stop = func() { cancel(); require.NoError(n.t, <-done) }
}

// answer sets what the wallet's node says to channels.
func (n *net) answer(f func(ln.OpenProposal) ln.AcceptVerdict) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.accept = f
}

func (n *net) restart() { n.stop(); n.start() }

// offer is what the wallet brings: coins for an amount, leased.
func (n *net) offer(amount, inbound ln.Sat) (Offer, []byte) {
	n.t.Helper()
	ctx := n.t.Context()
	info, err := n.wallet.Info(ctx)
	require.NoError(n.t, err)
	coins, err := n.wallet.ListCoins(ctx, 1)
	require.NoError(n.t, err)
	address, err := n.wallet.NewChangeAddress(ctx)
	require.NoError(n.t, err)
	packet, err := n.wallet.FundPsbt(ctx, ln.FundOutput{Address: address, AmountSat: amount + 5_000, FeeRate: 500, MinConfs: 1, LeaseID: [32]byte{3}, LeaseFor: time.Hour})
	require.NoError(n.t, err)
	p, err := funding.ParsePsbt(packet.Psbt)
	require.NoError(n.t, err)
	o := Offer{
		Client: n.key, Nonce: [32]byte{1}, WalletSat: amount, InboundSat: inbound, MaxServiceFeeSat: 50_000, MaxChainFeeSat: 5_000,
		ChangeScript: p.UnsignedTx.TxOut[max(packet.ChangeIndex, 0)].PkScript,
	}
	for _, in := range p.UnsignedTx.TxIn {
		for _, c := range coins {
			if c.Outpoint == (ln.Outpoint{TxID: ln.TxID(in.PreviousOutPoint.Hash), Index: in.PreviousOutPoint.Index}) {
				o.Inputs = append(o.Inputs, collab.Input{Coin: c, Height: info.BlockHeight - uint32(c.Confirmations) + 1}) //nolint:gosec // few
			}
		}
	}
	require.Len(n.t, o.Inputs, len(p.UnsignedTx.TxIn))
	return o, packet.Psbt
}

// wait follows until the state.
func (n *net) wait(id string, states ...string) View {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	var last View
	for ctx.Err() == nil {
		changes, err := n.e.Watch(ctx, n.key, id)
		require.NoError(n.t, err)
		for last = range changes {
			for _, s := range states {
				if last.State == s {
					return last
				}
			}
		}
		require.False(n.t, last.Over, "it is %s (%s), not %v", last.State, last.Reason, states)
	}
	require.Fail(n.t, "waiting", "it is %s (%s), not %v", last.State, last.Reason, states)
	return last
}

func (n *net) sign(v View, packet []byte) []byte {
	n.t.Helper()
	raw, err := funding.ForSigner(v.Tx.Psbt, packet)
	require.NoError(n.t, err)
	signed, _, err := n.wallet.SignPsbt(n.t.Context(), raw)
	require.NoError(n.t, err)
	return signed
}

// published is a joint funding that both have signed, and the packet of its offer.
func (n *net) published() (View, []byte) {
	n.t.Helper()
	o, packet := n.offer(400_000, 600_000)
	v, err := n.e.Offer(n.t.Context(), o)
	require.NoError(n.t, err)
	v = n.wait(v.ID, "ready")
	_, err = n.e.Sign(n.t.Context(), n.key, v.ID, n.sign(v, packet))
	require.NoError(n.t, err)
	return n.wait(v.ID, "published"), packet
}

func (n *net) leases() int {
	n.t.Helper()
	list, err := n.gateway.ListLeases(n.t.Context())
	require.NoError(n.t, err)
	return len(list)
}

func (n *net) eventually(what string, is func() bool) {
	n.t.Helper()
	require.Eventually(n.t, is, time.Minute, 10*time.Millisecond, what)
}

func (n *net) channels() int {
	n.t.Helper()
	pending, err := n.gateway.PendingChannels(n.t.Context())
	require.NoError(n.t, err)
	open, err := n.gateway.ListChannels(n.t.Context())
	require.NoError(n.t, err)
	return len(pending) + len(open)
}

func onBoth(t *testing.T, f func(t *testing.T, n *net)) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) { f(t, newNet(t, cfg)) })
}

// Both sides pay what was agreed, to the sat, and so say the books; every kind of
// channel, with a restart of sluiced at each step that waits for somebody.
func TestJointOpens(t *testing.T) {
	for name, kind := range map[string]struct{ zeroConf, taproot, restarts bool }{
		"confirmed": {}, "zero-conf": {zeroConf: true}, "taproot zero-conf": {zeroConf: true, taproot: true}, "restarts": {restarts: true},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, n *net) {
				again := func() {
					if kind.restarts {
						n.restart()
					}
				}
				o, packet := n.offer(400_000, 600_000)
				o.ZeroConf, o.Taproot = kind.zeroConf, kind.taproot
				v, err := n.e.Offer(t.Context(), o)
				require.NoError(t, err)
				v = n.wait(v.ID, "ready")
				require.Equal(t, n.cfg.Fee(600_000), v.Plan.ServiceFeeSat)
				again()
				// The wallet's own node shows the channel before anybody has signed.
				pending, err := n.wallet.PendingChannels(t.Context())
				require.NoError(t, err)
				open, err := n.wallet.ListChannels(t.Context())
				require.NoError(t, err)
				if kind.zeroConf {
					require.Len(t, open, 1)
					require.Equal(t, v.Tx.Funding, open[0].Outpoint)
					require.EqualValues(t, 400_000, open[0].LocalSat)
					ours, err := n.gateway.ListChannels(t.Context())
					require.NoError(t, err)
					require.False(t, ours[0].FundingIsSafe(n.w.Height()), "the wallet could still take its coins away")
				} else {
					require.Len(t, pending, 1)
					require.Equal(t, v.Tx.Funding, pending[0].Outpoint)
					require.EqualValues(t, 400_000, pending[0].LocalSat)
				}
				require.Empty(t, n.w.Mempool())
				_, err = n.e.Sign(t.Context(), n.key, v.ID, n.sign(v, packet))
				require.NoError(t, err)
				n.wait(v.ID, "published")
				require.Len(t, n.w.Mempool(), 1)
				again()
				n.w.Mine(1)
				n.wait(v.ID, "confirmed")
				again()
				n.w.Mine(2)
				v = n.wait(v.ID, "buried")
				require.NoError(t, n.w.Err())
				n.eventually("the leases are gone", func() bool { return n.leases() == 0 })

				j := v.Ours.Joint
				after := n.wealth()
				require.EqualValues(t, n.before[0]-int64(j.Gateway.FeeSat)+int64(v.Plan.ServiceFeeSat), after[0])
				require.EqualValues(t, n.before[1]-int64(j.Wallet.FeeSat)-int64(v.Plan.ServiceFeeSat), after[1])
				var balances map[ledger.Account]int64
				require.NoError(t, n.db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) (err error) {
					balances, err = ledger.Balances(ctx, tx)
					return err
				}))
				op := v.Tx.Funding.String()
				require.Equal(t, map[ledger.Account]int64{
					ledger.Account("clearing/funding/" + op): -msat(600_000 - v.Plan.ServiceFeeSat + j.Gateway.FeeSat),
					ledger.Account("channels/chan/" + op):    msat(600_000), "expense/chain_fee": msat(j.Gateway.FeeSat), "income/opening_fee": -msat(v.Plan.ServiceFeeSat),
				}, balances)
				again2, err := n.e.Offer(t.Context(), o)
				require.NoError(t, err)
				require.Equal(t, "buried", again2.State, "the same offer is the same channel")
			})
		})
	}
}

// Whatever ends it before our signature: coins are free at once, and nothing of
// the channel is left in lnd.
func TestGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(n *net, o *Offer)
		at      string
		act     func(t *testing.T, n *net, v View, packet []byte)
		says    string
	}{
		"the wallet's word": {at: "ready", act: func(t *testing.T, n *net, v View, _ []byte) { must(n.e.Abort(t.Context(), n.key, v.ID))(t) }, says: "the wallet ended it"},
		"the operator's":    {at: "ready", act: func(t *testing.T, n *net, v View, _ []byte) { must(n.e.End(t.Context(), v.ID))(t) }, says: "operator ended it"},
		"no signature":      {prepare: func(n *net, _ *Offer) { n.cfg.SignFor = time.Millisecond; n.restart() }, says: "did not sign in time"},
		"the node's refusal": {prepare: func(n *net, _ *Offer) {
			n.answer(func(ln.OpenProposal) ln.AcceptVerdict { return ln.AcceptVerdict{Refusal: "not today"} })
		}, says: "not today"},
		"the node is away":    {prepare: func(n *net, _ *Offer) { n.w.Disconnect(n.gatewayNode, n.node) }, says: "negotiation ended"},
		"a fee over its cap":  {prepare: func(_ *net, o *Offer) { o.MaxChainFeeSat = 10 }, says: "more than the 10 sat"},
		"coins too few":       {prepare: func(_ *net, o *Offer) { o.WalletSat = 599_000 }, says: "too little"},
		"another amount":      {prepare: func(_ *net, o *Offer) { o.Inputs[0].AmountSat++ }, says: "another amount"},
		"another script":      {prepare: func(_ *net, o *Offer) { o.Inputs[0].PkScript[3]++ }, says: "another script"},
		"another block":       {prepare: func(_ *net, o *Offer) { o.Inputs[0].Height++ }, says: "has no transaction"},
		"an unknown block":    {prepare: func(_ *net, o *Offer) { o.Inputs[0].Height = 1 }, says: "cannot read block 1"},
		"no such output":      {prepare: func(_ *net, o *Offer) { o.Inputs[0].Outpoint.Index = 99 }, says: "has no output 99"},
		"a block to come":     {prepare: func(_ *net, o *Offer) { o.Inputs[0].Height += 500 }, says: "confirmations"},
		"the gateway's coins": {prepare: func(n *net, o *Offer) { o.InboundSat = 2_500_000 }, says: "too few free coins"},
		"a double-spend before": {at: "ready", act: func(t *testing.T, n *net, v View, packet []byte) {
			n.doubleSpend(packet)
			n.w.Mine(1)
		}, says: "was spent by transaction"},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, n *net) {
				o, packet := n.offer(400_000, 600_000)
				if c.prepare != nil {
					c.prepare(n, &o)
				}
				v, err := n.e.Offer(t.Context(), o)
				require.NoError(t, err)
				if c.at != "" {
					v = n.wait(v.ID, c.at)
					c.act(t, n, v, packet)
				}
				v = n.wait(v.ID, "failed")
				require.Equal(t, "failed", v.State)
				require.Contains(t, v.Reason, c.says)
				if name == "a double-spend before" {
					n.nothingCame(2_000)
					return
				}
				n.eventually("its coins are free", func() bool { return n.leases() == 0 })
				n.eventually("its channel is forgotten", func() bool { return n.channels() == 0 })
				require.Equal(t, n.before, n.wealth(), "it cost nobody anything")
				require.NoError(t, n.w.Err())
			})
		})
	}
}

// A negotiation that sluiced's death cut off is begun anew, or its coins are free.
func TestRestartWhileNegotiating(t *testing.T) {
	onBoth(t, func(t *testing.T, n *net) {
		stopped := make(chan struct{})
		var once sync.Once
		n.answer(func(ln.OpenProposal) ln.AcceptVerdict {
			once.Do(func() {
				n.stop()
				close(stopped)
			})
			return ln.AcceptVerdict{Accept: true}
		})
		o, _ := n.offer(400_000, 600_000)
		v, err := n.e.Offer(t.Context(), o)
		require.NoError(t, err)
		<-stopped
		n.start()
		n.wait(v.ID, "ready")
		_, err = n.e.Abort(t.Context(), n.key, v.ID)
		require.NoError(t, err)
		n.eventually("its coins are free", func() bool { return n.leases() == 0 })
		n.eventually("its channel is forgotten", func() bool { return n.channels() == 0 })
	})
}

func must(_ View, err error) func(*testing.T) {
	return func(t *testing.T) { t.Helper(); require.NoError(t, err) }
}

// doubleSpend has the wallet spend its coins otherwise.
func (n *net) doubleSpend(packet []byte) {
	n.t.Helper()
	ctx := n.t.Context()
	leases, err := n.wallet.ListLeases(ctx)
	require.NoError(n.t, err)
	for _, l := range leases {
		require.NoError(n.t, n.wallet.ReleaseCoin(ctx, l.ID, l.Outpoint))
	}
	raw, err := n.wallet.FinalizePsbt(ctx, packet)
	require.NoError(n.t, err)
	n.eventually("the double-spend takes the place of whatever is there", func() bool {
		// The gateway may have published meanwhile.
		if list, err := n.e.List(ctx, Filter{}); err == nil {
			for _, v := range list {
				n.w.DropFromMempool([32]byte(v.Tx.Funding.TxID))
			}
		}
		return n.wallet.Publish(ctx, raw, "double-spend") == nil
	})
}

// A wallet that takes its coins away after both have signed gets nothing by it:
// the channel is kept until that is buried, and then it is gone on both counts.
func TestDoubleSpendAfterSigning(t *testing.T) {
	onBoth(t, func(t *testing.T, n *net) {
		v, packet := n.published()
		_, err := n.e.Abort(t.Context(), n.key, v.ID)
		require.ErrorIs(t, err, collab.ErrTooLate)
		n.doubleSpend(packet)
		n.w.Mine(1)
		n.eventually("the double-spend is seen", func() bool {
			v, err := n.e.Get(t.Context(), n.key, v.ID)
			return err == nil && v.Reason != ""
		})
		require.Equal(t, 1, n.channels(), "the channel is kept: a reorg could bring it back")
		n.w.Mine(2)
		v = n.wait(v.ID, "conflicted")
		n.nothingCame(2_000)
		var balances map[ledger.Account]int64
		require.NoError(t, n.db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) (err error) {
			balances, err = ledger.Balances(ctx, tx)
			return err
		}))
		for account, sum := range balances {
			require.Zero(t, sum, account)
		}
	})
}

// What can never succeed is refused before anything is stored or leased.
func TestSillyOffers(t *testing.T) {
	n := newNet(t, storetest.SQLite(t))
	good, _ := n.offer(400_000, 600_000)
	for name, edit := range map[string]func(*Offer){
		"no nonce":         func(o *Offer) { o.Nonce = [32]byte{} },
		"too little":       func(o *Offer) { o.WalletSat = 1 },
		"too much":         func(o *Offer) { o.WalletSat = ln.MaxMsat.ToSatFloor() * 2 },
		"no inbound":       func(o *Offer) { o.InboundSat = 0 },
		"all the inbound":  func(o *Offer) { o.InboundSat = ^ln.Sat(0) },
		"a large channel":  func(o *Offer) { o.WalletSat, o.InboundSat = 9_000_000, 9_000_000 },
		"no coins":         func(o *Offer) { o.Inputs = nil },
		"a coin twice":     func(o *Offer) { o.Inputs = append(o.Inputs, o.Inputs[0]) },
		"dust":             func(o *Offer) { o.Inputs[0].AmountSat = 1 },
		"an unmined coin":  func(o *Offer) { o.Inputs[0].Height = 0 },
		"a legacy coin":    func(o *Offer) { o.Inputs[0].PkScript = []byte{0x76, 0xa9} },
		"a burning change": func(o *Offer) { o.ChangeScript = []byte{0x6a} },
		"thousands of them": func(o *Offer) {
			for i := range uint32(3_000) {
				c := o.Inputs[0]
				c.Outpoint.Index = i + 7
				o.Inputs = append(o.Inputs, c)
			}
		},
	} {
		o := good
		o.Inputs = append([]collab.Input(nil), good.Inputs...)
		edit(&o)
		_, err := n.e.Offer(t.Context(), o)
		require.Equal(t, errkind.Invalid, errkind.Of(err), "%s: %v", name, err)
	}
	dear := good
	dear.MaxServiceFeeSat = 1
	_, err := n.e.Offer(t.Context(), dear)
	require.Equal(t, errkind.Conflict, errkind.Of(err))
	list, err := n.e.List(t.Context(), Filter{})
	require.NoError(t, err)
	require.Empty(t, list)

	v, err := n.e.Offer(t.Context(), good)
	require.NoError(t, err)
	second := good
	second.Nonce[5] = 9
	_, err = n.e.Offer(t.Context(), second)
	require.Equal(t, errkind.Exhausted, errkind.Of(err), "one at a time for each wallet")
	other := n.key
	other[4]++
	_, err = n.e.Get(t.Context(), other, v.ID)
	require.Equal(t, errkind.NotFound, errkind.Of(err), "nobody sees another one's")
	_, err = n.e.Sign(t.Context(), other, v.ID, nil)
	require.Equal(t, errkind.NotFound, errkind.Of(err))
	_, err = n.e.Abort(t.Context(), other, v.ID)
	require.Equal(t, errkind.NotFound, errkind.Of(err))
	v = n.wait(v.ID, "ready")
	_, err = n.e.Sign(t.Context(), n.key, v.ID, v.Tx.Psbt)
	require.Equal(t, errkind.Invalid, errkind.Of(err), "unsigned")
	list, err = n.e.List(t.Context(), Filter{Client: n.key, OpenOnly: true})
	require.NoError(t, err)
	require.Len(t, list, 1)
	_, story, err := n.e.Show(t.Context(), v.ID)
	require.NoError(t, err)
	require.NotEmpty(t, story)
}
