//go:build itest

package itest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// callDay is a day on which sluiced is killed just before lnd gets a call, or just after
// lnd has done what the call asks and before sluiced has heard of it.
type callDay struct {
	*scene
	w       *person
	barrier *barrier

	// id and hash name the payment; what follows is how things stood before it.
	id                    string
	hash                  ln.Hash
	channels, mempool     int
	leased                []string
	payerMsat, walletMsat int64
}

// call is one of sluiced's that moves a payment.
type call struct {
	what, method string
	// match says which message of the method it is; nil: any.
	match func(d *callDay, message []byte) bool
	// payment and opening are what sluiced has on record when it makes the call; "" does
	// not matter.
	payment, opening string
	// done says by the nodes' own word that lnd did what it was asked; nil: only its answer
	// to sluiced tells.
	done func(ctx context.Context, d *callDay) (bool, error)
}

// callsOfPayers are those of a payment whose payer pays for its channel, in their order.
func callsOfPayers() []call {
	return []call{
		{
			what: "leases a coin", method: "/walletrpc.WalletKit/LeaseOutput", payment: "opening", opening: "planned",
			// Coins of earlier openings are leased again now and then.
			match: func(d *callDay, message []byte) bool {
				var m walletrpc.LeaseOutputRequest
				return proto.Unmarshal(message, &m) == nil && !slices.Contains(d.leased, coinOf(m.Outpoint))
			},
			done: func(ctx context.Context, d *callDay) (bool, error) {
				leased, err := leasedCoins(ctx, d.Gateway)
				return slices.ContainsFunc(leased, func(coin string) bool { return !slices.Contains(d.leased, coin) }), err
			},
		},
		{
			what: "negotiates the channel", method: "/lnrpc.Lightning/OpenChannel", payment: "opening", opening: "leased",
		},
		{
			what: "opens the channel", method: "/lnrpc.Lightning/FundingStateStep", payment: "opening", opening: "built",
			match: func(_ *callDay, message []byte) bool {
				var m lnrpc.FundingTransitionMsg
				return proto.Unmarshal(message, &m) == nil && m.GetPsbtVerify() != nil
			},
			done: func(ctx context.Context, d *callDay) (bool, error) { return d.w.channels(ctx) == d.channels+1, nil },
		},
		{
			// The wallet's node signs meanwhile: the open is built, or pending.
			what: "signs the funding", method: "/walletrpc.WalletKit/FinalizePsbt", payment: "opening",
		},
		{
			what: "publishes the funding", method: "/walletrpc.WalletKit/PublishTransaction", opening: "signed",
			done: func(ctx context.Context, d *callDay) (bool, error) {
				txs, err := d.Miner().Mempool(ctx)
				return len(txs) == d.mempool+1, err
			},
		},
		{
			what: "maps the channel", method: "/routerrpc.Router/XAddLocalChanAliases", payment: "mapping",
		},
		{
			what: "resumes", method: "/routerrpc.Router/HtlcInterceptor", payment: "resuming",
			match: func(_ *callDay, message []byte) bool {
				var m routerrpc.ForwardHtlcInterceptResponse
				return proto.Unmarshal(message, &m) == nil && m.IncomingCircuitKey != nil && m.Action == routerrpc.ResolveHoldForwardAction_RESUME
			},
			done: func(ctx context.Context, d *callDay) (bool, error) {
				return d.w.invoiceState(ctx, d.hash) == lnrpc.Invoice_ACCEPTED, nil
			},
		},
	}
}

// callPay and callSettle are those of a wrapped invoice: between them the wallet has its
// money, and the gateway does not have the payer's yet.
func callPay() call {
	return call{
		what: "pays the wallet", method: "/routerrpc.Router/SendToRouteV2", payment: "paying",
		done: func(ctx context.Context, d *callDay) (bool, error) {
			list, err := d.Gateway.LN.ListPayments(ctx, &lnrpc.ListPaymentsRequest{IncludeIncomplete: true})
			paid := slices.ContainsFunc(list.GetPayments(), func(p *lnrpc.Payment) bool {
				return p.PaymentHash == d.hash.String() && p.Status == lnrpc.Payment_SUCCEEDED
			})
			return paid && d.w.invoiceState(ctx, d.hash) == lnrpc.Invoice_SETTLED, err
		},
	}
}

