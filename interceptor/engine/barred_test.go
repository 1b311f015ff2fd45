package engine_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
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

// A channel that a reorg bars again was not barred from its first day: what a
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
