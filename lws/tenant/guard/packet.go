package guard

import (
	"bytes"
	"fmt"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/btcutil/hdkeychain"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/psbts"
)

// kind is what a signature would spend.
type kind int

const (
	// ofWallet: a coin of the wallet's own accounts.
	ofWallet kind = iota
	// ofChannel: a channel's funding output, to a commitment or a closing transaction.
	ofChannel
	// ofHtlc: an HTLC of a commitment, to its second transaction.
	ofHtlc
	// ofCoin: what lnd's other keys have: outputs of closed channels, anchors, swaps.
	ofCoin
)

// ask is one signature that is asked for.
type ask struct {
	kind     kind
	outpoint wire.OutPoint
	valueSat int64
	script   []byte
}

// Spend is a request to sign a transaction, understood.
type Spend struct {
	tx   *wire.MsgTx
	id   chainhash.Hash
	asks []ask
	// Packet is what the signer is given: written anew, so that it reads what was judged.
	Packet []byte
}

// TxID is the transaction's.
func (s Spend) TxID() chainhash.Hash { return s.id }

// What describes it in a word for the log.
func (s Spend) What() string {
	switch s.asks[0].kind {
	case ofWallet:
		return "wallet"
	case ofChannel:
		return "channel"
	case ofHtlc:
		return "htlc"
	}
	return "sweep"
}

const (
	maxPacket  = 4 << 20
	maxInOuts  = 5000
	tweakBytes = 32
)

// lnd's own entries in a PSBT: the tweak of a key before it signs.
const (
	tweakSingle = 0x51
	tweakDouble = 0xd0
)

// ReadPsbt understands a PSBT, or refuses it.
func (k *Keyring) ReadPsbt(raw []byte) (Spend, error) {
	if len(raw) > maxPacket {
		return Spend{}, refuse(RuleForm, "a PSBT of %d bytes", len(raw))
	}
	packet, err := psbts.Parse(raw)
	if err != nil {
		return Spend{}, refuse(RuleForm, "a PSBT that cannot be read: %v", err)
	}
	tx := packet.UnsignedTx
	switch {
	case len(packet.Unknowns) > 0 || len(packet.XPubs) > 0:
		return Spend{}, refuse(RuleUnknown, "a PSBT with entries that lnd does not write")
	case len(tx.TxIn) == 0 || len(tx.TxOut) == 0 || len(tx.TxIn) > maxInOuts || len(tx.TxOut) > maxInOuts:
		return Spend{}, refuse(RuleForm, "a transaction of %d inputs and %d outputs", len(tx.TxIn), len(tx.TxOut))
	}
	for _, o := range tx.TxOut {
		if o.Value < 0 || o.Value > btcutil.MaxSatoshi {
			return Spend{}, refuse(RuleForm, "an output of %d sat", o.Value)
		}
	}
	for _, o := range packet.Outputs {
		if len(o.Unknowns) > 0 {
			return Spend{}, refuse(RuleUnknown, "an output with entries that lnd does not write")
		}
	}
	s := Spend{tx: tx, id: tx.TxHash()}
	seen := map[wire.OutPoint]bool{}
	for i := range packet.Inputs {
		at := tx.TxIn[i].PreviousOutPoint
		if seen[at] {
			return Spend{}, refuse(RuleForm, "an input twice")
		}
		seen[at] = true
		in := &packet.Inputs[i]
		// The signer skips an input with a whole witness, and one without a path.
		if len(in.FinalScriptWitness) > 0 || len(in.Bip32Derivation) == 0 {
			if len(in.Unknowns) > 0 {
				return Spend{}, refuse(RuleUnknown, "an input with entries that lnd does not write")
			}
			continue
		}
		a, err := k.readInput(in, tx, i)
		if err != nil {
			return Spend{}, err
		}
		s.asks = append(s.asks, a)
	}
	if len(s.asks) == 0 {
		return Spend{}, refuse(RuleForm, "a PSBT that asks for no signature")
	}
	var out bytes.Buffer
	if err := packet.Serialize(&out); err != nil {
		return Spend{}, refuse(RuleForm, "a PSBT that cannot be written: %v", err)
	}
	s.Packet = out.Bytes()
	return s, nil
}

