package htlc

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr/musig2"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

func key(t *testing.T, n byte) Key {
	t.Helper()
	k, err := KeyFromShared([32]byte{31: n})
	require.NoError(t, err)
	return k
}

// pair is a contract of a swap out with both private keys.
func pair(t *testing.T) (c *Contract, sender, receiver Key, preimage ln.Preimage) {
	t.Helper()
	sender, receiver, preimage = key(t, 7), key(t, 9), ln.Preimage{1, 2, 3}
	c, err := New(Terms{
		Hash: preimage.Hash(), ExpiryHeight: 1000, Sender: sender.PubKey(), Receiver: receiver.PubKey(),
		SenderInternal: sender.PubKey(), ReceiverInternal: receiver.PubKey(),
	})
	require.NoError(t, err)
	return c, sender, receiver, preimage
}

var ours = ln.Outpoint{TxID: ln.TxID{9}, Index: 1}

const amount = ln.Sat(500_000)

// check runs the script engine over an input.
func check(c *Contract, tx *wire.MsgTx, index int, prevouts map[wire.OutPoint]*wire.TxOut) error {
	fetcher := txscript.NewMultiPrevOutFetcher(prevouts)
	vm, err := txscript.NewEngine(c.PkScript, tx, index, txscript.StandardVerifyFlags, nil,
		txscript.NewTxSigHashes(tx, fetcher), int64(amount), fetcher)
	if err != nil {
		return err
	}
	return vm.Execute()
}

// The outputs that loop v0.34.0-beta's swap.NewHtlcV3 makes of the same terms.
func TestOutputsAreThoseOfTheStockClient(t *testing.T) {
	for _, v := range vectors() {
		var terms Terms
		terms.Hash, _ = ln.ParseHash(v.hash)
		terms.ExpiryHeight = v.expiry
		for i, k := range []*ln.PubKey{&terms.SenderInternal, &terms.ReceiverInternal, &terms.Sender, &terms.Receiver} {
			var err error
			*k, err = ln.ParsePubKey(v.keys[i])
			require.NoError(t, err)
		}
		c, err := New(terms)
		require.NoError(t, err)
		require.Equal(t, v.script, hex.EncodeToString(c.PkScript))
		address, err := c.Address(&chaincfg.RegressionNetParams)
		require.NoError(t, err)
		require.Equal(t, v.address, address)
	}
}

func TestRefundIsGoodFromTheExpiryOn(t *testing.T) {
	c, sender, receiver, _ := pair(t)
	to := append([]byte{txscript.OP_1, 32}, bytes.Repeat([]byte{5}, 32)...)
	raw, fee, err := c.Refund(sender, ours, amount, to, 1000)
	require.NoError(t, err)
	tx := &wire.MsgTx{}
	require.NoError(t, tx.Deserialize(bytes.NewReader(raw)))
	require.EqualValues(t, amount-fee, tx.TxOut[0].Value)
	require.EqualValues(t, 1000, tx.LockTime)
	prev := map[wire.OutPoint]*wire.TxOut{wirePoint(ours): wire.NewTxOut(int64(amount), c.PkScript)}
	require.NoError(t, check(c, tx, 0, prev))
	how, _, err := c.Classify(tx.TxIn[0].Witness)
	require.NoError(t, err)
	require.Equal(t, SpendTimeout, how)
	weight := tx.SerializeSizeStripped()*3 + tx.SerializeSize()
	require.LessOrEqual(t, weight, RefundWU)
	require.Greater(t, weight, RefundWU-10, "the weight that refunds are priced by is theirs")

	early := tx.Copy()
	early.LockTime = 999
	require.Error(t, check(c, early, 0, prev))
	tx.TxOut[0].Value--
	require.Error(t, check(c, tx, 0, prev), "the signature covers the output")

	_, _, err = c.Refund(receiver, ours, amount, to, 1000)
	require.Error(t, err)
	_, _, err = c.Refund(sender, ours, 500, to, 1000)
	require.ErrorIs(t, err, ErrNotWorthIt)
}

