package lndsuite

import (
	"context"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
)

type offer = *routerrpc.ForwardHtlcInterceptRequest

// window is wide enough for a test to act between RESUME and commitment.
const window = 6 * time.Second

func (e *env) required() *sidecar {
	e.Helper()
	return e.with(Options{RequireInterceptor: true})
}

func (e *env) with(opts Options) *sidecar {
	e.Helper()
	e.start(opts)
	e.channel()
	return e.sidecar()
}

// held pays a hold invoice and returns the offer.
func (e *env) held(s *sidecar) (q offer, p *paying, preimage []byte) {
	e.Helper()
	req, pre := e.holdInvoice(nSat)
	p = e.pay(req)
	return s.next(), p, pre
}

// resumed is held, resumed, and committed at the wallet.
func (e *env) resumed(s *sidecar) (q offer, p *paying, preimage []byte) {
	e.Helper()
	q, p, preimage = e.held(s)
	s.resume(q)
	e.accepted(Wallet, q.PaymentHash)
	return q, p, preimage
}

func (e *env) expect(q offer, want entry) {
	e.Helper()
	got, locked, err := e.look(q)
	e.ok(err)
	require.Equal(e, want.present, got.present, "the incoming entry is there: %+v", got)
	require.Equal(e, want.forward != 0, got.forward != 0, "forwarding_channel is set: %+v", got)
	require.Equal(e, want.out, got.out, "the outgoing entry is there: %+v", got)
	require.Equal(e, want.present, locked, "an HTLC that is offered is locked in")
}

// The rows' cells: the incoming entry present or not, forwarding_channel set or not, an outgoing entry or not.
func unmoved() entry  { return entry{present: true} }
func moved() entry    { return entry{present: true, forward: 1, out: true} }
func signed() entry   { return entry{present: true, forward: 1} }
func onChain() entry  { return entry{out: true} }
func vanished() entry { return entry{} }

// trimmed is the gateway after a kill, with the wallet back: the HTLC that it had signed is in
// flight, the other one never was. The sidecar attaches anew.
func (e *env) trimmed(s *sidecar, inFlight, never offer) *sidecar {
	e.Helper()
	e.expect(inFlight, signed())
	e.expect(never, unmoved())
	e.Thaw(e.T, Wallet)
	<-s.ended
	return e.sidecar()
}

// again waits for the re-offer, attaching anew if the stream is gone.
func (e *env) again(s *sidecar, q offer) (*sidecar, offer) {
	e.Helper()
	select {
	case <-s.ended:
		s = e.sidecar()
	case <-time.After(500 * time.Millisecond):
	}
	r := s.next()
	require.Equal(e, key(q), key(r))
	return s, r
}

// becomes waits for an entry.
func (e *env) becomes(q offer, what string, cond func(entry) bool) {
	e.Helper()
	e.until(what, func() bool { return cond(e.entry(q)) })
}

// frozen resumes an HTLC while the wallet is frozen.
func (e *env) frozen(s *sidecar) (q offer, p *paying, preimage []byte) {
	e.Helper()
	q, p, preimage = e.held(s)
	e.Freeze(e.T, Wallet)
	s.resume(q)
	e.becomes(q, "signed", func(v entry) bool { return v.forward != 0 })
	return q, p, preimage
}

