package lndsuite

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
)

// wrapped is the wallet's invoice and the gateway's hold invoice with the same hash.
type wrapped struct {
	inner *lnrpc.PayReq
	hash  []byte
	addr  []byte
	outer string
}

const feeSat = 2_000

func (e *env) wrap() wrapped {
	e.Helper()
	inner, err := e.ln(Wallet).AddInvoice(e.ctx, &lnrpc.Invoice{Value: nSat - feeSat})
	e.ok(err)
	d, err := e.ln(Gateway).DecodePayReq(e.ctx, &lnrpc.PayReqString{PayReq: inner.PaymentRequest})
	e.ok(err)
	outer, err := e.invoices(Gateway).AddHoldInvoice(e.ctx, &invoicesrpc.AddHoldInvoiceRequest{
		Hash: inner.RHash, Value: nSat, CltvExpiry: 180,
	})
	e.ok(err)
	return wrapped{d, inner.RHash, inner.PaymentAddr, outer.PaymentRequest}
}

// sendOn pays the wallet over a channel with a fresh onion.
func (e *env) sendOn(ctx context.Context, c *lnrpc.Channel, hash, addr []byte, msat int64) (*lnrpc.HTLCAttempt, error) {
	h := e.height()
	return e.router(Gateway).SendToRouteV2(ctx, &routerrpc.SendToRouteRequest{PaymentHash: hash, Route: &lnrpc.Route{
		TotalTimeLock: h + 83, TotalAmtMsat: msat, Hops: []*lnrpc.Hop{{
			ChanId: c.ChanId, PubKey: e.pub(Wallet), Expiry: h + 83, AmtToForwardMsat: msat, TlvPayload: true,
			MppRecord: &lnrpc.MPPRecord{PaymentAddr: addr, TotalAmtMsat: msat},
		}},
	}})
}

func (e *env) completeWrap(w wrapped, p *paying) {
	e.Helper()
	c := e.open(e.jit(1_000_000))
	a, err := e.sendOn(e.ctx, c, w.hash, w.addr, (nSat-feeSat)*1000)
	e.ok(err)
	require.Equal(e, lnrpc.HTLCAttempt_SUCCEEDED, a.Status, "%v", a)
	_, err = e.invoices(Gateway).SettleInvoice(e.ctx, &invoicesrpc.SettleInvoiceMsg{Preimage: a.Preimage})
	e.ok(err)
	p.succeeds()
	e.quiet(Gateway, Wallet)
	require.EqualValues(e, nSat-feeSat, e.local(Wallet))
}

// newestIsOf: lists in reverse begin with the newest, whatever there is besides, and go on
// from an index. By what the payment to the wallet looks like a database that has no row
// of it is recognised as an older copy.
func (e *env) newestIsOf(w wrapped) {
	e.Helper()
	sent, err := e.ln(Gateway).ListPayments(e.ctx, &lnrpc.ListPaymentsRequest{IncludeIncomplete: true, Reversed: true, MaxPayments: 1})
	e.ok(err)
	require.Len(e, sent.Payments, 1)
	p := sent.Payments[0]
	require.Equal(e, hex.EncodeToString(w.hash), p.PaymentHash)
	require.Empty(e, p.PaymentRequest)
	require.Len(e, p.Htlcs, 1)
	require.Len(e, p.Htlcs[0].Route.Hops, 1)
	after, err := e.ln(Gateway).ListPayments(e.ctx, &lnrpc.ListPaymentsRequest{IncludeIncomplete: true, IndexOffset: p.PaymentIndex})
	e.ok(err)
	require.Empty(e, after.Payments)
	made, err := e.ln(Gateway).ListInvoices(e.ctx, &lnrpc.ListInvoiceRequest{Reversed: true, NumMaxInvoices: 1})
	e.ok(err)
	require.Len(e, made.Invoices, 1)
	require.Equal(e, w.hash, made.Invoices[0].RHash)
	later, err := e.ln(Gateway).ListInvoices(e.ctx, &lnrpc.ListInvoiceRequest{IndexOffset: made.Invoices[0].AddIndex})
	e.ok(err)
	require.Empty(e, later.Invoices)
}

