package guard_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/input"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/lws/tenant/guard"
)

// TestWalletSpends: what a host may have of the wallet's coins, one request for each
// input, as a watch-only lnd asks.
func TestWalletSpends(t *testing.T) {
	w := newWallet(t, 7)
	peer := newWallet(t, 8).key(family(0, 0)...)
	multisig, err := input.GenMultiSigScript(w.key(family(0, 3)...).SerializeCompressed(), peer.SerializeCompressed())
	require.NoError(t, err)
	channel := p2wsh(multisig)
	for _, row := range []struct {
		name string
		d    *draft
		want guard.Rule
	}{
		{"to an address, within the limit", w.draft(out{stranger(1), 99_000}, out{w.script(86, 1, 0), 400_000}).coin(1, 84, 0, 0, 500_000), ""},
		{"at the limit, fee included", w.draft(out{stranger(1), 99_001}, out{w.script(86, 1, 0), 400_000}).coin(1, 84, 0, 0, 500_000), ""},
		{"the fee beyond the limit", w.draft(out{stranger(1), 99_001}, out{w.script(86, 1, 0), 400_000}).coin(1, 84, 0, 0, 500_001), guard.RuleAddressTx},
		{"beyond the limit", w.draft(out{stranger(1), 100_000}, out{w.script(86, 1, 0), 400_000}).coin(1, 84, 0, 0, 500_001), guard.RuleAddressTx},
		{"nested coins, their change", w.draft(out{w.script(49, 1, 0), 499_000}).coin(1, 49, 0, 0, 500_000), ""},
		{"taproot coins", w.draft(out{w.script(86, 1, 19), 499_000}).coin(1, 86, 0, 0, 500_000), ""},
		{"change past what is known", w.draft(out{w.script(86, 1, 21), 499_000}).coin(1, 86, 0, 0, 500_000), guard.RuleAddressTx},
		{"several coins, of which each alone would do", w.draft(out{stranger(1), 190_000}, out{w.script(86, 1, 0), 9_000}).coin(1, 84, 0, 0, 100_000).coin(2, 86, 0, 1, 100_000), guard.RuleAddressTx},
		{"a channel", w.draft(out{channel, 900_000}, out{w.script(86, 1, 0), 99_000}).coin(1, 84, 0, 0, 1_000_000), ""},
		{"a channel too large", w.draft(out{channel, 1_000_001}).coin(1, 84, 0, 0, 1_001_000), guard.RuleChannelTx},
		{"a channel and an address", w.draft(out{channel, 900_000}, out{stranger(1), 100_001}).coin(1, 84, 0, 0, 1_000_002), guard.RuleAddressTx},
		{"a channel that both sides fund", w.draft(out{channel, 3_000_000}, out{stranger(1), 1_000_000}, out{w.script(86, 1, 0), 9_500}).coin(1, 84, 0, 0, 510_000).foreign(2, 3_500_000), ""},
		{"fees", w.draft(out{w.script(84, 1, 0), 490_000}).coin(1, 84, 0, 0, 500_000), ""},
		{"too much to miners", w.draft(out{w.script(84, 1, 0), 489_999}).coin(1, 84, 0, 0, 500_000), guard.RuleFeeTx},
		{"all to miners, behind another's output", w.draft(out{stranger(1), 0}).coin(1, 84, 0, 0, 500_000), guard.RuleFeeTx},
	} {
		t.Run(row.name, func(t *testing.T) {
			require.Equal(t, row.want, newDesk(t, w).all(row.d, now()))
		})
	}
	d := newDesk(t, w)
	address, err := btcutil.NewAddressWitnessPubKeyHash(bytes.Repeat([]byte{1}, 20), &chaincfg.RegressionNetParams)
	require.NoError(t, err)
	d.p.KnownAddresses = []string{address.String()}
	require.NoError(t, d.p.Check())
	require.Empty(t, d.all(w.draft(out{stranger(1), 9_000_000}).coin(1, 84, 0, 0, 9_001_000), now()), "the tenant's own elsewhere")
}

