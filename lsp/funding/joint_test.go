package funding

import (
	"bytes"
	"testing"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// signer has one key and both kinds of outputs that may fund a channel.
type signer struct{ key *btcec.PrivateKey }

func newSigner(n byte) signer {
	key, _ := btcec.PrivKeyFromBytes(bytes.Repeat([]byte{n}, 32))
	return signer{key}
}

func (s signer) p2wpkh() []byte {
	return append([]byte{0x00, 20}, btcutil.Hash160(s.key.PubKey().SerializeCompressed())...)
}

func (s signer) p2tr(t require.TestingT) []byte {
	script, err := txscript.PayToTaprootScript(txscript.ComputeTaprootKeyNoScript(s.key.PubKey()))
	require.NoError(t, err)
	return script
}

// sign signs the inputs that are this signer's, as a wallet does; finish makes
// their final witnesses as well.
func (s signer) sign(t require.TestingT, raw []byte, finish bool) []byte {
	p, err := ParsePsbt(raw)
	require.NoError(t, err)
	fetch := txscript.NewMultiPrevOutFetcher(nil)
	for i, in := range p.UnsignedTx.TxIn {
		fetch.AddPrevOut(in.PreviousOutPoint, p.Inputs[i].WitnessUtxo)
	}
	hashes := txscript.NewTxSigHashes(p.UnsignedTx, fetch)
	for i := range p.Inputs {
		utxo := p.Inputs[i].WitnessUtxo
		switch {
		case bytes.Equal(utxo.PkScript, s.p2wpkh()):
			sig, err := txscript.RawTxInWitnessSignature(p.UnsignedTx, hashes, i, utxo.Value, utxo.PkScript, txscript.SigHashAll, s.key)
			require.NoError(t, err)
			p.Inputs[i].PartialSigs = []*psbt.PartialSig{{PubKey: s.key.PubKey().SerializeCompressed(), Signature: sig}}
		case bytes.Equal(utxo.PkScript, s.p2tr(t)):
			hash, err := txscript.CalcTaprootSignatureHash(hashes, txscript.SigHashDefault, p.UnsignedTx, i, fetch)
			require.NoError(t, err)
			sig, err := schnorr.Sign(txscript.TweakTaprootPrivKey(*s.key, nil), hash)
			require.NoError(t, err)
			p.Inputs[i].TaprootKeySpendSig = sig.Serialize()
		default:
			continue
		}
		if finish {
			_, err := psbt.MaybeFinalize(p, i)
			require.NoError(t, err)
		}
	}
	var out bytes.Buffer
	require.NoError(t, p.Serialize(&out))
	return out.Bytes()
}

// funds draws coins of a signer that come to at least a sum.
func (s signer) funds(t *rapid.T, name string, first byte, least ln.Sat) []ln.Coin {
	n := rapid.IntRange(1, 4).Draw(t, name+" coins")
	var out []ln.Coin
	for i := range n {
		script := s.p2wpkh()
		if rapid.Bool().Draw(t, name+" taproot") {
			script = s.p2tr(t)
		}
		out = append(out, ln.Coin{
			Outpoint:  ln.Outpoint{TxID: ln.TxID{first, byte(i)}, Index: uint32(rapid.IntRange(0, 3).Draw(t, name+" index"))},
			AmountSat: least/ln.Sat(n) + ln.Sat(rapid.Uint64Range(3_000, 90_000).Draw(t, name+" over")), PkScript: script, Confirmations: 3,
		})
	}
	return out
}

// Each side's coins are its outlay, its share of the fee and its change, to the
// sat; together they pay the rate for the weight that the transaction has; and
// what one side signed is taken, while the other's inputs stay unsigned.
func TestJointToTheSat(t *testing.T) {
	gateway, wallet := newSigner(1), newSigner(2)
	fundingScript := append([]byte{0x00, 32}, bytes.Repeat([]byte{7}, 32)...)
	rapid.Check(t, func(t *rapid.T) {
		share := ln.Sat(rapid.Uint64Range(10_000, 5_000_000).Draw(t, "wallet"))
		inbound := ln.Sat(rapid.Uint64Range(10_000, 5_000_000).Draw(t, "gateway"))
		service := ln.Sat(rapid.Uint64Range(0, 5_000).Draw(t, "service"))
		rate := ln.FeeRateSatPerKW(rapid.Uint64Range(253, 1_000).Draw(t, "rate"))
		ours := Party{Inputs: gateway.funds(t, "gateway", 1, inbound), OutlaySat: inbound - service, ChangeScript: append([]byte{0x51, 32}, bytes.Repeat([]byte{8}, 32)...)}
		theirs := Party{Inputs: wallet.funds(t, "wallet", 2, share+service), OutlaySat: share + service, ChangeScript: append([]byte{0x00, 20}, bytes.Repeat([]byte{9}, 20)...)}
		if rapid.Bool().Draw(t, "no change") {
			theirs.ChangeScript = nil
		}
		j, err := Divide(share+inbound, rate, ours, theirs)
		var short *ShortError
		if err != nil {
			require.ErrorAs(t, err, &short)
			require.Equal(t, errkind.Invalid, errkind.Of(err))
			return
		}
		sum := func(coins []ln.Coin) (all ln.Sat) {
			for _, c := range coins {
				all += c.AmountSat
			}
			return all
		}
		require.Equal(t, sum(ours.Inputs), ours.OutlaySat+j.Gateway.FeeSat+j.Gateway.ChangeSat)
		require.Equal(t, sum(theirs.Inputs), theirs.OutlaySat+j.Wallet.FeeSat+j.Wallet.ChangeSat)

		tx, err := BuildJoint(j, ours, theirs, fundingScript)
		require.NoError(t, err)
		op, agreed := tx.Funding, tx.Psbt
		expected := Expected{
			Inputs: theirs.Inputs, ChangeScript: theirs.ChangeScript, FundingScript: fundingScript,
			CapacitySat: share + inbound, OutlaySat: share + service, MaxFeeSat: j.Wallet.FeeSat,
		}
		fee, change, err := expected.Examine(agreed, op)
		require.NoError(t, err)
		require.Equal(t, j.Wallet.FeeSat, fee)
		require.Equal(t, j.Wallet.ChangeSat, change)

		var ops []ln.Outpoint
		for _, c := range theirs.Inputs {
			ops = append(ops, c.Outpoint)
		}
		half, err := TakeSignatures(agreed, wallet.sign(t, agreed, rapid.Bool().Draw(t, "finished")), ops)
		require.NoError(t, err)
		p, err := ParsePsbt(gateway.sign(t, half, true))
		require.NoError(t, err)
		final, err := psbt.Extract(p)
		require.NoError(t, err)
		var raw bytes.Buffer
		require.NoError(t, final.Serialize(&raw))
		require.NoError(t, Signed(raw.Bytes(), op.TxID))
		weight := uint64(final.SerializeSizeStripped()*3 + final.SerializeSize())
		require.LessOrEqual(t, weight, j.WeightWU)
		// Signatures are a byte or two shorter than the longest that are paid for.
		require.Less(t, j.WeightWU-weight, uint64(3*(len(ours.Inputs)+len(theirs.Inputs))+8))
		paid, err := rate.Fee(weight)
		require.NoError(t, err)
		require.GreaterOrEqual(t, j.FeeSat, paid)
	})
}

// fixed is one joint transaction and what its wallet expects of it.
func fixed(t *testing.T) (Party, Party, Joint, JointTx, Expected) {
	gateway, wallet := newSigner(1), newSigner(2)
	fundingScript := append([]byte{0x00, 32}, bytes.Repeat([]byte{7}, 32)...)
	ours := Party{
		Inputs:    []ln.Coin{{Outpoint: ln.Outpoint{TxID: ln.TxID{1}}, AmountSat: 700_000, PkScript: gateway.p2tr(t)}},
		OutlaySat: 600_000, ChangeScript: append([]byte{0x51, 32}, bytes.Repeat([]byte{8}, 32)...),
	}
	theirs := Party{
		Inputs: []ln.Coin{
			{Outpoint: ln.Outpoint{TxID: ln.TxID{2}}, AmountSat: 300_000, PkScript: wallet.p2wpkh()},
			{Outpoint: ln.Outpoint{TxID: ln.TxID{3}}, AmountSat: 200_000, PkScript: wallet.p2tr(t)},
		},
		OutlaySat: 400_000, ChangeScript: append([]byte{0x00, 20}, bytes.Repeat([]byte{9}, 20)...),
	}
	j, err := Divide(1_000_000, 500, ours, theirs)
	require.NoError(t, err)
	tx, err := BuildJoint(j, ours, theirs, fundingScript)
	require.NoError(t, err)
	return ours, theirs, j, tx, Expected{
		Inputs: theirs.Inputs, ChangeScript: theirs.ChangeScript, FundingScript: fundingScript,
		CapacitySat: 1_000_000, OutlaySat: 400_000, MaxFeeSat: j.Wallet.FeeSat,
	}
}

// change rewrites a PSBT's transaction.
func change(t *testing.T, raw []byte, f func(*psbt.Packet)) ([]byte, ln.TxID) {
	p, err := ParsePsbt(raw)
	require.NoError(t, err)
	f(p)
	var out bytes.Buffer
	require.NoError(t, p.Serialize(&out))
	return out.Bytes(), ln.TxID(p.UnsignedTx.TxHash())
}

// A wallet signs nothing but what it agreed to.
func TestExamineRefuses(t *testing.T) {
	_, theirs, j, tx, good := fixed(t)
	_, _, err := good.Examine(tx.Psbt, tx.Funding)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		edit func(*psbt.Packet)
		want func(*Expected)
		op   func(ln.Outpoint) ln.Outpoint
		says string
	}{
		"less change": {edit: func(p *psbt.Packet) { p.UnsignedTx.TxOut[tx.WalletChange.Index].Value-- }, says: "to miners"},
		"no change":   {edit: func(p *psbt.Packet) { p.UnsignedTx.TxOut[tx.WalletChange.Index].PkScript[5]++ }, says: "to miners"},
		"a smaller channel": {
			edit: func(p *psbt.Packet) { p.UnsignedTx.TxOut[tx.Funding.Index].Value-- }, says: "the channel's output holds",
		},
		"another script": {
			edit: func(p *psbt.Packet) { p.UnsignedTx.TxOut[tx.Funding.Index].PkScript[5]++ }, says: "keys of both nodes",
		},
		"another channel":    {op: func(op ln.Outpoint) ln.Outpoint { op.TxID[0]++; return op }, says: "is not that of channel"},
		"no such output":     {op: func(op ln.Outpoint) ln.Outpoint { op.Index = 9; return op }, says: "is not that of channel"},
		"a later block":      {edit: func(p *psbt.Packet) { p.UnsignedTx.LockTime = 500 }, says: "cannot confirm before"},
		"an age of an input": {edit: func(p *psbt.Packet) { p.UnsignedTx.TxIn[0].Sequence = 500 }, says: "BIP 68"},
		"a coin left out": {
			edit: func(p *psbt.Packet) { p.UnsignedTx.TxIn[1].PreviousOutPoint.Index++ }, says: "not in the transaction",
		},
		"an input without amount": {edit: func(p *psbt.Packet) { p.Inputs[0].WitnessUtxo = nil }, says: "no amount"},
		"a legacy input": {
			edit: func(p *psbt.Packet) {
				p.Inputs[0].WitnessUtxo.PkScript = append([]byte{0x76, 0xa9, 20}, make([]byte, 22)...)
			}, says: "neither P2WPKH nor P2TR",
		},
		"another amount of a coin": {edit: func(p *psbt.Packet) {
			for i, in := range p.UnsignedTx.TxIn {
				if ln.TxID(in.PreviousOutPoint.Hash) == theirs.Inputs[0].Outpoint.TxID {
					p.Inputs[i].WitnessUtxo.Value++
				}
			}
		}, says: "something else of coin"},
		"a dearer service": {want: func(e *Expected) { e.OutlaySat += j.Wallet.ChangeSat + j.Wallet.FeeSat + 1 }, says: "takes"},
		"a higher fee":     {want: func(e *Expected) { e.MaxFeeSat-- }, says: "to miners"},
	} {
		t.Run(name, func(t *testing.T) {
			raw, op, want := tx.Psbt, tx.Funding, good
			if c.edit != nil {
				var id ln.TxID
				raw, id = change(t, raw, c.edit)
				op.TxID = id
			}
			if c.want != nil {
				c.want(&want)
			}
			if c.op != nil {
				op = c.op(op)
			}
			_, _, err := want.Examine(raw, op)
			require.ErrorContains(t, err, c.says)
		})
	}
	_, _, err = good.Examine(make([]byte, MaxPsbtBytes+1), tx.Funding)
	require.ErrorContains(t, err, "larger")
}

