package jit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/fsm/fsmtest"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

var testStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const testHeight = 800_000

func testTerms(zeroConf bool) Terms {
	return Terms{
		ID: "offer-1", Client: ln.PubKey{2, 1}, SCID: ln.NewSCID(16_200_000, 1, 1), Hash: ln.Hash{5},
		Part: lsp.PartTerms{
			AmountMsat: 100_000_000, FeeMsat: 2_000_000, CltvDelta: 80, FinalCltvDelta: 80,
			HtlcMinimumMsat: 1000, MaxParts: 3,
		},
		ZeroConf: zeroConf, Confs: 3, MayOpenMore: true, ExpiresAt: testStart.Add(10 * time.Minute),
		CollectFor: 90 * time.Second, OpenFor: time.Minute, MapFor: time.Minute,
		HoldMarginBlocks: 10, MaxOpens: 2,
	}
}

// testPart is a part that is as agreed for its share of the amount.
func testPart(n uint64, out ln.Msat) ln.InterceptedHtlc {
	return ln.InterceptedHtlc{
		Key: ln.CircuitKey{ChanID: 7, HtlcID: n}, Hash: ln.Hash{5},
		IncomingMsat: out + out/50, OutgoingMsat: out,
		IncomingExpiry: testHeight + 163, OutgoingExpiry: testHeight + 83, AutoFailHeight: testHeight + 144,
	}
}

// withheldTerms are testTerms as bLIP-52 has them; size 0 is a variable one.
func withheldTerms(size ln.Msat) Terms {
	t := testTerms(true)
	t.Hash, t.Part.FeeMsat, t.Part.AmountMsat = ln.Hash{}, 0, size
	t.Params = lsp.OpeningFeeParams{MinFeeMsat: 2_000_000, ProportionalPPM: 10_000, MinPaymentSizeMsat: 10_000_000, MaxPaymentSizeMsat: 110_000_000}
	t.Withhold = &Withhold{SizeMsat: size}
	if size > 0 {
		t.Withhold.FeeMsat = 2_000_000
	}
	return t
}

// withheldEvents are what an offer that withholds its fee does otherwise.
func withheldEvents(s State) []Event {
	m, o := moment(), OfferOf(s)
	stranger := testPart(2, 50_000_000)
	stranger.Hash = ln.Hash{6}
	tiny := testPart(3, 1)
	late := lsp.Moment{At: o.ExpiresAt, Height: testHeight}
	events := []Event{
		Tick{lsp.Moment{At: testStart.Add(2 * time.Minute), Height: testHeight}},
		Tick{late},
		NewBlock{m},
		NewBlock{lsp.Moment{At: testStart, Height: testHeight + 66}},
		WalletStatus{Moment: m},
		WalletStatus{Moment: m, Online: true},
		WalletStatus{Moment: m, Online: true, Wait: true},
		WalletStatus{Moment: m, Online: true, Room: 42},
		WalletStatus{Moment: late, Online: true},
		OpeningUsable{Moment: m, OpeningID: OpeningID(o.ID, o.Opens), ChanID: 43},
		Mapped{m, 42},
		Mapped{m, 43},
		PayerAway{m, 43},
		PartsResumed{m},
		DatabaseRestored{m},
		PartRefused{m, testPart(94, 0).Key, testPart(1, 0).Hash, 1, "full"},
		PartRefused{m, testPart(94, 0).Key, stranger.Hash, 1, "full"},
	}
	if o.Last.IsZero() {
		events = append(events,
			PartArrived{Moment: m, Htlc: testPart(1, 50_000_000)}, PartArrived{Moment: m, Htlc: stranger}, PartArrived{Moment: m, Htlc: tiny},
			PartArrived{Moment: m, Htlc: testPart(4, 50_000_000)}, PartArrived{Moment: late, Htlc: testPart(4, 50_000_000)},
			PartArrived{Moment: m, Htlc: testPart(4, 50_000_000), Refusal: lsp.Because(lsp.ReasonLimit, "full")})
	}
	switch s.(type) {
	case Resuming, Forwarded:
	case Offered, Collecting:
		if o.OpenLive && len(PartsOf(s)) < 2 {
			events = append(events, PartArrived{Moment: m, Htlc: testPart(5, 30_000_000)}, PartArrived{Moment: late, Htlc: testPart(6, 30_000_000)},
				PartArrived{Moment: m, Htlc: testPart(8, 30_000_000)})
		}
		events = append(events, Cancel{m, lsp.Reason{}})
	default:
		events = append(events, Cancel{m, lsp.Reason{}})
	}
	for _, p := range PartsOf(s) {
		key := p.Htlc.Key
		events = append(events, PartSettled{m, key}, PartFailed{m, key, "no"}, PartFailed{late, key, "no"}, PartGone{m, key, "taken back"})
	}
	return events
}