// TestADay: limits of 24 hours, whatever the host divides, and what it does not get free.
func TestADay(t *testing.T) {
	w := newWallet(t, 7)
	pay := func(n uint32, sat int64) *draft {
		return w.draft(out{stranger(byte(n)), sat}).coin(n, 84, 0, n%20, sat)
	}
	d := newDesk(t, w)
	require.Empty(t, d.all(pay(1, 100_000), now()))
	require.Empty(t, d.all(pay(2, 100_000), now().Add(time.Hour)))
	require.Equal(t, guard.RuleAddressDay, d.all(pay(3, 50_001), now().Add(2*time.Hour)))
	require.Empty(t, d.all(pay(4, 50_000), now().Add(2*time.Hour)))
	require.Equal(t, guard.RuleAddressDay, d.all(pay(5, 1), now().Add(2*time.Hour)))
	require.Empty(t, d.all(pay(1, 100_000), now().Add(3*time.Hour)), "the same transaction once more costs nothing")
	require.Equal(t, guard.RuleAddressDay, d.all(pay(5, 100_000), now().Add(24*time.Hour-1)))
	require.Empty(t, d.all(pay(5, 100_000), now().Add(24*time.Hour)))
	require.Equal(t, guard.RuleAddressDay, d.all(pay(6, 1), now().Add(-time.Hour)), "a clock that was set back")

	// The parts of one transaction on different days: each counts all the change.
	split := w.draft(out{stranger(1), 150_000}, out{w.script(86, 1, 0), 100_000}).coin(1, 84, 0, 0, 150_000).coin(2, 84, 0, 1, 101_000)
	d = newDesk(t, w)
	require.Empty(t, d.sign(split.ask(0), now()))
	require.Equal(t, guard.RuleAddressTx, d.sign(split.ask(1), now().AddDate(0, 1, 0)))
	// And across a restart.
	again := newDesk(t, w)
	for _, e := range d.entries {
		require.NoError(t, again.b.Apply(e))
	}
	require.Equal(t, guard.RuleAddressTx, again.sign(split.ask(1), now().AddDate(0, 1, 0)))
	require.Equal(t, d.b.Today(now()), again.b.Today(now()))
}