// sweep is a client's transaction: ours beside another input.
func sweep(t *testing.T) (*wire.MsgTx, []byte, []Prevout, *Contract, Key, Key) {
	t.Helper()
	c, sender, receiver, _ := pair(t)
	tx := wire.NewMsgTx(2)
	other := ln.Outpoint{TxID: ln.TxID{3}, Index: 0}
	for _, op := range []ln.Outpoint{other, ours} {
		tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash(op.TxID), Index: op.Index}, nil, nil))
	}
	tx.AddTxOut(wire.NewTxOut(600_000, c.PkScript))
	packet, err := psbt.NewFromUnsignedTx(tx)
	require.NoError(t, err)
	var raw bytes.Buffer
	require.NoError(t, packet.Serialize(&raw))
	prevouts := []Prevout{
		{Outpoint: other, ValueSat: 200_000, PkScript: []byte{txscript.OP_1}},
		{Outpoint: ours, ValueSat: amount, PkScript: c.PkScript},
	}
	return tx, raw.Bytes(), prevouts, c, sender, receiver
}

// Both halves together are a signature that the script engine takes, and two
// requests for the same transaction never meet the same nonce.
func TestCosign(t *testing.T) {
	tx, raw, prevouts, c, sender, receiver := sweep(t)
	hash, err := c.SweepHash(raw, prevouts, ours, amount)
	require.NoError(t, err)
	seen := map[[66]byte]bool{}
	for range 3 {
		theirs, err := musig2.GenNonces(musig2.WithPublicKey(receiver.private.PubKey()))
		require.NoError(t, err)
		nonce, partial, err := c.Cosign(sender, theirs.PubNonce, hash, rand.Reader)
		require.NoError(t, err)
		require.False(t, seen[nonce])
		seen[nonce] = true

		combined, err := musig2.AggregateNonces([][66]byte{theirs.PubNonce, nonce})
		require.NoError(t, err)
		keys := []*btcec.PublicKey{sender.private.PubKey(), receiver.private.PubKey()}
		their, err := musig2.Sign(theirs.SecNonce, receiver.private, combined, keys, hash, musig2.WithSortedKeys(), musig2.WithTaprootSignTweak(c.root[:]))
		require.NoError(t, err)
		var s btcec.ModNScalar
		require.False(t, s.SetByteSlice(partial[:]))
		our := musig2.NewPartialSignature(&s, their.R)
		sig := musig2.CombineSigs(their.R, []*musig2.PartialSignature{their, &our}, musig2.WithTaprootTweakedCombine(hash, keys, c.root[:], true))
		tx.TxIn[1].Witness = wire.TxWitness{sig.Serialize()}
		known := map[wire.OutPoint]*wire.TxOut{}
		for _, p := range prevouts {
			known[wirePoint(p.Outpoint)] = wire.NewTxOut(int64(p.ValueSat), p.PkScript)
		}
		require.NoError(t, check(c, tx, 1, known))
		how, _, err := c.Classify(tx.TxIn[1].Witness)
		require.NoError(t, err)
		require.Equal(t, SpendKey, how)
	}
}

func TestSweepsThatAreNotSigned(t *testing.T) {
	_, raw, prevouts, c, sender, _ := sweep(t)
	elsewhere := ours
	elsewhere.Index++
	lied, cheap, missing := clone(prevouts), clone(prevouts), prevouts[1:]
	lied[1].PkScript = []byte{txscript.OP_1}
	cheap[1].ValueSat--
	for name, f := range map[string]func() error{
		"no PSBT":            func() error { _, err := c.SweepHash([]byte("psbt"), prevouts, ours, amount); return err },
		"not our output":     func() error { _, err := c.SweepHash(raw, prevouts, elsewhere, amount); return err },
		"another script":     func() error { _, err := c.SweepHash(raw, lied, ours, amount); return err },
		"another amount":     func() error { _, err := c.SweepHash(raw, cheap, ours, amount); return err },
		"an input unknown":   func() error { _, err := c.SweepHash(raw, missing, ours, amount); return err },
		"a nonce of nothing": func() error { _, _, err := c.Cosign(sender, [66]byte{}, [32]byte{1}, rand.Reader); return err },
		"a nonce off curve": func() error {
			_, _, err := c.Cosign(sender, [66]byte{0: 2, 32: 5, 33: 2, 65: 5}, [32]byte{1}, rand.Reader)
			return err
		},
		"impossible prevouts": func() error {
			p := clone(prevouts)
			p[0].ValueSat = 1 << 63
			_, err := c.SweepHash(raw, p, ours, amount)
			return err
		},
	} {
		require.ErrorIs(t, f(), errkind.Invalid, name)
	}
}

