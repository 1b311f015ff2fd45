package funding

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Return is a transaction that gives coins back. Whoever gets them bears its fee.
type Return struct {
	Coins    []ln.Coin
	ToScript []byte
	// KeepSat of what the coins hold goes to KeepScript, of our own wallet.
	KeepSat    ln.Sat
	KeepScript []byte
}

// ErrDust: what is left after the fee is less than nodes relay.
var ErrDust = errors.New("what is left after the fee is less than the network takes")

// WeightWU is what the transaction weighs at most.
func (r Return) WeightWU() (uint64, error) {
	weight := txBaseWU + countWU(len(r.Coins)) + outputWU(r.ToScript)
	if r.KeepSat > 0 {
		weight += outputWU(r.KeepScript)
	}
	for _, c := range r.Coins {
		wu, ok := inputWU(c.PkScript)
		if !ok {
			return 0, fmt.Errorf("coin %s is neither P2WPKH nor P2TR", c.Outpoint)
		}
		weight += wu
	}
	return weight, nil
}

// BuildReturn makes the unsigned transaction that pays fee. It says that it may
// be replaced (BIP 125), for one that pays more. The same coins and fee always
// give the same transaction.
func BuildReturn(r Return, fee ln.Sat) (raw []byte, id ln.TxID, returned ln.Sat, err error) {
	dust, err := DustLimit(r.ToScript)
	if err != nil {
		return nil, id, 0, err
	}
	var sum ln.Sat
	for _, c := range r.Coins {
		if sum, err = sum.Add(c.AmountSat); err != nil {
			return nil, id, 0, err
		}
	}
	taken, err := fee.Add(r.KeepSat)
	if err != nil {
		return nil, id, 0, err
	}
	if len(r.Coins) == 0 || sum < taken || sum-taken < dust {
		return nil, id, 0, fmt.Errorf("%w (%s of %s, a fee of %s, %s kept)", ErrDust, sum-min(sum, taken), sum, fee, r.KeepSat)
	}
	returned = sum - taken
	tx := wire.NewMsgTx(2)
	inputs := slices.Clone(r.Coins)
	slices.SortFunc(inputs, byOutpoint)
	for _, c := range inputs {
		in := wire.NewTxIn(&wire.OutPoint{Hash: [32]byte(c.Outpoint.TxID), Index: c.Outpoint.Index}, nil, nil)
		in.Sequence = wire.MaxTxInSequenceNum - 2
		tx.AddTxIn(in)
	}
	for _, out := range []struct {
		sat    ln.Sat
		script []byte
	}{{returned, r.ToScript}, {r.KeepSat, r.KeepScript}} {
		amount, err := out.sat.Int64()
		if err != nil {
			return nil, id, 0, err
		}
		if amount > 0 {
			tx.AddTxOut(wire.NewTxOut(amount, slices.Clone(out.script)))
		}
	}
	packet, err := psbt.NewFromUnsignedTx(tx)
	if err != nil {
		return nil, id, 0, fmt.Errorf("make the PSBT: %w", err)
	}
	for i, c := range inputs {
		amount, err := c.AmountSat.Int64()
		if err != nil {
			return nil, id, 0, err
		}
		packet.Inputs[i].WitnessUtxo = wire.NewTxOut(amount, slices.Clone(c.PkScript))
	}
	var buf bytes.Buffer
	if err := packet.Serialize(&buf); err != nil {
		return nil, id, 0, fmt.Errorf("encode the PSBT: %w", err)
	}
	return buf.Bytes(), ln.TxID(tx.TxHash()), returned, nil
}

// IsSegWit says that a script is one of those that bLIP-50 admits for addresses
// and that we know how to pay.
func IsSegWit(script []byte) bool { return kindOf(script) != other }

// InputFee is what it costs at a rate to spend a coin of this script.
func InputFee(script []byte, rate ln.FeeRateSatPerKW) (ln.Sat, error) {
	wu, ok := inputWU(script)
	if !ok {
		return 0, fmt.Errorf("script %x is neither P2WPKH nor P2TR", script)
	}
	return rate.Fee(wu)
}
