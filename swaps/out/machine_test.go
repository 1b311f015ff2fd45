package out

import (
	"testing"
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm/fsmtest"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

const testExpiry = 300

func testStart() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func testPreimage() swaps.Secret { return swaps.NewSecret(ln.Preimage{1}) }

func testPlan() Plan {
	return Plan{
		Terms:     htlc.Terms{Hash: ln.Preimage{1}.Hash(), ExpiryHeight: testExpiry, Sender: ln.PubKey{2, 1}, Receiver: ln.PubKey{2, 2}},
		AmountSat: 500_000, FeeSat: 4_000, PrepaySat: 1_500, MaxMinerSat: 2_000, PrepayPreimage: swaps.NewSecret(ln.Preimage{2}),
		AcceptBy: testStart().Add(time.Hour), InvoiceExpiry: time.Hour, FinalCltvDelta: 300, MarginBlocks: 60, HoldExpiryDelta: 18,
		MinPublishBlocks: 30, BuriedConfs: 6, BumpAfterBlocks: 3,
	}
}

func testTx() Tx {
	return Tx{
		Raw: []byte("funding"), Outpoint: ln.Outpoint{TxID: ln.TxID{9}}, Inputs: []ln.Outpoint{{TxID: ln.TxID{8}}},
		MinerSat: 200, WeightWU: 600, ChangeOutpoint: ln.Outpoint{TxID: ln.TxID{9}, Index: 1}, ChangeSat: 90_000, Rate: 300,
	}
}

func moment(height uint32) swaps.Moment { return swaps.Moment{At: testStart(), Height: height} }

// testEvents are tried in every state; some are wrong on purpose.
func testEvents(s State) []Event {
	m, preimage := moment(100), testPreimage()
	late := swaps.Moment{At: testStart().Add(2 * time.Hour), Height: 100}
	const held = testExpiry + 60 + 18
	events := []Event{
		Start{m},
		InvoicesMade{m, Invoices{SwapInvoice: "lnbc1", PrepayInvoice: "lnbc2", PaymentAddr: [32]byte{7}}},
		InvoicesRefused{m, "no"},
		PaymentHeld{m, LegSwap, held, ""},
		PaymentHeld{m, LegSwap, held - 1, ""},
		PaymentHeld{m, LegPrepay, 500, ""},
		PaymentHeld{moment(280), LegPrepay, 500, ""},
		PaymentHeld{m, LegSwap, held, "zero-conf"},
		PaymentReleased{m, LegSwap},
		PaymentReleased{m, LegPrepay},
		HtlcFunded{m, testTx()},
		FundingRefused{m, "short"},
		PrepaySettled{m},
		PrepayLost{m, "cancelled", false},
		PrepayLost{moment(271), "late", false},
		PrepayLost{m, "released", true},
		HtlcFunded{moment(271), testTx()},
		PaymentTaken{m, preimage},
		PaymentTaken{moment(106), preimage},
		HtlcPublished{m},
		PublishFailed{m, "min relay fee"},
		HtlcConfirmed{moment(101), 101},
		HtlcConfirmed{moment(106), 101},
		HtlcReorged{m},
		HtlcSpent{moment(103), htlc.SpendSuccess, ln.TxID{5}, 103, 200, &preimage},
		HtlcSpent{moment(306), htlc.SpendSuccess, ln.TxID{5}, 301, 200, &preimage},
		HtlcSpent{moment(103), htlc.SpendKey, ln.TxID{5}, 103, 200, nil},
		HtlcSpent{moment(301), htlc.SpendTimeout, ln.TxID{6}, 301, 200, nil},
		HtlcSpent{moment(306), htlc.SpendTimeout, ln.TxID{6}, 301, 200, nil},
		SpendReorged{m},
		CoinTaken{moment(103), ln.TxID{4}, 103},
		CoinTaken{moment(110), ln.TxID{4}, 103},
		CoinBack{m},
		SwapSettled{m},
		SwapUnsettled{m},
		RefundSigned{moment(300), Refund{Raw: []byte("refund"), Rate: 300, FeeSat: 200}},
		RefundRefused{moment(300), "dust"},
		InvoicesCancelled{m},
		NewBlock{moment(104), 500},
		NewBlock{moment(300), 500},
		NewBlock{moment(303), 500},
		NewBlock{moment(306), 500},
		NewBlock{moment(360), 500},
		Tick{m},
		Tick{late},
	}
	live, isLive := LiveOf(s)
	if !isLive || live.TakenHeight == 0 && (live.Preimage != nil || live.Refund == nil && live.Spent != htlc.SpendTimeout) {
		events = append(events, PreimagePushed{m, preimage})
	}
	switch s.(type) {
	case Funded, Published, Refunding, Revealed, Settled:
	default:
		events = append(events, CancelAsked{m, "enough"})
	}
	return events
}

func TestDiagram(t *testing.T) {
	fsmtest.CheckDiagram(t, Machine(), "STATES.md", fsmtest.Samples[State, Event]{
		Initial: []State{Offered{testPlan()}}, Events: testEvents,
	})
}
