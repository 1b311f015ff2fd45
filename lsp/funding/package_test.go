package funding

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
		msg.AddTxOut(wire.NewTxOut(value, script(p2tr, byte(i))))
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
		own := Unconfirmed(append(all, ln.WalletTx{TxID: ln.TxID{1}, FeeSat: 5, Confirmations: 1}))
		lags := rapid.IntRange(0, n-1).Draw(t, "which lags")
		lift, err := LiftOf(own, ln.Outpoint{TxID: chain[lags].TxID, Index: 1})
		require.NoError(t, err)
		require.Equal(t, last, lift.Change)
		require.Equal(t, ln.Sat(20_000), lift.ChangeSat)
		require.Equal(t, script(p2tr, 1), lift.ChangeScript)
		require.Equal(t, fees, lift.FeeSat)
		require.Equal(t, weightOf(t, chain...), lift.WeightWU)
		for i, tx := range chain {
			require.Equal(t, i+1, Depth(own, tx.TxID))
		}
	})
}

func TestLiftOfWhatHasNoChange(t *testing.T) {
	first := walletTx(t, 100, []ln.Outpoint{{TxID: ln.TxID{1}}}, false, true)
	all := walletTx(t, 100, []ln.Outpoint{{TxID: first.TxID, Index: 1}}, false)
	_, err := LiftOf(Unconfirmed([]ln.WalletTx{first, all}), ln.Outpoint{TxID: first.TxID, Index: 1})
	require.ErrorIs(t, err, ErrNoBump, "what spends the change leaves none")
	_, err = LiftOf(nil, ln.Outpoint{TxID: first.TxID, Index: 1})
	require.ErrorIs(t, err, ErrNoBump, "it is confirmed, or lnd does not know its fee")
	// Two openings cut from one transaction's change: the free output lifts it.
	cut := walletTx(t, 100, []ln.Outpoint{{TxID: ln.TxID{1}}}, true, true)
	taken := walletTx(t, 50, []ln.Outpoint{{TxID: cut.TxID, Index: 1}}, false)
	lift, err := LiftOf(Unconfirmed([]ln.WalletTx{cut, taken}), ln.Outpoint{TxID: cut.TxID})
	require.NoError(t, err)
	require.Equal(t, ln.Outpoint{TxID: cut.TxID}, lift.Change)
	require.Equal(t, ln.Sat(100), lift.FeeSat)
}
