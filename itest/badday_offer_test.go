//go:build itest

package itest

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// TestOnDemandBadDaysOfTheOffer are the days on which what was agreed, and
// what is paid, differ.
func TestOnDemandBadDaysOfTheOffer(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	sc := newScene(ctx, t, devnet.StandardConfig{}, devnet.SluicedConfig{})
	people := sc.persons(ctx, "other", "probed", "parts")
	// The first wallet's agreements all fail: it never gets a channel.
	first, other, probed, parts := sc.first(ctx), people[0], people[1], people[2]

	// Nothing is agreed, so nobody can pay; each refusal says what to do.
	sc.day(ctx, "altered, foreign, too small, too large or expired: refused", func(sc *scene) {
		w, thief := first.in(sc), other.in(sc)
		params := func() *lspv1.OpeningFeeParams { return w.menu(ctx).OpeningFeeParamsMenu[0] }
		try := func(p *person, amount uint64, params *lspv1.OpeningFeeParams, wish offerWish, text string) {
			_, err := p.tryNegotiate(ctx, ln.Msat(amount), params, wish)
			requireRefusal(sc.t, err, text)
		}
		cheaper := params()
		cheaper.ProportionalPpm--
		try(w, 100_000_000, cheaper, offerWish{}, "were altered")
		longer := params()
		longer.ValidUntilMs += 1_000
		try(w, 100_000_000, longer, offerWish{}, "were altered")
		try(thief, 100_000_000, params(), offerWish{}, "given to another client")
		least, most := params().MinPaymentSizeMsat, params().MaxPaymentSizeMsat
		try(w, least-1, params(), offerWish{}, "smaller than this offer")
		try(w, most+1, params(), offerWish{}, "larger than this offer")
		try(w, 0, params(), offerWish{}, "without an amount")
		try(w, 100_000_000, params(), offerWish{expires: -time.Second}, "expires in the past")
		_, err := w.api.Negotiate(ctx, &lspv1.NegotiateRequest{
			PaymentHash: make([]byte, 32), AmountMsat: 100_000_000, Channel: &lspv1.ChannelWish{ZeroConf: true},
			FinalCltvDeltaBlocks: 80, InvoiceExpiresMs: time.Now().Add(time.Minute).UnixMilli(),
		})
		requireRefusal(sc.t, err, "ask for the menu and choose an item")

		o := w.negotiate(ctx, 100_000_000, offerWish{})
		_, err = thief.api.GetPayment(ctx, &lspv1.GetPaymentRequest{PaymentId: o.PaymentId})
		requireRefusal(sc.t, err, "")
		_, err = thief.api.CancelPayment(ctx, &lspv1.CancelPaymentRequest{PaymentId: o.PaymentId})
		requireRefusal(sc.t, err, "")
		hash := o.preimage.Hash()
		_, err = w.api.Negotiate(ctx, &lspv1.NegotiateRequest{
			PaymentHash: hash[:], AmountMsat: 100_000_000, OpeningFeeParams: params(), Channel: &lspv1.ChannelWish{ZeroConf: true},
			FinalCltvDeltaBlocks: 80, InvoiceExpiresMs: time.Now().Add(time.Minute).UnixMilli(),
		})
		requireRefusal(sc.t, err, "make a new invoice")
	})

	// Refunded at once, for good: the offer had ended before the payer paid.
	sc.day(ctx, "paid after the offer expired: refunded", func(sc *scene) {
		w := first.in(sc)
		o := w.negotiate(ctx, 100_000_000, offerWish{expires: 2 * time.Second})
		bolt11 := w.invoice(ctx, o)
		w.waitState(ctx, o.PaymentId, "expired")
		failed := sc.refunded(sc.pay(ctx, bolt11), refundedWithin)
		require.Equal(sc.t, []lnrpc.Failure_FailureCode{lnrpc.Failure_UNKNOWN_NEXT_PEER}, failureCodes(failed))
		w.waitReason(ctx, o.PaymentId, "before the offer expired", "expired")
		require.Zero(sc.t, w.channels(ctx))
	})

	// Refunded at once, for good: the wallet wrote a hint that charges the
	// payer half of the fee.
	sc.day(ctx, "the hint promises less than the fee: refunded", func(sc *scene) {
		w := first.in(sc)
		o := w.negotiate(ctx, 100_000_000, offerWish{})
		o.HintFeePpm /= 2
		failed := sc.refunded(sc.pay(ctx, w.invoice(ctx, o)), refundedWithin)
		require.Equal(sc.t, []lnrpc.Failure_FailureCode{lnrpc.Failure_UNKNOWN_NEXT_PEER}, failureCodes(failed))
		w.waitReason(ctx, o.PaymentId, "promises too little", "offered")
		require.Zero(sc.t, w.channels(ctx))
		require.Empty(sc.t, sc.openings(ctx, o.PaymentId))
	})

	// Refunded at once, for good: the hint leaves the gateway too few blocks.
	sc.day(ctx, "the hint leaves too few blocks: refunded", func(sc *scene) {
		w := first.in(sc)
		o := w.negotiate(ctx, 100_000_000, offerWish{})
		o.HintCltvDeltaBlocks--
		failed := sc.refunded(sc.pay(ctx, w.invoice(ctx, o)), refundedWithin)
		require.Equal(sc.t, []lnrpc.Failure_FailureCode{lnrpc.Failure_UNKNOWN_NEXT_PEER}, failureCodes(failed))
		w.waitReason(ctx, o.PaymentId, "fewer than its", "offered")
		require.Zero(sc.t, w.channels(ctx))
		require.Empty(sc.t, sc.openings(ctx, o.PaymentId))
	})

	// Nothing is agreed: the wallet names another invoice of the gateway's by its hash,
	// words and amount. Taken for the wrap's, it could be cancelled. Its payer pays it.
	sc.day(ctx, "wrapped with the hash of another invoice of the gateway: refused, and that one is paid", func(sc *scene) {
		w := first.in(sc)
		const amount, memo = 100_000_000, "a shop's invoice"
		shop, err := sc.Gateway.LN.AddInvoice(ctx, &lnrpc.Invoice{ValueMsat: amount, Memo: memo, CltvExpiry: 163})
		require.NoError(sc.t, err)
		params, fee := w.quote(ctx, amount)
		own, err := w.lnd.AddHoldInvoice(ctx, ln.HoldInvoiceRequest{
			Hash: ln.Hash(shop.RHash), AmountMsat: amount - fee, Memo: memo, FinalCltvDelta: 80, Expiry: time.Hour,
		})
		require.NoError(sc.t, err)
		_, err = w.api.Wrap(ctx, &lspv1.WrapRequest{
			Bolt11: own, AmountMsat: amount, OpeningFeeParams: params, Channel: &lspv1.ChannelWish{ZeroConf: true},
		})
		requireRefusal(sc.t, err, "payment hash is in use")
		sc.paid(sc.pay(ctx, shop.PaymentRequest), paidWithin)
		require.Zero(sc.t, w.channels(ctx))
	})

	// Refunded after collect_for: the invoice asks for less than was agreed.
	sc.day(ctx, "the invoice asks for less than agreed: refunded", func(sc *scene) {
		w := first.in(sc)
		o := w.negotiate(ctx, 100_000_000, offerWish{})
		o.amount = 50_000_000
		sc.refunded(sc.pay(ctx, w.invoice(ctx, o)), collectFor+refundedWithin)
		w.waitReason(ctx, o.PaymentId, "arrived in time", "offered")
		require.Zero(sc.t, w.channels(ctx))
	})

	// Refunded after collect_for: of two parts one never comes.
	sc.day(ctx, "one part of two never comes: refunded", func(sc *scene) {
		w := first.in(sc)
		o := w.negotiate(ctx, 100_000_000, offerWish{})
		attempt := sc.sendPart(ctx, w, o, 50_000_000)
		require.Equal(sc.t, lnrpc.HTLCAttempt_FAILED, attempt.Status)
		require.Equal(sc.t, lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE, attempt.Failure.GetCode())
		w.waitReason(ctx, o.PaymentId, "arrived in time", "offered")
		require.Zero(sc.t, w.channels(ctx))
		require.Empty(sc.t, sc.openings(ctx, o.PaymentId))
	})

	// Paid: a probe with a random hash comes first, opens nothing, is refused
	// as temporary (law 6), and the real payment of the same payer succeeds.
	sc.day(ctx, "a probe comes first: paid", func(sc *scene) {
		w := probed.in(sc)
		o := w.negotiate(ctx, 100_000_000, offerWish{})
		bolt11 := w.invoice(ctx, o)
		var random [32]byte
		_, err := rand.Read(random[:])
		require.NoError(sc.t, err)
		probe := sc.refunded(sc.attempt(ctx, &routerrpc.SendPaymentRequest{
			Dest: w.key[:], AmtMsat: int64(o.amount), PaymentHash: random[:], PaymentAddr: random[:], FinalCltvDelta: 80,
			RouteHints: o.hints(sc.t), DestFeatures: []lnrpc.FeatureBit{lnrpc.FeatureBit_TLV_ONION_REQ, lnrpc.FeatureBit_PAYMENT_ADDR_REQ, lnrpc.FeatureBit_MPP_OPT},
		}), refundedWithin)
		require.Equal(sc.t, []lnrpc.Failure_FailureCode{lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE}, failureCodes(probe))
		require.Zero(sc.t, w.channels(ctx))
		sc.paid(sc.payInParts(ctx, bolt11), paidWithin)
		w.waitState(ctx, o.PaymentId, "paid")
		require.Equal(sc.t, 1, w.channels(ctx))
	})

	// Paid: two parts, one channel.
	sc.day(ctx, "in two parts: paid over one channel", func(sc *scene) {
		w := parts.in(sc)
		o := w.negotiate(ctx, 100_000_000, offerWish{})
		payment := sc.paid(sc.attempt(ctx, &routerrpc.SendPaymentRequest{
			PaymentRequest: w.invoice(ctx, o), MaxParts: 16, MaxShardSizeMsat: 60_000_000,
		}), paidWithin)
		require.Len(sc.t, payment.Htlcs, 2)
		final := w.waitState(ctx, o.PaymentId, "paid")
		require.Equal(sc.t, 1, w.channels(ctx))
		require.NotEmpty(sc.t, final.FundingOutpoint)
	})

	// New business is refused with the operator's reason; what was agreed before
	// is still paid; then the gateway is drained.
	sc.day(ctx, "business stops: what was agreed is paid, new agreements are refused", func(sc *scene) {
		w := parts.in(sc)
		before := w.channels(ctx)
		o := w.negotiate(ctx, 400_000_000, offerWish{another: true})
		bolt11 := w.invoice(ctx, o)
		_, err := sc.op.api.SetBusiness(ctx, &lspv1.SetBusinessRequest{Accepting: false, Reason: "the disk is replaced"})
		require.NoError(sc.t, err)
		_, err = w.tryNegotiate(ctx, 500_000_000, nil, offerWish{another: true})
		requireRefusal(sc.t, err, "takes no new business")
		require.False(sc.t, w.menu(ctx).Accepting)
		sc.paid(sc.pay(ctx, bolt11), paidWithin)
		w.waitState(ctx, o.PaymentId, "paid")
		require.Equal(sc.t, before+1, w.channels(ctx))
		sc.waitStatus(ctx, "the gateway to be drained", func(s *lspv1.GetStatusResponse) bool { return s.Drained })
		status, err := sc.op.api.GetStatus(ctx, &lspv1.GetStatusRequest{})
		require.NoError(sc.t, err)
		require.Equal(sc.t, "the disk is replaced", status.StoppedReason)
		_, err = sc.op.api.SetBusiness(ctx, &lspv1.SetBusinessRequest{Accepting: true})
		require.NoError(sc.t, err)
		w.negotiate(ctx, 500_000_000, offerWish{another: true})
	})

	// Both paid, each over a channel of its own.
	sc.day(ctx, "two wallets at once: both paid", func(sc *scene) {
		a, b := probed.in(sc), other.in(sc)
		beforeA, beforeB := a.channels(ctx), b.channels(ctx)
		oa := a.negotiate(ctx, 600_000_000, offerWish{another: true})
		ob := b.negotiate(ctx, 600_000_000, offerWish{another: true})
		doneA, doneB := sc.pay(ctx, a.invoice(ctx, oa)), sc.pay(ctx, b.invoice(ctx, ob))
		sc.paid(doneA, paidWithin)
		sc.paid(doneB, paidWithin)
		a.waitState(ctx, oa.PaymentId, "paid")
		b.waitState(ctx, ob.PaymentId, "paid")
		require.Equal(sc.t, beforeA+1, a.channels(ctx))
		require.Equal(sc.t, beforeB+1, b.channels(ctx))
	})
}

