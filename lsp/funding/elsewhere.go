package funding

import (
	"bytes"
	"encoding/base64"
	"fmt"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// psbtMagic begins every PSBT.
const psbtMagic = "psbt\xff"

// DecodePsbt reads what wallets write into files: the PSBT itself, or its base64.
func DecodePsbt(file []byte) ([]byte, error) {
	if bytes.HasPrefix(file, []byte(psbtMagic)) {
		return file, nil
	}
	text := bytes.Join(bytes.Fields(file), nil)
	raw, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil || !bytes.HasPrefix(raw, []byte(psbtMagic)) {
		return nil, errkind.New(errkind.Invalid, "this is no PSBT, neither as bytes nor in base64")
	}
	return raw, nil
}

// maxOffered bounds the coins of one PSBT.
const maxOffered = 200

// Offered is what a PSBT of another wallet brings to a channel.
type Offered struct {
	Coins []ln.Coin
	// ChangeScript is where the rest goes back to.
	ChangeScript []byte
}

// ReadOffered reads a payment that another wallet has made ready and not signed: its
// coins, and the one output whose key is that wallet's own, for the change. Where a
// change script is given that one counts. What the payment pays for is of no
// concern: nobody ever signs it.
func ReadOffered(raw, change []byte) (Offered, error) {
	wrong := func(format string, args ...any) (Offered, error) {
		return Offered{}, errkind.Newf(errkind.Invalid, format, args...)
	}
	p, err := ParsePsbt(raw)
	if err != nil {
		return Offered{}, err
	}
	if n := len(p.UnsignedTx.TxIn); n == 0 || n > maxOffered {
		return wrong("the PSBT spends %d coins: 1 to %d are possible", n, maxOffered)
	}
	out := Offered{ChangeScript: change}
	seen := make(map[wire.OutPoint]bool)
	for i, in := range p.UnsignedTx.TxIn {
		op := ln.Outpoint{TxID: ln.TxID(in.PreviousOutPoint.Hash), Index: in.PreviousOutPoint.Index}
		utxo, err := spent(p.Inputs[i], in.PreviousOutPoint)
		switch {
		case seen[in.PreviousOutPoint]:
			return wrong("the PSBT spends coin %s twice", op)
		case err != nil:
			return wrong("coin %s: %v", op, err)
		case len(p.Inputs[i].FinalScriptWitness) > 0 || len(p.Inputs[i].FinalScriptSig) > 0 || len(p.Inputs[i].PartialSigs) > 0 || len(p.Inputs[i].TaprootKeySpendSig) > 0:
			return wrong("coin %s is signed: whoever has that signature may spend it otherwise than into the channel. Export the PSBT unsigned", op)
		case p.Inputs[i].SighashType != txscript.SigHashDefault && p.Inputs[i].SighashType != txscript.SigHashAll:
			return wrong("coin %s is to be signed for a part of the transaction only (sighash type %d): the whole must be signed", op, p.Inputs[i].SighashType)
		case utxo.Value <= 0:
			return wrong("coin %s holds nothing", op)
		}
		if _, segwit := inputWU(utxo.PkScript); !segwit {
			return wrong("coin %s pays to a script that is neither P2WPKH nor P2TR: its signature could change the transaction's id, which both commitments name", op)
		}
		seen[in.PreviousOutPoint] = true
		out.Coins = append(out.Coins, ln.Coin{Outpoint: op, AmountSat: ln.Sat(utxo.Value), PkScript: utxo.PkScript})
	}
	if len(change) == 0 {
		for i, o := range p.Outputs {
			if len(o.Bip32Derivation) == 0 && len(o.TaprootBip32Derivation) == 0 {
				continue
			}
			if len(out.ChangeScript) > 0 {
				return wrong("the PSBT has several outputs of its own wallet: name the address that the change goes to")
			}
			out.ChangeScript = p.UnsignedTx.TxOut[i].PkScript
		}
	}
	if len(out.ChangeScript) == 0 {
		return wrong("the PSBT does not say which of its outputs is the change: name the address that the change goes to")
	}
	if _, err := DustLimit(out.ChangeScript); err != nil {
		return wrong("the change must go to a P2WPKH, P2WSH or P2TR address")
	}
	return out, nil
}

// spent is the output that an input spends. A whole transaction is proof of what it
// says by its id; a bare output is the other wallet's word, which the network checks
// with the signature.
func spent(in psbt.PInput, op wire.OutPoint) (*wire.TxOut, error) {
	if in.NonWitnessUtxo == nil {
		if in.WitnessUtxo == nil {
			return nil, errkind.New(errkind.Invalid, "the PSBT does not say what it holds")
		}
		return in.WitnessUtxo, nil
	}
	if in.NonWitnessUtxo.TxHash() != op.Hash || int(op.Index) >= len(in.NonWitnessUtxo.TxOut) {
		return nil, errkind.New(errkind.Invalid, "the transaction that the PSBT has for it is another one")
	}
	out := in.NonWitnessUtxo.TxOut[op.Index]
	if w := in.WitnessUtxo; w != nil && (w.Value != out.Value || !bytes.Equal(w.PkScript, out.PkScript)) {
		return nil, errkind.New(errkind.Invalid, "the PSBT says two things of what it holds")
	}
	return out, nil
}

// TakeBack makes the PSBT that spends offered coins back to their wallet, with the
// paths of its keys.
func TakeBack(o Offered, own []byte, rate ln.FeeRateSatPerKW) ([]byte, error) {
	back := Return{Coins: o.Coins, ToScript: o.ChangeScript}
	weight, err := back.WeightWU()
	if err != nil {
		return nil, err
	}
	fee, err := rate.Fee(weight)
	if err != nil {
		return nil, err
	}
	raw, _, _, err := BuildReturn(back, fee)
	if err != nil {
		return nil, fmt.Errorf("take the coins back: %w", err)
	}
	return ForSigner(raw, own)
}
