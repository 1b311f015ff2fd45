package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// TestStatusTellsOfAnOlderCopy: the operator reads how the database was recognised as one.
func TestStatusTellsOfAnOlderCopy(t *testing.T) {
	text, err := statusText(&lspv1.GetStatusResponse{RestoredReason: "lnd has channel 7:1"}, nil, time.Now())
	require.NoError(t, err)
	require.Regexp(t, "Database +an older copy was put back.*lnd has channel 7:1", text)
	text, err = statusText(&lspv1.GetStatusResponse{}, nil, time.Now())
	require.NoError(t, err)
	require.NotContains(t, text, "Database")
}
