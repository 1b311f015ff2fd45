package funding

import (
	"bytes"
	"testing"

	"github.com/btcsuite/btcd/btcec/v2/schnorr"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// finished puts final witnesses into a PSBT.
func finished(t *testing.T, raw []byte, at map[int]wire.TxWitness) []byte {
	out, _ := change(t, raw, func(p *psbt.Packet) {
		for i, w := range at {
			var b bytes.Buffer
			require.NoError(t, psbt.WriteTxWitness(&b, w))
			p.Inputs[i] = psbt.PInput{WitnessUtxo: p.Inputs[i].WitnessUtxo, FinalScriptWitness: b.Bytes()}
		}
	})
	return out
}

// Both sides pay for the weight that a key spend has. A witness that is valid and
// heavier has the transaction pay less than was agreed, and one that nodes do not relay
// keeps the gateway's coins in a transaction that nobody takes.
func TestSignaturesAreKeySpends(t *testing.T) {
	wallet := newSigner(2)
	// A coin of the wallet's whose taproot key commits to a script that only weighs.
	leaf := txscript.NewBaseTapLeaf(append(append([]byte{txscript.OP_DROP}, bytes.Repeat([]byte{txscript.OP_1, txscript.OP_DROP}, 400)...), txscript.OP_1))
	tree := txscript.AssembleTaprootScriptTree(leaf)
	root := tree.RootNode.TapHash()
	heavyScript, err := txscript.PayToTaprootScript(txscript.ComputeTaprootOutputKey(wallet.key.PubKey(), root[:]))
	require.NoError(t, err)
	block := tree.LeafMerkleProofs[0].ToControlBlock(wallet.key.PubKey())
	control, err := block.ToBytes()
	require.NoError(t, err)

	ours, theirs, _, _, _ := fixed(t)
	theirs.Inputs[1].PkScript = heavyScript
	j, err := Divide(1_000_000, 500, ours, theirs)
	require.NoError(t, err)
	tx, err := BuildJoint(j, ours, theirs, append([]byte{0x00, 32}, bytes.Repeat([]byte{7}, 32)...))
	require.NoError(t, err)
	ops := []ln.Outpoint{theirs.Inputs[0].Outpoint, theirs.Inputs[1].Outpoint}

	p, err := ParsePsbt(tx.Psbt)
	require.NoError(t, err)
	fetch := txscript.NewMultiPrevOutFetcher(nil)
	index := make(map[ln.TxID]int)
	for i, in := range p.UnsignedTx.TxIn {
		fetch.AddPrevOut(in.PreviousOutPoint, p.Inputs[i].WitnessUtxo)
		index[ln.TxID(in.PreviousOutPoint.Hash)] = i
	}
	hashes := txscript.NewTxSigHashes(p.UnsignedTx, fetch)
	v0, v1 := index[ops[0].TxID], index[ops[1].TxID]
	ecdsa := func(kind txscript.SigHashType) wire.TxWitness {
		sig, err := txscript.RawTxInWitnessSignature(p.UnsignedTx, hashes, v0, 300_000, wallet.p2wpkh(), kind, wallet.key)
		require.NoError(t, err)
		return wire.TxWitness{sig, wallet.key.PubKey().SerializeCompressed()}
	}
	key := func(kind txscript.SigHashType) []byte {
		hash, err := txscript.CalcTaprootSignatureHash(hashes, kind, p.UnsignedTx, v1, fetch)
		require.NoError(t, err)
		sig, err := schnorr.Sign(txscript.TweakTaprootPrivKey(*wallet.key, root[:]), hash)
		require.NoError(t, err)
		if kind != txscript.SigHashDefault {
			return append(sig.Serialize(), byte(kind))
		}
		return sig.Serialize()
	}
	for _, c := range []struct {
		name   string
		v0, v1 wire.TxWitness
		taken  bool
	}{
		{"key spends", ecdsa(txscript.SigHashAll), wire.TxWitness{key(txscript.SigHashDefault)}, true},
		{"key spends, the kind written out", ecdsa(txscript.SigHashAll), wire.TxWitness{key(txscript.SigHashAll)}, true},
		{"a script", ecdsa(txscript.SigHashAll), wire.TxWitness{bytes.Repeat([]byte{1}, 80), leaf.Script, control}, false},
		{"an annex", ecdsa(txscript.SigHashAll), wire.TxWitness{{1}, leaf.Script, control, {0x50, 1}}, false},
		{"a signature of one output", ecdsa(txscript.SigHashSingle | txscript.SigHashAnyOneCanPay), wire.TxWitness{key(txscript.SigHashDefault)}, false},
		{"a taproot signature of no output", ecdsa(txscript.SigHashAll), wire.TxWitness{key(txscript.SigHashNone)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			half, err := TakeSignatures(tx.Psbt, finished(t, tx.Psbt, map[int]wire.TxWitness{v0: c.v0, v1: c.v1}), ops)
			if c.taken {
				require.NoError(t, err)
				require.NotEmpty(t, half)
				return
			}
			require.Equal(t, errkind.Invalid, errkind.Of(err), "%v", err)
			require.ErrorContains(t, err, "key")
		})
	}
}
