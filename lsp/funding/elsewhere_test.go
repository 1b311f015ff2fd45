package funding

import (
	"bytes"
	"encoding/base64"
	"testing"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// payment is what another wallet made ready: two coins, a payment, a change.
func payment(t *testing.T) *psbt.Packet {
	s := newSigner(4)
	before := wire.NewMsgTx(2)
	before.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: [32]byte{9}}, nil, nil))
	before.AddTxOut(wire.NewTxOut(1, s.p2tr(t)))
	before.AddTxOut(wire.NewTxOut(300_000, s.p2wpkh()))
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: before.TxHash(), Index: 1}, nil, nil))
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: [32]byte{3}}, nil, nil))
	tx.AddTxOut(wire.NewTxOut(400_000, newSigner(5).p2tr(t)))
	tx.AddTxOut(wire.NewTxOut(99_000, s.p2tr(t)))
	p, err := psbt.NewFromUnsignedTx(tx)
	require.NoError(t, err)
	path := []*psbt.Bip32Derivation{{PubKey: s.key.PubKey().SerializeCompressed(), Bip32Path: []uint32{84, 0}}}
	p.Inputs[0].NonWitnessUtxo, p.Inputs[0].Bip32Derivation = before, path
	p.Inputs[1].WitnessUtxo = wire.NewTxOut(200_000, s.p2tr(t))
	p.Outputs[1].Bip32Derivation = path
	return p
}

func encode(t *testing.T, p *psbt.Packet) []byte {
	var out bytes.Buffer
	require.NoError(t, p.Serialize(&out))
	return out.Bytes()
}

func TestReadOffered(t *testing.T) {
	s := newSigner(4)
	raw := encode(t, payment(t))
	o, err := ReadOffered(raw, nil)
	require.NoError(t, err)
	require.Len(t, o.Coins, 2)
	require.EqualValues(t, 300_000, o.Coins[0].AmountSat)
	require.Equal(t, s.p2wpkh(), o.Coins[0].PkScript)
	require.EqualValues(t, 200_000, o.Coins[1].AmountSat)
	require.Equal(t, s.p2tr(t), o.ChangeScript, "the output whose key it has")
	named, err := ReadOffered(raw, newSigner(6).p2wpkh())
	require.NoError(t, err)
	require.Equal(t, newSigner(6).p2wpkh(), named.ChangeScript)

	for _, file := range [][]byte{raw, []byte(base64.StdEncoding.EncodeToString(raw)), []byte(" " + base64.StdEncoding.EncodeToString(raw)[:20] + "\n" + base64.StdEncoding.EncodeToString(raw)[20:] + "\r\n")} {
		got, err := DecodePsbt(file)
		require.NoError(t, err)
		require.Equal(t, raw, got)
	}
	for _, file := range []string{"", "psbt", "cHNidA==", "{}"} {
		_, err := DecodePsbt([]byte(file))
		require.Equal(t, errkind.Invalid, errkind.Of(err), file)
	}

	for name, edit := range map[string]func(*psbt.Packet){
		"no coins": func(p *psbt.Packet) { p.UnsignedTx.TxIn, p.Inputs = nil, nil },
		"a coin twice": func(p *psbt.Packet) {
			p.UnsignedTx.TxIn[1].PreviousOutPoint = p.UnsignedTx.TxIn[0].PreviousOutPoint
			p.Inputs[1] = p.Inputs[0]
		},
		"nothing known of a coin": func(p *psbt.Packet) { p.Inputs[1].WitnessUtxo = nil },
		"another transaction":     func(p *psbt.Packet) { p.Inputs[0].NonWitnessUtxo.LockTime++ },
		"no such output":          func(p *psbt.Packet) { p.UnsignedTx.TxIn[0].PreviousOutPoint.Index = 7 },
		"two truths":              func(p *psbt.Packet) { p.Inputs[0].WitnessUtxo = wire.NewTxOut(300_001, s.p2wpkh()) },
		"a legacy coin":           func(p *psbt.Packet) { p.Inputs[1].WitnessUtxo.PkScript = []byte{0x76, 0xa9} },
		"an empty coin":           func(p *psbt.Packet) { p.Inputs[1].WitnessUtxo.Value = 0 },
		"a signed coin":           func(p *psbt.Packet) { p.Inputs[1].TaprootKeySpendSig = make([]byte, 64) },
		"a part of it":            func(p *psbt.Packet) { p.Inputs[0].SighashType = txscript.SigHashNone },
		"two outputs of its own":  func(p *psbt.Packet) { p.Outputs[0].Bip32Derivation = p.Outputs[1].Bip32Derivation },
		"none":                    func(p *psbt.Packet) { p.Outputs[1].Bip32Derivation = nil },
		"a change that is none":   func(p *psbt.Packet) { p.UnsignedTx.TxOut[1].PkScript = []byte{0x6a} },
	} {
		t.Run(name, func(t *testing.T) {
			p := payment(t)
			edit(p)
			_, err := ReadOffered(encode(t, p), nil)
			require.Equal(t, errkind.Invalid, errkind.Of(err), "%v", err)
		})
	}
}

// Everything but the fee comes back, to the wallet's own change, and its signer finds
// its keys.
func TestTakeBack(t *testing.T) {
	own := encode(t, payment(t))
	o, err := ReadOffered(own, nil)
	require.NoError(t, err)
	raw, err := TakeBack(o, own, 1_000)
	require.NoError(t, err)
	p, err := ParsePsbt(raw)
	require.NoError(t, err)
	require.Len(t, p.UnsignedTx.TxIn, 2)
	require.Len(t, p.UnsignedTx.TxOut, 1)
	require.Equal(t, o.ChangeScript, p.UnsignedTx.TxOut[0].PkScript)
	weight, err := Return{Coins: o.Coins, ToScript: o.ChangeScript}.WeightWU()
	require.NoError(t, err)
	require.EqualValues(t, 500_000-weight, p.UnsignedTx.TxOut[0].Value)
	require.NotEmpty(t, p.Outputs[0].Bip32Derivation)
	paths := 0
	for _, in := range p.Inputs {
		paths += len(in.Bip32Derivation)
	}
	require.Equal(t, 1, paths)
	_, err = TakeBack(o, own, 5_000_000)
	require.ErrorIs(t, err, ErrDust)
}
