//go:build itest

package itest

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// TestCollaborativeLostDisk: the wallet's disk is gone after it signed a joint funding and
// before that is in a block. A new machine, with the seed and a memory stick, keeps the
// coins for it, sees it buried, and gets the channel's money back on chain, less fees.
func TestCollaborativeLostDisk(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{Wallet: devnet.NodeConfig{Seeded: true}})
	require.NoError(t, net.Fund(ctx, devnet.Funding{Node: net.Wallet, CoinSat: 300_000, Coins: 3}))
	s, err := net.StartSluiced(ctx, net.Gateway, append(lnd.GatewayRights(), lnd.JointRights()...), devnet.SluicedConfig{
		Settings: map[string]string{"joint.enabled": "true"},
	})
	require.NoError(t, err)
	n := &jointNet{Standard: net, t: t, s: s, op: newOperator(t, s)}
	n.op.reconcile(ctx)
	stick := filepath.Join(t.TempDir(), "stick")
	setUp := func(node *devnet.Node) *machine {
		agent, err := net.StartWalletAgent(ctx, node, net.Gateway, s, append(lnd.WalletRights(), lnd.WalletFundRights()...))
		require.NoError(t, err)
		m := &machine{t: t, node: node, agent: agent}
		m.cli(ctx, "backup", "add", "stick", "--dir", stick)
		m.cli(ctx, m.admin("backup", "key")...)
		require.NoError(t, agent.Restart(ctx))
		return m
	}
	old := setUp(net.Wallet)
	n.agent = old.agent
	before := old.onChain(ctx)
	f := n.fund(ctx, "--amount", "400000", "--inbound", "600000", "--yes")
	f = n.phase(ctx, f.Key, "signed")
	txid, err := chainhash.NewHashFromStr(strings.Split(f.Channel, ":")[0])
	require.NoError(t, err)
	require.NoError(t, net.Miner().WaitTxInMempool(ctx, *txid))
	old.waitStatus(ctx, "the channel that opens to be backed up", func(b backedUp) bool { return b.BackedUp && b.Channels == 1 })
	require.Contains(t, old.cli(ctx, "backup", "now"), "fundings.json")
	old.noted(ctx, stick)
	require.NoError(t, old.agent.Kill())
	require.NoError(t, old.node.Kill())
	require.NoError(t, os.RemoveAll(old.node.Dir))
	require.NoError(t, os.RemoveAll(old.agent.Dir))

	node, err := net.NewNode(ctx, "wallet2", devnet.NodeConfig{Seed: old.node.Seed()})
	require.NoError(t, err)
	fresh := setUp(node)
	n.agent = fresh.agent
	out := fresh.cli(ctx, fresh.admin("backup", "restore", "--yes")...)
	require.Contains(t, out, "Restored the joint funding "+f.Key)
	require.NoError(t, fresh.agent.Restart(ctx))
	n.phase(ctx, f.Key, "signed")
	require.NoError(t, devnet.WaitFor(ctx, "its coins to be nobody else's", func(ctx context.Context) (bool, error) {
		leases, err := node.Wallet.ListLeases(ctx, &walletrpc.ListLeasesRequest{})
		return len(leases.GetLockedUtxos()) > 0, err
	}))
	require.NoError(t, net.Mine(ctx, 6))
	n.phase(ctx, f.Key, "done")
	for done := false; !done; {
		require.NoError(t, ctx.Err())
		require.NoError(t, net.Mine(ctx, 1))
		out, err := fresh.agent.Command(ctx, append([]string{"--json"}, fresh.admin("backup", "progress")...)...)
		require.NoError(t, err)
		var p struct{ Done bool }
		require.NoError(t, json.Unmarshal(out, &p))
		done = p.Done
	}
	want := before - f.ServiceFeeSat - f.ChainFeeSat
	came, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	require.NoError(t, devnet.WaitFor(came, "the money to be in the wallet", func(ctx context.Context) (bool, error) {
		return fresh.onChain(ctx) > want-5_000, nil
	}), "%d sat on chain, want %d less a sweep's fee", fresh.onChain(ctx), want)
	require.LessOrEqual(t, fresh.onChain(ctx), want)
	n.op.waitBalanced(ctx)
}
