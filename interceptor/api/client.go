package api

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/interceptor"
	pb "github.com/sluice-lsp/sluice/interceptor/api/interceptorv1"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Client is an interceptor that runs in another process.
type Client struct{ rpc pb.InterceptorClient }

var (
	_ interceptor.Registry = (*Client)(nil)
	_ interceptor.Ledger   = (*Client)(nil)
)

// NewClient uses a connection that authenticates each call.
func NewClient(conn grpc.ClientConnInterface) *Client {
	return &Client{rpc: pb.NewInterceptorClient(conn)}
}

// Register implements interceptor.Registry.
func (c *Client) Register(ctx context.Context, h interceptor.HandlerConfig) error {
	_, err := c.rpc.Register(ctx, &pb.RegisterRequest{
		Name: h.Name, Priority: clampInt32(h.Priority), OnAbsent: string(h.OnAbsent),
	})
	return fromStatus(err)
}

// ClaimRoutes implements interceptor.Registry.
func (c *Client) ClaimRoutes(ctx context.Context, handler string, routes []interceptor.Route) error {
	in := &pb.ClaimRoutesRequest{Handler: handler, Routes: make([]*pb.Route, len(routes))}
	for i, r := range routes {
		in.Routes[i] = &pb.Route{Scid: uint64(r.SCID), UntilMs: toMs(r.Until), Guarded: r.Guarded}
	}
	_, err := c.rpc.ClaimRoutes(ctx, in)
	return fromStatus(err)
}

// ReleaseRoutes implements interceptor.Registry.
func (c *Client) ReleaseRoutes(ctx context.Context, handler string, scids []ln.SCID) error {
	in := &pb.ReleaseRoutesRequest{Handler: handler, Scids: make([]uint64, len(scids))}
	for i, id := range scids {
		in.Scids[i] = uint64(id)
	}
	_, err := c.rpc.ReleaseRoutes(ctx, in)
	return fromStatus(err)
}

// Attach implements interceptor.Registry.
func (c *Client) Attach(ctx context.Context, handler string, sink func(interceptor.Event)) error {
	streamCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Attach(streamCtx, &pb.AttachRequest{Handler: handler})
	if err != nil {
		return fromStatus(err)
	}
	for {
		in, err := stream.Recv()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fromStatus(err)
		}
		ev := interceptor.Event{Kind: interceptor.EventKind(in.GetKind()), BlocksLeft: in.GetBlocksLeft()}
		if in.GetRow() != nil {
			if ev.Row, err = rowFromWire(in.GetRow()); err != nil {
				return err
			}
		}
		sink(ev)
	}
}

// Decide implements interceptor.Ledger.
func (c *Client) Decide(ctx context.Context, decisions []interceptor.Decision) error {
	in := &pb.DecideRequest{Decisions: make([]*pb.Decision, len(decisions))}
	for i, d := range decisions {
		if !d.Send.IsZero() {
			return fmt.Errorf("HTLC %s: only the interceptor's own process changes what a forward sends: %w", d.Key, interceptor.ErrInvalid)
		}
		in.Decisions[i] = &pb.Decision{Key: keyToWire(d.Key), Action: string(d.Action), Reason: d.Reason, ExtraFeeMsat: uint64(d.ExtraFeeMsat)}
		if d.Action == interceptor.ActionSettle {
			in.Decisions[i].Preimage = d.Preimage.Bytes()
		}
	}
	_, err := c.rpc.Decide(ctx, in)
	return fromStatus(err)
}

// MarkPaying implements interceptor.Ledger.
func (c *Client) MarkPaying(ctx context.Context, keys []ln.CircuitKey, reason string) error {
	_, err := c.rpc.MarkPaying(ctx, &pb.MarkPayingRequest{Keys: keysToWire(keys), Reason: reason})
	return fromStatus(err)
}

// MarkNotPaying implements interceptor.Ledger.
func (c *Client) MarkNotPaying(ctx context.Context, keys []ln.CircuitKey, reason string) error {
	_, err := c.rpc.MarkNotPaying(ctx, &pb.MarkNotPayingRequest{Keys: keysToWire(keys), Reason: reason})
	return fromStatus(err)
}

// Acknowledge implements interceptor.Ledger.
func (c *Client) Acknowledge(ctx context.Context, keys []ln.CircuitKey) error {
	_, err := c.rpc.Acknowledge(ctx, &pb.AcknowledgeRequest{Keys: keysToWire(keys)})
	return fromStatus(err)
}

// Rows implements interceptor.Ledger. Preimages are left out.
func (c *Client) Rows(ctx context.Context, f interceptor.RowFilter) ([]interceptor.Row, error) {
	in := &pb.ListRowsRequest{
		Handler: f.Handler, State: string(f.State), OpenOnly: f.OpenOnly, After: f.After, Limit: clampInt32(f.Limit),
	}
	if f.Hash != nil {
		in.PaymentHash = f.Hash[:]
	}
	out, err := c.rpc.ListRows(ctx, in)
	if err != nil {
		return nil, fromStatus(err)
	}
	rows := make([]interceptor.Row, len(out.GetRows()))
	for i, r := range out.GetRows() {
		if rows[i], err = rowFromWire(r); err != nil {
			return nil, err
		}
	}
	return rows, nil
}
