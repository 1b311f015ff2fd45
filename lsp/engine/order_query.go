package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// OrderFilter selects orders.
type OrderFilter struct {
	Client   ln.PubKey
	State    string
	OpenOnly bool
	// EndingOnly are those whose lease is nearly over, or over while the channel is
	// being closed.
	EndingOnly bool
	BeforeID   string
	Limit      int
}

// OrderRow is one order as the operator sees it.
type OrderRow struct {
	ID               string
	Client           ln.PubKey
	State, Reason    string
	Terminal         bool
	PaidBy           string
	LspBalanceSat    ln.Sat
	ClientBalanceSat ln.Sat
	FeeSat           ln.Sat
	Announce         bool
	HeldMsat         ln.Msat
	RiskSat          ln.Sat
	Outpoint         string
	LeaseEndHeight   uint32
	// WaitsUntil is the height until which it waits for others; 0 if it does not.
	WaitsUntil       uint32
	BatchID          string
	Created, Updated time.Time
}

// RefundRow is one refund as the operator sees it.
type RefundRow struct {
	ID, State, Reason string
	Terminal          bool
	OwedSat, FeeSat   ln.Sat
	TxID              string
}

// Orders lists orders, newest first.
func (e *Engine) Orders(ctx context.Context, f OrderFilter) ([]OrderRow, error) {
	if err := checkOrderState(f.State); err != nil {
		return nil, err
	}
	var out []OrderRow
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		q := lspdb.New(tx)
		before := int64(math.MaxInt64)
		if f.BeforeID != "" {
			row, err := q.GetOrder(ctx, f.BeforeID)
			if err != nil {
				return store.MapError(err)
			}
			before = row.CreatedMs
		}
		endsBy := int64(0)
		if f.EndingOnly {
			endsBy = e.leasesEndBy()
		}
		rows, err := q.FindOrders(ctx, lspdb.FindOrdersParams{
			EndsBy:   endsBy,
			BeforeMs: before, BeforeID: f.BeforeID, OneClient: flag(!f.Client.IsZero()), Client: f.Client[:],
			OpenOnly: flag(f.OpenOnly), InState: f.State, Most: int32(limit(f.Limit)), //nolint:gosec // bounded by limit
		})
		if err != nil {
			return err
		}
		for _, r := range rows {
			o, err := orderFromRow(r)
			if err != nil {
				return err
			}
			out = append(out, o)
		}
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, lsps1.ErrNotFound
	}
	return out, err
}

// leasesEndBy is the height by which a lease ends that its client is warned of.
func (e *Engine) leasesEndBy() int64 { return int64(e.world.tip()) + int64(e.cfg.Orders.WarnBlocks) }

func checkOrderState(name string) error {
	if name == "" {
		return nil
	}
	known := map[string]bool{}
	for _, s := range order.Machine().States {
		known[s.StateName()] = true
	}
	if known[name] {
		return nil
	}
	return errkind.Newf(errkind.Invalid, "there is no state %q: choose from %s", name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
}

func orderFromRow(r lspdb.LspOrder) (OrderRow, error) {
	client, err := ln.PubKeyFromBytes(r.Client)
	if err != nil {
		return OrderRow{}, fmt.Errorf("order %s: %w", r.ID, err)
	}
	return OrderRow{
		ID: r.ID, Client: client, State: r.State, Reason: r.Reason, Terminal: r.Terminal, PaidBy: r.PaidBy,
		LspBalanceSat: ln.Sat(r.LspBalanceSat), ClientBalanceSat: ln.Sat(r.ClientBalanceSat), FeeSat: ln.Sat(r.FeeSat), //nolint:gosec // never negative
		Announce: r.Announce, HeldMsat: ln.Msat(r.HeldMsat), RiskSat: ln.Sat(r.RiskSat), Outpoint: r.Outpoint, //nolint:gosec // never negative
		LeaseEndHeight: uint32(r.LeaseEndHeight), WaitsUntil: uint32(r.WaitsUntilHeight), BatchID: r.BatchID, //nolint:gosec // heights
		Created: time.UnixMilli(r.CreatedMs), Updated: time.UnixMilli(r.UpdatedMs),
	}, nil
}

// Order reads one order with its refunds.
func (e *Engine) Order(ctx context.Context, id string) (OrderRow, []RefundRow, error) {
	var o OrderRow
	var refunds []RefundRow
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		refunds = nil
		q := lspdb.New(tx)
		row, err := q.GetOrder(ctx, id)
		if err != nil {
			return store.MapError(err)
		}
		if o, err = orderFromRow(row); err != nil {
			return err
		}
		rows, err := q.RefundsOfOrder(ctx, id)
		if err != nil {
			return err
		}
		for _, r := range rows {
			refunds = append(refunds, RefundRow{
				ID: r.ID, State: r.State, Reason: r.Reason, Terminal: r.Terminal, OwedSat: ln.Sat(r.OwedSat), FeeSat: ln.Sat(r.FeeSat), TxID: r.Txid, //nolint:gosec // never negative
			})
		}
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return o, nil, lsps1.ErrNotFound
	}
	return o, refunds, err
}

// OrderStory is everything that happened to an order, its opens and its refunds.
func (e *Engine) OrderStory(ctx context.Context, id string) ([]StoryEvent, error) {
	_, refunds, err := e.Order(ctx, id)
	if err != nil {
		return nil, err
	}
	opens, err := e.Opens(ctx, OpenFilter{PaymentID: id})
	if err != nil {
		return nil, err
	}
	records, err := e.orders.History(ctx, id)
	if err != nil {
		return nil, err
	}
	out := storyOf("order", records)
	for _, o := range opens {
		records, err := e.openings.History(ctx, o.ID)
		if err != nil {
			return nil, err
		}
		out = append(out, storyOf(o.ID, records)...)
	}
	for _, r := range refunds {
		records, err := e.refunds.History(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		out = append(out, storyOf(r.ID, records)...)
	}
	slices.SortStableFunc(out, func(a, b StoryEvent) int { return a.At.Compare(b.At) })
	return out, nil
}

// CancelOrder ends an order whose channel is not funded yet.
func (e *Engine) CancelOrder(ctx context.Context, id, why string) (OrderRow, error) {
	_, err := e.orders.Send(ctx, id, order.Cancel{Moment: e.moment(), Reason: lsp.Because(lsp.ReasonCancelled, "%s", why)})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return OrderRow{}, lsps1.ErrNotFound
	case err != nil && errkind.Of(err) == errkind.Internal:
		return OrderRow{}, errkind.Wrap(errkind.Conflict, err, "the order is over, or can no longer be cancelled: look at it again")
	case err != nil:
		return OrderRow{}, err
	}
	o, _, err := e.Order(ctx, id)
	return o, err
}
