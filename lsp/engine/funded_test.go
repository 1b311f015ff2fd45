package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// pendingOpen is an open whose commitments are signed, and whose funding is not. lnd shows
// its channel as active.
func pendingOpen(t *testing.T, e *Engine, n *fakeNode, client ln.PubKey, id string, txid byte) ln.Outpoint {
	t.Helper()
	op := ln.Outpoint{TxID: ln.TxID{txid}}
	plan, err := e.planOpening(machineJit, id, id+"-open-1", openingWish{client: client, amountMsat: 100_000_000, feeMsat: 2_000_000, zeroConf: true, openFor: time.Minute})
	require.NoError(t, err)
	_, err = e.openings.Create(t.Context(), id+"-open-1", opening.Planned{Plan: plan}, opening.Start{Moment: at(100)})
	require.NoError(t, err)
	for _, ev := range []opening.Event{
		opening.CoinsLeased{Moment: at(100), Selection: funding.Selection{
			Inputs: []ln.Coin{{Outpoint: ln.Outpoint{TxID: ln.TxID{0xaa, txid}}, AmountSat: plan.CapacitySat + 100}}, FundingSat: plan.CapacitySat, FeeSat: 100,
		}},
		opening.FundingBuilt{Moment: at(100), PendingID: plan.PendingID(0), Unsigned: opening.Unsigned{Psbt: []byte{1}, Outpoint: op}},
		opening.FundingPending{Moment: at(100), Outpoint: op},
	} {
		_, err := e.openings.Send(t.Context(), id+"-open-1", ev)
		require.NoError(t, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.channels = append(n.channels, ln.Channel{
		Private: true, ChanID: ln.NewSCID(16_000_000, uint32(txid), 0), Outpoint: op, Peer: client, Active: true, Initiator: true, ZeroConf: true,
		CapacitySat: plan.CapacitySat, LocalSat: plan.CapacitySat - 2_000, CommitFeeSat: 1_000, CommitmentType: "ANCHORS",
	})
	return op
}

// TestNoRoomInAChannelThatNothingFunds: lnd shows the wallet's new zero-conf
// channel as active and empty from the moment that commitments are exchanged,
// and lets money pass. What passes before the funding transaction is out, or
// after its coins were spent otherwise, is lost to the wallet.
func TestNoRoomInAChannelThatNothingFunds(t *testing.T) {
	const amount = ln.Msat(20_000_000)
	client := ln.PubKey{2, 1}
	cfg := database(t)
	n := newFakeNode()
	e := newEngine(t, cfg, n, nil)

	begin := func(id string, txid byte) ln.Outpoint { return pendingOpen(t, e, n, client, id, txid) }
	send := func(id string, ev opening.Event) {
		t.Helper()
		_, err := e.openings.Send(t.Context(), id+"-open-1", ev)
		require.NoError(t, err)
	}
	room := func(e *Engine) ln.SCID {
		t.Helper()
		found, err := e.takeRoom(t.Context(), "another", client, amount, 0, true)
		require.NoError(t, err)
		return found.via
	}

	op := begin("p", 1)
	require.Zero(t, room(e), "both sides have signed commitments, nobody the funding transaction")
	send("p", opening.ChannelActive{Moment: at(100), ChanID: n.channels[0].ChanID})
	require.Zero(t, room(e), "active, and still unsigned")
	send("p", opening.FundingSigned{Moment: at(100), TxID: op.TxID, Raw: []byte{1}})
	require.Zero(t, room(e), "signed, but the network does not have it")
	send("p", opening.FundingPublished{Moment: at(100)})
	require.Equal(t, n.channels[0].ChanID, room(e))

	spender := opening.FundingConflicted{Moment: at(101), Spender: ln.TxID{0xbb}, SpenderHeight: 101}
	send("p", spender)
	require.Zero(t, room(e), "another transaction in a block spends its coins")
	send("p", opening.FundingReorged{Moment: at(101)})
	require.Equal(t, n.channels[0].ChanID, room(e), "that block is gone")
	send("p", spender)
	send("p", opening.NewBlock{Moment: at(120)})
	require.Zero(t, room(e), "that block is buried")

	begin("q", 2)
	second := n.channels[1].Outpoint
	send("q", opening.Abandon{Moment: at(120), Reason: lsp.Because(lsp.ReasonOpenSlow, "too slow")})
	require.Zero(t, room(e), "the open was given up, whatever lnd shows")
	next := newEngine(t, cfg, n, nil)
	require.Zero(t, room(next), "the next process knows it, too")

	// lnd is told to forget it until it has, not once.
	tries := 0
	n.forget = func(op ln.Outpoint) error {
		require.Equal(t, second, op)
		if tries++; tries < 3 {
			return ln.ErrUnavailable
		}
		return nil
	}
	next.abandonLate(t.Context(), second)
	require.Equal(t, 3, tries)
	next.abandonLate(t.Context(), op)
	require.Equal(t, 3, tries, "one that was funded once is a person's business")

	// One that waits for confirmations is never active: with each block lnd is asked
	// which it has. Those that are live, of others, or closed, are none of them.
	var forgotten []ln.Outpoint
	n.forget = func(op ln.Outpoint) error { forgotten = append(forgotten, op); return nil }
	begin("r", 3)
	n.pending = []ln.PendingChannel{
		{Outpoint: second, Kind: ln.PendingOpen},
		{Outpoint: ln.Outpoint{TxID: ln.TxID{3}}, Kind: ln.PendingOpen},
		{Outpoint: ln.Outpoint{TxID: ln.TxID{4}}, Kind: ln.PendingOpen},
	}
	require.NoError(t, next.abandonStrays(t.Context()))
	require.Equal(t, []ln.Outpoint{second}, forgotten)
}
