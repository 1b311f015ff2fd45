package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/store"
	lspengine "github.com/sluice-lsp/sluice/lsp/engine"
)

// lspHandler is the name under which channels on demand are registered at the
// interceptor.
const lspHandler = "lsp"

// lspHolds lets the lsp service hold HTLCs at the interceptor, in process or
// over gRPC: both implement the same two interfaces.
type lspHolds struct {
	registry interceptor.Registry
	ledger   interceptor.Ledger
}

var (
	_ lspengine.Routes = lspHolds{}
	_ lspengine.Held   = lspHolds{}
)

// register makes the handler known. While lsp is away its HTLCs are held:
// what it agreed with wallets still stands.
func (h lspHolds) register(ctx context.Context) error {
	return h.registry.Register(ctx, interceptor.HandlerConfig{Name: lspHandler, Priority: 100, OnAbsent: interceptor.AbsentHold})
}

// Claim guards the routes: lsp tells nobody of an id before it is claimed.
func (h lspHolds) Claim(ctx context.Context, scids []ln.SCID, until time.Time) error {
	routes := make([]interceptor.Route, 0, len(scids))
	for _, s := range scids {
		routes = append(routes, interceptor.Route{SCID: s, Until: until, Guarded: true})
	}
	return h.registry.ClaimRoutes(ctx, lspHandler, routes)
}

func (h lspHolds) Release(ctx context.Context, scids []ln.SCID) error {
	return h.registry.ReleaseRoutes(ctx, lspHandler, scids)
}

func (h lspHolds) Attach(ctx context.Context, sink func(lspengine.HtlcEvent)) error {
	if err := h.register(ctx); err != nil {
		return err
	}
	return h.registry.Attach(ctx, lspHandler, func(ev interceptor.Event) {
		switch ev.Kind {
		case interceptor.EventOffered:
			sink(report(lspengine.HtlcOffered, ev.Row))
		case interceptor.EventDecided:
			sink(report(lspengine.HtlcDecided, ev.Row))
		case interceptor.EventGone:
			sink(report(lspengine.HtlcGone, ev.Row))
		case interceptor.EventSynced:
			sink(lspengine.HtlcEvent{Kind: lspengine.HtlcSynced})
		case interceptor.EventNearDeadline:
			// The payment's own machine counts blocks with a wider margin.
		}
	})
}

func report(kind lspengine.HtlcEventKind, r interceptor.Row) lspengine.HtlcEvent {
	return lspengine.HtlcEvent{
		Kind: kind,
		Htlc: ln.InterceptedHtlc{
			Key: r.Key, Hash: r.Hash, IncomingMsat: r.IncomingMsat, OutgoingMsat: r.OutgoingMsat,
			IncomingExpiry: r.IncomingExpiry, OutgoingExpiry: r.OutgoingExpiry, OutgoingSCID: r.OutgoingSCID,
			AutoFailHeight: r.AutoFailHeight,
		},
		Order:   r.ID,
		Resumed: r.State == interceptor.StateResumed,
		Known:   r.Outcome != interceptor.OutcomeUnknown,
		// One that the interceptor settled itself (lnd had paid its hash) was not forwarded.
		Settled: r.Outcome == interceptor.OutcomeSettled && r.State != interceptor.StateSettled,
		OnChain: r.OnChain,
		Paying:  r.State == interceptor.StatePaying,
		Reason:  r.Reason,
	}
}

func (h lspHolds) Decide(ctx context.Context, keys []ln.CircuitKey, v lspengine.Verdict, reason string) error {
	actions := map[lspengine.Verdict]interceptor.Action{
		lspengine.VerdictResume: interceptor.ActionResume, lspengine.VerdictFail: interceptor.ActionFail,
		lspengine.VerdictRefuseUnknown: interceptor.ActionRefuseUnknown,
	}
	action, ok := actions[v]
	if !ok {
		return fmt.Errorf("verdict %q is unknown", v)
	}
	reason = ln.Clip(reason, interceptor.MaxReason)
	decisions := make([]interceptor.Decision, 0, len(keys))
	for _, k := range keys {
		decisions = append(decisions, interceptor.Decision{Key: k, Action: action, Reason: reason})
	}
	return h.decide(ctx, decisions)
}

