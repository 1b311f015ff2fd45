package refund

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/fsm/fsmtest"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

var testStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func testPlan() Plan {
	return Plan{
		ID: "order-1-refund-1", OrderID: "order-1", Coins: []Coin{{ln.Outpoint{TxID: ln.TxID{1}}, 60_000}, {ln.Outpoint{TxID: ln.TxID{2}}, 40_000}},
		Script: []byte{0x51}, ToScript: []byte{0x00}, BumpAfterBlocks: 3, BuriedConfs: 6,
	}
}

func moment(height uint32) lsp.Moment { return lsp.Moment{At: testStart, Height: height} }

func tx(n byte, fee ln.Sat) Tx {
	return Tx{TxID: ln.TxID{9, n}, Raw: []byte("raw"), FeeSat: fee, RefundSat: 100_000 - fee, FeeRate: ln.FeeRateSatPerKW(fee), At: testStart, Height: 100}
}

func testEvents(State) []Event {
	m := moment(100)
	return []Event{
		Start{m},
		Signed{m, tx(1, 300)},
		Signed{m, tx(2, 600)},
		TooSmall{m, "dust"},
		Published{m, tx(1, 300).TxID},
		Published{m, tx(2, 600).TxID},
		PublishFailed{m, "min relay fee"},
		Confirmed{m, tx(1, 300).TxID, 100},
		Confirmed{moment(105), tx(1, 300).TxID, 100},
		Reorged{m},
		Conflicted{m, ln.TxID{8}, 100, nil},
		Conflicted{moment(105), ln.TxID{8}, 100, []ln.Outpoint{{TxID: ln.TxID{1}}}},
		CoinsGone{m, []ln.Outpoint{{TxID: ln.TxID{1}}}},
		NewBlock{moment(101), 0},
		NewBlock{moment(103), 2000},
		NewBlock{moment(105), 0},
		Tick{m},
		Tick{lsp.Moment{At: testStart.Add(6 * time.Hour), Height: 101}},
	}
}

func TestDiagram(t *testing.T) {
	fsmtest.CheckDiagram(t, Machine(), "STATES.md", fsmtest.Samples[State, Event]{Initial: []State{Planned{testPlan()}}, Events: testEvents})
}

func walk(t *testing.T, s State, events ...Event) (State, []Effect) {
	t.Helper()
	var effects []Effect
	for _, v := range events {
		next, f, err := Step(s, v)
		require.NoError(t, err, "%s in %s", v.EventName(), s.StateName())
		s, effects = next, f
	}
	return s, effects
}

// A refund that lags is replaced by one that pays more: when the fee source asks
// for more, and after six hours whatever it asks.
func TestBumps(t *testing.T) {
	m := moment(100)
	s, _ := walk(t, Planned{testPlan()}, Start{m}, Signed{m, tx(1, 300)}, Published{m, tx(1, 300).TxID})
	_, effects := walk(t, s, NewBlock{moment(103), 300})
	require.Len(t, effects, 1, "the rate asked for is paid already: %v", effects)
	s, effects = walk(t, s, NewBlock{moment(103), 301})
	require.Equal(t, Build{Plan: testPlan(), MinFeeSat: 375}, effects[1])
	due, v, ok := deadline(s)
	require.True(t, ok)
	require.Equal(t, testStart.Add(6*time.Hour), due)
	s, effects = walk(t, s, v, Signed{m, tx(2, 600)})
	require.Equal(t, tx(2, 600).TxID, effects[0].(Publish).TxID)
	// The older version confirms after all: it is the one that counts.
	s, effects = walk(t, s, Confirmed{moment(105), tx(1, 300).TxID, 100})
	require.Equal(t, tx(1, 300), s.(Returned).Tx)
	require.Equal(t, NotifyOrder{RefundID: "order-1-refund-1", OrderID: "order-1", TxID: tx(1, 300).TxID, Over: true}, effects[0])
}

// What can return nothing ends, and says which of its coins are spent: the order
// takes up the others. One that is in a block is not given up.
func TestVoid(t *testing.T) {
	m := moment(100)
	gone := ln.Outpoint{TxID: ln.TxID{1}}
	sent, _ := walk(t, Planned{testPlan()}, Start{m}, Signed{m, tx(1, 300)}, Published{m, tx(1, 300).TxID})
	for _, s := range []State{Planned{testPlan()}, sent} {
		over, effects := walk(t, s, CoinsGone{m, []ln.Outpoint{gone}})
		require.IsType(t, Void{}, over)
		require.Equal(t, []Effect{NotifyOrder{RefundID: "order-1-refund-1", OrderID: "order-1", Void: true}}, effects)
	}
	confirmed, _ := walk(t, sent, Confirmed{m, tx(1, 300).TxID, 100})
	_, _, err := Step(confirmed, CoinsGone{m, []ln.Outpoint{gone}})
	require.ErrorIs(t, err, fsm.ErrIllegal)
	over, effects := walk(t, sent, Conflicted{moment(105), ln.TxID{8}, 100, []ln.Outpoint{gone}})
	require.IsType(t, Void{}, over)
	require.Equal(t, []ln.Outpoint{gone}, effects[0].(NotifyOrder).Spent)
	require.False(t, effects[0].(NotifyOrder).Over)
}

// The client bears the fee, and nothing else: what is not so is never published.
func TestOnlyTheFeeIsMissing(t *testing.T) {
	wrong := tx(1, 300)
	wrong.RefundSat--
	_, _, err := Step(Planned{testPlan()}, Signed{moment(100), wrong})
	require.ErrorContains(t, err, "must not be published")
	keep := testPlan()
	keep.KeepSat = 90_000
	require.Equal(t, ln.Sat(10_000), keep.OwedSat())
	keep.KeepSat = 100_001
	require.Zero(t, keep.OwedSat())
}
