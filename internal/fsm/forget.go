package fsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/fsm/fsmdb"
	"github.com/sluice-lsp/sluice/internal/store"
)

// ErrUnfinished says that an instance is not over.
var ErrUnfinished = errors.New("the instance is not over")

// OverTx says that nothing will happen to an instance any more: it is terminal
// and all its effects are done, or it does not exist.
func (e *Engine[S, V, F]) OverTx(ctx context.Context, tx *store.Tx, id string) (bool, error) {
	n, err := fsmdb.New(tx).CountUnfinished(ctx, fsmdb.CountUnfinishedParams{Machine: e.m.Name, ID: id})
	if err != nil {
		return false, fmt.Errorf("%s %s: %w", e.m.Name, id, err)
	}
	return n == 0, nil
}

// ForgetTx deletes an instance that is over (else ErrUnfinished) with its
// events and effects, in the caller's transaction. An event that comes later
// finds nothing (store.ErrNotFound): forget only what nothing reaches any more.
func (e *Engine[S, V, F]) ForgetTx(ctx context.Context, tx *store.Tx, id string) error {
	if err := e.fence(ctx, tx); err != nil {
		return err
	}
	over, err := e.OverTx(ctx, tx, id)
	if err != nil {
		return err
	}
	if !over {
		return fmt.Errorf("%s %s: %w", e.m.Name, id, ErrUnfinished)
	}
	q := fsmdb.New(tx)
	err = errors.Join(
		q.DeleteEffects(ctx, fsmdb.DeleteEffectsParams{Machine: e.m.Name, ID: id}),
		q.DeleteEvents(ctx, fsmdb.DeleteEventsParams{Machine: e.m.Name, ID: id}),
		q.DeleteInstance(ctx, fsmdb.DeleteInstanceParams{Machine: e.m.Name, ID: id}),
	)
	if err != nil {
		return fmt.Errorf("%s %s: forget: %w", e.m.Name, id, err)
	}
	return nil
}
