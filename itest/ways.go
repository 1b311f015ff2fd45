//go:build itest

package itest

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// way is who pays the opening fee, and how what happens to a payment is called then.
type way struct {
	name string
	// wrapped: the receiver pays, out of a hold invoice of the gateway's.
	wrapped bool
	// waits: the payer's money is held for the wallet. sent: the wallet's node was given
	// its payment.
	waits, sent moment
	// paid and refunded are the states that these ends leave. What the payer paid the
	// fee of can be paid again; an invoice of the gateway's is good for one try.
	paid, refunded string
	// soon is what the payer's node is told of what may succeed soon.
	soon lnrpc.Failure_FailureCode
}

func payerPays() way {
	return way{
		name: "payer pays", waits: moment{"jit", "collecting"}, sent: moment{"jit", "forwarded"},
		paid: "paid", refunded: "offered", soon: lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE,
	}
}

func receiverPays() way {
	return way{
		name: "receiver pays", wrapped: true, waits: moment{"wrap", "accepted"}, sent: moment{"wrap", "paying"},
		paid: "settled", refunded: "refunded", soon: lnrpc.Failure_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS,
	}
}

func ways() []way { return []way{payerPays(), receiverPays()} }

// deal is a payment that was agreed on, one way or the other.
type deal struct {
	way
	p          *person
	id, bolt11 string
	preimage   ln.Preimage
	// amount is what the payer pays; where the payer pays the fee, without that.
	// walletMsat arrives.
	amount, walletMsat ln.Msat
	feeMsat            ln.Msat
	done               <-chan outcome
	// spentMsat left the payer: nothing but of what ended paid.
	spentMsat ln.Msat
}

// dealWish is what a deal may vary.
type dealWish struct {
	// held: the wallet gives its preimage up only when the test says so.
	held bool
	// finalCltv is what the wallet's invoice asks for; of the payer's fee only.
	finalCltv uint32
}

// agree makes a deal over a channel of its own.
func (p *person) agree(ctx context.Context, w way, amount ln.Msat, wish dealWish) *deal {
	p.t.Helper()
	d := &deal{way: w, p: p, amount: amount, walletMsat: amount}
	if !w.wrapped {
		o := p.negotiate(ctx, amount, offerWish{another: true, finalCltv: wish.finalCltv})
		require.True(p.t, o.OpensChannel, "there is room already")
		d.id, d.preimage, d.feeMsat = o.PaymentId, o.preimage, ln.Msat(o.FeeMsat)
		if wish.held {
			d.bolt11 = p.holdInvoice(ctx, o)
		} else {
			d.bolt11 = p.invoice(ctx, o)
		}
		return d
	}
	_, err := rand.Read(d.preimage[:])
	require.NoError(p.t, err)
	agreed, _ := p.wrap(ctx, amount, &lspv1.ChannelWish{ZeroConf: true, AllowAnotherChannel: true}, func(walletMsat ln.Msat, expiry time.Duration) (string, error) {
		d.walletMsat = walletMsat
		if wish.held {
			return p.lnd.AddHoldInvoice(ctx, ln.HoldInvoiceRequest{
				Hash: d.preimage.Hash(), AmountMsat: walletMsat, Memo: wrappedMemo, FinalCltvDelta: walletFinalCltv, Expiry: expiry,
			})
		}
		own, _, err := p.lnd.AddInvoice(ctx, ln.InvoiceRequest{
			Preimage: d.preimage, AmountMsat: walletMsat, Memo: wrappedMemo, FinalCltvDelta: walletFinalCltv, Expiry: expiry,
		})
		return own, err
	})
	require.True(p.t, agreed.OpensChannel, "there is room already")
	d.id, d.bolt11, d.feeMsat = agreed.PaymentId, agreed.Bolt11, ln.Msat(agreed.FeeMsat)
	require.Equal(p.t, d.amount, d.walletMsat+d.feeMsat)
	return d
}

