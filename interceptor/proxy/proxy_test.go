package proxy_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/proxy"
	"github.com/sluice-lsp/sluice/internal/ln"
)

const (
	away = interceptor.AbsentResume
	slow = interceptor.AbsentResume
	hold = interceptor.AbsentHold
)

func TestOrdinaryForwardsCostNothingWithoutPrograms(t *testing.T) {
	r := newRig(t, 1)
	r.register("a", away, slow)
	r.start()
	p := r.pay()
	p.succeeds()
	require.Empty(t, r.rows(p))
	require.Zero(t, r.status("a").Asked)
}

func TestAllLetItPass(t *testing.T) {
	r := newRig(t, 2)
	r.register("a", away, slow)
	r.register("b", away, slow)
	r.start()
	a, b, stranger := r.attach("a"), r.attach("b"), r.attach("unnamed-1")
	p := r.pay()
	oa, ob := a.next(), b.next()
	// What programs see is what lnd said, onion and all.
	require.Equal(t, p.hash, oa.PaymentHash)
	require.Len(t, oa.OnionBlob, 1366)
	require.NotZero(t, oa.AutoFailHeight)
	require.Equal(t, oa.IncomingCircuitKey.HtlcId, ob.IncomingCircuitKey.HtlcId)
	a.answer(oa, resume)
	stranger.answer(stranger.next(), resume)
	require.Equal(t, 1, r.eng.Status().Asked+len(r.rows(p)), "one still holds")
	b.answer(ob, resume)
	p.succeeds()
	if rows := r.rows(p); len(rows) == 1 {
		require.Equal(t, interceptor.StateResumed, rows[0].State, "recorded only because this machine is slow")
	}
}

func TestFailBeatsHold(t *testing.T) {
	r := newRig(t, 3)
	r.register("a", away, slow)
	r.register("b", away, slow)
	r.start()
	a, b := r.attach("a"), r.attach("b")
	p := r.pay()
	b.next() // and never answers
	a.answer(a.next(), fail)
	p.fails()
	rows := r.rows(p)
	require.Len(t, rows, 1)
	require.Equal(t, interceptor.StateFailed, rows[0].State)
	require.Contains(t, rows[0].Reason, "the program a failed it")
}

// A hold is on record with who has answered: over a restart nobody is asked twice,
// and whoever holds is asked once it is back.
func TestHoldsOutliveRestarts(t *testing.T) {
	r := newRig(t, 4)
	r.register("a", away, slow)
	r.register("b", hold, hold)
	r.start()
	a, b := r.attach("a"), r.attach("b")
	p := r.pay()
	a.answer(a.next(), resume)
	first := b.next()
	row := r.waitHeld(p)
	require.Equal(t, interceptor.ProgramsHandler, row.Handler)
	for _, change := range []func(){
		func() { r.restart() },
		func() { require.NoError(t, r.g.Restart()) },
		func() { r.w.Flap(r.p, r.g) },
	} {
		change()
		require.Eventually(t, func() bool { return r.eng.Status().Connected }, patience, 5*time.Millisecond)
	}
	a, b = r.attach("a"), r.attach("b")
	again := b.next()
	require.Equal(t, first.IncomingCircuitKey.HtlcId, again.IncomingCircuitKey.HtlcId)
	require.Equal(t, first.OnionBlob, again.OnionBlob)
	require.Empty(t, a.offers, "it answered before the restart")
	b.answer(again, resume)
	p.succeeds()
	require.Empty(t, a.offers)
	// A replay of what was resumed is nobody's question any more.
	r.w.Flap(r.p, r.g)
	q := r.pay()
	a.answer(a.next(), resume)
	b.answer(b.next(), resume)
	q.succeeds()
}

func TestAbsencePolicies(t *testing.T) {
	t.Run("fail", func(t *testing.T) {
		r := newRig(t, 5)
		r.register("a", interceptor.AbsentFail, slow)
		r.start()
		r.pay().fails()
		a := r.attach("a")
		p := r.pay()
		a.answer(a.next(), resume)
		p.succeeds()
		// It goes away with one held: after the grace that one is failed too.
		p = r.pay()
		a.next()
		a.leave(r)
		p.fails()
	})
	t.Run("hold", func(t *testing.T) {
		r := newRig(t, 6)
		r.register("a", hold, slow)
		r.start()
		p := r.pay()
		r.waitHeld(p)
		a := r.attach("a")
		a.answer(a.next(), resume)
		p.succeeds()
	})
	t.Run("resume", func(t *testing.T) {
		r := newRig(t, 7)
		r.register("a", away, slow)
		r.start()
		a := r.attach("a")
		p := r.pay()
		a.next()
		a.leave(r)
		p.succeeds()
	})
}

func TestSlowProgramsGetTheirDefault(t *testing.T) {
	r := newRig(t, 8)
	quick := func(p *proxy.Program) { p.AnswerWithin = 200 * time.Millisecond }
	r.register("a", away, slow, quick)
	r.start()
	a := r.attach("a")
	p := r.pay()
	o := a.next()
	p.succeeds()
	require.Equal(t, uint64(1), r.status("a").Late)
	// Its answer comes when everything is over: nothing happens to anybody.
	a.answer(o, fail)
	q := r.pay()
	a.answer(a.next(), resume)
	q.succeeds()
	require.Zero(t, r.status("a").Refused)
}