// The gateway takes nothing but valid signatures of what was agreed.
func TestTakeSignaturesRefuses(t *testing.T) {
	_, theirs, _, tx, _ := fixed(t)
	wallet := newSigner(2)
	ops := []ln.Outpoint{theirs.Inputs[0].Outpoint, theirs.Inputs[1].Outpoint}
	signed := wallet.sign(t, tx.Psbt, false)
	_, err := TakeSignatures(tx.Psbt, signed, ops)
	require.NoError(t, err)
	for name, edit := range map[string]func(*psbt.Packet){
		"unsigned": func(p *psbt.Packet) {
			for i := range p.Inputs {
				p.Inputs[i].PartialSigs, p.Inputs[i].TaprootKeySpendSig = nil, nil
			}
		},
		"one signature missing": func(p *psbt.Packet) {
			for i := range p.Inputs {
				p.Inputs[i].PartialSigs = nil
			}
		},
		"a false signature": func(p *psbt.Packet) {
			for i := range p.Inputs {
				if len(p.Inputs[i].TaprootKeySpendSig) > 0 {
					p.Inputs[i].TaprootKeySpendSig[3]++
				}
			}
		},
		"another output":   func(p *psbt.Packet) { p.UnsignedTx.TxOut[0].Value-- },
		"another version":  func(p *psbt.Packet) { p.UnsignedTx.Version = 3 },
		"another sequence": func(p *psbt.Packet) { p.UnsignedTx.TxIn[0].Sequence = 1 },
		"a final witness that is none": func(p *psbt.Packet) {
			for i := range p.Inputs {
				p.Inputs[i].FinalScriptWitness = []byte{0xff, 0xff}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad, _ := change(t, signed, edit)
			_, err := TakeSignatures(tx.Psbt, bad, ops)
			require.Equal(t, errkind.Invalid, errkind.Of(err), "%v", err)
		})
	}
	_, err = TakeSignatures(tx.Psbt, []byte("nonsense"), ops)
	require.Equal(t, errkind.Invalid, errkind.Of(err))
	require.Error(t, Signed([]byte("nonsense"), tx.Funding.TxID))
}