// replays: the table of what was observed at the interceptor's callback, and how money was lost.
func replays() map[string]func(*env) {
	return map[string]func(*env){
		"replays/unanswered": func(e *env) {
			s := e.required()
			q, _, _ := e.held(s)
			e.expect(q, unmoved())
			e.flap(Payer, Gateway)
			e.flap(Wallet, Gateway)
			s.none()
			e.expect(q, unmoved())
			e.restart(Gateway, Payer, Wallet)
			s, q = e.again(s, q)
			e.expect(q, unmoved())
			e.restartInOrder(Gateway, Payer, Wallet)
			_, q = e.again(s, q)
			e.expect(q, unmoved())
		},
		"replays/resumed_and_committed": func(e *env) {
			s := e.required()
			q, p, pre := e.resumed(s)
			e.becomes(q, "moved", func(v entry) bool { return v.out && v.forward != 0 })
			e.flap(Wallet, Gateway)
			s.none()
			e.expect(q, moved())
			e.flap(Payer, Gateway)
			s, q = e.again(s, q)
			e.expect(q, moved())
			e.Kill(e.T, Gateway)
			e.Start(e.T, Gateway)
			e.expect(q, moved()) // the first ListChannels, whatever links are up
			s, q = e.again(s, q)
			e.Stop(e.T, Gateway)
			e.Start(e.T, Gateway)
			e.expect(q, moved())
			s, q = e.again(s, q)
			events := e.htlcEvents(q)
			s.resume(q)
			e.settleAtWallet(pre)
			p.succeeds()
			require.Equal(e, ending{settled: true}, <-events)
			require.Equal(e, ending{settled: true, final: true}, <-events)
		},
		"replays/resumed_in_the_window": func(e *env) {
			e.start(Options{RequireInterceptor: true, CommitInterval: window})
			e.channel()
			s := e.sidecar()
			q, p, pre := e.held(s)
			s.resume(q)
			time.Sleep(100 * time.Millisecond)
			e.expect(q, unmoved())
			e.accepted(Wallet, q.PaymentHash)
			e.becomes(q, "moved", func(v entry) bool { return v == entry{true, v.forward, true} && v.forward != 0 })
			e.settleAtWallet(pre)
			p.succeeds()
		},
		"replays/signed_wallet_frozen": func(e *env) {
			s := e.required()
			q, p, pre := e.frozen(s)
			e.expect(q, signed())
			e.Kill(e.T, Gateway)
			e.Start(e.T, Gateway)
			e.active(Gateway, Payer)
			e.expect(q, signed())
			e.Thaw(e.T, Wallet)
			s, q = e.again(s, q)
			s.resume(q)
			e.settleAtWallet(pre)
			p.succeeds()
		},
		"replays/no_revocation_window": func(e *env) {
			s := e.required()
			one, two := e.noWindow(s)
			e.becomes(two.q, "opened", func(v entry) bool { return v.forward != 0 && !v.out })
			e.Thaw(e.T, Wallet)
			e.settleAtWallet(one.preimage)
			e.settleAtWallet(two.preimage)
			one.p.succeeds()
			two.p.succeeds()
		},
		"replays/no_revocation_window_reconnecting": func(e *env) {
			s := e.required()
			one, two := e.noWindow(s)
			e.becomes(two.q, "opened", func(v entry) bool { return v.forward != 0 })
			// It is trimmed when the link starts, not while it is down; then it comes again within milliseconds.
			e.Disconnect(e.T, Wallet, Gateway)
			e.until("the link is down", func() bool { return !e.channelsWith(Gateway, Wallet)[0].Active })
			e.expect(two.q, signed())
			seen := e.watch(two.q)
			e.Thaw(e.T, Wallet)
			e.Connect(e.T, Wallet, Gateway)
			e.becomes(two.q, "moved", func(v entry) bool { return v.forward != 0 && v.out })
			e.Logf("unmoved was seen while the link came up: %t", seen())
			e.settleAtWallet(one.preimage)
			e.settleAtWallet(two.preimage)
			one.p.succeeds()
			two.p.succeeds()
		},
		"replays/no_revocation_window_killed": func(e *env) {
			s := e.required()
			one, two := e.noWindow(s)
			e.becomes(two.q, "opened", func(v entry) bool { return v.forward != 0 })
			e.Kill(e.T, Gateway)
			e.Start(e.T, Gateway)
			s = e.trimmed(s, one.q, two.q)
			for range 2 {
				s.resume(s.next())
			}
			// The one that was never committed can never be: to resume it fails it.
			e.until("the payer's HTLC failed", func() bool {
				m := two.p.now()
				return m.Htlcs[0].Status == lnrpc.HTLCAttempt_FAILED && m.Htlcs[0].Failure.Code == tempFail
			})
			e.settleAtWallet(one.preimage)
			require.Equal(e, lnrpc.Payment_SUCCEEDED, one.p.waitOrFail(s).Status)
		},
		"replays/no_revocation_window_killed_and_failed": func(e *env) {
			s := e.required()
			one, two := e.noWindow(s)
			e.becomes(two.q, "opened", func(v entry) bool { return v.forward != 0 })
			e.until("lnd to have followed its channels for longer than it takes to start", func() bool { return e.followed() >= 8 })
			before := e.followed()
			e.Kill(e.T, Gateway)
			e.Start(e.T, Gateway)
			// It falls with a restart, and so proves one.
			require.Less(e, e.followed(), before)
			s = e.trimmed(s, one.q, two.q)
			for range 2 {
				if q := s.next(); key(q) == key(two.q) {
					s.fail(q)
				} else {
					s.resume(q)
				}
			}
			e.until("the payer's HTLC failed", func() bool {
				return two.p.now().Htlcs[0].Status == lnrpc.HTLCAttempt_FAILED
			})
			// Nothing was in flight, and the links are none the worse for it.
			e.settleAtWallet(one.preimage)
			require.Equal(e, lnrpc.Payment_SUCCEEDED, one.p.waitOrFail(s).Status)
			e.expect(two.q, vanished())
		},
		"replays/mpp_first_part_resumed": func(e *env) {
			s := e.required()
			req, pre := e.holdInvoice(nSat)
			p := e.payIn(req, 40_000)
			a, b, c := s.next(), s.next(), s.next()
			s.resume(a)
			e.becomes(a, "moved", func(v entry) bool { return v.forward != 0 && v.out })
			for _, q := range []offer{b, c} {
				e.expect(q, entry{present: true, out: true})
			}
			s.resume(b)
			s.resume(c)
			e.settleAtWallet(pre)
			p.succeeds()
		},
		"replays/outgoing_force_closing": func(e *env) {
			s := e.with(Options{RequireInterceptor: true, Ruins: true})
			e.Mine(e.T, 6)
			q, _, _ := e.resumed(s)
			e.becomes(q, "moved", func(v entry) bool { return v.out })
			e.forceClose(Gateway, Wallet)
			e.becomes(q, "out of sight", func(v entry) bool { return v.present && v.forward != 0 && !v.out })
			e.restart(Gateway, Payer)
			e.expect(q, signed())
		},
		"replays/incoming_force_closed": func(e *env) {
			s := e.with(Options{RequireInterceptor: true, Ruins: true})
			q, _, pre := e.resumed(s)
			e.becomes(q, "moved", func(v entry) bool { return v.out })
			e.forceClose(Payer, Gateway)
			e.Mine(e.T, 6)
			e.becomes(q, "absent", func(v entry) bool { return v == onChain() })
			s, r := e.again(s, q)
			require.EqualValues(e, r.IncomingExpiry, r.AutoFailHeight, "an on-chain offer")
			s.settle(r, pre)
			e.settleAtWallet(pre)
		},
		"replays/on_chain_answers_kill_the_stream": func(e *env) {
			s := e.with(Options{RequireInterceptor: true, Ruins: true})
			q, _, _ := e.resumed(s)
			e.forceClose(Payer, Gateway)
			e.Mine(e.T, 6)
			s, r := e.again(s, q)
			s.resume(r)
			select {
			case <-s.ended:
			case <-time.After(deadline):
				e.Fatal("the stream goes on")
			}
			s = e.sidecar()
			require.Equal(e, key(q), key(s.next()), "kept, and offered again")
		},
		"replays/phantom_absent_from_list_channels": func(e *env) {
			s, q := e.phantom()
			e.expect(q, vanished())
			// To fail it does not lay it.
			s.fail(q)
			time.Sleep(settled) // nothing tells that its link has dropped this; until then it would not be offered
			e.flap(Payer, Gateway)
			e.expect(s.next(), vanished())
		},
		"replays/loss_by_resuming_a_phantom": func(e *env) {
			s, q := e.phantom()
			paid := e.local(Payer)
			s.resume(q)
			e.until("the wallet was paid", func() bool { return e.local(Wallet) == nSat })
			e.quiet(Payer, Gateway, Wallet)
			require.EqualValues(e, paid, e.local(Payer), "the payer paid nothing: the gateway lost it")
		},
		"replays/loss_in_the_window": func(e *env) {
			e.start(Options{RequireInterceptor: true, CommitInterval: window})
			e.channel()
			s := e.sidecar()
			paid := e.local(Payer)
			q, p, pre := e.held(s)
			s.resume(q)
			time.Sleep(100 * time.Millisecond)
			e.flap(Payer, Gateway)
			s, q = e.again(s, q)
			e.expect(q, unmoved()) // what a naive sidecar takes for proof
			e.accepted(Wallet, q.PaymentHash)
			s.fail(q)
			require.Equal(e, lnrpc.Payment_FAILED, p.waitOrFail(s).Status)
			e.settleAtWallet(pre)
			e.until("the wallet was paid", func() bool { return e.local(Wallet) == nSat })
			e.quiet(Payer, Gateway, Wallet)
			require.EqualValues(e, paid, e.local(Payer), "the payer paid nothing: the gateway lost it")
		},
		"replays/crash_between_resume_and_commitment": func(e *env) {
			e.start(Options{RequireInterceptor: true, CommitInterval: window})
			e.channel()
			s := e.sidecar()
			q, p, _ := e.held(s)
			s.resume(q)
			time.Sleep(200 * time.Millisecond)
			e.restart(Gateway, Payer, Wallet)
			s, q = e.again(s, q)
			e.expect(q, unmoved())
			s.resume(q)
			e.until("the payer's HTLC failed", func() bool { return p.now().Htlcs[0].Status == lnrpc.HTLCAttempt_FAILED })
			require.Equal(e, tempFail, p.now().Htlcs[0].Failure.Code)
			require.Zero(e, e.local(Wallet))
		},
		// What an event calls failed can still be paid.
		"replays/fail_event_before_commitment": func(e *env) {
			s := e.required()
			q, p, pre := e.failedInMemory(s, (*sidecar).fail)
			s, q = e.offeredAfterKill(s, q)
			s.resume(q)
			e.settleAtWallet(pre)
			p.succeeds()
		},
		// But not what lnd itself could not forward: its circuit was half open when it died.
		"replays/link_fail_event_before_commitment": func(e *env) {
			e.start(Options{RequireInterceptor: true})
			e.acceptor(true)
			c := e.open(e.jit(1_000_000))
			s := e.sidecar()
			q, p, _ := e.failedInMemory(s, (*sidecar).resume)
			s, q = e.offeredAfterKill(s, q)
			e.until("the wallet's link is up", func() bool { return e.channelsWith(Gateway, Wallet)[0].Active })
			e.ok(e.alias(c))
			s.resume(q)
			e.until("the payer's HTLC failed", func() bool { return p.now().Htlcs[0].Status == lnrpc.HTLCAttempt_FAILED })
			require.Equal(e, tempFail, p.now().Htlcs[0].Failure.Code)
			require.Zero(e, e.local(Wallet))
		},
		// The first of two failures is signed at once, and the second must wait for the payer's answer. A cut comes before.
		"replays/failed_by_lnd_itself": func(e *env) {
			e.start(Options{RequireInterceptor: true, PayerBatch: true, PayerDelay: 500 * time.Millisecond, Ruins: true})
			e.channel()
			one, two := e.invoice(nSat), e.invoice(nSat)
			failed := e.failures()
			over := e.routeOver(one, two)
			for range 2 {
				select {
				case <-failed:
				case <-time.After(deadline):
					e.Fatal("lnd failed nothing by itself")
				}
			}
			e.Disconnect(e.T, Payer, Gateway)
			s := e.sidecar()
			e.until("the payer is gone", func() bool { return !e.channelsWith(Gateway, Payer)[0].Active })
			require.NotEmpty(e, e.channelsWith(Gateway, Payer)[0].PendingHtlcs, "a failure is not signed")
			e.Connect(e.T, Payer, Gateway)
			s.none()
			<-over
			<-over
			e.quiet(Payer, Gateway)
			require.Zero(e, e.local(Wallet))
		},
		"replays/resume_again_wallet_offline": func(e *env) {
			s := e.required()
			q, p, pre := e.resumed(s)
			e.Disconnect(e.T, Wallet, Gateway)
			e.flap(Payer, Gateway)
			s, q = e.again(s, q)
			s.resume(q)
			time.Sleep(settled)
			require.Equal(e, lnrpc.Payment_IN_FLIGHT, p.now().Status)
			e.Connect(e.T, Wallet, Gateway)
			e.settleAtWallet(pre)
			p.succeeds()
		},
	}
}

