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
	shared, err := BuildShared(s, []Payee{{AmountSat: s.FundingSat, Script: fundingScript}}, changeScript)
	if err != nil {
		return Unsigned{}, err
	}
	return Unsigned{
		Psbt: shared.Psbt, TxID: shared.TxID, FundingIndex: shared.Fundings[0].Index, ChangeIndex: shared.Change.Index, HasChange: s.HasChange(),
	}, nil
}

// Shared is a funding transaction of several channels that nobody has signed.
type Shared struct {
	Psbt []byte
	TxID ln.TxID
	// Fundings are the channel points, in the order in which the channels were named.
	Fundings []ln.Outpoint
	// Change is the handle for CPFP; zero without change.
	Change ln.Outpoint
}

// BuildShared is Build for several channels, whose amounts make the selection's
// FundingSat. No two outputs have one script, so that each channel finds its own.
func BuildShared(s Selection, channels []Payee, changeScript []byte) (Shared, error) {
	if err := s.checkOutputs(channels, changeScript); err != nil {
		return Shared{}, err
	}
	if err := s.check(); err != nil {
		return Shared{}, err
	}
	tx := wire.NewMsgTx(2)
	inputs := slices.Clone(s.Inputs)
	slices.SortFunc(inputs, byOutpoint)
	for i, c := range inputs {
		if i > 0 && inputs[i-1].Outpoint == c.Outpoint {
			return Shared{}, fmt.Errorf("coin %s is chosen twice", c.Outpoint)
		}
		if _, ok := inputWU(c.PkScript); !ok {
			return Shared{}, fmt.Errorf("coin %s is neither P2WPKH nor P2TR", c.Outpoint)
		}
		op := wire.OutPoint{Hash: [32]byte(c.Outpoint.TxID), Index: c.Outpoint.Index}
		tx.AddTxIn(wire.NewTxIn(&op, nil, nil))
	}
	outputs, err := s.outputs(channels, changeScript)
	if err != nil {
		return Shared{}, err
	}
	tx.TxOut = outputs
	packet, err := psbt.NewFromUnsignedTx(tx)
	if err != nil {
		return Shared{}, fmt.Errorf("make the PSBT: %w", err)
	}
	for i, c := range inputs {
		amount, err := c.AmountSat.Int64()
		if err != nil {
			return Shared{}, err
		}
		packet.Inputs[i].WitnessUtxo = wire.NewTxOut(amount, slices.Clone(c.PkScript))
	}
	var raw bytes.Buffer
	if err := packet.Serialize(&raw); err != nil {
		return Shared{}, fmt.Errorf("encode the PSBT: %w", err)
	}
	out := Shared{Psbt: raw.Bytes(), TxID: ln.TxID(tx.TxHash())}
	at := func(script []byte) ln.Outpoint {
		i := slices.IndexFunc(outputs, func(o *wire.TxOut) bool { return bytes.Equal(o.PkScript, script) })
		return ln.Outpoint{TxID: out.TxID, Index: uint32(i)} //nolint:gosec // an index: each script is among the outputs
	}
	for _, c := range channels {
		out.Fundings = append(out.Fundings, at(c.Script))
	}
	if s.HasChange() {
		out.Change = at(changeScript)
	}
	return out, nil
}

// checkOutputs refuses scripts that no channel, or no wallet of ours, has.
func (s Selection) checkOutputs(channels []Payee, changeScript []byte) error {
	if len(s.Inputs) == 0 || s.FundingSat == 0 || len(channels) == 0 {
		return errors.New("a selection without inputs or amount")
	}
	var sum ln.Sat
	var err error
	taken := make(map[string]bool, len(channels)+1)
	for _, c := range channels {
		if k := kindOf(c.Script); k != p2wsh && k != p2tr {
			return fmt.Errorf("funding script %x is neither P2WSH nor P2TR", c.Script)
		}
		if taken[string(c.Script)] {
			return fmt.Errorf("two channels have the funding script %x", c.Script)
		}
		taken[string(c.Script)] = true
		if sum, err = sum.Add(c.AmountSat); err != nil {
			return err
		}
	}
	if sum != s.FundingSat {
		return fmt.Errorf("the channels take %s, but %s were selected", sum, s.FundingSat)
	}
	if !s.HasChange() {
		return nil
	}
	if k := kindOf(changeScript); k != p2wpkh && k != p2tr {
		return fmt.Errorf("change script %x is neither P2WPKH nor P2TR", changeScript)
	}
	if taken[string(changeScript)] {
		return errors.New("change and funding have one script")
	}
	return nil
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

func (s Selection) outputs(channels []Payee, changeScript []byte) ([]*wire.TxOut, error) {
	var outputs []*wire.TxOut
	for _, c := range channels {
		amount, err := c.AmountSat.Int64()
		if err != nil {
			return nil, err
		}
		outputs = append(outputs, wire.NewTxOut(amount, slices.Clone(c.Script)))
	}
	if s.HasChange() {
		amount, err := s.ChangeSat.Int64()
		if err != nil {
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
