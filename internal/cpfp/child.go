package cpfp

import (
	"errors"
	"fmt"
	"math"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Limits are what a child may never exceed.
type Limits struct {
	// Ceiling is the highest rate of child and parents together.
	Ceiling ln.FeeRateSatPerKW
	// MostSat is the most that the child may pay; the change less dust bounds it too.
	MostSat ln.Sat
}

// AllOfTheChange is the MostSat of a service that sets no budget of its own.
const AllOfTheChange ln.Sat = math.MaxInt64

// Child is what pays so that it and its parents together reach a rate.
type Child struct {
	FeeSat   ln.Sat
	WeightWU uint64
	// RateSatPerVByte is what to tell lnd's BumpFee, which prices the child alone;
	// rounded up.
	RateSatPerVByte uint64
	// BudgetSat is the most that lnd may spend on the child. It must exceed
	// what the rate costs: lnd's estimate of the weight is not ours, and its
	// sweeper refuses a budget that leaves the rate no room to rise.
	BudgetSat ln.Sat
	// PackageRate is the rate that all reach together, at least.
	PackageRate ln.FeeRateSatPerKW
	// Capped says that a limit kept it below the target.
	Capped bool
}

// ErrNoBump: the parents pay the target already, or there is no change that can lift
// them.
var ErrNoBump = errkind.New(errkind.Conflict, "the transaction cannot usefully be bumped through its change now: it pays the rate already, is confirmed, or has no change that is large enough")

// dustSat is below what nodes relay as an output of the wallet's.
const dustSat ln.Sat = 330

// ChildOf computes the child (one input: the change; one P2TR output back to the
// wallet) that lifts all to target, within the limits, and leaves at least the dust
// limit. The child pays for all: fee = target·(parents' + child's weight) − what the
// parents pay.
func ChildOf(l Lift, target ln.FeeRateSatPerKW, limits Limits) (Child, error) {
	weight, ok := childWU(l.ChangeScript)
	if !ok {
		return Child{}, fmt.Errorf("change script %x is neither P2WPKH nor P2TR", l.ChangeScript)
	}
	if limits.Ceiling < ln.MinFeeRate {
		return Child{}, errors.New("the ceiling of the fee rate is below what nodes relay")
	}
	c := Child{WeightWU: weight}
	if target > limits.Ceiling {
		target, c.Capped = limits.Ceiling, true
	}
	all, err := target.Fee(l.WeightWU + weight)
	if err != nil {
		return Child{}, err
	}
	if all <= l.FeeSat {
		return Child{}, ErrNoBump
	}
	// The child must itself pay what nodes relay.
	least, err := ln.MinFeeRate.Fee(weight)
	if err != nil {
		return Child{}, err
	}
	fee := max(all-l.FeeSat, least)
	room := min(l.ChangeSat-min(l.ChangeSat, dustSat), limits.MostSat)
	if room < least {
		return Child{}, ErrNoBump
	}
	vbytes := (weight + 3) / 4
	c.RateSatPerVByte = (uint64(fee) + vbytes - 1) / vbytes
	// A little more than the child's size, or lnd would find the budget too
	// small for a rate that takes all of it.
	if size := vbytes + 2; c.RateSatPerVByte > uint64(room)/size {
		c.RateSatPerVByte, c.Capped = uint64(room)/size, true
		if c.RateSatPerVByte == 0 {
			return Child{}, ErrNoBump
		}
		fee = min(fee, room)
	}
	c.FeeSat = fee
	c.BudgetSat = min(room, fee+fee/4+ln.Sat(vbytes))
	c.PackageRate = ln.FeeRateSatPerKW(uint64(l.FeeSat+fee) * 1000 / (l.WeightWU + weight))
	return c, nil
}

// childWU weighs the child at the largest signature of a key spend; other scripts than
// P2WPKH and P2TR are no change of lnd's wallet.
func childWU(change []byte) (weight uint64, ok bool) {
	in := &wire.TxIn{}
	switch {
	case txscript.IsPayToWitnessPubKeyHash(change):
		in.Witness = wire.TxWitness{make([]byte, 72), make([]byte, 33)}
	case txscript.IsPayToTaproot(change):
		in.Witness = wire.TxWitness{make([]byte, 64)}
	default:
		return 0, false
	}
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(in)
	tx.AddTxOut(wire.NewTxOut(0, make([]byte, 34)))
	return uint64(blockchain.GetTransactionWeight(btcutil.NewTx(tx))), true //nolint:gosec // not negative
}
