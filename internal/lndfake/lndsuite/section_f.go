package lndsuite

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
)

// sectionF: what a restart, a flap or a lost stream does to HTLCs.
func sectionF() map[string]func(*env) {
	optional, required := Options{}, Options{RequireInterceptor: true}
	return map[string]func(*env){
		"F/stream_dies_default": func(e *env) {
			e.start(optional)
			s := e.sidecar()
			p := e.pay(e.invoice(nSat).PaymentRequest)
			s.next()
			s.drop()
			p.fails(lnrpc.Failure_UNKNOWN_NEXT_PEER)
		},
		"F/stream_dies_required": func(e *env) {
			e.start(required)
			s := e.sidecar()
			p := e.pay(e.invoice(nSat).PaymentRequest)
			k := key(s.next())
			s.drop()
			time.Sleep(settled)
			require.Equal(e, lnrpc.Payment_IN_FLIGHT, p.now().Status)
			s = e.sidecar()
			q := s.next()
			require.Equal(e, k, key(q))
			s.resume(q)
			p.fails(lnrpc.Failure_UNKNOWN_NEXT_PEER)
		},
		"F/kill_sidecar_back": func(e *env) {
			e.start(required)
			s := e.sidecar()
			p := e.pay(e.invoice(nSat).PaymentRequest)
			k := key(s.next())
			e.Kill(e.T, Gateway)
			e.Start(e.T, Gateway)
			s = e.sidecar()
			q := s.next()
			require.Equal(e, k, key(q))
			s.resume(q)
			p.fails(lnrpc.Failure_UNKNOWN_NEXT_PEER)
		},
		// In default mode it is a race with the payer's reconnection.
		"F/kill_sidecar_back_default": func(e *env) {
			e.start(optional)
			s := e.sidecar()
			p := e.pay(e.invoice(nSat).PaymentRequest)
			k := key(s.next())
			s = e.sidecarFirst()
			q := s.next()
			require.Equal(e, k, key(q))
			s.resume(q)
			p.fails(lnrpc.Failure_UNKNOWN_NEXT_PEER)
		},
		"F/kill_sidecar_late_default": func(e *env) {
			e.start(optional)
			s := e.sidecar()
			p := e.pay(e.invoice(nSat).PaymentRequest)
			s.next()
			e.restart(Gateway, Payer)
			p.fails(lnrpc.Failure_UNKNOWN_NEXT_PEER)
		},
		"F/kill_sidecar_late_required": func(e *env) {
			e.start(required)
			s := e.sidecar()
			p := e.pay(e.invoice(nSat).PaymentRequest)
			k := key(s.next())
			e.restart(Gateway, Payer)
			time.Sleep(settled)
			require.Equal(e, lnrpc.Payment_IN_FLIGHT, p.now().Status)
			s = e.sidecar()
			q := s.next()
			require.Equal(e, k, key(q))
			s.resume(q)
			p.fails(lnrpc.Failure_UNKNOWN_NEXT_PEER)
		},
		"F/new_htlc_no_sidecar_default": func(e *env) {
			e.start(optional)
			e.channel()
			e.pay(e.invoice(nSat).PaymentRequest).succeeds()
		},
		"F/new_htlc_no_sidecar_required": func(e *env) {
			e.start(required)
			e.channel()
			e.pay(e.invoice(nSat).PaymentRequest).fails(tempFail)
		},
		"F/fresh_onion_paid_then_killed": func(e *env) {
			freshOnionPaid(e, required, func() *sidecar {
				e.restart(Gateway, Payer)
				return e.sidecar()
			})
		},
		"F/fresh_onion_paid_then_killed_default":   func(e *env) { freshOnionPaid(e, optional, e.sidecarFirst) },
		"F/resumed_is_offered_again_after_restart": func(e *env) { resumedAgain(e, func() { e.restart(Gateway, Payer, Wallet) }) },
		"F/resumed_is_offered_again_after_flap":    func(e *env) { resumedAgain(e, func() { e.flap(Payer, Gateway) }) },
		"F/failing_a_resumed_one_loses": func(e *env) {
			e.start(required)
			e.channel()
			s := e.sidecar()
			paid := e.local(Payer)
			req, pre := e.holdInvoice(nSat)
			p := e.pay(req)
			s.resume(s.next())
			e.accepted(Wallet, hashOf(pre))
			e.flap(Payer, Gateway)
			s.fail(s.next())
			// The payer gets its HTLC back and may retry; refuse that.
			require.Equal(e, lnrpc.Payment_FAILED, p.waitOrFail(s).Status)
			e.settleAtWallet(pre)
			e.quiet(Payer, Gateway, Wallet)
			require.EqualValues(e, paid, e.local(Payer), "the payer paid nothing")
			require.EqualValues(e, nSat, e.local(Wallet), "the wallet was paid by the gateway")
		},
		"F/held_survives_flap_without_reoffer": func(e *env) {
			e.start(required)
			s := e.sidecar()
			p := e.pay(e.invoice(nSat).PaymentRequest)
			q := s.next()
			e.flap(Payer, Gateway)
			s.none()
			s.resume(q)
			p.fails(lnrpc.Failure_UNKNOWN_NEXT_PEER)
		},
		"F/unknown_key_ends_the_stream": func(e *env) {
			e.start(required)
			s := e.sidecar()
			e.ok(s.stream.Send(&routerrpc.ForwardHtlcInterceptResponse{
				IncomingCircuitKey: &routerrpc.CircuitKey{ChanId: 1, HtlcId: 1}, Action: routerrpc.ResolveHoldForwardAction_RESUME,
			}))
			select {
			case err := <-s.ended:
				require.ErrorContains(e, err, "forward does not exist")
			case <-time.After(deadline):
				e.Fatal("the stream goes on")
			}
		},
		"F/unknown_key_releases_the_held_default": func(e *env) {
			e.start(optional)
			s := e.sidecar()
			p := e.pay(e.invoice(nSat).PaymentRequest)
			s.next()
			e.ok(s.stream.Send(&routerrpc.ForwardHtlcInterceptResponse{
				IncomingCircuitKey: &routerrpc.CircuitKey{ChanId: 1, HtlcId: 1}, Action: routerrpc.ResolveHoldForwardAction_RESUME,
			}))
			p.fails(lnrpc.Failure_UNKNOWN_NEXT_PEER)
		},
		"F/one_interceptor_only": func(e *env) {
			e.start(required)
			e.sidecar()
			second, err := e.router(Gateway).HtlcInterceptor(e.ctx)
			e.ok(err)
			_, err = second.Recv()
			require.ErrorContains(e, err, "interceptor already exists")
		},
		"F/sees_the_wallets_sends": func(e *env) {
			e.start(required)
			e.channel()
			s := e.sidecar()
			p := e.pay(e.invoice(nSat).PaymentRequest)
			s.resume(s.next())
			p.succeeds()
			e.quiet(Gateway, Wallet)
			e.knows(Wallet, e.channelsWith(Gateway, Payer)[0].ChanId)
			e.knows(Wallet, e.channelsWith(Wallet, Gateway)[0].ChanId)
			inv, err := e.ln(Payer).AddInvoice(e.ctx, &lnrpc.Invoice{Value: 10_000})
			e.ok(err)
			back, err := e.router(Wallet).SendPaymentV2(e.ctx, &routerrpc.SendPaymentRequest{
				PaymentRequest: inv.PaymentRequest, TimeoutSeconds: 60, FeeLimitSat: 1000, NoInflightUpdates: true,
			})
			e.ok(err)
			q := s.next()
			require.Equal(e, inv.RHash, q.PaymentHash)
			s.resume(q)
			m, err := back.Recv()
			e.ok(err)
			require.Equal(e, lnrpc.Payment_SUCCEEDED, m.Status, "%v", m)
		},
		"F/auto_fail_height": func(e *env) {
			e.start(required)
			s := e.sidecar()
			p := e.pay(e.invoice(nSat).PaymentRequest)
			q := s.next()
			require.EqualValues(e, q.IncomingExpiry-19, q.AutoFailHeight)
			require.EqualValues(e, e.height()+163, q.IncomingExpiry)
			e.Mine(e.T, 143)
			time.Sleep(settled)
			require.Equal(e, lnrpc.Payment_IN_FLIGHT, p.now().Status)
			require.Len(e, p.now().Htlcs, 1)
			e.Mine(e.T, 1)
			e.until("the first HTLC failed", func() bool { return p.now().Htlcs[0].Status == lnrpc.HTLCAttempt_FAILED })
			require.Equal(e, tempFail, p.now().Htlcs[0].Failure.Code)
			require.True(e, e.channelsWith(Gateway, Payer)[0].Active, "the incoming channel survives")
		},
	}
}

