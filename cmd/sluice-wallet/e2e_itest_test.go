//go:build itest

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// TestWalletOnRealNodes drives daemon and commands as a person does, with the
// macaroon of least rights, against sluiced and real nodes.
func TestWalletOnRealNodes(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{})
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "sw")
	require.NoError(t, err)
	defer func() { _ = os.RemoveAll(dir) }()
	mac := filepath.Join(dir, macaroonFile)
	require.NoError(t, net.Wallet.Bake(ctx, mac, append(lnd.WalletRights(), payRight)))

	call := func(args ...string) (string, string, int) {
		var out, errOut bytes.Buffer
		code := run(&world{ctx: ctx, stdout: &out, stderr: &errOut, home: dir}, append([]string{"--data-dir", dir}, args...))
		t.Logf("$ sluice-wallet %s  (exit %d)\n%s%s", strings.Join(args, " "), code, out.String(), errOut.String())
		return out.String(), errOut.String(), code
	}
	dctx, stop := context.WithCancel(ctx)
	done := make(chan int, 1)
	go func() {
		done <- run(&world{ctx: dctx, stdout: os.Stdout, stderr: os.Stderr, home: dir}, []string{
			"--data-dir", dir, "run", "--lnd.address", net.Wallet.RPCAddr, "--lnd.tls", net.Wallet.TLSCertPath, "--lnd.macaroon", mac,
			"--lsp", "gw," + net.Gateway.PubKey + "@" + net.Gateway.P2PAddr + ",grpc=" + s.GRPC + ",cert=" + s.TLSCert,
		})
	}()
	defer func() {
		stop()
		require.Zero(t, <-done, "the daemon ends in good order")
	}()
	require.NoError(t, devnet.WaitFor(ctx, "daemon", func(context.Context) (bool, error) {
		_, err := os.Stat(filepath.Join(dir, "wallet.sock"))
		return err == nil, nil
	}))
	require.NoError(t, devnet.WaitFor(ctx, "ready", func(context.Context) (bool, error) {
		out, _, code := call("status", "--json")
		return code == 0 && strings.Contains(out, `"logged_in": true`) && strings.Contains(out, `"acceptor_attached": true`), nil
	}))
	call("status")
	call("offers", "100000")
	paid := 0
	receive := func(args ...string) {
		out, _, code := call(append([]string{"receive", "--json"}, args...)...)
		require.Zero(t, code)
		var r struct {
			Bolt11      string `json:"bolt11"`
			PaymentHash string `json:"payment_hash"`
		}
		require.NoError(t, json.Unmarshal([]byte(out), &r))
		began := time.Now()
		p, err := net.Payer.Pay(ctx, r.Bolt11)
		require.NoError(t, err)
		require.Equal(t, lnrpc.Payment_SUCCEEDED, p.Status, p.FailureReason.String())
		t.Logf("payer paid %d sat, fee %d msat in %s", p.ValueSat, p.FeeMsat, time.Since(began))
		// Until the LSP knows that too, the payment takes room of its channel.
		paid++
		require.NoError(t, devnet.WaitFor(ctx, "the LSP to know that the wallet was paid", func(context.Context) (bool, error) {
			out, _, code := call("payments")
			return code == 0 && strings.Count(out, "the wallet was paid") == paid, nil
		}))
	}
	receive("100000", "--payer-pays")
	receive("3000", "-d", "small")
	receive("400000", "-d", "tea")
	_, said, code := call("receive", "200000", "--payer-pays", "--no-another-channel")
	require.Equal(t, exitFailed, code)
	require.Contains(t, said, "agree to another channel")
	_, _, code = call("offline", "--wait")
	require.Zero(t, code)
	call("status")
	out, _, code := call("payments")
	require.Zero(t, code)
	require.Equal(t, 3, strings.Count(out, "the wallet was paid"))
	require.NoError(t, net.Mine(ctx, 6))
	inv, err := net.Payer.Invoice(ctx, 20_000_000)
	require.NoError(t, err)
	_, _, code = call("pay", inv.PaymentRequest)
	require.Zero(t, code)
	out, _, code = call("receive", "700000", "--no-zero-conf", "--confs", "2")
	require.Zero(t, code)
	require.Contains(t, out, "waits for 2 confirmation(s)")
	_, _, code = call("holds", "on", "--for", "2h")
	require.Zero(t, code)
	out, _, code = call("status", "--json")
	require.Zero(t, code)
	var status struct {
		NodeKey string `json:"node_key"`
		Holds   struct {
			Gateways []struct {
				Registered bool   `json:"registered"`
				HoldFor    string `json:"hold_for_seconds"`
			} `json:"gateways"`
		} `json:"holds"`
	}
	require.NoError(t, json.Unmarshal([]byte(out), &status))
	require.Equal(t, net.Wallet.PubKey, status.NodeKey)
	require.Len(t, status.Holds.Gateways, 1)
	require.True(t, status.Holds.Gateways[0].Registered)
	require.Equal(t, "7200", status.Holds.Gateways[0].HoldFor)
	_, said, code = call("holds", "invoice", "1000")
	require.Equal(t, exitFailed, code, "its macaroon has no right to sign invoices")
	require.Contains(t, said, "--long-holds")
	receive("5000", "--hold-for", "12h")
	_, _, code = call("holds", "off")
	require.Zero(t, code)
	out, _, _ = call("lsps", "remove", "gw")
	require.Contains(t, out, "2 channel(s) with it stay")
	_, _, code = call("receive", "1000")
	require.Equal(t, exitFailed, code)
	said, err = s.WaitBooks(ctx)
	require.NoError(t, err)
	t.Log(said)
}
