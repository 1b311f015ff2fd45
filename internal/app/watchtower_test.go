package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/config"
)

func TestWatchtowerSettings(t *testing.T) {
	for name, change := range map[string]func(*WatchtowerConfig){
		"a port and no address":     func(c *WatchtowerConfig) { c.Listen = "x:1" },
		"an address without a port": func(c *WatchtowerConfig) { c.Addresses = []string{"tower.example"} },
		"a key that is none":        func(c *WatchtowerConfig) { c.Allow = []string{"02"} },
		"notice beyond the end":     func(c *WatchtowerConfig) { c.Notice = c.RegisterFor },
		"a floor below lnd's":       func(c *WatchtowerConfig) { c.MinSweepFee = 999 },
		"no handshakes":             func(c *WatchtowerConfig) { c.Handshakes.Burst = 0 },
	} {
		c := DefaultConfig()
		change(&c.Watchtower)
		err := config.Validate(c)
		require.Error(t, err, name)
		require.Contains(t, err.Error(), "watchtower", name)
	}
	c := DefaultConfig()
	c.Watchtower.Listen, c.Watchtower.Addresses = "0.0.0.0:9911", []string{"tower.example:9911"}
	require.NoError(t, config.Validate(c))
	roles, err := ParseRoles([]string{"watchtower"})
	require.NoError(t, err)
	require.Equal(t, Roles{Watchtower: true}, roles)
	for _, network := range []string{"mainnet", "testnet", "signet", "regtest"} {
		_, err := genesis(network)
		require.NoError(t, err)
	}
	_, err = genesis("simnet")
	require.Error(t, err)
}

// TestWatchtowerAlone: it says what it lacks before it touches anything, and its
// macaroon can spend nothing.
func TestWatchtowerAlone(t *testing.T) {
	cfg := DefaultConfig()
	cfg.DataDir = filepath.Join(t.TempDir(), "none")
	err := Run(t.Context(), cfg, Roles{Watchtower: true}, zap.NewNop())
	require.ErrorContains(t, err, "watchtower.listen")
	require.NoDirExists(t, cfg.DataDir)
	cfg.DataDir, cfg.Lnd.Macaroon = "/d", "/d/lnd.macaroon"
	recipe := MacaroonRecipe(cfg, Roles{Watchtower: true}, 7)
	require.Equal(t, 7, strings.Count(recipe, "\n  uri:"))
	require.Contains(t, recipe, "spend nothing")
	require.NotContains(t, recipe, "your gateway's lnd")
	require.Contains(t, recipe, "watchtower.price_msat_per_update): 6 more")
	cfg.Watchtower.PriceMsat = 1
	priced := MacaroonRecipe(cfg, Roles{Watchtower: true}, 7)
	require.Equal(t, 13, strings.Count(priced, "\n  uri:"))
	for _, forbidden := range []string{"OpenChannel", "FinalizePsbt", "HtlcInterceptor", "SignMessage"} {
		require.NotContains(t, priced, forbidden)
	}
	require.Contains(t, MacaroonRecipe(cfg, Roles{Watchtower: true, LSP: true}, 7), "OpenChannel")
}

// TestKeyFile: a secret is made once, for its owner's eyes, and a damaged one is not
// replaced in silence.
func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tower.key")
	first, err := keyFile(path)
	require.NoError(t, err)
	require.Len(t, first, 32)
	again, err := keyFile(path)
	require.NoError(t, err)
	require.Equal(t, first, again)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
	require.NoError(t, os.WriteFile(path, []byte("no hex\n"), 0o600))
	_, err = keyFile(path)
	require.ErrorContains(t, err, "damaged")
}