// What the gateway writes about keys never reaches the wallet's signer.
func TestSignerSeesOnlyItsOwnKeyPaths(t *testing.T) {
	_, theirs, _, tx, _ := fixed(t)
	path := []*psbt.Bip32Derivation{{PubKey: newSigner(2).key.PubKey().SerializeCompressed(), Bip32Path: []uint32{1, 2}}}
	hostile, _ := change(t, tx.Psbt, func(p *psbt.Packet) {
		for i := range p.Inputs {
			p.Inputs[i].Bip32Derivation = path
			p.Inputs[i].SighashType = txscript.SigHashNone
		}
	})
	own := wire.NewMsgTx(2)
	own.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: [32]byte(theirs.Inputs[0].Outpoint.TxID)}, nil, nil))
	packet, err := psbt.NewFromUnsignedTx(own)
	require.NoError(t, err)
	packet.Inputs[0].Bip32Derivation = path
	var raw bytes.Buffer
	require.NoError(t, packet.Serialize(&raw))
	out, err := ForSigner(hostile, raw.Bytes())
	require.NoError(t, err)
	p, err := ParsePsbt(out)
	require.NoError(t, err)
	paths := 0
	for i, in := range p.UnsignedTx.TxIn {
		require.Zero(t, p.Inputs[i].SighashType)
		require.NotNil(t, p.Inputs[i].WitnessUtxo)
		if n := len(p.Inputs[i].Bip32Derivation); n > 0 {
			require.Equal(t, theirs.Inputs[0].Outpoint.TxID, ln.TxID(in.PreviousOutPoint.Hash))
			paths++
		}
	}
	require.Equal(t, 1, paths)
}

