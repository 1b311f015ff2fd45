package cpfp

import (
	"bytes"
	"testing"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// scripts of the wallet's change.
func p2tr(fill byte) []byte   { return append([]byte{0x51, 32}, bytes.Repeat([]byte{fill}, 32)...) }
func p2wpkh(fill byte) []byte { return append([]byte{0, 20}, bytes.Repeat([]byte{fill}, 20)...) }

// walletTx is a transaction of the wallet's that spends outputs and pays; of each
// output, whether it comes back.
func walletTx(t require.TestingT, fee ln.Sat, spends []ln.Outpoint, ours ...bool) ln.WalletTx {
	msg := wire.NewMsgTx(2)
	tx := ln.WalletTx{FeeSat: fee, Spends: spends}
	for _, op := range spends {
		msg.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Hash: chainhash.Hash(op.TxID), Index: op.Index}, Witness: wire.TxWitness{make([]byte, 64)}})
	}
	for i, back := range ours {
		value := int64(10_000 * (i + 1))
		msg.AddTxOut(wire.NewTxOut(value, p2tr(byte(i))))
		tx.Outputs = append(tx.Outputs, ln.WalletOutput{ValueSat: value, Ours: back})
	}
	var raw bytes.Buffer
	require.NoError(t, msg.Serialize(&raw))
	tx.RawTx, tx.TxID = raw.Bytes(), ln.TxID(msg.TxHash())
	return tx
}

func weightOf(t require.TestingT, txs ...ln.WalletTx) (sum uint64) {
	for _, tx := range txs {
		var msg wire.MsgTx
		require.NoError(t, msg.Deserialize(bytes.NewReader(tx.RawTx)))
		sum += uint64(blockchain.GetTransactionWeight(btcutil.NewTx(&msg)))
	}
	return sum
}

// Whichever open of a chain lags, the child spends the last one's change and pays for
// every one before it; a child that an earlier bump made is not lifted itself.
func TestLiftOfAChain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "opens")
		var chain []ln.WalletTx
		var all []ln.WalletTx
		spends := ln.Outpoint{TxID: ln.TxID{1}}
		var fees ln.Sat
		for i := range n {
			fee := ln.Sat(rapid.IntRange(1, 5000).Draw(t, "fee"))
			in := []ln.Outpoint{spends}
			if rapid.Bool().Draw(t, "another coin") {
				in = append(in, ln.Outpoint{TxID: ln.TxID{2}, Index: uint32(i)})
			}
			tx := walletTx(t, fee, in, false, true)
			fees += fee
			chain, all = append(chain, tx), append(all, tx)
			spends = ln.Outpoint{TxID: tx.TxID, Index: 1}
		}
		last := spends
		if rapid.Bool().Draw(t, "bumped before") {
			all = append(all, walletTx(t, 900, []ln.Outpoint{last}, true))
		}
		// Another transaction of the wallet's has nothing to do with it.
		all = append(all, walletTx(t, 777, []ln.Outpoint{{TxID: ln.TxID{3}}}, false, true))
		all = append(all, ln.WalletTx{TxID: ln.TxID{1}, FeeSat: 5, Confirmations: 1})
		lags := rapid.IntRange(0, n-1).Draw(t, "which lags")
		lift, err := LiftOf(all, Parent{Change: ln.Outpoint{TxID: chain[lags].TxID, Index: 1}})
		require.NoError(t, err)
		require.Equal(t, last, lift.Change)
		require.Equal(t, ln.Sat(20_000), lift.ChangeSat)
		require.Equal(t, p2tr(1), lift.ChangeScript)
		require.Equal(t, fees, lift.FeeSat)
		require.Equal(t, weightOf(t, chain...), lift.WeightWU)
		own := Unconfirmed(all)
		for i, tx := range chain {
			require.Equal(t, i+1, Depth(own, tx.TxID))
		}
	})
}

func TestLiftOfWhatHasNoChange(t *testing.T) {
	first := walletTx(t, 100, []ln.Outpoint{{TxID: ln.TxID{1}}}, false, true)
	all := walletTx(t, 100, []ln.Outpoint{{TxID: first.TxID, Index: 1}}, false)
	_, err := LiftOf([]ln.WalletTx{first, all}, Parent{Change: ln.Outpoint{TxID: first.TxID, Index: 1}})
	require.ErrorIs(t, err, ErrNoBump, "what spends the change leaves none")
	_, err = LiftOf(nil, Parent{Change: ln.Outpoint{TxID: first.TxID, Index: 1}})
	require.ErrorIs(t, err, ErrNoBump, "it is confirmed, or lnd does not know its fee")
	// Two openings cut from one transaction's change: the free output lifts it.
	cut := walletTx(t, 100, []ln.Outpoint{{TxID: ln.TxID{1}}}, true, true)
	taken := walletTx(t, 50, []ln.Outpoint{{TxID: cut.TxID, Index: 1}}, false)
	lift, err := LiftOf([]ln.WalletTx{cut, taken}, Parent{Change: ln.Outpoint{TxID: cut.TxID}})
	require.NoError(t, err)
	require.Equal(t, ln.Outpoint{TxID: cut.TxID}, lift.Change)
	require.Equal(t, ln.Sat(100), lift.FeeSat)
}

