package engine

import (
	"bytes"
	"context"
	"errors"
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
