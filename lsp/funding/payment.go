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

// PaymentFee is what a transaction pays at a rate that spends coins into so many
// outputs of one kind.
func PaymentFee(coins []ln.Coin, script []byte, outputs int, rate ln.FeeRateSatPerKW) (ln.Sat, error) {
	weight := txBaseWU + countWU(len(coins)) + countWU(outputs) + uint64(outputs)*outputWU(script) //nolint:gosec // a count
	for _, c := range coins {
		wu, ok := inputWU(c.PkScript)
		if !ok {
			return 0, fmt.Errorf("coin %s is neither P2WPKH nor P2TR", c.Outpoint)
		}
		weight += wu
	}
	return rate.Fee(weight)
}

// Payee is one output.
type Payee struct {
	AmountSat ln.Sat
	Script    []byte
}

// BuildPayment makes the unsigned transaction that spends coins into outputs, in
// the order given; what is over is the fee, which must be feeSat.
func BuildPayment(coins []ln.Coin, to []Payee, feeSat ln.Sat) (raw []byte, id ln.TxID, err error) {
	var in, out ln.Sat
	tx := wire.NewMsgTx(2)
	inputs := slices.Clone(coins)
	slices.SortFunc(inputs, byOutpoint)
	for _, c := range inputs {
		if in, err = in.Add(c.AmountSat); err != nil {
			return nil, id, err
		}
		tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: [32]byte(c.Outpoint.TxID), Index: c.Outpoint.Index}, nil, nil))
	}
	for _, o := range to {
		amount, err := o.AmountSat.Int64()
		if err != nil {
			return nil, id, err
		}
		if dust, err := DustLimit(o.Script); err != nil || o.AmountSat < dust {
			return nil, id, errors.Join(errors.New("an output is dust, or pays to no SegWit script"), err)
		}
		if out, err = out.Add(o.AmountSat); err != nil {
			return nil, id, err
		}
		tx.AddTxOut(wire.NewTxOut(amount, slices.Clone(o.Script)))
	}
	if spent, err := out.Add(feeSat); err != nil || spent != in || len(coins) == 0 {
		return nil, id, fmt.Errorf("the coins bring %s, the outputs and the fee take %s and %s", in, out, feeSat)
	}
	packet, err := psbt.NewFromUnsignedTx(tx)
	if err != nil {
		return nil, id, fmt.Errorf("make the PSBT: %w", err)
	}
	for i, c := range inputs {
		amount, err := c.AmountSat.Int64()
		if err != nil {
			return nil, id, err
		}
		packet.Inputs[i].WitnessUtxo = wire.NewTxOut(amount, slices.Clone(c.PkScript))
	}
	var buf bytes.Buffer
	if err := packet.Serialize(&buf); err != nil {
		return nil, id, fmt.Errorf("encode the PSBT: %w", err)
	}
	return buf.Bytes(), ln.TxID(tx.TxHash()), nil
}
