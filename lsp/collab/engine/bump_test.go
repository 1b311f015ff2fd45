package engine

import (
	"bytes"
	"testing"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// A transaction that lags is hurried by a child of the gateway's change.
func TestBump(t *testing.T) {
	onBoth(t, func(t *testing.T, n *net) {
		n.cfg.BumpAfterBlocks = 1
		n.restart()
		v, _ := n.published()
		n.mu.Lock()
		n.rate = 5_000
		n.mu.Unlock()
		n.w.MineEmpty()
		n.eventually("lnd was asked for a child", func() bool { return len(n.gatewayNode.Bumping()) == 1 })
		require.ErrorIs(t, leases.ForChild(t.Context(), n.gateway, [32]byte{1}, v.Tx.GatewayChange), ln.ErrLeased, "nobody builds on the change meanwhile")
		n.w.MineEmpty()
		var child *wire.MsgTx
		n.eventually("parent and child are in the mempool", func() bool {
			for _, tx := range n.w.Mempool() {
				from := tx.TxIn[0].PreviousOutPoint
				if v.Tx.GatewayChange == (ln.Outpoint{TxID: ln.TxID(from.Hash), Index: from.Index}) {
					child = tx
				}
			}
			return child != nil && len(n.w.Mempool()) == 2
		})
		fee := int64(v.Ours.Joint.Gateway.ChangeSat) - child.TxOut[0].Value
		weight := uint64(child.SerializeSizeStripped()*3+child.SerializeSize()) + v.Ours.Joint.WeightWU
		want, err := ln.FeeRateSatPerKW(5_000).Fee(weight)
		require.NoError(t, err)
		require.GreaterOrEqual(t, fee+int64(v.Ours.Joint.FeeSat), int64(want)*95/100)
		n.w.Mine(3)
		n.wait(v.ID, "buried")
		require.NoError(t, n.w.Err())
	})
}

// Another service of the gateway built on the change: the child is of what that left, and
// pays for it too.
func TestBumpOfWhatOthersBuiltOn(t *testing.T) {
	n := newNet(t, storetest.SQLite(t))
	n.cfg.BumpAfterBlocks = 1
	n.restart()
	v, _ := n.published()
	from := v.Tx.GatewayChange
	var change *wire.TxOut
	for _, tx := range n.w.Mempool() {
		if ln.TxID(tx.TxHash()) == from.TxID {
			change = tx.TxOut[from.Index]
		}
	}
	require.NotNil(t, change)
	built := wire.NewMsgTx(2)
	built.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash(from.TxID), Index: from.Index}, nil, nil))
	built.AddTxOut(wire.NewTxOut(5_000, append([]byte{0x51, 32}, make([]byte, 32)...)))
	built.AddTxOut(wire.NewTxOut(change.Value-5_300, change.PkScript))
	unsigned, err := psbt.NewFromUnsignedTx(built)
	require.NoError(t, err)
	unsigned.Inputs[0].WitnessUtxo = change
	var raw bytes.Buffer
	require.NoError(t, unsigned.Serialize(&raw))
	signed, err := n.gateway.FinalizePsbt(t.Context(), raw.Bytes())
	require.NoError(t, err)
	require.NoError(t, n.gateway.Publish(t.Context(), signed, ""))
	require.NoError(t, built.Deserialize(bytes.NewReader(signed)))

	n.mu.Lock()
	n.rate = 5_000
	n.mu.Unlock()
	n.w.MineEmpty()
	n.eventually("lnd was asked for a child", func() bool { return len(n.gatewayNode.Bumping()) == 1 })
	require.Equal(t, []wire.OutPoint{{Hash: built.TxHash(), Index: 1}}, n.gatewayNode.Bumping())
	n.w.MineEmpty()
	var child *wire.MsgTx
	n.eventually("all three are in the mempool", func() bool {
		for _, tx := range n.w.Mempool() {
			if tx.TxIn[0].PreviousOutPoint.Hash == built.TxHash() {
				child = tx
			}
		}
		return child != nil && len(n.w.Mempool()) == 3
	})
	fee := change.Value - 5_000 - child.TxOut[0].Value
	weight := v.Ours.Joint.WeightWU
	for _, tx := range []*wire.MsgTx{built, child} {
		weight += uint64(tx.SerializeSizeStripped()*3 + tx.SerializeSize()) //nolint:gosec // a size
	}
	want, err := ln.FeeRateSatPerKW(5_000).Fee(weight)
	require.NoError(t, err)
	require.GreaterOrEqual(t, fee+int64(v.Ours.Joint.FeeSat), int64(want)*95/100)
	require.NoError(t, n.w.Err())
}
