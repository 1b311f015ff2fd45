package interceptor

import (
	"context"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Registry is how a service tells which HTLCs it wants, and hears of them. The
// engine implements it in process, api.Client over gRPC.
type Registry interface {
	// Register creates or changes a handler; it is idempotent.
	Register(ctx context.Context, h HandlerConfig) error
	// ClaimRoutes adds routes or moves their ends, in one transaction. Once it
	// returns, every later offer over them is held for the handler.
	ClaimRoutes(ctx context.Context, handler string, routes []Route) error
	// ReleaseRoutes drops claims; unknown ones are ignored. HTLCs held before
	// stay the handler's.
	ReleaseRoutes(ctx context.Context, handler string, scids []ln.SCID) error
	// Attach delivers the handler's events in order, one call of sink at a
	// time, until ctx ends. It gives ErrReplaced when the handler attaches
	// again elsewhere, ErrUnavailable when the interceptor stops or loses its
	// lease: then attach again. sink may call Ledger's methods.
	Attach(ctx context.Context, handler string, sink func(Event)) error
}

// Ledger is how a service decides about its HTLCs. Every method is idempotent,
// and returns after the commit. ErrUnavailable leaves open whether it was
// committed: the same call again tells.
type Ledger interface {
	// Decide commits all decisions or none. The first row that stands against
	// it is named in a *RowError. A first Fail or RefuseUnknown of a row whose
	// hash lnd is paying gives ErrPaying, and the row becomes paying: the interceptor
	// fails it once that payment has failed, and settles it if it succeeds.
	Decide(ctx context.Context, decisions []Decision) error
	// MarkPaying records that a payment for the rows' hash is about to be sent.
	MarkPaying(ctx context.Context, keys []ln.CircuitKey, reason string) error
	// MarkNotPaying makes the rows held again; lnd is asked first, and
	// ErrPaying refuses it while a payment is in flight or has succeeded.
	MarkNotPaying(ctx context.Context, keys []ln.CircuitKey, reason string) error
	// Acknowledge stops EventGone from coming again for these rows.
	Acknowledge(ctx context.Context, keys []ln.CircuitKey) error
	// Rows lists what is recorded, oldest first.
	Rows(ctx context.Context, f RowFilter) ([]Row, error)
}
