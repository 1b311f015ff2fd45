package store_test

import (
	"context"
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

// What is written at the same time shares transactions, each gets its own
// outcome, and who fails or has gone undoes no other.
func TestWriteTogether(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var begun atomic.Int64
		cfg.Hooks = &store.Hooks{Begin: func(readOnly bool) error {
			if !readOnly {
				begun.Add(1)
			}
			return nil
		}}
		db := storetest.Open(t, cfg)
		migrate(t, db)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		bad := errors.New("refused")
		const n = 200
		outcomes := make([]error, n)
		before := begun.Load()
		// While this one runs the others gather.
		hold := make(chan struct{})
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				_ = db.WriteTogether(t.Context(), func(context.Context, *store.Tx) error {
					<-hold
					return nil
				})
			})
			require.Eventually(t, func() bool { return begun.Load()-before+int64(db.Waiting()) == int64(i)+1 }, 30*time.Second, time.Millisecond)
		}
		for i := range n {
			all.Go(func() {
				ctx := t.Context()
				if i%50 == 7 {
					ctx = gone
				}
				outcomes[i] = db.WriteTogether(ctx, func(ctx context.Context, tx *store.Tx) error {
					if i%50 == 3 {
						return bad
					}
					return insert(ctx, tx, fmt.Sprint(i), 1)
				})
			})
		}
		require.Eventually(t, func() bool { return db.Waiting() >= n }, 30*time.Second, time.Millisecond)
		close(hold)
		all.Wait()
		for i, err := range outcomes {
			_, stored := get(t, db, fmt.Sprint(i))
			switch i % 50 {
			case 3:
				require.ErrorIs(t, err, bad)
				require.ErrorIs(t, stored, store.ErrNotFound)
			case 7:
				require.ErrorIs(t, err, context.Canceled)
				require.ErrorIs(t, stored, store.ErrNotFound)
			default:
				require.NoError(t, err)
				require.NoError(t, stored)
			}
		}
		require.Less(t, begun.Load()-before, int64(n/2), "they shared transactions")
	})
}

// A later write of a shared transaction sees what an earlier one did, their
// functions run once it is durable, and a nested one is refused.
func TestWritesOfOneTransaction(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		migrate(t, db)
		require.NoError(t, db.WriteTogether(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			require.Error(t, db.WriteTogether(ctx, func(context.Context, *store.Tx) error { return nil }))
			return insert(ctx, tx, "n", 0)
		}))
		const n = 60
		var all sync.WaitGroup
		var committed atomic.Int64
		for range n {
			all.Go(func() {
				require.NoError(t, db.WriteTogether(t.Context(), func(ctx context.Context, tx *store.Tx) error {
					var have int64
					if err := tx.QueryRowContext(ctx, "SELECT n FROM things WHERE id = $1", "n").Scan(&have); err != nil {
						return err
					}
					tx.OnCommit(func() { committed.Add(1) })
					_, err := tx.ExecContext(ctx, "UPDATE things SET n = $1 WHERE id = $2", have+1, "n")
					return err
				}))
			})
		}
		all.Wait()
		have, err := get(t, db, "n")
		require.NoError(t, err)
		require.EqualValues(t, n, have)
		require.EqualValues(t, n, committed.Load())
	})
}

// Of a shared commit whose answer was lost each is told so, and none is done
// again: it may be durable.
func TestSharedCommitOfUnknownOutcome(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var lose atomic.Bool
		cfg.Hooks = &store.Hooks{AfterCommit: func() error {
			if lose.Load() {
				return fmt.Errorf("%w: %w", store.ErrUnavailable, store.ErrOutcomeUnknown)
			}
			return nil
		}}
		db := storetest.Open(t, cfg)
		migrate(t, db)
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error { return insert(ctx, tx, "n", 0) }))
		const n = 40
		lose.Store(true)
		var all sync.WaitGroup
		var unsure, runs atomic.Int64
		for range n {
			all.Go(func() {
				err := db.WriteTogether(t.Context(), func(ctx context.Context, tx *store.Tx) error {
					runs.Add(1)
					tx.OnUnknown(func() { unsure.Add(1) })
					tx.OnCommit(func() { t.Error("nobody knows that it is durable") })
					_, err := tx.ExecContext(ctx, "UPDATE things SET n = n + 1 WHERE id = $1", "n")
					return err
				})
				require.ErrorIs(t, err, store.ErrOutcomeUnknown)
			})
		}
		all.Wait()
		lose.Store(false)
		have, err := get(t, db, "n")
		require.NoError(t, err)
		require.EqualValues(t, n, have, "each took place once")
		require.EqualValues(t, n, unsure.Load())
		require.GreaterOrEqual(t, runs.Load(), int64(n))
	})
}

// One whose caller has gone while it waits keeps no others; when all have gone
// the transaction ends.
func TestSharedTransactionEndsWithItsCallers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		migrate(t, db)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var entered atomic.Int64
		for i := range 12 {
			all.Go(func() {
				err := db.WriteTogether(ctx, func(ctx context.Context, tx *store.Tx) error {
					entered.Add(1)
					if i == 0 {
						<-ctx.Done()
						return ctx.Err()
					}
					<-ctx.Done()
					return insert(ctx, tx, fmt.Sprint(i), 1)
				})
				require.ErrorIs(t, err, context.Canceled)
			})
		}
		require.Eventually(t, func() bool { return entered.Load() > 0 }, 30*time.Second, time.Millisecond)
		cancel()
		all.Wait()
	})
}
