package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/out"
	swapsstore "github.com/sluice-lsp/sluice/swaps/store"
)

// rig is an engine on a fake node that can be stopped and started again.
type rig struct {
	t        *testing.T
	ctx      context.Context
	node     *fakeNode
	channels *fakeChannels
	db       *store.DB
	*Engine
	stop func()
	// keyFor and maxExposed change the configuration at the next start.
	keyFor     time.Duration
	maxExposed ln.Sat
	// perClient, unpaidPerClient and probeFor as well.
	perClient       ln.Sat
	unpaidPerClient int
	probeFor        time.Duration
}

func newRig(t *testing.T, cfg store.Config) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, node: newFakeNode(), channels: newFakeChannels(), db: storetest.Open(t, cfg)}
	for _, migrate := range []func(context.Context, *store.DB) error{fsm.Migrate, ledger.Migrate, payhash.Migrate, swapsstore.Migrate} {
		require.NoError(t, migrate(ctx, r.db))
	}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *rig) start() {
	r.t.Helper()
	config := Defaults()
	config.Network, config.Self = "regtest", ln.PubKey{2, 9}
	if r.keyFor > 0 {
		config.In.KeyFor = r.keyFor
	}
	if r.maxExposed > 0 {
		config.In.MaxExposedSat = r.maxExposed
	}
	if r.perClient > 0 {
		config.MaxPerClientSat, config.MaxSat, config.In.MaxSat = r.perClient, r.perClient, r.perClient
	}
	if r.probeFor > 0 {
		config.In.ProbeFor = r.probeFor
	}
	if r.unpaidPerClient > 0 {
		config.MaxUnpaidPerClient = r.unpaidPerClient
	}
	e, err := New(Options{Node: r.node.node(), Channels: r.channels, DB: r.db, Params: &chaincfg.RegressionNetParams, Config: config, DecodeBolt11: r.node.invoice})
	require.NoError(r.t, err)
	ctx, cancel := context.WithCancel(r.ctx)
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- e.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		require.NoError(r.t, err)
	}
	r.Engine = e
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		require.NoError(r.t, <-done)
	}
}

func (r *rig) wish(p ln.Preimage) OutWish {
	_, pub := btcec.PrivKeyFromBytes([]byte{31: 7})
	return OutWish{
		Hash: p.Hash(), Receiver: ln.PubKey(pub.SerializeCompressed()), AmountSat: 500_000, ExpiryHeight: r.node.height + 100,
		PublishBy: time.Now(), Client: "test",
	}
}

func (r *rig) offer(p ln.Preimage) out.Plan {
	r.t.Helper()
	_, err := r.OfferOut(r.ctx, r.wish(p))
	require.NoError(r.t, err)
	return out.PlanOf(r.state(p))
}

func (r *rig) state(p ln.Preimage) out.State {
	r.t.Helper()
	inst, err := r.outs.Get(r.ctx, p.Hash().String())
	require.NoError(r.t, err)
	return inst.State
}

func (r *rig) reaches(p ln.Preimage, name string) out.State {
	r.t.Helper()
	s, err := r.await(r.ctx, p.Hash().String(), func(s out.State) bool { return s.StateName() == name })
	require.NoError(r.t, err)
	return s
}

// published has a swap come so far that its output confirmed.
func (r *rig) published(p ln.Preimage) out.Live {
	r.t.Helper()
	plan := r.offer(p)
	r.node.pay(plan.Terms.Hash)
	r.node.pay(plan.PrepayHash())
	r.reaches(p, "published")
	require.Eventually(r.t, func() bool { r.node.mu.Lock(); defer r.node.mu.Unlock(); return len(r.node.published) > 0 }, 20*time.Second, time.Millisecond)
	r.node.mine(1, true)
	s, err := r.await(r.ctx, p.Hash().String(), func(s out.State) bool { l, ok := out.LiveOf(s); return ok && l.ConfirmedHeight > 0 })
	require.NoError(r.t, err)
	l, _ := out.LiveOf(s)
	return l
}

func (r *rig) balance(account ledger.Account) (msat int64) {
	r.t.Helper()
	require.NoError(r.t, r.db.Read(r.ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		msat, err = ledger.Balance(ctx, tx, account)
		return err
	}))
	return msat
}

