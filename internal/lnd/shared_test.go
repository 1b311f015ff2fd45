package lnd

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/sharedcall"
)

// slow is an lnd that takes a second for its answer, which is what it was asked as.
type slow struct {
	mu           sync.Mutex
	asked, under int
	most         int
	fails        error
}

func (s *slow) request(ctx context.Context) (int, error) {
	s.mu.Lock()
	s.asked++
	s.under++
	n := s.asked
	s.most = max(s.most, s.under)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.under--
		s.mu.Unlock()
	}()
	select {
	case <-time.After(time.Second):
		return n, s.fails
	case <-ctx.Done():
		return n, ctx.Err()
	}
}

// TestSharedIsNeverOlderThanTheQuestion: whoever asks while a request is under way shares the
// next one with all who do so, and never gets the answer of the one that began before.
func TestSharedIsNeverOlderThanTheQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var node slow
		var s sharedcall.Answers[int]
		var all sync.WaitGroup
		ask := func(want int) {
			all.Go(func() {
				n, err := askShared(t.Context(), &s, "ask", time.Minute, node.request)
				require.NoError(t, err)
				require.Equal(t, want, n)
			})
			synctest.Wait()
		}
		ask(1)
		for range 50 {
			ask(2)
		}
		time.Sleep(1500 * time.Millisecond)
		ask(3) // while the second is under way
		ask(3)
		all.Wait()
		ask(4) // nobody is asking any more
		all.Wait()
		require.Equal(t, 4, node.asked)
		require.Equal(t, 1, node.most)
	})
}

// TestSharedOutlivesWhoAsked: who gives up ends nobody else's wait, an lnd that does not
// answer ends everybody's in time, and a failure is not kept.
func TestSharedOutlivesWhoAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var node slow
		var s sharedcall.Answers[int]
		hasty, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			_, err := askShared(hasty, &s, "ask", time.Minute, node.request)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, ln.ErrUnavailable)
		})
		synctest.Wait()
		all.Go(func() {
			n, err := askShared(t.Context(), &s, "ask", time.Minute, node.request)
			require.NoError(t, err)
			require.Equal(t, 2, n)
		})
		all.Wait()

		broken := errors.New("broken")
		node.fails = broken
		_, err := askShared(t.Context(), &s, "ask", time.Minute, node.request)
		require.ErrorIs(t, err, broken)
		node.fails = nil
		n, err := askShared(t.Context(), &s, "ask", time.Minute, node.request)
		require.NoError(t, err)
		require.Equal(t, 4, n)

		began := time.Now()
		_, err = askShared(t.Context(), &s, "ask", time.Minute, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(began))
	})
}
