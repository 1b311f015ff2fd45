package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/collab"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// maxReplacements are how many more joint fundings a wallet may have at a time that
// take the place of others: each keeps coins of ours until one is buried.
const maxReplacements = 3

// mayReplace checks an open that shall take the place of another, as both stand in
// this transaction.
func (e *Engine) mayReplace(ctx context.Context, tx *store.Tx, next collab.Plan) error {
	old, err := e.opens.GetTx(ctx, tx, next.Replaces)
	if errors.Is(err, store.ErrNotFound) || err == nil && collab.PlanOf(old.State).Client != next.Client {
		return errNone
	}
	if err != nil {
		return err
	}
	if err := collab.MayReplace(old.State, next); err != nil {
		return err
	}
	rows, err := lspdb.New(tx).FindCollabs(ctx, lspdb.FindCollabsParams{BeforeID: maxID, OneClient: 1, Client: next.Client[:], OpenOnly: 1, Most: mostListed})
	if err != nil {
		return fmt.Errorf("list joint fundings: %w", store.MapError(err))
	}
	for _, row := range rows {
		other, err := e.opens.GetTx(ctx, tx, row.ID)
		if err != nil {
			return err
		}
		if collab.PlanOf(other.State).Replaces == next.Replaces && !collab.Final(other.State) {
			return errkind.Newf(errkind.Conflict, "the joint funding %s takes its place already: replace that one", row.ID)
		}
	}
	return nil
}

// outbids says that the transaction of an open pays enough to take the place of the
// one that it replaces.
func (e *Engine) outbids(ctx context.Context, p collab.Plan, ours collab.Ours) (bool, error) {
	if p.Replaces == "" {
		return true, nil
	}
	old, err := e.opens.Get(ctx, p.Replaces)
	if err != nil {
		return false, err
	}
	return collab.Outbids(old.State, ours.Joint.FeeSat, ours.Joint.WeightWU), nil
}

// replaced are the opens whose place another has taken that is signed: to hurry them
// would outbid it.
func replaced(live []collab.State) map[string]bool {
	out := make(map[string]bool)
	for _, s := range live {
		if _, signed := collab.SignedOf(s); signed {
			out[collab.PlanOf(s).Replaces] = true
		}
	}
	return out
}
