package ln

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// ErrOverflow says that an amount left the range its type can hold. Money code
// treats it as a refusal: no rounded or wrapped amount ever takes its place.
var ErrOverflow = errors.New("amount overflows")

// MaxMsat is the largest amount that may exist: 21 million bitcoin in msat.
const MaxMsat Msat = 21_000_000 * 100_000_000 * 1000

// Msat is a non-negative amount in thousandths of a satoshi.
type Msat uint64

// Sat is a non-negative amount in satoshis.
type Sat uint64

// FeeRateSatPerKW is an on-chain fee rate in satoshis per 1000 weight units.
type FeeRateSatPerKW uint64

// MinFeeRate is the lowest rate that nodes relay: 253 sat/kw, which is
// 1 sat/vbyte rounded so that it never falls below it.
const MinFeeRate FeeRateSatPerKW = 253

// Add returns a+b, or ErrOverflow above MaxMsat.
func (a Msat) Add(b Msat) (Msat, error) {
	sum, carry := bits.Add64(uint64(a), uint64(b), 0)
	if carry != 0 || Msat(sum) > MaxMsat {
		return 0, fmt.Errorf("%d msat + %d msat: %w", a, b, ErrOverflow)
	}
	return Msat(sum), nil
}

// Sub returns a-b, or ErrOverflow when b is larger than a.
func (a Msat) Sub(b Msat) (Msat, error) {
	if b > a {
		return 0, fmt.Errorf("%d msat - %d msat: %w", a, b, ErrOverflow)
	}
	return a - b, nil
}

// ToSatFloor drops the part below one satoshi.
func (a Msat) ToSatFloor() Sat { return Sat(a / 1000) }

// ToSatCeil rounds up to the next whole satoshi.
func (a Msat) ToSatCeil() Sat {
	if a%1000 != 0 {
		return Sat(a/1000) + 1
	}
	return Sat(a / 1000)
}

// Int64 gives the amount for storage, or ErrOverflow above MaxMsat.
func (a Msat) Int64() (int64, error) {
	if a > MaxMsat {
		return 0, fmt.Errorf("%d msat: %w", a, ErrOverflow)
	}
	return int64(a), nil //nolint:gosec // bounded by MaxMsat just above
}

// String prints the amount for people: whole satoshis where it is whole.
func (a Msat) String() string {
	if a%1000 == 0 {
		return fmt.Sprintf("%d sat", a/1000)
	}
	return fmt.Sprintf("%d.%03d sat", a/1000, a%1000)
}

// Add returns a+b, or ErrOverflow above 21 million bitcoin.
func (a Sat) Add(b Sat) (Sat, error) {
	sum, carry := bits.Add64(uint64(a), uint64(b), 0)
	if carry != 0 || Sat(sum) > MaxMsat.ToSatFloor() {
		return 0, fmt.Errorf("%d sat + %d sat: %w", a, b, ErrOverflow)
	}
	return Sat(sum), nil
}

// Sub returns a-b, or ErrOverflow when b is larger than a.
func (a Sat) Sub(b Sat) (Sat, error) {
	if b > a {
		return 0, fmt.Errorf("%d sat - %d sat: %w", a, b, ErrOverflow)
	}
	return a - b, nil
}

// Msat converts exactly, or gives ErrOverflow above 21 million bitcoin.
func (a Sat) Msat() (Msat, error) {
	if a > MaxMsat.ToSatFloor() {
		return 0, fmt.Errorf("%d sat: %w", a, ErrOverflow)
	}
	return Msat(a) * 1000, nil
}

// Int64 gives the amount for storage and for lnd, or ErrOverflow.
func (a Sat) Int64() (int64, error) {
	if a > MaxMsat.ToSatFloor() {
		return 0, fmt.Errorf("%d sat: %w", a, ErrOverflow)
	}
	return int64(a), nil //nolint:gosec // bounded just above
}

// String prints the amount with its unit.
func (a Sat) String() string { return fmt.Sprintf("%d sat", uint64(a)) }

// Fee is what a transaction of this weight pays at the rate, rounded up to a
// whole satoshi.
func (r FeeRateSatPerKW) Fee(weightWU uint64) (Sat, error) {
	hi, lo := bits.Mul64(uint64(r), weightWU)
	if hi != 0 || lo > math.MaxUint64-999 {
		return 0, fmt.Errorf("%d sat/kw for %d weight units: %w", r, weightWU, ErrOverflow)
	}
	fee := Sat((lo + 999) / 1000)
	if fee > MaxMsat.ToSatFloor() {
		return 0, fmt.Errorf("%d sat/kw for %d weight units: %w", r, weightWU, ErrOverflow)
	}
	return fee, nil
}

// PPMCeil is amount·ppm/1,000,000, rounded up (bLIP-52, "Computing the
// opening_fee"): every step is checked, so that a fee is never short because
// a product wrapped.
func PPMCeil(amount Msat, ppm uint64) (Msat, error) {
	hi, lo := bits.Mul64(uint64(amount), ppm)
	if hi != 0 || lo > math.MaxUint64-999_999 {
		return 0, fmt.Errorf("%d ppm of %d msat: %w", ppm, amount, ErrOverflow)
	}
	fee := Msat((lo + 999_999) / 1_000_000)
	if fee > MaxMsat {
		return 0, fmt.Errorf("%d ppm of %d msat: %w", ppm, amount, ErrOverflow)
	}
	return fee, nil
}
