package engine

import (
	"context"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// pruneOrders deletes the stories of orders that ended long ago, as prune does
// those of payments: a story as a whole, and never one that lost money. What the
// books know transactions by (which outputs paid an order, which transactions
// refunded one) is kept.
func (e *Engine) pruneOrders(ctx context.Context, standing map[string]bool, beforeMs int64) (int, error) {
	total := 0
	for after := (lspdb.FinishedOrdersRow{}); ; {
		var page []lspdb.FinishedOrdersRow
		deleted := 0
		err := e.db.Write(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
			deleted = 0
			page, err = lspdb.New(tx).FinishedOrders(ctx, lspdb.FinishedOrdersParams{
				BeforeMs: beforeMs, AfterMs: after.UpdatedMs, AfterID: after.ID, Most: prunePage,
			})
			if err != nil {
				return err
			}
			for _, o := range page {
				gone, err := e.forgetOrderTx(ctx, tx, o, standing)
				if err != nil {
					return fmt.Errorf("order %s: %w", o.ID, err)
				}
				if gone {
					deleted++
				}
			}
			return nil
		})
		total += deleted
		if err != nil || len(page) < prunePage {
			return total, err
		}
		after = page[len(page)-1]
	}
}

// forgetOrderTx deletes one story unless something still needs it.
func (e *Engine) forgetOrderTx(ctx context.Context, tx *store.Tx, o lspdb.FinishedOrdersRow, standing map[string]bool) (bool, error) {
	if o.State == (order.Lost{}).StateName() {
		return false, nil
	}
	q := lspdb.New(tx)
	opens, err := q.OpeningsOfPayment(ctx, o.ID)
	if err != nil {
		return false, err
	}
	refunds, err := q.RefundsOfOrder(ctx, o.ID)
	if err != nil {
		return false, err
	}
	for _, x := range opens {
		if !x.Terminal || x.Unpaid || (x.Outpoint != "" && standing[x.Outpoint]) {
			return false, nil
		}
		if over, err := e.openings.OverTx(ctx, tx, x.ID); err != nil || !over {
			return false, err
		}
	}
	for _, r := range refunds {
		if over, err := e.refunds.OverTx(ctx, tx, r.ID); err != nil || !over || !r.Terminal {
			return false, err
		}
	}
	if over, err := e.orders.OverTx(ctx, tx, o.ID); err != nil || !over {
		return false, err
	}
	for _, x := range opens {
		if err := e.openings.ForgetTx(ctx, tx, x.ID); err != nil {
			return false, err
		}
	}
	for _, r := range refunds {
		if err := e.refunds.ForgetTx(ctx, tx, r.ID); err != nil {
			return false, err
		}
	}
	if err := e.orders.ForgetTx(ctx, tx, o.ID); err != nil {
		return false, err
	}
	if _, err := q.DeleteUnfundedOpenings(ctx, o.ID); err != nil {
		return false, err
	}
	if _, err := q.DeleteRefunds(ctx, o.ID); err != nil {
		return false, err
	}
	n, err := q.DeleteOrder(ctx, o.ID)
	return n > 0, err
}

// pruneBatches deletes batches that ended long ago once the last of their orders'
// stories is gone. What is left of them is the opens' own.
func (e *Engine) pruneBatches(ctx context.Context, beforeMs int64) error {
	for after := ""; ; {
		var page []string
		err := e.db.Write(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
			q := lspdb.New(tx)
			if page, err = q.FinishedBatches(ctx, lspdb.FinishedBatchesParams{BeforeMs: beforeMs, AfterID: after, Most: prunePage}); err != nil {
				return err
			}
			for _, id := range page {
				over, err := e.batches.OverTx(ctx, tx, id)
				if err != nil {
					return err
				}
				if !over {
					continue
				}
				if err := e.batches.ForgetTx(ctx, tx, id); err != nil {
					return err
				}
				if _, err := q.DeleteBatch(ctx, id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(page) < prunePage {
			return err
		}
		after = page[len(page)-1]
	}
}
