package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	lspstore "github.com/sluice-lsp/sluice/lsp/store"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// TestWriteTogether: what is written at the same time shares transactions, each
// gets its own outcome, and who fails or has gone undoes no other.
func TestWriteTogether(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		require.NoError(t, lspstore.Migrate(t.Context(), db))
		e := &Engine{db: db, ctx: t.Context()}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		bad := errors.New("refused")
		const n = 200
		outcomes := make([]error, n)
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				ctx := t.Context()
				if i%50 == 7 {
					ctx = gone
				}
				outcomes[i] = e.writeTogether(ctx, func(ctx context.Context, tx *store.Tx) error {
					if i%50 == 3 {
						return bad
					}
					return lspdb.New(tx).PutSetting(ctx, lspdb.PutSettingParams{Name: fmt.Sprint(i), Value: []byte{1}})
				})
			})
		}
		all.Wait()
		for i, err := range outcomes {
			stored := false
			require.NoError(t, db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) error {
				_, err := lspdb.New(tx).GetSetting(ctx, fmt.Sprint(i))
				stored = err == nil
				return nil
			}))
			switch i % 50 {
			case 3:
				require.ErrorIs(t, err, bad)
				require.False(t, stored)
			case 7:
				require.ErrorIs(t, err, context.Canceled)
				require.False(t, stored)
			default:
				require.NoError(t, err)
				require.True(t, stored)
			}
		}
		require.False(t, e.together.busy)
	})
}