// sweepOf is a client's request for its signature.
func sweepOf(t *testing.T, l out.Live, paymentAddr []byte) SweepWish {
	t.Helper()
	contract, err := htlc.New(l.Terms)
	require.NoError(t, err)
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash(l.Outpoint.TxID), Index: l.Outpoint.Index}, nil, nil))
	tx.AddTxOut(wire.NewTxOut(499_000, contract.PkScript))
	packet, err := psbt.NewFromUnsignedTx(tx)
	require.NoError(t, err)
	var raw bytes.Buffer
	require.NoError(t, packet.Serialize(&raw))
	w := SweepWish{Hash: l.Terms.Hash, PaymentAddr: paymentAddr, Psbt: raw.Bytes(), Prevouts: []htlc.Prevout{{Outpoint: l.Outpoint, ValueSat: l.AmountSat, PkScript: contract.PkScript}}}
	_, a := btcec.PrivKeyFromBytes([]byte{31: 3})
	copy(w.Nonce[:], a.SerializeCompressed())
	copy(w.Nonce[33:], a.SerializeCompressed())
	return w
}

func TestSwapOut(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		r := newRig(t, cfg)
		p := ln.Preimage{1}
		price, err := r.QuoteOut(r.ctx, 500_000, time.Now())
		require.NoError(t, err)
		l := r.published(p)
		require.Equal(t, price.FeeSat, l.FeeSat, "the quote was firm")
		addr := l.PaymentAddr[:]

		// No signature before the payment is settled, none for anybody else ever.
		_, _, err = r.SignSweep(r.ctx, sweepOf(t, l, addr))
		require.ErrorIs(t, err, errkind.Conflict)
		require.ErrorIs(t, r.CancelOut(r.ctx, p.Hash(), addr, "too late"), errkind.Conflict)
		require.ErrorIs(t, r.PushPreimage(r.ctx, ln.Preimage{2}), errkind.NotFound)
		require.NoError(t, r.PushPreimage(r.ctx, p))
		require.Equal(t, ln.InvoiceSettled, r.node.invoices[p.Hash()].State, "settled when the call returns")
		_, _, err = r.SignSweep(r.ctx, sweepOf(t, l, make([]byte, 32)))
		require.ErrorIs(t, err, errkind.NotFound)
		_, _, err = r.SignSweep(r.ctx, sweepOf(t, l, nil))
		require.ErrorIs(t, err, errkind.NotFound)
		first, _, err := r.SignSweep(r.ctx, sweepOf(t, l, addr))
		require.NoError(t, err)
		second, _, err := r.SignSweep(r.ctx, sweepOf(t, l, addr))
		require.NoError(t, err)
		require.NotEqual(t, first, second, "a replayed request meets a fresh nonce")
		require.NoError(t, r.PushPreimage(r.ctx, p), "again is harmless")

		r.node.mine(6, false)
		r.reaches(p, "succeeded")
		_, _, err = r.SignSweep(r.ctx, sweepOf(t, l, addr))
		require.NoError(t, err, "a client that sweeps late still gets its signature")
		require.EqualValues(t, -l.FeeSat*1000, r.balance(swapFee))
		require.EqualValues(t, (l.AmountSat+l.FeeSat)*1000, r.balance(ownInvoices))
		require.EqualValues(t, -l.AmountSat*1000, r.balance(outside))
		require.Zero(t, r.balance(clearing(p.Hash())))
		require.Eventually(t, func() bool { leases, _ := r.node.ListLeases(r.ctx); return len(leases) == 0 }, 20*time.Second, time.Millisecond)

		// A hash is good for one swap.
		_, err = r.OfferOut(r.ctx, r.wish(p))
		require.ErrorIs(t, err, errkind.Conflict)
	})
}