func moment() lsp.Moment { return lsp.Moment{At: testStart, Height: testHeight} }

func testEvents(s State) []Event {
	o := OfferOf(s)
	if o.Withhold != nil {
		return withheldEvents(s)
	}
	m := moment()
	probe := testPart(90, 50_000_000)
	probe.Hash = ln.Hash{6}
	cheap := testPart(91, 100_000_000)
	cheap.IncomingMsat = cheap.OutgoingMsat
	short := testPart(92, 100_000_000)
	short.IncomingExpiry -= 40
	soon := testPart(93, 100_000_000)
	soon.AutoFailHeight = testHeight + 5
	late := lsp.Moment{At: o.ExpiresAt, Height: testHeight}
	if o.ClientTrusts {
		// It differs in when a channel is let go of, and when it is released.
		events := []Event{
			PartArrived{Moment: m, Htlc: testPart(1, 50_000_000)},
			PartArrived{Moment: m, Htlc: testPart(2, 50_000_000)},
			WalletStatus{Moment: m, Online: true},
			WalletStatus{Moment: m, Online: true, Room: 42},
			OpeningUsable{Moment: m, OpeningID: OpeningID(o.ID, o.Opens), ChanID: 43, Withheld: true},
			OpeningUsable{Moment: m, OpeningID: OpeningID(o.ID, o.Opens), ChanID: 43},
			OpeningFailed{m, OpeningID(o.ID, o.Opens), lsp.Because(lsp.ReasonOpenSlow, "slow"), true},
			Mapped{m, 42},
			Mapped{m, 43},
			MapFailed{m, 43, "gone"},
			PayerAway{m, 43},
			PartsResumed{m},
			NewBlock{m},
			Tick{lsp.Moment{At: testStart.Add(2 * time.Minute), Height: testHeight}},
			Tick{late},
			Cancel{m, lsp.Reason{}},
		}
		if _, forwarded := s.(Forwarded); forwarded {
			events = events[:len(events)-1]
		}
		if _, resuming := s.(Resuming); resuming {
			events = events[:len(events)-1]
		}
		if o.Last.Code != lsp.ReasonNone && o.Last.Code != lsp.ReasonWalletRefused && o.Last.Code != lsp.ReasonOpenSlow && !Final(s) {
			return nil
		}
		for _, p := range PartsOf(s) {
			key := p.Htlc.Key
			events = append(events, PartSettled{m, key}, PartFailed{m, key, "no"}, PartFailed{late, key, "no"}, PartGone{m, key, "taken back"})
		}
		return events
	}
	events := []Event{
		Start{m},
		PartArrived{Moment: m, Htlc: testPart(4, 100_000_000)},
		PartArrived{Moment: m, Htlc: probe},
		PartArrived{Moment: m, Htlc: cheap},
		PartArrived{Moment: m, Htlc: short},
		PartArrived{Moment: m, Htlc: soon},
		PartArrived{Moment: late, Htlc: testPart(5, 100_000_000)},
		PartGone{m, testPart(1, 0).Key, "on chain"},
		PartRefused{m, testPart(94, 0).Key, o.Hash, 1, "full"},
		PartRefused{m, testPart(94, 0).Key, o.Hash, -1, "full"},
		WalletStatus{Moment: m},
		WalletStatus{Moment: m, Online: true},
		WalletStatus{Moment: m, Online: true, Wait: true},
		WalletStatus{Moment: m, Online: true, Room: 42},
		WalletStatus{Moment: m, Online: true, Refusal: lsp.Because(lsp.ReasonLimit, "full")},
		WalletOnline{m},
		OpeningUsable{Moment: m, OpeningID: OpeningID(o.ID, o.Opens), ChanID: 43, Withheld: o.ClientTrusts && !o.LetGo},
		OpeningUsable{Moment: m, OpeningID: "another", ChanID: 43},
		OpeningFailed{m, OpeningID(o.ID, o.Opens), lsp.Because(lsp.ReasonOpenFailed, "no"), true},
		OpeningFailed{m, OpeningID(o.ID, o.Opens), lsp.Because(lsp.ReasonOpenSlow, "slow"), true},
		Mapped{m, 42},
		Mapped{m, 43},
		MapFailed{m, 42, "gone"},
		MapFailed{m, 43, "gone"},
		PayerAway{m, 42},
		PayerAway{m, 43},
		PartsResumed{m},
		NewBlock{m},
		NewBlock{lsp.Moment{At: testStart, Height: testHeight + 4}},
		Tick{m},
		Tick{late},
		Tick{lsp.Moment{At: testStart.Add(2 * time.Minute), Height: testHeight}},
	}
	// The set in two parts is tried in a first attempt only, and only an open
	// that was slow or failed is followed by another: else the states multiply.
	switch o.Last.Code {
	case lsp.ReasonNone:
		events = append(events, PartArrived{Moment: m, Htlc: testPart(1, 50_000_000)}, PartArrived{Moment: m, Htlc: testPart(2, 50_000_000)})
		if len(PartsOf(s)) == 1 {
			events = append(events, PartArrived{Moment: m, Htlc: testPart(3, 10_000_000)},
				PartArrived{Moment: m, Htlc: testPart(2, 50_000_000), Refusal: lsp.Because(lsp.ReasonLimit, "full")})
		}
	case lsp.ReasonOpenSlow, lsp.ReasonOpenFailed:
	default:
		if !Final(s) {
			return nil
		}
	}
	for _, p := range PartsOf(s) {
		n := p.Htlc.Key.HtlcID
		key := testPart(n, 0).Key
		events = append(events, PartSettled{m, key}, PartFailed{m, key, "no"}, PartFailed{late, key, "no"})
	}
	switch s.(type) {
	case Resuming, Forwarded:
		for _, p := range PartsOf(s) {
			events = append(events, PartGone{late, p.Htlc.Key, "taken back"}, PartGone{m, p.Htlc.Key, "taken back"})
		}
	default:
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
		Initial: []State{Offered{Offer{Terms: testTerms(true)}}, Offered{Offer{Terms: patient(testTerms(false), time.Second)}}, Offered{Offer{Terms: withheldTerms(100_000_000)}}, Offered{Offer{Terms: trusting(testTerms(true))}}},
		Events:  testEvents,
	})
}