func clone(p []Prevout) []Prevout { return append([]Prevout(nil), p...) }

func TestClassify(t *testing.T) {
	c, _, _, preimage := pair(t)
	how, found, err := c.Classify(wire.TxWitness{preimage.Bytes(), make([]byte, 64), c.successScript, make([]byte, 65)})
	require.NoError(t, err)
	require.Equal(t, SpendSuccess, how)
	require.Equal(t, preimage, found)
	for _, w := range []wire.TxWitness{
		nil,
		{make([]byte, 32), make([]byte, 64), c.successScript, make([]byte, 65)},
		{preimage.Bytes(), make([]byte, 64), c.timeoutScript, make([]byte, 65)},
		{make([]byte, 64), c.successScript, make([]byte, 65)},
	} {
		_, _, err := c.Classify(w)
		require.Error(t, err)
	}
	how, _, err = c.Classify(wire.TxWitness{make([]byte, 64), {txscript.TaprootAnnexTag, 1}})
	require.NoError(t, err)
	require.Equal(t, SpendKey, how)
}

// Each swap has a point of its own, which is on the curve and not a multiple
// that anybody knows: it is not hash·G.
func TestTweak(t *testing.T) {
	seen := map[ln.PubKey]bool{}
	for i := range 200 {
		hash := ln.Hash{byte(i)}
		p := Tweak("out", hash)
		_, err := btcec.ParsePubKey(p[:])
		require.NoError(t, err)
		require.Equal(t, p, Tweak("out", hash))
		require.NotEqual(t, p, Tweak("in", hash))
		require.False(t, seen[p])
		seen[p] = true
		_, known := btcec.PrivKeyFromBytes(hash[:])
		require.NotEqual(t, ln.PubKey(known.SerializeCompressed()), p)
	}
	// It never changes: swaps under way would lose their keys.
	require.Equal(t, pinnedTweak, Tweak("out", ln.Hash{1}).String())
	require.NotContains(t, fmt.Sprintf("%v %#v", key(t, 5), key(t, 5)), hex.EncodeToString([]byte{31: 5}))
}

// Several contracts in one transaction: each input stands in the script engine, the
// weight is what it is priced by, and one input is all that one more costs.
func TestTake(t *testing.T) {
	var all []Taking
	var ways []Spend
	prev := map[wire.OutPoint]*wire.TxOut{}
	for i, way := range []Spend{SpendKey, SpendSuccess, SpendTimeout, SpendTimeout} {
		preimage := ln.Preimage{byte(i + 1)}
		keys := [4]Key{key(t, byte(4*i+11)), key(t, byte(4*i+12)), key(t, byte(4*i+13)), key(t, byte(4*i+14))}
		c, err := New(Terms{
			Hash: preimage.Hash(), ExpiryHeight: 1000 + uint32(i), Sender: keys[0].PubKey(), Receiver: keys[1].PubKey(),
			SenderInternal: keys[2].PubKey(), ReceiverInternal: keys[3].PubKey(),
		})
		require.NoError(t, err)
		taking := Taking{Contract: c, Outpoint: ln.Outpoint{TxID: ln.TxID{byte(i + 1)}, Index: uint32(i)}, AmountSat: 100_000, Way: way, Preimage: preimage}
		switch way {
		case SpendKey:
			taking.Ours, taking.Theirs = keys[3], keys[2]
		case SpendSuccess:
			taking.Ours = keys[1]
		case SpendTimeout:
			taking.Ours = keys[0]
		}
		prev[wirePoint(taking.Outpoint)] = wire.NewTxOut(100_000, c.PkScript)
		all, ways = append(all, taking), append(ways, way)

		claim, err := Take(all, append([]byte{txscript.OP_1, 32}, bytes.Repeat([]byte{5}, 32)...), 1_234, rand.Reader)
		require.NoError(t, err)
		tx := &wire.MsgTx{}
		require.NoError(t, tx.Deserialize(bytes.NewReader(claim.Raw)))
		require.EqualValues(t, 100_000*len(all)-1_234, tx.TxOut[0].Value)
		have := uint64(tx.SerializeSizeStripped()*3 + tx.SerializeSize())
		require.LessOrEqual(t, have, TogetherWU(ways...))
		require.Greater(t, have+10*uint64(len(all)), TogetherWU(ways...))
		require.Equal(t, TogetherWU(ways[:i]...)+way.InputWU(), TogetherWU(ways...))
		for n, taken := range all {
			require.NoError(t, check(taken.Contract, tx, n, prev))
		}
		if i >= 2 {
			require.EqualValues(t, 1000+i, tx.LockTime, "not before the last has expired")
		}
	}
	_, err := Take(append(all, all[0]), []byte{txscript.OP_1}, 1_234, rand.Reader)
	require.ErrorContains(t, err, "twice")
	_, err = Take(all, []byte{txscript.OP_1}, 399_700, rand.Reader)
	require.ErrorIs(t, err, ErrNotWorthIt)
	_, err = Take(nil, []byte{txscript.OP_1}, 0, rand.Reader)
	require.ErrorIs(t, err, ErrNotWorthIt)
	for _, wrong := range []Taking{{Contract: all[0].Contract, Way: SpendKey, Ours: all[0].Ours}, {Contract: all[0].Contract, Way: SpendKey, Ours: all[0].Theirs, Theirs: all[0].Ours}, {Contract: all[0].Contract, Way: "steal", Ours: all[0].Ours}} {
		_, err = Take([]Taking{wrong}, []byte{txscript.OP_1}, 0, rand.Reader)
		require.Error(t, err)
	}
}