// failures tells of each HTLC that the gateway's lnd fails.
func (e *env) failures() <-chan struct{} {
	e.Helper()
	stream, err := e.router(Gateway).SubscribeHtlcEvents(e.ctx, &routerrpc.SubscribeHtlcEventsRequest{})
	e.ok(err)
	_, err = stream.Recv() // subscribed
	e.ok(err)
	out := make(chan struct{}, 100)
	go func() {
		for {
			ev, err := stream.Recv()
			if err != nil {
				return
			}
			if ev.GetLinkFailEvent() != nil || ev.GetForwardFailEvent() != nil {
				out <- struct{}{}
			}
		}
	}()
	return out
}

// failedInMemory has the gateway's link take up a failure that it cannot commit to, since the payer is frozen and owes
// it a revocation. lnd's event tells of the failure all the same, and no final one follows.
func (e *env) failedInMemory(s *sidecar, fail func(*sidecar, offer)) (q offer, p *paying, preimage []byte) {
	e.Helper()
	first, _, _ := e.held(s)
	q, p, preimage = e.held(s)
	events := e.htlcEvents(q)
	e.Freeze(e.T, Payer)
	s.fail(first)
	time.Sleep(settled) // its signature is on the way; nothing tells of that
	fail(s, q)
	require.False(e, (<-events).final, "an event tells of the failure")
	select {
	case ev := <-events:
		e.Fatalf("another event: %+v", ev)
	case <-time.After(settled):
	}
	e.expect(q, unmoved())
	_, err := e.ln(Gateway).LookupHtlcResolution(e.ctx, &lnrpc.LookupHtlcResolutionRequest{
		ChanId: q.IncomingCircuitKey.ChanId, HtlcIndex: q.IncomingCircuitKey.HtlcId,
	})
	require.Error(e, err, "lnd has no resolution of it")
	return q, p, preimage
}

