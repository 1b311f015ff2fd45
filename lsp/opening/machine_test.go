package opening

import (
	"testing"
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm/fsmtest"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

var testStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func testPlan(zeroConf bool) Plan {
	return Plan{
		ID: "open-1", Owner: "offer-1", Client: ln.PubKey{2, 1}, CapacitySat: 200_000,
		Type: ln.CommitmentAnchors, FeeRate: 1000, ZeroConf: zeroConf, Confs: 3, BuriedConfs: 6,
		Seed: [32]byte{7}, Deadline: testStart.Add(time.Minute), BumpAfterBlocks: 4, MaxNegotiations: 2,
	}
}

// orderedPlan is for an owner that waits for the transaction to be public.
func orderedPlan() Plan {
	p := testPlan(true)
	p.TellPublished, p.PushSat = true, 50_000
	return p
}

// trustedPlan is of a client that trusts the gateway to publish.
func trustedPlan() Plan {
	p := testPlan(true)
	p.Withhold, p.WithholdMarginBlocks = true, 10
	return p
}

// batchPlan is of a channel that shares its transaction.
func batchPlan() Plan {
	p := testPlan(false)
	p.Batch, p.TellPublished = "batch-1", true
	return p
}

func testSelection() funding.Selection {
	return funding.Selection{
		Inputs:     []ln.Coin{{Outpoint: ln.Outpoint{TxID: ln.TxID{1}, Index: 1}, AmountSat: 300_000, PkScript: []byte{0x51, 32}}},
		FundingSat: 200_000, ChangeSat: 99_000, FeeSat: 1000, FeeRate: 1000, WeightWU: 600,
	}
}

func testShare() Coins {
	s := testSelection()
	s.FundingSat, s.Inputs[0].AmountSat = 500_000, 600_000
	return Coins{Selection: s, ChangeScript: []byte{0x51}, Share: &Share{FeeSat: 400, First: testOutpoint}}
}

var (
	testTxID     = ln.TxID{9}
	testOutpoint = ln.Outpoint{TxID: testTxID, Index: 0}
)

func moment(height uint32) lsp.Moment { return lsp.Moment{At: testStart, Height: height} }

// testEvents are the events tried in every state; some are wrong on purpose.
func testEvents(s State) []Event {
	p := PlanOf(s)
	m := moment(100)
	late := lsp.Moment{At: p.Deadline, Height: 100}
	unsigned := Unsigned{Psbt: []byte("psbt"), Outpoint: testOutpoint, ChangeOutpoint: ln.Outpoint{TxID: testTxID, Index: 1}}
	events := []Event{
		Start{m},
		CoinsLeased{m, testSelection(), []byte{0x51}},
		CoinsRefused{m, 5, "short", 0},
		CoinsRefused{m, 0, "dear", 5_000},
		NegotiationLost{m, "eof"},
		PeerGone{m},
		FundingPending{m, testOutpoint},
		NodeAnswered{m, PresenceAbsent, 0},
		NodeAnswered{m, PresencePending, 0},
		NodeAnswered{m, PresenceActive, 42},
		FundingSigned{m, testTxID, []byte("raw")},
		SigningFailed{m, "locked"},
		FundingPublished{m},
		PublishFailed{m, "min relay fee"},
		ChannelActive{m, 42},
		ChannelInactive{m},
		FundingConfirmed{moment(101), 101},
		FundingConfirmed{moment(103), 101},
		FundingConfirmed{moment(106), 101},
		FundingReorged{m},
		FundingConflicted{moment(101), ln.TxID{8}, 101},
		FundingConflicted{moment(106), ln.TxID{8}, 101},
		NewBlock{moment(101), 0},
		NewBlock{moment(103), 0},
		NewBlock{moment(106), 2000},
		Tick{m},
		Tick{lsp.Moment{At: testStart.Add(askAgain), Height: 100}},
		Tick{late},
	}
	for _, n := range []uint32{0, 1} {
		id := p.PendingID(n)
		events = append(events, FundingBuilt{m, id, unsigned}, PeerRejected{m, id, "no", false}, PeerRejected{m, id, "later", true}, NegotiationFailed{m, id, "lnd"})
	}
	if p.Batch != "" {
		events = append(events, OutputNamed{m, p.PendingID(0), []byte{0, 32}}, FundingShared{m, testShare(), unsigned})
	}
	if p.Withhold {
		events = append(events, Release{m}, ChannelUse{Moment: m}, ChannelUse{Moment: m, Claimed: true},
			ChannelUse{Moment: m, Htlcs: 1, Expiry: 150}, ChannelUse{Moment: m, Htlcs: 1, Expiry: 110},
			ChannelUse{Moment: m, Last: true, Forgotten: true}, ChannelUse{Moment: m, Last: true, Claimed: true}, ChannelUse{Moment: m, Last: true, Htlcs: 1, Expiry: 150})
	}
	if CanAbandon(s) {
		events = append(events, Abandon{m, lsp.Because(lsp.ReasonCancelled, "enough"), false})
	}
	return events
}

func TestDiagram(t *testing.T) {
	fsmtest.CheckDiagram(t, Machine(), "STATES.md", fsmtest.Samples[State, Event]{
		Initial: []State{Planned{testPlan(true)}, Planned{testPlan(false)}, Planned{orderedPlan()}, Planned{trustedPlan()}, Planned{batchPlan()}},
		Events:  testEvents,
	})
}
