package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// TestTogether: writes that come while one is under way share the next transaction; one that
// fails, or whose caller has gone, undoes no other; each is durable when it returns nil.
func TestTogether(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		migrate(t, db)
		together := store.NewTogether(db, 20)
		errNo := errors.New("no")
		gone, cancel := context.WithCancel(t.Context())
		cancel()

		var transactions sync.Map
		var commits atomic.Int64
		write := func(ctx context.Context, i int) error {
			return together.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
				if err := insert(ctx, tx, fmt.Sprint(i), int64(i)); err != nil {
					return err
				}
				if i%25 == 7 {
					return errNo
				}
				if _, known := transactions.LoadOrStore(tx, true); !known {
					tx.OnCommit(func() { commits.Add(1) })
				}
				return nil
			})
		}
		var group sync.WaitGroup
		errs := make([]error, 200)
		for i := range errs {
			ctx := t.Context()
			if i%25 == 3 {
				ctx = gone
			}
			group.Go(func() { errs[i] = write(ctx, i) })
		}
		group.Wait()
		for i, err := range errs {
			_, missing := get(t, db, fmt.Sprint(i))
			switch i % 25 {
			case 7:
				require.ErrorIs(t, err, errNo)
				require.ErrorIs(t, missing, store.ErrNotFound)
			case 3:
				require.ErrorIs(t, err, context.Canceled)
				require.ErrorIs(t, missing, store.ErrNotFound)
			default:
				require.NoError(t, err)
				require.NoError(t, missing)
			}
		}

		// Without failures: fewer commits than writes.
		commits.Store(0)
		hold := make(chan struct{})
		group.Go(func() {
			require.NoError(t, together.Write(t.Context(), func(context.Context, *store.Tx) error { <-hold; return nil }))
		})
		for i := range 100 {
			group.Go(func() { require.NoError(t, write(t.Context(), 1000+25*i)) })
		}
		close(hold)
		group.Wait()
		require.Less(t, commits.Load(), int64(60), "they share")
	})
}
