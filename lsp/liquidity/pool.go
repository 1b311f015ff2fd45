// Package liquidity keeps the gateway able to open channels: how its coins shall
// be cut, and how many opens are left. It is pure.
//
// It promises that what it plans goes back to the wallet but for the fee, that a
// coin that can pay for an open is not taken apart for nothing, and that it waits
// for cheap blocks unless coins run out.
package liquidity

import (
	"cmp"
	"errors"
	"slices"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// Policy is how many coins of which size there shall be.
type Policy struct {
	// Coins of at least CoinSat are wanted; 0 leaves the wallet as it is.
	Coins   int
	CoinSat ln.Sat
	// Low is the number of confirmed ones below which it no longer waits for
	// CheapRate.
	Low       int
	CheapRate ln.FeeRateSatPerKW
	// JoinFrom is how many coins below CoinSat are joined into one, when blocks are
	// cheap; 0 never. Then what is there beyond twice what is wanted is joined, too.
	JoinFrom int
	// MaxCoins and MaxCoinSat are how far Follow may grow Coins and CoinSat; 0: not.
	MaxCoins   int
	MaxCoinSat ln.Sat
}

const (
	// maxOutputs bounds a transaction that cuts, maxInputs one that joins.
	maxOutputs, maxInputs = 60, 60
	// worthSat is what a coin must hold beyond the cost of spending it to be joined.
	worthSat = 1_000
	// mostUses is for how many opens, one after the other, a coin is cut at most. An
	// open leaves change, which is a coin again with the next block.
	mostUses = 8
)

// Stock is what the wallet has, by the policy.
type Stock struct {
	// Ready coins pay for an open now; Coming ones once they are confirmed. Small
	// ones are confirmed and below the size.
	Ready, Coming, Small int
}

// Take counts free coins.
func (p Policy) Take(coins []ln.Coin) (s Stock) {
	for _, c := range coins {
		switch {
		case c.AmountSat < p.CoinSat && c.Confirmations > 0:
			s.Small++
		case c.AmountSat < p.CoinSat:
		case c.Confirmations > 0:
			s.Ready++
		default:
			s.Coming++
		}
	}
	return s
}

// Plan is a transaction of the wallet to itself: Inputs are Outputs and FeeSat.
type Plan struct {
	Inputs  []ln.Coin
	Outputs []ln.Sat
	FeeSat  ln.Sat
}

// Decide says what to do at a rate; false for nothing. script is one that the
// outputs will pay to, for its size.
func (p Policy) Decide(coins []ln.Coin, rate ln.FeeRateSatPerKW, script []byte) (Plan, bool, error) {
	if p.Coins == 0 || p.CoinSat == 0 {
		return Plan{}, false, nil
	}
	stock := p.Take(coins)
	confirmed := slices.DeleteFunc(slices.Clone(coins), func(c ln.Coin) bool {
		_, err := funding.InputFee(c.PkScript, rate)
		return c.Confirmations <= 0 || err != nil
	})
	slices.SortFunc(confirmed, func(a, b ln.Coin) int {
		if d := cmp.Compare(b.AmountSat, a.AmountSat); d != 0 {
			return d
		}
		return cmp.Compare(a.Outpoint.String(), b.Outpoint.String())
	})
	cheap := rate <= p.CheapRate
	missing := p.Coins - stock.Ready - stock.Coming
	if missing > 0 && len(confirmed) > 0 && (cheap || stock.Ready < p.Low) {
		if plan, ok, err := p.cut(confirmed[0], missing, rate, script); ok || err != nil {
			return plan, ok, err
		}
	}
	if !cheap || p.JoinFrom == 0 {
		return Plan{}, false, nil
	}
	if stock.Small >= p.JoinFrom {
		if plan, ok, err := join(slices.DeleteFunc(slices.Clone(confirmed), func(c ln.Coin) bool { return c.AmountSat >= p.CoinSat }), rate, script); ok || err != nil {
			return plan, ok, err
		}
	}
	if stock.Ready > 2*p.Coins {
		// The smallest that are large enough: they are what was cut.
		ready := min(stock.Ready, len(confirmed))
		return join(confirmed[min(p.Coins, ready):ready], rate, script)
	}
	return Plan{}, false, nil
}

// cut makes as many coins as are missing of the largest one, which counted as one
// itself. They are as large as it allows, each good for several opens: to cut and
// join coins for every open costs two thirds of the open again.
func (p Policy) cut(c ln.Coin, missing int, rate ln.FeeRateSatPerKW, script []byte) (Plan, bool, error) {
	for n := min(missing+1, maxOutputs); n >= 2; n-- {
		fee, err := funding.PaymentFee([]ln.Coin{c}, script, n, rate)
		if err != nil {
			return Plan{}, false, err
		}
		want := p.CoinSat * ln.Sat(n) //nolint:gosec // at most 60 of a coin's size
		if c.AmountSat < fee || c.AmountSat-fee < want {
			continue
		}
		each := min((c.AmountSat-fee)/ln.Sat(n), mostUses*p.CoinSat) //nolint:gosec // at most 60
		plan := Plan{Inputs: []ln.Coin{c}, FeeSat: fee}
		left := c.AmountSat - fee
		for range n - 1 {
			plan.Outputs = append(plan.Outputs, each)
			left -= each
		}
		plan.Outputs = append(plan.Outputs, left)
		return plan, true, nil
	}
	return Plan{}, false, nil
}

// join makes one coin of those that are worth their own cost.
func join(coins []ln.Coin, rate ln.FeeRateSatPerKW, script []byte) (Plan, bool, error) {
	var plan Plan
	var sum ln.Sat
	for _, c := range coins {
		cost, err := funding.InputFee(c.PkScript, rate)
		if err != nil || c.AmountSat < cost+worthSat || len(plan.Inputs) == maxInputs {
			continue
		}
		plan.Inputs = append(plan.Inputs, c)
		if sum, err = sum.Add(c.AmountSat); err != nil {
			return Plan{}, false, err
		}
	}
	if len(plan.Inputs) < 2 {
		return Plan{}, false, nil
	}
	fee, err := funding.PaymentFee(plan.Inputs, script, 1, rate)
	if err != nil || sum < fee+worthSat {
		return Plan{}, false, err
	}
	plan.FeeSat, plan.Outputs = fee, []ln.Sat{sum - fee}
	return plan, true, nil
}

// mostForecast bounds the work of a forecast.
const mostForecast = 200

// Forecast is how many channels of one size can be opened one after the other from
// these coins, before a block confirms anything. r says the size and the rate.
func Forecast(coins []ln.Coin, r funding.Request) (int, error) {
	left := slices.Clone(coins)
	for n := range mostForecast {
		s, err := funding.Select(left, r)
		var short *funding.CoinsShortError
		if errors.As(err, &short) {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		used := make(map[ln.Outpoint]bool, len(s.Inputs))
		for _, c := range s.Inputs {
			used[c.Outpoint] = true
		}
		left = slices.DeleteFunc(left, func(c ln.Coin) bool { return used[c.Outpoint] })
	}
	return mostForecast, nil
}
