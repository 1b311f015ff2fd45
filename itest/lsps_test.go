//go:build itest

package itest

import (
	"context"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps2"
	"github.com/sluice-lsp/sluice/lsp/peerrpc/peerrpctest"
)

// TestLSPSOnStockLnd speaks LSPS0 and LSPS2 between two unpatched lnds. A stock
// lnd wallet buys a channel as an LSPS2 client; that it does not take the
// reduced HTLC, and that nobody loses by it, is what docs/lsps.md says.
func TestLSPSOnStockLnd(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{})
	require.NoError(t, err)
	w := newRawWallet(ctx, t, s, net.Gateway, net.Wallet, true)
	op := newOperator(t, s)
	op.reconcile(ctx)
	gateway := mustKey(t, net.Gateway.PubKey)
	client := peerrpctest.New(w.lnd, gateway)
	// A peer of the gateway's that never speaks LSPS.
	silent := peerrpctest.New(dialNode(t, net.Payer), gateway)
	listening, stop := context.WithCancel(ctx)
	done := make(chan struct{}, 2)
	for _, c := range []*peerrpctest.Client{client, silent} {
		go func() { c.Run(listening); done <- struct{}{} }()
	}
	defer func() { stop(); <-done; <-done }()

	var raw []byte
	require.Eventually(t, func() bool {
		raw, err = client.Call(ctx, lsps0.MethodListProtocols, nil)
		return err == nil
	}, 60*time.Second, 100*time.Millisecond)
	require.JSONEq(t, `{"protocols":[1,2,5]}`, string(raw))
	_, err = client.Call(ctx, "lsps9.do_this", nil)
	refused := &lsps0.RemoteError{}
	require.ErrorAs(t, err, &refused)
	require.Equal(t, lsps0.CodeMethodNotFound, refused.Code)

	// Wallets know an LSP by the feature bit.
	peers, err := net.Wallet.LN.ListPeers(ctx, &lnrpc.ListPeersRequest{})
	require.NoError(t, err)
	var known bool
	for _, p := range peers.Peers {
		if p.PubKey == net.Gateway.PubKey {
			_, known = p.Features[729]
		}
	}
	require.True(t, known, "option_supports_lsps in the gateway's init")
	info, err := net.Gateway.LN.GetInfo(ctx, &lnrpc.GetInfoRequest{})
	require.NoError(t, err)
	require.Contains(t, info.Features, uint32(729), "and in its announcement")

	const amount = 100_000_000
	item, bought, err := client.Buy(ctx, amount)
	require.NoError(t, err)
	fee, err := lsps2.CheckSize(item, amount, 1000)
	require.NoError(t, err)
	require.Positive(t, fee)
	invoice, err := net.Wallet.LN.AddInvoice(ctx, &lnrpc.Invoice{
		ValueMsat: amount, Expiry: 500, CltvExpiry: 82,
		RouteHints: []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
			NodeId: net.Gateway.PubKey, ChanId: uint64(bought.SCID), CltvExpiryDelta: bought.CltvExpiryDelta,
		}}}},
	})
	require.NoError(t, err)
	payment, err := net.Payer.Pay(ctx, invoice.PaymentRequest)
	require.NoError(t, err)
	require.Equal(t, lnrpc.Payment_FAILED, payment.Status)
	var codes []lnrpc.Failure_FailureCode
	for _, h := range payment.Htlcs {
		codes = append(codes, h.Failure.GetCode())
	}
	require.Contains(t, codes, lnrpc.Failure_FINAL_INCORRECT_HTLC_AMOUNT, "the channel was opened and the reduced HTLC reached the wallet")
	t.Logf("a stock lnd wallet answers %v", codes)
	channels, err := net.Wallet.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(t, err)
	require.Len(t, channels.Channels, 1, "one channel, whatever the payer tried")
	require.Zero(t, channels.Channels[0].LocalBalance)
	checkOnionMessages(ctx, t, net, bought.SCID)

	// The interceptor's stream has survived it: the same wallet is paid as a
	// stock lnd can be. Its payer's lnd remembers the other failure for a while.
	_, err = net.Payer.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{})
	require.NoError(t, err)
	agreed, bolt11 := w.receivePayerPays(ctx, 10_000_000, false)
	require.False(t, agreed.OpensChannel)
	payment, err = net.Payer.Pay(ctx, bolt11)
	require.NoError(t, err)
	require.Equal(t, lnrpc.Payment_SUCCEEDED, payment.Status, payment.FailureReason)
	w.waitState(ctx, agreed.PaymentId, "paid")
	require.Empty(t, client.Odd())
	require.Empty(t, silent.Odd())
	require.NotEqual(t, ln.SCID(0), bought.SCID)
	op.waitBalanced(ctx)
}