// Claims of a swap in, by the leaf and by the key path, with internal keys of
// their own, at the weights that they are priced by.
func TestClaims(t *testing.T) {
	preimage := ln.Preimage{4}
	sender, receiver, senderIn, receiverIn := key(t, 11), key(t, 12), key(t, 13), key(t, 14)
	c, err := New(Terms{
		Hash: preimage.Hash(), ExpiryHeight: 1000, Sender: sender.PubKey(), Receiver: receiver.PubKey(),
		SenderInternal: senderIn.PubKey(), ReceiverInternal: receiverIn.PubKey(),
	})
	require.NoError(t, err)
	to := append([]byte{txscript.OP_1, 32}, bytes.Repeat([]byte{5}, 32)...)
	prev := map[wire.OutPoint]*wire.TxOut{wirePoint(ours): wire.NewTxOut(int64(amount), c.PkScript)}
	byLeaf, err := c.Claim(receiver, preimage, ours, amount, to, 1000)
	require.NoError(t, err)
	byKey, err := c.ClaimByKey(senderIn, receiverIn, ours, amount, to, 1000, rand.Reader)
	require.NoError(t, err)
	require.Less(t, byKey.FeeSat, byLeaf.FeeSat)
	for claim, weight := range map[*Claimed]int{&byLeaf: ClaimWU, &byKey: KeyClaimWU} {
		tx := &wire.MsgTx{}
		require.NoError(t, tx.Deserialize(bytes.NewReader(claim.Raw)))
		require.Equal(t, claim.TxID, ln.TxID(tx.TxHash()))
		require.NoError(t, check(c, tx, 0, prev))
		have := tx.SerializeSizeStripped()*3 + tx.SerializeSize()
		require.LessOrEqual(t, have, weight)
		require.Greater(t, have, weight-10)
		tx.TxOut[0].Value++
		require.Error(t, check(c, tx, 0, prev))
	}
	_, err = c.Claim(receiver, ln.Preimage{5}, ours, amount, to, 1000)
	require.Error(t, err)
	_, err = c.ClaimByKey(sender, receiverIn, ours, amount, to, 1000, rand.Reader)
	require.Error(t, err)
	_, err = ParseKey([32]byte{31: 13}, senderIn.PubKey())
	require.NoError(t, err)
	for _, wrong := range [][32]byte{{31: 11}, {}} {
		_, err = ParseKey(wrong, senderIn.PubKey())
		require.ErrorIs(t, err, errkind.Invalid)
	}
}
