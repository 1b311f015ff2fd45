package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// TestFrozenTransactionLetsOthersOn: a process that stands still inside a
// transaction, as a frozen one does, holds nobody up for long.
func TestFrozenTransactionLetsOthersOn(t *testing.T) {
	cfg := storetest.Postgres(t)
	frozen, standby := storetest.Open(t, cfg), storetest.Open(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	lease, err := frozen.AcquireLease(ctx, store.LeaseConfig{Name: "frozen", Owner: "a"})
	require.NoError(t, err)
	require.NoError(t, lease.Release(ctx))

	const touch = "UPDATE store_leases SET expires_ms = expires_ms WHERE name = 'frozen'"
	locked, thaw, ended := make(chan struct{}, 100), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- frozen.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
			if _, err := tx.ExecContext(ctx, touch); err != nil {
				return err
			}
			locked <- struct{}{}
			<-thaw
			return nil
		})
	}()
	<-locked
	other, err := standby.AcquireLease(ctx, store.LeaseConfig{Name: "frozen", Owner: "b"})
	require.NoError(t, err)
	require.NoError(t, other.Release(ctx))
	close(thaw)
	<-ended
}
