package funding

import (
	"errors"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Bump is what a child must pay so that it and its parent together reach a
// rate.
type Bump struct {
	ChildFeeSat ln.Sat
	ChildWU     uint64
	// ChildRateSatPerVByte is what to tell lnd's BumpFee, which prices the
	// child alone; rounded up.
	ChildRateSatPerVByte uint64
	// BudgetSat is the most that lnd may spend on the child. It must exceed
	// what the rate costs: lnd's estimate of the weight is not ours, and its
	// sweeper refuses a budget that leaves the rate no room to rise.
	BudgetSat ln.Sat
	// PackageRate is the rate that parent and child reach together, at least.
	PackageRate ln.FeeRateSatPerKW
	// Capped says that the ceiling or the change kept it below the target.
	Capped bool
}

// ErrNoBump: the parent pays the target already, or the change is too small
// to lift it at all.
var ErrNoBump = errkind.New(errkind.Conflict, "the transaction cannot usefully be bumped through its change now: it pays the rate already, or the change is too small")

// ChildBump computes the child (one input: the change; one P2TR output back to
// the wallet) that lifts the package to target, but not above ceiling, and
// leaves at least the dust limit. The child pays for both:
// fee = target·(parent+child weight) − what the parent pays.
func ChildBump(parentFee ln.Sat, parentWU uint64, changeSat ln.Sat, changeScript []byte, target, ceiling ln.FeeRateSatPerKW) (Bump, error) {
	in, ok := inputWU(changeScript)
	if !ok {
		return Bump{}, fmt.Errorf("change script %x is neither P2WPKH nor P2TR", changeScript)
	}
	if ceiling < ln.MinFeeRate {
		return Bump{}, errors.New("the ceiling of the fee rate is below what nodes relay")
	}
	childWU := txBaseWU + countWU(1) + in + uint64(8+1+34)*4
	b := Bump{ChildWU: childWU}
	if target > ceiling {
		target, b.Capped = ceiling, true
	}
	packageFee, err := target.Fee(parentWU + childWU)
	if err != nil {
		return Bump{}, err
	}
	if packageFee <= parentFee {
		return Bump{}, ErrNoBump
	}
	fee := packageFee - parentFee
	// The child must itself pay what nodes relay.
	least, err := ln.MinFeeRate.Fee(childWU)
	if err != nil {
		return Bump{}, err
	}
	fee = max(fee, least)
	const dust = 330
	if changeSat < dust+least {
		return Bump{}, ErrNoBump
	}
	vbytes := (childWU + 3) / 4
	b.ChildRateSatPerVByte = (uint64(fee) + vbytes - 1) / vbytes
	room := changeSat - dust
	// A little more than the child's size, or lnd would find the change too
	// small for a rate that takes all of it.
	if size := vbytes + 2; b.ChildRateSatPerVByte > uint64(room)/size {
		b.ChildRateSatPerVByte, b.Capped = uint64(room)/size, true
		if b.ChildRateSatPerVByte == 0 {
			return Bump{}, ErrNoBump
		}
		fee = min(fee, room)
	}
	b.ChildFeeSat = fee
	b.BudgetSat = min(room, fee+fee/4+ln.Sat(vbytes))
	b.PackageRate = ln.FeeRateSatPerKW(uint64(parentFee+fee) * 1000 / (parentWU + childWU))
	return b, nil
}
