package app

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/collab"
	collabengine "github.com/sluice-lsp/sluice/lsp/collab/engine"
	"github.com/sluice-lsp/sluice/lsp/funding"
	lspstore "github.com/sluice-lsp/sluice/lsp/store"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// plainDesk has all coins, and one rate.
type plainDesk struct{}

func (plainDesk) Spendable(c []ln.Coin) []ln.Coin { return c }
func (plainDesk) ReserveSat() ln.Sat              { return 0 }
func (plainDesk) Rate() funding.Rate              { return funding.Rate{Rate: 500, Asked: 500} }

// walletSends has the wallet pay the payer.
func (r *rig) walletSends(sat int64) <-chan *lnrpc.Payment {
	r.t.Helper()
	_, err := routerrpc.NewRouterClient(r.conns[r.wallet]).ResetMissionControl(r.ctx, &routerrpc.ResetMissionControlRequest{})
	require.NoError(r.t, err)
	inv, err := r.ln(r.payer).AddInvoice(r.ctx, &lnrpc.Invoice{Value: sat})
	require.NoError(r.t, err)
	stream, err := routerrpc.NewRouterClient(r.conns[r.wallet]).SendPaymentV2(r.ctx, &routerrpc.SendPaymentRequest{
		PaymentRequest: inv.PaymentRequest, TimeoutSeconds: 60, NoInflightUpdates: true, FeeLimitMsat: 1_000_000,
	})
	require.NoError(r.t, err)
	out := make(chan *lnrpc.Payment, 1)
	r.running.Go(func() {
		if m, err := stream.Recv(); err == nil {
			out <- m
		}
	})
	return out
}

// A wallet may spend 50,000 sat over its zero-conf channel before that is buried, and
// spends what it can, in bursts and while sluiced is killed. Then it takes its own coins
// back. The gateway has lost what was passed on, to the sat, and no more than that
// limit; with none it has lost nothing.
func TestTheCapHolds(t *testing.T) {
	for name, limit := range map[string]ln.Sat{"nothing, as for everybody": 0, "a limit": 50_000} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) { theCapHolds(t, limit) })
		})
	}
}

