package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	agelib "filippo.io/age"
	"github.com/btcsuite/btcd/btcutil/hdkeychain"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/lws/tenant/bundle"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

// ctl runs the command in this process.
func ctl(t *testing.T, dir string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(&world{ctx: t.Context(), stdout: &out, stderr: &errs, now: fakeNow, home: dir}, append([]string{"--data-dir", dir}, args...))
	return out.String(), errs.String(), code
}

// sampleBundle is a bundle of a whole wallet whose signer is at an address.
func sampleBundle(t *testing.T, address string) bundle.Bundle {
	t.Helper()
	dir := t.TempDir()
	_, err := selfcert.Open(selfcert.Config{CertPath: filepath.Join(dir, "tls.cert"), KeyPath: filepath.Join(dir, "tls.key"), Now: fakeNow})
	require.NoError(t, err)
	pem, err := os.ReadFile(filepath.Join(dir, "tls.cert"))
	require.NoError(t, err)
	// A macaroon of lnd's form: version 2, identifier 3 and an empty protobuf.
	b := bundle.Bundle{
		Tenant: "acme", Network: "regtest", Made: fakeNow(), Birthday: fakeNow(), Address: address, Certificate: pem,
		Macaroon: append([]byte{2, 2, 1, 3, 0, 0, 6, 32}, make([]byte, 32)...),
	}
	master, err := hdkeychain.NewMaster(bytes.Repeat([]byte{7}, 32), &chaincfg.RegressionNetParams)
	require.NoError(t, err)
	add := func(purpose, coin, n uint32) {
		key := master
		for _, i := range []uint32{purpose, coin, n} {
			key, err = key.Derive(hdkeychain.HardenedKeyStart + i)
			require.NoError(t, err)
		}
		public, err := key.Neuter()
		require.NoError(t, err)
		b.Accounts = append(b.Accounts, bundle.Account{Path: fmt.Sprintf("m/%d'/%d'/%d'", purpose, coin, n), Key: public.String()})
	}
	for _, purpose := range []uint32{49, 84, 86} {
		add(purpose, 0, 0)
	}
	for n := range uint32(256) {
		add(1017, 1, n)
	}
	return b
}

// TestTenantAddRefuses before anything is written: bundles that are not for this tenant,
// and signers that are not fit, each with the exit code of its check.
func TestTenantAddRefuses(t *testing.T) {
	dir := t.TempDir()
	out, _, code := ctl(t, dir, "tenant", "key")
	require.Zero(t, code)
	to, err := agelib.ParseX25519Recipient(strings.TrimSpace(out))
	require.NoError(t, err)
	info, err := os.Stat(filepath.Join(dir, "onboarding.key"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	again, _, _ := ctl(t, dir, "tenant", "key")
	require.Equal(t, out, again)

	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	nobody := listener.Addr().String()
	require.NoError(t, listener.Close())
	file, err := bundle.Seal(sampleBundle(t, nobody), to)
	require.NoError(t, err)
	path, node := filepath.Join(dir, "acme.bundle"), filepath.Join(dir, "node")
	require.NoError(t, os.WriteFile(path, file, 0o600))
	add := func(tenant, network string, more ...string) (string, string, int) {
		return ctl(t, dir, append([]string{"tenant", "add", tenant, path, "--dir", node, "--network", network}, more...)...)
	}
	_, errs, code := add("bolt", "regtest")
	require.Equal(t, 1, code)
	require.Contains(t, errs, `made for the tenant "acme", not for "bolt"`)
	_, errs, code = add("acme", "mainnet")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "for a signer on regtest, and this gateway is on mainnet")

	out, errs, code = add("acme", "regtest")
	require.Empty(t, errs)
	require.Equal(t, onboard.Reachable.ExitCode(), code, out)
	require.Contains(t, out, "nobody answers at "+nobody)
	require.Contains(t, out, "Nothing was changed. The tenant's next step:")
	out, _, code = add("acme", "regtest", "--json")
	require.Equal(t, onboard.Reachable.ExitCode(), code)
	var got struct {
		Fingerprint, Node string
		Checks            []onboard.Result
	}
	require.NoError(t, json.Unmarshal([]byte(out), &got))
	require.Len(t, got.Checks, 9)
	require.Equal(t, onboard.Failed, got.Checks[0].Verdict)
	require.Equal(t, onboard.Passed, got.Checks[4].Verdict, got.Checks[4].Said)
	require.Len(t, got.Node, 66)

	_, errs, code = add("acme", "regtest", "--first-channels", "1")
	require.Equal(t, cli.ExitUsage, code)
	require.Contains(t, errs, "needs --gateway")
	_, errs, code = add("acme", "regtest", "--first-channels", "1", "--first-channel-sat", "5", "--gateway", "x@y:1")
	require.Equal(t, cli.ExitUsage, code)
	require.Contains(t, errs, "A first channel has")

	require.NoError(t, os.WriteFile(path, file[:len(file)/2], 0o600))
	_, errs, code = add("acme", "regtest")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "cut short")
	_, err = os.Stat(node)
	require.ErrorIs(t, err, os.ErrNotExist, "nothing was written")
}

