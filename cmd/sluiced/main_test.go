package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/cli"
)

func call(t *testing.T, vars []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(&env{ctx: t.Context(), stdout: &out, stderr: &errs, vars: vars}, args)
	return code, out.String(), errs.String()
}

// Exit codes tell programs what happened, and sentences tell people what to do
// next.
func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	file := func(content string) string {
		path := filepath.Join(dir, "sluiced.toml")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{nil, 2, "", `Try "sluiced --help".`},
		{[]string{"frobnicate"}, 2, "", `Try "sluiced --help".`},
		{[]string{"config"}, 2, "", `Try "sluiced config --help".`},
		{[]string{"run", "--nonsense"}, 2, "", `Try "sluiced run --help".`},
		{[]string{"run", "--help"}, 0, "Usage: sluiced run", ""},
		{[]string{"--version"}, 0, "sluiced ", ""},
		{[]string{"version"}, 0, "sluiced ", ""},
		{[]string{"completion", "tcsh"}, 2, "", `Try "sluiced completion --help".`},
		{[]string{"run", "tower"}, 2, "", "there is no service"},
		{[]string{"macaroon", "tower"}, 2, "", "there is no service"},
		{[]string{"macaroon", "--root-key-id", "0"}, 2, "", "lnd never deletes that one"},
		{[]string{"macaroon", "--root-key-id", "7", "--set", "swaps.enabled=true"}, 0, "SendPaymentV2", ""},
		{[]string{"macaroon"}, 0, "lncli bakemacaroon --save_to lnd.macaroon --root_key_id 10200 ", ""},
		{[]string{"run", "swaps", "--set", "data_dir=" + dir}, 1, "", "swaps are not enabled"},
		{[]string{"config", "sample"}, 0, "[lsp]", ""},
		{[]string{"config", "check"}, 0, "these are the defaults", "lnd.macaroon_file"},
		{[]string{"config", "check", "-c", filepath.Join(dir, "none.toml")}, 1, "", "no such file"},
		{[]string{"config", "check", "-c", file("[lsp]\nmin_channel_sat = -5\n")}, 1, "", "lsp.min_channel_sat: negative integer value -5 does not fit this setting"},
		{[]string{"run"}, 1, "", "lnd writes when it first starts"},
	} {
		code, stdout, stderr := call(t, nil, c.args...)
		require.Equal(t, c.code, code, "%v\n%s%s", c.args, stdout, stderr)
		require.Contains(t, stdout, c.stdout, c.args)
		require.Contains(t, stderr, c.stderr, c.args)
		require.NotContains(t, stderr, "config.Sat", "Go's types are nothing for an operator")
		if c.code == cli.ExitUsage {
			require.Empty(t, stdout, c.args)
		}
	}
	code, stdout, _ := call(t, nil, "version", "--json")
	require.Zero(t, code)
	var v cli.Version
	require.NoError(t, json.Unmarshal([]byte(stdout), &v))
	require.NotEmpty(t, v.Go)
	for _, shell := range cli.Shells() {
		code, stdout, stderr := call(t, nil, "completion", shell)
		require.Zero(t, code, stderr)
		require.Contains(t, stdout, "migrate", shell)
	}
}

func TestMigrateNeedsNoNode(t *testing.T) {
	dir := t.TempDir()
	code, stdout, stderr := call(t, []string{"SLUICE_DATA_DIR=" + dir}, "migrate")
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "up to date")
	_, err := os.Stat(filepath.Join(dir, "sluice.db"))
	require.NoError(t, err)
}
