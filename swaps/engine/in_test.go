package engine

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/in"
)

func secretKey(n byte) ([32]byte, ln.PubKey) {
	private := [32]byte{31: n}
	_, pub := btcec.PrivKeyFromBytes(private[:])
	return private, ln.PubKey(pub.SerializeCompressed())
}

// wishIn is an honest client's wish; its wallet gives probes back and takes
// payments.
func (r *rig) wishIn(p ln.Preimage, amount ln.Sat) InWish {
	r.t.Helper()
	hash := p.Hash()
	fee, err := r.QuoteIn(r.ctx, amount)
	require.NoError(r.t, err)
	msat, err := (amount - fee).Msat()
	require.NoError(r.t, err)
	_, sender := secretKey(21)
	_, internal := secretKey(22)
	r.node.change(func() {
		for text, h := range map[string]ln.Hash{"swap" + hash.Short(): hash, "probe" + hash.Short(): ProbeHash(hash)} {
			r.node.foreign[text] = ln.Bolt11{Hash: h, AmountMsat: msat, CreatedAt: time.Now(), Expiry: time.Hour, FinalCltvDelta: 80, Payee: ln.PubKey{2, 5}}
		}
		r.node.outcome = func(ip ln.InvoicePayment, h ln.Hash) (ln.Payment, error) {
			if h == ProbeHash(hash) {
				return ln.Payment{Hash: h, State: ln.PaymentFailed, Failure: declined}, nil
			}
			return ln.Payment{Hash: h, State: ln.PaymentSucceeded, Preimage: p, ValueMsat: msat, FeeMsat: 7_000}, nil
		}
	})
	return InWish{Hash: hash, Sender: sender, SenderInternal: internal, AmountSat: amount, SwapInvoice: "swap" + hash.Short(), Probe: "probe" + hash.Short()}
}

// lock has the client's output confirm in the next block.
func (r *rig) lock(p ln.Preimage, values ...int64) *wire.MsgTx {
	r.t.Helper()
	contract, err := htlc.New(in.PlanOf(r.inState(p)).Terms)
	require.NoError(r.t, err)
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Index: uint32(p[0])}, nil, nil))
	for _, v := range values {
		tx.AddTxOut(wire.NewTxOut(v, contract.PkScript))
	}
	var raw bytes.Buffer
	require.NoError(r.t, tx.Serialize(&raw))
	r.node.change(func() {
		r.node.outputs[string(contract.PkScript)] = ln.ConfEvent{Height: r.node.height + 1, RawTx: raw.Bytes()}
	})
	r.node.mine(1, false)
	return tx
}

func (r *rig) inState(p ln.Preimage) in.State {
	r.t.Helper()
	inst, err := r.ins.Get(r.ctx, p.Hash().String())
	require.NoError(r.t, err)
	return inst.State
}

func (r *rig) inReaches(p ln.Preimage, enough func(in.State) bool) in.State {
	r.t.Helper()
	s, err := await(r.ctx, r.ins, p.Hash().String(), enough)
	require.NoError(r.t, err)
	return s
}

func named(name string) func(in.State) bool {
	return func(s in.State) bool { return s.StateName() == name }
}

func located(s in.State) bool { return in.OutputOf(s).ConfirmedHeight > 0 || in.Final(s) }

