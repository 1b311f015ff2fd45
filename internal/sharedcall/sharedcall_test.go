package sharedcall

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

var errStopping = errors.New("stopping")

// Nobody hears an answer that was found before the question, and many share one.
func TestSharedAnswers(t *testing.T) {
	var s Answers[int64]
	spawn := func(f func()) error { go f(); return nil }
	var asked, found atomic.Int64
	find := func() (int64, error) { found.Add(1); return asked.Load(), nil }
	var group errgroup.Group
	for range 200 {
		group.Go(func() error {
			mine := asked.Add(1)
			got, err := s.Ask(context.Background(), spawn, find)
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
	_, err := s.Ask(ended, spawn, func() (int64, error) { <-block; return 0, nil })
	require.ErrorIs(t, err, context.Canceled)
	close(block)
	_, err = new(Answers[int64]).Ask(context.Background(), func(func()) error { return errStopping }, find)
	require.ErrorIs(t, err, errStopping)
	require.Eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return !s.running }, 20*time.Second, time.Millisecond)
}
