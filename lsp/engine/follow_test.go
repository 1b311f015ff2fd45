package engine

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// follower is an lnd that counts subscriptions to channels, and whose first
// picture of each may fail.
type follower struct {
	*pictures
	begun, live atomic.Int32
	away        atomic.Bool
	drop        chan struct{}
}

func (f *follower) SubscribeChannelEvents(ctx context.Context, _ func(ln.ChannelEvent)) error {
	f.begun.Add(1)
	f.live.Add(1)
	defer f.live.Add(-1)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-f.drop:
		return ln.ErrUnavailable
	}
}

func (f *follower) ListChannels(ctx context.Context) ([]ln.Channel, error) {
	if f.away.Load() {
		return nil, ln.ErrUnavailable
	}
	return f.pictures.ListChannels(ctx)
}

// TestChannelsAreFollowedWhileSomethingDependsOnThem: lnd tells subscribers of
// every commitment, which ordinary forwards must not pay for.
func TestChannelsAreFollowedWhileSomethingDependsOnThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := pictured(t)
		f := &follower{pictures: p, drop: make(chan struct{})}
		w.events, w.channels = f, f
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			w.resync(ctx, "channels", w.readChannels)
			w.keep(ctx, "channels", w.followChannels)
		}()
		time.Sleep(time.Hour)
		require.Zero(t, f.begun.Load(), "nothing depends on a channel")

		w.want(true)
		require.NoError(t, w.current(ctx))
		require.EqualValues(t, 1, f.live.Load())
		time.Sleep(time.Hour)
		require.EqualValues(t, 1, f.live.Load(), "a payment still depends on one")

		// lnd drops it: what was known is not current until it was read again.
		f.away.Store(true)
		f.drop <- struct{}{}
		synctest.Wait()
		soon, end := context.WithTimeout(ctx, time.Minute)
		require.ErrorIs(t, w.current(soon), context.DeadlineExceeded)
		end()
		f.away.Store(false)
		require.NoError(t, w.current(ctx))
		require.EqualValues(t, 1, f.live.Load())

		w.want(false)
		time.Sleep(followFor - time.Second)
		require.EqualValues(t, 1, f.live.Load(), "links of fresh channels may yet be rebuilt")
		time.Sleep(2 * time.Second)
		require.Zero(t, f.live.Load())

		// Asking is a need as well.
		require.NoError(t, w.current(ctx))
		require.EqualValues(t, 1, f.live.Load())
		time.Sleep(followFor + time.Second)
		require.Zero(t, f.live.Load())
		cancel()
		synctest.Wait()
	})
}
