package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

func call(t *testing.T, args ...string) (out, errOut string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(&world{ctx: t.Context(), stdout: &o, stderr: &e, home: t.TempDir()}, args)
	return o.String(), e.String(), code
}

func TestExitCodesAndWords(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"receive", "ten"}, exitUsage, "want an amount like 100000"},
		{[]string{"receive", "10", "--payer-pays", "--receiver-pays"}, exitUsage, "can't be used together"},
		{[]string{"receive", "10", "--expiry", "1s"}, exitUsage, "--expiry must be between"},
		{[]string{"receive", "10"}, exitFailed, "start it with `sluice-wallet run`"},
		{[]string{"lsps", "add", "a", "key", "--grpc", "h:1"}, exitUsage, "want NODEKEY@HOST:PORT"},
		{[]string{"swap", "out", "500000"}, exitFailed, "there is no loopd here"},
		{[]string{"swap", "in", "500000"}, exitFailed, "name --open-channel"},
		{[]string{"swap", "out", "1500msat"}, exitUsage, "whole satoshis"},
		{[]string{"swap", "status"}, exitFailed, "start it with `sluice-wallet run`"},
		{[]string{"run", "--set", "lnd.adress=x"}, exitFailed, "did you mean \"lnd.address\""},
		{[]string{"run"}, exitFailed, "TLS certificate"},
		{[]string{"backup", "add", "x"}, exitUsage, "say where it is"},
		{[]string{"backup", "add", "x", "--dir", "/a", "--vss", "https://h/vss"}, exitUsage, "can't be used together"},
		{[]string{"backup", "add", "x", "--gateway", "key"}, exitUsage, "want NODEKEY@HOST:PORT"},
		{[]string{"backup", "add", "x", "--vss", "http://h/vss"}, exitUsage, "https://"},
		{[]string{"backup", "remove", "x"}, exitFailed, "there is no provider named x"},
		{[]string{"backup", "require", "2"}, exitUsage, "add more first"},
		{[]string{"backup", "progress"}, exitFailed, "nothing was restored here"},
		{[]string{"backup", "key"}, exitUsage, "--admin-macaroon"},
		{[]string{"backup"}, exitFailed, "start it with `sluice-wallet run`"},
		{[]string{"towers"}, exitFailed, "TLS certificate"},
		{[]string{"towers", "add", "a", "key", "--grpc", "h:1"}, exitUsage, "66 hex digits"},
		{[]string{"holds"}, exitFailed, "start it with `sluice-wallet run`"},
		{[]string{"holds", "on", "--for", "1s"}, exitUsage, "between 1m and 168h"},
		{[]string{"receive", "10", "--hold-for", "1s"}, exitUsage, "between 1m and 168h"},
		{[]string{"frobnicate"}, exitUsage, "--help"},
	} {
		_, errOut, code := call(t, c.args...)
		require.Equal(t, c.code, code, "%v: %s", c.args, errOut)
		require.Contains(t, errOut, c.says)
	}
	_, _, code := call(t, "--help")
	require.Zero(t, code)
}

// It asks for nothing that can spend unless it was asked to.
func TestMacaroon(t *testing.T) {
	out, _, code := call(t, "macaroon", "--out", "/x/y.macaroon")
	require.Zero(t, code)
	require.True(t, strings.HasPrefix(out, "lncli bakemacaroon --save_to /x/y.macaroon --root_key_id 10300 \\\n"), out)
	require.NotContains(t, out, "SendPayment")
	for _, right := range lnd.WalletRights() {
		require.Contains(t, out, right)
	}
	require.NotContains(t, out, "WatchtowerClient")
	out, _, _ = call(t, "macaroon", "--towers")
	require.Contains(t, out, "WatchtowerClient/ListTowers")
	require.NotContains(t, out, "Signer/SignMessage")
	out, _, _ = call(t, "macaroon", "--long-holds")
	require.Contains(t, out, "/signrpc.Signer/SignMessage")
	out, _, _ = call(t, "macaroon", "--pay")
	require.Contains(t, out, "SendPaymentV2")
}

// TestBackupSetUp: providers are set without daemon and lnd, in a file that a
// person can take along.
func TestBackupSetUp(t *testing.T) {
	dir, stick := t.TempDir(), filepath.Join(t.TempDir(), "stick")
	set := func(args ...string) string {
		out, errOut, code := call(t, append([]string{"--data-dir", dir, "backup"}, args...)...)
		require.Zero(t, code, errOut)
		return out
	}
	set("add", "stick", "--dir", stick)
	set("add", "other", "--vss", "https://h.example.com/vss")
	require.Contains(t, set("require", "1"), "2 provider(s); each version is wanted at 1")
	require.FileExists(t, filepath.Join(stick, ".sluice-backup"))
	set("remove", "other")
	records := filepath.Join(dir, "records")
	require.NoError(t, os.WriteFile(records, []byte("x"), 0o600))
	set("include", "swaps", records)
	_, _, failed := call(t, "--data-dir", dir, "backup", "include", "swaps", records)
	require.Equal(t, exitFailed, failed, "the name is taken")
	set("exclude", "swaps")
	program := filepath.Join(dir, "page")
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\ncat > "+dir+"/heard\n"), 0o700))
	require.Contains(t, set("alarm", "--test", program, "me"), "was called")
	heard, err := os.ReadFile(filepath.Join(dir, "heard"))
	require.NoError(t, err)
	require.Contains(t, string(heard), "This is a test")
	set("alarm", "--off")
	for _, bad := range [][]string{{"alarm"}, {"alarm", "--test"}, {"alarm", "--off", program}} {
		_, _, code := call(t, append([]string{"--data-dir", dir, "backup"}, bad...)...)
		require.Equal(t, exitUsage, code, bad)
	}
	_, errOut, code := call(t, "--data-dir", dir, "backup", "add", "again", "--dir", stick)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errOut, "no second copy")
	_, errOut, code = call(t, "backup", "verify", filepath.Join(dir, "backups.toml"))
	require.Equal(t, exitUsage, code)
	require.Contains(t, errOut, "no evidence file")
}

func TestSampleLoads(t *testing.T) {
	out, _, code := call(t, "config")
	require.Zero(t, code)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sluice-wallet.toml"), []byte(out), 0o600))
	c := &runCmd{}
	c.LND.Address = "10.0.0.1:1"
	s, err := c.load(&world{home: dir, env: []string{"SLUICE_WALLET_CHANNELS_MAX_CHANNEL_SAT=50000", "SLUICE_LND_ADDRESS=not:ours", "SLUICE_WALLET_DATA_DIR=x"}}, dir)
	require.NoError(t, err)
	require.Equal(t, "10.0.0.1:1", s.LND.Address)
	require.EqualValues(t, 50_000, s.Channels.MaxChannelSat)
}

func TestAmount(t *testing.T) {
	for text, want := range map[string]ln.Msat{"100000": 100_000_000, "100_000": 100_000_000, "7sat": 7_000, "1500msat": 1_500, "0": 0} {
		var a amountArg
		require.NoError(t, a.UnmarshalText([]byte(text)), text)
		require.EqualValues(t, want, a, text)
	}
	for _, text := range []string{"", "-1", "1.5", "1btc", "99999999999999999999", "2100000000000001sat", "msat"} {
		var a amountArg
		require.Error(t, a.UnmarshalText([]byte(text)), text)
	}
}
