package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/liquidity"
)

const (
	// poolLeaseFor is how long coins stay ours that are being cut: until the
	// transaction is out, which takes seconds.
	poolLeaseFor = 10 * time.Minute
	poolLabel    = "sluice pool of coins"
)

// poolLease is the id under which coins are leased that are being cut or joined. It
// is one for all: one process does it, one transaction at a time.
func poolLease() [32]byte { return [32]byte{'s', 'l', 'u', 'i', 'c', 'e', 0, 3, 'p', 'o', 'o', 'l'} }

// tendPool cuts coins, or joins them, so that there are as many as the operator
// wants. It is a payment of the wallet to itself: whatever cuts it off, nothing is
// lost but a lease that ends, or a fee that was paid for what it was for.
func (e *Engine) tendPool(ctx context.Context) {
	p := e.cfg.Pool
	rate := e.fees.current()
	if p.Coins == 0 || rate.Stale || rate.High {
		return
	}
	e.poolMu.Lock()
	defer e.poolMu.Unlock()
	if err := e.cutCoins(ctx, p, rate.Rate); err != nil && ctx.Err() == nil {
		e.log.Warn("the pool of coins could not be tended; the next block tries again", zap.Error(err))
	}
}

func (e *Engine) cutCoins(ctx context.Context, p liquidity.Policy, rate ln.FeeRateSatPerKW) error {
	// Of an attempt that was cut off: its transaction is out, and lnd knows what it
	// spent, or it never will be.
	if _, err := leases.Release(ctx, e.node.Coins, poolLease()); err != nil {
		return err
	}
	coins, err := e.node.Coins.ListCoins(ctx, 0)
	if err != nil {
		return err
	}
	script, err := e.changeScript(ctx)
	if err != nil {
		return err
	}
	plan, wanted, err := p.Decide(e.notOrders(coins), rate, script)
	if err != nil || !wanted {
		return err
	}
	payees := []funding.Payee{{AmountSat: plan.Outputs[0], Script: script}}
	for _, amount := range plan.Outputs[1:] {
		if script, err = e.changeScript(ctx); err != nil {
			return err
		}
		payees = append(payees, funding.Payee{AmountSat: amount, Script: script})
	}
	raw, id, err := funding.BuildPayment(plan.Inputs, payees, plan.FeeSat)
	if err != nil {
		return err
	}
	for _, c := range plan.Inputs {
		err := e.node.Coins.LeaseCoin(ctx, poolLease(), c.Outpoint, poolLeaseFor)
		if err == nil {
			continue
		}
		_, releaseErr := leases.Release(ctx, e.node.Coins, poolLease())
		if errors.Is(err, ln.ErrLeased) {
			// A channel took it: that is what coins are for.
			return releaseErr
		}
		return errors.Join(err, releaseErr)
	}
	signed, err := e.node.Chain.FinalizePsbt(ctx, raw)
	if err == nil {
		err = funding.Signed(signed, id)
	}
	if err == nil {
		err = e.node.Chain.Publish(ctx, signed, poolLabel)
	}
	if err != nil {
		if errors.Is(err, ln.ErrUnavailable) {
			// It may be out: the next look tells.
			return err
		}
		_, releaseErr := leases.Release(ctx, e.node.Coins, poolLease())
		return errors.Join(fmt.Errorf("cut the wallet's coins: %w", err), releaseErr)
	}
	e.log.Info("the wallet's coins are being cut, so that there is one for each channel",
		zap.Int("coins_spent", len(plan.Inputs)), zap.Int("coins_made", len(plan.Outputs)), zap.Stringer("fee", plan.FeeSat), zap.Stringer("txid", id))
	return nil
}

// PoolStatus is what the operator sees of the coins.
type PoolStatus struct {
	// Wanted coins of at least CoinSat; 0 when there is no pool.
	Wanted  int
	CoinSat ln.Sat
	liquidity.Stock
	// OpensLeft of that size before a block confirms anything.
	OpensLeft int
}

// Pool counts the coins, and the opens that are left.
func (e *Engine) Pool(ctx context.Context) (PoolStatus, error) {
	p := e.cfg.Pool
	out := PoolStatus{Wanted: p.Coins, CoinSat: p.CoinSat}
	if p.Coins == 0 {
		return out, nil
	}
	coins, err := e.node.Coins.ListCoins(ctx, 0)
	if err != nil {
		return out, err
	}
	coins = e.notOrders(coins)
	out.Stock = p.Take(coins)
	rate := e.fees.current().Rate
	fee, err := rate.Fee(funding.OpeningWU(1))
	if err != nil {
		return out, err
	}
	size := p.CoinSat - min(p.CoinSat, fee+minChangeSat)
	if size == 0 {
		return out, nil
	}
	depth, err := e.depths(ctx, coins)
	if err != nil {
		return out, err
	}
	out.OpensLeft, err = liquidity.Forecast(coins, funding.Request{
		// A change script of the kind that the wallet has: only its size counts.
		FundingSat: size, FeeRate: rate, ChangeScript: append([]byte{0x51, 32}, make([]byte, 32)...), MinChangeSat: minChangeSat,
		Depth: depth, MaxDepth: e.cfg.MaxUnconfirmed, ReserveSat: e.ReserveSat(),
	})
	return out, err
}
