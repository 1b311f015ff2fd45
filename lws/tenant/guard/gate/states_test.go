package gate_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/input"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/lws/tenant/guard"
	"github.com/sluice-lsp/sluice/lws/tenant/guard/gate"
)

// channelTx is a request for the signature of a channel's transaction.
func channelTx(t testing.TB, n byte, lockTime, sequence uint32) ([]byte, *wire.MsgTx) {
	t.Helper()
	path := []uint32{1017 + hard, 1 + hard, hard, 0, uint32(n)}
	key, err := derive(t, path...).ECPubKey()
	require.NoError(t, err)
	peer, err := derive(t, 1017+hard, 1+hard, 5+hard, 0, 0).ECPubKey()
	require.NoError(t, err)
	script, err := input.GenMultiSigScript(key.SerializeCompressed(), peer.SerializeCompressed())
	require.NoError(t, err)
	out, err := input.WitnessScriptHash(script)
	require.NoError(t, err)
	tx := wire.NewMsgTx(2)
	tx.LockTime = lockTime
	tx.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Hash: [32]byte{n}, Index: uint32(n)}, Sequence: sequence})
	tx.AddTxOut(wire.NewTxOut(1000, append([]byte{txscript.OP_0, txscript.OP_DATA_20}, bytes.Repeat([]byte{n}, 20)...)))
	packet, err := psbt.NewFromUnsignedTx(tx)
	require.NoError(t, err)
	in := &packet.Inputs[0]
	in.WitnessUtxo, in.SighashType, in.WitnessScript = wire.NewTxOut(2000, out), txscript.SigHashAll, script
	in.Bip32Derivation = []*psbt.Bip32Derivation{{PubKey: key.SerializeCompressed(), Bip32Path: path}}
	var b bytes.Buffer
	require.NoError(t, packet.Serialize(&b))
	return b.Bytes(), tx
}

// state asks for a commitment's signature.
func state(t testing.TB, g *gate.Gate, n byte, number uint32) gate.State {
	t.Helper()
	raw, tx := channelTx(t, n, 0x20000000|number, 0x80000000)
	_, err := g.Psbt(raw)
	require.NoError(t, err)
	return gate.State{Signed: guard.Signed{Channel: tx.TxIn[0].PreviousOutPoint, TxID: tx.TxHash(), LockTime: tx.LockTime, Sequence: tx.TxIn[0].Sequence}}
}

// TestStatesOutlastEverything: after a crash at any byte of a write the file has the
// state before, or the one that was being written; of other channels nothing is lost.
func TestStatesOutlastEverything(t *testing.T) {
	dir, c := prepared(t)
	g := open(t, dir, c)
	state(t, g, 1, 1)
	before := state(t, g, 1, 2)
	other := state(t, g, 2, 9)
	path := filepath.Join(dir, gate.FileStates)
	old, err := os.ReadFile(path)
	require.NoError(t, err)
	after := state(t, g, 1, 3)
	require.Equal(t, after.TxID, state(t, g, 1, 3).TxID, "the same once more")
	fresh := state(t, g, 3, 1)
	require.NoError(t, g.Close())
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	all, err := gate.ReadStates(dir)
	require.NoError(t, err)
	require.Len(t, all, 3)
	require.Equal(t, after.Signed, all[after.Channel].Signed)
	require.Equal(t, uint64(3), all[after.Channel].Count, "the same once more is not written")
	require.Equal(t, fresh.Signed, all[fresh.Channel].Signed)

	// The bytes that were written by the last two, in their order.
	grown := append(bytes.Clone(old), make([]byte, len(whole)-len(old))...)
	var changed []int
	for i := range whole {
		if grown[i] != whole[i] {
			changed = append(changed, i)
		}
	}
	torn := bytes.Clone(grown)
	for _, at := range changed {
		torn[at] = whole[at]
		require.NoError(t, os.WriteFile(path, torn[:max(len(old), at+1)], 0o600))
		got, err := gate.ReadStates(dir)
		require.NoError(t, err, at)
		require.Contains(t, []guard.Signed{before.Signed, after.Signed}, got[after.Channel].Signed)
		require.Equal(t, other.Signed, got[other.Channel].Signed)
		g := open(t, dir, c)
		again := state(t, g, 1, 4)
		require.NoError(t, g.Close())
		got, err = gate.ReadStates(dir)
		require.NoError(t, err)
		require.Equal(t, again.Signed, got[again.Channel].Signed)
		require.Equal(t, other.Signed, got[other.Channel].Signed)
	}
	// A hole is not started from.
	require.NoError(t, os.WriteFile(path, append(make([]byte, 2*88), whole...), 0o600))
	_, err = gate.Open(dir, now)
	require.ErrorContains(t, err, "damaged")
	_, err = gate.ReadStates(dir)
	require.ErrorContains(t, err, "damaged")
}

// TestOnlyCommitmentsAreStates: a closing transaction and a refused request are none.
func TestOnlyCommitmentsAreStates(t *testing.T) {
	dir, c := prepared(t)
	g := open(t, dir, c)
	for _, x := range [][2]uint32{{0, wire.MaxTxInSequenceNum}, {850_000, wire.MaxTxInSequenceNum - 2}, {0x20000001, wire.MaxTxInSequenceNum}} {
		raw, _ := channelTx(t, 1, x[0], x[1])
		_, err := g.Psbt(raw)
		require.NoError(t, err, hex.EncodeToString(raw))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, gate.FilePaused), nil, 0o600))
	raw, _ := channelTx(t, 1, 0x20000001, 0x80000000)
	_, err := g.Psbt(raw)
	require.Equal(t, guard.RulePaused, rule(t, err))
	require.NoError(t, g.Close())
	all, err := gate.ReadStates(dir)
	require.NoError(t, err)
	require.Empty(t, all)
}