// resumedAgain: what was resumed and is in flight is offered again, and to resume it again is harmless.
func resumedAgain(e *env, disturb func()) {
	e.start(Options{RequireInterceptor: true})
	e.channel()
	s := e.sidecar()
	req, pre := e.holdInvoice(nSat)
	p := e.pay(req)
	q := s.next()
	s.resume(q)
	e.accepted(Wallet, hashOf(pre))
	disturb()
	select {
	case <-s.ended:
		s = e.sidecar()
	default:
	}
	again := s.next()
	require.Equal(e, key(q), key(again))
	s.resume(again)
	e.settleAtWallet(pre)
	p.succeeds()
	e.quiet(Payer, Gateway, Wallet)
	require.EqualValues(e, nSat, e.local(Wallet))
}

// freshOnionPaid pays the wallet with an onion of the gateway's, has the gateway killed before it settles what the
// payer sent, and settles that with what lnd remembers.
func freshOnionPaid(e *env, opts Options, restart func() *sidecar) {
	e.start(opts)
	e.acceptor(true)
	s := e.sidecar()
	inv := e.invoice(nSat)
	p := e.pay(inv.PaymentRequest)
	s.next()
	c := e.open(e.jit(1_000_000))
	a, err := e.sendOn(e.ctx, c, inv.RHash, inv.PaymentAddr, nMsat)
	e.ok(err)
	require.Equal(e, lnrpc.HTLCAttempt_SUCCEEDED, a.Status, "%v", a)
	s = restart()
	q := s.next()
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	t, err := e.router(Gateway).TrackPaymentV2(ctx, &routerrpc.TrackPaymentRequest{PaymentHash: q.PaymentHash})
	e.ok(err)
	m, err := t.Recv()
	e.ok(err)
	require.Equal(e, lnrpc.Payment_SUCCEEDED, m.Status)
	pre, err := hex.DecodeString(m.PaymentPreimage)
	e.ok(err)
	s.settle(q, pre)
	p.succeeds()
}

// sidecarFirst kills the gateway and has the sidecar back before the payer.
func (e *env) sidecarFirst() *sidecar {
	e.Helper()
	e.Disconnect(e.T, Payer, Gateway)
	e.Kill(e.T, Gateway)
	e.Start(e.T, Gateway)
	s := e.sidecar()
	e.Connect(e.T, Payer, Gateway)
	return s
}