// sendPart sends one HTLC of a payment and nothing more, and waits for its end.
func (sc *scene) sendPart(ctx context.Context, w *person, o offer, amountMsat int64) *lnrpc.HTLCAttempt {
	sc.t.Helper()
	decoded, err := sc.Payer.LN.DecodePayReq(ctx, &lnrpc.PayReqString{PayReq: w.invoice(ctx, o)})
	require.NoError(sc.t, err)
	routes, err := sc.Payer.LN.QueryRoutes(ctx, &lnrpc.QueryRoutesRequest{
		PubKey: w.key.String(), AmtMsat: amountMsat, FinalCltvDelta: int32(decoded.CltvExpiry) + 3, RouteHints: o.hints(sc.t),
		FeeLimit: &lnrpc.FeeLimit{Limit: &lnrpc.FeeLimit_FixedMsat{FixedMsat: amountMsat}},
	})
	require.NoError(sc.t, err)
	route := routes.Routes[0]
	route.Hops[len(route.Hops)-1].MppRecord = &lnrpc.MPPRecord{PaymentAddr: decoded.PaymentAddr, TotalAmtMsat: decoded.NumMsat}
	ctx, cancel := context.WithTimeout(ctx, collectFor+refundedWithin)
	defer cancel()
	hash := o.preimage.Hash()
	attempt, err := sc.Payer.Router.SendToRouteV2(ctx, &routerrpc.SendToRouteRequest{PaymentHash: hash[:], Route: route})
	require.NoError(sc.t, err)
	return attempt
}

func (sc *scene) waitStatus(ctx context.Context, what string, cond func(*lspv1.GetStatusResponse) bool) {
	sc.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, paidWithin)
	defer cancel()
	err := devnet.WaitFor(ctx, what, func(ctx context.Context) (bool, error) {
		s, err := sc.op.api.GetStatus(ctx, &lspv1.GetStatusRequest{})
		return err == nil && cond(s), err
	})
	require.NoError(sc.t, err)
}
