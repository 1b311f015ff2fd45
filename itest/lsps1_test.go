//go:build itest

package itest

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/peerrpc/peerrpctest"
)

// TestLSPS1OnStockLnd has a stock lnd wallet buy channels from a gateway on a
// stock lnd: one over Lightning, usable at once and private, and one on chain,
// announced, with too much paid, part of which comes back.
func TestLSPS1OnStockLnd(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{})
	require.NoError(t, err)
	w := newRawWallet(ctx, t, s, net.Gateway, net.Wallet, true)
	op := newOperator(t, s)
	op.reconcile(ctx)
	client := peerrpctest.New(w.lnd, mustKey(t, net.Gateway.PubKey))
	listening, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); client.Run(listening) }()
	defer func() { stop(); <-done }()
	call := func(method string, params any) json.RawMessage {
		t.Helper()
		var raw []byte
		require.Eventually(t, func() bool {
			raw, err = client.Call(ctx, method, params)
			return err == nil
		}, 60*time.Second, 200*time.Millisecond, "%s: %v", method, &err)
		return raw
	}
	require.JSONEq(t, `{"protocols":[1,2,5]}`, string(call(lsps0.MethodListProtocols, nil)))
	info, err := lsps1.ReadInfo(call(lsps1.MethodGetInfo, nil))
	require.NoError(t, err)
	require.False(t, info.SupportsZeroReserve)

	buy := func(r lsps1.CreateOrderRequest) lsps1.Order {
		t.Helper()
		o, err := lsps1.ReadOrder(call(lsps1.MethodCreateOrder, r))
		require.NoError(t, err)
		return o
	}
	completed := func(id string) (o lsps1.Order) {
		t.Helper()
		require.Eventually(t, func() bool {
			o, err = lsps1.ReadOrder(call(lsps1.MethodGetOrder, lsps1.GetOrderRequest{OrderID: id}))
			// The payment is taken a moment after the channel is funded.
			return err == nil && o.State == order.WireCompleted && (o.Payment.Bolt11 == nil || o.Payment.Bolt11.State != order.Hold)
		}, 60*time.Second, 200*time.Millisecond, "the order %s: %+v", id, &o)
		return o
	}
	wish := order.Wish{LspBalanceSat: 400_000, ClientBalanceSat: 50_000, ConfirmWithin: 6, ExpiryBlocks: 144}

	o := buy(lsps1.CreateOrderRequest{Wish: wish})
	payment, err := net.Payer.Pay(ctx, o.Payment.Bolt11.Invoice)
	require.NoError(t, err)
	require.Equal(t, lnrpc.Payment_SUCCEEDED, payment.Status, payment.FailureReason)
	o = completed(o.OrderID)
	require.Equal(t, order.PaymentPaid, o.Payment.Bolt11.State)
	channels, err := net.Wallet.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(t, err)
	require.Len(t, channels.Channels, 1)
	require.Equal(t, o.Channel.Outpoint, channels.Channels[0].ChannelPoint)
	require.True(t, channels.Channels[0].Private)
	require.EqualValues(t, 50_000, channels.Channels[0].LocalBalance)

	address, err := net.Wallet.LN.NewAddress(ctx, &lnrpc.NewAddressRequest{Type: lnrpc.AddressType_TAPROOT_PUBKEY})
	require.NoError(t, err)
	wish.Announce, wish.RequiredConfs = true, 1
	o = buy(lsps1.CreateOrderRequest{Wish: wish, RefundAddress: address.Address})
	verified, err := net.Wallet.LN.VerifyMessage(ctx, &lnrpc.VerifyMessageRequest{
		Msg: []byte(o.Payment.OnChain.RefundPromise.Message), Signature: o.Payment.OnChain.RefundPromise.Signature,
	})
	require.NoError(t, err)
	require.Equal(t, net.Gateway.PubKey, verified.Pubkey, "the refund promise is signed by the gateway's node")
	const tooMuch = 30_000
	_, err = net.Payer.LN.SendCoins(ctx, &lnrpc.SendCoinsRequest{
		Addr: o.Payment.OnChain.Address, Amount: int64(o.Payment.OnChain.TotalSat) + tooMuch, SatPerVbyte: 3, SpendUnconfirmed: true,
	})
	require.NoError(t, err)
	require.NoError(t, net.Mine(ctx, 3))
	o = completed(o.OrderID)
	require.Equal(t, order.PaymentPaid, o.Payment.OnChain.State)
	require.Equal(t, order.Refunded, o.Payment.Bolt11.State)
	require.NoError(t, net.Mine(ctx, 8))
	require.Eventually(t, func() bool {
		channels, err := net.Wallet.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{PublicOnly: true})
		return err == nil && len(channels.Channels) == 1 && channels.Channels[0].LocalBalance == 50_000
	}, 60*time.Second, 200*time.Millisecond, "the announced channel is open")
	// The lease, and the burial of the funding, are counted from the block in which
	// sluiced learned of its confirmation.
	require.NoError(t, net.Mine(ctx, 8))
	require.Eventually(t, func() bool {
		balance, err := net.Wallet.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
		if err != nil || balance.TotalBalance == 0 {
			return false
		}
		require.Less(t, balance.TotalBalance, int64(tooMuch))
		require.Greater(t, balance.TotalBalance, int64(tooMuch)-5_000)
		return true
	}, 60*time.Second, 200*time.Millisecond, "what was paid too much comes back")
	require.NoError(t, net.Mine(ctx, 1))
	require.Empty(t, client.Odd())
	op.waitBalanced(ctx)
}
