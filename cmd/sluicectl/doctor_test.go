package main

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
)

// TestServed: the doctor knows what sluiced has turned on by which services it has.
func TestServed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gateway")
	addr, stop := startFake(t, dir)
	defer stop()
	g := &Globals{Server: addr, DataDir: dir, Timeout: 15 * time.Second}
	require.NoError(t, g.with(func(s *session) error {
		require.True(t, served(t.Context(), s, swapsOf(s).GetStatus, &swapsv1.GetStatusRequest{}))
		require.True(t, served(t.Context(), s, fundingsOf(s).FindFundings, &collabv1.FindFundingsRequest{Limit: 1}))
		off := swapsv1.NewChannelSwapsServiceClient(s.conn)
		require.False(t, served(t.Context(), s, off.QuoteChannelSwap, &swapsv1.QuoteChannelSwapRequest{}))
		return nil
	}))
	out, err := askSluiced(t.Context(), g)
	require.NoError(t, err)
	require.True(t, out.Swaps && out.Joint)
}
