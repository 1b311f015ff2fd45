package wrap

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
)

const testHeight = 800_000

func testTerms(zeroConf bool) Terms {
	return Terms{
		ID: "offer-1", Client: ln.PubKey{2, 1}, Hash: testPreimage.Hash(),
		PayerMsat: 100_000_000, WalletMsat: 98_000_000, FeeMsat: 2_000_000,
		WalletFinalCltv: 80, HoldFinalCltv: 180, PadBlocks: 3, MarginBlocks: 60, HoldExpiryDelta: 18,
		ZeroConf: zeroConf, Confs: 3, MayOpenMore: true, ExpiresAt: testStart.Add(10 * time.Minute),
		WaitFor: time.Minute, OpenFor: time.Minute, MaxOpens: 2, MaxPayments: 2,
	}
}

func testHtlcs() []ln.InvoiceHtlc {
	return []ln.InvoiceHtlc{
		{Key: ln.CircuitKey{ChanID: 7, HtlcID: 1}, AmtMsat: 60_000_000, Expiry: testHeight + 183},
		{Key: ln.CircuitKey{ChanID: 7, HtlcID: 2}, AmtMsat: 40_000_000, Expiry: testHeight + 181},
	}
}

func moment() lsp.Moment { return lsp.Moment{At: testStart, Height: testHeight} }

func testEvents(s State) []Event {
	o := OfferOf(s)
	m := moment()
	late := lsp.Moment{At: o.ExpiresAt, Height: testHeight}
	high := lsp.Moment{At: testStart, Height: testHeight + 21}
	events := []Event{
		Start{m},
		InvoiceAdded{m, "lnbcrt1"},
		InvoiceRefused{m, "used"},
		SetAccepted{Moment: m, Htlcs: testHtlcs()},
		SetAccepted{Moment: high, Htlcs: testHtlcs()},
		SetAccepted{Moment: m, Htlcs: testHtlcs()[:1]},
		SetAccepted{Moment: m, Htlcs: testHtlcs(), Refusal: lsp.Because(lsp.ReasonLimit, "full")},
		IncomingChecked{m, true, ""},
		IncomingChecked{m, false, "zero-conf"},
		WalletStatus{Moment: m},
		WalletStatus{Moment: m, Online: true},
		WalletStatus{Moment: m, Online: true, Room: 42},
		WalletStatus{Moment: high, Online: true, Room: 42},
		WalletStatus{Moment: m, Online: true, Refusal: lsp.Because(lsp.ReasonLimit, "full")},
		WalletOnline{m},
		OpeningUsable{Moment: m, OpeningID: OpeningID(o.ID, o.Opens), ChanID: 43},
		OpeningUsable{Moment: high, OpeningID: OpeningID(o.ID, o.Opens), ChanID: 43},
		OpeningFailed{m, OpeningID(o.ID, o.Opens), lsp.Because(lsp.ReasonOpenFailed, "no"), true},
		OpeningFailed{m, OpeningID(o.ID, o.Opens), lsp.Because(lsp.ReasonWalletRejected, "no"), false},
		PaymentSucceeded{m, lsp.NewSecret(testPreimage)},
		PaymentFailed{m, "refused", false},
		PaymentFailed{m, "flap", true},
		PaymentFailed{high, "flap", true},
		PaymentNotSent{m, "crash"},
		PaymentCutOff{m, "eof"},
		PaymentMissing{m},
		PaidAfterAll{m, lsp.NewSecret(testPreimage), testHtlcs()},
		InvoiceSettled{m},
		InvoiceCanceled{m},
		NewBlock{m},
		NewBlock{high},
		NewBlock{lsp.Moment{At: testStart, Height: testHeight + 2000}},
		Tick{m},
		Tick{late},
	}
	if o.ClientTrusts {
		events = append(events, OpeningUsable{Moment: m, OpeningID: OpeningID(o.ID, o.Opens), ChanID: 43, Withheld: true})
	}
	if !InFlight(s) {
		events = append(events, Cancel{m, lsp.Reason{}})
	}
	return events
}

// trusting are terms of a client that trusts the gateway to publish.
func trusting(t Terms) Terms {
	t.ClientTrusts = true
	return t
}

// patient are terms of a wallet that asked to be waited for.
func patient(t Terms, d time.Duration) Terms {
	t.HoldFor = d
	return t
}

func TestDiagram(t *testing.T) {
	fsmtest.CheckDiagram(t, Machine(), "STATES.md", fsmtest.Samples[State, Event]{
		Initial: []State{Offered{Offer{Terms: testTerms(true)}}, Offered{Offer{Terms: patient(testTerms(false), time.Second)}}, Offered{Offer{Terms: trusting(testTerms(true))}}},
		Events:  testEvents,
	})
}

// lnd tells an invoice's end to who asked for it and to who listens: the second word in a
// final state is a repeat, and the contrary is news for a person.
func TestAnEndToldTwice(t *testing.T) {
	settled, canceled := InvoiceSettled{moment()}, InvoiceCanceled{moment()}
	for _, c := range []struct {
		state    State
		repeats  Event
		contrary Event
	}{
		{Settled{}, settled, canceled},
		{Refunded{}, canceled, settled},
		{Expired{}, canceled, settled},
		{Cancelled{}, canceled, settled},
		{Lost{}, canceled, settled},
	} {
		for _, v := range []Event{c.repeats, c.contrary} {
			_, _, err := Step(c.state, v)
			var illegal *fsm.IllegalError
			require.ErrorAs(t, err, &illegal)
			require.Equal(t, v == c.repeats, illegal.Repeated, "%s in %s", v.EventName(), c.state.StateName())
		}
	}
}
