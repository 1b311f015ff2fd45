package app

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lnd"
)

// TestMacaroonRecipe: it has the rights of what is turned on and of nothing else, says
// what its holder can do, and how it is ended.
func TestMacaroonRecipe(t *testing.T) {
	rights := func(recipe string) []string {
		return slices.DeleteFunc(strings.Fields(recipe), func(word string) bool { return !strings.HasPrefix(word, "uri:") })
	}
	all, err := ParseRoles(nil)
	require.NoError(t, err)
	cfg := DefaultConfig()
	cfg.Lnd.Macaroon = "/etc/sluice/lnd.macaroon"
	recipe := MacaroonRecipe(cfg, all, 21)
	require.ElementsMatch(t, lnd.GatewayRights(), rights(recipe))
	for _, says := range []string{
		"--root_key_id 21 ", "lncli deletemacaroonid 21", "/etc/sluice/lnd.macaroon", "spend everything",
		"swaps.enabled", "joint.enabled", "lsp.close_unused_after_blocks",
	} {
		require.Contains(t, recipe, says)
	}

	cfg.Swaps.Enabled, cfg.Joint.Enabled, cfg.LSP.CloseUnused = true, true, 1_008
	recipe = MacaroonRecipe(cfg, all, 21)
	want := slices.Concat(lnd.GatewayAndSwapsRights(), lnd.JointRights(), lnd.ClosingRights())
	slices.Sort(want)
	require.ElementsMatch(t, slices.Compact(want), rights(recipe))
	require.NotContains(t, recipe, "Not among them")

	require.ElementsMatch(t, lnd.GatewayAndSwapsRights(), rights(MacaroonRecipe(cfg, Roles{Swaps: true}, 21)))
	require.Contains(t, MacaroonRecipe(cfg, Roles{Backups: true}, 21), "These services alone call fewer")
}
