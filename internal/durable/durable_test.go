package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/durable"
)

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(path, []byte("a longer content before"), 0o644)) //nolint:gosec // that is what is tested
	for _, mode := range []os.FileMode{0o600, 0o644} {
		require.NoError(t, durable.WriteFile(path, []byte("new"), mode))
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, "new", string(got))
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), "whatever mode it had before")
	}
	// One that cannot be replaced stays, and nothing is left beside it.
	require.NoError(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
	require.Error(t, durable.WriteFile(filepath.Join(dir, "folder"), []byte("x"), 0o600))
	require.ErrorIs(t, durable.WriteFile(filepath.Join(dir, "none", "file"), nil, 0o600), os.ErrNotExist)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2)
}
