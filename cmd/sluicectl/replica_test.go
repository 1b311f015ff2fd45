package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestReplicaBaseHidesThePassword from the list of processes, which everybody on the
// machine reads.
func TestReplicaBaseHidesThePassword(t *testing.T) {
	dir := t.TempDir()
	raw, err := json.Marshal(handover{
		Version: handoverVersion, Tenant: "acme", Network: "regtest", Name: "sluice_acme", Database: "acme",
		Primary: "postgres://sluice_acme:s3cret@db.example:5432/acme?sslmode=verify-full", Password: "w",
	})
	require.NoError(t, err)
	file := filepath.Join(dir, "acme.replica")
	require.NoError(t, os.WriteFile(file, raw, 0o600))
	out, _, code := ctl(t, dir, "signer", "replica", "base", file, "--to", filepath.Join(dir, "it's mine"))
	require.Zero(t, code)
	env, args, found := strings.Cut(out, " pg_basebackup ")
	require.True(t, found, out)
	require.Equal(t, "PGPASSWORD='s3cret'", env)
	require.NotContains(t, args, "s3cret")
	require.Contains(t, args, `--pgdata='`+dir+`/it'\''s mine'`)
	require.Contains(t, args, "--dbname='postgres://sluice_acme@db.example:5432/?application_name=sluice_acme&sslmode=verify-full'")
}