// TestLies: what the host says of a coin is worth nothing unless it is true.
func TestLies(t *testing.T) {
	w := newWallet(t, 7)
	other := newWallet(t, 8)
	honest := func() *draft {
		return w.draft(out{stranger(1), 900_000}).coin(1, 84, 0, 0, 900_500).foreign(2, 1_000)
	}
	for _, row := range []struct {
		name string
		lie  func(*draft, *psbt.Packet)
		want guard.Rule
	}{
		{"the truth", func(*draft, *psbt.Packet) {}, guard.RuleAddressTx},
		{"signed alone", func(_ *draft, p *psbt.Packet) {
			p.Inputs[0].SighashType = txscript.SigHashAll | txscript.SigHashAnyOneCanPay
		}, guard.RuleSigHash},
		{"any outputs", func(_ *draft, p *psbt.Packet) { p.Inputs[0].SighashType = txscript.SigHashNone }, guard.RuleSigHash},
		{"an odd kind of signature", func(_ *draft, p *psbt.Packet) { p.Inputs[0].SighashType = 0x101 }, guard.RuleSigHash},
		{"no amount", func(_ *draft, p *psbt.Packet) { p.Inputs[0].WitnessUtxo = nil }, guard.RuleForm},
		{"less than nothing", func(_ *draft, p *psbt.Packet) {
			p.Inputs[0].WitnessUtxo = wire.NewTxOut(-1, p.Inputs[0].WitnessUtxo.PkScript)
		}, guard.RuleForm},
		{"an output of all there is", func(_ *draft, p *psbt.Packet) { p.UnsignedTx.TxOut[0].Value = 1 << 62 }, guard.RuleForm},
		{"another script", func(_ *draft, p *psbt.Packet) { p.Inputs[0].RedeemScript = other.script(84, 0, 0) }, guard.RuleScript},
		{"a channel's script for a coin", func(d *draft, p *psbt.Packet) {
			script, err := input.GenMultiSigScript(d.in[0].key.SerializeCompressed(), other.key(family(0, 0)...).SerializeCompressed())
			require.NoError(t, err)
			p.Inputs[0].WitnessUtxo = wire.NewTxOut(900_500, p2wsh(script))
			p.Inputs[0].WitnessScript, p.Inputs[0].RedeemScript = script, nil
		}, guard.RuleScript},
		{"a key that is not the path's", func(_ *draft, p *psbt.Packet) { p.Inputs[0].Bip32Derivation[0].Bip32Path = coinAt(84, 0, 1) }, guard.RuleKey},
		{"a path that is not lnd's", func(_ *draft, p *psbt.Packet) {
			p.Inputs[0].Bip32Derivation[0].Bip32Path = []uint32{44 + hard, hard, hard, 0, 0}
		}, guard.RuleKey},
		{"an account that no node has", func(_ *draft, p *psbt.Packet) {
			p.Inputs[0].Bip32Derivation[0].Bip32Path = []uint32{84 + hard, hard, 1 + hard, 0, 0}
		}, guard.RuleKey},
		{"a short path", func(_ *draft, p *psbt.Packet) { p.Inputs[0].Bip32Derivation[0].Bip32Path = []uint32{84 + hard} }, guard.RuleKey},
		{"a tweaked coin", func(_ *draft, p *psbt.Packet) {
			p.Inputs[0].Unknowns = []*psbt.Unknown{{Key: []byte{0x51}, Value: make([]byte, 32)}}
		}, guard.RuleUnknown},
		{"an entry that lnd does not write", func(_ *draft, p *psbt.Packet) {
			p.Unknowns = []*psbt.Unknown{{Key: []byte{0xfc, 1}, Value: []byte{1}}}
		}, guard.RuleUnknown},
		{"such an entry at another input", func(_ *draft, p *psbt.Packet) {
			p.Inputs[1].Unknowns = []*psbt.Unknown{{Key: []byte{0x51}, Value: make([]byte, 32)}}
		}, guard.RuleUnknown},
		{"nothing to sign", func(_ *draft, p *psbt.Packet) { p.Inputs[0].Bip32Derivation = nil }, guard.RuleForm},
		{"two keys", func(_ *draft, p *psbt.Packet) {
			p.Inputs[0].Bip32Derivation = append(p.Inputs[0].Bip32Derivation, &psbt.Bip32Derivation{PubKey: other.key(family(0, 0)...).SerializeCompressed(), Bip32Path: family(0, 0)})
		}, guard.RuleForm},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := honest()
			packet := d.ask(0)
			row.lie(d, packet)
			require.Equal(t, row.want, newDesk(t, w).sign(packet, now()))
		})
	}
	// A coin at a lesser amount first, which is worth nothing, then at its own.
	d, desk := honest(), newDesk(t, w)
	cheap := d.ask(0)
	cheap.Inputs[0].WitnessUtxo = wire.NewTxOut(1, cheap.Inputs[0].WitnessUtxo.PkScript)
	require.Empty(t, desk.sign(cheap, now()))
	require.Equal(t, guard.RuleAddressTx, desk.sign(d.ask(0), now()))
	// Taproot by a script path, or with a script beneath.
	tap := w.draft(out{stranger(1), 1_000}).coin(1, 86, 0, 0, 1_000)
	for _, lie := range []func(*psbt.PInput){
		func(in *psbt.PInput) { in.TaprootMerkleRoot = make([]byte, 32) },
		func(in *psbt.PInput) { in.TaprootBip32Derivation[0].LeafHashes = [][]byte{make([]byte, 32)} },
		func(in *psbt.PInput) { in.TaprootBip32Derivation = nil },
	} {
		packet := tap.ask(0)
		lie(&packet.Inputs[0])
		require.Equal(t, guard.RuleScript, newDesk(t, w).sign(packet, now()))
	}
}

