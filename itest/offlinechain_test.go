//go:build itest

package itest

import (
	"context"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lws/agent"
)

// TestOfflineOnChain: the channel that a payment came over goes on chain while the payment
// waits for its wallet. Who ends with what is counted to the sat, along the transactions.
func TestOfflineOnChain(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), holding())
	require.NoError(t, err)
	op := newOperator(t, s)
	op.reconcile(ctx)
	w := newSleeper(ctx, t, net, s, newHoldOperator(t, s))
	_, err = w.agent.Say(ctx, agent.Said{Enabled: true, HoldFor: "24h"})
	require.NoError(t, err)

	// The wallet comes once the channel is closed. A RESUME would end lnd's stream, and
	// forward for nothing: the payer has it back on chain.
	t.Run("the wallet comes too late", func(t *testing.T) {
		day := newChainDay(ctx, t, w)
		require.NoError(t, net.Mine(ctx, 3))
		require.NoError(t, devnet.WaitFor(ctx, "the wait to be given up", func(ctx context.Context) (bool, error) {
			list := w.waitWaiting(ctx, 1)
			return list[0].State == "failing", nil
		}))
		// What is known of it outlives both.
		require.NoError(t, s.Kill())
		require.NoError(t, net.Gateway.Kill())
		require.NoError(t, net.Gateway.Start(ctx))
		require.NoError(t, s.Start(ctx))
		w.wakeUp(ctx)
		_, err := net.Gateway.WaitChannelActive(ctx, w.point.Point)
		require.NoError(t, err)
		resolveOnChain(ctx, t, net, net.Payer, net.Gateway)
		day.payment.ends(lnrpc.Payment_FAILED)
		own, err := net.Wallet.LN.LookupInvoice(ctx, &lnrpc.PaymentHash{RHash: day.hash})
		require.NoError(t, err)
		require.Equal(t, lnrpc.Invoice_OPEN, own.State)
		require.Empty(t, own.Htlcs, "nothing was forwarded")
		w.waitWaiting(ctx, 0)

		tree := treeOf(ctx, t, net, day.closing, net.Payer, net.Gateway)
		require.Equal(t, net.Payer, tree.takers[day.htlc], "the payer took the HTLC")
		require.Equal(t, net.Gateway, tree.takers[day.gatewayOutput])
		require.Equal(t, day.walletMsat, channelMsat(ctx, t, net.Wallet))
		day.ends(ctx, tree)
		op.waitBalanced(ctx)
	})

	// The wallet comes while the commitment waits for a block. Nobody can know yet that it
	// will get one: it is handed on, the wallet claims, and the gateway claims with its
	// preimage on chain.
	t.Run("the wallet comes in time", func(t *testing.T) {
		day := newChainDay(ctx, t, w)
		w.wakeUp(ctx)
		require.NoError(t, devnet.WaitFor(ctx, "the wallet to be paid", func(ctx context.Context) (bool, error) {
			own, err := net.Wallet.LN.LookupInvoice(ctx, &lnrpc.PaymentHash{RHash: day.hash})
			return err == nil && own.State == lnrpc.Invoice_SETTLED, nil
		}))
		require.NoError(t, net.Wallet.WaitNoHTLCs(ctx))
		resolveOnChain(ctx, t, net, net.Payer, net.Gateway)
		day.payment.ends(lnrpc.Payment_SUCCEEDED)
		w.waitWaiting(ctx, 0)

		tree := treeOf(ctx, t, net, day.closing, net.Payer, net.Gateway)
		require.Equal(t, net.Gateway, tree.takers[day.htlc], "the gateway took the HTLC")
		require.Equal(t, net.Gateway, tree.takers[day.gatewayOutput])
		require.Equal(t, day.walletMsat+chainDayMsat, channelMsat(ctx, t, net.Wallet))
		day.ends(ctx, tree)
		op.waitBalanced(ctx)
	})

	open, err := net.Gateway.FindChannel(ctx, w.point.Point)
	require.NoError(t, err)
	require.NotNil(t, open, "the wallet's channel is open")
}

const (
	chainDayMsat = 100_000_000
	// chainDaySat is large enough for the payment, and small enough to be funded twice.
	chainDaySat = 900_000
)

// chainDay is a payment that waits, and whose channel its payer has just closed by force:
// the commitment is in the mempool.
type chainDay struct {
	t       *testing.T
	net     *devnet.Standard
	channel devnet.Channel
	hash    []byte
	payment *paying
	// What everybody had before, the channel's money left out.
	gatewaySat, payerSat int64
	walletMsat           uint64

	closing             chainhash.Hash
	htlc, gatewayOutput wire.OutPoint
}

func onChainSat(ctx context.Context, t *testing.T, n *devnet.Node) int64 {
	t.Helper()
	b, err := n.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
	require.NoError(t, err)
	return b.TotalBalance
}

func channelMsat(ctx context.Context, t *testing.T, n *devnet.Node) uint64 {
	t.Helper()
	b, err := n.Balances(ctx)
	require.NoError(t, err)
	return b.LocalMsat
}

func newChainDay(ctx context.Context, t *testing.T, w *sleeper) *chainDay {
	t.Helper()
	net := w.net
	_, err := net.Gateway.WaitChannelActive(ctx, w.point.Point)
	require.NoError(t, err)
	_, err = net.Payer.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{})
	require.NoError(t, err)
	require.NoError(t, net.Fund(ctx, devnet.Funding{Node: net.Payer, CoinSat: 1_000_000, Coins: 2}))
	d := &chainDay{t: t, net: net}
	// A fraction of a satoshi on the gateway's side: commitments round it away.
	const gatewaySide = 50_000
	d.channel, err = net.OpenChannel(ctx, net.Payer, net.Gateway, devnet.ChannelParams{CapacitySat: chainDaySat, PushSat: gatewaySide})
	require.NoError(t, err)
	inv := w.longInvoice(ctx, chainDayMsat, 20*time.Hour)
	d.hash = inv.Hash[:]
	d.walletMsat = channelMsat(ctx, t, net.Wallet)
	d.gatewaySat, d.payerSat = onChainSat(ctx, t, net.Gateway), onChainSat(ctx, t, net.Payer)

	w.sleep(ctx)
	d.payment = sendRequest(ctx, t, net, d.hash, &routerrpc.SendPaymentRequest{
		PaymentRequest: inv.Bolt11, MaxParts: 1, TimeoutSeconds: 10, FeeLimitMsat: 10_000_000, OutgoingChanIds: []uint64{d.channel.ChanID},
	})
	held := w.waitWaiting(ctx, 1)[0]
	require.EqualValues(t, chainDayMsat, held.AmountMsat)

	d.closing = closeChannel(ctx, t, net.Net, net.Payer, d.channel, true)
	tx, _, err := net.Miner().Tx(ctx, d.closing)
	require.NoError(t, err)
	for i, out := range tx.TxOut {
		op := wire.OutPoint{Hash: d.closing, Index: uint32(i)} //nolint:gosec // a handful
		switch out.Value {
		case chainDayMsat / 1000:
			d.htlc = op
		case gatewaySide:
			d.gatewayOutput = op
		}
	}
	require.NotZero(t, d.htlc)
	require.NotZero(t, d.gatewayOutput)
	return d
}

// ends demands that both wallets have what the tree brought, to the sat.
func (d *chainDay) ends(ctx context.Context, tree *chainTree) {
	d.t.Helper()
	for n, before := range map[*devnet.Node]int64{d.net.Gateway: d.gatewaySat, d.net.Payer: d.payerSat} {
		tree.arrived(ctx, n, before)
	}
}
