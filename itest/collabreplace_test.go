//go:build itest

package itest

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// TestCollaborativeReplaced: the funding of a channel lags, and another channel of the
// same coins takes its place; both are kept until one is buried.
func TestCollaborativeReplaced(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	n := startJoint(ctx, t)
	txOf := func(channel string) chainhash.Hash {
		id, err := chainhash.NewHashFromStr(strings.Split(channel, ":")[0])
		require.NoError(t, err)
		return *id
	}

	wallet := n.holdings(ctx, n.Wallet)
	old := n.fund(ctx, "--amount", "200000", "--inbound", "300000", "--yes")
	require.NoError(t, n.Miner().WaitTxInMempool(ctx, txOf(n.phase(ctx, old.Key, "signed").Channel)))
	old = n.phase(ctx, old.Key, "signed")
	const rate = 20
	n.Fees().SetSatPerVByte(rate)
	defer n.Fees().SetSatPerVByte(devnet.DefaultFeeRateSatPerVByte)
	require.NoError(t, n.s.Stop(ctx))
	require.NoError(t, n.s.Start(ctx), "a start asks for the fees at once")
	require.NoError(t, devnet.WaitFor(ctx, "the chain's fees to be seen", func(ctx context.Context) (bool, error) {
		status, err := n.op.api.GetStatus(ctx, &lspv1.GetStatusRequest{})
		return err == nil && status.FeeRateEstimateSatPerKw == rate*250, nil
	}))
	next := n.fund(ctx, "replace", old.Key)
	require.Equal(t, "ready", next.Phase)
	require.Greater(t, next.ChainFeeSat, old.ChainFeeSat)
	n.fund(ctx, "sign", next.Key)
	require.NoError(t, n.Miner().WaitTxInMempool(ctx, txOf(next.Channel)))
	pool, err := n.Miner().Mempool(ctx)
	require.NoError(t, err)
	require.False(t, slices.Contains(pool, txOf(old.Channel)), "its place is taken")
	for _, node := range []*devnet.Node{n.Wallet, n.Gateway} {
		pending, err := node.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
		require.NoError(t, err)
		require.Len(t, pending.PendingOpenChannels, 2, "both are kept")
	}
	require.NoError(t, n.Mine(ctx, 6))
	n.phase(ctx, next.Key, "done")
	n.phase(ctx, old.Key, "void")
	n.nothingPending(ctx)
	require.EqualValues(t, 200_000, n.channel(ctx, n.Wallet, next.Channel).LocalBalance)
	require.Equal(t, holdings{wallet.onchain - 200_000 - next.ServiceFeeSat - next.ChainFeeSat, wallet.channels + 200_000}, n.holdings(ctx, n.Wallet))
	require.NoError(t, devnet.WaitFor(ctx, "the gateway's coins of both to be free or spent", func(ctx context.Context) (bool, error) {
		b, err := n.Gateway.Balances(ctx)
		return b.WalletLockedSat == 0, err
	}))
	n.op.waitBalanced(ctx)
}
