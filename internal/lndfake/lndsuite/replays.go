package lndsuite

import (
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
