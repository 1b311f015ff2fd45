package app

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	lspapi "github.com/sluice-lsp/sluice/lsp/api"
)

// TestSplitProcessesOfARestoredDatabase: the interceptor and the services are
// processes of their own and share a database, which is restored. That one of
// them has accepted it must not keep the other from recognising it.
func TestSplitProcessesOfARestoredDatabase(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		start := func(dir string, roles Roles) *Daemon {
			d := &Daemon{cfg: DefaultConfig(), roles: roles, log: zaptest.NewLogger(t), now: time.Now, db: db}
			d.cfg.DataDir = dir
			d.cfg.Interceptor.LeaseFor = 0 // nobody renews a lease here
			require.NoError(t, d.recogniseRestore(t.Context()))
			return d
		}
		holds, serves := t.TempDir(), t.TempDir()
		interceptor, services := Roles{Interceptor: true}, Roles{LSP: true}
		require.Empty(t, start(holds, interceptor).restored)
		// Joining a database with a past makes it suspect, once.
		accept := func(d *Daemon) {
			for _, role := range []string{serviceInterceptor, lspapi.Name, "backups"} {
				require.NoError(t, d.acceptRestore(t.Context(), role))
			}
		}
		accept(start(serves, services))
		require.Empty(t, start(serves, services).restored)

		older := rowsOfGeneration(t, db)
		require.Empty(t, start(holds, interceptor).restored)
		require.Empty(t, start(serves, services).restored)
		older(t)

		// The interceptor recognises it, reconciles and accepts, and goes on for long.
		d := start(holds, interceptor)
		require.Equal(t, interceptor, d.restored)
		require.NoError(t, d.acceptRestore(t.Context(), serviceInterceptor))
		for range 50 {
			_, err := store.Advance(t.Context(), db, filepath.Join(holds, fileGeneration))
			require.NoError(t, err)
		}
		require.Empty(t, start(holds, interceptor).restored)

		// The services have not, whichever machine they start on.
		require.Equal(t, services, start(serves, services).restored)
		require.NoError(t, os.Remove(filepath.Join(serves, fileGeneration)))
		d = start(serves, services)
		require.Equal(t, services, d.restored)
		accept(d)
		require.Empty(t, start(serves, services).restored)
		require.Empty(t, start(holds, interceptor).restored)
	})
}

// rowsOfGeneration remembers what the database says of generations; what it
// returns puts that back, as a restored dump would.
func rowsOfGeneration(t *testing.T, db *store.DB) func(*testing.T) {
	t.Helper()
	copied := func(ctx context.Context, tx *store.Tx, statements ...string) error {
		for _, s := range statements {
			if _, err := tx.ExecContext(ctx, s); err != nil {
				return err
			}
		}
		return nil
	}
	require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		return copied(ctx, tx, "CREATE TABLE old_meta AS SELECT * FROM store_meta", "CREATE TABLE old_files AS SELECT * FROM store_files")
	}))
	return func(t *testing.T) {
		t.Helper()
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			return copied(ctx, tx, "DELETE FROM store_meta", "INSERT INTO store_meta SELECT * FROM old_meta",
				"DELETE FROM store_files", "INSERT INTO store_files SELECT * FROM old_files")
		}))
	}
}
