package engine

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps/quote"
	swapsstore "github.com/sluice-lsp/sluice/swaps/store"
)

// ratesEvery is how often lnd is asked.
const ratesEvery = time.Minute

func (e *Engine) loadRates(ctx context.Context) error {
	var window quote.Window
	since := e.opt.Now().Add(-e.forgetAfter())
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		window, err = swapsstore.Window(ctx, tx, since)
		return err
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rates = window
	return nil
}

// forgetAfter is far above what Window.Firm looks back for.
func (e *Engine) forgetAfter() time.Duration { return 2*(e.cfg.FirmFor+e.cfg.StaleAfter) + time.Hour }

// refreshRates asks lnd, and keeps the answer before anything is quoted from it.
func (e *Engine) refreshRates(ctx context.Context) error {
	ask := func(target int32) (ln.FeeRateSatPerKW, error) {
		rate, relay, err := e.node.Chain.EstimateFee(ctx, target)
		return min(max(rate, relay, e.cfg.Floor), e.cfg.Ceiling), err
	}
	urgent, err := ask(e.cfg.RefundTarget)
	if err != nil {
		return err
	}
	soon, err := ask(e.cfg.SoonTarget)
	if err != nil {
		return err
	}
	later, err := ask(e.cfg.LaterTarget)
	if err != nil {
		return err
	}
	now := e.opt.Now()
	rates := quote.Rates{At: now.Truncate(time.Millisecond), Soon: soon, Later: later}
	forget := now.Add(-e.forgetAfter())
	err = e.db.WriteFenced(ctx, e.opt.Fence, func(ctx context.Context, tx *store.Tx) error {
		return swapsstore.Record(ctx, tx, rates, forget)
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.urgent = urgent
	for len(e.rates) > 0 && e.rates[0].At.Before(forget) {
		e.rates = e.rates[1:]
	}
	e.rates = append(e.rates, rates)
	return nil
}

func (e *Engine) keepRates(ctx context.Context) {
	pace.Each(ctx, ratesEvery, func(ctx context.Context) {
		if err := e.refreshRates(ctx); err != nil && ctx.Err() == nil {
			e.log.Warn("lnd gave no fee estimate", zap.Error(err))
		}
	})
}

// window is a copy: appending never changes what a reader holds.
func (e *Engine) window() quote.Window {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append(quote.Window(nil), e.rates...)
}