// TestWhatPayersAreTold is law 6. What may succeed soon is refused as
// temporary, so that payers try again; what never will is unknown_next_peer,
// for as long as nothing maps the SCID: a RESUME would forward it then.
func TestWhatPayersAreTold(t *testing.T) {
	m := moment()
	whole := func(n uint64) ln.InterceptedHtlc { return testPart(n, 100_000_000) }
	change := func(h ln.InterceptedHtlc, f func(*ln.InterceptedHtlc)) ln.InterceptedHtlc {
		f(&h)
		return h
	}
	online := WalletStatus{Moment: m, Online: true}
	after := func(d time.Duration) lsp.Moment { return lsp.Moment{At: testStart.Add(d), Height: testHeight} }
	opened := []Event{PartArrived{Moment: m, Htlc: whole(1)}, online}
	mapped := append(append([]Event{}, opened...), OpeningUsable{Moment: m, OpeningID: "offer-1-open-1", ChanID: 43}, Mapped{m, 43}, PartsResumed{m})
	failed := func(code lsp.ReasonCode) Event {
		return OpeningFailed{m, "offer-1-open-1", lsp.Because(code, "no"), false}
	}
	cheap := change(whole(2), func(h *ln.InterceptedHtlc) { h.IncomingMsat = h.OutgoingMsat })
	for name, c := range map[string]struct {
		before []Event
		event  Event
		how    Refusal
		reason lsp.ReasonCode
	}{
		"a probe": {nil, PartArrived{Moment: m, Htlc: change(whole(1), func(h *ln.InterceptedHtlc) { h.Hash = ln.Hash{9} })}, RefuseTemporary, lsp.ReasonOtherHash},
		"the wallet stays away": {
			[]Event{PartArrived{Moment: m, Htlc: whole(1)}, WalletStatus{Moment: m}}, Tick{after(2 * time.Minute)}, RefuseTemporary, lsp.ReasonWalletOffline,
		},
		"a part never comes": {[]Event{PartArrived{Moment: m, Htlc: testPart(1, 50_000_000)}}, Tick{after(2 * time.Minute)}, RefuseTemporary, lsp.ReasonPartMissing},
		"a part too much":    {opened, PartArrived{Moment: m, Htlc: whole(2)}, RefuseTemporary, lsp.ReasonExtraPart},
		"a cap is reached": {
			[]Event{PartArrived{Moment: m, Htlc: whole(1)}},
			WalletStatus{Moment: m, Online: true, Refusal: lsp.Because(lsp.ReasonLimit, "full")},
			RefuseTemporary, lsp.ReasonLimit,
		},
		"coins are short":          {opened, failed(lsp.ReasonCoinsShort), RefuseTemporary, lsp.ReasonCoinsShort},
		"the open is slow":         {opened, Tick{after(2 * time.Minute)}, RefuseTemporary, lsp.ReasonOpenSlow},
		"less fee than agreed":     {nil, PartArrived{Moment: m, Htlc: cheap}, RefuseUnknown, lsp.ReasonFeeShort},
		"a delta that is not ours": {nil, PartArrived{Moment: m, Htlc: change(whole(1), func(h *ln.InterceptedHtlc) { h.IncomingExpiry -= 40 })}, RefuseUnknown, lsp.ReasonCltv},
		"the offer has expired":    {nil, PartArrived{Moment: after(11 * time.Minute), Htlc: whole(1)}, RefuseUnknown, lsp.ReasonOfferExpired},
		"the offer was withdrawn":  {[]Event{PartArrived{Moment: m, Htlc: whole(1)}}, Cancel{m, lsp.Reason{}}, RefuseUnknown, lsp.ReasonCancelled},
		"after the end of one that was mapped": {
			append(mapped, PartSettled{m, whole(1).Key}), PartArrived{Moment: m, Htlc: whole(2)}, RefuseTemporary, lsp.ReasonOfferExpired,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s State = Offered{Offer{Terms: testTerms(true)}}
			var effects []Effect
			for _, v := range append(append([]Event{}, c.before...), c.event) {
				next, got, err := Step(s, v)
				require.NoError(t, err, v.EventName())
				s, effects = next, got
			}
			var refusals []RefuseParts
			for _, f := range effects {
				if r, ok := f.(RefuseParts); ok {
					refusals = append(refusals, r)
				}
			}
			require.Len(t, refusals, 1, "%v", effects)
			require.Equal(t, c.how, refusals[0].How)
			require.Equal(t, c.reason, refusals[0].Reason.Code)
			require.NotEmpty(t, refusals[0].Reason.Text)
		})
	}
}
