package engine_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/engine"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// pays is what lnd says of a payment of ours from now on.
func (f *fakeLnd) pays(hash ln.Hash, p ln.Payment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p.Hash = hash
	f.payments[hash] = p
}

// trackedAgain waits until lnd was asked about payments twice more: the second time after
// this call began, and after what the first answer led to.
func (f *fakeLnd) trackedAgain() {
	f.t.Helper()
	f.mu.Lock()
	from := f.tracked
	f.mu.Unlock()
	f.until("lnd is asked about payments again", func() bool { return f.tracked >= from+2 })
}

func TestWhatLndIsPayingIsNeitherFailedNorLeft(t *testing.T) {
	lnd := newFakeLnd(t)
	c := startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil)
	c.connected()
	key := lnd.add(1, jitSCID)
	row := c.waitEvent(interceptor.EventOffered, key).Row
	setPayment := func(p ln.Payment) { lnd.pays(row.Hash, p) }
	setPayment(ln.Payment{State: ln.PaymentInFlight, InFlight: 1})
	require.ErrorIs(t, c.engine.Decide(t.Context(), decide(key, interceptor.ActionFail)), interceptor.ErrPaying)
	require.ErrorIs(t, c.engine.Decide(t.Context(), decide(key, interceptor.ActionResume)), interceptor.ErrPaying)
	require.ErrorIs(t, c.engine.MarkNotPaying(t.Context(), []ln.CircuitKey{key}, ""), interceptor.ErrPaying)
	lnd.mineTo(row.FailHeight)
	lnd.until("still held past its deadline", func() bool { return lnd.held[key] })
	setPayment(ln.Payment{State: ln.PaymentSucceeded, Preimage: preimageOf(1<<10 | key.HtlcID)})
	lnd.mineTo(row.FailHeight + 1)
	lnd.until("settled by the interceptor", func() bool { return lnd.htlcs[key].settled })
	require.Equal(t, interceptor.OutcomeSettled, c.waitEvent(interceptor.EventGone, key).Row.Outcome)
}

// TestLimitsHoldForWhatLndIsPaying: whoever knows the hash of a payment of ours that is in
// flight cannot have more held than anybody else. What was held before is law 4's.
func TestLimitsHoldForWhatLndIsPaying(t *testing.T) {
	for _, restored := range []bool{false, true} {
		lnd := newFakeLnd(t)
		c := startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil, func(cfg *engine.Config) {
			cfg.MaxHeldPerChannel, cfg.DistrustRows = 1, restored
		})
		c.connected()
		hash := preimageOf(9).Hash()
		lnd.pays(hash, ln.Payment{State: ln.PaymentInFlight, InFlight: 1})
		held := lnd.addPart(1, jitSCID, hash)
		c.waitEvent(interceptor.EventOffered, held)
		over := lnd.addPart(1, jitSCID, hash)
		lnd.until("failed", func() bool { return !lnd.htlcs[over].pending })
		require.Equal(t, interceptor.StateFailed, c.waitEvent(interceptor.EventDecided, over).Row.State)
		require.ErrorIs(t, c.engine.Decide(t.Context(), decide(held, interceptor.ActionFail)), interceptor.ErrPaying)
		over = lnd.addPart(1, jitSCID, hash)
		lnd.until("failed again", func() bool { return !lnd.htlcs[over].pending })
		require.Equal(t, 1, c.engine.Status().HeldHtlcs)
	}
}

