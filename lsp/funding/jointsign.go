package funding

import (
	"bytes"
	"fmt"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/psbts"
)

// MaxPsbtBytes bounds a PSBT that somebody else sent.
const MaxPsbtBytes = 400_000

// ParsePsbt reads somebody's PSBT.
func ParsePsbt(raw []byte) (*psbt.Packet, error) {
	if len(raw) > MaxPsbtBytes {
		return nil, errkind.Newf(errkind.Invalid, "a PSBT of %d bytes is larger than the %d that are read", len(raw), MaxPsbtBytes)
	}
	p, err := psbts.Parse(raw)
	if err != nil {
		return nil, errkind.Newf(errkind.Invalid, "the PSBT cannot be read: %v", err)
	}
	return p, nil
}

// TakeSignatures puts the other side's signatures of its inputs into the
// transaction that was agreed. What it sent must be that transaction, to the
// byte, and every one of its inputs must be signed so that the network takes it:
// the script is run. Nothing else of what it sent is kept.
func TakeSignatures(agreed, signed []byte, theirs []ln.Outpoint) ([]byte, error) {
	ours, err := ParsePsbt(agreed)
	if err != nil {
		return nil, err
	}
	got, err := ParsePsbt(signed)
	if err != nil {
		return nil, err
	}
	if !sameTx(ours.UnsignedTx, got.UnsignedTx) {
		return nil, errkind.New(errkind.Invalid, "the PSBT is of another transaction than the one that both commitments name: sign exactly that one, and change nothing")
	}
	wanted := make(map[wire.OutPoint]bool, len(theirs))
	for _, op := range theirs {
		wanted[wire.OutPoint{Hash: [32]byte(op.TxID), Index: op.Index}] = true
	}
	prevouts := txscript.NewMultiPrevOutFetcher(nil)
	for i, in := range ours.UnsignedTx.TxIn {
		if ours.Inputs[i].WitnessUtxo == nil {
			return nil, fmt.Errorf("input %d of the agreed transaction has no amount", i)
		}
		prevouts.AddPrevOut(in.PreviousOutPoint, ours.Inputs[i].WitnessUtxo)
	}
	tx := ours.UnsignedTx.Copy()
	hashes := txscript.NewTxSigHashes(tx, prevouts)
	for i, in := range ours.UnsignedTx.TxIn {
		if !wanted[in.PreviousOutPoint] {
			continue
		}
		delete(wanted, in.PreviousOutPoint)
		witness, err := finalWitness(got, i, ours.Inputs[i].WitnessUtxo)
		if err != nil {
			return nil, errkind.Newf(errkind.Invalid, "input %s is not signed: %v", ln.Outpoint{TxID: ln.TxID(in.PreviousOutPoint.Hash), Index: in.PreviousOutPoint.Index}, err)
		}
		if tx.TxIn[i].Witness, err = readWitness(witness); err != nil {
			return nil, errkind.Newf(errkind.Invalid, "the witness of input %d cannot be read: %v", i, err)
		}
		utxo := ours.Inputs[i].WitnessUtxo
		if !keySpend(utxo.PkScript, tx.TxIn[i].Witness) {
			return nil, errkind.Newf(errkind.Invalid, "input %d is not spent by one key's signature of the whole transaction (SIGHASH_ALL): its weight, which both sides pay for, is that of no other spend", i)
		}
		vm, err := txscript.NewEngine(utxo.PkScript, tx, i, txscript.StandardVerifyFlags, nil, hashes, utxo.Value, prevouts)
		if err == nil {
			err = vm.Execute()
		}
		if err != nil {
			return nil, errkind.Newf(errkind.Invalid, "the signature of input %d is not valid: %v", i, err)
		}
		ours.Inputs[i].FinalScriptWitness = witness
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("%d of the inputs to be signed are not in the transaction", len(wanted))
	}
	var raw bytes.Buffer
	if err := ours.Serialize(&raw); err != nil {
		return nil, fmt.Errorf("encode the PSBT: %w", err)
	}
	return raw.Bytes(), nil
}

// keySpend says that a witness is one signature of all inputs and outputs, and nothing
// more. The fee was computed for its weight: a heavier one (the script path of a P2TR
// coin) has the transaction lag at its signer's will, one that nodes do not relay (an
// annex) keeps the gateway's coins in it for good, and what signs less than everything
// lets anybody who sees it spend the coin otherwise.
func keySpend(script []byte, w wire.TxWitness) bool {
	switch kindOf(script) {
	case p2wpkh:
		return len(w) == 2 && len(w[0]) > 0 && txscript.SigHashType(w[0][len(w[0])-1]) == txscript.SigHashAll
	case p2tr:
		return len(w) == 1 && (len(w[0]) == 64 || len(w[0]) == 65 && txscript.SigHashType(w[0][64]) == txscript.SigHashAll)
	}
	return false
}

