package guard_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/btcutil/hdkeychain"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/input"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/lws/tenant/guard"
)

// now is the guard's clock.
func now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

const hard = hdkeychain.HardenedKeyStart

// wallet is a signer's wallet: whoever has it could sign.
type wallet struct {
	t      testing.TB
	master *hdkeychain.ExtendedKey
}

func newWallet(t testing.TB, fill byte) wallet {
	t.Helper()
	master, err := hdkeychain.NewMaster(bytes.Repeat([]byte{fill}, 32), &chaincfg.RegressionNetParams)
	require.NoError(t, err)
	return wallet{t, master}
}

func (w wallet) derive(path ...uint32) *hdkeychain.ExtendedKey {
	key := w.master
	for _, i := range path {
		var err error
		key, err = key.Derive(i)
		require.NoError(w.t, err)
	}
	return key
}

func (w wallet) key(path ...uint32) *btcec.PublicKey {
	key, err := w.derive(path...).ECPubKey()
	require.NoError(w.t, err)
	return key
}

// family is the path of one of lnd's keys.
func family(n, index uint32) []uint32 { return []uint32{1017 + hard, 1 + hard, n + hard, 0, index} }

// coinAt is the path of a key of the wallet's own.
func coinAt(purpose, branch, index uint32) []uint32 {
	return []uint32{purpose + hard, hard, hard, branch, index}
}

func (w wallet) keyring() *guard.Keyring {
	var accounts []guard.Account
	export := func(purpose, coin, n uint32) {
		key, err := w.derive(purpose+hard, coin+hard, n+hard).Neuter()
		require.NoError(w.t, err)
		accounts = append(accounts, guard.Account{Path: fmt.Sprintf("m/%d'/%d'/%d'", purpose, coin, n), Key: key.String()})
	}
	for _, purpose := range []uint32{49, 84, 86} {
		export(purpose, 0, 0)
	}
	for n := range uint32(12) {
		export(1017, 1, n)
	}
	k, err := guard.NewKeyring("regtest", accounts, 20)
	require.NoError(w.t, err)
	return k
}

// script is an output of the wallet's.
func (w wallet) script(purpose, branch, index uint32) []byte {
	key := w.key(coinAt(purpose, branch, index)...)
	switch purpose {
	case 86:
		script, err := txscript.PayToTaprootScript(txscript.ComputeTaprootKeyNoScript(key))
		require.NoError(w.t, err)
		return script
	case 49:
		return p2sh(w.witness(key))
	}
	return w.witness(key)
}

func (w wallet) witness(key *btcec.PublicKey) []byte {
	return append([]byte{txscript.OP_0, txscript.OP_DATA_20}, btcutil.Hash160(key.SerializeCompressed())...)
}

func p2sh(script []byte) []byte {
	return append(append([]byte{txscript.OP_HASH160, txscript.OP_DATA_20}, btcutil.Hash160(script)...), txscript.OP_EQUAL)
}

func p2wsh(script []byte) []byte {
	sum := sha256.Sum256(script)
	return append([]byte{txscript.OP_0, txscript.OP_DATA_32}, sum[:]...)
}

// stranger is an address of somebody else's.
func stranger(n byte) []byte {
	return append([]byte{txscript.OP_0, txscript.OP_DATA_20}, bytes.Repeat([]byte{n}, 20)...)
}

// policy is a tenant's that allows something of each.
func policy() guard.Policy {
	p := guard.DefaultPolicy("acme", "regtest")
	p.AddressSatPerTx, p.AddressSatPerDay = 100_000, 250_000
	p.ChannelSatPerTx, p.ChannelSatPerDay = 1_000_000, 2_500_000
	p.FeeSatPerTx, p.FeeSatPerDay = 10_000, 30_000
	p.Lookahead = 20
	return p
}

// out is an output of a transaction that is made up.
type out struct {
	script []byte
	sat    int64
}

// draft is a transaction for which signatures are asked, as lnd's watch-only node does:
// one input each time.
type draft struct {
	w  wallet
	tx *wire.MsgTx
	in []*input0
}

// input0 is one input with all that a request for it says.
type input0 struct {
	path    []uint32
	key     *btcec.PublicKey
	out     *wire.TxOut
	witness []byte
	redeem  []byte
	hash    txscript.SigHashType
	tweak   []byte
	double  bool
}

func (w wallet) draft(outs ...out) *draft {
	tx := wire.NewMsgTx(2)
	for _, o := range outs {
		tx.AddTxOut(wire.NewTxOut(o.sat, o.script))
	}
	return &draft{w: w, tx: tx}
}

