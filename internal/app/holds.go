package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	lspapi "github.com/sluice-lsp/sluice/lsp/api"
	lspengine "github.com/sluice-lsp/sluice/lsp/engine"
	"github.com/sluice-lsp/sluice/lws"
	lwsengine "github.com/sluice-lsp/sluice/lws/engine"
	lwsstore "github.com/sluice-lsp/sluice/lws/store"
)

// lwsHandler is the name under which payments for offline wallets are held.
const lwsHandler = "lws"

// HoldsConfig says what is held for wallets that are offline.
type HoldsConfig struct {
	Enabled      bool            `toml:"enabled" help:"hold payments for wallets that register and are offline"`
	HoldFor      config.Duration `toml:"hold_for" help:"longest that a wallet may ask for" min:"1m" max:"7d"`
	Htlcs        int             `toml:"htlcs_per_wallet" help:"HTLCs that may wait for one wallet" min:"1" max:"482"`
	AllHtlcs     int             `toml:"htlcs" help:"HTLCs that may wait in all" min:"1"`
	Sat          config.Sat      `toml:"sat_per_wallet" help:"sats that may wait for one wallet"`
	AllSat       config.Sat      `toml:"sat" help:"sats that may wait in all"`
	Wallets      int64           `toml:"wallets" help:"wallets that may be registered" min:"1"`
	SatBlocks    uint64          `toml:"sat_blocks_per_wallet" help:"what payments that wait for one wallet may cost, in satoshis times blocks that they may wait"`
	AllSatBlocks uint64          `toml:"sat_blocks" help:"what all that waits may cost, in satoshis times blocks"`
	Incoming     int             `toml:"htlcs_per_incoming_channel" help:"HTLCs that came over one channel and may wait: whoever pays through it cannot take all places" min:"1" max:"482"`
	Price        uint64          `toml:"price_msat" help:"price of holding, in millisatoshis for each million of satoshis times blocks: the payer's routing fee must bring it, or the payment is not held; 0 is free" max:"1000000000"`
	MinHold      config.Duration `toml:"min_hold" help:"near a limit the oldest payments go back first; one that came over the channel that brings most has waited at least so long" max:"7d"`
	Margin       uint32          `toml:"margin_blocks" help:"a payment goes back so many blocks before the interceptor would fail its HTLCs one by one (interceptor.fail_safety_blocks)" min:"1" max:"100"`
}

func defaultHolds() HoldsConfig {
	return HoldsConfig{
		Enabled: true, HoldFor: config.Duration(24 * time.Hour), Htlcs: 30, AllHtlcs: 1000, Sat: 10_000_000, AllSat: 300_000_000,
		SatBlocks: 2_000_000_000, AllSatBlocks: 60_000_000_000, Incoming: 150, MinHold: config.Duration(10 * time.Minute),
		Wallets: 10_000, Margin: 4,
	}
}

// maxExpected bounds the invoices that one wallet announces; each is a row.
const maxExpected = 500

func (c HoldsConfig) limits() lws.Limits {
	return lws.Limits{
		HoldFor: c.HoldFor.Std(), Htlcs: c.Htlcs, AllHtlcs: c.AllHtlcs, Sat: c.Sat.Amount(), AllSat: c.AllSat.Amount(),
		MinFinal: 18, MaxFinal: 2016, SatBlocks: c.SatBlocks, AllSatBlocks: c.AllSatBlocks,
		IncomingHtlcs: c.Incoming, PriceMsat: ln.Msat(c.Price), MinHold: c.MinHold.Std(), Expected: maxExpected,
	}
}

// lwsHolds lets the wallet server hold HTLCs at the interceptor.
type lwsHolds struct {
	registry interceptor.Registry
	ledger   interceptor.Ledger
}

var _ lwsengine.Holds = lwsHolds{}

// register: while the wallet server is away, what it holds stays held. lsp comes first
// where both claim an id.
func (h lwsHolds) register(ctx context.Context) error {
	return h.registry.Register(ctx, interceptor.HandlerConfig{Name: lwsHandler, Priority: 50, OnAbsent: interceptor.AbsentHold})
}

// Claim has no guard: the ids are known to payers.
func (h lwsHolds) Claim(ctx context.Context, scids []ln.SCID, until time.Time) error {
	routes := make([]interceptor.Route, 0, len(scids))
	for _, s := range scids {
		routes = append(routes, interceptor.Route{SCID: s, Until: until})
	}
	err := h.registry.ClaimRoutes(ctx, lwsHandler, routes)
	if errors.Is(err, interceptor.ErrUnknownHandler) {
		if err := h.register(ctx); err != nil {
			return err
		}
		return h.registry.ClaimRoutes(ctx, lwsHandler, routes)
	}
	return err
}

func (h lwsHolds) Release(ctx context.Context, scids []ln.SCID) error {
	return h.registry.ReleaseRoutes(ctx, lwsHandler, scids)
}