func TestSettling(t *testing.T) {
	r := newRig(t, 9)
	r.register("a", hold, hold)
	r.register("b", hold, hold, func(p *proxy.Program) { p.MaySettle = true })
	r.start()
	a, b := r.attach("a"), r.attach("b")
	preimage := ln.Preimage{42}
	send := func() *payment {
		hash := preimage.Hash()
		_, err := routerrpc.NewRouterClient(r.payer).ResetMissionControl(r.ctx, &routerrpc.ResetMissionControlRequest{})
		require.NoError(t, err)
		dest, err := ln.ParsePubKey(r.c.PubKey())
		require.NoError(t, err)
		s, err := routerrpc.NewRouterClient(r.payer).SendPaymentV2(r.ctx, &routerrpc.SendPaymentRequest{
			Dest: dest[:], PaymentHash: hash[:], AmtMsat: 500_000, FinalCltvDelta: 80, TimeoutSeconds: 100, NoInflightUpdates: true,
			FeeLimitMsat: 100_000, MaxParts: 1,
			RouteHints: []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
				NodeId: r.g.PubKey(), ChanId: uint64(r.scid), CltvExpiryDelta: 80, FeeBaseMsat: 1000, FeeProportionalMillionths: 1,
			}}}},
		})
		require.NoError(t, err)
		p := &payment{t: t, hash: hash[:], done: make(chan *lnrpc.Payment, 1), explain: r.explain}
		go func() {
			if m, err := s.Recv(); err == nil {
				p.done <- m
			}
		}()
		return p
	}
	before := r.w.Wealth(r.g).TotalMsat()
	p := send()
	// The program without the right loses its stream, and the HTLC stays as it was.
	a.answer(a.next(), settle, func(m *routerrpc.ForwardHtlcInterceptResponse) { m.Preimage = preimage.Bytes() })
	require.Equal(t, codes.InvalidArgument, status.Code(<-a.ended))
	// So does one with a wrong preimage, and with none: lnd's zero action is SETTLE.
	b.answer(b.next(), settle, func(m *routerrpc.ForwardHtlcInterceptResponse) { m.Preimage = make([]byte, 32) })
	require.Equal(t, codes.InvalidArgument, status.Code(<-b.ended))
	b = r.attach("b")
	b.answer(b.next(), settle)
	require.Equal(t, codes.InvalidArgument, status.Code(<-b.ended))
	r.attach("a")
	b = r.attach("b")
	b.answer(b.next(), settle, func(m *routerrpc.ForwardHtlcInterceptResponse) { m.Preimage = preimage.Bytes() })
	require.Eventually(t, func() bool {
		rows := r.rows(p)
		return len(rows) == 1 && rows[0].State == interceptor.StateHeld && strings.Contains(rows[0].Ballot, "settle")
	}, patience, 5*time.Millisecond, "another one still holds, and the answer is on record")
	// What it said survives: nobody asks it again.
	r.restart()
	a, b = r.attach("a"), r.attach("b")
	a.answer(a.next(), resume)
	p.succeeds()
	require.Empty(t, b.offers)
	require.Greater(t, r.w.Wealth(r.g).TotalMsat(), before+500_000)
}

func TestNoAnswerForwardsMoreThanIsPaidFor(t *testing.T) {
	r := newRig(t, 10)
	r.register("a", hold, hold)
	r.start()
	p := r.pay()
	for _, bad := range []func(*routerrpc.ForwardHtlcInterceptResponse){
		func(m *routerrpc.ForwardHtlcInterceptResponse) { m.OutAmountMsat = 1_000_001 },
		func(m *routerrpc.ForwardHtlcInterceptResponse) { m.InAmountMsat = 1 << 40 },
		func(m *routerrpc.ForwardHtlcInterceptResponse) {
			m.OutWireCustomRecords = map[uint64][]byte{65_535: {1}}
		},
	} {
		a := r.attach("a")
		a.answer(a.next(), modify, bad)
		require.Equal(t, codes.InvalidArgument, status.Code(<-a.ended))
		require.Eventually(t, func() bool { return !r.attached("a") }, patience, 2*time.Millisecond)
	}
	a := r.attach("a")
	a.answer(a.next(), modify, func(m *routerrpc.ForwardHtlcInterceptResponse) {
		m.OutAmountMsat, m.OutWireCustomRecords = 1_000_000, map[uint64][]byte{70_000: {1, 2}}
	})
	p.succeeds()
	rows := r.rows(p)
	require.Len(t, rows, 1)
	require.Equal(t, ln.Msat(1_000_000), rows[0].Send.Msat)
	require.Equal(t, uint64(3), r.status("a").Refused)
}

