//go:build itest

package itest

import (
	"context"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// anchorSat is what an anchor output holds (BOLT 3, "to_local_anchor").
const anchorSat = 330

// closeChannel closes a channel, and names the transaction once one that spends it is in
// the mempool. Both sides of a cooperative close propose one, and either may be first; lnd
// names both.
func closeChannel(ctx context.Context, t *testing.T, net *devnet.Net, by *devnet.Node, c devnet.Channel, force bool) chainhash.Hash {
	t.Helper()
	req := &lnrpc.CloseChannelRequest{ChannelPoint: c.RPCPoint(), Force: force}
	if !force {
		req.SatPerVbyte = 2
	}
	stream, err := by.LN.CloseChannel(ctx, req)
	require.NoError(t, err)
	for {
		update, err := stream.Recv()
		require.NoError(t, err)
		if p := update.GetClosePending(); p != nil {
			hash, err := chainhash.NewHash(p.Txid)
			require.NoError(t, err)
			require.NoError(t, net.Miner().WaitSpendInMempool(ctx, c.Point))
			return *hash
		}
	}
}

// resolveOnChain mines until these nodes have brought everything home.
func resolveOnChain(ctx context.Context, t *testing.T, net *devnet.Standard, nodes ...*devnet.Node) {
	t.Helper()
	for blocks := 0; ; blocks++ {
		require.Less(t, blocks, 600)
		left := 0
		for _, n := range nodes {
			pending, err := n.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
			require.NoError(t, err)
			left += len(pending.PendingForceClosingChannels) + len(pending.WaitingCloseChannels)
		}
		if left == 0 {
			return
		}
		require.NoError(t, net.Mine(ctx, 1))
		// lnd's sweeper works by blocks, and needs a moment for each.
		timer := time.NewTimer(100 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			require.NoError(t, ctx.Err())
		}
	}
}

// chainTree are the transactions that took a channel's money apart.
type chainTree struct {
	t *testing.T
	// takers say whose transaction spent an output of the closing one.
	takers map[wire.OutPoint]*devnet.Node
	// taken are what these outputs held, the anchors left out; anchors how many each took.
	taken   map[*devnet.Node]int64
	anchors map[*devnet.Node]int64
	// gains are what these brought each node's wallet, less what they all cost it.
	gains map[*devnet.Node]int64
}

// treeOf finds them in the blocks since the close.
func treeOf(ctx context.Context, t *testing.T, net *devnet.Standard, closingID chainhash.Hash, nodes ...*devnet.Node) *chainTree {
	t.Helper()
	miner := net.Miner()
	require.NoError(t, net.Mine(ctx, 1))
	closing, confirmations, err := miner.Tx(ctx, closingID)
	require.NoError(t, err)
	tip, err := miner.Height(ctx)
	require.NoError(t, err)
	whose := whoseTransactions(ctx, t, nodes)
	tree := &chainTree{
		t: t, takers: map[wire.OutPoint]*devnet.Node{},
		taken: map[*devnet.Node]int64{}, anchors: map[*devnet.Node]int64{}, gains: map[*devnet.Node]int64{},
	}
	ours := map[chainhash.Hash]bool{closingID: true}
	for height := tip - confirmations + 1; height <= tip; height++ {
		hash, err := miner.BlockHash(ctx, height)
		require.NoError(t, err)
		block, err := miner.Block(ctx, hash)
		require.NoError(t, err)
		for _, tx := range block.Transactions[1:] {
			id := tx.TxHash()
			taken, fee := int64(0), int64(0)
			mine := false
			for _, in := range tx.TxIn {
				from, _, err := miner.Tx(ctx, in.PreviousOutPoint.Hash)
				require.NoError(t, err)
				value := from.TxOut[in.PreviousOutPoint.Index].Value
				fee += value
				mine = mine || ours[in.PreviousOutPoint.Hash]
				if in.PreviousOutPoint.Hash != closingID {
					continue
				}
				taken += value
				tree.takers[in.PreviousOutPoint] = whose[id]
				if value == anchorSat {
					tree.anchors[whose[id]]++
				} else {
					tree.taken[whose[id]] += value
				}
			}
			if !mine {
				continue
			}
			for _, out := range tx.TxOut {
				fee -= out.Value
			}
			require.NotNil(t, whose[id], "transaction %s is somebody's", id)
			ours[id] = true
			tree.gains[whose[id]] += taken - fee
			t.Logf("%s took %d sat of the closing transaction with %s, which cost %d sat", whose[id].Name, taken, id, fee)
		}
	}
	for i, out := range closing.TxOut {
		op := wire.OutPoint{Hash: closingID, Index: uint32(i)} //nolint:gosec // a handful
		if tree.takers[op] == nil {
			require.LessOrEqual(t, out.Value, int64(anchorSat), "only an anchor is left behind")
		}
	}
	return tree
}

// whoseTransactions says which node's wallet knows a transaction.
func whoseTransactions(ctx context.Context, t *testing.T, nodes []*devnet.Node) map[chainhash.Hash]*devnet.Node {
	t.Helper()
	out := map[chainhash.Hash]*devnet.Node{}
	for _, n := range nodes {
		list, err := n.LN.GetTransactions(ctx, &lnrpc.GetTransactionsRequest{})
		require.NoError(t, err)
		for _, tx := range list.Transactions {
			id, err := chainhash.NewHashFromStr(tx.TxHash)
			require.NoError(t, err)
			out[*id] = n
		}
	}
	return out
}

// arrived demands that a wallet has what the tree brought it, to the sat.
func (c *chainTree) arrived(ctx context.Context, n *devnet.Node, before int64) {
	c.t.Helper()
	require.NoError(c.t, devnet.WaitFor(ctx, n.Name+"'s wallet to have what it took", func(ctx context.Context) (bool, error) {
		return onChainSat(ctx, c.t, n)-before == c.gains[n], nil
	}))
}
