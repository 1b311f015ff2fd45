package engine

import (
	"context"
	"time"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Session is one stream that lnd has accepted (interceptor/stream).
type Session interface {
	// Next waits for offers, in lnd's order; it fails once the session ended.
	Next(ctx context.Context) ([]interceptor.Offer, error)
	// Answer never blocks; nil means that it is sent unless the session ends.
	Answer(a interceptor.Answer) error
	// Close sends what was answered, and ends; Abort ends at once.
	Close(ctx context.Context)
	Abort()
}

// Lease says that this process, and no other, may decide.
type Lease interface {
	// Epoch is larger than that of every earlier holder.
	Epoch() int64
	// Valid is right also when the process was frozen until now.
	Valid() bool
	// Lost is closed when the lease is over.
	Lost() <-chan struct{}
	Release(ctx context.Context) error
}

// Rows is the durable ledger. Every write is fenced by the lease's epoch. An
// error other than ErrConflict, ErrInvalid and ErrLeaseLost leaves open whether
// the write happened.
type Rows interface {
	// Live gives every row that something may still have to be done about.
	Live(ctx context.Context) ([]interceptor.Row, error)
	// Get leaves out keys that have no row.
	Get(ctx context.Context, keys []ln.CircuitKey) ([]interceptor.Row, error)
	// Write is one transaction: inserts leave existing rows alone, updates
	// compare versions.
	Write(ctx context.Context, epoch int64, insert, update []interceptor.Row) error
	List(ctx context.Context, f interceptor.RowFilter) ([]interceptor.Row, error)
	// Prune deletes at most so many rows that were finished before one time, the
	// oldest first, and routes that had lapsed by the other; it counts the rows.
	Prune(ctx context.Context, epoch int64, finished, lapsed time.Time, most int) (int64, error)
}

// Handlers keeps registrations and routes.
type Handlers interface {
	// Begin records that the owner of this epoch writes a row before it resumes
	// an HTLC of a claimed route. Unless the ledger is trusted, and the owner of
	// the epoch before recorded itself as well, every guard ends, in the same
	// transaction: who owned the stream meanwhile may not have kept the rule. doubt is
	// when that was last.
	Begin(ctx context.Context, epoch int64, trusted bool, now time.Time) (doubt time.Time, err error)
	Handlers(ctx context.Context) ([]interceptor.HandlerConfig, map[string][]interceptor.Route, error)
	PutHandler(ctx context.Context, epoch int64, h interceptor.HandlerConfig) error
	PutRoutes(ctx context.Context, epoch int64, handler string, routes []interceptor.Route) error
	DeleteRoutes(ctx context.Context, epoch int64, handler string, scids []ln.SCID) error
}

// Node is what the engine asks of lnd.
type Node interface {
	// ListChannels lists every open channel, offline ones included, with the
	// HTLCs on its local commitment.
	ListChannels(ctx context.Context) ([]ln.Channel, error)
	// TrackPayment is the present state of a payment of ours.
	TrackPayment(ctx context.Context, hash ln.Hash) (ln.Payment, error)
	// SubscribeBlocks gives the tip and then every block, until it fails.
	SubscribeBlocks(ctx context.Context, handle func(ln.Block)) error
}

// Outcomes tells how HTLCs ended. Each source may miss some.
type Outcomes interface {
	SubscribeHtlcEvents(ctx context.Context, ready func(), handle func(ln.HtlcEvent)) error
	LookupResolution(ctx context.Context, key ln.CircuitKey) (ln.Resolution, error)
	ForwardingHistory(ctx context.Context, since time.Time, offset, limit uint32) ([]ln.Forward, error)
}
