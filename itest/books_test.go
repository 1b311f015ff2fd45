//go:build itest

package itest

import (
	"bytes"
	"context"
	"encoding/hex"
	"slices"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// TestOnDemandBooks: channels opened by hand and by others, closes of each kind
// with and without an HTLC, and a replaced transaction leave the books equal to
// lnd's, after each of them.
func TestOnDemandBooks(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	sc := newScene(ctx, t, devnet.StandardConfig{}, devnet.SluicedConfig{})
	w := sc.first(ctx)
	exact := func(after string) {
		t.Helper()
		t.Logf("after %s:", after)
		sc.op.waitBalanced(ctx)
	}
	exact("the start")

	agreed, bolt11 := w.receivePayerPays(ctx, 300_000_000, false)
	sc.paid(sc.pay(ctx, bolt11), paidWithin)
	w.waitState(ctx, agreed.PaymentId, "paid")
	exact("a channel on demand")
	require.NoError(t, sc.Mine(ctx, 6))
	sc.heldInTheBooks(ctx, w)
	exact("payments that were held")

	byHand, err := sc.OpenChannel(ctx, sc.Gateway, sc.Wallet, devnet.ChannelParams{CapacitySat: 400_000, PushSat: 30_123})
	require.NoError(t, err)
	exact("a channel opened by hand, with a push")
	toUs, err := sc.OpenChannel(ctx, sc.Payer, sc.Gateway, devnet.ChannelParams{CapacitySat: 900_000, PushSat: 50_001})
	require.NoError(t, err)
	exact("a channel opened to the gateway, with a push")

	for _, node := range []*devnet.Node{sc.Wallet, sc.Payer} {
		invoice, err := node.LN.AddInvoice(ctx, &lnrpc.Invoice{ValueMsat: 1_234_567, Private: true})
		require.NoError(t, err)
		p, err := sc.Gateway.Pay(ctx, invoice.PaymentRequest)
		require.NoError(t, err)
		require.Equal(t, lnrpc.Payment_SUCCEEDED, p.Status, p.FailureReason)
	}
	exact("payments of the gateway's own, with fractions of a satoshi")

	first, second := sc.sendReplaceably(ctx)
	require.NoError(t, sc.Miner().WaitTxInMempool(ctx, first.TxHash()))
	exact("a payment on chain")
	sc.publish(ctx, second)
	require.NoError(t, sc.Miner().WaitTxInMempool(ctx, second.TxHash()))
	exact("its replacement, while lnd lists both")
	require.NoError(t, sc.Mine(ctx, 1))
	exact("the replacement's confirmation")

	closeChannel(ctx, t, sc.Net, sc.Gateway, byHand, false)
	exact("a cooperative close, unconfirmed")
	closeChannel(ctx, t, sc.Net, sc.Payer, toUs, true)
	exact("a force close by the peer, unconfirmed")
	require.NoError(t, sc.Mine(ctx, 6))
	exact("their confirmations")

	// The channel on demand goes on chain while the wallet keeps a payment waiting.
	var preimage ln.Preimage
	copy(preimage[:], "the preimage of TestOnDemandBook")
	hash := preimage.Hash()
	hold, err := sc.Wallet.Invoices.AddHoldInvoice(ctx, &invoicesrpc.AddHoldInvoiceRequest{Hash: hash[:], ValueMsat: 20_000_007, Private: true})
	require.NoError(t, err)
	paid := sc.attempt(ctx, &routerrpc.SendPaymentRequest{PaymentRequest: hold.PaymentRequest})
	require.NoError(t, devnet.WaitFor(ctx, "the wallet to hold the payment", func(ctx context.Context) (bool, error) {
		inv, err := sc.Wallet.Invoices.LookupInvoiceV2(ctx, &invoicesrpc.LookupInvoiceMsg{
			InvoiceRef: &invoicesrpc.LookupInvoiceMsg_PaymentHash{PaymentHash: hash[:]},
		})
		return inv.GetState() == lnrpc.Invoice_ACCEPTED, err
	}))
	exact("a payment that waits at the wallet")
	channels, err := sc.Gateway.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{Peer: w.key[:]})
	require.NoError(t, err)
	require.Len(t, channels.Channels, 1)
	point, err := devnet.ParsePoint(channels.Channels[0].ChannelPoint)
	require.NoError(t, err)
	closeChannel(ctx, t, sc.Net, sc.Gateway, devnet.Channel{Point: point}, true)
	exact("a force close with an HTLC, unconfirmed")
	require.NoError(t, sc.Mine(ctx, 6))
	exact("its confirmation")
	_, err = sc.Wallet.Invoices.SettleInvoice(ctx, &invoicesrpc.SettleInvoiceMsg{Preimage: preimage[:]})
	require.NoError(t, err)

	report := sc.mineUntilResolved(ctx, exact)
	require.Equal(t, lnrpc.Payment_SUCCEEDED, sc.ended(paid, paidWithin).payment.Status, "the payer ends paid")
	for _, l := range report.Lines {
		if l.Account == "closing" {
			require.Zero(t, l.BooksMsat, "nothing is left of closed channels")
		}
	}
	require.Empty(t, report.Details)
}

