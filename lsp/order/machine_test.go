package order

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/fsm/fsmtest"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

var (
	testStart    = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	testPreimage = ln.Preimage{1, 2, 3}
	testFunding  = ln.Outpoint{TxID: ln.TxID{7}, Index: 1}
)

const (
	testHeight = 800_000
	testTotal  = 52_000
	testHold   = testHeight + 144
)

// testTerms are of an order that can be paid in the ways named.
func testTerms(lightning, onChain bool) Terms {
	t := Terms{
		ID: "order-1", Client: ln.PubKey{2, 1},
		Wish:      Wish{LspBalanceSat: 1_000_000, ClientBalanceSat: 50_000, ConfirmWithin: 6, ExpiryBlocks: 1000},
		CreatedAt: testStart, WaitFor: time.Hour, HoldMarginBlocks: 12, HoldExpiryDelta: 18, MaxOpens: 2, BuriedConfs: 6,
	}
	if lightning {
		t.Lightning = &Lightning{
			Price: Price{FeeSat: 2_000, TotalSat: testTotal}, Hash: testPreimage.Hash(), Preimage: lsp.NewSecret(testPreimage),
			FinalCltv: 144, ExpiresAt: testStart.Add(time.Hour),
		}
	}
	if onChain {
		t.OnChain = &OnChain{
			Price: Price{FeeSat: 2_000, TotalSat: testTotal}, Address: "bcrt1p", Script: []byte{0x51}, ExpiresAt: testStart.Add(2 * time.Hour),
			ConfirmBy: testStart.Add(24 * time.Hour), WatchUntil: testStart.Add(90 * 24 * time.Hour), MinConfs: 1,
			RefundAddress: "bcrt1q", RefundScript: []byte{0x00},
		}
	}
	return t
}

func moment(height uint32) lsp.Moment { return lsp.Moment{At: testStart, Height: height} }

func testHtlcs() []ln.InvoiceHtlc {
	return []ln.InvoiceHtlc{
		{Key: ln.CircuitKey{ChanID: 7, HtlcID: 1}, AmtMsat: 30_000_000, Expiry: testHold},
		{Key: ln.CircuitKey{ChanID: 7, HtlcID: 2}, AmtMsat: 22_000_000, Expiry: testHold + 2},
	}
}

// seen is a coin by its number.
func seen(n byte, amount ln.Sat, height uint32) SeenCoin {
	return SeenCoin{Outpoint: ln.Outpoint{TxID: ln.TxID{n}}, AmountSat: amount, Height: height, At: testStart}
}

func coins(height uint32, list ...SeenCoin) CoinsSeen {
	return CoinsSeen{Moment: moment(height), Coins: list}
}

// The scenarios keep what the exploration multiplies small: each has its ways to
// pay and the lists of coins that lnd shows.
const (
	onlyLightning = "lightning"
	onlyOnChain   = "onchain"
	paidTwice     = "twice"
	paidTooMuch   = "too-much"
	unconfirmed   = "unconfirmed"
	queued        = "queued"
)

func scenario(name string) Order {
	t := testTerms(name != onlyOnChain && name != paidTooMuch && name != unconfirmed, name != onlyLightning)
	if name == queued {
		t.WaitBlocks, t.RequiredConfs, t.ConfirmWithin = 12, 1, 24
	}
	if name == unconfirmed {
		t.OnChain.MinConfs = 0
	}
	t.ID, t.MaxOpens = name, 1
	if name == onlyLightning {
		t.MaxOpens = 2
	}
	return Order{Terms: t}
}

func scenarioCoins(name string) []Event {
	zero := coins(testHeight, seen(1, testTotal, 0))
	zero.ZeroConf = true
	switch name {
	case onlyOnChain:
		return []Event{coins(testHeight), coins(testHeight + 6), coins(testHeight, seen(1, testTotal, testHeight)), coins(testHeight, seen(1, testTotal, 0))}
	case paidTwice:
		return []Event{coins(testHeight), coins(testHeight + 6), coins(testHeight, seen(1, testTotal, testHeight))}
	case paidTooMuch:
		return []Event{coins(testHeight, seen(3, testTotal+1, testHeight))}
	case queued:
		return []Event{coins(testHeight), coins(testHeight, seen(1, testTotal, testHeight))}
	case unconfirmed:
		return []Event{zero, coins(testHeight, seen(1, testTotal, testHeight))}
	}
	return nil
}