// sectionD: the wrapped hold invoice.
func sectionD() map[string]func(*env) {
	required := Options{RequireInterceptor: true}
	return map[string]func(*env){
		"D/wrapped_hold_invoice": func(e *env) {
			e.start(required)
			e.acceptor(true)
			w := e.wrap()
			p := e.pay(w.outer)
			e.accepted(Gateway, w.hash)
			inv, err := e.ln(Gateway).LookupInvoice(e.ctx, &lnrpc.PaymentHash{RHash: w.hash})
			e.ok(err)
			require.EqualValues(e, e.height()+183, inv.Htlcs[0].ExpiryHeight)
			e.completeWrap(w, p)
			e.newestIsOf(w)
		},
		"D/mpp_accepted_when_complete": func(e *env) {
			e.start(required)
			e.acceptor(true)
			w := e.wrap()
			ctx, cancel := context.WithCancel(e.ctx)
			defer cancel()
			sub, err := e.invoices(Gateway).SubscribeSingleInvoice(ctx, &invoicesrpc.SubscribeSingleInvoiceRequest{RHash: w.hash})
			e.ok(err)
			first, err := sub.Recv()
			e.ok(err)
			require.Equal(e, lnrpc.Invoice_OPEN, first.State)
			p := e.payIn(w.outer, 60_000)
			m, err := sub.Recv()
			e.ok(err)
			require.Equal(e, lnrpc.Invoice_ACCEPTED, m.State)
			require.Len(e, m.Htlcs, 2)
			require.EqualValues(e, nMsat, m.AmtPaidMsat)
			e.completeWrap(w, p)
		},
		"D/cancel_is_final_for_the_payer": func(e *env) {
			e.start(required)
			w := e.wrap()
			p := e.pay(w.outer)
			e.accepted(Gateway, w.hash)
			_, err := e.invoices(Gateway).CancelInvoice(e.ctx, &invoicesrpc.CancelInvoiceMsg{PaymentHash: w.hash})
			e.ok(err)
			m := p.fails(lnrpc.Failure_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS)
			require.Len(e, m.Htlcs, 1, "no retry")
			require.Equal(e, lnrpc.PaymentFailureReason_FAILURE_REASON_INCORRECT_PAYMENT_DETAILS, m.FailureReason)
		},
		"D/accepted_survives_a_kill": func(e *env) {
			e.start(required)
			w := e.wrap()
			p := e.pay(w.outer)
			e.accepted(Gateway, w.hash)
			time.Sleep(settled) // that its link has recorded it, nothing tells
			e.restart(Gateway, Payer)
			e.accepted(Gateway, w.hash)
			e.acceptor(true)
			e.until("the wallet is back", func() bool { return e.info(Gateway).NumPeers == 2 })
			e.completeWrap(w, p)
		},
		// Killed at once, its link may not have recorded it: then it takes the HTLC for a
		// replay, and says that the invoice is accepted all the same. An HTLC that is
		// listed five seconds after its channel is active again is there to stay.
		"D/kill_while_accepting": func(e *env) {
			e.start(required)
			w := e.wrap()
			p := e.pay(w.outer)
			e.accepted(Gateway, w.hash)
			e.restart(Gateway, Payer)
			e.active(Gateway, Payer)
			time.Sleep(5 * time.Second)
			e.accepted(Gateway, w.hash)
			if !e.holds(Gateway, w.hash) {
				p.fails(lnrpc.Failure_INVALID_ONION_VERSION)
				return
			}
			e.acceptor(true)
			e.until("the wallet is back", func() bool { return e.info(Gateway).NumPeers == 2 })
			e.completeWrap(w, p)
		},
		"D/accepted_is_canceled_before_expiry": func(e *env) {
			e.start(required)
			w := e.wrap()
			p := e.pay(w.outer)
			e.accepted(Gateway, w.hash)
			e.Mine(e.T, 183-18-1)
			require.Equal(e, lnrpc.Payment_IN_FLIGHT, p.now().Status)
			e.Mine(e.T, 1)
			p.fails(lnrpc.Failure_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS)
		},
		"D/send_payment_needs_the_edge": func(e *env) {
			e.start(required)
			e.acceptor(true)
			inner, err := e.ln(Wallet).AddInvoice(e.ctx, &lnrpc.Invoice{Value: nSat})
			e.ok(err)
			c := e.open(e.jit(1_000_000))
			s, err := e.router(Gateway).SendPaymentV2(e.ctx, &routerrpc.SendPaymentRequest{
				PaymentRequest: inner.PaymentRequest, TimeoutSeconds: 30, FeeLimitMsat: 1000, NoInflightUpdates: true,
			})
			e.ok(err)
			m, err := s.Recv()
			e.ok(err)
			if m.Status == lnrpc.Payment_SUCCEEDED {
				require.True(e, e.hasPolicy(c), "a payment found a way over a channel that the graph does not have")
				e.Log("lnd entered the channel into its graph before it was asked to pay: what it does without is not shown")
				return
			}
			// Which of the two depends on what the gateway has in other channels.
			require.Contains(e, []lnrpc.PaymentFailureReason{
				lnrpc.PaymentFailureReason_FAILURE_REASON_INSUFFICIENT_BALANCE, lnrpc.PaymentFailureReason_FAILURE_REASON_NO_ROUTE,
			}, m.FailureReason)
			e.policy(c)
			e.until("a payment finds the edge", func() bool {
				s, err := e.router(Gateway).SendPaymentV2(e.ctx, &routerrpc.SendPaymentRequest{
					PaymentRequest: inner.PaymentRequest, TimeoutSeconds: 30, FeeLimitMsat: 1000, NoInflightUpdates: true,
				})
				e.ok(err)
				m, err := s.Recv()
				return err == nil && m.Status == lnrpc.Payment_SUCCEEDED
			})
		},
		"D/giving_up_the_call_keeps_the_htlc": func(e *env) {
			e.start(required)
			c := e.channel()
			req, preimage := e.holdInvoice(nSat)
			d, err := e.ln(Gateway).DecodePayReq(e.ctx, &lnrpc.PayReqString{PayReq: req})
			e.ok(err)
			hash, err := hex.DecodeString(d.PaymentHash)
			e.ok(err)
			ctx, cancel := context.WithCancel(e.ctx)
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = e.sendOn(ctx, c, hash, d.PaymentAddr, nMsat)
			}()
			e.accepted(Wallet, hash)
			cancel()
			<-done
			e.settleAtWallet(preimage)
			e.until("the payment succeeded without the call", func() bool {
				tctx, stop := context.WithCancel(e.ctx)
				defer stop()
				s, err := e.router(Gateway).TrackPaymentV2(tctx, &routerrpc.TrackPaymentRequest{PaymentHash: hash})
				e.ok(err)
				m, err := s.Recv()
				return err == nil && m.Status == lnrpc.Payment_SUCCEEDED && m.PaymentPreimage == hex.EncodeToString(preimage)
			})
		},
	}
}
