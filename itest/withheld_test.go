//go:build itest

package itest

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// trusting makes an invoice that the wallet holds, over a channel that the gateway
// funds once it is claimed.
func (w *rawWallet) trusting(ctx context.Context, amount ln.Msat) (agreed *lspv1.NegotiateResponse, preimage ln.Preimage, bolt11 string) {
	w.t.Helper()
	_, err := rand.Read(preimage[:])
	require.NoError(w.t, err)
	hash := preimage.Hash()
	menu := w.menu(ctx)
	agreed, err = w.api.Negotiate(ctx, &lspv1.NegotiateRequest{
		PaymentHash: hash[:], AmountMsat: uint64(amount), OpeningFeeParams: menu.OpeningFeeParamsMenu[0],
		Channel:              &lspv1.ChannelWish{ZeroConf: true, AllowAnotherChannel: true, TrustMsat: uint64(amount)},
		FinalCltvDeltaBlocks: 80, InvoiceExpiresMs: time.Now().Add(10 * time.Minute).UnixMilli(),
	})
	require.NoError(w.t, err)
	require.True(w.t, agreed.ClientTrustsLsp)
	scid, err := ln.ParseSCID(agreed.JitScid)
	require.NoError(w.t, err)
	gateway, err := ln.PubKeyFromBytes(menu.GatewayNodeKey)
	require.NoError(w.t, err)
	bolt11, err = w.lnd.AddHoldInvoice(ctx, ln.HoldInvoiceRequest{
		Hash: hash, AmountMsat: amount, Expiry: 10 * time.Minute, FinalCltvDelta: 80, RouteHints: []ln.RouteHint{{
			Node: gateway, SCID: scid, FeePPM: agreed.HintFeePpm, CltvDelta: uint16(agreed.HintCltvDeltaBlocks),
		}},
	})
	require.NoError(w.t, err)
	return agreed, preimage, bolt11
}

func (w *rawWallet) waitAccepted(ctx context.Context, hash ln.Hash) {
	w.t.Helper()
	require.NoError(w.t, devnet.WaitFor(ctx, "the wallet to hold the payment", func(ctx context.Context) (bool, error) {
		inv, err := w.lnd.LookupInvoice(ctx, hash)
		return inv.State == ln.InvoiceAccepted, err
	}))
}