// channel is one of the node's with the scripts of lnd.
type channel struct {
	w        wallet
	ours     *btcec.PublicKey
	theirs   *btcec.PublicKey
	multisig []byte
}

func newChannel(t *testing.T, w wallet, index uint32) channel {
	t.Helper()
	c := channel{w: w, ours: w.key(family(0, index)...), theirs: newWallet(t, 8).key(family(0, 0)...)}
	var err error
	c.multisig, err = input.GenMultiSigScript(c.ours.SerializeCompressed(), c.theirs.SerializeCompressed())
	require.NoError(t, err)
	return c
}

// TestChannels: what a channel's life asks for passes, whatever the policy allows of the
// wallet's coins; and nothing else can pass for it.
func TestChannels(t *testing.T) {
	w := newWallet(t, 7)
	c := newChannel(t, w, 3)
	none := func(d *desk) *desk {
		d.p.AddressSatPerTx, d.p.ChannelSatPerTx, d.p.FeeSatPerTx = 0, 0, 0
		return d
	}
	htlcKey, tweak := w.key(family(2, 5)...), tweakOf(1)
	peer := newWallet(t, 8)
	hash := bytes.Repeat([]byte{3}, 32)
	offered := func(anchors bool) []byte {
		s, err := input.SenderHTLCScript(tweaked(htlcKey, tweak), peer.key(family(2, 0)...), peer.key(family(1, 0)...), hash, anchors)
		require.NoError(t, err)
		return s
	}
	received := func(anchors bool, expiry uint32) []byte {
		s, err := input.ReceiverHTLCScript(expiry, peer.key(family(2, 0)...), tweaked(htlcKey, tweak), peer.key(family(1, 0)...), hash, anchors)
		require.NoError(t, err)
		return s
	}
	second := p2wsh([]byte{txscript.OP_TRUE})
	htlcAt := func(script []byte, sat int64, kind txscript.SigHashType) input0 {
		return input0{path: family(2, 5), out: wire.NewTxOut(sat, p2wsh(script)), witness: script, hash: kind, tweak: tweak}
	}
	const alone = txscript.SigHashSingle | txscript.SigHashAnyOneCanPay
	funding := func(kind txscript.SigHashType) input0 {
		return input0{path: family(0, 3), out: wire.NewTxOut(1_000_000, p2wsh(c.multisig)), witness: c.multisig, hash: kind}
	}
	anchor, err := input.CommitScriptAnchor(c.ours)
	require.NoError(t, err)
	toRemote, err := input.CommitScriptToRemoteConfirmed(w.key(family(3, 5)...))
	require.NoError(t, err)
	toSelf, err := input.CommitScriptToSelf(144, tweaked(w.key(family(4, 5)...), tweak), peer.key(family(1, 0)...))
	require.NoError(t, err)
	own := w.script(86, 0, 4)
	for _, row := range []struct {
		name string
		d    *draft
		want guard.Rule
	}{
		{"a commitment", w.draft(out{second, 600_000}, out{p2wsh(toRemote), 399_000}).from(1, funding(txscript.SigHashAll)), ""},
		{"a cooperative close", w.draft(out{stranger(1), 600_000}, out{own, 399_000}).from(1, funding(txscript.SigHashAll)), ""},
		{"a commitment that anybody could change", w.draft(out{second, 600_000}).from(1, funding(alone)), guard.RuleSigHash},
		{"a channel's input among others", w.draft(out{second, 600_000}).from(1, funding(txscript.SigHashAll)).foreign(2, 1), guard.RuleForm},
		{"a channel of others", w.draft(out{second, 600_000}).from(1, input0{path: family(0, 4), out: wire.NewTxOut(1_000_000, p2wsh(c.multisig)), witness: c.multisig, hash: txscript.SigHashAll}), guard.RuleScript},
		{"a funding key with a tweak", w.draft(out{second, 600_000}).from(1, input0{path: family(0, 3), out: wire.NewTxOut(1_000_000, p2wsh(c.multisig)), witness: c.multisig, hash: txscript.SigHashAll, tweak: tweak}), guard.RuleKey},
		{"a script that is not the output's", w.draft(out{second, 600_000}).from(1, input0{path: family(0, 3), out: wire.NewTxOut(1_000_000, second), witness: c.multisig, hash: txscript.SigHashAll}), guard.RuleScript},
		{"the peer's HTLC, offered", w.draft(out{second, 20_000}).from(1, htlcAt(offered(true), 20_000, alone)), ""},
		{"the peer's HTLC, received", w.draft(out{second, 20_000}).from(1, htlcAt(received(true, 800_123), 20_000, alone)), ""},
		{"the same at an early height", w.draft(out{second, 20_000}).from(1, htlcAt(received(true, 12), 20_000, alone)), ""},
		{"the peer's HTLC without anchors", w.draft(out{second, 19_000}).from(1, htlcAt(offered(false), 20_000, txscript.SigHashAll)), ""},
		{"the peer's HTLC without anchors, received", w.draft(out{second, 19_000}).from(1, htlcAt(received(false, 800_123), 20_000, txscript.SigHashAll)), ""},
		{"without anchors, for more", w.draft(out{second, 21_000}).from(1, htlcAt(offered(false), 20_000, txscript.SigHashAll)), guard.RuleChannelTx},
		{"without anchors, signed alone", w.draft(out{second, 19_000}).from(1, htlcAt(offered(false), 20_000, alone)), guard.RuleSigHash},
		{"with anchors, for less", w.draft(out{second, 19_000}).from(1, htlcAt(offered(true), 20_000, alone)), guard.RuleSigHash},
		{"an HTLC signed alone to an address", w.draft(out{stranger(1), 20_000}).from(1, htlcAt(offered(true), 20_000, alone)), guard.RuleSigHash},
		{"an HTLC to an address", w.draft(out{stranger(1), 20_000}).from(1, htlcAt(offered(true), 20_000, txscript.SigHashAll)), guard.RuleAddressTx},
		{"an HTLC of others", w.draft(out{second, 20_000}).from(1, input0{path: family(2, 6), out: wire.NewTxOut(20_000, p2wsh(offered(true))), witness: offered(true), hash: alone, tweak: tweak}), guard.RuleScript},
		{"our own HTLC's second transaction, with inputs for its fee", w.draft(out{second, 20_000}, out{own, 9_000}).from(1, htlcAt(received(true, 800_123), 20_000, txscript.SigHashAll)).foreign(2, 10_000), ""},
		{"an HTLC taken home", w.draft(out{own, 15_000}).from(1, htlcAt(received(true, 800_123), 20_000, txscript.SigHashAll)), ""},
		{"an anchor, with another's coin", w.draft(out{own, 9_000}).from(1, input0{path: family(0, 3), out: wire.NewTxOut(330, p2wsh(anchor)), witness: anchor, hash: txscript.SigHashAll}).foreign(2, 10_000), ""},
		{"what a force close left, taken home", w.draft(out{own, 200_000}).from(1, input0{path: family(3, 5), out: wire.NewTxOut(399_000, p2wsh(toRemote)), witness: toRemote, hash: txscript.SigHashAll}), ""},
		{"the same, more than half to miners", w.draft(out{own, 199_000}).from(1, input0{path: family(3, 5), out: wire.NewTxOut(399_000, p2wsh(toRemote)), witness: toRemote, hash: txscript.SigHashAll}), guard.RuleFeeTx},
		{"the same to an address", w.draft(out{stranger(1), 398_000}).from(1, input0{path: family(3, 5), out: wire.NewTxOut(399_000, p2wsh(toRemote)), witness: toRemote, hash: txscript.SigHashAll}), guard.RuleAddressTx},
		{"a delayed output, taken home", w.draft(out{own, 200_000}).from(1, input0{path: family(4, 5), out: wire.NewTxOut(201_000, p2wsh(toSelf)), witness: toSelf, hash: txscript.SigHashAll, tweak: tweak}), ""},
		{"justice", w.draft(out{own, 200_000}).from(1, input0{path: family(1, 5), out: wire.NewTxOut(201_000, p2wsh(toSelf)), witness: toSelf, hash: txscript.SigHashAll, tweak: tweak, double: true}), ""},
		{"a key that needs no delay, by its hash", w.draft(out{own, 200_000}).from(1, input0{path: family(3, 5), out: wire.NewTxOut(201_000, w.witness(w.key(family(3, 5)...))), witness: w.witness(w.key(family(3, 5)...)), hash: txscript.SigHashAll}), ""},
		{"a key of another network", w.draft(out{own, 200_000}).from(1, input0{path: []uint32{1017 + hard, hard, 3 + hard, 0, 5}, out: wire.NewTxOut(201_000, p2wsh(toRemote)), witness: toRemote, hash: txscript.SigHashAll}), guard.RuleKey},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := none(newDesk(t, w))
			// A node with limits of its own as well: no limit matters to a channel's life.
			require.Equal(t, row.want, d.sign(row.d.ask(0), now()))
		})
	}
}