func TestRefundWhenTheClientIsGone(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	p := ln.Preimage{1}
	l := r.published(p)
	r.node.mine(99, false)
	r.reaches(p, "refunding")
	require.ErrorIs(t, r.PushPreimage(r.ctx, p), errkind.Conflict, "both would be ours")
	require.Equal(t, ln.InvoiceAccepted, r.node.invoices[p.Hash()].State)
	// sluiced is away while the refund confirms.
	require.Eventually(t, func() bool { r.node.mu.Lock(); defer r.node.mu.Unlock(); return len(r.node.published) == 2 }, 20*time.Second, time.Millisecond)
	r.stop()
	r.node.change(func() {
		r.node.height++
		r.node.confirmed[ln.TxID(r.node.published[1].TxHash())] = r.node.height
		r.node.spend(r.node.published[1])
	})
	r.start()
	s, err := r.await(r.ctx, p.Hash().String(), func(s out.State) bool { l, _ := out.LiveOf(s); return l.Spent == htlc.SpendTimeout })
	require.NoError(t, err)
	require.Equal(t, "refunding", s.StateName())
	require.Equal(t, ln.InvoiceAccepted, r.node.invoices[p.Hash()].State, "not before the refund is buried")
	r.node.mine(5, false)
	r.reaches(p, "refunded")
	require.Eventually(t, func() bool { inv, _ := r.node.LookupInvoice(r.ctx, p.Hash()); return inv.State == ln.InvoiceCanceled }, 20*time.Second, time.Millisecond)
	require.EqualValues(t, -l.PrepaySat*1000, r.balance(noShow))
	require.Positive(t, r.balance(chainFee))
}

// A block that makes a refund look buried comes before the word that a reorg undid it: the
// payment stays held until the refund stands again.
func TestARefundThatDoesNotStand(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	p := ln.Preimage{1}
	l := r.published(p)
	r.node.mine(99, false)
	r.reaches(p, "refunding")
	r.sees("the refund", func() bool { r.node.mu.Lock(); defer r.node.mu.Unlock(); return len(r.node.published) == 2 })
	r.node.mine(1, true)
	_, err := r.await(r.ctx, p.Hash().String(), func(s out.State) bool { l, _ := out.LiveOf(s); return l.Spent == htlc.SpendTimeout })
	require.NoError(t, err)
	spend := r.node.spends[l.Outpoint]
	// Nobody is woken by this.
	r.node.mu.Lock()
	delete(r.node.spends, l.Outpoint)
	r.node.mu.Unlock()
	_, err = r.outs.Send(r.ctx, p.Hash().String(), out.NewBlock{Moment: r.momentAt(spend.Height + 5)})
	require.NoError(t, err)
	r.reaches(p, "refunded")
	require.Error(t, r.refundStands(shortly(r), p.Hash().String()))
	require.Equal(t, ln.InvoiceAccepted, r.invoice(p.Hash()).State)
	r.node.change(func() { r.node.spends[l.Outpoint] = spend; r.node.height = spend.Height + 4 })
	require.ErrorContains(t, r.refundStands(r.ctx, p.Hash().String()), "5 confirmations")
	r.node.change(func() { r.node.height++ })
	r.sees("the payment to go back", func() bool { return r.invoice(p.Hash()).State == ln.InvoiceCanceled })
}

// shortly is for a look at the chain that finds nothing.
func shortly(r *rig) context.Context {
	ctx, cancel := context.WithTimeout(r.ctx, 100*time.Millisecond)
	r.t.Cleanup(cancel)
	return ctx
}

// What an older copy of the database believes is asked of the node first: a
// settled prepay says that an output exists.
func TestAnOlderDatabaseFundsNothingTwice(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	p := ln.Preimage{1}
	plan := r.offer(p)
	r.node.change(func() { r.node.invoices[plan.PrepayHash()].State = ln.InvoiceSettled })
	events, err := r.fundHtlc(r.ctx, plan)
	require.NoError(t, err)
	require.Empty(t, events, "the state does not ask for it")
	prepay := plan.PrepayHash()
	r.node.pay(p.Hash())
	_, err = r.cancelInvoices(r.ctx, plan.ID(), out.CancelInvoices{Swap: p.Hash(), Prepay: &prepay})
	require.ErrorContains(t, err, "older copy")
	require.Equal(t, ln.InvoiceAccepted, r.node.invoices[p.Hash()].State)
}