// from adds an input by an outpoint that n makes different.
func (d *draft) from(n uint32, in input0) *draft {
	var hash [32]byte
	binary.BigEndian.PutUint32(hash[:], n)
	d.tx.AddTxIn(wire.NewTxIn(wire.NewOutPoint((*chainhash.Hash)(&hash), 0), nil, nil))
	if in.path != nil && in.key == nil {
		in.key = d.w.key(in.path...)
	}
	d.in = append(d.in, &in)
	return d
}

// coin adds one of the wallet's own.
func (d *draft) coin(n uint32, purpose, branch, index uint32, sat int64) *draft {
	script := d.w.script(purpose, branch, index)
	in := input0{path: coinAt(purpose, branch, index), out: wire.NewTxOut(sat, script), hash: txscript.SigHashAll}
	switch purpose {
	case 86:
		in.hash = txscript.SigHashDefault
	default:
		program := d.w.witness(d.w.key(in.path...))
		in.witness, in.redeem = program, program
	}
	return d.from(n, in)
}

// foreign adds an input of somebody else's.
func (d *draft) foreign(n uint32, sat int64) *draft {
	return d.from(n, input0{out: wire.NewTxOut(sat, stranger(99))})
}

// ask is the request for the signature of input i.
func (d *draft) ask(i int) *psbt.Packet {
	packet, err := psbt.NewFromUnsignedTx(d.tx)
	require.NoError(d.w.t, err)
	for j, x := range d.in {
		packet.Inputs[j].WitnessUtxo = x.out
	}
	in, x := &packet.Inputs[i], d.in[i]
	in.SighashType, in.WitnessScript, in.RedeemScript = x.hash, x.witness, x.redeem
	in.Bip32Derivation = []*psbt.Bip32Derivation{{PubKey: x.key.SerializeCompressed(), Bip32Path: x.path}}
	if txscript.IsPayToTaproot(x.out.PkScript) {
		in.TaprootBip32Derivation = []*psbt.TaprootBip32Derivation{{XOnlyPubKey: x.key.SerializeCompressed()[1:], Bip32Path: x.path}}
	}
	if x.tweak != nil {
		key := byte(0x51)
		if x.double {
			key = 0xd0
		}
		in.Unknowns = []*psbt.Unknown{{Key: []byte{key}, Value: x.tweak}}
	}
	return packet
}

func raw(t testing.TB, packet *psbt.Packet) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, packet.Serialize(&b))
	return b.Bytes()
}

// desk is a guard's decisions with a book.
type desk struct {
	t testing.TB
	k *guard.Keyring
	p guard.Policy
	b *guard.Book
	// entries are what a log would have.
	entries []guard.Entry
}

func newDesk(t testing.TB, w wallet) *desk { return deskWith(t, w.keyring()) }

// deskWith uses a keyring that others used: what it learned changes no decision.
func deskWith(t testing.TB, k *guard.Keyring) *desk {
	return &desk{t: t, k: k, p: policy(), b: guard.NewBook()}
}

// sign asks for a signature and gives the rule that refuses it, or none.
func (d *desk) sign(packet *psbt.Packet, at time.Time) guard.Rule {
	d.t.Helper()
	spend, err := d.k.ReadPsbt(raw(d.t, packet))
	if err == nil {
		var e *guard.Entry
		if e, err = d.k.Judge(d.p, d.b, spend, at); err == nil && e != nil {
			require.NoError(d.t, d.b.Apply(*e))
			d.entries = append(d.entries, *e)
		}
	}
	return ruleOf(d.t, err)
}

func ruleOf(t testing.TB, err error) guard.Rule {
	t.Helper()
	if err == nil {
		return ""
	}
	r, ok := errors.AsType[guard.Refusal](err)
	require.True(t, ok, "%v", err)
	return r.Rule
}

// all asks for every signature of a draft and gives the first refusal.
func (d *desk) all(x *draft, at time.Time) guard.Rule {
	d.t.Helper()
	for i, in := range x.in {
		if in.path == nil {
			continue
		}
		if r := d.sign(x.ask(i), at); r != "" {
			return r
		}
	}
	return ""
}

// tweakOf is how lnd changes a channel's key for one state.
func tweakOf(n byte) []byte {
	sum := sha256.Sum256([]byte{n})
	return sum[:]
}

func tweaked(key *btcec.PublicKey, tweak []byte) *btcec.PublicKey {
	return input.TweakPubKeyWithTweak(key, tweak)
}
