package app

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
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

// TestSlotsOfAChannelAreLeft: what is intercepted and what hold invoices accept is
// bounded by two limits that know nothing of each other.
func TestSlotsOfAChannelAreLeft(t *testing.T) {
	c := DefaultConfig()
	c.Interceptor.MaxHeldPerChannel = lsp.ChannelSlots - c.LSP.HeldHtlcsChannel
	require.ErrorContains(t, c.Validate(), "lsp.held_htlcs_per_channel")
	c.Interceptor.MaxHeldPerChannel--
	require.NoError(t, c.Validate())
	c.Interceptor.MaxHeldPerChannel, c.LSP.HeldHtlcsChannel = lsp.ChannelSlots-1, 0
	require.NoError(t, c.Validate(), "who wants none has none")
}

// TestServicesJudgeBeforeTheInterceptor: they know which payment has to make room. The
// interceptor only knows which HTLC came last.
func TestServicesJudgeBeforeTheInterceptor(t *testing.T) {
	c := DefaultConfig()
	c.Interceptor.MaxHeldPerChannel = c.Holds.Incoming + c.LSP.HeldHtlcsChannel - 1
	require.ErrorContains(t, c.Validate(), "interceptor.max_held_per_channel")
	c.Holds.Enabled = false
	require.NoError(t, c.Validate())
	c.Holds.Enabled = true
	c.Holds.Incoming--
	require.NoError(t, c.Validate())
}

// TestOrdersFollowTheLargestChannel: whoever allows smaller channels only need
// not say it twice.
func TestOrdersFollowTheLargestChannel(t *testing.T) {
	c := DefaultConfig()
	c.LSP.MaxChannel = 1_500_000
	got, err := c.lspConfig(ln.PubKey{2}, nil)
	require.NoError(t, err)
	require.EqualValues(t, 1_500_000, got.Orders.Options.MaxChannelSat)
	require.EqualValues(t, 1_500_000, got.Orders.Options.MaxLspSat)
	c.LSP.Orders.MaxChannel = 1_500_001
	_, err = c.lspConfig(ln.PubKey{2}, nil)
	require.ErrorContains(t, err, "max_channel_balance_sat")
}
