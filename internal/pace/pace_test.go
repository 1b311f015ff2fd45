package pace_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/pace"
)

func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		require.NoError(t, pace.Pause(t.Context(), time.Second))
		require.Equal(t, time.Second, time.Since(began))
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.ErrorIs(t, pace.Pause(ctx, time.Hour), context.DeadlineExceeded)
	})
}

func TestEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began, rounds := time.Now(), 0
		pace.Every(ctx, time.Minute, func(context.Context) {
			if rounds++; rounds == 3 {
				cancel()
			}
		})
		require.Equal(t, 3, rounds, "at once, and after each minute")
		require.Equal(t, 2*time.Minute, time.Since(began))
	})
}

// TestKeep: waits grow up to a bound, begin anew after what lasted, and end with
// the context, whose end is told to nobody.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		failed := errors.New("ended")
		var starts []time.Duration
		began, ends := time.Now(), 0
		pace.Keep(ctx, pace.Backoff{First: time.Second, Most: 3 * time.Second, Healthy: time.Minute}, func(context.Context) error {
			starts = append(starts, time.Since(began))
			switch len(starts) {
			case 5:
				time.Sleep(2 * time.Minute)
			case 7:
				cancel()
			}
			return failed
		}, func(err error) {
			require.ErrorIs(t, err, failed)
			ends++
		})
		seconds := func(n int) time.Duration { return time.Duration(n) * time.Second }
		require.Equal(t, []time.Duration{0, seconds(1), seconds(3), seconds(6), seconds(9), seconds(130), seconds(132)}, starts)
		require.Equal(t, 6, ends)
	})
}
