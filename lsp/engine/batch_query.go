package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// BatchFilter selects batches.
type BatchFilter struct {
	OpenOnly bool
	BeforeID string
	Limit    int
}

// BatchRow is one batch as the operator sees it.
type BatchRow struct {
	ID, State, Reason string
	Terminal          bool
	Channels          int64
	FundingSat        ln.Sat
	FeeSat            ln.Sat
	TxID              string
	// Opens are those that are in it, or were until they left.
	Opens            []Open
	Created, Updated time.Time
}

// BatchList is what there is of batches, and what waits for the next one.
type BatchList struct {
	Batches []BatchRow
	Waiting []OrderRow
	Height  uint32
	// Most is how many orders share a transaction at most.
	Most int
}

// Batches lists batches, newest first, and the orders that wait.
func (e *Engine) Batches(ctx context.Context, f BatchFilter) (BatchList, error) {
	if f.BeforeID == "" {
		f.BeforeID = maxID
	}
	var list BatchList
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		list = BatchList{Height: e.world.tip(), Most: e.cfg.Orders.BatchOrders}
		q := lspdb.New(tx)
		rows, err := q.FindBatches(ctx, lspdb.FindBatchesParams{BeforeID: f.BeforeID, OpenOnly: flag(f.OpenOnly), Most: int32(limit(f.Limit))}) //nolint:gosec // bounded by limit
		if err != nil {
			return err
		}
		for _, r := range rows {
			b := BatchRow{
				ID: r.ID, State: r.State, Reason: r.Reason, Terminal: r.Terminal, Channels: r.Channels, TxID: r.Txid,
				FundingSat: ln.Sat(r.FundingSat), FeeSat: ln.Sat(r.FeeSat), //nolint:gosec // never negative
				Created: time.UnixMilli(r.CreatedMs), Updated: time.UnixMilli(r.UpdatedMs),
			}
			opens, err := q.OpeningsOfBatch(ctx, r.ID)
			if err != nil {
				return err
			}
			if b.Opens, err = e.opensFrom(opens); err != nil {
				return err
			}
			list.Batches = append(list.Batches, b)
		}
		queued, err := q.QueuedOrders(ctx)
		if err != nil {
			return err
		}
		for _, r := range queued {
			o, err := orderFromRow(r)
			if err != nil {
				return err
			}
			list.Waiting = append(list.Waiting, o)
		}
		return nil
	})
	if err != nil {
		return BatchList{}, fmt.Errorf("list batches: %w", err)
	}
	return list, nil
}
