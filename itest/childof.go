//go:build itest

package itest

import (
	"context"
	"slices"
	"testing"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// childOf is the child that by's lnd is asked to make of an unconfirmed transaction. lnd
// publishes it with the next block, which leaves the parent out.
func childOf(ctx context.Context, t *testing.T, net *devnet.Net, by *devnet.Node, parent chainhash.Hash) (child *wire.MsgTx) {
	t.Helper()
	require.NoError(t, devnet.WaitFor(ctx, by.Name+" to be asked for a child of "+parent.String(), func(ctx context.Context) (bool, error) {
		sweeps, err := by.Wallet.PendingSweeps(ctx, &walletrpc.PendingSweepsRequest{})
		return slices.ContainsFunc(sweeps.GetPendingSweeps(), func(s *walletrpc.PendingSweep) bool {
			return s.Outpoint.TxidStr == parent.String()
		}), err
	}))
	require.NoError(t, net.Miner().MineOnly(ctx))
	require.NoError(t, net.WaitSynced(ctx))
	require.NoError(t, devnet.WaitFor(ctx, "a child of "+parent.String(), func(ctx context.Context) (bool, error) {
		txids, err := net.Miner().Mempool(ctx)
		for _, id := range txids {
			if tx, _, err := net.Miner().Tx(ctx, id); err == nil && tx.TxIn[0].PreviousOutPoint.Hash == parent {
				child = tx
			}
		}
		return child != nil, err
	}))
	return child
}

// packageOf is what two transactions, the second spending the first, pay together, and
// their virtual size.
func packageOf(ctx context.Context, t *testing.T, net *devnet.Net, parent, child *wire.MsgTx) (feeSat int64, vbytes int) {
	t.Helper()
	for _, tx := range []*wire.MsgTx{parent, child} {
		for _, in := range tx.TxIn {
			prev, _, err := net.Miner().Tx(ctx, in.PreviousOutPoint.Hash)
			require.NoError(t, err)
			feeSat += prev.TxOut[in.PreviousOutPoint.Index].Value
		}
		for _, out := range tx.TxOut {
			feeSat -= out.Value
		}
		vbytes += (tx.SerializeSizeStripped()*3 + tx.SerializeSize() + 3) / 4
	}
	return feeSat, vbytes
}