func TestSwapIn(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		r := newRig(t, cfg)
		p := ln.Preimage{1}
		const amount = 500_000
		w := r.wishIn(p, amount)
		offer, err := r.OfferIn(r.ctx, w)
		require.NoError(t, err)
		require.NotEqual(t, offer.Receiver, offer.ReceiverInternal)
		require.Equal(t, 1, r.node.sent, "the probe")
		_, err = r.OfferIn(r.ctx, w)
		require.ErrorIs(t, err, errkind.Conflict, "a hash is good for one swap")
		_, err = r.OfferOut(r.ctx, r.wish(p))
		require.ErrorIs(t, err, errkind.Conflict, "in either direction")

		r.lock(p, amount)
		r.inReaches(p, located)
		require.Equal(t, 1, r.node.sent, "one confirmation is not enough")
		// sluiced is away for the block that it waits for: what a reorg may have
		// undone is looked up anew, and no other block is waited for.
		r.stop()
		r.node.change(func() { r.node.height++ })
		r.start()
		r.inReaches(p, named("paid"))
		require.Equal(t, 2, r.node.sent)

		wrong, _ := secretKey(23)
		require.ErrorIs(t, r.PushKey(r.ctx, p.Hash(), wrong), errkind.Invalid)
		key, _ := secretKey(22)
		require.NoError(t, r.PushKey(r.ctx, p.Hash(), key))
		s := r.inReaches(p, named("claiming")).(in.Claiming)
		claim := &wire.MsgTx{}
		require.NoError(t, claim.Deserialize(bytes.NewReader(s.Raw)))
		require.Len(t, claim.TxIn[0].Witness, 1, "a key spend")
		require.Eventually(t, func() bool { r.node.mu.Lock(); defer r.node.mu.Unlock(); return len(r.node.published) == 1 }, 20*time.Second, time.Millisecond)
		r.node.mine(1, true)
		r.inReaches(p, func(s in.State) bool { c, ok := s.(in.Claiming); return ok && c.Spent == htlc.SpendKey })
		r.node.mine(5, false)
		r.inReaches(p, named("claimed"))

		fee := int64(w.AmountSat)*1000 - int64(r.node.foreign[w.SwapInvoice].AmountMsat)
		require.EqualValues(t, -fee, r.balance(swapFee))
		require.EqualValues(t, 7_000, r.balance(routingFee))
		require.EqualValues(t, int64(s.ClaimFeeSat)*1000, r.balance(chainFee))
		require.EqualValues(t, claim.TxOut[0].Value*1000, r.balance(outside))
	})
}

// A client that keeps its key: the success leaf serves.
func TestClaimWithoutTheClientsKey(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	r.stop()
	p := ln.Preimage{1}
	r.keyFor = 50 * time.Millisecond
	r.start()
	_, err := r.OfferIn(r.ctx, r.wishIn(p, 500_000))
	require.NoError(t, err)
	r.lock(p, 500_000)
	r.inReaches(p, located)
	r.node.mine(1, false)
	s := r.inReaches(p, named("claiming")).(in.Claiming)
	claim := &wire.MsgTx{}
	require.NoError(t, claim.Deserialize(bytes.NewReader(s.Raw)))
	require.Len(t, claim.TxIn[0].Witness, 4)
	require.Equal(t, p.Bytes(), claim.TxIn[0].Witness[0])
}

func TestOutputsThatAreNotPaidFor(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	for i, values := range [][]int64{{499_999}, {500_001}, {500_000, 500_000}} {
		p := ln.Preimage{byte(i + 1)}
		_, err := r.OfferIn(r.ctx, r.wishIn(p, 500_000))
		require.NoError(t, err)
		sent := r.node.sent
		r.lock(p, values...)
		r.inReaches(p, named("failed"))
		r.node.mine(10, false)
		require.Equal(t, sent, r.node.sent, "%v", values)
	}
}