// heldInTheBooks has a payment of either kind wait for its wallet: for as long the books
// hold what lnd's channels hold for it, and nothing once it has gone back.
func (sc *scene) heldInTheBooks(ctx context.Context, w *person) {
	sc.t.Helper()
	held := func() *lspv1.ReconcileLine {
		sc.t.Helper()
		report := sc.op.reconcile(ctx)
		require.True(sc.t, report.Balanced, "%v", report)
		i := slices.IndexFunc(report.Lines, func(l *lspv1.ReconcileLine) bool { return l.Account == "held" })
		require.GreaterOrEqual(sc.t, i, 0)
		require.Equal(sc.t, report.Lines[i].BooksMsat, report.Lines[i].LndMsat)
		return report.Lines[i]
	}
	const amount = 400_000_000
	forwarded, bolt11 := w.receivePayerPays(ctx, amount, true)
	wrapped, _ := w.receiveReceiverPays(ctx, amount, &lspv1.ChannelWish{ZeroConf: true, AllowAnotherChannel: true})
	require.Zero(sc.t, held().BooksMsat)
	w.goOffline(ctx)
	defer w.comeOnline(ctx)
	first := sc.pay(ctx, bolt11)
	w.waitState(ctx, forwarded.PaymentId, "collecting")
	one := held().BooksMsat
	require.GreaterOrEqual(sc.t, one, int64(amount)+int64(forwarded.FeeMsat), "the payer pays the fee as well")
	second := sc.pay(ctx, wrapped.Bolt11)
	w.waitState(ctx, wrapped.PaymentId, "accepted")
	require.Equal(sc.t, one+amount, held().BooksMsat)
	for _, id := range []string{forwarded.PaymentId, wrapped.PaymentId} {
		_, err := sc.op.api.WithdrawPayment(ctx, &lspv1.WithdrawPaymentRequest{PaymentId: id, Reason: "it was only to be held"})
		require.NoError(sc.t, err)
	}
	sc.refunded(first, refundedWithin)
	sc.refunded(second, refundedWithin)
	require.Zero(sc.t, held().BooksMsat)
	// After unknown_next_peer the payer's node takes the wallet for unreachable.
	_, err := sc.Payer.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{})
	require.NoError(sc.t, err)
}

// mineUntilResolved mines until lnd has brought everything home, looking at the
// books on the way.
func (sc *scene) mineUntilResolved(ctx context.Context, exact func(string)) *lspv1.ReconcileResponse {
	sc.t.Helper()
	for blocks := 0; ; blocks++ {
		pending, err := sc.Gateway.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
		require.NoError(sc.t, err)
		if len(pending.PendingForceClosingChannels)+len(pending.WaitingCloseChannels) == 0 {
			break
		}
		require.Less(sc.t, blocks, 400, "%v", pending)
		require.NoError(sc.t, sc.Mine(ctx, 1))
		if blocks%50 == 10 {
			exact("some blocks")
		}
		// lnd's sweeper works by blocks, and needs a moment for each.
		timer := time.NewTimer(100 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			require.NoError(sc.t, ctx.Err())
		}
	}
	exact("everything is resolved")
	return sc.op.reconcile(ctx)
}

// sendReplaceably pays the payer on chain from one coin of the gateway's, and
// returns what was published and a replacement that pays more.
func (sc *scene) sendReplaceably(ctx context.Context) (first, second *wire.MsgTx) {
	sc.t.Helper()
	to, err := sc.Payer.LN.NewAddress(ctx, &lnrpc.NewAddressRequest{Type: lnrpc.AddressType_TAPROOT_PUBKEY})
	require.NoError(sc.t, err)
	change, err := sc.Gateway.LN.NewAddress(ctx, &lnrpc.NewAddressRequest{Type: lnrpc.AddressType_TAPROOT_PUBKEY})
	require.NoError(sc.t, err)
	coins, err := sc.Gateway.Wallet.ListUnspent(ctx, &walletrpc.ListUnspentRequest{MinConfs: 3, MaxConfs: 1 << 30})
	require.NoError(sc.t, err)
	require.NotEmpty(sc.t, coins.Utxos)
	coin := coins.Utxos[0]
	hash, err := chainhash.NewHash(coin.Outpoint.TxidBytes)
	require.NoError(sc.t, err)
	script := func(text string) []byte {
		addr, err := btcutil.DecodeAddress(text, &chaincfg.RegressionNetParams)
		require.NoError(sc.t, err)
		s, err := txscript.PayToAddrScript(addr)
		require.NoError(sc.t, err)
		return s
	}
	spent, err := hex.DecodeString(coin.PkScript)
	require.NoError(sc.t, err)
	sign := func(feeSat int64) *wire.MsgTx {
		tx := wire.NewMsgTx(2)
		tx.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Hash: *hash, Index: coin.Outpoint.OutputIndex}, Sequence: wire.MaxTxInSequenceNum - 2})
		tx.AddTxOut(wire.NewTxOut(123_456, script(to.Address)))
		tx.AddTxOut(wire.NewTxOut(coin.AmountSat-123_456-feeSat, script(change.Address)))
		p, err := psbt.NewFromUnsignedTx(tx)
		require.NoError(sc.t, err)
		p.Inputs[0].WitnessUtxo = wire.NewTxOut(coin.AmountSat, spent)
		var raw bytes.Buffer
		require.NoError(sc.t, p.Serialize(&raw))
		done, err := sc.Gateway.Wallet.FinalizePsbt(ctx, &walletrpc.FinalizePsbtRequest{FundedPsbt: raw.Bytes()})
		require.NoError(sc.t, err)
		signed := wire.NewMsgTx(2)
		require.NoError(sc.t, signed.Deserialize(bytes.NewReader(done.RawFinalTx)))
		return signed
	}
	first, second = sign(400), sign(2_000)
	sc.publish(ctx, first)
	return first, second
}

func (sc *scene) publish(ctx context.Context, tx *wire.MsgTx) {
	sc.t.Helper()
	var raw bytes.Buffer
	require.NoError(sc.t, tx.Serialize(&raw))
	resp, err := sc.Gateway.Wallet.PublishTransaction(ctx, &walletrpc.Transaction{TxHex: raw.Bytes(), Label: "by hand"})
	require.NoError(sc.t, err)
	require.Empty(sc.t, resp.PublishError)
}
