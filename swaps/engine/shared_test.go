package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// Nobody hears an answer that was found before the question, and many share one.
func TestSharedAnswers(t *testing.T) {
	var s shared[int64]
	spawn := func(f func()) bool { go f(); return true }
	var asked, found atomic.Int64
	find := func() (int64, error) { found.Add(1); return asked.Load(), nil }
	var group errgroup.Group
	for range 200 {
		group.Go(func() error {
			mine := asked.Add(1)
			got, err := s.ask(context.Background(), spawn, find)
			if err == nil && got < mine {
				return errors.New("the answer is older than the question")
			}
			return err
		})
	}
	require.NoError(t, group.Wait())
	require.LessOrEqual(t, found.Load(), int64(200))
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	block := make(chan struct{})
	_, err := s.ask(ended, spawn, func() (int64, error) { <-block; return 0, nil })
	require.ErrorIs(t, err, context.Canceled)
	close(block)
	_, err = new(shared[int64]).ask(context.Background(), func(func()) bool { return false }, find)
	require.ErrorIs(t, err, errkind.Unavailable, "the engine ends")
	require.Eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return !s.running }, 20*time.Second, time.Millisecond)
}

// Many swaps out that are begun at once share commits, and never the same room: the
// channel has 10,000,000 sat to receive.
func TestManyAtOnce(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		r := newRig(t, cfg)
		r.stop()
		r.unpaidPerClient = 100
		r.start()
		var begun, refused, used atomic.Int64
		var group errgroup.Group
		for i := range 40 {
			group.Go(func() error {
				w := r.wish(ln.Preimage{byte(i%30 + 1)})
				w.AmountSat = 600_000
				_, err := r.OfferOut(r.ctx, w)
				switch {
				case err == nil:
					begun.Add(1)
				case errors.Is(err, errkind.Exhausted):
					refused.Add(1)
				case errors.Is(err, errkind.Conflict):
					used.Add(1)
				default:
					return err
				}
				return nil
			})
		}
		require.NoError(t, group.Wait())
		require.EqualValues(t, 16, begun.Load())
		require.EqualValues(t, 24, refused.Load()+used.Load())
	})
}