func TestSwapsInThatAreRefused(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	for name, change := range map[string]func(*InWish){
		"another hash":     func(w *InWish) { w.Hash = ln.Preimage{99}.Hash() },
		"a probe to keep":  func(w *InWish) { w.Probe = w.SwapInvoice },
		"more than quoted": func(w *InWish) { r.node.foreign[w.SwapInvoice] = dearer(r.node.foreign[w.SwapInvoice]) },
		"a dearer probe":   func(w *InWish) { r.node.foreign[w.Probe] = dearer(r.node.foreign[w.Probe]) },
		"no invoice":       func(w *InWish) { w.SwapInvoice = "nothing" },
		"locked too long":  func(w *InWish) { b := r.node.foreign[w.Probe]; b.FinalCltvDelta = 201; r.node.foreign[w.Probe] = b },
		"too small":        func(w *InWish) { w.AmountSat = 249_999 },
		"no internal key":  func(w *InWish) { w.SenderInternal = ln.PubKey{2, 32: 5} },
		"the gateway's own": func(w *InWish) {
			b := r.node.foreign[w.SwapInvoice]
			b.Payee = r.cfg.Self
			r.node.foreign[w.SwapInvoice] = b
		},
	} {
		w := r.wishIn(ln.Preimage{1}, 500_000)
		change(&w)
		_, err := r.OfferIn(r.ctx, w)
		require.ErrorIs(t, err, errkind.Invalid, name)
	}
	require.Zero(t, r.node.sent, "nothing was paid for any of them")
	// An invoice of ours, or a payment of ours, has the hash.
	w := r.wishIn(ln.Preimage{1}, 500_000)
	_, err := r.node.AddHoldInvoice(r.ctx, ln.HoldInvoiceRequest{Hash: w.Hash})
	require.NoError(t, err)
	_, err = r.OfferIn(r.ctx, w)
	require.ErrorIs(t, err, errkind.Conflict)
	// A wallet that cannot be reached.
	w = r.wishIn(ln.Preimage{2}, 500_000)
	r.node.change(func() {
		r.node.outcome = func(_ ln.InvoicePayment, h ln.Hash) (ln.Payment, error) {
			return ln.Payment{Hash: h, State: ln.PaymentFailed, Failure: "FAILURE_REASON_NO_ROUTE"}, nil
		}
	})
	_, err = r.OfferIn(r.ctx, w)
	require.ErrorIs(t, err, errkind.Unavailable)
	require.Contains(t, errkind.Sentence(err), "NO_ROUTE")
}

func dearer(b ln.Bolt11) ln.Bolt11 { b.AmountMsat++; return b }

// What a short reorg could take is capped over all swaps.
func TestExposureIsCapped(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	for i := range 2 {
		_, err := r.OfferIn(r.ctx, r.wishIn(ln.Preimage{byte(i + 1)}, 3_000_000))
		require.NoError(t, err)
	}
	outcome := func(p ln.InvoicePayment, h ln.Hash) (ln.Payment, error) {
		for i := range 2 {
			if secret := (ln.Preimage{byte(i + 1)}); secret.Hash() == h {
				return ln.Payment{Hash: h, State: ln.PaymentSucceeded, Preimage: secret}, nil
			}
		}
		return ln.Payment{}, errors.New("unknown")
	}
	r.node.change(func() { r.node.outcome = outcome })
	require.EqualValues(t, 6, in.PlanOf(r.inState(ln.Preimage{1})).Confs, "large amounts wait for all of them")

	// Smaller ones: both have their three confirmations, together they exceed the cap.
	for i := range 3 {
		p := ln.Preimage{byte(i + 11)}
		_, err := r.OfferIn(r.ctx, r.wishIn(p, 1_000_000))
		require.NoError(t, err)
	}
	r.node.change(func() {
		r.node.outcome = func(_ ln.InvoicePayment, h ln.Hash) (ln.Payment, error) {
			for i := range 3 {
				if secret := (ln.Preimage{byte(i + 11)}); secret.Hash() == h {
					return ln.Payment{Hash: h, State: ln.PaymentSucceeded, Preimage: secret}, nil
				}
			}
			return ln.Payment{}, errors.New("unknown")
		}
	})
	r.stop()
	r.maxExposed = 2_500_000
	r.start()
	for i := range 3 {
		r.lock(ln.Preimage{byte(i + 11)}, 1_000_000)
		r.inReaches(ln.Preimage{byte(i + 11)}, located)
	}
	r.node.mine(2, false)
	paid := func() (n int) {
		for i := range 3 {
			switch r.inState(ln.Preimage{byte(i + 11)}).(type) {
			case in.Paid, in.Claiming:
				n++
			}
		}
		return n
	}
	require.Eventually(t, func() bool { return paid() == 2 }, 20*time.Second, 5*time.Millisecond)
	require.Equal(t, "waiting", r.inState(ln.Preimage{13}).StateName())
	r.node.mine(3, false)
	require.Eventually(t, func() bool { return paid() == 3 }, 20*time.Second, 5*time.Millisecond, "the others are deep now, or it is itself")
}