// TestScriptsThatAreNoChannels: a payment into a script is taken for a channel until it
// should have proven to be one.
func TestScriptsThatAreNoChannels(t *testing.T) {
	w := newWallet(t, 7)
	d := newDesk(t, w)
	d.p.ChannelSatPerDay = 100_000_000
	pay := func(n uint32, script []byte) *draft {
		return w.draft(out{script, 500_000}).coin(n, 84, 0, n%20, 500_100)
	}
	proven := func(x *draft, c channel) guard.Rule {
		commitment := w.draft(out{stranger(5), 400_000})
		commitment.tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: x.tx.TxHash(), Index: 0}, nil, nil))
		commitment.in = []*input0{{path: family(0, 3), key: c.ours, out: wire.NewTxOut(500_000, p2wsh(c.multisig)), witness: c.multisig, hash: txscript.SigHashAll}}
		return d.sign(commitment.ask(0), now())
	}
	c := newChannel(t, w, 3)
	for n := range uint32(10) {
		x := pay(n+1, p2wsh(c.multisig))
		require.Empty(t, d.all(x, now()))
		require.Empty(t, proven(x, c))
	}
	script := func(n byte) []byte { return p2wsh([]byte{txscript.OP_TRUE, n}) }
	for n := range byte(3) {
		require.Empty(t, d.all(pay(uint32(100+n), script(n)), now()))
	}
	require.Equal(t, guard.RuleAddressTx, d.all(pay(200, script(9)), now()), "a fourth within a day")
	x := w.draft(out{p2wsh(c.multisig), 20_000}, out{w.script(86, 1, 0), 5_000}).coin(300, 84, 0, 0, 10_000).foreign(301, 20_000)
	require.Empty(t, d.all(x, now()), "the fees of an HTLC's second transaction never fail for that")
	require.Empty(t, d.all(pay(400, script(9)), now().Add(25*time.Hour)))
	// The same book from its entries.
	again := guard.NewBook()
	for _, e := range d.entries {
		require.NoError(t, again.Apply(e))
	}
	require.Equal(t, d.b.Today(now().Add(25*time.Hour)), again.Today(now().Add(25*time.Hour)))
}