// finalWitness makes an input's witness of what its signer left in the PSBT.
func finalWitness(p *psbt.Packet, i int, utxo *wire.TxOut) ([]byte, error) {
	if len(p.Inputs[i].FinalScriptWitness) > 0 {
		return p.Inputs[i].FinalScriptWitness, nil
	}
	p.Inputs[i].WitnessUtxo = utxo
	done, err := psbt.MaybeFinalize(p, i)
	if err != nil {
		return nil, err
	}
	if !done || len(p.Inputs[i].FinalScriptWitness) == 0 {
		return nil, psbt.ErrNotFinalizable
	}
	return p.Inputs[i].FinalScriptWitness, nil
}

// maxWitnessItems: a key spend has one or two.
const maxWitnessItems = 4

func readWitness(raw []byte) (wire.TxWitness, error) {
	r := bytes.NewReader(raw)
	n, err := wire.ReadVarInt(r, 0)
	if err != nil {
		return nil, err
	}
	if n > maxWitnessItems {
		return nil, fmt.Errorf("it has %d items", n)
	}
	witness := make(wire.TxWitness, 0, n)
	for range n {
		item, err := wire.ReadVarBytes(r, 0, 1000, "witness item")
		if err != nil {
			return nil, err
		}
		witness = append(witness, item)
	}
	return witness, nil
}

func sameTx(a, b *wire.MsgTx) bool {
	var x, y bytes.Buffer
	return a.SerializeNoWitness(&x) == nil && b.SerializeNoWitness(&y) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// Signed is a complete transaction read back: its id, which must be the agreed
// one.
func Signed(raw []byte, want ln.TxID) error {
	var tx wire.MsgTx
	if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
		return fmt.Errorf("the signed transaction cannot be read: %w", err)
	}
	if got := ln.TxID(tx.TxHash()); got != want {
		return fmt.Errorf("the signed transaction is %s, and both commitments name %s", got, want)
	}
	for i, in := range tx.TxIn {
		if len(in.Witness) == 0 {
			return fmt.Errorf("input %d of the signed transaction has no witness", i)
		}
	}
	return nil
}

// Expected is what a wallet agreed to, to hold a transaction against before it
// signs it.
type Expected struct {
	Inputs        []ln.Coin
	ChangeScript  []byte
	FundingScript []byte
	CapacitySat   ln.Sat
	// OutlaySat is what it pays into the channel and to the gateway, MaxFeeSat
	// the most that it pays to miners.
	OutlaySat, MaxFeeSat ln.Sat
}

