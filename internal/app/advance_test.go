package app

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAdvanceAfterWrites: the generation is raised within a second of each write,
// once a second at most however much is written, and once a minute without any.
func TestAdvanceAfterWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		wrote, raised := make(chan struct{}, 1), 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			advanceAfter(ctx, wrote, func() { raised++ })
		}()
		step := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		step(59 * time.Second)
		require.Zero(t, raised)
		step(2 * time.Second)
		require.Equal(t, 1, raised, "once a minute")
		wrote <- struct{}{}
		step(time.Second)
		require.Equal(t, 2, raised)
		step(10 * time.Second)
		require.Equal(t, 2, raised, "nothing more was written")
		for range 1000 {
			wrote <- struct{}{}
			step(10 * time.Millisecond)
		}
		require.GreaterOrEqual(t, raised, 11, "ten seconds of writes")
		require.LessOrEqual(t, raised, 13)
		cancel()
		<-done
	})
}