// lnd is cut off while it pays: nobody pays again, and its word decides.
func TestAPaymentThatNobodyKnowsOf(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	p := ln.Preimage{1}
	_, err := r.OfferIn(r.ctx, r.wishIn(p, 500_000))
	require.NoError(t, err)
	r.node.change(func() {
		r.node.outcome = func(_ ln.InvoicePayment, h ln.Hash) (ln.Payment, error) {
			return ln.Payment{Hash: h, State: ln.PaymentInFlight}, context.DeadlineExceeded
		}
	})
	r.lock(p, 500_000)
	r.inReaches(p, located)
	r.node.mine(1, false)
	require.Eventually(t, func() bool { r.node.mu.Lock(); defer r.node.mu.Unlock(); return r.node.sent == 2 }, 20*time.Second, time.Millisecond)
	r.stop()
	r.start()
	r.node.mine(3, false)
	require.Equal(t, "paying", r.inState(p).StateName())
	r.node.change(func() {
		r.node.payments[p.Hash()] = ln.Payment{Hash: p.Hash(), State: ln.PaymentSucceeded, Preimage: p}
	})
	r.inReaches(p, func(s in.State) bool { _, paid := s.(in.Paid); return paid })
	require.Equal(t, 2, r.node.sent)
}

// A payment that was handed to lnd, and that lnd does not know at once: it may know it a
// moment later.
func TestAPaymentThatLndKnowsLater(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	r.unknownFor = 20 * time.Second
	p := ln.Preimage{1}
	_, err := r.OfferIn(r.ctx, r.wishIn(p, 500_000))
	require.NoError(t, err)
	asked := make(chan struct{})
	r.node.change(func() {
		r.node.outcome = func(_ ln.InvoicePayment, h ln.Hash) (ln.Payment, error) {
			close(asked)
			return ln.Payment{Hash: h, State: ln.PaymentUnknown}, context.DeadlineExceeded
		}
	})
	r.lock(p, 500_000)
	r.inReaches(p, located)
	r.node.mine(1, false)
	<-asked
	r.node.mine(3, false)
	require.Equal(t, "paying", r.inState(p).StateName())
	r.node.change(func() {
		r.node.payments[p.Hash()] = ln.Payment{Hash: p.Hash(), State: ln.PaymentSucceeded, Preimage: p}
	})
	// The next look finds it, here after a restart.
	r.stop()
	r.start()
	r.inReaches(p, func(s in.State) bool { _, paid := s.(in.Paid); return paid })
	require.Equal(t, 2, r.sentSoFar())
}