// Examine says what signing a transaction would cost its wallet, and refuses one
// that is not what was agreed. It trusts nothing in the PSBT but the transaction:
// the amounts of the wallet's coins are its own.
func (e Expected) Examine(raw []byte, channel ln.Outpoint) (feeSat, changeSat ln.Sat, err error) {
	p, err := ParsePsbt(raw)
	if err != nil {
		return 0, 0, err
	}
	tx := p.UnsignedTx
	if ln.TxID(tx.TxHash()) != channel.TxID || int(channel.Index) >= len(tx.TxOut) {
		return 0, 0, fmt.Errorf("the transaction is not that of channel %s, which the node shows", channel)
	}
	if tx.LockTime != 0 {
		return 0, 0, fmt.Errorf("the transaction cannot confirm before %d", tx.LockTime)
	}
	mine := make(map[ln.Outpoint]ln.Coin, len(e.Inputs))
	var brought ln.Sat
	for _, c := range e.Inputs {
		mine[c.Outpoint] = c
		if brought, err = brought.Add(c.AmountSat); err != nil {
			return 0, 0, err
		}
	}
	for i, in := range tx.TxIn {
		op := ln.Outpoint{TxID: ln.TxID(in.PreviousOutPoint.Hash), Index: in.PreviousOutPoint.Index}
		if in.Sequence&wire.SequenceLockTimeDisabled == 0 {
			return 0, 0, fmt.Errorf("the transaction cannot confirm before coin %s has an age (BIP 68)", op)
		}
		utxo := p.Inputs[i].WitnessUtxo
		if utxo == nil {
			return 0, 0, fmt.Errorf("input %s has no amount and script", op)
		}
		if _, segwit := inputWU(utxo.PkScript); !segwit {
			// Its signature could change the id that the commitments name.
			return 0, 0, fmt.Errorf("input %s is neither P2WPKH nor P2TR", op)
		}
		c, own := mine[op]
		if !own {
			continue
		}
		delete(mine, op)
		if amount, err := c.AmountSat.Int64(); err != nil || utxo.Value != amount || !bytes.Equal(utxo.PkScript, c.PkScript) {
			return 0, 0, fmt.Errorf("the PSBT says something else of coin %s than the wallet", op)
		}
	}
	if len(mine) > 0 {
		return 0, 0, fmt.Errorf("%d of the coins that were offered are not in the transaction: the amounts were computed with them", len(mine))
	}
	out := tx.TxOut[channel.Index]
	if amount, err := e.CapacitySat.Int64(); err != nil || out.Value != amount {
		return 0, 0, fmt.Errorf("the channel's output holds %d sat, not %s", out.Value, e.CapacitySat)
	}
	if !bytes.Equal(out.PkScript, e.FundingScript) {
		return 0, 0, fmt.Errorf("the channel's output does not pay to the keys of both nodes: it could never be spent by the channel")
	}
	for i, o := range tx.TxOut {
		if uint32(i) == channel.Index || !bytes.Equal(o.PkScript, e.ChangeScript) { //nolint:gosec // few outputs
			continue
		}
		if changeSat > 0 || o.Value <= 0 {
			return 0, 0, fmt.Errorf("the change is paid out more than once")
		}
		changeSat = ln.Sat(o.Value)
	}
	spent, err := changeSat.Add(e.OutlaySat)
	if err != nil {
		return 0, 0, err
	}
	if spent > brought {
		return 0, 0, fmt.Errorf("the wallet's coins bring %s, and its part of the transaction takes %s", brought, spent)
	}
	if feeSat = brought - spent; feeSat > e.MaxFeeSat {
		return 0, 0, fmt.Errorf("the wallet would pay %s to miners, more than %s", feeSat, e.MaxFeeSat)
	}
	return feeSat, changeSat, nil
}

// ForSigner makes the PSBT that a wallet is given to sign: the transaction, what
// its inputs hold, and of the wallet's own packet (made when its coins were
// chosen) the paths of its keys, of its coins and of its change. Nothing else of the other side's packet is kept:
// a key path that the other side wrote beside some other coin of the wallet would
// have it sign that coin away.
func ForSigner(agreed, own []byte) ([]byte, error) {
	theirs, err := ParsePsbt(agreed)
	if err != nil {
		return nil, err
	}
	wallet, err := ParsePsbt(own)
	if err != nil {
		return nil, err
	}
	paths := make(map[wire.OutPoint]psbt.PInput, len(wallet.Inputs))
	for i, in := range wallet.UnsignedTx.TxIn {
		paths[in.PreviousOutPoint] = wallet.Inputs[i]
	}
	change := make(map[string]psbt.POutput, len(wallet.Outputs))
	for i, o := range wallet.UnsignedTx.TxOut {
		change[string(o.PkScript)] = wallet.Outputs[i]
	}
	p, err := psbt.NewFromUnsignedTx(theirs.UnsignedTx.Copy())
	if err != nil {
		return nil, fmt.Errorf("make the PSBT: %w", err)
	}
	for i, in := range p.UnsignedTx.TxIn {
		p.Inputs[i].WitnessUtxo = theirs.Inputs[i].WitnessUtxo
		mine, own := paths[in.PreviousOutPoint]
		if !own {
			continue
		}
		if mine.WitnessUtxo != nil {
			p.Inputs[i].WitnessUtxo = mine.WitnessUtxo
		}
		p.Inputs[i].NonWitnessUtxo = mine.NonWitnessUtxo
		p.Inputs[i].Bip32Derivation = mine.Bip32Derivation
		p.Inputs[i].TaprootBip32Derivation = mine.TaprootBip32Derivation
		p.Inputs[i].TaprootInternalKey = mine.TaprootInternalKey
		p.Inputs[i].SighashType = mine.SighashType
	}
	for i, o := range p.UnsignedTx.TxOut {
		// A hardware wallet shows as its own what it finds the key of.
		if mine, own := change[string(o.PkScript)]; own {
			p.Outputs[i].Bip32Derivation = mine.Bip32Derivation
			p.Outputs[i].TaprootBip32Derivation = mine.TaprootBip32Derivation
			p.Outputs[i].TaprootInternalKey = mine.TaprootInternalKey
		}
	}
	var raw bytes.Buffer
	if err := p.Serialize(&raw); err != nil {
		return nil, fmt.Errorf("encode the PSBT: %w", err)
	}
	return raw.Bytes(), nil
}
