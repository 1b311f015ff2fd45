package sqlkeys_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/auth/sqlkeys"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// Two replicas that start at once end with one key, and a revoked one is gone.
func TestReplicasShareOneKey(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		require.NoError(t, sqlkeys.Migrate(t.Context(), db))
		one, two := sqlkeys.New(db), sqlkeys.New(db)
		_, err := one.RootKey(t.Context(), 1)
		require.ErrorIs(t, err, errkind.NotFound)
		first, err := one.PutRootKey(t.Context(), 1, []byte("first"))
		require.NoError(t, err)
		second, err := two.PutRootKey(t.Context(), 1, []byte("second"))
		require.NoError(t, err)
		require.Equal(t, first, second)
		require.NoError(t, two.DeleteRootKey(t.Context(), 1))
		_, err = one.RootKey(t.Context(), 1)
		require.ErrorIs(t, err, errkind.NotFound)
		_, err = one.RootKey(t.Context(), 1<<63)
		require.ErrorIs(t, err, errkind.Invalid)
	})
}
