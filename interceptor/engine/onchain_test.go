package engine_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/engine"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// goOnChain is lnd's second offer of a held HTLC, once its channel is on chain.
func (f *fakeLnd) goOnChain(key ln.CircuitKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.htlcs[key]
	h.offer.AutoFailHeight = h.offer.IncomingExpiry
	f.gone = key.ChanID
	f.held[key] = false
	f.offer(key)
	f.bump()
}

// A handler hears that the channel of what it holds went on chain, and that it is over,
// also from an lnd that keeps no resolutions. Until then nothing is answered.
func TestHeldHtlcGoesOnChain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		lnd := newFakeLnd(t)
		lnd.forgetful = true
		clock := newClock()
		c := startCar(t, lnd, open(), "a", nil, func(cfg *engine.Config) { cfg.Now = clock.now })
		c.connected()
		key := lnd.add(1, jitSCID)
		require.False(t, c.waitEvent(interceptor.EventOffered, key).Row.OnChain)
		lnd.goOnChain(key)
		require.Eventually(t, func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, ev := range c.events {
				if ev.Kind == interceptor.EventOffered && ev.Row.Key == key && ev.Row.OnChain {
					return true
				}
			}
			return false
		}, 20*time.Second, time.Millisecond)
		for _, action := range []interceptor.Action{interceptor.ActionResume, interceptor.ActionFail} {
			require.ErrorIs(t, c.engine.Decide(t.Context(), decide(key, action)), interceptor.ErrOnChain)
		}
		lnd.mu.Lock()
		expiry := lnd.htlcs[key].offer.IncomingExpiry
		require.True(t, lnd.held[key], "nothing was answered")
		lnd.mu.Unlock()
		lnd.mineTo(expiry + 143)
		clock.add(2 * time.Minute)
		rows, err := c.engine.Rows(t.Context(), interceptor.RowFilter{OpenOnly: true})
		require.NoError(t, err)
		require.Len(t, rows, 1)
		lnd.mineTo(expiry + 144)
		require.Eventually(t, func() bool { return c.engine.Status().Height == expiry+144 }, 20*time.Second, time.Millisecond)
		clock.add(2 * time.Minute)
		require.Equal(t, interceptor.OutcomeFailed, c.waitEvent(interceptor.EventGone, key).Row.Outcome)
	})
}

// TestOnChainIsNotForgotten: the database is away when the channel of an HTLC goes on
// chain, which may even have no row yet. It is not failed at its deadline, which would
// tell lnd nothing, and a preimage still claims it.
func TestOnChainIsNotForgotten(t *testing.T) {
	for name, recorded := range map[string]bool{"it has a row": true, "its row is on its way": false} {
		t.Run(name, func(t *testing.T) {
			faults := new(storetest.Faults)
			cfg := storetest.SQLite(t)
			cfg.Hooks, cfg.RetryFor = faults.Hooks(), time.Millisecond
			lnd := newFakeLnd(t)
			c := startCar(t, lnd, storetest.Open(t, cfg), "a", nil)
			c.connected()
			var key ln.CircuitKey
			if recorded {
				key = lnd.add(1, jitSCID)
				c.waitEvent(interceptor.EventOffered, key)
			}
			faults.Set(storetest.Gone)
			if !recorded {
				key = lnd.add(1, jitSCID)
				require.Eventually(t, func() bool { return c.engine.Status().Unrecorded == 1 }, 20*time.Second, time.Millisecond)
			}
			lnd.goOnChain(key)
			plain := lnd.add(2, plainSCID)
			lnd.until("a later offer is answered", func() bool { return !lnd.held[plain] })
			if recorded {
				require.Eventually(t, func() bool { return c.engine.Status().Degraded }, 20*time.Second, time.Millisecond, "the write failed")
			}
			faults.Set(storetest.Healthy)
			lnd.mu.Lock()
			autoFail := lnd.htlcs[key].offer.IncomingExpiry - 19
			lnd.mu.Unlock()
			lnd.mineTo(autoFail)
			require.Eventually(t, func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				return slices.ContainsFunc(c.events, func(ev interceptor.Event) bool {
					return ev.Kind == interceptor.EventOffered && ev.Row.Key == key && ev.Row.OnChain
				})
			}, 20*time.Second, time.Millisecond, "its handler hears of it")
			d := decide(key, interceptor.ActionSettle)
			d[0].Preimage = preimageOf(1<<10 | key.HtlcID)
			require.NoError(t, c.retry(t.Context(), func() error { return c.engine.Decide(t.Context(), d) }))
			lnd.until("it is claimed", func() bool { return lnd.htlcs[key].settled })
		})
	}
}
