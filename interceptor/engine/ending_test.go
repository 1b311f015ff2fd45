package engine_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/engine"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// ends is lnd's signature under the end of an HTLC: it has forgotten its circuit, and
// lists it until the payer signs as well.
func (f *fakeLnd) ends(key ln.CircuitKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.htlcs[key].ending = true
	f.bump()
}

// signs is the payer's signature.
func (f *fakeLnd) signs(key ln.CircuitKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.htlcs[key].pending, f.away = false, 0
	f.bump()
}

// stays fails unless lnd still waits for an answer after many listings.
func (f *fakeLnd) stays(key ln.CircuitKey) {
	f.t.Helper()
	for range 5 {
		f.listedAgain()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	require.True(f.t, f.held[key], "it was answered before its end was known")
}

// forwarded is a car that has resumed an HTLC, of a handler or not.
func forwarded(t *testing.T, lnd *fakeLnd, scid ln.SCID, options ...carOption) (*car, ln.CircuitKey, func(...carOption) *car) {
	t.Helper()
	db := storetest.Open(t, storetest.SQLite(t))
	c := startCar(t, lnd, db, "a", nil, options...)
	c.connected()
	key := lnd.add(1, scid)
	if scid == jitSCID {
		c.waitEvent(interceptor.EventOffered, key)
		require.NoError(t, c.engine.Decide(t.Context(), decide(key, interceptor.ActionResume)))
	}
	lnd.until("it is resumed", func() bool { return lnd.htlcs[key].moved })
	return c, key, func(options ...carOption) *car {
		c.stop()
		next := startCar(t, lnd, db, "a", nil, options...)
		next.connected()
		return next
	}
}

// TestWhatIsEndingIsNotResumed: lnd signs the end of an HTLC that it has offered again,
// and its payer takes its time. lnd would forward it anew. The fake tells of that loss.
func TestWhatIsEndingIsNotResumed(t *testing.T) {
	flap := func(lnd *fakeLnd) { lnd.flap(1, func() bool { return true }) }
	within := func(d time.Duration) carOption { return func(c *engine.Config) { c.LeaveWithin = d } }
	for name, happens := range map[string]func(lnd *fakeLnd, key ln.CircuitKey, again func(...carOption) *car){
		"it was in flight when it was offered again": func(lnd *fakeLnd, key ln.CircuitKey, _ func(...carOption) *car) {
			flap(lnd)
			lnd.until("lnd shows the forward", func() bool { return lnd.htlcs[key].shown })
			lnd.listedAgain()
			lnd.ends(key)
		},
		"it was ending when it was offered again": func(lnd *fakeLnd, key ln.CircuitKey, _ func(...carOption) *car) {
			lnd.ends(key)
			flap(lnd)
		},
		"a predecessor resumed it": func(lnd *fakeLnd, key ln.CircuitKey, again func(...carOption) *car) {
			lnd.ends(key)
			flap(lnd)
			again(within(time.Minute))
		},
		"a successor saw it fly, and was not offered it": func(lnd *fakeLnd, key ln.CircuitKey, again func(...carOption) *car) {
			again(within(time.Nanosecond))
			lnd.until("lnd shows the forward", func() bool { return lnd.htlcs[key].shown })
			lnd.listedAgain()
			lnd.ends(key)
			flap(lnd)
		},
		"and the payer is away": func(lnd *fakeLnd, key ln.CircuitKey, again func(...carOption) *car) {
			lnd.ends(key)
			flap(lnd)
			lnd.mu.Lock()
			lnd.away = 1
			lnd.mu.Unlock()
			again()
		},
	} {
		for kind, scid := range map[string]ln.SCID{"a handler's": jitSCID, "nobody's": plainSCID} {
			t.Run(name+", "+kind, func(t *testing.T) {
				lnd := newFakeLnd(t)
				_, key, again := forwarded(t, lnd, scid)
				happens(lnd, key, again)
				lnd.stays(key)
				lnd.signs(key)
				lnd.until("lnd is told that it is over", func() bool { return !lnd.held[key] })
			})
		}
	}
}

// TestAResumeThatLndLostIsSentAgain: lnd died before it had signed the outgoing HTLC, and
// waits for a RESUME, after which it fails the incoming one. No block has to come for that.
func TestAResumeThatLndLostIsSentAgain(t *testing.T) {
	for kind, scid := range map[string]ln.SCID{"a handler's": jitSCID, "nobody's": plainSCID} {
		for name, away := range map[string]ln.SCID{"the payer is there": 0, "the payer is away, and lnd about to fail it": 1} {
			t.Run(kind+", "+name, func(t *testing.T) {
				lnd := newFakeLnd(t)
				_, key, _ := forwarded(t, lnd, scid)
				lnd.mu.Lock()
				lnd.htlcs[key].unseen, lnd.away = 1<<20, away
				autoFail := lnd.htlcs[key].offer.AutoFailHeight
				lnd.mu.Unlock()
				lnd.restart(func() bool { return true })
				if away != 0 {
					lnd.until("a stream", func() bool { return lnd.session != nil })
					lnd.stays(key)
					lnd.mineTo(autoFail - 6)
				}
				lnd.until("it is resumed again", func() bool { return !lnd.held[key] })
				lnd.mu.Lock()
				defer lnd.mu.Unlock()
				require.True(t, lnd.htlcs[key].pending, "and not failed")
			})
		}
	}
}

// TestWhatLndTrimmedIsFailed: lnd showed the forward of what it had not signed yet, and was
// restarted. It has forgotten it; and if it was ending instead, then a fail is what it
// gets for phantoms as well. Neither waits for lnd's auto-fail.
func TestWhatLndTrimmedIsFailed(t *testing.T) {
	for kind, scid := range map[string]ln.SCID{"a handler's": jitSCID, "nobody's": plainSCID} {
		t.Run(kind, func(t *testing.T) {
			lnd := newFakeLnd(t)
			lnd.mu.Lock()
			lnd.seenFor = time.Hour
			lnd.mu.Unlock()
			_, key, _ := forwarded(t, lnd, scid)
			lnd.until("lnd shows the forward", func() bool { return lnd.htlcs[key].shown })
			lnd.listedAgain()
			lnd.mu.Lock()
			lnd.htlcs[key].moved = false // it is where it was before the RESUME
			lnd.seenFor = time.Second
			lnd.mu.Unlock()
			lnd.restart(func() bool { return true })
			lnd.until("it is failed", func() bool { return !lnd.held[key] && !lnd.htlcs[key].pending })
			lnd.mu.Lock()
			defer lnd.mu.Unlock()
			require.False(t, lnd.htlcs[key].moved)
		})
	}
}

// TestADecisionThatWasNeverSentDoesNotWait: nothing that was decided while lnd's stream was
// away can have been forwarded, so that it is resumed with its offer, payer or no payer.
func TestADecisionThatWasNeverSentDoesNotWait(t *testing.T) {
	lnd := newFakeLnd(t)
	c := startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil, func(c *engine.Config) { c.LeaveWithin = time.Minute })
	c.connected()
	key := lnd.add(1, jitSCID)
	c.waitEvent(interceptor.EventOffered, key)
	lnd.mu.Lock()
	lnd.offline, lnd.away = true, 1
	lnd.drop(ln.ErrUnavailable)
	lnd.mu.Unlock()
	require.Eventually(t, func() bool { return !c.engine.Status().Connected }, 5*time.Second, time.Millisecond)
	require.NoError(t, c.engine.Decide(t.Context(), decide(key, interceptor.ActionResume)))
	lnd.mu.Lock()
	lnd.offline = false
	lnd.mu.Unlock()
	lnd.until("it is resumed", func() bool { return lnd.htlcs[key].moved })
}
