package engine

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// coinsWish is what a funding transaction needs of the wallet.
type coinsWish struct {
	// name is for the log.
	name       zap.Field
	lease      [32]byte
	fundingSat ln.Sat
	channels   int
	rate       ln.FeeRateSatPerKW
	maxFeeSat  ln.Sat
	// soon is the open that is published soon with what is chosen, if it is one.
	soon string
}

// chosenCoins is what was leased, or why nothing was.
type chosenCoins struct {
	selection funding.Selection
	change    []byte
	refused   bool
	missing   ln.Sat
	// dear is the fee that the transaction would pay, where that is too much.
	dear ln.Sat
	text string
}

func (e *Engine) leaseCoins(ctx context.Context, f opening.LeaseCoins) ([]opening.Event, error) {
	w := coinsWish{
		name: zap.String("opening", f.OpeningID), lease: f.LeaseID, fundingSat: f.CapacitySat, channels: 1, rate: f.FeeRate, maxFeeSat: f.MaxFeeSat,
	}
	inst, err := e.openings.Get(ctx, f.OpeningID)
	if err != nil {
		return nil, err
	}
	if soonPublished(opening.PlanOf(inst.State)) {
		w.soon = f.OpeningID
	}
	chosen, wanted, err := e.chooseCoins(ctx, w, func(ctx context.Context) (bool, error) {
		inst, err := e.openings.Get(ctx, f.OpeningID)
		_, planned := inst.State.(opening.Planned)
		return planned, err
	})
	switch {
	case err != nil || !wanted:
		return nil, err
	case chosen.refused:
		return []opening.Event{opening.CoinsRefused{Moment: e.moment(), MissingSat: chosen.missing, FeeSat: chosen.dear, Text: chosen.text}}, nil
	}
	return []opening.Event{opening.CoinsLeased{Moment: e.moment(), Selection: chosen.selection, ChangeScript: chosen.change}}, nil
}

// chooseCoins chooses and leases. Two opens may choose the same coin at the
// same time: lnd's lease decides, and the loser chooses again. asked says whether
// the answer is still awaited.
func (e *Engine) chooseCoins(ctx context.Context, w coinsWish, asked func(context.Context) (bool, error)) (chosen chosenCoins, wanted bool, err error) {
	// A payer waits: what does not depend on each other is asked at once.
	var (
		coins []ln.Coin
		stale bool
	)
	coming, moves := e.comingNow()
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		// Leases of an earlier attempt of this effect were never built upon as
		// long as its result is not stored. Afterwards they are what the open
		// spends, and letting go of them would have another open spend them too.
		if wanted, err = asked(groupCtx); err == nil && wanted {
			stale, err = leases.Release(groupCtx, e.node.Coins, w.lease)
		}
		return err
	})
	group.Go(func() (err error) {
		chosen.change, err = e.changeScript(groupCtx)
		return err
	})
	group.Go(func() (err error) {
		coins, err = e.node.Coins.ListCoins(groupCtx, 0)
		return err
	})
	if err := group.Wait(); err != nil || !wanted {
		return chosen, false, err
	}
	defer e.leaveLineForCoins(w)
	for until := e.opt.Now().Add(changeWithin); ; {
		if stale {
			coming, moves = e.comingNow()
			// lnd leaves leased coins out of its list.
			if coins, err = e.node.Coins.ListCoins(ctx, 0); err != nil {
				return chosen, false, err
			}
		}
		stale = true
		depth, err := e.depths(ctx, coins)
		if err != nil {
			return chosen, false, err
		}
		free := e.free(coins)
		request := funding.Request{
			FundingSat: w.fundingSat, Channels: w.channels, FeeRate: w.rate, ChangeScript: chosen.change, MinChangeSat: minChangeSat,
			Depth: depth, MaxDepth: e.cfg.MaxUnconfirmed, BuriedConfs: e.cfg.BuriedConfs, ReserveSat: e.anchorReserve(e.world.channelCount() + w.channels),
		}
		chosen.selection, err = funding.Select(free, request)
		short, isShort := errors.AsType[*funding.CoinsShortError](err)
		switch {
		case isShort:
			again, waitErr := e.awaitChange(ctx, w, coinsQuery{free: free, request: request, coming: coming, moves: moves, until: until})
			if waitErr == nil && again {
				wanted, waitErr = asked(ctx)
			}
			if waitErr != nil || !wanted {
				return chosen, false, waitErr
			}
			if again {
				continue
			}
			chosen.refused, chosen.missing, chosen.text = true, short.MissingSat, short.Error()
			return chosen, true, nil
		case err != nil:
			chosen.refused, chosen.text = true, err.Error()
			return chosen, true, nil //nolint:nilerr // the refusal is the answer
		}
		if fee := chosen.selection.FeeSat; w.maxFeeSat > 0 && fee > w.maxFeeSat {
			chosen.refused, chosen.dear, chosen.text = true, fee, fmt.Sprintf("it must spend %d coins", len(chosen.selection.Inputs))
			return chosen, true, nil
		}
		e.expectChange(w.soon, opening.Coins{Selection: chosen.selection, ChangeScript: chosen.change})
		if err = leases.All(ctx, e.node.Coins, w.lease, chosen.selection.Inputs, leaseFor); err == nil {
			return chosen, true, nil
		}
		_, releaseErr := leases.Release(ctx, e.node.Coins, w.lease)
		e.expectChange(w.soon, opening.Coins{})
		if releaseErr != nil {
			return chosen, false, errors.Join(err, releaseErr)
		}
		if !errors.Is(err, ln.ErrLeased) {
			return chosen, false, err
		}
		e.log.Debug("another open took a coin first; choosing again", w.name)
	}
}

func (e *Engine) changeScript(ctx context.Context) ([]byte, error) {
	address, err := e.node.Coins.NewChangeAddress(ctx)
	if err != nil {
		return nil, err
	}
	return funding.ScriptOf(address, e.cfg.Network)
}