func TestWhatIsRefused(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	for name, change := range map[string]func(*OutWish){
		"too small": func(w *OutWish) { w.AmountSat = 249_999 },
		"too large": func(w *OutWish) { w.AmountSat = 10_000_001 },
		"too short": func(w *OutWish) { w.ExpiryHeight -= heightSlack + 1 },
		"too long":  func(w *OutWish) { w.ExpiryHeight += 400 },
		"no key":    func(w *OutWish) { w.Receiver = ln.PubKey{2, 31: 1, 32: 5} },
	} {
		w := r.wish(ln.Preimage{9})
		change(&w)
		_, err := r.OfferOut(r.ctx, w)
		require.ErrorIs(t, err, errkind.Invalid, name)
	}
	// What is promised to others is not promised again: the channel's inbound
	// side is 10,000,000 sat.
	w := r.wish(ln.Preimage{1})
	w.AmountSat = 6_000_000
	_, err := r.OfferOut(r.ctx, w)
	require.NoError(t, err)
	w.Hash = ln.Preimage{2}.Hash()
	_, err = r.OfferOut(r.ctx, w)
	require.ErrorIs(t, err, errkind.Exhausted)
	terms, err := r.OutTerms(r.ctx)
	require.NoError(t, err)
	require.Less(t, terms.MaxSat, ln.Sat(4_000_000))
	// Giving up frees it.
	l, _ := out.InvoicesOf(r.state(ln.Preimage{1}))
	require.NoError(t, r.CancelOut(r.ctx, ln.Preimage{1}.Hash(), l.PaymentAddr[:], "no route"))
	r.reaches(ln.Preimage{1}, "cancelled")
	_, err = r.OfferOut(r.ctx, w)
	require.NoError(t, err)
}

// Money over a channel that may be double-spent is not accepted.
func TestUnsafeIncoming(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	p := ln.Preimage{1}
	plan := r.offer(p)
	r.node.change(func() { r.node.zeroConf = true })
	r.node.pay(plan.Terms.Hash)
	s := r.reaches(p, "cancelled")
	require.Contains(t, out.ReasonOf(s).Text, "not confirmed")
	require.Zero(t, r.node.funded)
}

// A quote holds over a restart, though fees rose meanwhile.
func TestQuotesOutliveARestart(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	price, err := r.QuoteOut(r.ctx, 500_000, time.Now())
	require.NoError(t, err)
	r.stop()
	r.node.change(func() { r.node.rate = 5_000 })
	r.start()
	dearer, err := r.QuoteOut(r.ctx, 500_000, time.Now())
	require.NoError(t, err)
	require.Greater(t, dearer.FeeSat, price.FeeSat)
	require.Equal(t, price.FeeSat, r.offer(ln.Preimage{1}).FeeSat)
	later, err := r.QuoteOut(r.ctx, 500_000, time.Now().Add(30*time.Minute))
	require.NoError(t, err)
	require.Less(t, later.FeeSat, dearer.FeeSat, "waiting is cheaper")
}

