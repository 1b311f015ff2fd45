// Package api offers the interceptor over gRPC, and a client that implements
// the same Go interfaces as the engine in process: interceptor.Registry and
// interceptor.Ledger. It promises that errors arrive as the same values, and
// that what cannot be told apart arrives as interceptor.ErrUnavailable, whose
// remedy is to make the same call again.
package api

import (
	"context"
	"fmt"

	"github.com/sluice-lsp/sluice/interceptor"
	pb "github.com/sluice-lsp/sluice/interceptor/api/interceptorv1"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// StatusSource is what GetStatus shows.
type StatusSource interface {
	Status() interceptor.Status
}

// Server serves an engine. Who may call is decided before it.
type Server struct {
	pb.UnimplementedInterceptorServer
	registry interceptor.Registry
	ledger   interceptor.Ledger
	status   StatusSource
}

// NewServer serves the three faces of an engine.
func NewServer(registry interceptor.Registry, ledger interceptor.Ledger, status StatusSource) *Server {
	return &Server{registry: registry, ledger: ledger, status: status}
}

// Register implements the RPC.
func (s *Server) Register(ctx context.Context, in *pb.RegisterRequest) (*pb.RegisterResponse, error) {
	return &pb.RegisterResponse{}, toStatus(s.registry.Register(ctx, interceptor.HandlerConfig{
		Name: in.GetName(), Priority: int(in.GetPriority()), OnAbsent: interceptor.Absent(in.GetOnAbsent()),
	}))
}

// ClaimRoutes implements the RPC.
func (s *Server) ClaimRoutes(ctx context.Context, in *pb.ClaimRoutesRequest) (*pb.ClaimRoutesResponse, error) {
	routes := make([]interceptor.Route, len(in.GetRoutes()))
	for i, r := range in.GetRoutes() {
		routes[i] = interceptor.Route{SCID: ln.SCID(r.GetScid()), Until: fromMs(r.GetUntilMs()), Guarded: r.GetGuarded()}
	}
	return &pb.ClaimRoutesResponse{}, toStatus(s.registry.ClaimRoutes(ctx, in.GetHandler(), routes))
}

// ReleaseRoutes implements the RPC.
func (s *Server) ReleaseRoutes(ctx context.Context, in *pb.ReleaseRoutesRequest) (*pb.ReleaseRoutesResponse, error) {
	scids := make([]ln.SCID, len(in.GetScids()))
	for i, id := range in.GetScids() {
		scids[i] = ln.SCID(id)
	}
	return &pb.ReleaseRoutesResponse{}, toStatus(s.registry.ReleaseRoutes(ctx, in.GetHandler(), scids))
}

// Attach implements the RPC.
func (s *Server) Attach(in *pb.AttachRequest, stream pb.Interceptor_AttachServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	err := s.registry.Attach(ctx, in.GetHandler(), func(ev interceptor.Event) {
		out := &pb.AttachResponse{Kind: string(ev.Kind), BlocksLeft: ev.BlocksLeft}
		if ev.Kind != interceptor.EventSynced {
			out.Row = rowToWire(ev.Row)
		}
		if err := stream.Send(out); err != nil {
			cancel(err)
		}
	})
	return toStatus(err)
}

// Decide implements the RPC.
func (s *Server) Decide(ctx context.Context, in *pb.DecideRequest) (*pb.DecideResponse, error) {
	decisions := make([]interceptor.Decision, len(in.GetDecisions()))
	for i, d := range in.GetDecisions() {
		var err error
		if decisions[i], err = decisionFromWire(d); err != nil {
			return nil, toStatus(err)
		}
	}
	return &pb.DecideResponse{}, toStatus(s.ledger.Decide(ctx, decisions))
}

// MarkPaying implements the RPC.
func (s *Server) MarkPaying(ctx context.Context, in *pb.MarkPayingRequest) (*pb.MarkPayingResponse, error) {
	keys, err := keysAndReason(in.GetKeys(), in.GetReason())
	if err == nil {
		err = s.ledger.MarkPaying(ctx, keys, in.GetReason())
	}
	return &pb.MarkPayingResponse{}, toStatus(err)
}

// MarkNotPaying implements the RPC.
func (s *Server) MarkNotPaying(ctx context.Context, in *pb.MarkNotPayingRequest) (*pb.MarkNotPayingResponse, error) {
	keys, err := keysAndReason(in.GetKeys(), in.GetReason())
	if err == nil {
		err = s.ledger.MarkNotPaying(ctx, keys, in.GetReason())
	}
	return &pb.MarkNotPayingResponse{}, toStatus(err)
}

// Acknowledge implements the RPC.
func (s *Server) Acknowledge(ctx context.Context, in *pb.AcknowledgeRequest) (*pb.AcknowledgeResponse, error) {
	keys, err := keysFromWire(in.GetKeys())
	if err == nil {
		err = s.ledger.Acknowledge(ctx, keys)
	}
	return &pb.AcknowledgeResponse{}, toStatus(err)
}

// ListRows implements the RPC.
func (s *Server) ListRows(ctx context.Context, in *pb.ListRowsRequest) (*pb.ListRowsResponse, error) {
	f := interceptor.RowFilter{
		Handler: in.GetHandler(), State: interceptor.State(in.GetState()), OpenOnly: in.GetOpenOnly(),
		After: in.GetAfter(), Limit: int(in.GetLimit()),
	}
	if f.State != "" && !f.State.Valid() {
		return nil, toStatus(fmt.Errorf("state %q: %w", in.GetState(), interceptor.ErrInvalid))
	}
	if len(in.GetPaymentHash()) > 0 {
		hash, err := ln.HashFromBytes(in.GetPaymentHash())
		if err != nil {
			return nil, toStatus(fmt.Errorf("%w: %w", interceptor.ErrInvalid, err))
		}
		f.Hash = &hash
	}
	rows, err := s.ledger.Rows(ctx, f)
	if err != nil {
		return nil, toStatus(err)
	}
	out := &pb.ListRowsResponse{Rows: make([]*pb.Row, len(rows))}
	for i, r := range rows {
		out.Rows[i] = rowToWire(r)
	}
	return out, nil
}

// GetStatus implements the RPC.
func (s *Server) GetStatus(context.Context, *pb.GetStatusRequest) (*pb.GetStatusResponse, error) {
	st := s.status.Status()
	out := &pb.GetStatusResponse{
		Active: st.Active, Connected: st.Connected, Degraded: st.Degraded, Height: st.Height,
		HeldHtlcs: clampInt32(st.HeldHtlcs), HeldMsat: uint64(st.HeldMsat), MinBlocksLeft: st.MinBlocksLeft,
		HeldSatBlocks: st.HeldSatBlocks, Unrecorded: clampInt32(st.Unrecorded),
		StreamEnds: st.StreamEnds, LastStreamEnd: st.LastStreamEnd,
		Resumed: st.Resumed, Phantoms: st.Phantoms, ResumeOnly: st.ResumeOnly,
	}
	for _, h := range st.Handlers {
		out.Handlers = append(out.Handlers, &pb.HandlerStatus{
			Name: h.Name, Priority: clampInt32(h.Priority), OnAbsent: string(h.OnAbsent),
			Attached: h.Attached, Routes: clampInt32(h.Routes), Held: clampInt32(h.Held),
		})
	}
	out.Asked, out.Left = clampInt32(st.Asked), clampInt32(st.Left)
	for _, p := range st.Programs {
		out.Programs = append(out.Programs, &pb.ProgramStatus{
			Name: p.Name, Registered: p.Registered, Htlcs: p.Htlcs, Channels: p.Channels,
			WhileAway: string(p.WhileAway), WhenSlow: string(p.WhenSlow), MaySettle: p.MaySettle, Waiting: clampInt32(p.Waiting),
			Asked: p.Asked, Failed: p.Failed, Settled: p.Settled, Late: p.Late, Refused: p.Refused, LastRefusal: p.LastRefusal,
		})
	}
	return out, nil
}

func keysAndReason(in []*pb.CircuitKey, reason string) ([]ln.CircuitKey, error) {
	if len(reason) > interceptor.MaxReason {
		return nil, fmt.Errorf("reason of %d bytes, more than %d: %w", len(reason), interceptor.MaxReason, interceptor.ErrInvalid)
	}
	return keysFromWire(in)
}
