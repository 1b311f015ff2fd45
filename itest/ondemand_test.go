//go:build itest

package itest

import (
	"context"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// TestOnDemandMainJob is the main job, step by step, on one network: a wallet
// without a channel is paid over a channel that the payment itself opened.
func TestOnDemandMainJob(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{})
	require.NoError(t, err)
	w := newRawWallet(ctx, t, s, net.Gateway, net.Wallet, true)
	op := newOperator(t, s)
	op.reconcile(ctx)

	pay := func(bolt11 string) *lnrpc.Payment {
		began := time.Now()
		payment, err := net.Payer.Pay(ctx, bolt11)
		require.NoError(t, err)
		require.Equal(t, lnrpc.Payment_SUCCEEDED, payment.Status, payment.FailureReason)
		t.Logf("paid %d sat and %d msat of fees in %s", payment.ValueSat, payment.FeeMsat, time.Since(began))
		return payment
	}

	// The payer pays the fee.
	agreed, bolt11 := w.receivePayerPays(ctx, 100_000_000, false)
	require.True(t, agreed.OpensChannel)
	payment := pay(bolt11)
	require.EqualValues(t, agreed.FeeMsat, payment.FeeMsat)
	final := w.waitState(ctx, agreed.PaymentId, "paid")
	require.NotEmpty(t, final.FundingOutpoint)

	// There is room now: no channel, no fee.
	again, bolt11 := w.receivePayerPays(ctx, 5_000_000, false)
	require.False(t, again.OpensChannel)
	require.Zero(t, again.FeeMsat)
	require.Zero(t, pay(bolt11).FeeMsat)
	w.waitState(ctx, again.PaymentId, "paid")

	// More than the inbound liquidity left: another channel, as agreed.
	more, bolt11 := w.receivePayerPays(ctx, 300_000_000, true)
	require.True(t, more.OpensChannel)
	pay(bolt11)
	w.waitState(ctx, more.PaymentId, "paid")

	// The receiver pays the fee, over a third channel.
	wrapped, own := w.receiveReceiverPays(ctx, 900_000_000, &lspv1.ChannelWish{ZeroConf: true, AllowAnotherChannel: true})
	decoded, err := lnd.DecodeBolt11("regtest", wrapped.Bolt11)
	require.NoError(t, err)
	require.Equal(t, own.Hash, decoded.Hash)
	require.EqualValues(t, 900_000_000, decoded.AmountMsat)
	pay(wrapped.Bolt11)
	w.waitState(ctx, wrapped.PaymentId, "settled")

	require.NoError(t, net.Wallet.WaitNoHTLCs(ctx))
	channels, err := net.Wallet.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(t, err)
	require.Len(t, channels.Channels, 3)
	var got int64
	for _, c := range channels.Channels {
		got += c.LocalBalance
	}
	require.EqualValues(t, 100_000+5_000+300_000+900_000-int64(wrapped.FeeMsat)/1000, got)

	// The wallet pays back out, and a block confirms everything.
	invoice, err := net.Payer.Invoice(ctx, 50_000_000)
	require.NoError(t, err)
	require.NoError(t, net.Mine(ctx, 6))
	for _, c := range channels.Channels {
		require.NoError(t, net.Wallet.WaitPolicies(ctx, c.ChanId))
	}
	require.NoError(t, net.Wallet.WaitPolicies(ctx, net.PayerChannel.ChanID))
	back, err := net.Wallet.Pay(ctx, invoice.PaymentRequest)
	require.NoError(t, err)
	require.Equal(t, lnrpc.Payment_SUCCEEDED, back.Status, back.FailureReason)

	op.waitBalanced(ctx)
}
