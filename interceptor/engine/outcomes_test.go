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

// lnd tells of a failure before any commitment. What it says then is not how
// the HTLC ended.
func TestAFailureIsBelievedOnceItIsFinal(t *testing.T) {
	linkFail := func(key ln.CircuitKey) ln.HtlcEvent { return ln.HtlcEvent{Kind: ln.HtlcLinkFail, Incoming: key} }
	final := func(key ln.CircuitKey, settled bool) ln.HtlcEvent {
		return ln.HtlcEvent{Kind: ln.HtlcFinal, Incoming: key, Settled: settled, OffChain: true}
	}
	never := func() bool { return false }
	for _, c := range []struct {
		name      string
		forgetful bool
		happens   func(lnd *fakeLnd, key ln.CircuitKey, later func(time.Duration))
		want      interceptor.Outcome
	}{
		{
			"lnd died before the commitment, and the forward went through the second time", false,
			func(lnd *fakeLnd, key ln.CircuitKey, _ func(time.Duration)) {
				lnd.say(linkFail(key))
				lnd.mu.Lock()
				lnd.htlcs[key].moved = false
				lnd.mu.Unlock()
				lnd.restart(never)
				lnd.until("it is resumed again", func() bool { return lnd.htlcs[key].moved })
				lnd.endUnheard(key, true)
			}, interceptor.OutcomeSettled,
		},
		{
			"the failure was of something else", false,
			func(lnd *fakeLnd, key ln.CircuitKey, _ func(time.Duration)) {
				lnd.say(ln.HtlcEvent{Kind: ln.HtlcForwardFail, Incoming: key})
				lnd.endUnheard(key, true)
			}, interceptor.OutcomeSettled,
		},
		{
			"lnd's record says that it failed", false,
			func(lnd *fakeLnd, key ln.CircuitKey, _ func(time.Duration)) {
				lnd.say(linkFail(key))
				lnd.endUnheard(key, false)
			}, interceptor.OutcomeFailed,
		},
		{
			"the final event comes after it was seen to be gone, and lnd keeps no records", true,
			func(lnd *fakeLnd, key ln.CircuitKey, _ func(time.Duration)) {
				lnd.endUnheard(key, false)
				lnd.listedAgain()
				lnd.say(final(key, false))
			}, interceptor.OutcomeFailed,
		},
		{
			"the final event overrules what was said before", true,
			func(lnd *fakeLnd, key ln.CircuitKey, _ func(time.Duration)) {
				lnd.say(linkFail(key))
				lnd.say(final(key, true))
				lnd.endUnheard(key, true)
			}, interceptor.OutcomeSettled,
		},
		{
			"lnd keeps no records, and its history would have a settlement by now", true,
			func(lnd *fakeLnd, key ln.CircuitKey, later func(time.Duration)) {
				lnd.say(linkFail(key))
				lnd.endUnheard(key, false)
				lnd.listedAgain()
				later(2 * time.Minute)
			}, interceptor.OutcomeFailed,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			lnd := newFakeLnd(t)
			lnd.forgetful = c.forgetful
			car, key, later := resumed(t, lnd)
			c.happens(lnd, key, later)
			require.Equal(t, c.want, car.outcome(key))
		})
	}
}

// resumed is a car with an HTLC that it had resumed, and a way to let time pass for it.
func resumed(t *testing.T, lnd *fakeLnd) (c *car, key ln.CircuitKey, later func(time.Duration)) {
	t.Helper()
	wall := newClock()
	c = startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil, func(cfg *engine.Config) { cfg.Now = wall.now })
	c.connected()
	key = lnd.add(1, jitSCID)
	c.waitEvent(interceptor.EventOffered, key)
	lnd.until("events are heard", func() bool { return len(lnd.events) == 1 })
	require.NoError(t, c.engine.Decide(t.Context(), decide(key, interceptor.ActionResume)))
	lnd.until("it is resumed", func() bool { return lnd.htlcs[key].moved })
	return c, key, wall.add
}

// outcome waits until the handler was told how an HTLC ended.
func (c *car) outcome(key ln.CircuitKey) interceptor.Outcome {
	c.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		c.mu.Lock()
		for _, ev := range c.events {
			if ev.Kind == interceptor.EventGone && ev.Row.Key == key && ev.Row.Outcome != interceptor.OutcomeUnknown {
				c.mu.Unlock()
				return ev.Row.Outcome
			}
		}
		c.mu.Unlock()
		select {
		case <-c.came:
		case <-deadline:
			c.t.Fatalf("nobody was told how %s ended; status %+v", key, c.engine.Status())
		}
	}
}

// listedAgain waits until channels were listed twice more: the second listing
// was asked for after this call began.
func (f *fakeLnd) listedAgain() {
	f.t.Helper()
	f.mu.Lock()
	from := f.listings
	f.mu.Unlock()
	f.until("channels are listed again", func() bool { return f.listings >= from+2 })
}