// offeredAfterKill kills the gateway, lets the payer go on, and waits for the HTLC to be offered again.
func (e *env) offeredAfterKill(s *sidecar, q offer) (*sidecar, offer) {
	e.Helper()
	e.Kill(e.T, Gateway)
	e.Thaw(e.T, Payer)
	e.Start(e.T, Gateway)
	<-s.ended
	s = e.sidecar()
	// The payer may send the first one's money again, in parts.
	for {
		if r := s.next(); key(r) == key(q) {
			return s, r
		}
	}
}

type ending struct{ final, settled bool }

// htlcEvents gives lnd's events of an HTLC's end, until lnd dies.
func (e *env) htlcEvents(q offer) <-chan ending {
	e.Helper()
	stream, err := e.router(Gateway).SubscribeHtlcEvents(e.ctx, &routerrpc.SubscribeHtlcEventsRequest{})
	e.ok(err)
	_, err = stream.Recv() // subscribed
	e.ok(err)
	out := make(chan ending, 100)
	go func() {
		for {
			ev, err := stream.Recv()
			if err != nil {
				return
			}
			if [2]uint64{ev.IncomingChannelId, ev.IncomingHtlcId} != key(q) {
				continue
			}
			switch {
			case ev.GetFinalHtlcEvent() != nil:
				out <- ending{final: true, settled: ev.GetFinalHtlcEvent().Settled}
			case ev.GetSettleEvent() != nil:
				out <- ending{settled: true}
			case ev.GetForwardFailEvent() != nil, ev.GetLinkFailEvent() != nil:
				out <- ending{}
			}
		}
	}()
	return out
}