func callSettle() call {
	return call{
		what: "settles with the payer", method: "/invoicesrpc.Invoices/SettleInvoice", payment: "settling",
		done: func(ctx context.Context, d *callDay) (bool, error) {
			inv, err := d.Gateway.LN.LookupInvoice(ctx, &lnrpc.PaymentHash{RHash: d.hash[:]})
			return inv.GetState() == lnrpc.Invoice_SETTLED, err
		},
	}
}

func coinOf(op *lnrpc.OutPoint) string {
	var id ln.TxID
	copy(id[:], op.GetTxidBytes())
	return ln.Outpoint{TxID: id, Index: op.GetOutputIndex()}.String()
}

func leasedCoins(ctx context.Context, n *devnet.Node) (out []string, err error) {
	list, err := n.Wallet.ListLeases(ctx, &walletrpc.ListLeasesRequest{})
	for _, l := range list.GetLockedUtxos() {
		out = append(out, coinOf(l.Outpoint))
	}
	return out, err
}

// newCallDay looks at how things stand.
func newCallDay(ctx context.Context, sc *scene, w *person, b *barrier) *callDay {
	sc.t.Helper()
	d := &callDay{scene: sc, w: w, barrier: b}
	txs, err := sc.Miner().Mempool(ctx)
	require.NoError(sc.t, err)
	d.leased, err = leasedCoins(ctx, sc.Gateway)
	require.NoError(sc.t, err)
	d.channels, d.mempool = w.channels(ctx), len(txs)
	d.payerMsat, d.walletMsat = wealth(ctx, sc.t, sc.Payer), wealth(ctx, sc.t, w.node)
	return d
}

// arm has the next such call be the last thing that sluiced does.
func (d *callDay) arm(c call, after bool) *fall {
	var match func([]byte) bool
	if c.match != nil {
		match = func(message []byte) bool { return c.match(d, message) }
	}
	return d.barrier.fallAt(c.method, match, after)
}

// kill kills sluiced at the call that the barrier was armed for, and starts it again;
// dead is called in between.
func (d *callDay) kill(ctx context.Context, c call, f *fall, dead func()) {
	d.t.Helper()
	within, cancel := context.WithTimeout(ctx, afterOutage)
	defer cancel()
	await := func(what string, ch <-chan struct{}) {
		d.t.Helper()
		select {
		case <-ch:
		case <-within.Done():
			require.FailNow(d.t, what)
		}
	}
	await("sluiced never called "+c.method, f.fallen)
	switch {
	case !f.after:
	case c.done == nil:
		await("lnd never answered "+c.method, f.answered)
	default:
		require.NoError(d.t, devnet.WaitFor(within, "lnd to do it", func(ctx context.Context) (bool, error) { return c.done(ctx, d) }))
	}
	seen, err := d.op.api.ShowPayment(within, &lspv1.ShowPaymentRequest{IdOrHash: d.id})
	require.NoError(d.t, err)
	if c.payment != "" {
		require.Equal(d.t, c.payment, seen.Payment.State, "sluiced's record at the kill:\n%s", storyText(seen))
	}
	if c.opening != "" {
		require.Len(d.t, seen.Openings, 1)
		require.Equal(d.t, c.opening, seen.Openings[0].State, "sluiced's record at the kill:\n%s", storyText(seen))
	}
	require.NoError(d.t, d.s.Kill())
	if !f.after && c.done != nil {
		did, err := c.done(ctx, d)
		require.NoError(d.t, err)
		require.False(d.t, did, "lnd was never asked")
	}
	if dead != nil {
		dead()
	}
	d.barrier.lift()
	began := time.Now()
	require.NoError(d.t, d.s.Start(ctx))
	d.t.Logf("killed with its record at %s %s; ready again %s after its start", c.payment, c.opening, time.Since(began).Round(time.Millisecond))
}

