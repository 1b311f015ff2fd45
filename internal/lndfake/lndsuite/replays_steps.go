package lndsuite

import (
	"context"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
)

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