// TestWhatIsRefusedGoesBackOnceThatPaymentIsOver: an HTLC whose refusal met a payment of
// ours for its hash waits for the end of that payment, not for its own deadline, also
// across a restart. More of that hash do not join it.
func TestWhatIsRefusedGoesBackOnceThatPaymentIsOver(t *testing.T) {
	for name, c := range map[string]struct {
		over    func(ln.CircuitKey) ln.Payment
		restart bool
		want    interceptor.State
	}{
		"it failed":                  {over: func(ln.CircuitKey) ln.Payment { return ln.Payment{State: ln.PaymentFailed} }, want: interceptor.StateFailed},
		"it failed, after a restart": {over: func(ln.CircuitKey) ln.Payment { return ln.Payment{State: ln.PaymentFailed} }, restart: true, want: interceptor.StateFailed},
		"it succeeded": {over: func(key ln.CircuitKey) ln.Payment {
			return ln.Payment{State: ln.PaymentSucceeded, Preimage: preimageOf(1<<10 | key.HtlcID)}
		}, want: interceptor.StateSettled},
	} {
		t.Run(name, func(t *testing.T) {
			lnd := newFakeLnd(t)
			db := storetest.Open(t, storetest.SQLite(t))
			car := startCar(t, lnd, db, "a", nil)
			car.connected()
			key := lnd.add(1, jitSCID)
			hash := car.waitEvent(interceptor.EventOffered, key).Row.Hash
			lnd.pays(hash, ln.Payment{State: ln.PaymentInFlight, InFlight: 1})
			require.ErrorIs(t, car.engine.Decide(t.Context(), decide(key, interceptor.ActionFail)), interceptor.ErrPaying)
			more := lnd.addPart(1, jitSCID, hash)
			lnd.until("another is refused as it comes", func() bool { return !lnd.htlcs[more].pending })
			if c.restart {
				car.stop()
				car = startCar(t, lnd, db, "b", nil)
				car.connected()
			}
			lnd.mu.Lock()
			require.True(t, lnd.held[key])
			lnd.mu.Unlock()
			lnd.pays(hash, ln.Payment{State: ln.PaymentFailed, InFlight: 1})
			lnd.trackedAgain()
			lnd.mu.Lock()
			require.True(t, lnd.held[key], "a part of that payment is still on its way")
			lnd.mu.Unlock()
			// Somebody deleted lnd's history of payments, this one's too: nobody can say how it
			// ended.
			lnd.pays(hash, ln.Payment{State: ln.PaymentUnknown})
			lnd.trackedAgain()
			lnd.mu.Lock()
			require.True(t, lnd.held[key], "lnd knows nothing of it")
			lnd.mu.Unlock()
			lnd.pays(hash, c.over(key))
			lnd.until("it is over", func() bool { return !lnd.htlcs[key].pending })
			require.Equal(t, c.want, car.waitEvent(interceptor.EventDecided, key).Row.State)
		})
	}
}

// TestWhatAHandlerPaysIsTheHandlers: a handler whose payment failed may send another, so
// that only it says when the HTLC is held again.
func TestWhatAHandlerPaysIsTheHandlers(t *testing.T) {
	lnd := newFakeLnd(t)
	c := startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil)
	c.connected()
	key, other := lnd.add(1, jitSCID), lnd.add(1, jitSCID)
	hash := c.waitEvent(interceptor.EventOffered, key).Row.Hash
	require.NoError(t, c.engine.MarkPaying(t.Context(), []ln.CircuitKey{key}, "about to pay"))
	lnd.pays(hash, ln.Payment{State: ln.PaymentFailed})
	require.ErrorIs(t, c.engine.Decide(t.Context(), decide(key, interceptor.ActionFail)), interceptor.ErrPaying)

	// One that was adopted before is a handler's once it says so.
	adopted := c.waitEvent(interceptor.EventOffered, other).Row.Hash
	lnd.pays(adopted, ln.Payment{State: ln.PaymentInFlight, InFlight: 1})
	require.ErrorIs(t, c.engine.Decide(t.Context(), decide(other, interceptor.ActionFail)), interceptor.ErrPaying)
	require.NoError(t, c.engine.MarkPaying(t.Context(), []ln.CircuitKey{other}, "about to pay"))
	lnd.pays(adopted, ln.Payment{State: ln.PaymentFailed})

	third := lnd.add(1, jitSCID)
	hash = c.waitEvent(interceptor.EventOffered, third).Row.Hash
	lnd.pays(hash, ln.Payment{State: ln.PaymentInFlight, InFlight: 1})
	require.ErrorIs(t, c.engine.Decide(t.Context(), decide(third, interceptor.ActionFail)), interceptor.ErrPaying)
	lnd.pays(hash, ln.Payment{State: ln.PaymentFailed})
	lnd.until("one that nobody pays goes back", func() bool { return !lnd.htlcs[third].pending })
	lnd.mu.Lock()
	require.True(t, lnd.held[key] && lnd.held[other])
	lnd.mu.Unlock()
	require.NoError(t, c.engine.MarkNotPaying(t.Context(), []ln.CircuitKey{key, other}, "it failed"))
	require.NoError(t, c.engine.Decide(t.Context(), decide(key, interceptor.ActionFail)))
}
