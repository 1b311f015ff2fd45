package engine_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/engine"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// TestRestoredRowIsOnlyResumed: the copy of the database that was put back says
// held of an HTLC that has been resumed since. It is never failed, whether lnd
// shows that it has forwarded it, or not yet.
func TestRestoredRowIsOnlyResumed(t *testing.T) {
	for name, shown := range map[string]bool{"lnd shows the forward": true, "the forward waits in a mailbox": false} {
		t.Run(name, func(t *testing.T) {
			lnd := newFakeLnd(t)
			db := storetest.Open(t, storetest.SQLite(t))
			before := startCar(t, lnd, db, "a", nil)
			before.connected()
			key := lnd.add(1, jitSCID)
			before.waitEvent(interceptor.EventOffered, key)
			before.stop()

			lnd.mu.Lock()
			delete(lnd.held, key)
			lnd.htlcs[key].moved = shown
			lnd.mu.Unlock()

			after := startCar(t, lnd, db, "a", nil, func(c *engine.Config) { c.DistrustRows = true })
			after.connected()
			if !shown {
				// Until that is decided another start must distrust it as well.
				require.Eventually(t, func() bool { left, known := after.engine.Distrusted(); return known && left == 1 }, 20*time.Second, time.Millisecond)
			}
			err := after.retry(t.Context(), func() error { return after.engine.Decide(t.Context(), decide(key, interceptor.ActionFail)) })
			require.True(t, err == nil || errors.Is(err, interceptor.ErrDecided), "%v", err)
			rows, err := after.engine.Rows(t.Context(), interceptor.RowFilter{Handler: "jit"})
			require.NoError(t, err)
			require.Len(t, rows, 1)
			require.Equal(t, interceptor.StateResumed, rows[0].State)
			require.Eventually(t, func() bool { left, known := after.engine.Distrusted(); return known && left == 0 }, 20*time.Second, time.Millisecond)

			lnd.flap(1, func() bool { return false })
			plain := lnd.add(1, plainSCID)
			lnd.until("later offers are answered", func() bool { return lnd.htlcs[plain].moved })
			lnd.mu.Lock()
			require.True(t, lnd.htlcs[key].pending, "it was failed")
			lnd.mu.Unlock()
		})
	}
}
