package towertest_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/watchtower/towertest"
)

// TestSearches: both lookouts find every breach in the hay. SLUICE_RUNS makes it
// larger.
func TestSearches(t *testing.T) {
	hay := towertest.Hay{Updates: 3000, Breaches: 10, BlockTxs: 200}
	if n, err := strconv.Atoi(os.Getenv("SLUICE_RUNS")); err == nil {
		hay = towertest.Hay{Updates: n * 10, Breaches: 40, BlockTxs: 4000}
	}
	dir := t.TempDir()
	began := time.Now()
	require.NoError(t, hay.FillOurs(t.Context(), dir))
	t.Logf("ours filled in %s", time.Since(began))
	took, err := hay.SearchOurs(t.Context(), dir)
	require.NoError(t, err)
	t.Logf("ours: %s", took)
	began = time.Now()
	require.NoError(t, hay.FillTheirs(dir))
	t.Logf("lnd's filled in %s", time.Since(began))
	took, err = hay.SearchTheirs(t.Context(), dir)
	require.NoError(t, err)
	t.Logf("lnd's: %s", took)
}