func (h lspHolds) Resume(ctx context.Context, forwards []lspengine.Forward, reason string) error {
	reason = ln.Clip(reason, interceptor.MaxReason)
	decisions := make([]interceptor.Decision, 0, len(forwards))
	for _, f := range forwards {
		decisions = append(decisions, interceptor.Decision{
			Key: f.Key, Action: interceptor.ActionResume, ExtraFeeMsat: f.ExtraFeeMsat, Reason: reason,
		})
	}
	return h.decide(ctx, decisions)
}

func (h lspHolds) decide(ctx context.Context, decisions []interceptor.Decision) error {
	err := h.ledger.Decide(ctx, decisions)
	for _, otherwise := range []error{
		interceptor.ErrDecided, interceptor.ErrOnChain, interceptor.ErrUnknownRow, interceptor.ErrPaying,
	} {
		if errors.Is(err, otherwise) {
			return fmt.Errorf("%w: %w", lspengine.ErrDecided, err)
		}
	}
	return err
}

func (h lspHolds) Acknowledge(ctx context.Context, keys []ln.CircuitKey) error {
	return h.ledger.Acknowledge(ctx, keys)
}

// lookupPage is how many rows a Lookup reads at once.
const lookupPage = 1000

// Lookup reads all of them: a stranger can have as many HTLCs of one hash refused as
// it likes, before those that count.
func (h lspHolds) Lookup(ctx context.Context, hash ln.Hash) ([]lspengine.HtlcEvent, error) {
	var out []lspengine.HtlcEvent
	for after := int64(0); ; {
		rows, err := h.ledger.Rows(ctx, interceptor.RowFilter{Handler: lspHandler, Hash: &hash, After: after, Limit: lookupPage})
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			kind := lspengine.HtlcOffered
			switch {
			case r.Gone():
				kind = lspengine.HtlcGone
			case !r.Undecided():
				kind = lspengine.HtlcDecided
			}
			out = append(out, report(kind, r))
			after = r.ID
		}
		if len(rows) < lookupPage {
			return out, nil
		}
	}
}

// opener gives lnd's channel negotiation the engine's shape. It makes lnd forget a channel
// only while its process certainly has the lease: one that was frozen after its last look
// would forget a channel that another has funded meanwhile.
type opener struct {
	*lnd.Client
	lease *store.Lease
}

// AbandonChannel implements the engine's Opener.
func (o opener) AbandonChannel(ctx context.Context, op ln.Outpoint) error {
	if !o.lease.Valid() {
		return fmt.Errorf("forget channel %s: %w: another process may own its open", op, store.ErrLeaseLost)
	}
	return o.Client.AbandonChannel(ctx, op)
}

func (o opener) OpenChannel(ctx context.Context, r ln.OpenRequest) (lspengine.Negotiation, error) {
	return o.Client.OpenChannel(ctx, r)
}

// orderNode gives lnd's closing of channels the shape that orders need: a close
// of theirs is never forced.
type orderNode struct{ *lnd.Client }

func (o orderNode) Close(ctx context.Context, op ln.Outpoint, rate ln.FeeRateSatPerKW) error {
	return o.Client.CloseChannel(ctx, op, false, rate)
}

// lspNode is one lnd as the lsp service sees it while it has the lease.
func lspNode(c *lnd.Client, lease *store.Lease) lspengine.Node {
	return lspengine.Node{
		Channels: c, Aliases: c, Opener: opener{c, lease}, Coins: c, Chain: c, Invoices: c, Payments: fencedPayments{c, lease}, Settings: c, Orders: orderNode{c}, Events: c, Forwards: c,
	}
}