// TestBadBundles: each bad day of a bundle at the command that takes it, by its sentence,
// with nothing written and the registry not asked.
func TestBadBundles(t *testing.T) {
	dir := t.TempDir()
	out, _, code := ctl(t, dir, "tenant", "key")
	require.Zero(t, code)
	to, err := agelib.ParseX25519Recipient(strings.TrimSpace(out))
	require.NoError(t, err)
	whole := sampleBundle(t, "127.0.0.1:1")
	file, err := bundle.Seal(whole, to)
	require.NoError(t, err)
	stranger, err := agelib.GenerateX25519Identity()
	require.NoError(t, err)
	others, err := bundle.Seal(whole, stranger.Recipient())
	require.NoError(t, err)
	altered := bytes.Clone(file)
	altered[len(altered)/2] ^= 1
	for name, row := range map[string]struct {
		file            []byte
		tenant, network string
		said            string
	}{
		"altered":                         {altered, "acme", "regtest", "was altered after it was made"},
		"cut short":                       {file[:len(file)-100], "acme", "regtest", "cut short"},
		"cut to nothing":                  {nil, "acme", "regtest", "cut short after 0 bytes"},
		"with something added":            {append(bytes.Clone(file), '\n'), "acme", "regtest", "Something was added"},
		"for another network":             {file, "acme", "signet", "for a signer on regtest, and this gateway is on signet"},
		"replayed for a second tenant":    {file, "bolt", "regtest", `made for the tenant "acme", not for "bolt"`},
		"for another operator":            {others, "acme", "regtest", "encrypted to another operator's key"},
		"another kind of file altogether": {[]byte("lnd.conf"), "acme", "regtest", "no onboarding bundle"},
	} {
		t.Run(name, func(t *testing.T) {
			path, node := filepath.Join(t.TempDir(), "x.bundle"), filepath.Join(dir, "node")
			require.NoError(t, os.WriteFile(path, row.file, 0o600))
			_, errs, code := ctl(t, dir, "tenant", "add", row.tenant, path, "--dir", node, "--network", row.network)
			require.Equal(t, 1, code)
			require.Contains(t, errs, row.said)
			_, err := os.Stat(node)
			require.ErrorIs(t, err, os.ErrNotExist)
			_, err = os.Stat(filepath.Join(dir, hostedDir))
			require.ErrorIs(t, err, os.ErrNotExist)
		})
	}
}

// TestSignerInitPrepares a directory, and leaves what is there alone.
func TestSignerInitPrepares(t *testing.T) {
	dir := t.TempDir()
	key, err := agelib.GenerateX25519Identity()
	require.NoError(t, err)
	at := filepath.Join(dir, "signer")
	initialise := func(more ...string) (string, string, int) {
		return ctl(t, dir, append([]string{
			"signer", "init", "--dir", at, "--tenant", "acme", "--operator", key.Recipient().String(), "--address", "signer.example:10019",
			"--network", "regtest", "--out", filepath.Join(dir, "acme.bundle"), "--wait", "1ms",
		}, more...)...)
	}
	out, errs, code := initialise("--form", "systemd", "--user", thisRunner().name)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "the signer did not start within 1ms")
	require.Contains(t, out, "systemctl enable --now lnd-signer")
	conf, err := os.ReadFile(filepath.Join(at, "lnd.conf"))
	require.NoError(t, err)
	require.Contains(t, string(conf), "tlsextradomain=signer.example\n")
	_, err = os.Stat(filepath.Join(at, "lnd-signer.service"))
	require.NoError(t, err)
	out, _, _ = initialise("--form", "systemd", "--user", thisRunner().name)
	require.NotContains(t, out, "Wrote", "what is right stays")
	require.NoError(t, os.WriteFile(filepath.Join(at, "lnd.conf"), []byte("# mine\n"), 0o600))
	out, _, _ = initialise()
	require.Contains(t, out, "is left as it is. What a signer needs:")
	mine, err := os.ReadFile(filepath.Join(at, "lnd.conf"))
	require.NoError(t, err)
	require.Equal(t, "# mine\n", string(mine))

	unlock, err := lockDir(at)
	require.NoError(t, err)
	_, errs, code = initialise()
	require.Equal(t, 1, code)
	require.Contains(t, errs, "another sluicectl works on "+at)
	unlock()
	_, errs, code = initialise("--operator", "age1nonsense")
	require.Equal(t, cli.ExitUsage, code)
	require.Contains(t, errs, "the operator's key")
	_, errs, code = ctl(t, dir, "signer", "revoke", "--dir", at)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "no macaroon was baked here")
}
