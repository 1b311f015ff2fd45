package store_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// A database that forgets what was durable, under the process that uses it: its holder
// has no lease from the next fenced transaction or renewal on, nobody gets one in this
// process, and whoever waits hears of it. However far it went back.
func TestWentBackInUse(t *testing.T) {
	for name, past := range map[string]string{
		"to before a renewal":     "UPDATE store_leases SET renewals = 0",
		"to before the take-over": "UPDATE store_leases SET epoch = epoch - 1, renewals = 1000, owner = 'before'",
		"to before its creation":  "DELETE FROM store_leases",
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, open func() *store.DB) {
				db, other := open(), open()
				before, err := db.AcquireLease(t.Context(), short("before"))
				require.NoError(t, err)
				require.NoError(t, before.Release(t.Context()))
				lease, err := db.AcquireLease(t.Context(), short("a"))
				require.NoError(t, err)
				require.NoError(t, db.Write(t.Context(), lease.Check))
				// Its holder knows of the one before the last.
				require.Eventually(t, func() (renewed bool) {
					require.NoError(t, other.Read(t.Context(), func(ctx context.Context, tx *store.Tx) error {
						return tx.QueryRowContext(ctx, "SELECT renewals > 1 FROM store_leases").Scan(&renewed)
					}))
					return renewed
				}, 10*time.Second, 10*time.Millisecond)
				require.NoError(t, db.Write(t.Context(), lease.Check))
				require.Empty(t, db.WhyWentBack())

				// It is another that goes back: nobody is told.
				require.NoError(t, other.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
					_, err := tx.ExecContext(ctx, past)
					return err
				}))
				select {
				case <-db.WentBack():
				case <-time.After(short("a").TTL):
					t.Fatal("it was not noticed")
				}
				require.False(t, lease.Valid())
				<-lease.Lost()
				err = db.Write(t.Context(), lease.Check)
				require.ErrorIs(t, err, store.ErrLeaseLost)
				_, err = db.AcquireLease(t.Context(), short("a"))
				require.ErrorIs(t, err, store.ErrWentBack)
				require.Contains(t, db.WhyWentBack(), `its lease "gw" was at take-over 2`)
				require.Empty(t, other.WhyWentBack(), "the other has seen nothing of it yet")
			})
		})
	}
}

// The next fenced transaction notices before the next renewal does.
func TestWentBackFence(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		lease, err := db.AcquireLease(t.Context(), store.LeaseConfig{Name: "gw", Owner: "a", TTL: time.Hour})
		require.NoError(t, err)
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.ExecContext(ctx, "UPDATE store_leases SET epoch = epoch - 1, owner = 'before'")
			return err
		}))
		require.ErrorIs(t, db.Write(t.Context(), lease.Check), store.ErrWentBack)
		require.False(t, lease.Valid())
		<-lease.Lost()
	})
}

// Somebody else who takes the lease is no sign of it, nor is a reader of before.
func TestWentBackNoFalseAlarm(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		a, b := open(), open()
		for range 20 {
			for i, db := range []*store.DB{a, b} {
				lease, err := db.AcquireLease(t.Context(), short([]string{"a", "b"}[i]))
				require.NoError(t, err)
				require.NoError(t, db.Read(t.Context(), lease.Check))
				require.NoError(t, lease.Release(t.Context()))
				err = db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error { return tx.CheckLease(ctx, "gw", lease.Epoch()) })
				require.ErrorIs(t, err, store.ErrLeaseLost)
				require.NotErrorIs(t, err, store.ErrWentBack)
			}
		}
		require.Empty(t, a.WhyWentBack())
		require.Empty(t, b.WhyWentBack())
	})
}

// Raising the generation over a copy would make it pass for the present.
func TestAdvanceOverAnOlderCopy(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		file := filepath.Join(t.TempDir(), "generation")
		first, err := store.CheckGeneration(t.Context(), db, file)
		require.NoError(t, err)
		second, err := store.Advance(t.Context(), db, file)
		require.NoError(t, err)
		require.Equal(t, first.Number+1, second.Number)
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			if _, err := tx.ExecContext(ctx, "UPDATE store_meta SET generation = generation - 1"); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, "UPDATE store_files SET generation = generation - 1")
			return err
		}))
		_, err = store.Advance(t.Context(), db, file)
		var restored *store.RestoredError
		require.ErrorAs(t, err, &restored)
		require.Equal(t, store.RestoreBehind, restored.Kind)
		require.ErrorIs(t, err, store.ErrWentBack)
		<-db.WentBack()
		// And is found again at the next start, unless it is marked.
		_, err = store.CheckGeneration(t.Context(), open(), file)
		require.ErrorIs(t, err, store.ErrRestored)
	})
}