// watch looks at an HTLC as often as it can; the function it returns ends that, and tells whether it ever looked
// like one that nobody has moved.
func (e *env) watch(q offer) (seen func() bool) {
	ctx, cancel := context.WithCancel(e.ctx)
	unmovedSeen := make(chan bool, 1)
	go func() {
		found := false
		for ctx.Err() == nil {
			v, _, err := e.look(q)
			found = found || err == nil && v == unmoved()
			time.Sleep(2 * time.Millisecond)
		}
		unmovedSeen <- found
	}()
	return func() bool {
		cancel()
		return <-unmovedSeen
	}
}

type heldOne struct {
	q        offer
	p        *paying
	preimage []byte
}

// noWindow resumes two HTLCs while the wallet is frozen: the first is signed, the second cannot be.
func (e *env) noWindow(s *sidecar) (one, two heldOne) {
	e.Helper()
	req1, pre1 := e.holdInvoice(nSat)
	req2, pre2 := e.holdInvoice(nSat) // made while the wallet still answers
	one = heldOne{p: e.pay(req1), preimage: pre1}
	one.q = s.next()
	two = heldOne{p: e.pay(req2), preimage: pre2}
	two.q = s.next()
	e.Freeze(e.T, Wallet)
	s.resume(one.q)
	e.becomes(one.q, "signed", func(v entry) bool { return v.forward != 0 })
	s.resume(two.q)
	return one, two
}

