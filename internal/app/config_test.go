package app

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPartsGoBackBeforeTheInterceptorFailsThem: lsp gives all parts back
// together, so it must be earlier than the interceptor, which goes part by part.
func TestPartsGoBackBeforeTheInterceptorFailsThem(t *testing.T) {
	c := DefaultConfig()
	require.NoError(t, c.Validate())
	c.Interceptor.FailSafetyBlocks = c.LSP.HoldMargin
	require.ErrorContains(t, c.Validate(), "lsp.hold_margin_blocks")
	c.LSP.HoldMargin++
	require.NoError(t, c.Validate())
}
