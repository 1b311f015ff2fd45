package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// Who asks for room while the engine ends is told so.
func TestNoRoomWhileStopping(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	e := r.Engine
	r.stop()
	_, err := e.outMost(context.Background())
	require.ErrorIs(t, err, errkind.Unavailable, "the engine ends")
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
