package engine

import (
	"context"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// fundableFor is how long lnd's coins are taken for what they were without
// anything being heard of them: other programs lease coins as well.
const fundableFor = 2 * time.Second

// fundableView is what the wallet could fund when it was last asked. To quote a
// channel needs no more: an open chooses and leases its coins when it begins.
type fundableView struct {
	asking sync.Mutex

	mu    sync.Mutex
	at    time.Time
	sat   ln.Sat
	stale bool
}

// changed says that what was asked before no longer holds.
func (v *fundableView) changed() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stale = true
}

func (v *fundableView) get(now time.Time) (ln.Sat, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.sat, !v.stale && !v.at.IsZero() && now.Sub(v.at) < fundableFor && !now.Before(v.at)
}

// fundable is what channels can be funded with: free coins less the reserve for
// anchors. It is as of a moment ago.
func (e *Engine) fundable(ctx context.Context) (ln.Sat, error) {
	v := &e.coins
	if sat, fresh := v.get(e.opt.Now()); fresh {
		return sat, nil
	}
	// One asks, the others take its answer.
	v.asking.Lock()
	defer v.asking.Unlock()
	if sat, fresh := v.get(e.opt.Now()); fresh {
		return sat, nil
	}
	v.mu.Lock()
	// What changes while lnd is asked may be missing from its answer.
	v.stale, v.at = false, time.Time{}
	v.mu.Unlock()
	now := e.opt.Now()
	sat, err := e.askFundable(ctx)
	if err != nil {
		return 0, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.at, v.sat = now, sat
	return sat, nil
}

func (e *Engine) askFundable(ctx context.Context) (ln.Sat, error) {
	coins, err := e.node.Coins.ListCoins(ctx, 0)
	if err != nil {
		return 0, err
	}
	channels, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return 0, err
	}
	var sum ln.Sat
	for _, c := range coins {
		if sum, err = sum.Add(c.AmountSat); err != nil {
			return 0, err
		}
	}
	return sum - min(sum, e.anchorReserve(len(channels))), nil
}

// watchedCoins tells the view when sluiced itself takes or frees a coin.
type watchedCoins struct {
	Coins
	changed func()
}

// LeaseCoin implements Coins.
func (w watchedCoins) LeaseCoin(ctx context.Context, id [32]byte, op ln.Outpoint, d time.Duration) error {
	defer w.changed()
	return w.Coins.LeaseCoin(ctx, id, op, d)
}

// ReleaseCoin implements Coins.
func (w watchedCoins) ReleaseCoin(ctx context.Context, id [32]byte, op ln.Outpoint) error {
	defer w.changed()
	return w.Coins.ReleaseCoin(ctx, id, op)
}
