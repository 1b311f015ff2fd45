package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
	icstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// Rows go, the oldest first and a page at a time, when lnd has forgotten their
// HTLC and their handler has taken note, and no others.
func TestPruneDeletesOnlyWhatIsOver(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		ctx := t.Context()
		db := open()
		require.NoError(t, icstore.Migrate(ctx, db))
		s := icstore.New(db, "gateway")
		lease, err := s.Acquire(ctx, store.LeaseConfig{Owner: "test", TTL: time.Minute})
		require.NoError(t, err)
		defer func() { require.NoError(t, lease.Release(context.WithoutCancel(ctx))) }()

		now := time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)
		row := func(id uint64, change func(*interceptor.Row)) interceptor.Row {
			r := interceptor.NewRow(ln.InterceptedHtlc{
				Key: ln.CircuitKey{ChanID: 5, HtlcID: id}, Hash: ln.Hash{byte(id)}, IncomingMsat: 2000, OutgoingMsat: 1000,
				IncomingExpiry: 200, OutgoingExpiry: 100, OutgoingSCID: 9, AutoFailHeight: 187,
			}, "lsp", 6, 50, now.Add(-300*24*time.Hour))
			r.ID, r.Version = int64(id), 1
			r.State, r.DecidedAt, r.Acked = interceptor.StateResumed, r.OfferedAt, true
			r.GoneAt, r.Outcome = now.Add(-time.Duration(200+id)*24*time.Hour), interceptor.OutcomeSettled
			change(&r)
			return r
		}
		rows := []interceptor.Row{
			row(1, func(*interceptor.Row) {}),
			row(2, func(*interceptor.Row) {}),
			row(3, func(*interceptor.Row) {}),
			row(4, func(r *interceptor.Row) { r.Handler, r.Acked = "", false }),
			row(5, func(r *interceptor.Row) { r.Acked = false }),
			row(6, func(r *interceptor.Row) { r.GoneAt = time.Time{} }),
			row(7, func(r *interceptor.Row) { r.State, r.GoneAt, r.Acked = interceptor.StatePaying, time.Time{}, false }),
			row(8, func(r *interceptor.Row) { r.GoneAt = now.Add(-179 * 24 * time.Hour) }),
		}
		require.NoError(t, s.Write(ctx, lease.Epoch(), rows, nil))
		ids := func() (out []uint64) {
			all, err := s.List(ctx, interceptor.RowFilter{})
			require.NoError(t, err)
			for _, r := range all {
				out = append(out, r.Key.HtlcID)
			}
			return out
		}
		before := now.Add(-180 * 24 * time.Hour)
		_, err = s.Prune(ctx, lease.Epoch()+1, before, before, 100)
		require.ErrorIs(t, err, interceptor.ErrLeaseLost)
		require.Len(t, ids(), len(rows))
		for _, want := range []struct {
			deleted int64
			left    []uint64
		}{
			{3, []uint64{1, 5, 6, 7, 8}},
			{1, []uint64{5, 6, 7, 8}},
			{0, []uint64{5, 6, 7, 8}},
		} {
			n, err := s.Prune(ctx, lease.Epoch(), before, before, 3)
			require.NoError(t, err)
			require.Equal(t, want.deleted, n)
			require.Equal(t, want.left, ids())
		}
	})
}