func theCapHolds(t *testing.T, limit ln.Sat) {
	r := newRig(t, rigConfig{seed: 1, job: job{name: "cap", amountSat: 100_000, parts: 1}})
	for range 3 {
		_, err := r.wallet.Fund(300_000)
		require.NoError(t, err)
	}
	_, err := r.w.OpenChannel(r.gateway, r.payer, 1_000_000, 0)
	require.NoError(t, err)
	r.up()
	gateway := r.dial(r.gateway)
	defer func() { _ = gateway.Close() }()

	db := storetest.Open(t, storetest.SQLite(t))
	require.NoError(t, fsm.Migrate(r.ctx, db))
	require.NoError(t, ledger.Migrate(r.ctx, db))
	require.NoError(t, lspstore.Migrate(r.ctx, db))
	cfg := collabengine.Defaults()
	cfg.Network, cfg.BuriedConfs, cfg.ZeroConf = "regtest", 3, true
	e, err := collabengine.New(collabengine.Options{
		Node: collabengine.Node{Opener: jointOpener{gateway}, Channels: gateway, Coins: gateway, Chain: gateway}, Desk: plainDesk{}, DB: db, Config: cfg, Log: r.log,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(r.ctx)
	var running sync.WaitGroup
	ready := make(chan struct{})
	running.Go(func() { _ = e.Run(ctx, func() { close(ready) }) })
	defer running.Wait()
	defer cancel()
	<-ready
	_, err = e.SetSpend(r.ctx, r.walletKey, limit)
	require.NoError(t, err)

	// The interceptor's ledger is new: what came before its first minutes it would not
	// know.
	r.pause(10 * time.Minute)
	// The channel, in use and in no block.
	before := map[*lndfake.Node]int64{}
	for _, n := range r.nodes() {
		before[n] = r.w.Wealth(n).TotalMsat()
	}
	id, packet := r.joint(e)
	r.awaitJoint(e, id, "published")
	// sluiced's own database has the joint funding as well: without it, it would be an older copy.
	r.onRecord(id)

	passed := int64(0)
	outcome := func(paid <-chan *lnrpc.Payment, sat int64) lnrpc.Payment_PaymentStatus {
		t.Helper()
		select {
		case m := <-paid:
			if m.Status == lnrpc.Payment_SUCCEEDED {
				passed += sat
			}
			return m.Status
		case <-time.After(10 * time.Minute):
			t.Fatalf("a payment of %d sat does not end: %s", sat, r.moving())
		}
		return lnrpc.Payment_INITIATED
	}
	first := outcome(r.walletSends(30_000), 30_000)
	if limit == 0 {
		require.Equal(t, lnrpc.Payment_FAILED, first)
	} else {
		require.Equal(t, lnrpc.Payment_SUCCEEDED, first)
		require.Equal(t, lnrpc.Payment_FAILED, outcome(r.walletSends(20_500), 20_500), "too much in all")
	}
	// More at once than there is room for, and sluiced dies.
	burst := make([]<-chan *lnrpc.Payment, 6)
	for i := range burst {
		burst[i] = r.walletSends(6_000)
	}
	r.pause(20 * time.Millisecond)
	r.killProcess()
	for _, paid := range burst {
		outcome(paid, 6_000)
	}
	r.up()
	for range 40 {
		outcome(r.walletSends(1_500), 1_500)
	}
	require.LessOrEqual(t, passed, int64(limit)) //nolint:gosec // small
	if limit > 0 {
		require.Greater(t, passed, int64(48_000), "and it can use it")
	}

	// It takes its coins back.
	v, err := e.Get(r.ctx, r.walletKey, id)
	require.NoError(t, err)
	r.w.DropFromMempool([32]byte(v.Tx.Funding.TxID))
	leases, err := r.walletClient.ListLeases(r.ctx)
	require.NoError(t, err)
	for _, l := range leases {
		require.NoError(t, r.walletClient.ReleaseCoin(r.ctx, l.ID, l.Outpoint))
	}
	raw, err := r.walletClient.FinalizePsbt(r.ctx, packet)
	require.NoError(t, err)
	require.NoError(t, r.walletClient.Publish(r.ctx, raw, "double-spend"))
	r.w.Mine(3)
	r.awaitJoint(e, id, "conflicted")
	for range 600 {
		if list, err := gateway.ListChannels(r.ctx); err == nil && len(list) == 2 {
			break
		}
		r.pause(r.step)
	}
	lost := before[r.gateway] - r.w.Wealth(r.gateway).TotalMsat()
	require.Equal(t, passed*1000, lost, "what was passed on, to the sat")
	require.Equal(t, passed*1000, r.w.Wealth(r.payer).TotalMsat()-before[r.payer], "and the payer has it")
	used, err := e.Spend(r.ctx, r.walletKey)
	require.NoError(t, err)
	require.Equal(t, limit, used.UsedSat, "it has no more to spend until the operator says so")
	require.Zero(t, used.LeftSat())
	require.NoError(t, r.w.Err())
}

// joint has the wallet fund a zero-conf channel together with the gateway, and sign. It
// also gives the packet by which the wallet can spend its coins otherwise.
func (r *rig) joint(e *collabengine.Engine) (id string, packet []byte) {
	t := r.t
	info, err := r.walletClient.Info(r.ctx)
	require.NoError(t, err)
	coins, err := r.walletClient.ListCoins(r.ctx, 1)
	require.NoError(t, err)
	address, err := r.walletClient.NewChangeAddress(r.ctx)
	require.NoError(t, err)
	own, err := r.walletClient.FundPsbt(r.ctx, ln.FundOutput{Address: address, AmountSat: 405_000, FeeRate: 500, MinConfs: 1, LeaseID: [32]byte{3}, LeaseFor: time.Hour})
	require.NoError(t, err)
	p, err := funding.ParsePsbt(own.Psbt)
	require.NoError(t, err)
	o := collabengine.Offer{
		Client: r.walletKey, Nonce: [32]byte{1}, WalletSat: 400_000, InboundSat: 600_000, MaxServiceFeeSat: 50_000, MaxChainFeeSat: 5_000,
		ChangeScript: p.UnsignedTx.TxOut[max(own.ChangeIndex, 0)].PkScript, ZeroConf: true,
	}
	for _, in := range p.UnsignedTx.TxIn {
		for _, c := range coins {
			if c.Outpoint == (ln.Outpoint{TxID: ln.TxID(in.PreviousOutPoint.Hash), Index: in.PreviousOutPoint.Index}) {
				o.Inputs = append(o.Inputs, collab.Input{Coin: c, Height: info.BlockHeight - uint32(c.Confirmations) + 1}) //nolint:gosec // few
			}
		}
	}
	v, err := e.Offer(r.ctx, o)
	require.NoError(t, err)
	v = r.awaitJoint(e, v.ID, "ready")
	unsigned, err := funding.ForSigner(v.Tx.Psbt, own.Psbt)
	require.NoError(t, err)
	signed, _, err := r.walletClient.SignPsbt(r.ctx, unsigned)
	require.NoError(t, err)
	_, err = e.Sign(r.ctx, r.walletKey, v.ID, signed)
	require.NoError(t, err)
	return v.ID, own.Psbt
}

func (r *rig) awaitJoint(e *collabengine.Engine, id, state string) collabengine.View {
	r.t.Helper()
	var v collabengine.View
	for range 600 {
		var err error
		v, err = e.Get(r.ctx, r.walletKey, id)
		require.NoError(r.t, err)
		if v.State == state {
			return v
		}
		require.False(r.t, v.Over, "it is %s: %s", v.State, v.Reason)
		r.pause(r.step)
	}
	require.Fail(r.t, "waiting", "it is %s, not %s", v.State, state)
	return v
}

// onRecord puts a joint funding on record in sluiced's database.
func (r *rig) onRecord(id string) {
	r.t.Helper()
	db, err := store.Open(r.ctx, r.store)
	require.NoError(r.t, err)
	defer func() { require.NoError(r.t, db.Close()) }()
	require.NoError(r.t, db.Write(r.ctx, func(ctx context.Context, tx *store.Tx) error {
		return lspdb.New(tx).InsertCollab(ctx, lspdb.InsertCollabParams{ID: id, Client: r.walletKey[:], State: "published"})
	}))
}
