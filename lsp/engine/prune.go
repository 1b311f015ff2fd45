package engine

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

const (
	// prunePage is how many stories are deleted in one transaction: SQLite has
	// one writer, and payments must not wait for this.
	prunePage = 20
	// pruneShare: deleting takes at most one part in so many of the time.
	pruneShare = 10
)

// keepPruned deletes the stories of payments that ended long ago, for as long
// as this process has the lease.
func (e *Engine) keepPruned(ctx context.Context) {
	if e.opt.Restored {
		// An older copy of the database may be asked about anything that lnd
		// still knows: nothing is deleted before the next start.
		return
	}
	ticker := time.NewTicker(e.cfg.PruneEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		n, err := e.prune(ctx)
		if n > 0 {
			e.log.Info("stories of old payments deleted", zap.Int("payments", n), zap.Duration("older_than", e.cfg.KeepHistory))
		}
		if err != nil && ctx.Err() == nil {
			e.log.Warn("old payments were not deleted; tried again later", zap.Error(err))
		}
	}
}

// prune deletes what is old once, page by page, and counts the payments. A
// story is deleted as a whole: the payment, its channel opens, their machines
// with events and outbox. It is kept
//   - while one of its opens is not over, or has effects that are not done;
//   - while lnd lists the channel that it opened, or its capacity counts against
//     the limits of its client;
//   - when money was lost: a person may still have to ask why.
//
// Two things are never deleted. The books: their entries carry their own keys,
// so that what is booked once is not booked again. And the index row of an open
// whose transaction was signed: by it the books know the transaction when they
// meet it again, which they may for as long as an older one is not settled, and
// by it a client is known as one that has paid before.
//
// What was late by then finds nothing: an HTLC over its short channel id, whose
// claim at the interceptor lapsed long ago, is refused.
func (e *Engine) prune(ctx context.Context) (int, error) {
	standing, err := e.standingChannels(ctx)
	if err != nil {
		return 0, fmt.Errorf("list the channels: %w", err)
	}
	before := e.opt.Now().Add(-e.cfg.KeepHistory).UnixMilli()
	total, err := e.pruneOrders(ctx, standing, before)
	if err != nil {
		return total, err
	}
	if err := e.pruneBatches(ctx, before); err != nil {
		return total, err
	}
	for after := (lspdb.FinishedPaymentsRow{}); ; {
		began := time.Now()
		var page []lspdb.FinishedPaymentsRow
		deleted := 0
		err := e.db.Write(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
			deleted = 0
			page, err = lspdb.New(tx).FinishedPayments(ctx, lspdb.FinishedPaymentsParams{
				BeforeMs: before, AfterMs: after.UpdatedMs, AfterID: after.ID, Most: prunePage,
			})
			if err != nil {
				return err
			}
			for _, p := range page {
				gone, err := e.forgetTx(ctx, tx, p, standing)
				if err != nil {
					return fmt.Errorf("payment %s: %w", p.ID, err)
				}
				if gone {
					deleted++
				}
			}
			return nil
		})
		if err != nil {
			return total, err
		}
		total += deleted
		e.mu.Lock()
		e.pruned += uint64(deleted) //nolint:gosec // a count
		e.mu.Unlock()
		if len(page) < prunePage {
			return total, nil
		}
		after = page[len(page)-1]
		select {
		case <-time.After(pruneShare * time.Since(began)):
		case <-ctx.Done():
			return total, ctx.Err()
		}
	}
}

// forgetTx deletes one story unless something still needs it.
func (e *Engine) forgetTx(ctx context.Context, tx *store.Tx, p lspdb.FinishedPaymentsRow, standing map[string]bool) (bool, error) {
	if p.Machine == machineWrap && p.State == (wrap.Lost{}).StateName() {
		return false, nil
	}
	q := lspdb.New(tx)
	opens, err := q.OpeningsOfPayment(ctx, p.ID)
	if err != nil {
		return false, err
	}
	for _, o := range opens {
		if !o.Terminal || o.Unpaid || (o.Outpoint != "" && standing[o.Outpoint]) {
			return false, nil
		}
	}
	// All are looked at before the first is deleted: a part of a story is worse
	// than all of it.
	for _, o := range opens {
		if over, err := e.openings.OverTx(ctx, tx, o.ID); err != nil || !over {
			return false, err
		}
	}
	forget, over := e.jits.ForgetTx, e.jits.OverTx
	if p.Machine == machineWrap {
		forget, over = e.wraps.ForgetTx, e.wraps.OverTx
	}
	if done, err := over(ctx, tx, p.ID); err != nil || !done {
		return false, err
	}
	for _, o := range opens {
		if err := e.openings.ForgetTx(ctx, tx, o.ID); err != nil {
			return false, err
		}
	}
	if err := forget(ctx, tx, p.ID); err != nil {
		return false, err
	}
	if _, err := q.DeleteUnfundedOpenings(ctx, p.ID); err != nil {
		return false, err
	}
	if err := q.DeleteWake(ctx, p.ID); err != nil {
		return false, err
	}
	if err := payhash.Release(ctx, tx, owner(p.Machine, p.ID)); err != nil {
		return false, err
	}
	n, err := q.DeletePayment(ctx, p.ID)
	return n > 0, err
}

// standingChannels are the channels that lnd lists, open, opening or closing,
// by outpoint.
func (e *Engine) standingChannels(ctx context.Context) (map[string]bool, error) {
	// Pending ones first: a channel that opens in between is in one of the lists.
	pending, err := e.node.Channels.PendingChannels(ctx)
	if err != nil {
		return nil, err
	}
	open, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return nil, err
	}
	standing := make(map[string]bool, len(open)+len(pending))
	for _, c := range open {
		standing[c.Outpoint.String()] = true
	}
	for _, c := range pending {
		standing[c.Outpoint.String()] = true
	}
	return standing, nil
}