// lnd died between the record of an attempt and its commitment, and calls it in flight
// for ever: the swap ends once that is proved, and not before.
func TestAPaymentThatLndLost(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	p := ln.Preimage{1}
	hash := p.Hash()
	_, err := r.OfferIn(r.ctx, r.wishIn(p, 500_000))
	require.NoError(t, err)
	open := []ln.PaymentAttempt{{ChanID: 1, ExpiryHeight: 600}, {ChanID: 2, ExpiryHeight: 610}}
	r.node.change(func() {
		r.node.outcome = func(_ ln.InvoicePayment, h ln.Hash) (ln.Payment, error) {
			return ln.Payment{Hash: h, State: ln.PaymentInFlight, Open: open}, context.DeadlineExceeded
		}
	})
	r.lock(p, 500_000)
	r.inReaches(p, located)
	r.node.mine(1, false)
	r.inReaches(p, named("paying"))
	plan := in.PlanOf(r.inState(p))
	look := func() bool {
		events, err := r.lookForPayment(r.ctx, plan.ID(), hash)
		require.NoError(t, err)
		return len(events) == 1
	}
	require.Eventually(t, func() bool { r.node.mu.Lock(); defer r.node.mu.Unlock(); return len(r.node.payments[hash].Open) == 2 }, 20*time.Second, time.Millisecond)
	for name, c := range map[string]struct {
		height uint32
		change func(*ln.Payment)
		htlcs  []ln.ChannelHtlc
		lost   bool
	}{
		"lost":                      {630, nil, nil, true},
		"it may still live":         {629, nil, nil, false},
		"it is in the channel":      {630, nil, []ln.ChannelHtlc{{Hash: hash}}, false},
		"another's HTLC":            {630, nil, []ln.ChannelHtlc{{Hash: ln.Hash{9}}, {Hash: hash, Incoming: true}}, true},
		"a channel on its way down": {630, func(p *ln.Payment) { p.Open = []ln.PaymentAttempt{{ChanID: 3, ExpiryHeight: 600}} }, nil, false},
		"no attempts yet":           {630, func(p *ln.Payment) { p.Open = nil }, nil, false},
		"lnd knows":                 {630, func(p *ln.Payment) { p.State = ln.PaymentFailed }, nil, false},
	} {
		var before ln.Payment
		r.node.mu.Lock()
		before = r.node.payments[hash]
		changed := before
		if c.change != nil {
			c.change(&changed)
		}
		height := r.node.height
		r.node.payments[hash], r.node.height, r.node.htlcs = changed, c.height, c.htlcs
		r.node.mu.Unlock()
		require.Equal(t, c.lost, look(), name)
		r.node.mu.Lock()
		r.node.payments[hash], r.node.height, r.node.htlcs = before, height, nil
		r.node.mu.Unlock()
	}
	require.Equal(t, "paying", r.inState(p).StateName())
	// The machine asks when the time has come.
	r.node.change(func() { r.node.height = plan.Terms.ExpiryHeight - plan.PayMarginBlocks + in.MissingAfterBlocks - 1 })
	r.node.mine(1, false)
	require.Equal(t, swaps.ReasonPayment, in.ReasonOf(r.inReaches(p, in.Final)).Code)
	require.Equal(t, 2, r.sentSoFar(), "the probe and the one payment")
}

// Between the decision to pay and the payment a reorg takes the output: nothing
// is paid until it is back, as deep as it was.
func TestAReorgBeforeThePayment(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	p := ln.Preimage{1}
	_, err := r.OfferIn(r.ctx, r.wishIn(p, 500_000))
	require.NoError(t, err)
	r.node.change(func() { r.node.away = true })
	r.lock(p, 500_000)
	r.inReaches(p, located)
	r.node.mine(1, false)
	r.inReaches(p, named("paying"))
	contract, err := htlc.New(in.PlanOf(r.inState(p)).Terms)
	require.NoError(t, err)
	var output ln.ConfEvent
	r.node.change(func() {
		output = r.node.outputs[string(contract.PkScript)]
		delete(r.node.outputs, string(contract.PkScript))
		r.node.away = false
	})
	r.inReaches(p, func(s in.State) bool { return in.OutputOf(s).ConfirmedHeight == 0 })
	sent := func() int { r.node.mu.Lock(); defer r.node.mu.Unlock(); return r.node.sent }
	// Another process finds the same.
	r.stop()
	r.start()
	r.node.mine(1, false)
	r.node.change(func() {
		output.Height = r.node.height
		r.node.outputs[string(contract.PkScript)] = output
	})
	r.inReaches(p, located)
	require.Equal(t, "paying", r.inState(p).StateName(), "one confirmation is not two")
	require.Equal(t, 1, sent(), "the probe alone")
	r.node.mine(1, false)
	r.inReaches(p, named("paid"))
	require.Equal(t, 2, sent())
}

