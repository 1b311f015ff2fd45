package engine

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// renewLeases keeps the coins of an open until its transaction is in a block. lnd's
// wallet knows that they are spent only while it has the transaction: one that the
// network drops in a spike of fees is forgotten when lnd starts, and another open that
// spent its coin would undo a channel that is in use.
func (e *Engine) renewLeases(ctx context.Context, id string) {
	inst, err := e.openings.Get(ctx, id)
	if err != nil {
		return
	}
	tx, signed := opening.TxOf(inst.State)
	if opening.Final(inst.State) || tx.ConfirmedHeight > 0 {
		return
	}
	selection, ok := opening.SelectionOf(inst.State)
	if !ok {
		return
	}
	lease := opening.PlanOf(inst.State).LeaseID()
	err = leases.Renew(ctx, e.node.Coins, lease, selection.Inputs, leaseFor, signed)
	if err != nil && ctx.Err() == nil {
		e.log.Warn("a lease could not be renewed", zap.String("opening", id), zap.Error(err))
	}
	// The open may have ended, and let go of its coins, while they were leased
	// anew. If it ends from here on, that comes after.
	if inst, err = e.openings.Get(ctx, id); err == nil && opening.Final(inst.State) {
		_, err = leases.Release(ctx, e.node.Coins, lease)
	}
	if err != nil && ctx.Err() == nil {
		e.log.Info("a lease may be left over; it is looked for at the next block", zap.String("opening", id), zap.Error(err))
	}
}

// sweepLeases gives back what an open that is over has left leased: by a call
// that lnd carried out after its caller had given up, or a process that died
// between a lease and what it was for. What no record explains is left alone:
// an older copy of the database may not know the open that spends it.
func (e *Engine) sweepLeases(ctx context.Context) error {
	// Listed first: an open is on record before it leases.
	leased, err := e.node.Coins.ListLeases(ctx)
	if err != nil {
		return err
	}
	left := make(map[[32]byte]bool)
	e.mu.Lock()
	for _, l := range leased {
		if opening.IsLeaseID(l.ID) && !e.strays[l.ID] {
			left[l.ID] = true
		}
	}
	live := keysOf(e.liveOpenings)
	e.mu.Unlock()
	for _, id := range live {
		if len(left) == 0 {
			return nil
		}
		if _, err := e.sweepOpening(ctx, id, left); err != nil {
			return err
		}
	}
	for before := ""; len(left) > 0; {
		page, err := e.Opens(ctx, OpenFilter{BeforeID: before, Limit: 500})
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		for _, o := range page {
			before = o.ID
			released, err := e.sweepOpening(ctx, o.ID, left)
			if err != nil {
				return err
			}
			if released {
				e.log.Info("coins of an open that is over were still leased; released", zap.String("opening", o.ID))
			}
			if len(left) == 0 {
				break
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range left {
		e.strays[id] = true
		e.log.Warn("lnd has a lease for an open that is not on record; it ends by itself", zap.Binary("lease", id[:]))
	}
	return nil
}

// sweepOpening strikes the open's lease off what is left, and releases it if the
// open is over.
func (e *Engine) sweepOpening(ctx context.Context, id string, left map[[32]byte]bool) (released bool, err error) {
	inst, err := e.openings.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	lease := opening.PlanOf(inst.State).LeaseID()
	if !left[lease] {
		return false, nil
	}
	delete(left, lease)
	if !opening.Final(inst.State) {
		return false, nil
	}
	return leases.Release(ctx, e.node.Coins, lease)
}
