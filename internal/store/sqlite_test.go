package store_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// TestPreparedStatements: a query that stays prepared behaves as one that does
// not: within its own rows, after it failed, after the tables changed, and after
// a rollback. The queries begin as sqlc's do, which is what keeps them prepared.
func TestPreparedStatements(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		const (
			add    = "-- name: Add :exec\n" + insertThing
			list   = "-- name: List :many\nSELECT id, n FROM things WHERE n >= $1 ORDER BY id"
			count  = "-- name: Count :one\nSELECT COUNT(*) FROM things"
			all    = "-- name: All :many\nSELECT * FROM things ORDER BY id"
			rename = "-- name: Rename :exec\nUPDATE things SET id = $2 WHERE id = $1"
		)
		db := open()
		migrate(t, db)
		write := func(f func(ctx context.Context, tx *store.Tx)) {
			require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
				f(ctx, tx)
				return nil
			}))
		}
		exec := func(ctx context.Context, tx *store.Tx, query string, args ...any) error {
			_, err := tx.ExecContext(ctx, query, args...)
			return err
		}
		write(func(ctx context.Context, tx *store.Tx) {
			for i := range 3 {
				require.NoError(t, exec(ctx, tx, add, fmt.Sprint(i), int64(i), []byte{1}, true))
			}
		})
		// Rows that were not read to their end keep nothing.
		write(func(ctx context.Context, tx *store.Tx) {
			func() {
				rows, err := tx.QueryContext(ctx, list, int64(0))
				require.NoError(t, err)
				defer func() { require.NoError(t, rows.Close(), "closed twice") }()
				require.True(t, rows.Next())
				require.NoError(t, rows.Close())
				require.NoError(t, rows.Err())
			}()
			var n int64
			require.NoError(t, tx.QueryRowContext(ctx, count).Scan(&n))
			require.EqualValues(t, 3, n)
		})
		// One that failed is fit for use again, with nothing of the failed call in it.
		for range 3 {
			require.ErrorIs(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
				return exec(ctx, tx, add, "0", int64(9), []byte{1}, true)
			}), store.ErrUnique)
			require.ErrorIs(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
				return exec(ctx, tx, rename, "1", "0")
			}), store.ErrUnique)
		}
		write(func(ctx context.Context, tx *store.Tx) {
			require.NoError(t, exec(ctx, tx, rename, "2", "two"))
			require.NoError(t, exec(ctx, tx, add, "3", int64(3), []byte{1}, true))
		})
		// The tables change under it.
		columns := func() (n int) {
			write(func(ctx context.Context, tx *store.Tx) {
				rows, err := tx.QueryContext(ctx, all)
				require.NoError(t, err)
				defer func() { require.NoError(t, rows.Close()) }()
				names, err := rows.Columns()
				require.NoError(t, err)
				n = len(names)
				require.NoError(t, rows.Err())
			})
			return n
		}
		if db.Engine() == store.SQLite {
			require.Equal(t, 4, columns())
			write(func(ctx context.Context, tx *store.Tx) {
				require.NoError(t, exec(ctx, tx, "ALTER TABLE things ADD COLUMN more BIGINT NOT NULL DEFAULT 5"))
			})
			require.Equal(t, 5, columns())
			// Within its own rows a query gets a statement of its own.
			write(func(ctx context.Context, tx *store.Tx) {
				rows, err := tx.QueryContext(ctx, list, int64(0))
				require.NoError(t, err)
				defer func() { require.NoError(t, rows.Close()) }()
				var seen []string
				for rows.Next() {
					var id string
					var n int64
					require.NoError(t, rows.Scan(&id, &n))
					seen = append(seen, fmt.Sprint(id, " ", rowsOf(t, ctx, tx, list, n)))
				}
				require.NoError(t, rows.Err())
				require.Equal(t, []string{"0 4", "1 3", "3 1", "two 2"}, seen)
			})
		}
	})
}

func rowsOf(t *testing.T, ctx context.Context, tx *store.Tx, query string, args ...any) (n int) { //nolint:revive // t comes first
	rows, err := tx.QueryContext(ctx, query, args...)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	for rows.Next() {
		n++
	}
	require.NoError(t, rows.Err())
	return n
}

// TestStatementsOutliveACancelledCall: one that was interrupted does not stay
// interrupted.
func TestStatementsOutliveACancelledCall(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t))
	const query = "-- name: Far :one\nWITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < $1) SELECT COUNT(*) FROM c"
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
				cancel()
				var n int64
				return tx.QueryRowContext(ctx, query, int64(1)<<40).Scan(&n)
			})
		}()
		require.Error(t, <-done)
		require.NoError(t, db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			var n int64
			err := tx.QueryRowContext(ctx, query, 1000).Scan(&n)
			require.EqualValues(t, 1000, n)
			return err
		}))
	}
}