// A reorg takes a deposit that was paid for, and the client's replacement of it confirms
// instead: that is claimed, and each sat is in the books.
func TestADepositThatIsReplaced(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	p := ln.Preimage{1}
	const amount = 500_000
	_, err := r.OfferIn(r.ctx, r.wishIn(p, amount))
	require.NoError(t, err)
	r.lock(p, amount)
	r.inReaches(p, located)
	r.node.mine(1, false)
	r.inReaches(p, named("paid"))
	key, _ := secretKey(22)
	require.NoError(t, r.PushKey(r.ctx, p.Hash(), key))
	first := r.inReaches(p, named("claiming")).(in.Claiming)
	contract, err := htlc.New(in.PlanOf(first).Terms)
	require.NoError(t, err)
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Index: 99}, nil, nil))
	tx.AddTxOut(wire.NewTxOut(7_000, []byte{0x51}))
	tx.AddTxOut(wire.NewTxOut(amount, contract.PkScript))
	var raw bytes.Buffer
	require.NoError(t, tx.Serialize(&raw))
	r.node.change(func() {
		delete(r.node.outputs, string(contract.PkScript))
	})
	r.inReaches(p, func(s in.State) bool { return in.OutputOf(s).ConfirmedHeight == 0 })
	o, err := r.Overview(r.ctx)
	require.NoError(t, err)
	require.Equal(t, 1, o.Troubled)
	require.EqualValues(t, amount, o.ExposedSat)
	r.node.change(func() {
		r.node.outputs[string(contract.PkScript)] = ln.ConfEvent{Height: r.node.height, RawTx: raw.Bytes()}
	})
	r.inReaches(p, func(s in.State) bool { return in.OutputOf(s).OtherHeight > 0 })
	r.node.mine(6, false)
	want := ln.Outpoint{TxID: ln.TxID(tx.TxHash()), Index: 1}
	second := r.inReaches(p, func(s in.State) bool { return s.StateName() == "claiming" && in.OutputOf(s).Outpoint == want }).(in.Claiming)
	require.NotEqual(t, first.TxID, second.TxID)
	// A restart in between changes nothing.
	r.stop()
	r.start()
	r.inReaches(p, located)
	r.sees("the claim", func() bool { r.node.mu.Lock(); defer r.node.mu.Unlock(); return len(r.node.published) >= 2 })
	claim := &wire.MsgTx{}
	require.NoError(t, claim.Deserialize(bytes.NewReader(second.Raw)))
	r.node.change(func() {
		r.node.height++
		r.node.confirmed[second.TxID] = r.node.height
		r.node.spend(claim)
	})
	r.inReaches(p, func(s in.State) bool { c, ok := s.(in.Claiming); return ok && c.Spent == htlc.SpendKey })
	r.node.mine(5, false)
	r.inReaches(p, named("claimed"))
	require.EqualValues(t, claim.TxOut[0].Value*1000, r.balance(outside))
	require.EqualValues(t, (amount-claim.TxOut[0].Value)*1000, r.balance(chainFee))
	r.sees("what can never confirm to be forgotten", func() bool {
		r.node.mu.Lock()
		defer r.node.mu.Unlock()
		return slices.Contains(r.node.forgot, first.TxID)
	})
}