func (k *Keyring) readInput(in *psbt.PInput, tx *wire.MsgTx, i int) (ask, error) {
	switch {
	case in.WitnessUtxo == nil:
		return ask{}, refuse(RuleForm, "an input without the output that it spends")
	case in.WitnessUtxo.Value < 0 || in.WitnessUtxo.Value > btcutil.MaxSatoshi:
		return ask{}, refuse(RuleForm, "an input of %d sat", in.WitnessUtxo.Value)
	case len(in.Bip32Derivation) != 1 || len(in.TaprootBip32Derivation) > 1 || len(in.TaprootLeafScript) > 1:
		return ask{}, refuse(RuleForm, "an input for more than one key")
	}
	a := ask{outpoint: tx.TxIn[i].PreviousOutPoint, valueSat: in.WitnessUtxo.Value, script: in.WitnessUtxo.PkScript}
	path := in.Bip32Derivation[0].Bip32Path
	const hard = hdkeychain.HardenedKeyStart
	if len(path) != 5 || path[0] < hard || path[1] < hard || path[2] < hard || path[3] >= hard || path[4] >= hard {
		return ask{}, refuse(RuleKey, "a key that is none of lnd's")
	}
	purpose := path[0] - hard
	if purpose == purposeLnd {
		if path[1]-hard != k.coin || path[3] != 0 {
			return ask{}, refuse(RuleKey, "a key of another network or branch")
		}
		key, err := k.Lnd(path[2]-hard, path[4])
		if err != nil {
			return ask{}, err
		}
		if !bytes.Equal(key.SerializeCompressed(), in.Bip32Derivation[0].PubKey) {
			return ask{}, refuse(RuleKey, "a key and a path that do not belong together")
		}
		return k.readLnd(a, in, tx, i, path[2]-hard, key)
	}
	if path[1] != hard || path[2] != hard {
		return ask{}, refuse(RuleKey, "a key of an account that no node has")
	}
	key, err := k.walletKey(purpose, path[3], path[4])
	if err != nil {
		return ask{}, err
	}
	if !bytes.Equal(key.SerializeCompressed(), in.Bip32Derivation[0].PubKey) {
		return ask{}, refuse(RuleKey, "a key and a path that do not belong together")
	}
	if len(in.Unknowns) > 0 {
		return ask{}, refuse(RuleUnknown, "a coin of the wallet with a tweaked key")
	}
	return a, k.readWallet(in, purpose, key)
}

// readWallet makes sure that a coin is what the wallet makes of the key, and that the
// signature is worth something for this transaction alone.
func (k *Keyring) readWallet(in *psbt.PInput, purpose uint32, key *btcec.PublicKey) error {
	scripts, err := scriptsOf(purpose, key)
	if err != nil {
		return err
	}
	known := false
	for _, s := range scripts {
		known = known || bytes.Equal(s, in.WitnessUtxo.PkScript)
	}
	if !known {
		return refuse(RuleScript, "a coin that the wallet does not make of this key")
	}
	if purpose == purposeTaproot {
		if in.SighashType != txscript.SigHashDefault && in.SighashType != txscript.SigHashAll {
			return refuse(RuleSigHash, "a coin's signature that would be worth something for another transaction (%#x)", uint32(in.SighashType))
		}
		if len(in.TaprootBip32Derivation) != 1 || len(in.TaprootBip32Derivation[0].LeafHashes) > 0 || len(in.TaprootMerkleRoot) > 0 || len(in.TaprootLeafScript) > 0 {
			return refuse(RuleScript, "a coin of the wallet by a script")
		}
		return nil
	}
	if in.SighashType != txscript.SigHashAll {
		return refuse(RuleSigHash, "a coin's signature that would be worth something for another transaction (%#x)", uint32(in.SighashType))
	}
	// What is signed is the redeem script, else the witness script, else the output's.
	witness := scripts[len(scripts)-1]
	if (len(in.RedeemScript) > 0 && !bytes.Equal(in.RedeemScript, witness)) || (len(in.WitnessScript) > 0 && !bytes.Equal(in.WitnessScript, witness)) {
		return refuse(RuleScript, "a coin of the wallet by another script")
	}
	if txscript.IsPayToScriptHash(in.WitnessUtxo.PkScript) && len(in.RedeemScript) == 0 && len(in.WitnessScript) == 0 {
		return refuse(RuleScript, "a nested coin without its script")
	}
	return nil
}

