package engine

import (
	"context"
	"fmt"

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

// isFunded says that money may be sent over the channel.
func (e *Engine) isFunded(op ln.Outpoint) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.unfunded[op]
}
