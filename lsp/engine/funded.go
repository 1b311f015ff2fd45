package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// lnd lists a zero-conf channel as active as soon as commitments are exchanged,
// before anybody has signed its funding transaction, and goes on doing so when
// the open is given up or its coins are spent otherwise. Money sent over such a
// channel is the wallet's loss, so it counts as no room for anybody.

// noteFunding keeps unfunded in step with an open. Callers hold e.mu.
func (e *Engine) noteFunding(s opening.State) {
	op := opening.OutpointOf(s)
	switch {
	case op.IsZero():
	case opening.Funded(s):
		delete(e.unfunded, op)
	default:
		e.unfunded[op] = true
	}
}

// loadUnfunded recalls the channels of opens that are over and funded nothing:
// lnd may still have to be told to forget them.
func (e *Engine) loadUnfunded(ctx context.Context) error {
	var outpoints []string
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		outpoints, err = lspdb.New(tx).UnfundedOutpoints(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("list channels that nothing funds: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, text := range outpoints {
		op, err := ln.ParseOutpoint(text)
		if err != nil {
			return fmt.Errorf("list channels that nothing funds: %w", err)
		}
		e.unfunded[op] = true
	}
	return nil
}

// abandonLate makes lnd forget a channel whose open was given up before it was
// signed. A peer that keeps its signature back until then has lnd complete the
// negotiation afterwards (a shim cannot be cancelled once it was verified): the
// channel would be active, with room for payments, and funded by nothing. It
// goes on until lnd has forgotten it.
func (e *Engine) abandonLate(ctx context.Context, op ln.Outpoint) {
	for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, time.Minute) {
		err := e.abandonGivenUp(ctx, op)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			e.log.Error("a channel that may have been given up could not be looked up or abandoned: trying again",
				zap.Stringer("outpoint", op), zap.Duration("in", wait), zap.Error(err))
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// abandonStrays is abandonLate for channels that wait for confirmations: nothing tells
// of them, since what nothing funds never becomes active.
func (e *Engine) abandonStrays(ctx context.Context) error {
	pending, err := e.node.Channels.PendingChannels(ctx)
	if err != nil {
		return err
	}
	for _, p := range pending {
		e.mu.Lock()
		_, live := e.byOutpoint[p.Outpoint]
		e.mu.Unlock()
		if p.Kind != ln.PendingOpen || live {
			continue
		}
		if err := e.abandonGivenUp(ctx, p.Outpoint); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) abandonGivenUp(ctx context.Context, op ln.Outpoint) error {
	var row lspdb.LspOpening
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		row, err = lspdb.New(tx).OpeningByOutpoint(ctx, op.String())
		return store.MapError(err)
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case row.State != (opening.Failed{}).StateName() && row.State != (opening.Rejected{}).StateName():
		return nil
	}
	e.log.Warn("a channel came up whose open was given up: it is abandoned unless something funds it",
		zap.String("opening", row.ID), zap.Stringer("outpoint", op))
	return e.whileDying(ctx, row.ID, func(opening.Plan) error { return e.forgetChannel(ctx, op) })
}

// isFunded says that money may be sent over the channel.
func (e *Engine) isFunded(op ln.Outpoint) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.unfunded[op]
}