func (h lwsHolds) Attach(ctx context.Context, sink func(lwsengine.HtlcEvent)) error {
	if err := h.register(ctx); err != nil {
		return err
	}
	kinds := map[interceptor.EventKind]lwsengine.HtlcEventKind{
		interceptor.EventOffered: lwsengine.HtlcOffered, interceptor.EventDecided: lwsengine.HtlcDecided,
		interceptor.EventGone: lwsengine.HtlcGone, interceptor.EventSynced: lwsengine.HtlcSynced,
	}
	return h.registry.Attach(ctx, lwsHandler, func(ev interceptor.Event) {
		kind, wanted := kinds[ev.Kind]
		if !wanted {
			return // the payment's own machine counts blocks with a wider margin
		}
		seen := report(lspengine.HtlcOffered, ev.Row)
		sink(lwsengine.HtlcEvent{
			Kind: kind, Htlc: seen.Htlc, Order: seen.Order, Resumed: seen.Resumed, OnChain: seen.OnChain, Paying: seen.Paying,
		})
	})
}

func (h lwsHolds) Decide(ctx context.Context, keys []ln.CircuitKey, resume bool, reason string) error {
	action := interceptor.ActionFail
	if resume {
		action = interceptor.ActionResume
	}
	decisions := make([]interceptor.Decision, 0, len(keys))
	for _, k := range keys {
		decisions = append(decisions, interceptor.Decision{Key: k, Action: action, Reason: ln.Clip(reason, interceptor.MaxReason)})
	}
	err := h.ledger.Decide(ctx, decisions)
	for _, otherwise := range []error{
		interceptor.ErrDecided, interceptor.ErrOnChain, interceptor.ErrPaying, interceptor.ErrDeadline,
	} {
		if !errors.Is(err, otherwise) {
			continue
		}
		var row *interceptor.RowError
		if !errors.As(err, &row) {
			return fmt.Errorf("%w: %w", lwsengine.ErrDecided, err)
		}
		return &lwsengine.DecidedError{
			Key: row.Key, Resumed: row.State == interceptor.StateResumed || row.State == interceptor.StateRefusedUnknown, Err: err,
		}
	}
	if errors.Is(err, interceptor.ErrUnknownRow) {
		return fmt.Errorf("%w: %w", lwsengine.ErrUnknown, err)
	}
	return err
}

func (h lwsHolds) Acknowledge(ctx context.Context, keys []ln.CircuitKey) error {
	return h.ledger.Acknowledge(ctx, keys)
}

// waitingAt lists what waits at the wallet server, for a wallet that begins to listen.
func (d *Daemon) waitingAt(client ln.PubKey) (out []lspengine.Waiting) {
	e := d.lws.Running()
	if e == nil {
		return nil
	}
	for _, w := range e.Waiting(client) {
		out = append(out, lspengine.Waiting{PaymentID: w.PaymentID, Client: w.Client, Hash: w.Hash, AmountMsat: w.AmountMsat, Until: w.Until})
	}
	return out
}

// lwsOthers are the payments that wait for wallets at lsp: by wrapped invoices, and for
// channels on demand.
type lwsOthers struct{ lsp *lspapi.Service }

var _ lwsengine.Others = lwsOthers{}

func (o lwsOthers) Waiting(ctx context.Context, client *ln.PubKey) ([]lws.Shown, error) {
	e := o.lsp.Running()
	if e == nil {
		return nil, nil
	}
	held, err := e.HeldFor(ctx, client)
	if err != nil {
		return nil, err
	}
	out := make([]lws.Shown, 0, len(held))
	for _, h := range held {
		kind := lws.KindOnDemand
		if h.Wrapped {
			kind = lws.KindWrapped
		}
		out = append(out, lws.Shown{
			Kind: kind, ID: h.PaymentID, Client: h.Client, Hash: h.Hash, AmountMsat: h.AmountMsat, Htlcs: h.Htlcs, SatBlocks: h.SatBlocks, State: h.State,
			Since: h.Since, Until: h.Until, FailHeight: h.FailHeight, BlocksLeft: h.BlocksLeft, Wakes: h.Wakes, LastWake: h.LastWake, WokeHow: h.How,
		})
	}
	return out, nil
}

func (o lwsOthers) Return(ctx context.Context, client ln.PubKey, id string) error {
	e := o.lsp.Running()
	if e == nil {
		return errkind.New(errkind.NotFound, "no such payment waits for your node")
	}
	_, err := e.Cancel(ctx, client, id, "the wallet sent it back")
	return err
}

// runHolds runs the wallet server's part that holds payments.
func (d *Daemon) runHolds(ctx context.Context, lease *store.Lease, h lspHolds) error {
	c := d.cfg.Holds
	kept := lwsstore.New(d.db, lease.Check)
	e, err := lwsengine.New(lwsengine.Options{
		Node: d.lnd, Holds: lwsHolds(h), Wishes: kept, Expected: kept, Waker: lwsWaker{newWaking(d.lsp, d.hooks.Load, d.now)}, Others: lwsOthers{d.lsp}, DB: d.db, Fence: lease.Check,
		Limits: c.limits(), MaxWallets: c.Wallets, MarginBlocks: d.cfg.Interceptor.FailSafetyBlocks + c.Margin, Now: d.now, Random: rand.Reader, Log: d.log.Named("holds"),
	})
	if err != nil {
		return err
	}
	d.lsp.AlsoWaiting(d.waitingAt)
	defer d.lws.Ready(nil)
	return e.Run(ctx, func() { d.lws.Ready(e) })
}
