package swaps

import "github.com/sluice-lsp/sluice/internal/ln"

// ReplaceStep is what nodes ask of a replacement besides what it replaces: a
// satoshi per vbyte of its own.
const ReplaceStep ln.FeeRateSatPerKW = 250

// First is what a transaction that a deadline waits for pays at first: what the
// chain asks, and no more than most in fees.
func First(target ln.FeeRateSatPerKW, weightWU uint64, most ln.Sat) ln.FeeRateSatPerKW {
	return max(min(target, Within(weightWU, most)), ln.MinFeeRate)
}

// Raised is what such a transaction pays next when it lags: what the chain asks
// now, and at least a quarter more than before; but no more than most in fees. ok
// is false when that leaves no room for a replacement that nodes would take.
func Raised(last, target ln.FeeRateSatPerKW, weightWU uint64, most ln.Sat) (rate ln.FeeRateSatPerKW, ok bool) {
	rate = max(target, last+last/4+1, last+ReplaceStep)
	rate = min(rate, Within(weightWU, most))
	return rate, rate >= last+ReplaceStep
}

// Within is the highest rate at which a weight pays no more than most.
func Within(weightWU uint64, most ln.Sat) ln.FeeRateSatPerKW {
	if weightWU == 0 || most > ln.MaxMsat.ToSatFloor() {
		return 0
	}
	return ln.FeeRateSatPerKW(uint64(most) * 1000 / weightWU)
}
