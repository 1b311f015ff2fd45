//go:build itest

package itest

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// TestMigration: a node with keys and a channel becomes watch-only, its seed at a signer;
// with the signer of another seed nothing happens to it.
func TestMigration(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	h := startHosting(ctx, t)
	nodes, err := h.NewNodes(ctx, devnet.NodeSpec{Name: "acme-node", Config: devnet.NodeConfig{Seeded: true}})
	require.NoError(t, err)
	x := &hosted{name: "acme", node: nodes[0], bundle: filepath.Join(h.dir, "acme.bundle")}
	require.NoError(t, h.Connect(ctx, x.node, h.Gateway))
	h.paysAndIsPaid(ctx, x)

	add := func(name, bundle string) (string, int) {
		return h.ctl(ctx, "tenant", "add", name, bundle, "--migrate", "--dir", x.node.Dir, "--network", "regtest", "--node-rpc", x.node.RPCAddr,
			"--gateway", h.Gateway.PubKey+"@"+h.Gateway.P2PAddr, "--out", filepath.Join(h.dir, name+".macaroon"), "--wait", "3m")
	}
	bolt := h.signUp(ctx, "bolt")
	out, code := add("bolt", bolt.bundle)
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "and the signer has the seed of")

	// The tenant restores the seed at a signer of its own.
	dir := filepath.Join(h.Dir(), "acme-signer")
	x.address, err = h.Port()
	require.NoError(t, err)
	h.while(ctx, func(ctx context.Context) {
		h.awaitFile(ctx, filepath.Join(dir, "lnd.conf"))
		x.signer, err = h.Adopt(ctx, devnet.Adopted{Name: "acme-signer", Dir: dir, RPC: x.address, MakeWallet: true, Seed: x.node.Seed()})
		require.NoError(t, err)
		require.NoError(t, h.Served(ctx, x.signer))
	}, append(x.initFlags(h), "--birthday", time.Now().AddDate(0, 0, -2).Format(time.DateOnly))...)
	require.Equal(t, x.node.PubKey, x.signer.PubKey)
	for range 2 { // nothing happens until the node is started anew
		out, code = add("acme", x.bundle)
		require.Zero(t, code, out)
		require.Contains(t, out, "WARNING. Making a node watch-only cannot be undone")
		require.Contains(t, out, "remotesigner.migrate-wallet-to-watch-only=true")
		require.NotContains(t, out, "acme is active")
	}
	require.NoError(t, x.node.WaitNoHTLCs(ctx))
	require.NoError(t, x.node.Restart(ctx, "--remotesigner.enable", "--remotesigner.rpchost="+x.address,
		"--remotesigner.tlscertpath="+filepath.Join(x.node.Dir, "signer.cert"), "--remotesigner.macaroonpath="+filepath.Join(x.node.Dir, "signer.macaroon"),
		"--remotesigner.timeout=5s", "--remotesigner.migrate-wallet-to-watch-only"))
	out, code = add("acme", x.bundle)
	require.Zero(t, code, out)
	require.Contains(t, out, "acme is active")
	x.node.RemoveArg("--remotesigner.migrate-wallet-to-watch-only")
	require.NoError(t, x.node.Restart(ctx))
	h.pay(ctx, x.node, h.Payer)
	h.pay(ctx, h.Payer, x.node)
	h.closes(ctx, x, true)
	// Without its signer it can do nothing: the keys are gone from it.
	require.NoError(t, x.signer.Kill())
	_, err = x.node.Invoice(ctx, 1_000)
	require.Error(t, err)
	<-x.node.Proc().Exited()
}
