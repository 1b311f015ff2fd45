package engine

import (
	"context"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
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
	can   lsp.Fundable
	stale bool
}

// changed says that what was asked before no longer holds.
func (v *fundableView) changed() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stale = true
}

func (v *fundableView) get(now time.Time) (lsp.Fundable, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.can, !v.stale && !v.at.IsZero() && now.Sub(v.at) < fundableFor && !now.Before(v.at)
}

// fundable is what channels can be funded with: free coins less the reserve for
// anchors, and for how many they are cut where the operator wants a pool. It is as
// of a moment ago.
func (e *Engine) fundable(ctx context.Context) (lsp.Fundable, error) {
	v := &e.coins
	if can, fresh := v.get(e.opt.Now()); fresh {
		return can, nil
	}
	// One asks, the others take its answer.
	v.asking.Lock()
	defer v.asking.Unlock()
	if can, fresh := v.get(e.opt.Now()); fresh {
		return can, nil
	}
	v.mu.Lock()
	// What changes while lnd is asked may be missing from its answer.
	v.stale, v.at = false, time.Time{}
	v.mu.Unlock()
	now := e.opt.Now()
	can, err := e.askFundable(ctx)
	if err != nil {
		return lsp.Fundable{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.at, v.can = now, can
	return can, nil
}

func (e *Engine) askFundable(ctx context.Context) (can lsp.Fundable, err error) {
	coming, _ := e.comingNow()
	coins, err := e.node.Coins.ListCoins(ctx, 0)
	if err != nil {
		return can, err
	}
	channels, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return can, err
	}
	coins = e.free(coins)
	all, depth, err := e.withComing(ctx, coins, coming)
	if err != nil {
		return can, err
	}
	for _, c := range all {
		// What others have sent, and is in no block, they may take back.
		if d, ours := depth[c.Outpoint]; c.Confirmations <= 0 && (!ours || d > e.cfg.MaxUnconfirmed) {
			continue
		}
		if can.Sat, err = can.Sat.Add(c.AmountSat); err != nil {
			return can, err
		}
	}
	awaited, others := e.awaited()
	can.Sat -= min(can.Sat, awaited+e.anchorReserve(len(channels)))
	p, err := e.poolPolicy(ctx)
	if err != nil || p.Coins == 0 {
		return can, err
	}
	left, err := e.opensLeft(p, all, depth)
	// What is being cut is there before most of what is quoted now is paid.
	can.Channels, can.Counted = max(left+p.Take(coins).Coming-others, 0), true
	return can, err
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
