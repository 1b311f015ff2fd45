package stream

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// router admits one interceptor at a time, as lnd does, and ends the stream at
// an answer that it does not expect.
type router struct {
	routerrpc.UnimplementedRouterServer

	mu      sync.Mutex
	active  routerrpc.Router_HtlcInterceptorServer
	held    map[uint64]bool
	answers chan *routerrpc.ForwardHtlcInterceptResponse
}

func (r *router) HtlcInterceptor(s routerrpc.Router_HtlcInterceptorServer) error {
	r.mu.Lock()
	if r.active != nil {
		r.mu.Unlock()
		return errors.New("interceptor already exists")
	}
	r.active = s
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.active = nil
	}()
	for {
		a, err := s.Recv()
		if err != nil {
			return err
		}
		r.mu.Lock()
		held := r.held[a.IncomingCircuitKey.HtlcId]
		delete(r.held, a.IncomingCircuitKey.HtlcId)
		r.mu.Unlock()
		if !held {
			return errors.New("fwd not found")
		}
		r.answers <- a
	}
}

func (r *router) offer(t *testing.T, o *routerrpc.ForwardHtlcInterceptRequest) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if o.IncomingCircuitKey != nil {
		r.held[o.IncomingCircuitKey.HtlcId] = true
	}
	require.NoError(t, r.active.Send(o))
}

func dialRouter(t *testing.T) (*router, *grpc.ClientConn) {
	t.Helper()
	r := &router{held: make(map[uint64]bool), answers: make(chan *routerrpc.ForwardHtlcInterceptResponse, 100)}
	lis := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	routerrpc.RegisterRouterServer(server, r)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(lis) })
	conn, err := grpc.NewClient("passthrough:lnd",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	return r, conn
}

func request(index uint64, hash ln.Hash, autoFail int32) *routerrpc.ForwardHtlcInterceptRequest {
	return &routerrpc.ForwardHtlcInterceptRequest{
		IncomingCircuitKey: &routerrpc.CircuitKey{ChanId: 7, HtlcId: index}, PaymentHash: hash[:],
		IncomingAmountMsat: 1000, OutgoingAmountMsat: 900, IncomingExpiry: 200, AutoFailHeight: autoFail,
	}
}

func next(t *testing.T, s *Session, n int) []interceptor.Offer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out []interceptor.Offer
	for len(out) < n {
		offers, err := s.Next(ctx)
		require.NoError(t, err)
		out = append(out, offers...)
	}
	return out
}

func TestOnlyAnAcceptedStreamOpens(t *testing.T) {
	r, conn := dialRouter(t)
	first, err := Open(t.Context(), Config{Conn: conn})
	require.NoError(t, err)
	_, err = Open(t.Context(), Config{Conn: conn})
	require.ErrorIs(t, err, ln.ErrStreamTaken)
	require.NoError(t, first.Err(), "a refused one does not disturb it")

	// What was answered is sent before a close.
	p := ln.Preimage{1}
	r.offer(t, request(0, p.Hash(), 181))
	o := next(t, first, 1)[0]
	require.NoError(t, first.Answer(interceptor.Answer{Key: o.Key, Seq: o.Seq, Action: interceptor.AnswerResume}))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	first.Close(ctx)
	require.Len(t, r.answers, 1)
	_, err = first.Next(ctx)
	require.ErrorIs(t, err, ErrClosed)

	var second *Session
	for second == nil {
		if second, err = Open(ctx, Config{Conn: conn}); err != nil {
			require.ErrorIs(t, err, ln.ErrStreamTaken)
		}
	}
	second.Abort()
}

