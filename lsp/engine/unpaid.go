package engine

import (
	"context"
	"fmt"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// A channel counts as unpaid from the decision to open it until the payment
// that it was opened for succeeded as a whole, or a later one that brought the opening
// fee agreed on for it and needed no channel of its own; until it made no channel or its channel
// was closed; until the operator forgave its client; or until it is as old as
// Config.ForgetUnpaidAfter. Sats that merely went over it pay for nothing: the
// gateway forwards to wallets for no fee.

// onClosed takes note that a channel is gone.
func (e *Engine) onClosed(op ln.Outpoint) {
	e.spawn(func() { e.markClosed(e.ctx, op.String()) })
}

func (e *Engine) markClosed(ctx context.Context, outpoint string) {
	var n int64
	err := e.db.WriteFenced(ctx, e.opt.Fence, func(ctx context.Context, tx *store.Tx) (err error) {
		n, err = lspdb.New(tx).MarkChannelClosed(ctx, outpoint)
		return err
	})
	switch {
	case err != nil && ctx.Err() == nil:
		// The next block looks again.
		e.log.Warn("the close of a channel could not be noted", zap.String("outpoint", outpoint), zap.Error(err))
	case n > 0:
		e.log.Info("a channel on demand is closed", zap.String("outpoint", outpoint))
	}
}

// lookForClosed finds closes that no event told: this process may have been
// away. Only opens that are buried are looked at: their channels are listed by
// lnd from then on until they close.
func (e *Engine) lookForClosed(ctx context.Context) {
	var unpaid []string
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		unpaid, err = lspdb.New(tx).BuriedUnpaid(ctx)
		return err
	})
	if err != nil || len(unpaid) == 0 {
		return
	}
	channels, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return
	}
	pending, err := e.node.Channels.PendingChannels(ctx)
	if err != nil {
		return
	}
	open := make(map[string]bool, len(channels))
	for _, c := range channels {
		open[c.Outpoint.String()] = true
	}
	for _, p := range pending {
		if p.Kind == ln.PendingOpen {
			open[p.Outpoint.String()] = true
		}
	}
	for _, outpoint := range unpaid {
		if !open[outpoint] {
			e.markClosed(ctx, outpoint)
		}
	}
}

// Forgiven is what a client no longer owes for.
type Forgiven struct {
	Channels    int
	CapacitySat ln.Sat
}

// errOwesNothing answers an operator who forgives a client that owes nothing.
var errOwesNothing = errkind.New(errkind.NotFound, "this client has no channel that was not paid for: check the node key (\"sluicectl openings --unpaid\" lists such channels)")

// Forgive takes everything that a client has not paid for off its account, and
// off the account of all.
func (e *Engine) Forgive(ctx context.Context, client ln.PubKey, why string) (Forgiven, error) {
	var f Forgiven
	err := e.db.WriteFenced(ctx, e.opt.Fence, func(ctx context.Context, tx *store.Tx) error {
		f = Forgiven{}
		rows, err := lspdb.New(tx).ForgiveClient(ctx, client[:])
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return errOwesNothing
		}
		for _, r := range rows {
			f.Channels++
			f.CapacitySat += ln.Sat(r.CapacitySat) //nolint:gosec // never negative
		}
		return nil
	})
	if err != nil {
		return Forgiven{}, fmt.Errorf("forgive client %s: %w", client.Short(), err)
	}
	e.log.Info("the operator forgave a client what it has not paid for", zap.Stringer("client", client),
		zap.Int("channels", f.Channels), zap.Stringer("capacity", f.CapacitySat), zap.String("reason", why))
	return f, nil
}

// madeNoChannel says that the open is over and nothing of it is on the chain.
func madeNoChannel(s opening.State) bool {
	switch s.(type) {
	case opening.Failed, opening.Rejected, opening.Conflicted:
		return true
	}
	return false
}

// countOpening keeps what limits are summed from in step: the coins of a
// payment are funded rather than promised once its open begins, and an open
// that made no channel owes nothing and gives its coins back.
func (e *Engine) countOpening(ctx context.Context, tx *store.Tx, id, machine, paymentID string, begun, gone bool) error {
	q := lspdb.New(tx)
	if begun || gone {
		tx.OnCommit(func() { e.changeShare(paymentID, 0, func(s *lsp.Share) { s.Funded = !gone }, false) })
		tx.OnUnknown(func() { e.doubtShare(machine, paymentID) })
	}
	if gone {
		if _, err := q.MarkOpeningGone(ctx, id); err != nil {
			return fmt.Errorf("count the open: %w", err)
		}
	}
	if machine == machineOrder && (begun || gone) {
		if _, err := q.SetOrderFunded(ctx, lspdb.SetOrderFundedParams{ID: paymentID, Funded: !gone}); err != nil {
			return fmt.Errorf("count the open: %w", err)
		}
		return nil
	}
	if begun || gone {
		if _, err := q.SetPaymentFunded(ctx, lspdb.SetPaymentFundedParams{ID: paymentID, Funded: !gone}); err != nil {
			return fmt.Errorf("count the open: %w", err)
		}
	}
	return nil
}

// settleDebt takes note that a client paid for a channel: for the one that was
// opened for this payment or, when it needed none, the oldest that is owed for. fee is
// what was agreed on and came in: whoever sends a msat more than he owes pays for nothing.
func (e *Engine) settleDebt(ctx context.Context, tx *store.Tx, paymentID string, client ln.PubKey, fee ln.Msat) error {
	q := lspdb.New(tx)
	n, err := q.MarkOpeningsPaid(ctx, paymentID)
	if err == nil && n == 0 && fee > 0 {
		n, err = q.MarkOldestPaid(ctx, client[:])
	}
	if err == nil && n > 0 {
		tx.OnCommit(func() { e.clientPaid(client) })
		if _, err = q.OpeningsOfKnownClient(ctx, client[:]); err == nil {
			_, err = q.PaymentsOfKnownClient(ctx, client[:])
		}
		if err == nil {
			_, err = q.OrdersOfKnownClient(ctx, client[:])
		}
	}
	if err != nil {
		return fmt.Errorf("mark what the client paid for: %w", err)
	}
	return nil
}
