package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// feeSource is the one place that fee rates come from: lnd's estimate, judged
// by the operator's policy. Opens read it from memory and never wait for it.
type feeSource struct {
	cfg   FeeConfig
	chain Chain
	now   func() time.Time
	log   *zap.Logger

	mu    sync.Mutex
	last  funding.Estimate
	alarm string
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

// errNoEstimate takes an estimate of nothing for none.
var errNoEstimate = errors.New("lnd's estimate is a fee rate of 0")

func (f *feeSource) refresh(ctx context.Context) error {
	began := f.now()
	rate, relay, err := f.chain.EstimateFee(ctx, f.cfg.TargetBlocks)
	if rate = max(rate, relay); err == nil && rate == 0 {
		err = errNoEstimate
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// Two that ask at once may be answered in the other order.
	if err == nil && !began.Before(f.last.At) {
		f.last = funding.Estimate{Rate: rate, At: began}
	}
	f.sayLocked()
	return err
}

// sayLocked logs when an alarm begins and when all is well again.
func (f *feeSource) sayLocked() {
	now := f.cfg.policy().Decide(f.last, f.now())
	kind := ""
	switch {
	case now.Stale:
		kind = "stale"
	case now.High:
		kind = "high"
	}
	switch kind {
	case f.alarm:
		return
	case "":
		f.log.Info("the fee rate is well again: channels are offered", zap.Uint64("sat_per_kw", uint64(now.Rate)))
	default:
		f.log.Error(now.Alarm(), zap.Time("estimated", f.last.At), zap.Uint64("ceiling_sat_per_kw", uint64(f.cfg.Ceiling)))
	}
	f.alarm = kind
}

// current is the last estimate as it is to be seen now.
func (f *feeSource) current() funding.Rate {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cfg.policy().Decide(f.last, f.now())
}

// target is the rate that waiting transactions are bumped to; 0 while unknown.
func (f *feeSource) target() ln.FeeRateSatPerKW {
	rate := f.current()
	if rate.Stale {
		return 0
	}
	return rate.Rate
}

func (c FeeConfig) policy() funding.RatePolicy {
	return funding.RatePolicy{Floor: c.Floor, Ceiling: c.Ceiling, MaxAge: c.StaleAfter}
}