// readLnd is for the keys of channels, and of programs on the node.
func (k *Keyring) readLnd(a ask, in *psbt.PInput, tx *wire.MsgTx, i int, family uint32, key *btcec.PublicKey) (ask, error) {
	tweak, err := readTweak(in.Unknowns)
	if err != nil {
		return ask{}, err
	}
	a.kind = ofCoin
	if txscript.IsPayToTaproot(a.script) {
		if in.SighashType != txscript.SigHashDefault && in.SighashType != txscript.SigHashAll {
			return ask{}, refuse(RuleSigHash, "a coin's signature that would be worth something for another transaction (%#x)", uint32(in.SighashType))
		}
		return a, nil
	}
	if txscript.IsPayToWitnessPubKeyHash(a.script) {
		if len(in.RedeemScript) > 0 || (len(in.WitnessScript) > 0 && !bytes.Equal(in.WitnessScript, a.script)) {
			return ask{}, refuse(RuleScript, "a coin by another script")
		}
		return a, onlyAll(in)
	}
	if !txscript.IsPayToWitnessScriptHash(a.script) || len(in.RedeemScript) > 0 || !bytes.Equal(a.script, scriptHashOf(in.WitnessScript)) {
		return ask{}, refuse(RuleScript, "an output by a script that is not its own")
	}
	if one, other, ok := fundingKeys(in.WitnessScript); ok && family == familyMultisig {
		switch own := pubKey(key); {
		case own != one && own != other:
			return ask{}, refuse(RuleScript, "a channel of others")
		case tweak.kind != 0:
			return ask{}, refuse(RuleKey, "a funding key with a tweak")
		case len(tx.TxIn) != 1:
			return ask{}, refuse(RuleForm, "a channel's transaction with further inputs")
		}
		if _, err := k.Multisig(pubKey(key)); err != nil {
			return ask{}, err
		}
		a.kind = ofChannel
		return a, onlyAll(in)
	}
	if h, ok := htlcScript(in.WitnessScript); ok && family == familyHtlc && tweak.kind != tweakDouble {
		own := pubKey(tweak.apply(key))
		if own != h.keys[0] && own != h.keys[1] {
			return ask{}, refuse(RuleScript, "an HTLC of others")
		}
		if second(tx, i, a.valueSat, in.SighashType, h.anchors) {
			a.kind = ofHtlc
			return a, nil
		}
	}
	return a, onlyAll(in)
}

func onlyAll(in *psbt.PInput) error {
	if in.SighashType != txscript.SigHashAll {
		return refuse(RuleSigHash, "a coin's signature that would be worth something for another transaction (%#x)", uint32(in.SighashType))
	}
	return nil
}

// second says whether a transaction is the second one of an HTLC: what comes after is a
// script again, of the same amount where the channel has anchors. The commitment's owner
// adds inputs for fees where the channel has anchors; the peer's signature leaves room
// for that.
func second(tx *wire.MsgTx, i int, valueSat int64, hash txscript.SigHashType, anchors bool) bool {
	if i >= len(tx.TxOut) || !txscript.IsPayToWitnessScriptHash(tx.TxOut[i].PkScript) {
		return false
	}
	if anchors {
		if tx.TxOut[i].Value != valueSat {
			return false
		}
		return hash == txscript.SigHashAll || (hash == txscript.SigHashSingle|txscript.SigHashAnyOneCanPay && len(tx.TxIn) == 1 && len(tx.TxOut) == 1)
	}
	return hash == txscript.SigHashAll && len(tx.TxIn) == 1 && len(tx.TxOut) == 1 && tx.TxOut[i].Value <= valueSat
}

// tweaked is how a key is changed before it signs.
type tweaked struct {
	kind byte
	by   []byte
}

func readTweak(unknowns []*psbt.Unknown) (tweaked, error) {
	if len(unknowns) == 0 {
		return tweaked{}, nil
	}
	u := unknowns[0]
	if len(unknowns) > 1 || len(u.Key) != 1 || len(u.Value) != tweakBytes || (u.Key[0] != tweakSingle && u.Key[0] != tweakDouble) {
		return tweaked{}, refuse(RuleUnknown, "an input with entries that lnd does not write")
	}
	return tweaked{kind: u.Key[0], by: u.Value}, nil
}

// apply gives the key that a single tweak makes.
func (t tweaked) apply(key *btcec.PublicKey) *btcec.PublicKey {
	if t.kind != tweakSingle {
		return key
	}
	var by btcec.ModNScalar
	by.SetByteSlice(t.by)
	var base, shift, sum btcec.JacobianPoint
	key.AsJacobian(&base)
	btcec.ScalarBaseMultNonConst(&by, &shift)
	btcec.AddNonConst(&base, &shift, &sum)
	sum.ToAffine()
	return btcec.NewPublicKey(&sum.X, &sum.Y)
}

// String is for logs.
func (s Spend) String() string { return fmt.Sprintf("%s %s", s.What(), s.id) }
