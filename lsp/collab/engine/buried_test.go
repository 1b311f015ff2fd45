package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// Blocks and spends come in streams of their own. After a reorg the new tip may be known
// before what the reorg undid: nothing is over by it that the chain has not, or a channel
// would be forgotten whose transaction confirms, or its money believed that is not there.
func TestNothingIsOverByTheOldChain(t *testing.T) {
	t.Run("its funding left the chain", func(t *testing.T) {
		n := newNet(t, storetest.SQLite(t))
		v, _ := n.published()
		n.w.Mine(1)
		n.wait(v.ID, "confirmed")
		hear := n.hearNoSpends()
		t.Cleanup(hear)
		n.w.Reorg(1, false)
		n.w.MineEmpty()
		require.Equal(t, "published", n.wait(v.ID, "published", "buried").State)
		require.NotZero(t, n.leases(), "its coins are kept")
		n.w.Mine(1)
		hear()
		n.w.Mine(2)
		n.over(n.wait(v.ID, "buried"))
	})
	t.Run("its double-spend left the chain", func(t *testing.T) {
		n := newNet(t, storetest.SQLite(t))
		v, packet := n.published()
		n.doubleSpend(packet)
		n.w.Mine(1)
		n.eventually("the double-spend is seen", func() bool {
			v, err := n.e.Get(t.Context(), n.key, v.ID)
			return err == nil && v.Reason != ""
		})
		hear := n.hearNoSpends()
		t.Cleanup(hear)
		n.w.Reorg(1, false)
		for _, tx := range n.w.Mempool() {
			n.w.DropFromMempool(tx.TxHash())
		}
		n.w.MineEmpty()
		n.eventually("it is seen that nothing spends the coin any more", func() bool {
			v, err := n.e.Get(t.Context(), n.key, v.ID)
			require.NoError(t, err)
			require.Equal(t, "published", v.State)
			return v.Reason == ""
		})
		require.Equal(t, 1, n.channels(), "the channel is kept")
		n.w.MineEmpty()
		n.eventually("the funding is sent again", func() bool {
			for _, tx := range n.w.Mempool() {
				if ln.TxID(tx.TxHash()) == v.Tx.Funding.TxID {
					return true
				}
			}
			return false
		})
		hear()
		n.w.Mine(3)
		n.over(n.wait(v.ID, "buried"))
	})
}
