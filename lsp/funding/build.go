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

// Unsigned is a funding transaction nobody has signed. Every input is SegWit,
// so TxID is final.
type Unsigned struct {
	Psbt         []byte
	TxID         ln.TxID
	FundingIndex uint32
	// ChangeIndex counts only if HasChange.
	ChangeIndex uint32
	HasChange   bool
}

// FundingOutpoint is the channel point.
func (u Unsigned) FundingOutpoint() ln.Outpoint {
	return ln.Outpoint{TxID: u.TxID, Index: u.FundingIndex}
}

// ChangeOutpoint is the handle for CPFP; zero without change.
func (u Unsigned) ChangeOutpoint() ln.Outpoint {
	if !u.HasChange {
		return ln.Outpoint{}
	}
	return ln.Outpoint{TxID: u.TxID, Index: u.ChangeIndex}
}

// Build makes the unsigned transaction (BIP 174, with the witness UTXO of
// every input) that spends the selection into the funding output and, where
// there is change, the change output. Inputs and outputs are in BIP 69's
// order, so that the same selection always gives the same transaction.
func Build(s Selection, fundingScript, changeScript []byte) (Unsigned, error) {
	if k := kindOf(fundingScript); k != p2wsh && k != p2tr {
		return Unsigned{}, fmt.Errorf("funding script %x is neither P2WSH nor P2TR", fundingScript)
	}
	if s.HasChange() {
		if k := kindOf(changeScript); k != p2wpkh && k != p2tr {
			return Unsigned{}, fmt.Errorf("change script %x is neither P2WPKH nor P2TR", changeScript)
		}
		if bytes.Equal(fundingScript, changeScript) {
			return Unsigned{}, errors.New("change and funding have one script")
		}
	}
	if len(s.Inputs) == 0 || s.FundingSat == 0 {
		return Unsigned{}, errors.New("a selection without inputs or amount")
	}
	if err := s.check(); err != nil {
		return Unsigned{}, err
	}
	tx := wire.NewMsgTx(2)
	inputs := slices.Clone(s.Inputs)
	slices.SortFunc(inputs, byOutpoint)
	for i, c := range inputs {
		if i > 0 && inputs[i-1].Outpoint == c.Outpoint {
			return Unsigned{}, fmt.Errorf("coin %s is chosen twice", c.Outpoint)
		}
		if _, ok := inputWU(c.PkScript); !ok {
			return Unsigned{}, fmt.Errorf("coin %s is neither P2WPKH nor P2TR", c.Outpoint)
		}
		op := wire.OutPoint{Hash: [32]byte(c.Outpoint.TxID), Index: c.Outpoint.Index}
		tx.AddTxIn(wire.NewTxIn(&op, nil, nil))
	}
	outputs, err := s.outputs(fundingScript, changeScript)
	if err != nil {
		return Unsigned{}, err
	}
	tx.TxOut = outputs
	packet, err := psbt.NewFromUnsignedTx(tx)
	if err != nil {
		return Unsigned{}, fmt.Errorf("make the PSBT: %w", err)
	}
	for i, c := range inputs {
		amount, err := c.AmountSat.Int64()
		if err != nil {
			return Unsigned{}, err
		}
		packet.Inputs[i].WitnessUtxo = wire.NewTxOut(amount, slices.Clone(c.PkScript))
	}
	var raw bytes.Buffer
	if err := packet.Serialize(&raw); err != nil {
		return Unsigned{}, fmt.Errorf("encode the PSBT: %w", err)
	}
	u := Unsigned{Psbt: raw.Bytes(), TxID: ln.TxID(tx.TxHash())}
	for i, out := range outputs {
		if bytes.Equal(out.PkScript, fundingScript) {
			u.FundingIndex = uint32(i) //nolint:gosec // 0 or 1
		} else {
			u.ChangeIndex, u.HasChange = uint32(i), true //nolint:gosec // 0 or 1
		}
	}
	return u, nil
}

// check keeps the invariant of Selection against a caller's own arithmetic.
func (s Selection) check() error {
	var sum ln.Sat
	var err error
	for _, c := range s.Inputs {
		if sum, err = sum.Add(c.AmountSat); err != nil {
			return err
		}
	}
	out := s.FundingSat
	for _, part := range []ln.Sat{s.ChangeSat, s.FeeSat} {
		if out, err = out.Add(part); err != nil {
			return err
		}
	}
	if sum != out {
		return fmt.Errorf("the inputs bring %s, but funding, change and fee make %s", sum, out)
	}
	return nil
}

func (s Selection) outputs(fundingScript, changeScript []byte) ([]*wire.TxOut, error) {
	amount, err := s.FundingSat.Int64()
	if err != nil {
		return nil, err
	}
	outputs := []*wire.TxOut{wire.NewTxOut(amount, slices.Clone(fundingScript))}
	if s.HasChange() {
		if amount, err = s.ChangeSat.Int64(); err != nil {
			return nil, err
		}
		outputs = append(outputs, wire.NewTxOut(amount, slices.Clone(changeScript)))
	}
	slices.SortFunc(outputs, func(a, b *wire.TxOut) int {
		switch {
		case a.Value < b.Value:
			return -1
		case a.Value > b.Value:
			return 1
		}
		return bytes.Compare(a.PkScript, b.PkScript)
	})
	return outputs, nil
}
