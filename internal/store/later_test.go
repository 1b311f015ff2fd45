package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// Statements that gather keep their order among those that are waited for, and of
// those that fail, or do not do what they must, only their own writer learns.
func TestStatementsThatGather(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		migrate(t, db)
		stale := errors.New("stale")
		taken := errors.New("taken")
		later := func(ctx context.Context, tx *store.Tx, id string, n int64) error {
			_, err := tx.Later(func(_ int64, err error) error {
				if errors.Is(store.MapError(err), store.ErrUnique) {
					return fmt.Errorf("%w: %w", taken, err)
				}
				return err
			}).ExecContext(ctx, "INSERT INTO things (id, n, raw, ok) VALUES ($1, $2, $3, $4)", id, n, []byte{0, 255}, true)
			return err
		}
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error { return later(ctx, tx, "taken", 1) }))
		const n = 40
		hold, holds := make(chan struct{}), make(chan struct{})
		var all sync.WaitGroup
		all.Go(func() {
			require.NoError(t, db.WriteTogether(t.Context(), func(context.Context, *store.Tx) error {
				close(holds)
				<-hold
				return nil
			}))
		})
		<-holds
		var done atomic.Int64
		errs := make([]error, n)
		for i := range n {
			all.Go(func() {
				id := fmt.Sprint(i)
				errs[i] = db.WriteTogether(t.Context(), func(ctx context.Context, tx *store.Tx) error {
					if i%10 == 3 {
						id = "taken"
					}
					if err := later(ctx, tx, id, 1); err != nil {
						return err
					}
					want := int64(1)
					if i%10 == 5 {
						want = 7 // which no row has
					}
					if _, err := tx.Later(store.OneRow(stale)).ExecContext(ctx, "UPDATE things SET n = n + 1 WHERE id = $1 AND n = $2", id, want); err != nil {
						return err
					}
					if i%2 == 0 {
						var have int64
						if err := tx.QueryRowContext(ctx, "SELECT n FROM things WHERE id = $1", id).Scan(&have); err != nil {
							return err
						}
						if have != 2 {
							return fmt.Errorf("what gathered has not run: %d", have)
						}
					}
					return nil
				})
				done.Add(1)
			})
		}
		require.Eventually(t, func() bool { return db.Waiting()+int(done.Load()) == n }, 30*time.Second, time.Millisecond)
		close(hold)
		all.Wait()
		for i, err := range errs {
			have, getErr := get(t, db, fmt.Sprint(i))
			switch i % 10 {
			case 3:
				require.ErrorIs(t, err, taken)
				require.ErrorIs(t, err, store.ErrUnique)
				require.ErrorIs(t, getErr, store.ErrNotFound)
			case 5:
				require.ErrorIs(t, err, stale, "%d", i)
				require.ErrorIs(t, getErr, store.ErrNotFound)
			default:
				require.NoError(t, err)
				require.NoError(t, getErr)
				require.EqualValues(t, 2, have)
			}
		}
		have, err := get(t, db, "taken")
		require.NoError(t, err)
		require.EqualValues(t, 1, have)
	})
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Every kind of value that tables have comes out of a statement that gathers as
// it comes out of any other.
func TestValuesThatGather(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		migrate(t, db)
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.ExecContext(ctx, "CREATE TABLE kinds (id BIGINT NOT NULL PRIMARY KEY, b BYTEA, n BIGINT NOT NULL, s TEXT NOT NULL, t BOOLEAN NOT NULL)")
			return err
		}))
		type row struct {
			b []byte
			n int64
			s string
			t bool
		}
		rows := []row{{[]byte{0, 255, 1}, -1 << 63, "é ' \"", true}, {nil, 1<<63 - 1, "", false}, {[]byte{}, 0, "x", true}}
		for i, r := range rows {
			for j, by := range []func(*store.Tx) execer{
				func(tx *store.Tx) execer { return tx }, func(tx *store.Tx) execer { return tx.Later(nil) },
			} {
				require.NoError(t, db.WriteTogether(t.Context(), func(ctx context.Context, tx *store.Tx) error {
					_, err := by(tx).ExecContext(ctx, "INSERT INTO kinds (id, b, n, s, t) VALUES ($1, $2, $3, $4, $5)", int64(2*i+j), r.b, r.n, r.s, r.t)
					return err
				}))
			}
		}
		require.NoError(t, db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			for i := range rows {
				var got [2]row
				for j := range got {
					if err := tx.QueryRowContext(ctx, "SELECT b, n, s, t FROM kinds WHERE id = $1", int64(2*i+j)).Scan(&got[j].b, &got[j].n, &got[j].s, &got[j].t); err != nil {
						return err
					}
				}
				require.Equal(t, got[0], got[1])
				require.Equal(t, rows[i].n, got[1].n)
				require.Equal(t, rows[i].s, got[1].s)
			}
			return nil
		}))
	})
}
