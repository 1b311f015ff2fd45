package pulse

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// node is an lnd whose blocks are stuck, or that is down altogether.
type node struct{ stuck, down, behind bool }

func (n *node) answer(ctx context.Context, hangs bool) error {
	if n.down {
		return errors.New("connection refused")
	}
	if hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (n *node) Info(ctx context.Context) (ln.NodeInfo, error) {
	return ln.NodeInfo{SyncedToChain: !n.behind}, n.answer(ctx, n.stuck)
}

func (n *node) Version(ctx context.Context) (lnd.Version, error) {
	return lnd.Version{}, n.answer(ctx, false)
}

func TestStalledIsNeitherSlowNorDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		w := NewWatch(n, time.Now, zaptest.NewLogger(t))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.Run(ctx) }()
		pass := func(d time.Duration) { time.Sleep(d); synctest.Wait() }

		pass(10 * time.Minute)
		require.False(t, w.Stalled())

		// A block that takes two minutes.
		n.stuck = true
		pass(2 * time.Minute)
		n.stuck = false
		pass(time.Minute)
		require.False(t, w.Stalled())

		n.down = true
		pass(time.Hour)
		require.False(t, w.Stalled(), "an lnd that answers nothing is down")
		n.down = false

		n.stuck = true
		pass(5 * time.Minute)
		require.True(t, w.Stalled())
		n.stuck = false
		pass(2 * time.Minute)
		require.False(t, w.Stalled())

		n.behind = true
		pass(15 * time.Minute)
		require.False(t, w.Stalled(), "it takes in blocks")
		pass(6 * time.Minute)
		require.True(t, w.Stalled())
		n.down = true
		pass(time.Minute)
		n.down = false
		pass(time.Hour)
		require.False(t, w.Stalled(), "started, and not synced yet: its chain may be new")
		n.behind = false
		pass(time.Minute)
		n.behind = true
		pass(30 * time.Minute)
		require.True(t, w.Stalled())
		n.behind = false
		pass(time.Minute)
		require.False(t, w.Stalled())
		cancel()
		<-done
	})
}