// TestWithheldFunding: a wallet that trusts the gateway. A payment that its receiver
// does not take costs no chain fee, and both nodes forget the channel. One that is
// claimed while sluiced is dead is funded by its successor. To the sat, each time.
func TestWithheldFunding(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{Settings: map[string]string{"lsp.trust": "always"}})
	require.NoError(t, err)
	w := newRawWallet(ctx, t, s, net.Gateway, net.Wallet, true)
	op := newOperator(t, s)
	op.reconcile(ctx)
	gateway := dialNode(t, net.Gateway)
	pay := func(bolt11 string) <-chan *lnrpc.Payment {
		out := make(chan *lnrpc.Payment, 1)
		go func() {
			payment, err := net.Payer.Pay(ctx, bolt11)
			if err != nil {
				t.Log(err)
			}
			out <- payment
		}()
		return out
	}
	balances := func(n *devnet.Node) devnet.Balances {
		t.Helper()
		b, err := n.Balances(ctx)
		require.NoError(t, err)
		return b
	}
	mempool := func() int {
		t.Helper()
		txs, err := net.Miner().Mempool(ctx)
		require.NoError(t, err)
		return len(txs)
	}
	payerBefore, gatewayBefore, walletBefore := balances(net.Payer), balances(net.Gateway), balances(net.Wallet)

	// Not taken.
	agreed, preimage, bolt11 := w.trusting(ctx, 100_000_000)
	paid := pay(bolt11)
	w.waitAccepted(ctx, preimage.Hash())
	require.Zero(t, mempool(), "nothing is published before it is claimed")
	leases, err := gateway.ListLeases(ctx)
	require.NoError(t, err)
	require.NotEmpty(t, leases)
	require.NoError(t, w.lnd.CancelInvoice(ctx, preimage.Hash()))
	payment := <-paid
	require.NotNil(t, payment)
	require.Equal(t, lnrpc.Payment_FAILED, payment.Status)
	var gone []string
	require.NoError(t, devnet.WaitFor(ctx, "the channel to be given up and its coins to be free", func(ctx context.Context) (bool, error) {
		p, err := w.api.GetPayment(ctx, &lspv1.GetPaymentRequest{PaymentId: agreed.PaymentId})
		if err != nil {
			return false, err
		}
		leases, err := gateway.ListLeases(ctx)
		gone = p.Payment.GivenUpOutpoints
		return len(gone) > 0 && len(leases) == 0, err
	}))
	for _, text := range gone {
		outpoint, err := ln.ParseOutpoint(text)
		require.NoError(t, err)
		require.NoError(t, w.lnd.AbandonChannel(ctx, outpoint))
	}
	for _, n := range []*lnd.Client{gateway, w.lnd} {
		channels, err := n.ListChannels(ctx)
		require.NoError(t, err)
		for _, c := range channels {
			require.NotContains(t, gone, c.Outpoint.String(), "both have forgotten it")
		}
	}
	require.Zero(t, mempool())
	require.NoError(t, net.Payer.WaitNoHTLCs(ctx))
	require.Equal(t, payerBefore, balances(net.Payer))
	require.Equal(t, gatewayBefore, balances(net.Gateway), "it cost nothing")
	require.Equal(t, walletBefore, balances(net.Wallet))
	op.waitBalanced(ctx)

	// Claimed, while sluiced is dead.
	agreed, preimage, bolt11 = w.trusting(ctx, 100_000_000)
	paid = pay(bolt11)
	w.waitAccepted(ctx, preimage.Hash())
	promise, err := w.api.PromiseFunding(ctx, &lspv1.PromiseFundingRequest{PaymentId: agreed.PaymentId})
	require.NoError(t, err)
	signer, err := auth.RecoverSigner(promise.Text, promise.Signature)
	require.NoError(t, err)
	require.Equal(t, mustKey(t, net.Gateway.PubKey), signer)
	outpoint, err := ln.ParseOutpoint(promise.FundingOutpoint)
	require.NoError(t, err)
	own, err := w.lnd.ListChannels(ctx)
	require.NoError(t, err)
	require.Len(t, own, 1)
	require.Equal(t, outpoint, own[0].Outpoint, "the promise is about the channel that the wallet's node shows")
	require.NoError(t, s.Kill())
	require.NoError(t, w.lnd.SettleInvoice(ctx, preimage))
	payment = <-paid
	require.NotNil(t, payment)
	require.Equal(t, lnrpc.Payment_SUCCEEDED, payment.Status, payment.FailureReason)
	require.Zero(t, mempool(), "who would publish it is dead")
	require.NoError(t, s.Start(ctx))
	txs, err := net.Miner().WaitMempool(ctx, 1)
	require.NoError(t, err)
	require.Equal(t, outpoint.TxID.String(), txs[0].String())
	w.waitState(ctx, agreed.PaymentId, "paid")
	require.NoError(t, net.Mine(ctx, 6))
	require.NoError(t, net.Wallet.WaitNoHTLCs(ctx))
	channels, err := w.lnd.ListChannels(ctx)
	require.NoError(t, err)
	require.Len(t, channels, 1)
	require.EqualValues(t, 100_000, channels[0].LocalSat, "the wallet has exactly what was paid")
	op.waitBalanced(ctx)
	status, err := op.api.GetStatus(ctx, &lspv1.GetStatusRequest{})
	require.NoError(t, err)
	require.EqualValues(t, agreed.FeeMsat, status.FeesEarnedMsat)
	require.EqualValues(t, payment.ValueMsat+payment.FeeMsat, (int64(agreed.FeeMsat) + 100_000_000))
}
