package engine_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/engine"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// Nothing is forwarded that came in over a joint channel which its peer could
// still take back: not over routes that a handler claims, not over others, and not
// when sluiced died before it could say so. Once the channel is buried, forwards
// pass as any other.
func TestYoungJointChannelForwardsNothing(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		lnd := newFakeLnd(t)
		lnd.young = 2
		faults := new(storetest.Faults)
		failing := cfg
		failing.Hooks, failing.RetryFor = faults.Hooks(), time.Millisecond
		c := startCar(t, lnd, storetest.Open(t, failing), "a", nil)
		c.connected()
		ends := func(key ln.CircuitKey, moved bool) {
			t.Helper()
			lnd.until("it is answered", func() bool { return !lnd.held[key] })
			lnd.mu.Lock()
			defer lnd.mu.Unlock()
			require.Equal(t, moved, lnd.htlcs[key].moved)
		}
		for range 3 {
			ends(lnd.add(1, plainSCID), true)
			ends(lnd.add(2, plainSCID), false)
			ends(lnd.add(2, jitSCID), false)
		}
		rows, err := c.engine.Rows(t.Context(), interceptor.RowFilter{Limit: 100})
		require.NoError(t, err)
		require.Len(t, rows, 6)
		for _, r := range rows {
			require.Equal(t, interceptor.StateFailed, r.State)
			require.Contains(t, r.Reason, "not buried")
		}

		// Offered, and the process dies before the row: its successor fails it.
		faults.Set(storetest.Gone)
		left := lnd.add(2, plainSCID)
		require.Eventually(t, func() bool { return c.engine.Status().Unrecorded == 1 }, 20*time.Second, time.Millisecond)
		c.stop()
		startCar(t, lnd, storetest.Open(t, cfg), "a", nil)
		ends(left, false)

		lnd.mu.Lock()
		lnd.young = 0
		lnd.mu.Unlock()
		ends(lnd.add(2, plainSCID), true)
	})
}

// A channel that a reorg makes young again was not young from its first day: what a
// predecessor may have resumed is not failed.
func TestBarredAgainFailsNothingOfBefore(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		lnd := newFakeLnd(t)
		lnd.lag = func() int { return 1_000 } // the forward waits in a mailbox, unseen
		c := startCar(t, lnd, storetest.Open(t, cfg), "a", nil)
		c.connected()
		key := lnd.add(2, plainSCID)
		lnd.until("it is forwarded", func() bool { return lnd.htlcs[key].moved })
		c.stop()
		lnd.mu.Lock()
		lnd.young, lnd.seen = 2, true
		lnd.mu.Unlock()
		c = startCar(t, lnd, storetest.Open(t, cfg), "a", nil)
		c.connected()
		lnd.flap(2, func() bool { return false })
		lnd.until("it is answered again", func() bool { return !lnd.held[key] })
		lnd.mu.Lock()
		require.True(t, lnd.htlcs[key].moved && lnd.htlcs[key].pending, "it was failed after it had been resumed")
		lnd.mu.Unlock()
		fresh := lnd.add(2, plainSCID)
		lnd.until("a new one is answered", func() bool { return !lnd.held[fresh] })
		lnd.mu.Lock()
		defer lnd.mu.Unlock()
		require.False(t, lnd.htlcs[fresh].moved, "a new one is failed")
	})
}

// A peer may have so many HTLCs of a young channel passed on, settled ones included,
// and no more: in bursts, over flaps, restarts of lnd and deaths of sluiced at any
// commit, while some settle and some fail. Those that fail make room again.
func TestTheLimitOfAYoungChannelHolds(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		rng := rand.New(rand.NewPCG(seed, 7))
		lnd := newFakeLnd(t)
		lnd.young, lnd.limit, lnd.since = 2, 8, time.Now().Add(time.Hour)
		faults := new(storetest.Faults)
		failing := cfg
		failing.Hooks, failing.RetryFor = faults.Hooks(), time.Millisecond
		c := startCar(t, lnd, storetest.Open(t, failing), "a", nil)
		c.connected()
		phantom := func() bool { return rng.IntN(2) == 0 }
		var keys []ln.CircuitKey
		for range 60 {
			switch rng.IntN(12) {
			case 0:
				lnd.flap(2, phantom)
			case 1:
				lnd.restart(phantom)
				c.connected()
			case 2:
				faults.Set(storetest.Gone)
				keys = append(keys, lnd.add(2, plainSCID))
				c.stop()
				faults.Set(storetest.Healthy)
				c = startCar(t, lnd, storetest.Open(t, failing), "a", nil)
				c.connected()
			case 3, 4:
				if len(keys) > 0 {
					lnd.resolve(keys[rng.IntN(len(keys))], rng.IntN(3) == 0)
				}
			case 5:
				keys = append(keys, lnd.add(2, jitSCID))
			default:
				for range 1 + rng.IntN(3) {
					keys = append(keys, lnd.add(2, plainSCID))
				}
			}
			if rng.IntN(3) == 0 {
				time.Sleep(time.Duration(rng.IntN(5)) * time.Millisecond)
			}
		}
		// What is there ends, and what is left of the limit can be used, to the last.
		lnd.until("all is answered", func() bool {
			for _, key := range keys {
				// What is in flight already waits for its own end.
				if h := lnd.htlcs[key]; lnd.held[key] && h.pending && !h.moved && h.offer.OutgoingSCID == plainSCID {
					return false
				}
			}
			return true
		})
		for _, key := range keys {
			lnd.resolve(key, false)
		}
		lnd.mu.Lock()
		left := lnd.limit - lnd.spent(2)
		lnd.mu.Unlock()
		// What its handler holds counts until it is over, so that there may be more room.
		for n := 0; ; n++ {
			require.LessOrEqual(t, n, lnd.limit, "there is no end to it")
			key := lnd.add(2, plainSCID)
			lnd.until("it is answered", func() bool { return !lnd.held[key] })
			lnd.mu.Lock()
			moved := lnd.htlcs[key].moved
			lnd.mu.Unlock()
			if !moved {
				require.GreaterOrEqual(t, n, left, "there was room for it")
				break
			}
		}
	})
}

// A ledger that is new, or an older copy, does not know what was let through over a
// channel that is older than it: what has no row is only resumed, and never failed.
func TestAYoungChannelOlderThanTheLedger(t *testing.T) {
	for name, restored := range map[string]bool{"a new ledger": false, "an older copy": true} {
		t.Run(name, func(t *testing.T) {
			lnd := newFakeLnd(t)
			lnd.lag = func() int { return 1_000 } // the forward waits in a mailbox, unseen
			lnd.young, lnd.limit, lnd.since = 2, 1, time.Now().Add(-time.Hour)
			old := storetest.SQLite(t)
			c := startCar(t, lnd, storetest.Open(t, old), "a", nil)
			c.connected()
			key := lnd.add(2, plainSCID)
			lnd.until("it is forwarded", func() bool { return lnd.htlcs[key].moved })
			c.stop()
			lnd.mu.Lock()
			lnd.spentBefore = 5 // so that nothing new is let through
			lnd.mu.Unlock()
			c = startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil, func(e *engine.Config) { e.DistrustRows = restored })
			c.connected()
			lnd.flap(2, func() bool { return false })
			lnd.until("it is answered again", func() bool { return !lnd.held[key] })
			lnd.mu.Lock()
			defer lnd.mu.Unlock()
			require.True(t, lnd.htlcs[key].moved && lnd.htlcs[key].pending, "it was failed after it had been resumed")
		})
	}
}
