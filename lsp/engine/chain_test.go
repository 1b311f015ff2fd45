package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/order"
)

// TestWhatNobodyHasYetIsWatchedAfterARestart: the network refuses a signed funding
// transaction, and sluiced starts anew. When a later block takes it, or another
// transaction its coins, the open hears of it.
func TestWhatNobodyHasYetIsWatchedAfterARestart(t *testing.T) {
	client := ln.PubKey{2, 1}
	cfg := database(t)
	n := newFakeNode()
	before := newEngine(t, cfg, n, nil)
	op := pendingOpen(t, before, n, client, "p", 1)
	_, err := before.openings.Send(t.Context(), "p-open-1", opening.FundingSigned{Moment: at(100), TxID: op.TxID, Raw: []byte{1}})
	require.NoError(t, err)

	e := newEngine(t, cfg, n, nil)
	inst, err := e.openings.Get(t.Context(), "p-open-1")
	require.NoError(t, err)
	require.IsType(t, opening.Signed{}, inst.State)
	_, err = e.reconcileOpening(t.Context(), "p-open-1", inst.State)
	require.NoError(t, err)
	look := func(txs ...ln.WalletTx) string {
		t.Helper()
		n.mu.Lock()
		n.txs = txs
		n.mu.Unlock()
		e.lookAtChain(t.Context())
		inst, err := e.openings.Get(t.Context(), "p-open-1")
		require.NoError(t, err)
		tx, ok := opening.TxOf(inst.State)
		require.True(t, ok)
		switch {
		case tx.ConfirmedHeight > 0:
			return "confirmed"
		case tx.SpenderHeight > 0:
			return "conflicted"
		}
		return inst.State.StateName()
	}
	funding := ln.WalletTx{TxID: op.TxID, Height: 101, Confirmations: 1}
	spender := ln.WalletTx{TxID: ln.TxID{0xbb}, Height: 101, Confirmations: 1, Spends: []ln.Outpoint{{TxID: ln.TxID{0xaa, 1}}}}
	out := func(tx ln.WalletTx) ln.WalletTx {
		tx.Height, tx.Confirmations = 0, 0
		return tx
	}
	require.Equal(t, "signed", look(), "nobody has it")
	require.Equal(t, "conflicted", look(spender))
	// A reorg: lnd has forgotten ours when the other one was in a block.
	require.Equal(t, "signed", look(out(spender)), "that block is gone, and it is sent again")
	require.Equal(t, "conflicted", look(spender))
	require.Equal(t, "confirmed", look(funding), "ours is in the block that took the other's place")
	require.Equal(t, "confirmed", look(), "lnd does not list it just now")
	require.Equal(t, "published", look(out(funding)), "a reorg")
}

// TestAnOrderBelievesItsOpen: that its channel confirmed and that a reorg took that back
// are told to an order each by itself. When they come in the wrong order, a payment must
// not become ours for a funding that no block has.
func TestAnOrderBelievesItsOpen(t *testing.T) {
	n := newFakeNode()
	e := newEngine(t, database(t), n, nil)
	op := pendingOpen(t, e, n, ln.PubKey{2, 1}, "o", 1)
	_, err := e.openings.Send(t.Context(), "o-open-1", opening.FundingSigned{Moment: at(100), TxID: op.TxID, Raw: []byte{1}})
	require.NoError(t, err)
	believes := func(height uint32) order.State {
		return order.Active{Order: order.Order{Terms: order.Terms{ID: "o"}, Progress: order.Progress{Opens: 1, Channel: &order.Channel{Outpoint: op, ConfirmedHeight: height}}}}
	}
	told := func(height uint32) (names []string) {
		for _, ev := range e.confirmedOf(t.Context(), "o", believes(height)) {
			names = append(names, ev.EventName())
		}
		return names
	}
	require.Empty(t, told(0))
	require.Equal(t, []string{order.OpeningReorged{}.EventName()}, told(101))
	_, err = e.openings.Send(t.Context(), "o-open-1", opening.FundingConfirmed{Moment: at(101), ConfirmedHeight: 101})
	require.NoError(t, err)
	require.Empty(t, told(101))
	require.Equal(t, []string{order.OpeningConfirmed{}.EventName()}, told(0))
}
