package agent

import (
	"bytes"
	"testing"
	"time"

	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// lags signs a joint funding whose transaction nobody mines, and has fees rise.
func (n *net5) lags() (Record, *wire.MsgTx) {
	n.t.Helper()
	r, err := n.a.Open(n.t.Context(), request())
	require.NoError(n.t, err)
	r, err = n.a.Sign(n.t.Context(), r.Key(), nil)
	require.NoError(n.t, err)
	require.Eventually(n.t, func() bool { return len(n.w.Mempool()) == 1 }, time.Minute, 10*time.Millisecond)
	n.mu.Lock()
	n.rate = 2_000
	n.mu.Unlock()
	return r, n.w.Mempool()[0]
}

func txid(tx *wire.MsgTx) ln.TxID { return ln.TxID(tx.TxHash()) }

// The transaction of a channel that lags is not replaced: another channel of the same
// coins takes its place, and both are kept until one is buried. Whichever it is, the
// wallet pays for one, to the sat.
func TestReplace(t *testing.T) {
	for name, oldWins := range map[string]bool{"the new one confirms": false, "the old one confirms after all": true} {
		t.Run(name, func(t *testing.T) {
			n := newNet(t)
			old, oldTx := n.lags()
			r, err := n.a.Replace(t.Context(), old.Key(), 0)
			require.NoError(t, err)
			require.Equal(t, PhaseReady, r.Phase)
			require.Equal(t, old.Inputs, r.Inputs)
			require.Greater(t, r.ChainFeeSat, old.ChainFeeSat)
			require.Equal(t, txid(oldTx), txid(n.w.Mempool()[0]), "nothing is signed")
			_, err = n.a.Replace(t.Context(), old.Key(), 0)
			require.Equal(t, errkind.Conflict, errkind.Of(err), "once")
			n.restart()
			_, err = n.a.Sign(t.Context(), r.Key(), nil)
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				pool := n.w.Mempool()
				return len(pool) == 1 && txid(pool[0]) == r.Channel.TxID
			}, time.Minute, 10*time.Millisecond, "it takes the other one's place")
			winner, loser := r, old
			if oldWins {
				winner, loser = old, r
				n.w.DropFromMempool([32]byte(r.Channel.TxID))
				var raw bytes.Buffer
				require.NoError(t, oldTx.Serialize(&raw))
				require.NoError(t, n.gateway.Publish(t.Context(), raw.Bytes(), "a miner has it"))
			}
			n.w.Mine(1)
			n.restart()
			require.Equal(t, 2, n.channels(), "a reorg could bring the other one back")
			require.Equal(t, PhaseSigned, n.phase(loser.Key(), PhaseSigned).Phase)
			n.w.Mine(2)
			n.phase(winner.Key(), PhaseDone)
			n.phase(loser.Key(), PhaseVoid)
			require.Eventually(t, func() bool { return n.channels() == 1 }, time.Minute, 10*time.Millisecond)
			require.Zero(t, n.leases())
			require.Eventually(t, func() bool {
				list, err := n.gateway.ListLeases(t.Context())
				return err == nil && len(list) == 0
			}, time.Minute, 10*time.Millisecond, "the gateway's coins of both are free or spent")
			require.EqualValues(t, n.before-int64(winner.ServiceFeeSat)-int64(winner.ChainFeeSat), n.w.Wealth(n.node).TotalMsat()/1000)
			require.EqualValues(t, 400_000, n.w.Wealth(n.node).ChannelMsat/1000)
			require.NoError(t, n.w.Err())
		})
	}
}

// A replacement that is not signed leaves the other as it was, and its coins leased.
func TestReplacementGivenUp(t *testing.T) {
	n := newNet(t)
	old, oldTx := n.lags()
	leased := n.leases()
	r, err := n.a.Replace(t.Context(), old.Key(), 0)
	require.NoError(t, err)
	_, err = n.a.Abort(t.Context(), r.Key())
	require.NoError(t, err)
	require.Equal(t, leased, n.leases(), "they are still the other one's")
	require.Eventually(t, func() bool { return n.channels() == 1 }, time.Minute, 10*time.Millisecond)
	require.Equal(t, txid(oldTx), txid(n.w.Mempool()[0]))
	// It can be tried again, and confirms meanwhile.
	r, err = n.a.Replace(t.Context(), old.Key(), 0)
	require.NoError(t, err)
	n.w.Mine(3)
	n.phase(old.Key(), PhaseDone)
	n.phase(r.Key(), PhaseGivenUp)
	require.Eventually(t, func() bool { return n.channels() == 1 }, time.Minute, 10*time.Millisecond)
	require.NoError(t, n.w.Err())
}

// What must not be replaced is not.
func TestNotEverythingIsReplaced(t *testing.T) {
	n := newNet(t)
	ready, err := n.a.Open(t.Context(), request())
	require.NoError(t, err)
	_, err = n.a.Replace(t.Context(), ready.Key(), 0)
	require.Equal(t, errkind.Conflict, errkind.Of(err), "it is not signed")
	_, err = n.a.Abort(t.Context(), ready.Key())
	require.NoError(t, err)

	old, _ := n.lags()
	_, err = n.a.Replace(t.Context(), old.Key(), 1_000)
	require.Equal(t, errkind.Invalid, errkind.Of(err), "the user's bound")
	n.mu.Lock()
	n.rate = 520
	n.mu.Unlock()
	_, err = n.a.Replace(t.Context(), old.Key(), 0)
	require.ErrorContains(t, err, "to replace this transaction takes", "the network would not take it")
	_, err = n.a.Replace(t.Context(), "0000", 0)
	require.Equal(t, errkind.NotFound, errkind.Of(err))
	n.w.Mine(3)
	n.phase(old.Key(), PhaseDone)
	_, err = n.a.Replace(t.Context(), old.Key(), 0)
	require.Equal(t, errkind.Conflict, errkind.Of(err))

	// One that is used already stays: what came over it would be gone.
	q := request()
	q.WalletSat, q.ZeroConf = 200_000, true
	used, err := n.a.Open(t.Context(), q)
	require.NoError(t, err)
	_, err = n.a.Sign(t.Context(), used.Key(), nil)
	require.NoError(t, err)
	_, err = n.a.Replace(t.Context(), used.Key(), 0)
	require.Equal(t, errkind.Conflict, errkind.Of(err))
	require.Equal(t, 2, n.channels())
}