func testEvents(s State) []Event {
	o := Of(s)
	m := moment(testHeight)
	now := OpeningID(o.ID, o.Opens)
	no := lsp.Because(lsp.ReasonCancelled, "no")
	end := lsp.Moment{At: testStart.Add(14 * 24 * time.Hour), Height: testHeight + 1001}
	events := []Event{
		Start{m},
		PeerStatus{m, false},
		PeerStatus{m, true},
		PeerOnline{m},
		OpeningSigned{m, now, testFunding},
		OpeningPublished{m, now, testFunding},
		OpeningConfirmed{m, now},
		OpeningReorged{m, now},
		OpeningFailed{m, now, lsp.Because(lsp.ReasonWalletGone, "gone"), true, false},
		OpeningFailed{m, now, no, false, false},
		ChannelClosed{m},
		NewBlock{Moment: m},
		NewBlock{Moment: moment(testHold)},
		NewBlock{Moment: end, WarnBlocks: 144},
		NewBlock{Moment: end, CloseAtEnd: true},
		Tick{m},
		Tick{lsp.Moment{At: testStart.Add(25 * time.Hour), Height: testHeight}},
		Tick{lsp.Moment{At: testStart.Add(91 * 24 * time.Hour), Height: testHeight}},
		RefundSent{m, RefundID(o.ID, 1), ln.TxID{9}},
		RefundEnded{m, RefundID(o.ID, 1)},
	}
	if o.WaitBlocks > 0 {
		events = append(events, Join{m, "batch-1"}, OpenAlone{m}, OpeningFailed{m, now, no, true, o.Spared == 0})
	}
	if o.Lightning != nil {
		events = append(
			events,
			InvoiceAdded{m, "lnbcrt1"},
			InvoiceRefused{m, "used"},
			SetAccepted{Moment: m, Htlcs: testHtlcs()},
			SetAccepted{Moment: m, Htlcs: testHtlcs()[:1]},
			IncomingChecked{m, true, ""},
			IncomingChecked{m, false, "zero-conf"},
			InvoiceSettled{m},
			InvoiceCanceled{m},
		)
	}
	if o.Refunds == 1 {
		events = append(events, RefundVoid{m, RefundID(o.ID, 1), nil}, RefundVoid{m, RefundID(o.ID, 1), []ln.Outpoint{{TxID: ln.TxID{1}}}})
	}
	switch s.(type) {
	case Created, Awaiting, Paid, Queued, Opening:
		events = append(events, Cancel{m, no})
	case Closing:
		events = append(events, NewBlock{Moment: lsp.Moment{At: end.At, Height: end.Height + warnEvery}, CloseAtEnd: true})
	}
	return append(events, scenarioCoins(o.ID)...)
}

func TestDiagram(t *testing.T) {
	var initial []State
	for _, name := range []string{onlyLightning, onlyOnChain, paidTwice, paidTooMuch, unconfirmed, queued} {
		initial = append(initial, Created{scenario(name)})
	}
	fsmtest.CheckDiagram(t, Machine(), "STATES.md", fsmtest.Samples[State, Event]{Initial: initial, Events: testEvents, Max: 60_000})
}

// lnd tells an invoice's end to who asked for it and to who listens: the second word in a
// final state is a repeat, and anything else is news for a person.
func TestAnEndToldTwice(t *testing.T) {
	for settled, o := range map[bool]Order{
		true:  {Terms: Terms{Lightning: &Lightning{}}, Progress: Progress{Settled: true}},
		false: {Terms: Terms{Lightning: &Lightning{}}, Progress: Progress{InvoiceGone: true}},
	} {
		for _, s := range []State{Ended{Order: o}, Failed{Order: o}, Lost{Order: o}} {
			for v, repeats := range map[Event]bool{InvoiceSettled{}: settled, InvoiceCanceled{}: !settled} {
				_, _, err := Step(s, v)
				var illegal *fsm.IllegalError
				require.ErrorAs(t, err, &illegal)
				require.Equal(t, repeats, illegal.Repeated, "%s in %s", v.EventName(), s.StateName())
			}
		}
	}
}
