package main

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	agelib "filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

func TestUnitOwner(t *testing.T) {
	known := map[string]*user.User{"lnd": {Username: "lnd", Uid: "990", Gid: "991"}, "ann": {Username: "ann", Uid: "1000", Gid: "1000"}}
	lookup := func(name string) (*user.User, error) {
		if u := known[name]; u != nil {
			return u, nil
		}
		return nil, user.UnknownUserError(name)
	}
	for _, row := range []struct {
		named   string
		who     runner
		want    string
		uid     int
		refused string
	}{
		{"", runner{uid: 1000, name: "ann"}, "ann", 1000, ""},
		{"ann", runner{uid: 1000, name: "ann"}, "ann", 1000, ""},
		{"lnd", runner{uid: 1000, name: "ann"}, "", 0, "could not read the files that ann writes"},
		{"", runner{uid: 0, name: "root"}, "lnd", 990, ""},
		{"ann", runner{uid: 0, name: "root"}, "ann", 1000, ""},
		{"bob", runner{uid: 0, name: "root"}, "", 0, "no user bob on this machine"},
	} {
		row.who.lookup = lookup
		got, err := row.who.unitOwner(row.named)
		if row.refused != "" {
			require.ErrorContains(t, err, row.refused)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, row.want, got.name)
		require.Equal(t, row.uid, got.uid)
	}
}

// TestUnitsCanReadTheirFiles: what root writes for a unit belongs to the unit's user, or
// lnd does not start: the files are readable to their owner alone.
func TestUnitsCanReadTheirFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	nobody, err := user.Lookup("nobody")
	if errors.Is(err, user.UnknownUserError("nobody")) {
		t.Skip(err)
	}
	require.NoError(t, err)
	owned := func(path string) {
		t.Helper()
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, nobody.Uid, strconv.FormatUint(uint64(info.Sys().(*syscall.Stat_t).Uid), 10), path) //nolint:forcetypeassert // Linux
	}
	dir := t.TempDir()
	key, err := agelib.GenerateX25519Identity()
	require.NoError(t, err)
	at := filepath.Join(dir, "signer")
	for range 2 {
		_, _, code := ctl(t, dir, "signer", "init", "--dir", at, "--tenant", "acme", "--operator", key.Recipient().String(), "--address", "signer.example:10019",
			"--network", "regtest", "--out", filepath.Join(dir, "acme.bundle"), "--wait", "1ms", "--form", "systemd", "--user", "nobody")
		require.Equal(t, 1, code, "nobody starts it here")
		owned(at)
		owned(filepath.Join(at, "lnd.conf"))
	}
	guard := filepath.Join(dir, "guard")
	c := SignerInitCmd{Tenant: "acme", Address: "signer.example:10029", Guard: guard, GuardAt: "0.0.0.0:10029", Form: "systemd", User: "nobody"}
	c.RPC, c.Network = "127.0.0.1:10019", "regtest"
	b := sampleBundle(t, c.Address)
	require.NoError(t, c.guard(&world{ctx: t.Context(), now: fakeNow}, &b, func(string, ...any) {}))
	for _, name := range []string{".", "policy.toml", "accounts.json", "host.key", guardSignerCert, guardSignerMacaroon, guardCert, guardKey} {
		owned(filepath.Join(guard, name))
	}
	node := filepath.Join(dir, "node")
	add := TenantAddCmd{Tenant: "acme", Network: "regtest", Dir: node, NodeRPC: "127.0.0.1:10109", NodePeers: "0.0.0.0:9736", Form: formSystemd, User: "nobody", Lnd: "/usr/local/bin/lnd"}
	for range 2 {
		require.NoError(t, add.write(&world{ctx: t.Context(), now: fakeNow}, sampleBundle(t, "signer.example:10019"), func(string, ...any) {}))
		for _, name := range []string{".", onboard.FileConf, onboard.FileCert, onboard.FileMacaroon, onboard.FilePassword} {
			owned(filepath.Join(node, name))
		}
	}
	// A node that is made watch-only has its files from before, and their owner.
	require.NoError(t, os.Chown(filepath.Join(node, onboard.FileCert), 0, 0))
	require.NoError(t, ownedLikeDir(node, onboard.FileCert, "not-there"))
	owned(filepath.Join(node, onboard.FileCert))
}