func TestAnswersAreChecked(t *testing.T) {
	r, conn := dialRouter(t)
	s, err := Open(t.Context(), Config{Conn: conn})
	require.NoError(t, err)
	defer s.Abort()
	p := ln.Preimage{1}
	r.offer(t, &routerrpc.ForwardHtlcInterceptRequest{}) // unreadable: skipped
	r.offer(t, request(0, p.Hash(), 181))
	r.offer(t, request(1, p.Hash(), 200)) // on chain
	r.offer(t, request(2, p.Hash(), 181))
	offers := next(t, s, 3)
	key := func(i int) interceptor.Answer {
		return interceptor.Answer{Key: offers[i].Key, Seq: offers[i].Seq, Action: interceptor.AnswerResume}
	}
	require.ErrorIs(t, s.Answer(interceptor.Answer{Key: ln.CircuitKey{ChanID: 9}, Action: interceptor.AnswerFail}), ErrNotOutstanding)
	require.ErrorIs(t, s.Answer(interceptor.Answer{Key: offers[0].Key, Seq: offers[0].Seq}), ErrBadAnswer)
	bad := key(0)
	bad.Action, bad.Preimage = interceptor.AnswerSettle, ln.Preimage{2}
	require.ErrorIs(t, s.Answer(bad), ErrBadAnswer)
	require.ErrorIs(t, s.Answer(key(1)), ErrBadAnswer, "on chain there is only SETTLE")
	require.NoError(t, s.Answer(key(0)))
	require.ErrorIs(t, s.Answer(key(0)), ErrNotOutstanding, "once")
	settle := key(1)
	settle.Action, settle.Preimage = interceptor.AnswerSettle, p
	require.NoError(t, s.Answer(settle))

	// An answer to an earlier offer is none to a later one.
	r.offer(t, request(2, p.Hash(), 181))
	again := next(t, s, 1)[0]
	require.ErrorIs(t, s.Answer(key(2)), ErrNotOutstanding)
	require.NoError(t, s.Answer(interceptor.Answer{Key: again.Key, Seq: again.Seq, Action: interceptor.AnswerFail}))
	for i, want := range []routerrpc.ResolveHoldForwardAction{
		routerrpc.ResolveHoldForwardAction_RESUME, routerrpc.ResolveHoldForwardAction_SETTLE, routerrpc.ResolveHoldForwardAction_FAIL,
	} {
		select {
		case a := <-r.answers:
			require.Equal(t, want, a.Action, i)
		case <-time.After(10 * time.Second):
			t.Fatal("an answer is missing")
		}
	}
	require.NoError(t, s.Err())
}

// A forward of less says so to the next node, and adds up.
func TestWithheldFeeOnTheWire(t *testing.T) {
	r, conn := dialRouter(t)
	s, err := Open(t.Context(), Config{Conn: conn})
	require.NoError(t, err)
	defer s.Abort()
	in := request(0, ln.Hash{1}, 181)
	in.IncomingAmountMsat, in.OutgoingAmountMsat = 101_000, 100_000
	r.offer(t, in)
	o := next(t, s, 1)[0]
	answer := func(fee, out ln.Msat, action interceptor.AnswerAction) interceptor.Answer {
		return interceptor.Answer{Key: o.Key, Seq: o.Seq, Action: action, ExtraFeeMsat: fee, OutgoingMsat: out}
	}
	for _, bad := range []interceptor.Answer{
		answer(10_000, 0, interceptor.AnswerResume),
		answer(10_000, 90_001, interceptor.AnswerResume),
		answer(100_000, 0, interceptor.AnswerResume),
		answer(100_001, 1<<64-1, interceptor.AnswerResume),
		answer(10_000, 90_000, interceptor.AnswerFail),
	} {
		require.ErrorIs(t, s.Answer(bad), ErrBadAnswer)
	}
	require.NoError(t, s.Answer(answer(10_000, 90_000, interceptor.AnswerResume)))
	select {
	case a := <-r.answers:
		require.Equal(t, routerrpc.ResolveHoldForwardAction_RESUME_MODIFIED, a.Action)
		require.Equal(t, uint64(90_000), a.OutAmountMsat)
		require.Zero(t, a.InAmountMsat)
		require.Equal(t, map[uint64][]byte{65537: {0, 0, 0, 0, 0, 0, 0x27, 0x10}}, a.OutWireCustomRecords)
	case <-time.After(10 * time.Second):
		t.Fatal("an answer is missing")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(uint64(1), uint64(2), make([]byte, 32), uint64(1000), int32(181), uint32(200), []byte{})
	f.Add(uint64(1), uint64(2), make([]byte, 31), uint64(1<<63), int32(-1), uint32(0), make([]byte, 33))
	f.Fuzz(func(t *testing.T, ch, index uint64, hash []byte, amt uint64, autoFail int32, expiry uint32, node []byte) {
		o, err := decode(&routerrpc.ForwardHtlcInterceptRequest{
			IncomingCircuitKey: &routerrpc.CircuitKey{ChanId: ch, HtlcId: index}, PaymentHash: hash,
			IncomingAmountMsat: amt, AutoFailHeight: autoFail, IncomingExpiry: expiry, OutgoingRequestedNodeId: node,
		})
		if err != nil {
			return
		}
		require.LessOrEqual(t, o.IncomingMsat, ln.MaxMsat)
		require.Equal(t, len(node) > 0, o.OutgoingSCID == ln.NodeAddressed)
		if autoFail <= 0 {
			require.Zero(t, o.AutoFailHeight, "never a height that could pass for off-chain")
		}
	})
}