func (e *env) forceClose(node, peer string) {
	e.Helper()
	c := e.channelsWith(node, peer)[0]
	s, err := e.ln(node).CloseChannel(e.ctx, &lnrpc.CloseChannelRequest{ChannelPoint: pointOf(c), Force: true})
	e.ok(err)
	_, err = s.Recv()
	e.ok(err)
}

// phantom makes lnd offer an HTLC that it has failed already: two in one commitment, the first failed, a kill, the
// second failed, a flap.
func (e *env) phantom() (*sidecar, offer) {
	e.Helper()
	e.start(Options{RequireInterceptor: true, PayerBatch: true, Ruins: true})
	e.channel()
	s := e.sidecar()
	req, err := e.ln(Wallet).AddInvoice(e.ctx, &lnrpc.Invoice{Value: nSat, RouteHints: e.hint(80, 0)})
	e.ok(err)
	other, err := e.ln(Wallet).AddInvoice(e.ctx, &lnrpc.Invoice{Value: nSat, RouteHints: e.hint(80, 0)})
	e.ok(err)
	route := e.routeOver(req, other)
	a, b := s.next(), s.next()
	s.fail(a)
	e.until("the first is failed", func() bool { return !e.entry(a).present })
	e.restart(Gateway, Payer, Wallet)
	s, b = e.again(s, b)
	s.fail(b)
	e.until("the second is failed", func() bool { return !e.entry(b).present })
	<-route
	<-route
	e.flap(Payer, Gateway)
	q := s.next()
	require.Equal(e, key(b), key(q))
	return s, q
}

// routeOver sends one HTLC for each invoice in one commitment, by hand so that the payer does not retry.
func (e *env) routeOver(invs ...*lnrpc.AddInvoiceResponse) <-chan struct{} {
	e.Helper()
	h := e.height()
	chanID := e.channelsWith(Payer, Gateway)[0].ChanId
	gateway, wallet := e.pub(Gateway), e.pub(Wallet)
	done := make(chan struct{}, len(invs))
	for _, inv := range invs {
		r := &routerrpc.SendToRouteRequest{PaymentHash: inv.RHash, Route: &lnrpc.Route{
			TotalTimeLock: h + 163, TotalAmtMsat: nMsat, Hops: []*lnrpc.Hop{
				{ChanId: chanID, PubKey: gateway, AmtToForwardMsat: nMsat, Expiry: h + 83, TlvPayload: true},
				{
					ChanId: e.x, PubKey: wallet, AmtToForwardMsat: nMsat, Expiry: h + 83, TlvPayload: true,
					MppRecord: &lnrpc.MPPRecord{PaymentAddr: inv.PaymentAddr, TotalAmtMsat: nMsat},
				},
			},
		}}
		go func() {
			_, _ = e.router(Payer).SendToRouteV2(e.ctx, r)
			done <- struct{}{}
		}()
	}
	return done
}
