package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/liquidity"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
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
	rate := e.fees.current()
	if e.cfg.Pool.Coins == 0 || rate.Stale || rate.High {
		return
	}
	e.poolMu.Lock()
	defer e.poolMu.Unlock()
	// What was opened since the last block counts.
	e.demanded.forget()
	p, err := e.poolPolicy(ctx)
	if err == nil {
		err = e.cutCoins(ctx, p, rate.Rate)
	}
	if err != nil && ctx.Err() == nil {
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
	plan, wanted, err := p.Decide(e.free(coins), rate, script)
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

const (
	// demandOver is how far back opens are looked at, and mostDemand how many: a day
	// of opens beyond that wants as large a pool as there may be.
	demandOver = 24 * time.Hour
	mostDemand = 5_000
)

// demandFor is how long the opens of a day are taken for what they were: they are
// asked for at quotes, too.
const demandFor = time.Minute

// demandView is what was opened within a day, as of a moment ago.
type demandView struct {
	mu    sync.Mutex
	at    time.Time
	opens []liquidity.Open
}

func (v *demandView) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.at = time.Time{}
}

// poolPolicy is the operator's, grown by what was opened within a day.
func (e *Engine) poolPolicy(ctx context.Context) (liquidity.Policy, error) {
	p := e.cfg.Pool
	if p.Coins == 0 || !p.Follows() {
		return p, nil
	}
	opens, err := e.demand(ctx)
	if err != nil {
		return p, err
	}
	extra, err := e.poolExtra()
	return p.Follow(opens, extra), err
}

func (e *Engine) demand(ctx context.Context) ([]liquidity.Open, error) {
	v := &e.demanded
	v.mu.Lock()
	defer v.mu.Unlock()
	if now := e.opt.Now(); !v.at.IsZero() && now.Sub(v.at) < demandFor && !now.Before(v.at) {
		return v.opens, nil
	}
	var opens []liquidity.Open
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		rows, err := lspdb.New(tx).OpeningsSince(ctx, lspdb.OpeningsSinceParams{SinceMs: e.opt.Now().Add(-demandOver).UnixMilli(), Most: mostDemand})
		if err != nil {
			return err
		}
		for _, r := range rows {
			opens = append(opens, liquidity.Open{At: time.UnixMilli(r.CreatedMs), Sat: ln.Sat(r.CapacitySat)}) //nolint:gosec // stored as such
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	v.at, v.opens = e.opt.Now(), opens
	return opens, nil
}

// poolExtra is what an open takes of a coin beyond the channel's capacity.
func (e *Engine) poolExtra() (ln.Sat, error) {
	fee, err := e.fees.current().Rate.Fee(funding.OpeningWU(1))
	return fee + minChangeSat, err
}

// opensLeft is how many channels of the pool's size these coins can open before a
// block confirms anything.
func (e *Engine) opensLeft(p liquidity.Policy, coins []ln.Coin, depth map[ln.Outpoint]int) (int, error) {
	extra, err := e.poolExtra()
	if err != nil || p.CoinSat <= extra {
		return 0, err
	}
	return liquidity.Forecast(coins, funding.Request{
		// A change script of the kind that the wallet has: only its size counts.
		FundingSat: p.CoinSat - extra, FeeRate: e.fees.current().Rate, ChangeScript: append([]byte{0x51, 32}, make([]byte, 32)...), MinChangeSat: minChangeSat,
		Depth: depth, MaxDepth: e.cfg.MaxUnconfirmed, ReserveSat: e.ReserveSat(),
	})
}

// PoolStatus is what the operator sees of the coins.
type PoolStatus struct {
	// Wanted coins of at least CoinSat; 0 when there is no pool.
	Wanted  int
	CoinSat ln.Sat
	liquidity.Stock
	// OpensLeft of that size before a block confirms anything.
	OpensLeft int
	// Promised channels have no coin yet.
	Promised int
	Refill   liquidity.Refill
}

// Pool counts the coins, and the opens that are left.
func (e *Engine) Pool(ctx context.Context) (PoolStatus, error) {
	p, err := e.poolPolicy(ctx)
	out := PoolStatus{Wanted: p.Coins, CoinSat: p.CoinSat}
	if err != nil || p.Coins == 0 {
		return out, err
	}
	coming, _ := e.comingNow()
	coins, err := e.node.Coins.ListCoins(ctx, 0)
	if err != nil {
		return out, err
	}
	coins = e.free(coins)
	out.Stock = p.Take(coins)
	rate := e.fees.current()
	out.Refill = p.Refills(out.Stock, rate.Rate, rate.Stale || rate.High)
	e.loads.mu.Lock()
	out.Promised = e.loads.sum.Usage(ln.PubKey{}).Unfunded.Channels
	e.loads.mu.Unlock()
	all, depth, err := e.withComing(ctx, coins, coming)
	if err != nil {
		return out, err
	}
	out.OpensLeft, err = e.opensLeft(p, all, depth)
	return out, err
}
