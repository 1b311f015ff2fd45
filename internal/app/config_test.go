package app

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/config"
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

// TestMenusInOrder: sluiced does not start with a menu that breaks bLIP-52's order,
// neither for everybody nor for a token, and "sluiced config check" says so.
func TestMenusInOrder(t *testing.T) {
	item := func(fee config.Msat, ppm uint32) MenuItem {
		return MenuItem{MinFee: fee, PPM: ppm, MinLifetime: 4_320, MaxSelfDelay: 2016, MinPayment: 10_000_000, MaxPayment: 1_000_000_000}
	}
	for name, c := range map[string]struct {
		menu []MenuItem
		ok   bool
	}{
		"rising":             {[]MenuItem{item(2_000_000, 1_000), item(2_000_000, 2_000), item(3_000_000, 2_000)}, true},
		"the same again":     {[]MenuItem{item(2_000_000, 1_000), item(2_000_000, 1_000)}, false},
		"a lower fee":        {[]MenuItem{item(2_000_000, 1_000), item(1_000_000, 2_000)}, false},
		"a lower proportion": {[]MenuItem{item(2_000_000, 1_000), item(3_000_000, 500)}, false},
	} {
		for where, set := range map[string]func(*Config){
			"for everybody": func(g *Config) { g.LSP.Menu = c.menu },
			"for a token":   func(g *Config) { g.LSP.Tokens = []TokenItem{{Token: "SALE", Menu: c.menu}} },
		} {
			g := DefaultConfig()
			set(&g)
			_, err := g.lspConfig(ln.PubKey{2}, nil)
			require.Equal(t, c.ok, err == nil, "%s, %s: %v", name, where, err)
			if !c.ok {
				require.Error(t, g.Validate(), "%s, %s", name, where)
			}
		}
	}
}
