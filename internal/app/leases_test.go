package app

import (
	"testing"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"
)

// A channel is in use, its funding transaction waits for a day, the mempools drop it,
// and lnd's wallet forgets it when it starts: nothing else may take its coins.
func TestCoinsOfAnUnconfirmedFundingStayLeased(t *testing.T) {
	bothWays(t, rigConfig{}, func(t *testing.T, r *rig) {
		a := r.agree()
		require.Equal(t, lnrpc.Payment_SUCCEEDED, r.outcome(r.pay(a.bolt11)).Status)
		r.releaseLeases() // those of a day ago have ended
		r.w.MineEmpty()
		kit := walletrpc.NewWalletKitClient(r.conns[r.gateway])
		leased := func() []*walletrpc.UtxoLease {
			list, err := kit.ListLeases(r.ctx, &walletrpc.ListLeasesRequest{})
			require.NoError(t, err)
			return list.LockedUtxos
		}
		for i := 0; len(leased()) == 0; i++ {
			require.Less(t, i, 1000, "the coins are not leased again")
			r.pause(r.step)
		}
		mempool := r.w.Mempool()
		require.Len(t, mempool, 1)
		coins := mempool[0].TxIn
		// sluiced publishes it again with the next block.
		r.w.DropFromMempool(mempool[0].TxHash())
		free, err := kit.ListUnspent(r.ctx, &walletrpc.ListUnspentRequest{MaxConfs: 1 << 30})
		require.NoError(t, err)
		for _, in := range coins {
			for _, u := range free.Utxos {
				require.False(t, u.Outpoint.TxidStr == in.PreviousOutPoint.Hash.String() && u.Outpoint.OutputIndex == in.PreviousOutPoint.Index,
					"a coin of the funding could be spent again")
			}
		}
		require.Len(t, leased(), len(coins))
	})
}