// known is what a service says of its own transaction.
func known(t require.TestingT, tx ln.WalletTx, fee ln.Sat) Parent {
	return Parent{Change: ln.Outpoint{TxID: tx.TxID, Index: 1}, ChangeSat: 20_000, ChangeScript: p2tr(1), FeeSat: fee, WeightWU: weightOf(t, tx)}
}

// Where lnd does not list a transaction, or others pay in it too, its service knows what
// it pays; where lnd knows, and that it is confirmed, lnd is believed.
func TestLiftOfWhatItsServiceKnows(t *testing.T) {
	below := walletTx(t, 60, []ln.Outpoint{{TxID: ln.TxID{1}}}, false, true)
	joint := walletTx(t, 0, []ln.Outpoint{{TxID: below.TxID, Index: 1}, {TxID: ln.TxID{7}}}, false, true)
	parent := known(t, joint, 500)

	lift, err := LiftOf(nil, parent)
	require.NoError(t, err)
	require.Equal(t, Lift{Change: parent.Change, ChangeSat: 20_000, ChangeScript: p2tr(1), FeeSat: 500, WeightWU: parent.WeightWU}, lift)

	lift, err = LiftOf([]ln.WalletTx{joint, below}, parent)
	require.NoError(t, err)
	require.Equal(t, ln.Sat(560), lift.FeeSat, "what it spends must confirm before it")
	require.Equal(t, weightOf(t, joint, below), lift.WeightWU)

	wrong := parent
	wrong.FeeSat, wrong.ChangeSat, wrong.WeightWU = 1, 1, 1
	alone := walletTx(t, 300, []ln.Outpoint{{TxID: ln.TxID{1}}}, false, true)
	wrong.Change.TxID = alone.TxID
	lift, err = LiftOf([]ln.WalletTx{alone}, wrong)
	require.NoError(t, err)
	require.Equal(t, Lift{Change: wrong.Change, ChangeSat: 20_000, ChangeScript: p2tr(1), FeeSat: 300, WeightWU: weightOf(t, alone)}, lift)

	for _, tx := range []ln.WalletTx{joint, alone} {
		tx.Confirmations = 1
		_, err = LiftOf([]ln.WalletTx{tx}, known(t, tx, 500))
		require.ErrorIs(t, err, ErrNoBump, "it is confirmed")
	}
	_, err = LiftOf([]ln.WalletTx{joint}, Parent{Change: parent.Change})
	require.ErrorIs(t, err, ErrNoBump, "nobody knows its fee")
}

// What was built on the change is followed from there, over every service's
// transactions, and the child pays for what those spend besides.
func TestLiftOfWhatOthersBuilt(t *testing.T) {
	parent := walletTx(t, 0, []ln.Outpoint{{TxID: ln.TxID{7}}}, false, true)
	beside := walletTx(t, 10, []ln.Outpoint{{TxID: ln.TxID{8}}}, false, true)
	p := known(t, parent, 500)
	built := walletTx(t, 70, []ln.Outpoint{p.Change, {TxID: beside.TxID, Index: 1}}, true, true, false)
	for _, txs := range [][]ln.WalletTx{{parent, beside, built}, {built, beside}} {
		lift, err := LiftOf(txs, p)
		require.NoError(t, err)
		require.Equal(t, Lift{
			Change: ln.Outpoint{TxID: built.TxID, Index: 1}, ChangeSat: 20_000, ChangeScript: p2tr(1),
			FeeSat: 580, WeightWU: weightOf(t, parent, beside, built),
		}, lift)
	}

	// Its largest change is spent: the free one is smaller, and lifts all the same.
	taken := walletTx(t, 50, []ln.Outpoint{{TxID: built.TxID, Index: 1}}, false)
	lift, err := LiftOf([]ln.WalletTx{parent, beside, built, taken}, p)
	require.NoError(t, err)
	require.Equal(t, ln.Outpoint{TxID: built.TxID}, lift.Change)
	require.Equal(t, ln.Sat(10_000), lift.ChangeSat)
	require.Equal(t, ln.Sat(580), lift.FeeSat, "what was built on the other output need not confirm")

	// Others pay in what was built on the change: its price is not known.
	built.FeeSat = 0
	_, err = LiftOf([]ln.WalletTx{parent, beside, built}, p)
	require.ErrorIs(t, err, ErrNoBump)
	require.ErrorContains(t, err, built.TxID.String())

	built.FeeSat, built.RawTx = 70, []byte{1}
	_, err = LiftOf([]ln.WalletTx{parent, beside, built}, p)
	require.ErrorContains(t, err, "transaction "+built.TxID.String())
}
