package lndtest

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	lndtower "github.com/lightningnetwork/lnd/watchtower"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
)

var _ lndtower.DB = (*DB)(nil)

// TestLndsOwnSuite runs lnd's TestTowerDB on both of our databases.
func TestLndsOwnSuite(t *testing.T) {
	const (
		lnd  = "github.com/lightningnetwork/lnd"
		mock = "wtmock.NewTowerDB()"
		home = `"github.com/lightningnetwork/lnd/watchtower/wtmock"`
	)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	where, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", lnd).Output()
	require.NoError(t, err)
	suite, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(where)), "watchtower", "wtdb", "tower_db_test.go"))
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(suite), mock), "lnd's suite has changed: see where it makes its mock")
	require.Equal(t, 1, strings.Count(string(suite), home))
	text := strings.Replace(string(suite), home, `"github.com/sluice-lsp/sluice/watchtower/lndtest"`, 1)
	text = strings.Replace(text, mock, "lndtest.New()", 1)
	dir := t.TempDir()
	changed := filepath.Join(dir, "tower_db_test.go")
	require.NoError(t, os.WriteFile(changed, []byte(text), 0o600))
	here, err := os.Getwd()
	require.NoError(t, err)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(here, "testdata", "suite", "tower_db_test.go"): changed}})
	require.NoError(t, err)
	file := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(file, overlay, 0o600))

	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		cmd := exec.CommandContext(ctx, "go", "test", "-overlay", file, "-vet=off", "-count=1", "-v", "-run", "^TestTowerDB$/^mock$", "./testdata/suite")
		cmd.Env = append(os.Environ(), envEngine+"="+string(cfg.Engine), envPath+"="+cfg.Path, envDSN+"="+cfg.DSN)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		passed := regexp.MustCompile(`(?m)^ +--- PASS: TestTowerDB/mock/(\S+)`).FindAllStringSubmatch(string(out), -1)
		require.GreaterOrEqual(t, len(passed), 13, "lnd v0.21 has 13 cases:\n%s", out)
		require.NotContains(t, string(out), "--- SKIP")
		// It did run on this database: the last case left its registration.
		tenants, err := tower.New(storetest.Open(t, cfg)).Tenants(t.Context(), "", 10)
		require.NoError(t, err)
		require.Len(t, tenants, 1)
	})
}