func TestJointRefusesNonsense(t *testing.T) {
	ours, theirs, j, _, e := fixed(t)
	bad := theirs
	bad.Inputs = append([]ln.Coin{ours.Inputs[0]}, theirs.Inputs...)
	k, err := Divide(1_000_000, 500, ours, bad)
	require.NoError(t, err)
	_, err = BuildJoint(k, ours, bad, e.FundingScript)
	require.ErrorContains(t, err, "named twice, or is the gateway's")
	bad = theirs
	bad.ChangeScript = ours.ChangeScript
	k, err = Divide(1_000_000, 500, ours, bad)
	require.NoError(t, err)
	_, err = BuildJoint(k, ours, bad, e.FundingScript)
	require.ErrorContains(t, err, "one script")
	bad = theirs
	bad.ChangeScript = []byte{0x6a}
	_, err = Divide(1_000_000, 500, ours, bad)
	require.Equal(t, errkind.Invalid, errkind.Of(err))
	bad = theirs
	bad.Inputs = []ln.Coin{{AmountSat: 1_000_000, PkScript: []byte{0x76}}}
	_, err = Divide(1_000_000, 500, ours, bad)
	require.Equal(t, errkind.Invalid, errkind.Of(err))
	_, err = Divide(999_999, 500, ours, theirs)
	require.Error(t, err)
	_, err = Divide(1_000_000, 1, ours, theirs)
	require.Error(t, err)
	_, err = Divide(1_000_000, 500, Party{OutlaySat: 600_000}, theirs)
	require.Error(t, err)
	j.Wallet.FeeSat--
	_, err = BuildJoint(j, ours, theirs, e.FundingScript)
	require.ErrorContains(t, err, "not those of these coins")
	_, err = BuildJoint(k, ours, bad, []byte{0x51})
	require.Error(t, err)
}
