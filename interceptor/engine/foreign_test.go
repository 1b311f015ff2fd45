package engine_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/engine"
	icstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// otherClient has another client take lnd's stream and do something with it.
func (f *fakeLnd) otherClient(does func()) {
	f.t.Helper()
	f.taken()
	f.until("lnd refuses our stream", func() bool { return f.refused > 0 })
	f.mu.Lock()
	does()
	f.bump()
	f.mu.Unlock()
	f.left()
}

// resumedByOther is lnd after a RESUME that was not ours (under mu). unseen: the forward
// waits in a mailbox, and the payer's link flaps meanwhile.
func (f *fakeLnd) resumedByOther(key ln.CircuitKey, unseen bool) {
	f.htlcs[key].moved = true
	f.held[key] = unseen
	if unseen {
		f.htlcs[key].unseen = 1 << 20
	}
}

// failsAll is a handler that refuses everything.
func failsAll(c *car, r interceptor.Row) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = c.retry(ctx, func() error { return c.engine.Decide(ctx, decide(r.Key, interceptor.ActionFail)) })
	}()
}

// TestAnotherClientMeanwhile: lnd came back, and somebody else's program was quicker. What
// it may have resumed is only resumed. The fake tells of the loss.
func TestAnotherClientMeanwhile(t *testing.T) {
	faults := new(storetest.Faults)
	cfg := storetest.SQLite(t)
	cfg.Hooks, cfg.RetryFor = faults.Hooks(), time.Millisecond
	lnd := newFakeLnd(t)
	db := storetest.Open(t, cfg)
	c := startCar(t, lnd, db, "a", failsAll)
	c.connected()
	before := lnd.add(1, jitSCID)
	lnd.until("what comes is refused", func() bool { return !lnd.htlcs[before].pending })

	// One that we never saw.
	key := ln.CircuitKey{ChanID: 1, HtlcID: 1}
	lnd.otherClient(func() {
		lnd.next[1]++
		offer := lnd.htlcs[before].offer
		offer.Key, offer.Hash = key, preimageOf(1<<10|key.HtlcID).Hash()
		lnd.htlcs[key] = &fakeHtlc{offer: offer, pending: true}
		lnd.order = append(lnd.order, key)
		lnd.resumedByOther(key, true)
	})
	lnd.until("it is answered", func() bool { return !lnd.held[key] })
	require.Eventually(t, func() bool {
		_, routes, err := icstore.New(db, leaseName).Handlers(t.Context())
		return err == nil && !routes["jit"][0].Guarded
	}, 20*time.Second, time.Millisecond, "guards end, also for the next process")

	// One whose row was on its way to the database.
	faults.Set(storetest.Gone)
	key = lnd.add(2, jitSCID)
	require.Eventually(t, func() bool { return c.engine.Status().Unrecorded == 1 }, 20*time.Second, time.Millisecond)
	lnd.otherClient(func() { lnd.resumedByOther(key, true) })
	faults.Set(storetest.Healthy)
	lnd.until("it is answered", func() bool { return !lnd.held[key] })
	require.Equal(t, interceptor.StateResumed, c.waitEvent(interceptor.EventDecided, key).Row.State)
}

// TestWhatLndForwardedAllTheSame: lnd shows that it has forwarded what a row says is held,
// or is being paid for. It is never failed, not even when it is offered once more in a
// moment in which lnd shows nothing.
func TestWhatLndForwardedAllTheSame(t *testing.T) {
	inFlight, failed := ln.Payment{State: ln.PaymentInFlight, InFlight: 1}, ln.Payment{State: ln.PaymentFailed}
	for name, s := range map[string]struct {
		before, after func(c *car, r interceptor.Row) error
		want          error
	}{
		"held": {},
		"its handler pays": {
			before: func(c *car, r interceptor.Row) error {
				return c.engine.MarkPaying(c.t.Context(), []ln.CircuitKey{r.Key}, "about to pay")
			},
			after: func(c *car, r interceptor.Row) error {
				if err := c.engine.MarkNotPaying(c.t.Context(), []ln.CircuitKey{r.Key}, "it failed"); err != nil {
					return err
				}
				return c.engine.Decide(c.t.Context(), decide(r.Key, interceptor.ActionFail))
			},
		},
		"it was refused while lnd paid its hash": {
			before: func(c *car, r interceptor.Row) error {
				c.lnd.pays(r.Hash, inFlight)
				return c.engine.Decide(c.t.Context(), decide(r.Key, interceptor.ActionFail))
			},
			want: interceptor.ErrPaying,
			after: func(c *car, r interceptor.Row) error {
				c.lnd.pays(r.Hash, failed)
				return nil
			},
		},
	} {
		for _, offered := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				lnd := newFakeLnd(t)
				c := startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil)
				c.connected()
				key := lnd.add(1, jitSCID)
				row := c.waitEvent(interceptor.EventOffered, key).Row
				if s.before != nil {
					require.ErrorIs(t, s.before(c, row), s.want)
				}
				lnd.otherClient(func() {
					lnd.resumedByOther(key, false)
					lnd.held[key] = offered
				})
				lnd.until("lnd shows the forward", func() bool { return lnd.htlcs[key].shown })
				lnd.listedAgain()
				if s.after != nil {
					require.NoError(t, s.after(c, row))
				}
				require.Equal(t, interceptor.StateResumed, c.waitEvent(interceptor.EventDecided, key).Row.State)
				require.ErrorIs(t, c.engine.Decide(t.Context(), decide(key, interceptor.ActionFail)), interceptor.ErrDecided)
				lnd.mu.Lock()
				lnd.htlcs[key].unseen = 1 << 20
				lnd.mu.Unlock()
				lnd.flap(1, func() bool { return false })
				lnd.listedAgain()
				lnd.endUnheard(key, true)
				lnd.until("it is over", func() bool { return !lnd.held[key] })
			})
		}
	}
}

// asksAll has programs of others asked about every forward.
type asksAll struct{}

func (asksAll) Screen(interceptor.Offer) bool { return true }
func (asksAll) Again(interceptor.Offer)       {}
func (asksAll) Over(ln.CircuitKey)            {}

// TestWhatProgramsWereAskedAboutMeanwhile: their answer comes too late once another client
// may have resumed it.
func TestWhatProgramsWereAskedAboutMeanwhile(t *testing.T) {
	lnd := newFakeLnd(t)
	c := startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil, func(cfg *engine.Config) { cfg.Screener = asksAll{} })
	c.connected()
	key := lnd.add(1, plainSCID)
	require.Eventually(t, func() bool { return c.engine.Status().Asked == 1 }, 20*time.Second, time.Millisecond)
	lnd.taken()
	require.Eventually(t, func() bool { return c.engine.Status().Asked == 0 }, 20*time.Second, time.Millisecond)
	lnd.mu.Lock()
	lnd.resumedByOther(key, true)
	lnd.mu.Unlock()
	lnd.left()
	require.ErrorIs(t, c.engine.Rule(key, interceptor.Ruling{Action: interceptor.ActionFail}), interceptor.ErrUnknownRow)
	lnd.until("it is only resumed", func() bool { return !lnd.held[key] })
}
