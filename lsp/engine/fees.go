package engine

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// feeSource is the one place that fee rates come from: lnd's estimate, kept
// between a floor and a ceiling, with an alarm when it grows old. Opens read
// it from memory.
type feeSource struct {
	cfg   FeeConfig
	chain Chain
	now   func() time.Time
	log   *zap.Logger

	mu    sync.Mutex
	rate  ln.FeeRateSatPerKW
	asked time.Time
	alarm bool
}

func newFeeSource(cfg FeeConfig, chain Chain, now func() time.Time, log *zap.Logger) *feeSource {
	return &feeSource{cfg: cfg, chain: chain, now: now, log: log}
}

// run asks at once and then at intervals.
func (f *feeSource) run(ctx context.Context, spawn func(func())) {
	spawn(func() {
		for {
			wait := f.cfg.RefreshFor
			if err := f.refresh(ctx); err != nil && ctx.Err() == nil {
				f.log.Warn("the fee rate could not be refreshed", zap.Error(err))
				wait = min(wait, 2*time.Second)
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
	})
}

func (f *feeSource) refresh(ctx context.Context) error {
	began := f.now()
	rate, relay, err := f.chain.EstimateFee(ctx, f.cfg.TargetBlocks)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.rate, f.asked = max(rate, relay), began
	}
	stale := f.staleLocked()
	if stale && !f.alarm {
		f.log.Error("the fee rate is stale: no new channels until lnd's estimate is back", zap.Time("last", f.asked))
	}
	f.alarm = stale
	return err
}

func (f *feeSource) staleLocked() bool {
	return f.asked.IsZero() || f.now().Sub(f.asked) > f.cfg.StaleAfter
}

// current is the rate for a new funding transaction; fresh is false when it is
// too old to do business on.
func (f *feeSource) current() (rate ln.FeeRateSatPerKW, fresh bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return min(max(f.rate, f.cfg.Floor), f.cfg.Ceiling), !f.staleLocked()
}

// target is the rate that waiting transactions are bumped to; 0 while unknown.
func (f *feeSource) target() ln.FeeRateSatPerKW {
	rate, fresh := f.current()
	if !fresh {
		return 0
	}
	return rate
}
