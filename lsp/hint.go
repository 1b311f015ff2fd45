package lsp

import (
	"fmt"
	"math/bits"

	"github.com/sluice-lsp/sluice/internal/ln"
)

const million = 1_000_000

// HintPPM is the proportional fee for the route hint that makes a payer of
// amount add at least fee: ceil(fee·1,000,000/amount). A base fee would be
// charged once per part of an MPP, a proportion is not; each part's rounding
// (BOLT 7 rounds down) may lose less than one msat.
func HintPPM(amount, fee ln.Msat) (uint32, error) {
	if amount == 0 {
		return 0, ErrNoAmount
	}
	hi, lo := bits.Mul64(uint64(fee), million)
	lo, carry := bits.Add64(lo, uint64(amount)-1, 0)
	hi += carry
	if hi >= uint64(amount) {
		return 0, fmt.Errorf("%w (%s for %s)", ErrFeeOverflow, fee, amount)
	}
	ppm, _ := bits.Div64(hi, lo, uint64(amount))
	if ppm > 1<<32-1 {
		return 0, fmt.Errorf("%w (%s for %s)", ErrFeeOverflow, fee, amount)
	}
	return uint32(ppm), nil
}

// HintFee is what a payer adds for forwarding amount at the hint's rate
// (BOLT 7: rounded down).
func HintFee(amount ln.Msat, ppm uint32) (ln.Msat, error) {
	hi, lo := bits.Mul64(uint64(amount), uint64(ppm))
	if hi >= million {
		return 0, fmt.Errorf("%w (%s)", ErrFeeOverflow, amount)
	}
	fee, _ := bits.Div64(hi, lo, million)
	if ln.Msat(fee) > ln.MaxMsat {
		return 0, fmt.Errorf("%w (%s)", ErrFeeOverflow, amount)
	}
	return ln.Msat(fee), nil
}
