package api

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/interceptor"
	pb "github.com/sluice-lsp/sluice/interceptor/api/interceptorv1"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// stub answers everything with err and remembers decisions.
type stub struct {
	err       error
	decisions []interceptor.Decision
	row       interceptor.Row
}

func (s *stub) Register(context.Context, interceptor.HandlerConfig) error { return s.err }
func (s *stub) ClaimRoutes(context.Context, string, []interceptor.Route) error {
	return s.err
}
func (s *stub) ReleaseRoutes(context.Context, string, []ln.SCID) error { return s.err }

func (s *stub) Attach(ctx context.Context, _ string, sink func(interceptor.Event)) error {
	sink(interceptor.Event{Kind: interceptor.EventOffered, Row: s.row, BlocksLeft: -3})
	sink(interceptor.Event{Kind: interceptor.EventSynced})
	if s.err != nil {
		return s.err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (s *stub) Decide(_ context.Context, d []interceptor.Decision) error {
	s.decisions = d
	return s.err
}
func (s *stub) MarkPaying(context.Context, []ln.CircuitKey, string) error    { return s.err }
func (s *stub) MarkNotPaying(context.Context, []ln.CircuitKey, string) error { return s.err }
func (s *stub) Acknowledge(context.Context, []ln.CircuitKey) error           { return s.err }
func (s *stub) Rows(context.Context, interceptor.RowFilter) ([]interceptor.Row, error) {
	return []interceptor.Row{s.row}, s.err
}
func (s *stub) Status() interceptor.Status { return interceptor.Status{HeldHtlcs: 7} }

func dial(t *testing.T, s *stub) *Client {
	t.Helper()
	lis := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	pb.RegisterInterceptorServer(server, NewServer(s, s, s))
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(lis) })
	conn, err := grpc.NewClient("passthrough:interceptor",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	return NewClient(conn)
}

func TestErrorsArriveAsTheyWere(t *testing.T) {
	s := &stub{}
	c := dial(t, s)
	key := ln.CircuitKey{ChanID: 7, HtlcID: 9}
	for _, w := range wireErrors() {
		s.err = &interceptor.RowError{Key: key, State: interceptor.StatePaying, Err: w.err}
		err := c.Decide(t.Context(), nil)
		require.ErrorIs(t, err, w.err)
		var row *interceptor.RowError
		require.ErrorAs(t, err, &row)
		require.Equal(t, key, row.Key)
		require.Equal(t, interceptor.StatePaying, row.State)
		s.err = w.err
		require.ErrorIs(t, c.Register(t.Context(), interceptor.HandlerConfig{}), w.err)
	}
	s.err = errors.New("something new")
	require.ErrorIs(t, c.Acknowledge(t.Context(), nil), interceptor.ErrUnavailable)
}

func TestAttachAndDecideOverTheWire(t *testing.T) {
	s := &stub{row: interceptor.Row{
		Key: ln.CircuitKey{ChanID: 7, HtlcID: 9}, State: interceptor.StateHeld, OfferedAt: time.UnixMilli(5), Version: 1,
	}}
	c := dial(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	var events []interceptor.Event
	err := c.Attach(ctx, "jit", func(ev interceptor.Event) {
		if events = append(events, ev); ev.Kind == interceptor.EventSynced {
			cancel()
		}
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, []interceptor.Event{
		{Kind: interceptor.EventOffered, Row: s.row, BlocksLeft: -3}, {Kind: interceptor.EventSynced},
	}, events)

	d := []interceptor.Decision{
		{Key: s.row.Key, Action: interceptor.ActionSettle, Preimage: ln.Preimage{1}, Reason: "r"},
		{Key: s.row.Key, Action: interceptor.ActionResume},
		{Key: s.row.Key, Action: interceptor.ActionResume, ExtraFeeMsat: 7},
	}
	require.NoError(t, c.Decide(t.Context(), d))
	require.Equal(t, d, s.decisions)

	// The wire has no field for it, and half a decision is another one.
	d = []interceptor.Decision{{Key: s.row.Key, Action: interceptor.ActionResume, Send: interceptor.Sending{Msat: 5}}}
	s.decisions = nil
	require.ErrorIs(t, c.Decide(t.Context(), d), interceptor.ErrInvalid)
	require.Empty(t, s.decisions)
}

func TestRowsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := interceptor.Row{
			ID:           rapid.Int64().Draw(t, "id"),
			Key:          ln.CircuitKey{ChanID: ln.SCID(rapid.Uint64().Draw(t, "chan")), HtlcID: rapid.Uint64().Draw(t, "index")},
			IncomingMsat: ln.Msat(rapid.Uint64Max(uint64(ln.MaxMsat)).Draw(t, "in")),
			OutgoingMsat: 1000,
			ExtraFeeMsat: ln.Msat(rapid.Uint64Max(999).Draw(t, "extra fee")),
			OutgoingSCID: ln.SCID(rapid.Uint64().Draw(t, "scid")),
			FailHeight:   rapid.Uint32().Draw(t, "fail"),
			State:        rapid.SampledFrom([]interceptor.State{interceptor.StateHeld, interceptor.StateLapsed}).Draw(t, "state"),
			Outcome:      interceptor.OutcomeSettled, Acked: true, OnChain: true, Handler: "jit", Reason: "why",
			GoneAt: time.UnixMilli(rapid.Int64Range(1, 1<<40).Draw(t, "gone")), Version: 3,
		}
		back, err := rowFromWire(rowToWire(r))
		require.NoError(t, err)
		require.Equal(t, r, back)
		r.ExtraFeeMsat = 1000
		_, err = rowFromWire(rowToWire(r))
		require.ErrorIs(t, err, interceptor.ErrInvalid)
	})
}

func FuzzDecide(f *testing.F) {
	seed, err := proto.Marshal(&pb.DecideRequest{Decisions: []*pb.Decision{{
		Key: &pb.CircuitKey{ChanId: 1, HtlcId: 2}, Action: "settle", Preimage: make([]byte, 32),
	}}})
	require.NoError(f, err)
	f.Add(seed)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var in pb.DecideRequest
		if proto.Unmarshal(raw, &in) != nil {
			return
		}
		s := &stub{}
		_, err := NewServer(s, s, s).Decide(t.Context(), &in)
		if err != nil {
			return
		}
		require.Len(t, s.decisions, len(in.GetDecisions()))
	})
}