// agreeBothWays makes a deal of each way.
func (p *person) agreeBothWays(ctx context.Context, amount func() ln.Msat, wish dealWish) (deals []*deal) {
	p.t.Helper()
	for _, w := range ways() {
		deals = append(deals, p.agree(ctx, w, amount(), wish))
	}
	return deals
}

// growing gives larger amounts each time, for payments that each open their own channel.
func growing(amount, by ln.Msat) func() ln.Msat {
	return func() ln.Msat {
		amount += by
		return amount
	}
}

func (d *deal) hash() ln.Hash { return d.preimage.Hash() }

// pay has the payer begin.
func (d *deal) pay(ctx context.Context) {
	d.p.t.Helper()
	d.done = d.p.sc.pay(ctx, d.bolt11)
}

// again is the same payment, or a new one where that one is over, once more.
func (d *deal) again(ctx context.Context) *deal {
	d.p.t.Helper()
	if d.wrapped {
		next := d.p.agree(ctx, d.way, d.amount, dealWish{})
		next.pay(ctx)
		return next
	}
	// Without forgetting the failure the payer splits; it must still work.
	d.done = d.p.sc.payInParts(ctx, d.bolt11)
	return d
}

// waitHeld waits until the payer's money is held for the wallet, and lnd's records say so.
func (d *deal) waitHeld(ctx context.Context) {
	d.p.t.Helper()
	d.p.sc.waitMoment(ctx, d.id, d.waits)
	if d.wrapped {
		// Nothing asks for the wallet before lnd's channels were seen to hold the set.
		d.p.sc.waitStory(ctx, d.id, "the wallet was asked for", func(e *lspv1.StoryEvent) bool { return e.Event == "wallet_status" })
	}
}

// waitSent waits until the wallet's node has its payment, and keeps it.
func (d *deal) waitSent(ctx context.Context) {
	d.p.t.Helper()
	d.p.waitInvoice(ctx, d.hash(), lnrpc.Invoice_ACCEPTED)
	d.p.sc.waitMoment(ctx, d.id, d.sent)
}

func (d *deal) claim(ctx context.Context) {
	d.p.t.Helper()
	d.p.claim(ctx, offer{preimage: d.preimage})
}

// endsPaid demands that the payer and the wallet have paid and got what was agreed, and
// that operator and client read so.
func (d *deal) endsPaid(ctx context.Context, within time.Duration) {
	d.p.t.Helper()
	d.wasPaid(ctx, d.p.sc.paid(d.done, within))
}

func (d *deal) wasPaid(ctx context.Context, m *lnrpc.Payment) {
	d.p.t.Helper()
	require.Equal(d.p.t, lnrpc.Payment_SUCCEEDED, m.Status, "%s: the payer must end paid: %s", d.way.name, m.FailureReason)
	d.spentMsat = ln.Msat(m.ValueMsat + m.FeeMsat) //nolint:gosec // a payment's
	if d.wrapped {
		require.Equal(d.p.t, d.amount, d.spentMsat)
	} else {
		// The hint says it in whole millionths, rounded up, and each part is rounded.
		require.GreaterOrEqual(d.p.t, d.spentMsat, d.amount+d.feeMsat)
		require.LessOrEqual(d.p.t, d.spentMsat, d.amount+d.feeMsat+d.amount/1_000_000+16)
	}
	end := d.p.sc.waitEnd(ctx, d.id, d.way.paid)
	d.p.t.Logf("%s, %s: %s", d.way.name, end.State, end.Reason)
	require.Equal(d.p.t, lnrpc.Invoice_SETTLED, d.p.invoiceState(ctx, d.hash()))
}

// endsRefunded demands that the payer has everything back, and that operator and client
// read this reason.
func (d *deal) endsRefunded(ctx context.Context, within time.Duration, reason string) *lnrpc.Payment {
	d.p.t.Helper()
	m := d.p.sc.refunded(d.done, within)
	d.wasRefunded(ctx, reason)
	return m
}

