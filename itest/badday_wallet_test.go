//go:build itest

package itest

import (
	"context"
	"testing"
	"time"

	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// TestOnDemandBadDaysOfTheWallet are the days on which the wallet's node fails
// its own payment, or nearly.
func TestOnDemandBadDaysOfTheWallet(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	sc := newScene(ctx, t, devnet.StandardConfig{}, devnet.SluicedConfig{})
	people := sc.persons(ctx, "sleeper", "dropper", "claimer", "wrapper")
	sleeper, dropper, claimer, wrapper := people[0], people[1], people[2], people[3]
	refuser := &person{rawWallet: newRawWallet(ctx, t, sc.s, sc.Gateway, sc.Wallet, false), sc: sc, link: sc.WalletLink}
	// What was refunded leaves a channel with room behind: the next takes more.
	amount := growing(200_000_000, 100_000_000)

	// The payer is refunded once collect_for is over; the same invoice, paid
	// again when the wallet is back, is paid.
	sc.day(ctx, "offline: refunded, and paid when tried again", func(sc *scene) {
		w := sleeper.in(sc)
		o := w.negotiate(ctx, 100_000_000, offerWish{})
		bolt11 := w.invoice(ctx, o)
		w.goOffline(ctx)
		failed := sc.refunded(sc.pay(ctx, bolt11), collectFor+refundedWithin)
		// Law 6: the wallet may be back soon.
		require.Equal(t, []lnrpc.Failure_FailureCode{lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE}, failureCodes(failed))
		w.waitReason(ctx, o.PaymentId, "did not come online in time", "offered")
		require.Empty(sc.t, sc.openings(ctx, o.PaymentId))
		require.Zero(sc.t, w.channels(ctx))
		w.comeOnline(ctx)
		// Without forgetting the failure the payer splits; it must still work.
		payment := sc.paid(sc.payInParts(ctx, bolt11), paidWithin)
		require.Greater(sc.t, len(payment.Htlcs), 1)
		w.waitState(ctx, o.PaymentId, "paid")
		require.Equal(sc.t, 1, w.channels(ctx))
	})

	// Paid: the wallet comes while its payment is held.
	sc.day(ctx, "online in time: paid", func(sc *scene) {
		w := sleeper.in(sc)
		o := w.negotiate(ctx, 300_000_000, offerWish{another: true})
		bolt11 := w.invoice(ctx, o)
		before := w.channels(ctx)
		w.goOffline(ctx)
		done := sc.pay(ctx, bolt11)
		w.waitState(ctx, o.PaymentId, "collecting")
		w.comeOnline(ctx)
		sc.paid(done, paidWithin)
		w.waitState(ctx, o.PaymentId, "paid")
		require.Equal(sc.t, before+1, w.channels(ctx))
	})

	// The operator withdraws what is held: refunded at once, not after
	// collect_for, and for good.
	sc.day(ctx, "withdrawn by the operator while it waits: refunded", func(sc *scene) {
		w := sleeper.in(sc)
		o := w.negotiate(ctx, 400_000_000, offerWish{another: true})
		bolt11 := w.invoice(ctx, o)
		before := w.channels(ctx)
		w.goOffline(ctx)
		defer w.comeOnline(ctx)
		done := sc.pay(ctx, bolt11)
		w.waitState(ctx, o.PaymentId, "collecting")
		_, err := sc.op.api.WithdrawPayment(ctx, &lspv1.WithdrawPaymentRequest{PaymentId: o.PaymentId, Reason: "the operator said so"})
		require.NoError(sc.t, err)
		sc.refunded(done, collectFor/2)
		w.waitReason(ctx, o.PaymentId, "the operator said so", "cancelled")
		require.Equal(sc.t, before, w.channels(ctx))
		_, err = sc.op.api.WithdrawPayment(ctx, &lspv1.WithdrawPaymentRequest{PaymentId: o.PaymentId})
		requireRefusal(sc.t, err, "can no longer be cancelled")
	})

	for _, by := range ways() {
		// Refunded, with the wallet's own words as the reason, and no channel.
		sc.day(ctx, "rejects the channel, the "+by.name+": refunded", func(sc *scene) {
			w := refuser.in(sc)
			before := w.purse(ctx)
			d := w.agree(ctx, by, 100_000_000, dealWish{})
			d.pay(ctx)
			d.endsRefunded(ctx, refundedWithin, "this wallet takes no channels")
			require.Zero(sc.t, w.channels(ctx))
			opens := sc.openings(ctx, d.id)
			require.Len(sc.t, opens, 1)
			require.Equal(sc.t, "rejected", opens[0].State)
			require.Contains(sc.t, opens[0].Reason, "this wallet takes no channels")
			before.moved(ctx, d)
		})

		// Refunded: the wallet goes away between open_channel and accept_channel.
		// Nothing was spent, and the second attempt is paid over the only channel.
		sc.day(ctx, "disconnects before it accepts the channel, the "+by.name+": refunded, then paid", func(sc *scene) {
			w := dropper.in(sc)
			before, channels := w.purse(ctx), w.channels(ctx)
			w.onProposal(func(*ln.AcceptVerdict) { w.link.Cut() })
			defer w.onProposal(nil)
			d := w.agree(ctx, by, 100_000_000, dealWish{})
			d.pay(ctx)
			d.endsRefunded(ctx, refundedWithin, "disconnected while its channel was being opened")
			require.Equal(sc.t, channels, w.channels(ctx))
			w.onProposal(nil)
			w.comeOnline(ctx)
			d = d.again(ctx)
			d.endsPaid(ctx, paidWithin)
			require.Equal(sc.t, channels+1, w.channels(ctx))
			before.moved(ctx, d)
		})

		// Paid: the wallet goes away when it has the channel pending, and comes
		// back before open_for is over.
		sc.day(ctx, "disconnects when the channel is pending, and comes back, the "+by.name+": paid", func(sc *scene) {
			w := dropper.in(sc)
			before, channels := w.purse(ctx), w.channels(ctx)
			d := w.agree(ctx, by, 500_000_000, dealWish{})
			pending := w.cutWhenPending(ctx)
			d.pay(ctx)
			require.NoError(sc.t, <-pending)
			require.NoError(sc.t, sc.WaitDisconnected(ctx, w.node, sc.Gateway))
			w.comeOnline(ctx)
			d.endsPaid(ctx, 2*paidWithin)
			require.Equal(sc.t, channels+1, w.channels(ctx))
			require.Len(sc.t, sc.openings(ctx, d.id), 1)
			before.moved(ctx, d)
		})

		// Refunded: the wallet holds the payment and then lets go of it. The
		// channel stays, and counts as unpaid.
		sc.day(ctx, "never claims, the "+by.name+": refunded", func(sc *scene) {
			w := claimer.in(sc)
			before, channels := w.purse(ctx), w.channels(ctx)
			d := w.agree(ctx, by, amount(), dealWish{held: true})
			d.pay(ctx)
			d.waitSent(ctx)
			_, err := sc.op.api.WithdrawPayment(ctx, &lspv1.WithdrawPaymentRequest{PaymentId: d.id})
			requireRefusal(sc.t, err, "can no longer be cancelled")
			hash := d.hash()
			_, err = w.node.Invoices.CancelInvoice(ctx, &invoicesrpc.CancelInvoiceMsg{PaymentHash: hash[:]})
			require.NoError(sc.t, err)
			d.endsRefunded(ctx, refundedWithin, "did not take the payment")
			require.Equal(sc.t, channels+1, w.channels(ctx))
			before.moved(ctx, d)
		})
	}

	// Paid: the wallet has the payments, goes away, decides to claim meanwhile, and comes back.
	sc.day(ctx, "disconnects with the payments in hand, and comes back: paid", func(sc *scene) {
		w := claimer.in(sc)
		before := w.purse(ctx)
		deals := w.agreeBothWays(ctx, amount, dealWish{held: true})
		for _, d := range deals {
			d.pay(ctx)
			d.waitSent(ctx)
		}
		w.goOffline(ctx)
		for _, d := range deals {
			d.claim(ctx)
		}
		w.comeOnline(ctx)
		for _, d := range deals {
			d.endsPaid(ctx, paidWithin)
		}
		before.moved(ctx, deals...)
	})

	// Refunded: the wallet keeps the payments until its own node gives them up, which lnd
	// does 18 blocks before an accepted hold invoice expires. The gateway's own hold
	// invoice lives on until then, and longer.
	sc.day(ctx, "keeps the payments until its own node gives them up: refunded", func(sc *scene) {
		w := claimer.in(sc)
		before := w.purse(ctx)
		deals := w.agreeBothWays(ctx, amount, dealWish{held: true})
		for _, d := range deals {
			d.pay(ctx)
			d.waitSent(ctx)
		}
		require.NoError(sc.t, sc.Mine(ctx, 60))
		for _, d := range deals {
			w.waitInvoice(ctx, d.hash(), lnrpc.Invoice_ACCEPTED)
		}
		for _, d := range deals {
			require.Equal(sc.t, lnrpc.Payment_FAILED, sc.mineUntilEnded(ctx, d.done).payment.Status)
			d.wasRefunded(ctx, "did not take the payment")
		}
		before.moved(ctx, deals...)
	})

	// Refunded: a wrapped payment whose wallet stays away.
	sc.day(ctx, "wrapped and offline: refunded", func(sc *scene) {
		w := wrapper.in(sc)
		agreed, _ := w.receiveReceiverPays(ctx, 200_000_000, &lspv1.ChannelWish{ZeroConf: true})
		w.goOffline(ctx)
		failed := sc.refunded(sc.pay(ctx, agreed.Bolt11), collectFor+refundedWithin)
		require.Equal(sc.t, []lnrpc.Failure_FailureCode{lnrpc.Failure_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS}, failureCodes(failed))
		w.waitReason(ctx, agreed.PaymentId, "did not come online in time", "refunded")
		require.Zero(sc.t, w.channels(ctx))
		w.comeOnline(ctx)
	})

	// Paid, once the channel has the confirmations that the wallet asked for,
	// and not before.
	sc.day(ctx, "wrapped with two confirmations: paid after two blocks", func(sc *scene) {
		w := wrapper.in(sc)
		w.onProposal(func(v *ln.AcceptVerdict) { v.MinDepth = 2 })
		agreed, own := w.receiveReceiverPays(ctx, 200_000_000, &lspv1.ChannelWish{MinConfirmations: 2})
		done := sc.pay(ctx, agreed.Bolt11)
		w.waitState(ctx, agreed.PaymentId, "opening")
		w.waitFunding(ctx, agreed.PaymentId)
		require.NoError(sc.t, sc.Mine(ctx, 1))
		require.Equal(sc.t, lnrpc.Invoice_OPEN, w.invoiceState(ctx, own.Hash), "one confirmation is not two")
		require.NoError(sc.t, sc.Mine(ctx, 1))
		sc.paid(done, paidWithin)
		require.Equal(sc.t, lnrpc.Invoice_SETTLED, w.invoiceState(ctx, own.Hash))
		w.waitState(ctx, agreed.PaymentId, "settled")
		require.Equal(sc.t, 1, w.channels(ctx))
	})

	// Paid: the wallet hears on its stream that a payment waits, and connects.
	sc.day(ctx, "wrapped, told of it and online in time: paid", func(sc *scene) {
		w := wrapper.in(sc)
		agreed, own := w.receiveReceiverPays(ctx, 300_000_000, &lspv1.ChannelWish{ZeroConf: true, AllowAnotherChannel: true})
		w.goOffline(ctx)
		listening, stop := context.WithCancel(ctx)
		defer stop()
		stream, err := w.api.WatchWaiting(listening, &lspv1.WatchWaitingRequest{})
		require.NoError(sc.t, err)
		_, err = stream.Header()
		require.NoError(sc.t, err)
		done := sc.pay(ctx, agreed.Bolt11)
		word, err := stream.Recv()
		require.NoError(sc.t, err)
		require.Equal(sc.t, agreed.PaymentId, word.PaymentId)
		require.Equal(sc.t, own.Hash[:], word.PaymentHash)
		w.comeOnline(ctx)
		sc.paid(done, paidWithin)
		w.waitState(ctx, agreed.PaymentId, "settled")
		require.Equal(sc.t, 2, w.channels(ctx))
	})
}

// waitInvoice follows an invoice of the wallet until it is in the state.
func (p *person) waitInvoice(ctx context.Context, hash ln.Hash, state lnrpc.Invoice_InvoiceState) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, paidWithin)
	defer cancel()
	stream, err := p.node.Invoices.SubscribeSingleInvoice(ctx, &invoicesrpc.SubscribeSingleInvoiceRequest{RHash: hash[:]})
	require.NoError(p.t, err)
	for {
		inv, err := stream.Recv()
		require.NoError(p.t, err, "waiting for the wallet's invoice to be %s", state)
		if inv.State == state {
			return
		}
	}
}