// lnd offers an HTLC on chain again only if it lacks the preimage, and dust never. No
// listing has the channel any more.
func TestAnHtlcWhoseChannelClosedEnds(t *testing.T) {
	for _, c := range []struct {
		name    string
		happens func(lnd *fakeLnd, key ln.CircuitKey, later func(time.Duration))
	}{
		{"what was claimed before is believed", func(lnd *fakeLnd, key ln.CircuitKey, _ func(time.Duration)) {
			lnd.say(ln.HtlcEvent{Kind: ln.HtlcSettled, Incoming: key})
			lnd.closed(key)
		}},
		{"what is claimed afterwards is believed", func(lnd *fakeLnd, key ln.CircuitKey, _ func(time.Duration)) {
			lnd.closed(key)
			lnd.listedAgain()
			lnd.say(ln.HtlcEvent{Kind: ln.HtlcSettled, Incoming: key})
		}},
		{"lnd's record is asked", func(lnd *fakeLnd, key ln.CircuitKey, later func(time.Duration)) {
			lnd.closed(key)
			lnd.listedAgain()
			lnd.endUnheard(key, true)
			later(2 * time.Minute)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			lnd := newFakeLnd(t)
			car, key, later := resumed(t, lnd)
			c.happens(lnd, key, later)
			require.Equal(t, interceptor.OutcomeSettled, car.outcome(key))
		})
	}
}

// While a channel closes, nothing that came over it makes channels be listed, or lnd be
// asked about payments, again and again: neither what lnd has said fails, nor an offer
// without a row, which lnd repeats once it is on chain, or never.
func TestAClosingChannelIsNoHotLoop(t *testing.T) {
	for _, c := range []struct {
		name  string
		begin func(lnd *fakeLnd, start func() *car)
	}{
		{"what lnd says fails", func(lnd *fakeLnd, start func() *car) {
			c := start()
			key := lnd.add(1, jitSCID)
			c.waitEvent(interceptor.EventOffered, key)
			lnd.until("events are heard", func() bool { return len(lnd.events) == 1 })
			require.NoError(t, c.engine.Decide(t.Context(), decide(key, interceptor.ActionResume)))
			lnd.until("it is resumed", func() bool { return lnd.htlcs[key].moved })
			lnd.closed(key)
			lnd.mu.Lock()
			listings := lnd.listings
			lnd.mu.Unlock()
			lnd.say(ln.HtlcEvent{Kind: ln.HtlcLinkFail, Incoming: key})
			lnd.until("channels are listed for that", func() bool { return lnd.listings > listings })
		}},
		{"an offer without a row", func(lnd *fakeLnd, start func() *car) {
			start()
			lnd.closed(ln.CircuitKey{ChanID: 1})
			lnd.add(1, plainSCID)
			lnd.until("lnd is asked about a payment", func() bool { return lnd.tracked > 0 })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			lnd := newFakeLnd(t)
			c.begin(lnd, func() *car {
				car := startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil, func(cfg *engine.Config) {
					cfg.PollEvery = time.Hour
				})
				car.connected()
				return car
			})
			lnd.mu.Lock()
			listings, tracked := lnd.listings, lnd.tracked
			lnd.mu.Unlock()
			// Fifty times as long as what is about to end waits for a listing.
			time.Sleep(500 * time.Millisecond)
			lnd.mu.Lock()
			defer lnd.mu.Unlock()
			require.Less(t, lnd.listings-listings, 5, "channels were listed")
			require.Less(t, lnd.tracked-tracked, 5, "lnd was asked about payments")
		})
	}
}

// closed takes a channel off the list of open ones, and offers nothing again.
func (f *fakeLnd) closed(key ln.CircuitKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = key.ChanID
	f.bump()
}

// lnd never says how an HTLC ended. It is asked ever more rarely, and not for ever: each
// time may cost it all of its history.
func TestWhatStaysUnknownIsAskedEverMoreRarely(t *testing.T) {
	lnd := newFakeLnd(t)
	lnd.forgetful = true
	_, key, later := resumed(t, lnd)
	lnd.endUnheard(key, true)
	lnd.until("lnd is asked", func() bool { return lnd.histories > 0 })
	later(2 * time.Minute)
	asked := func() int {
		// Some rounds of what asks.
		time.Sleep(50 * time.Millisecond)
		lnd.mu.Lock()
		defer lnd.mu.Unlock()
		return lnd.histories
	}
	first := asked()
	for range 60 {
		later(2 * time.Minute)
		asked()
	}
	require.Less(t, asked()-first, 20)
	later(48 * time.Hour)
	last := asked()
	for range 5 {
		later(48 * time.Hour)
		require.Equal(t, last, asked())
	}
}

// A deadline does not wait until lnd has gone through its history.
func TestDeadlinesDoNotWaitForOutcomes(t *testing.T) {
	lnd := newFakeLnd(t)
	lnd.forgetful = true
	car, key, _ := resumed(t, lnd)
	held := lnd.add(2, jitSCID)
	row := car.waitEvent(interceptor.EventOffered, held).Row
	answers := make(chan struct{})
	lnd.mu.Lock()
	lnd.onHistory = func() { <-answers }
	lnd.mu.Unlock()
	t.Cleanup(func() { close(answers) })
	lnd.endUnheard(key, true)
	lnd.until("lnd is asked", func() bool { return lnd.histories > 0 })
	lnd.mineTo(row.FailHeight)
	lnd.until("failed at its deadline", func() bool { return !lnd.htlcs[held].pending })
}