func (d *deal) wasRefunded(ctx context.Context, reason string) {
	d.p.t.Helper()
	d.p.waitReason(ctx, d.id, reason, d.way.refunded)
	require.NotEqual(d.p.t, lnrpc.Invoice_SETTLED, d.p.invoiceState(ctx, d.hash()))
}

// heldState is the state of the gateway's hold invoice.
func (d *deal) heldState(ctx context.Context) lnrpc.Invoice_InvoiceState {
	d.p.t.Helper()
	hash := d.hash()
	inv, err := d.p.sc.Gateway.Invoices.LookupInvoiceV2(ctx, &invoicesrpc.LookupInvoiceMsg{
		InvoiceRef: &invoicesrpc.LookupInvoiceMsg_PaymentHash{PaymentHash: hash[:]},
	})
	require.NoError(d.p.t, err)
	return inv.State
}

// waitAccepted waits until lnd holds the whole set, whoever else knows of it.
func (d *deal) waitAccepted(ctx context.Context) {
	d.p.t.Helper()
	require.NoError(d.p.t, devnet.WaitFor(ctx, "the gateway's hold invoice to be accepted", func(ctx context.Context) (bool, error) {
		return d.heldState(ctx) == lnrpc.Invoice_ACCEPTED, nil
	}))
}

// gatewayPays is the gateway's payment to the wallet as its lnd has it, nil before there
// is one.
func (d *deal) gatewayPays(ctx context.Context) *lnrpc.Payment {
	d.p.t.Helper()
	list, err := d.p.sc.Gateway.LN.ListPayments(ctx, &lnrpc.ListPaymentsRequest{IncludeIncomplete: true})
	require.NoError(d.p.t, err)
	hash := d.hash()
	for _, m := range list.Payments {
		if m.PaymentHash == hash.String() {
			return m
		}
	}
	return nil
}

// waitAttempt waits until the gateway's lnd has recorded that it pays the wallet.
func (d *deal) waitAttempt(ctx context.Context) {
	d.p.t.Helper()
	require.NoError(d.p.t, devnet.WaitFor(ctx, "the gateway to pay", func(ctx context.Context) (bool, error) {
		return len(d.gatewayPays(ctx).GetHtlcs()) > 0, nil
	}))
}

// waitGatewayPaid waits until the gateway's lnd has been told that the wallet took it.
func (d *deal) waitGatewayPaid(ctx context.Context) {
	d.p.t.Helper()
	require.NoError(d.p.t, devnet.WaitFor(ctx, "the gateway to have paid", func(ctx context.Context) (bool, error) {
		return d.gatewayPays(ctx).GetStatus() == lnrpc.Payment_SUCCEEDED, nil
	}))
}

// purse is what the payer and a wallet have in channels.
type purse struct {
	p             *person
	payer, wallet uint64
}

func (p *person) purse(ctx context.Context) purse {
	p.t.Helper()
	for _, n := range []*devnet.Node{p.sc.Payer, p.node} {
		require.NoError(p.t, n.WaitNoHTLCs(ctx))
	}
	return purse{p: p, payer: channelMsat(ctx, p.t, p.sc.Payer), wallet: channelMsat(ctx, p.t, p.node)}
}

// moved demands that what these deals moved has left and has arrived, to the millisatoshi.
func (b purse) moved(ctx context.Context, deals ...*deal) {
	b.p.t.Helper()
	now := b.p.purse(ctx)
	spent, arrived := b.payer-now.payer, now.wallet-b.wallet
	for _, d := range deals {
		if d.spentMsat != 0 {
			spent -= uint64(d.spentMsat)
			arrived -= uint64(d.walletMsat)
		}
	}
	require.Zero(b.p.t, int64(spent), "what the payer spent besides")  //nolint:gosec // below 2^63, or wrapped
	require.Zero(b.p.t, int64(arrived), "what the wallet got besides") //nolint:gosec // below 2^63, or wrapped
}
