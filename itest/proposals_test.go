//go:build itest

package itest

import (
	"context"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// TestOnDemandProposals: what peers' lnds propose to the gateway, and read when its
// policy refuses.
func TestOnDemandProposals(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	trusted, err := net.Payer.LN.GetInfo(ctx, &lnrpc.GetInfoRequest{})
	require.NoError(t, err)
	sc := sceneOn(ctx, t, net, devnet.SluicedConfig{Settings: map[string]string{
		"acceptor.min_sat": "200000", "acceptor.max_sat": "2000000", "acceptor.max_pending_per_peer": "1",
		"acceptor.zero_conf_from": trusted.IdentityPubkey,
	}})
	require.NoError(t, net.Fund(ctx, devnet.Funding{Node: net.Wallet, CoinSat: 5_000_000, Coins: 4}))
	require.NoError(t, net.Fund(ctx, devnet.Funding{Node: net.Payer, CoinSat: 1_000_000, Coins: 1}))

	refused := func(from *devnet.Node, params devnet.ChannelParams, text string) {
		t.Helper()
		_, err := from.StartOpen(ctx, net.Gateway, params)
		require.Error(t, err)
		require.Contains(t, err.Error(), text, "what the peer's lnd prints")
	}
	refused(net.Wallet, devnet.ChannelParams{CapacitySat: 199_999}, "the channel is too small: 199999 sat proposed, at least 200000 sat wanted")
	refused(net.Wallet, devnet.ChannelParams{CapacitySat: 2_000_001}, "the channel is too large: 2000001 sat proposed, at most 2000000 sat taken")
	refused(net.Wallet, devnet.ChannelParams{CapacitySat: 300_000, ZeroConf: true, ScidAlias: true, Private: true}, "this node does not take zero-conf channels from your node")

	first, err := net.Wallet.StartOpen(ctx, net.Gateway, devnet.ChannelParams{CapacitySat: 200_000})
	require.NoError(t, err)
	require.NoError(t, net.Miner().WaitTxInMempool(ctx, first.Hash))
	refused(net.Wallet, devnet.ChannelParams{CapacitySat: 300_000}, "1 channels from your node are still opening, at most 1 may be")
	// Another process has it from lnd's list.
	require.NoError(t, sc.s.Kill())
	require.NoError(t, sc.s.Start(ctx))
	refused(net.Wallet, devnet.ChannelParams{CapacitySat: 300_000}, "1 channels from your node are still opening, at most 1 may be")
	require.NoError(t, net.Mine(ctx, 6))
	_, err = net.Wallet.WaitChannelActive(ctx, first)
	require.NoError(t, err)
	// A peer at its limit has lnd asked once a second, whether one is open by now.
	require.NoError(t, devnet.WaitFor(ctx, "another channel to be taken, as the first one is open", func(ctx context.Context) (bool, error) {
		_, err := net.OpenChannel(ctx, net.Wallet, net.Gateway, devnet.ChannelParams{CapacitySat: 2_000_000})
		return err == nil, err
	}))

	_, err = net.OpenChannel(ctx, net.Payer, net.Gateway, devnet.ChannelParams{CapacitySat: 500_000, ZeroConf: true, ScidAlias: true, Private: true})
	require.NoError(t, err, "who is listed may open without confirmations")
	sc.op.waitBalanced(ctx)
}