func (p *person) invoiceState(ctx context.Context, hash ln.Hash) lnrpc.Invoice_InvoiceState {
	p.t.Helper()
	inv, err := p.node.LN.LookupInvoice(ctx, &lnrpc.PaymentHash{RHash: hash[:]})
	require.NoError(p.t, err)
	return inv.State
}

// waitFunding waits until the funding transaction of a payment's only open is
// in the mempool.
func (p *person) waitFunding(ctx context.Context, id string) wire.OutPoint {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, paidWithin)
	defer cancel()
	var point wire.OutPoint
	err := devnet.WaitFor(ctx, "the funding transaction", func(ctx context.Context) (bool, error) {
		seen, err := p.sc.op.api.ShowPayment(ctx, &lspv1.ShowPaymentRequest{IdOrHash: id})
		if err != nil || len(seen.Openings) == 0 || seen.Openings[0].FundingOutpoint == "" {
			return false, err
		}
		point, err = devnet.ParsePoint(seen.Openings[0].FundingOutpoint)
		return err == nil, err
	})
	require.NoError(p.t, err)
	require.NoError(p.t, p.sc.Miner().WaitTxInMempool(ctx, point.Hash))
	return point
}

// cutWhenPending cuts the wallet's connection the moment that its node has the
// next channel pending, and reports that it did.
func (p *person) cutWhenPending(ctx context.Context) <-chan error {
	p.t.Helper()
	stream, err := p.node.LN.SubscribeChannelEvents(ctx, &lnrpc.ChannelEventSubscription{})
	require.NoError(p.t, err)
	done := make(chan error, 1)
	go func() {
		for {
			update, err := stream.Recv()
			if err != nil {
				done <- err
				return
			}
			if update.Type == lnrpc.ChannelEventUpdate_PENDING_OPEN_CHANNEL {
				p.link.Cut()
				done <- nil
				return
			}
		}
	}()
	return done
}
