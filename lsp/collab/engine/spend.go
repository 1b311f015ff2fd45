package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// Spend is what a wallet may spend over channels that it funded with us before they
// are buried. It could still take its coins back then, so that this is what the
// operator lends it: nothing, unless the operator says otherwise. Node keys cost
// nothing, so there is no limit for all.
type Spend struct {
	Client   ln.PubKey
	LimitSat ln.Sat
	// UsedSat of it went into fundings that are not over, and into those since it was
	// set whose channel was used and never came to be.
	UsedSat ln.Sat
}

// LeftSat is what the next funding gets.
func (s Spend) LeftSat() ln.Sat { return s.LimitSat - min(s.UsedSat, s.LimitSat) }

func spendOf(ctx context.Context, tx *store.Tx, client ln.PubKey) (Spend, error) {
	q := lspdb.New(tx)
	out := Spend{Client: client}
	row, err := q.JointSpend(ctx, client[:])
	if err = store.MapError(err); errors.Is(err, store.ErrNotFound) {
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("read what a wallet may spend: %w", err)
	}
	used, err := q.JointSpent(ctx, lspdb.JointSpentParams{Client: client[:], SinceMs: row.SetMs})
	if err != nil {
		return out, fmt.Errorf("sum what a wallet may spend: %w", store.MapError(err))
	}
	out.LimitSat, out.UsedSat = ln.Sat(row.LimitSat), ln.Sat(used) //nolint:gosec // stored positive
	return out, nil
}

// Spend reads a wallet's.
func (e *Engine) Spend(ctx context.Context, client ln.PubKey) (out Spend, err error) {
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		out, err = spendOf(ctx, tx, client)
		return err
	})
	return out, err
}

// SetSpend sets it. It holds for fundings from now on, those that run keep theirs; what
// was lost before is forgiven.
func (e *Engine) SetSpend(ctx context.Context, client ln.PubKey, limit ln.Sat) (out Spend, err error) {
	if limit > e.cfg.MaxCapacitySat {
		return Spend{}, errkind.Newf(errkind.Invalid, "%s is more than the largest channel holds (%s)", limit, e.cfg.MaxCapacitySat)
	}
	err = e.db.Write(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		err = lspdb.New(tx).SetJointSpend(ctx, lspdb.SetJointSpendParams{
			Client: client[:], LimitSat: int64(limit), SetMs: e.opt.Now().UnixMilli(), //nolint:gosec // bounded by the largest channel
		})
		if err != nil {
			return fmt.Errorf("set what a wallet may spend: %w", store.MapError(err))
		}
		out, err = spendOf(ctx, tx, client)
		return err
	})
	return out, err
}
