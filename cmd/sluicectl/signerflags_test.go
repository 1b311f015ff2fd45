package main

import (
	"path/filepath"
	"testing"

	agelib "filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/cli"
)

// TestSignerInitChecksFirst: a slip is told before anybody has made a wallet for it, and no
// flag's content is repeated that may be a secret.
func TestSignerInitChecksFirst(t *testing.T) {
	key, err := agelib.GenerateX25519Identity()
	require.NoError(t, err)
	for name, row := range map[string]struct{ flag, value, said string }{
		"a name that is none":      {"--tenant", "Acme_1", "--tenant"},
		"no port":                  {"--address", "signer.example", "--address"},
		"a port of letters":        {"--address", "signer.example:rpc", "--address"},
		"a word that is no host":   {"--address", "signer example:10019", "--address"},
		"a key of another kind":    {"--operator", "ssh-ed25519 AAAA", "begins with age1"},
		"the operator's secret":    {"--operator", key.String(), "begins with age1"},
		"a day that is none":       {"--birthday", "yesterday", "--birthday"},
		"the guard's listener":     {"--guard-listen", "10029", "--guard-listen"},
		"the signer's own address": {"--rpc", "10019", "--rpc"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			flags := map[string]string{
				"--dir": filepath.Join(dir, "signer"), "--guard": filepath.Join(dir, "guard"), "--tenant": "acme", "--operator": key.Recipient().String(),
				"--address": "signer.example:10029", "--network": "regtest", "--out": filepath.Join(dir, "acme.bundle"), "--wait": "1ms",
			}
			flags[row.flag] = row.value
			args := []string{"signer", "init"}
			for f, v := range flags {
				args = append(args, f, v)
			}
			_, errs, code := ctl(t, dir, args...)
			require.Equal(t, cli.ExitUsage, code)
			require.Contains(t, errs, row.said)
			require.NotContains(t, errs, key.String())
			require.NoDirExists(t, filepath.Join(dir, "signer"))
		})
	}
}