// The prepay is taken once, in time, and while the swap payment is held: what came
// between is seen.
func TestPrepayIsTakenInTime(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	const in, late = 500, 499
	for name, c := range map[string]struct {
		swap, prepay ln.InvoiceState
		by           uint32
		want         out.Event
		after        ln.InvoiceState
	}{
		"both held":                     {ln.InvoiceAccepted, ln.InvoiceAccepted, in, out.PrepaySettled{}, ln.InvoiceSettled},
		"an outage":                     {ln.InvoiceAccepted, ln.InvoiceAccepted, late, out.PrepayLost{}, ln.InvoiceAccepted},
		"taken before the outage":       {ln.InvoiceAccepted, ln.InvoiceSettled, late, out.PrepaySettled{}, ln.InvoiceSettled},
		"the payment went back":         {ln.InvoiceCanceled, ln.InvoiceAccepted, in, out.PrepayLost{}, ln.InvoiceAccepted},
		"it went back after that":       {ln.InvoiceCanceled, ln.InvoiceSettled, in, out.PrepayLost{Kept: true}, ln.InvoiceSettled},
		"the prepay went back":          {ln.InvoiceAccepted, ln.InvoiceCanceled, in, out.PrepayLost{}, ln.InvoiceCanceled},
		"an older copy of the database": {ln.InvoiceSettled, ln.InvoiceSettled, late, out.PrepaySettled{}, ln.InvoiceSettled},
	} {
		secret := ln.Preimage(sha256.Sum256([]byte(name)))
		swap := ln.Hash(sha256.Sum256(secret[:16]))
		r.node.change(func() {
			r.node.invoices[swap] = &ln.Invoice{Hash: swap, State: c.swap}
			r.node.invoices[secret.Hash()] = &ln.Invoice{Hash: secret.Hash(), State: c.prepay}
		})
		events, err := r.settlePrepay(r.ctx, out.SettlePrepay{Swap: swap, Hash: secret.Hash(), Preimage: swaps.NewSecret(secret), ByHeight: c.by})
		require.NoError(t, err, name)
		require.Len(t, events, 1, name)
		require.Equal(t, c.want.EventName(), events[0].EventName(), name)
		if lost, ok := c.want.(out.PrepayLost); ok {
			require.Equal(t, lost.Kept, events[0].(out.PrepayLost).Kept, name)
		}
		require.Equal(t, c.after, r.invoice(secret.Hash()).State, name)
	}
	// A prepay that was kept for nothing is in the books.
	plan := r.offer(ln.Preimage{1})
	lines, _ := outLines(out.Funded{Plan: plan}, out.Cancelling{Plan: plan, PrepayKept: true})
	require.Equal(t, []ledger.Line{{Account: ownInvoices, AmountMsat: int64(plan.PrepaySat) * 1000}, {Account: noShow, AmountMsat: -int64(plan.PrepaySat) * 1000}}, lines)
	lines, _ = outLines(out.Cancelling{Plan: plan, PrepayKept: true}, out.Cancelled{Plan: plan, PrepayKept: true})
	require.Empty(t, lines, "once")
}

// The node has taken a payment of which the database does not know, since it is an
// older copy: the output is the client's, it gets its signature, and nobody takes the
// output back.
func TestAnOlderDatabaseTakesNothingBack(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	p := ln.Preimage{1}
	l := r.published(p)
	r.stop()
	require.NoError(t, r.node.SettleInvoice(r.ctx, p))
	r.start()
	r.reaches(p, "settled")
	_, _, err := r.SignSweep(r.ctx, sweepOf(t, l, l.PaymentAddr[:]))
	require.NoError(t, err)
	require.EqualValues(t, -l.FeeSat*1000, r.balance(swapFee))
	r.node.mine(110, false)
	r.reaches(p, "succeeded")
	r.node.mu.Lock()
	defer r.node.mu.Unlock()
	require.Len(t, r.node.published, 1, "no refund")
}

// What was quoted as a late publication is one for as long as the quote is firm.
func TestQuotesOutliveTheirDeadlines(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	later := 0
	for minutes := range 60 {
		deadline := time.Now().Add(time.Duration(minutes) * time.Minute)
		if !r.later(deadline, r.cfg.FirmFor) {
			continue
		}
		later++
		for passed := time.Duration(0); passed < r.cfg.FirmFor; passed += 30 * time.Second {
			require.True(t, r.later(deadline.Add(-passed), 0), "%d minutes, %s passed", minutes, passed)
		}
	}
	require.Greater(t, later, 30, "the half hour of stock clients is late")
}

// TestAHashOfAnotherService: what another service of the gateway, or a program beside it,
// has of a hash is no swap's.
func TestAHashOfAnotherService(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	wrapped, invoiced := ln.Preimage{1}, ln.Preimage{2}
	require.NoError(t, r.db.Write(r.ctx, func(ctx context.Context, tx *store.Tx) error {
		return payhash.Claim(ctx, tx, wrapped.Hash(), "wrap/of somebody")
	}))
	_, err := r.node.AddHoldInvoice(r.ctx, ln.HoldInvoiceRequest{Hash: invoiced.Hash(), AmountMsat: 1, Expiry: time.Hour})
	require.NoError(t, err)
	for _, p := range []ln.Preimage{wrapped, invoiced} {
		_, err := r.OfferOut(r.ctx, r.wish(p))
		require.ErrorIs(t, err, payhash.ErrTaken)
	}
	_, err = r.OfferOut(r.ctx, r.wish(ln.Preimage{3}))
	require.NoError(t, err)
}