// Clients that hold probes lock what they hold, and no more than they may.
func TestClientsThatHoldTheirProbes(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	r.stop()
	r.probeFor = 80 * time.Millisecond
	r.start()
	wishes := map[byte]InWish{}
	for n := range byte(31) {
		wishes[n] = r.wishIn(ln.Preimage{n}, 250_000)
	}
	r.node.change(func() {
		r.node.outcome = func(_ ln.InvoicePayment, h ln.Hash) (ln.Payment, error) {
			return ln.Payment{Hash: h, State: ln.PaymentInFlight}, nil
		}
	})
	hold := func(n byte, caller string) error {
		w := wishes[n]
		w.Caller = caller
		_, err := r.OfferIn(r.ctx, w)
		return err
	}
	for n := range byte(3) {
		err := hold(n+1, "a")
		require.ErrorIs(t, err, errkind.Unavailable)
		require.Contains(t, errkind.Sentence(err), "probe")
		require.Equal(t, "probe_held", r.inState(ln.Preimage{n + 1}).StateName())
	}
	require.ErrorIs(t, hold(4, "a"), errkind.Exhausted, "one client's")
	for n := range byte(5) {
		require.ErrorIs(t, hold(n+10, "b"+string(rune('0'+n))), errkind.Unavailable)
		require.Equal(t, "probe_held", r.inState(ln.Preimage{n + 10}).StateName())
	}
	require.ErrorIs(t, hold(20, "c"), errkind.Exhausted, "all clients'")
	sent := r.sentSoFar()
	// A restart forgets none of them, and sends none again.
	r.stop()
	r.start()
	_, err := r.QuoteIn(r.ctx, 250_000)
	require.ErrorIs(t, err, errkind.Exhausted)
	r.node.change(func() {
		for n := range byte(3) {
			h := ProbeHash(ln.Preimage{n + 1}.Hash())
			r.node.payments[h] = ln.Payment{Hash: h, State: ln.PaymentFailed, Failure: declined}
		}
	})
	for n := range byte(3) {
		s := r.inReaches(ln.Preimage{n + 1}, in.Final)
		require.Equal(t, swaps.ReasonProbe, in.ReasonOf(s).Code, "it was given up long ago")
	}
	require.Equal(t, sent, r.sentSoFar())
	require.ErrorIs(t, hold(30, "a"), errkind.Unavailable, "there are places again")
}

// A probe whose call was cut off, and that lnd records a moment later, is held: the client
// keeps its place.
func TestAProbeThatLndKnowsLater(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	r.stop()
	r.probeFor = 80 * time.Millisecond
	r.start()
	r.unknownFor = time.Millisecond
	p := ln.Preimage{1}
	hash := ProbeHash(p.Hash())
	wish := r.wishIn(p, 250_000)
	r.node.change(func() {
		r.node.late = map[ln.Hash]ln.Payment{hash: {Hash: hash, State: ln.PaymentInFlight}}
		r.node.outcome = func(_ ln.InvoicePayment, h ln.Hash) (ln.Payment, error) {
			return ln.Payment{Hash: h, State: ln.PaymentUnknown}, context.DeadlineExceeded
		}
	})
	_, err := r.OfferIn(r.ctx, wish)
	require.ErrorIs(t, err, errkind.Unavailable)
	require.Equal(t, "probe_held", r.inState(p).StateName())
}

// wishAgain has the wallet give every probe back.
func (r *rig) wishAgain(p ln.Preimage) {
	r.node.change(func() {
		r.node.outcome = func(_ ln.InvoicePayment, h ln.Hash) (ln.Payment, error) {
			if h == ProbeHash(p.Hash()) {
				return ln.Payment{Hash: h, State: ln.PaymentFailed, Failure: declined}, nil
			}
			return ln.Payment{}, errors.New("unknown")
		}
	})
}

// Who does not deposit keeps room from nobody for long.
func TestRoomThatLapses(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	two, one := r.wishIn(ln.Preimage{2}, 6_000_000), r.wishIn(ln.Preimage{1}, 6_000_000)
	_, err := r.OfferIn(r.ctx, one)
	require.NoError(t, err)
	r.wishAgain(ln.Preimage{2})
	_, err = r.OfferIn(r.ctx, two)
	require.ErrorIs(t, err, errkind.Exhausted, "there is room for one")
	r.node.mine(int(r.cfg.In.ReserveBlocks)+1, false)
	r.sees("the height", func() bool { return r.moment().Height >= 500+r.cfg.In.ReserveBlocks+1 })
	_, err = r.OfferIn(r.ctx, two)
	require.NoError(t, err)
	_, _, err = r.InTerms(r.ctx)
	require.NoError(t, err, "what is left is room for small ones")
	_, err = r.QuoteIn(r.ctx, 6_000_000)
	require.ErrorIs(t, err, errkind.Invalid)
}