// A program answers twice, for others' HTLCs, and for what does not exist: others do
// not notice, and in the end its stream ends.
func TestWrongAnswers(t *testing.T) {
	r := newRig(t, 11)
	r.register("bad", away, slow)
	r.register("good", away, slow)
	r.start()
	bad, good := r.attach("bad"), r.attach("good")
	p := r.pay()
	o := bad.next()
	bad.answer(o, resume)
	bad.answer(o, fail)
	strange := &routerrpc.ForwardHtlcInterceptRequest{IncomingCircuitKey: &routerrpc.CircuitKey{ChanId: 7, HtlcId: 9}}
	bad.answer(strange, fail)
	good.answer(good.next(), resume)
	p.succeeds()
	require.Eventually(t, func() bool { return r.status("bad").Refused == 2 }, patience, 2*time.Millisecond)
	for range 200 {
		bad.answer(strange, fail)
	}
	require.Equal(t, codes.ResourceExhausted, status.Code(<-bad.ended))
	q := r.pay()
	good.answer(good.next(), resume)
	q.succeeds()
}

// A program that answers nothing, with many forwards: each gets its default, its
// stream ends when it is taken for hanging, and then its absence policy applies.
func TestAHangingProgramIsLetGo(t *testing.T) {
	r := newRig(t, 12)
	r.register("a", away, slow, func(p *proxy.Program) { p.AnswerWithin = 50 * time.Millisecond })
	r.start()
	a := r.attach("a")
	for i := 0; r.attached("a"); i += 20 {
		require.Less(t, i, 400, "the program is not let go")
		var payments []*payment
		for range 20 {
			payments = append(payments, r.pay())
		}
		for _, p := range payments {
			p.succeeds()
		}
	}
	require.Equal(t, codes.ResourceExhausted, status.Code(<-a.ended))
	r.pay().succeeds()
}

func TestOneStreamPerMacaroon(t *testing.T) {
	r := newRig(t, 13)
	r.register("a", hold, hold)
	r.start()
	first := r.attach("a")
	p := r.pay()
	first.next()
	second := r.attach("a")
	require.Equal(t, codes.AlreadyExists, status.Code(<-first.ended))
	second.answer(second.next(), resume)
	p.succeeds()
}

func TestWhoMayAttach(t *testing.T) {
	r := newRig(t, 14)
	r.refused.Store("id of thief", true)
	r.start()
	conn, ctx := r.dial("thief")
	s, err := routerrpc.NewRouterClient(conn).HtlcInterceptor(ctx)
	require.NoError(t, err)
	_, err = s.Recv()
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	c, err := lnrpc.NewLightningClient(conn).ChannelAcceptor(ctx)
	require.NoError(t, err)
	_, err = c.Recv()
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	s, err = routerrpc.NewRouterClient(conn).HtlcInterceptor(r.ctx)
	require.NoError(t, err)
	_, err = s.Recv()
	require.Equal(t, codes.Unauthenticated, status.Code(err))
}

// Everything else is lnd's: unary calls, streams, errors, unknown methods.
func TestEverythingElseIsLnds(t *testing.T) {
	r := newRig(t, 15)
	r.start()
	conn, ctx := r.dial("anybody")
	info, err := lnrpc.NewLightningClient(conn).GetInfo(ctx, &lnrpc.GetInfoRequest{})
	require.NoError(t, err)
	require.Equal(t, r.g.PubKey(), info.IdentityPubkey)
	state, err := lnrpc.NewStateClient(conn).SubscribeState(ctx, &lnrpc.SubscribeStateRequest{})
	require.NoError(t, err)
	first, err := state.Recv()
	require.NoError(t, err)
	require.Equal(t, lnrpc.WalletState_SERVER_ACTIVE, first.State)
	direct, err := r.g.Dial()
	require.NoError(t, err)
	defer func() { _ = direct.Close() }()
	for name, call := range map[string]func(lnrpc.LightningClient) error{
		"an error": func(c lnrpc.LightningClient) error {
			_, err := c.LookupInvoice(ctx, &lnrpc.PaymentHash{RHash: make([]byte, 32)})
			return err
		},
		"what this lnd does not have": func(c lnrpc.LightningClient) error {
			_, err := c.GetRecoveryInfo(ctx, &lnrpc.GetRecoveryInfoRequest{})
			return err
		},
	} {
		got, want := call(lnrpc.NewLightningClient(conn)), call(lnrpc.NewLightningClient(direct))
		require.Error(t, want, name)
		require.Equal(t, status.Convert(want).Message(), status.Convert(got).Message(), name)
		require.Equal(t, status.Code(want), status.Code(got), name)
	}
	// lnd restarts, and the same connection goes on.
	require.Eventually(t, func() bool { return r.g.Restart() == nil }, patience, 5*time.Millisecond)
	require.Eventually(t, func() bool {
		_, err := lnrpc.NewLightningClient(conn).GetInfo(ctx, &lnrpc.GetInfoRequest{})
		return err == nil
	}, patience, 20*time.Millisecond)
	// The caller's patience is passed on.
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	blocked, err := lnrpc.NewLightningClient(conn).SubscribeInvoices(short, &lnrpc.InvoiceSubscription{})
	require.NoError(t, err)
	_, err = blocked.Recv()
	require.Error(t, err)
}
