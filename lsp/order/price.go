package order

import (
	"fmt"
	"math/bits"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// MonthBlocks is what LeasePPM counts a lease in.
const MonthBlocks = 4_320

// Prices are what orders cost.
type Prices struct {
	// BaseSat and PPM (of the balance that the gateway provides) are for the
	// channel, LeasePPM for each month of its lease.
	BaseSat  ln.Sat
	PPM      uint32
	LeasePPM uint32
}

// Fee is the price of a wish: each part rounded up, and at least cover, which
// is what the chain asks.
func (p Prices) Fee(w Wish, cover ln.Sat) (ln.Sat, error) {
	fee := p.BaseSat
	for _, part := range []struct{ times, per uint64 }{
		{uint64(p.PPM), 1_000_000},
		{uint64(p.LeasePPM) * uint64(w.ExpiryBlocks), 1_000_000 * MonthBlocks},
	} {
		sat, err := share(uint64(w.LspBalanceSat), part.times, part.per)
		if err == nil {
			fee, err = fee.Add(sat)
		}
		if err != nil {
			return 0, fmt.Errorf("the price of a balance of %s: %w", w.LspBalanceSat, err)
		}
	}
	return max(fee, cover), nil
}

// share is n*times/per, rounded up.
func share(n, times, per uint64) (ln.Sat, error) {
	hi, lo := bits.Mul64(n, times)
	lo, carry := bits.Add64(lo, per-1, 0)
	hi += carry
	if hi >= per {
		return 0, ln.ErrOverflow
	}
	q, _ := bits.Div64(hi, lo, per)
	return ln.Sat(q), nil
}

// Total is the price with the client's balance.
func Total(fee ln.Sat, w Wish) (Price, error) {
	total, err := fee.Add(w.ClientBalanceSat)
	return Price{FeeSat: fee, TotalSat: total}, err
}