// ended demands one channel for the payment, that the wallet has got exactly this much,
// and that the payer has paid exactly so much, to the millisatoshi.
func (d *callDay) ended(ctx context.Context, walletGot, payerPaid int64) {
	d.t.Helper()
	for _, n := range []*devnet.Node{d.Payer, d.w.node, d.Gateway} {
		require.NoError(d.t, n.WaitNoHTLCs(ctx))
	}
	require.Equal(d.t, d.channels+1, d.w.channels(ctx), "one channel for one payment")
	require.Equal(d.t, walletGot, wealth(ctx, d.t, d.w.node)-d.walletMsat, "what the wallet got")
	require.Equal(d.t, payerPaid, d.payerMsat-wealth(ctx, d.t, d.Payer), "what the payer paid")
}

// killedAtCalls kills sluiced on either side of each call that moves a payment. Every
// payer ends paid, over one channel.
func killedAtCalls(ctx context.Context, sc *scene, w *person, b *barrier, more func() ln.Msat) {
	side := map[bool]string{false: "killed before it ", true: "killed when lnd had done it: "}
	day := func(name string, f func(*testing.T)) {
		if !sc.t.Run(name, f) {
			sc.t.FailNow() // the barrier may be down for good
		}
	}
	for _, after := range []bool{false, true} {
		for _, c := range callsOfPayers() {
			day("payer pays, "+side[after]+c.what, func(t *testing.T) {
				sc := sc.on(ctx, t)
				d := newCallDay(ctx, sc, w.in(sc), b)
				o, bolt11 := d.w.holdOffer(ctx, more())
				d.id, d.hash = o.PaymentId, o.preimage.Hash()
				f := d.arm(c, after)
				done := sc.pay(ctx, bolt11)
				d.kill(ctx, c, f, nil)
				d.w.waitInvoice(ctx, d.hash, lnrpc.Invoice_ACCEPTED)
				d.w.claim(ctx, o)
				payment := sc.paid(done, afterOutage)
				sc.waitEnd(ctx, d.id, "paid")
				// The hint's rate is rounded up to cover the fee.
				require.GreaterOrEqual(t, payment.FeeMsat, int64(o.FeeMsat))
				require.Less(t, payment.FeeMsat, int64(o.FeeMsat)+1000)
				d.ended(ctx, int64(o.amount), int64(o.amount)+payment.FeeMsat)
			})
		}
		for _, c := range []call{callPay(), callSettle()} {
			day("receiver pays, "+side[after]+c.what, func(t *testing.T) {
				sc := sc.on(ctx, t)
				d := newCallDay(ctx, sc, w.in(sc), b)
				amount := more()
				agreed, own := d.w.receiveReceiverPays(ctx, amount, &lspv1.ChannelWish{ZeroConf: true, AllowAnotherChannel: true})
				d.id, d.hash = agreed.PaymentId, own.Hash
				f := d.arm(c, after)
				done := sc.pay(ctx, agreed.Bolt11)
				paid := func() { sc.paid(done, afterOutage) }
				if settled := after && c.payment == "settling"; settled {
					// lnd has settled: the payer's end does not wait for sluiced.
					d.kill(ctx, c, f, paid)
				} else {
					d.kill(ctx, c, f, func() { require.Empty(t, done, "nothing was settled with the payer") })
					paid()
				}
				sc.waitEnd(ctx, d.id, "settled")
				require.Equal(t, lnrpc.Invoice_SETTLED, d.w.invoiceState(ctx, d.hash))
				d.ended(ctx, int64(own.AmountMsat), int64(amount))
			})
		}
	}
}
