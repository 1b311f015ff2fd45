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

// TestOnDemandOnChain are the days on which a payment on demand ends on chain: behind
// the gateway, where its wallet keeps it and says no more, and before the gateway.
func TestOnDemandOnChain(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	sc := newScene(ctx, t, devnet.StandardConfig{}, devnet.SluicedConfig{Settings: map[string]string{"lsp.collect_for": "5m"}})
	w := sc.first(ctx)

	// The wallet has the HTLC and never answers again. The gateway's lnd goes on
	// chain when the HTLC's time is over, takes it back, and only then the payer's
	// goes back, on its open channel.
	t.Run("the wallet keeps it and is silent until it expires", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		o, bolt11 := w.holdOffer(ctx, 500_000_000)
		done := sc.pay(ctx, bolt11)
		w.waitInvoice(ctx, o.preimage.Hash(), lnrpc.Invoice_ACCEPTED)
		sc.waitEnd(ctx, o.PaymentId, "forwarded")
		w.goOffline(ctx)
		last := sc.mineUntilEnded(ctx, done)
		require.Equal(t, lnrpc.Payment_FAILED, last.payment.Status)
		require.NoError(t, sc.Payer.WaitNoHTLCs(ctx))
		open, err := sc.Payer.FindChannel(ctx, sc.PayerChannel.Point)
		require.NoError(t, err)
		require.NotNil(t, open, "the payer's channel stayed open")
		sc.mineUntilResolved(ctx, func(string) { sc.op.waitBalanced(ctx) })
		w.comeOnline(ctx)
	})

	// The payer's channel goes on chain while the payment waits for the wallet. A
	// channel for it would be opened for nothing.
	t.Run("the incoming channel goes on chain while it waits", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		before := w.channels(ctx)
		o := w.negotiate(ctx, 700_000_000, offerWish{another: true})
		// There is time for the close: the wallet asks for more than it needs.
		inv, err := w.node.LN.AddInvoice(ctx, &lnrpc.Invoice{
			RPreimage: o.preimage.Bytes(), ValueMsat: int64(o.amount), Expiry: 600, CltvExpiry: 120, RouteHints: o.hints(t),
		})
		require.NoError(t, err)
		bolt11 := inv.PaymentRequest
		w.goOffline(ctx)
		done := sc.pay(ctx, bolt11)
		sc.waitMoment(ctx, o.PaymentId, moment{"jit", "collecting"})
		closeChannel(ctx, t, sc.Net, sc.Payer, sc.PayerChannel, true)
		// lnd waits for more confirmations of a close the larger the channel is.
		require.NoError(t, sc.Mine(ctx, 6))
		w.waitReason(ctx, o.PaymentId, "went on chain", "offered")
		w.comeOnline(ctx)
		sc.mineUntilResolved(ctx, func(string) { sc.op.waitBalanced(ctx) })
		last := sc.mineUntilEnded(ctx, done)
		require.Equal(t, lnrpc.Payment_FAILED, last.payment.Status, "the payer's node took it back on chain")
		require.Equal(t, before, w.channels(ctx))
		require.Empty(t, sc.openings(ctx, o.PaymentId), "nothing was opened")
	})
}

// mineUntilEnded mines until the payment is over.
func (sc *scene) mineUntilEnded(ctx context.Context, done <-chan outcome) outcome {
	sc.t.Helper()
	for range 400 {
		require.NoError(sc.t, sc.Mine(ctx, 1))
		// lnd's sweeper works by blocks, and needs a moment for each.
		timer := time.NewTimer(200 * time.Millisecond)
		select {
		case last := <-done:
			require.NoError(sc.t, last.err)
			return last
		case <-timer.C:
		case <-ctx.Done():
			require.NoError(sc.t, ctx.Err())
		}
	}
	require.Fail(sc.t, "the payer has nothing back")
	return outcome{}
}
