package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/store"
)

// The benchmarks that need no nodes run: what they stand on changes with the
// service, and nobody runs them every day.
func TestBenchmarksOfTheDeskRun(t *testing.T) {
	b := &bench{out: t.Output(), requests: 60, sets: 3, seed: 1, began: time.Now()}
	m, err := b.measureLSPS(t.Context(), store.SQLite)
	require.NoError(t, err)
	require.Len(t, m.all, 60)
	require.NotEmpty(t, m.buys)
	p, err := b.measureMPP(t.Context(), store.SQLite)
	require.NoError(t, err)
	require.Equal(t, 3*mppParts, p.parts)
	require.Greater(t, p.rows, 3*mppParts)
}
