package lnd_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/lndfake"
)

// TestAbandonIsRepeatable: an open that was cut off before lnd stored anything
// is abandoned too. Taking lnd's word for that ("unable to find closed channel
// summary") as a failure kept the payer's money held until its block margin.
func TestAbandonIsRepeatable(t *testing.T) {
	w := lndfake.New(lndfake.Config{Seed: 1})
	t.Cleanup(w.Close)
	n, err := w.AddNode("gateway", lndfake.NodeConfig{})
	require.NoError(t, err)
	c, err := lnd.Dial(lnd.Config{Address: "passthrough:///gateway", Network: "regtest", DialOptions: n.DialOptions()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.AbandonChannel(t.Context(), ln.Outpoint{TxID: ln.TxID{1}, Index: 1}))
}
