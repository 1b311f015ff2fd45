package jit

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// again is what the database makes of a value.
func again[T any](t require.TestingT, v T) T {
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	p := reflect.New(reflect.TypeOf(v))
	require.NoError(t, json.Unmarshal(raw, p.Interface()))
	second, err := json.Marshal(p.Elem().Interface())
	require.NoError(t, err)
	require.JSONEq(t, string(raw), string(second))
	return p.Elem().Interface().(T)
}

// world remembers what was asked of it and checks the promises of the package.
type world struct {
	t        *rapid.T
	terms    Terms
	resumed  map[ln.CircuitKey]bool
	refused  map[ln.CircuitKey]bool
	arrived  map[ln.CircuitKey]ln.InterceptedHtlc
	gone     map[ln.CircuitKey]bool
	mapped   bool
	opens    map[string]string // "", "usable", "failed"
	lastOpen string
	extra    map[ln.CircuitKey]ln.Msat
	made     bool
	// unfunded are opens whose channel nothing funds; left those that were asked to
	// end, released those that were funded for what was claimed.
	unfunded, left, released map[string]bool
}

// checkTrust holds what becomes of withheld fundings against what was promised.
func (w *world) checkTrust(s State, v Event, effects []Effect) {
	t, o := w.t, OfferOf(s)
	for _, f := range effects {
		switch f := f.(type) {
		case ReleaseOpening:
			_, claimed := v.(PartSettled)
			require.True(t, claimed, "published for nothing")
			require.True(t, w.unfunded[f.OpeningID])
			require.False(t, w.left[f.OpeningID], "released after it was given up")
			delete(w.unfunded, f.OpeningID)
			w.released[f.OpeningID] = true
		case AbandonOpening:
			require.False(t, w.released[f.OpeningID], "given up after it was released")
			w.left[f.OpeningID] = true
			if w.unfunded[f.OpeningID] {
				// What becomes of it is told later.
				w.opens[f.OpeningID] = ""
				delete(w.unfunded, f.OpeningID)
			}
		case ResumeParts:
			require.False(t, o.Withheld && w.left[OpeningID(o.ID, o.Opens)], "handed on over a channel that is about to go")
		}
	}
	if settled, ok := v.(PartSettled); ok {
		require.Empty(t, w.unfunded, "%s was claimed, and nothing funds its channel", settled.Key)
	}
	switch s.(type) {
	case Mapping, Resuming, Forwarded:
	default:
		require.Empty(t, w.unfunded, "%s: nobody gives the channel up", s.StateName())
	}
}

// checkWithheld holds what is taken out of parts against what was agreed.
func (w *world) checkWithheld(s State, f ResumeParts) {
	t, o := w.t, OfferOf(s)
	if o.Withhold == nil {
		require.Empty(t, f.ExtraFees)
		return
	}
	require.Len(t, f.ExtraFees, len(f.Keys))
	for i, k := range f.Keys {
		before, again := w.extra[k]
		require.True(t, !again || before == f.ExtraFees[i], "a replay of %s is answered otherwise", k)
		w.extra[k] = f.ExtraFees[i]
		require.GreaterOrEqual(t, w.arrived[k].OutgoingMsat-f.ExtraFees[i], o.Part.HtlcMinimumMsat)
		require.Equal(t, o.Hash, w.arrived[k].Hash, "parts of two payments are handed on together")
	}
	var extra, live, cameBack ln.Msat
	for _, p := range PartsOf(s) {
		if wasResumed(s, p.Htlc.Key) && p.Outcome == OutcomeFailed {
			cameBack += p.ExtraFeeMsat
		}
		if wasResumed(s, p.Htlc.Key) && p.Outcome != OutcomeFailed {
			require.Equal(t, w.extra[p.Htlc.Key], p.ExtraFeeMsat)
			extra += p.ExtraFeeMsat
			live += p.Htlc.OutgoingMsat
		}
	}
	require.LessOrEqual(t, extra, o.Withhold.FeeMsat)
	if live >= o.Part.AmountMsat {
		require.GreaterOrEqual(t, live-extra, o.Part.AmountMsat-o.Withhold.FeeMsat)
		if w.made && o.Chan != 0 {
			// Of a set that is larger than the amount, the part that bore the fee
			// may come back, and the others are enough without it.
			require.LessOrEqual(t, o.Withhold.FeeMsat, extra+cameBack, "a channel was opened for it")
		}
	}
	if o.Chan == 0 {
		require.Zero(t, extra, "no channel was opened for it")
	}
}

func (w *world) take(s State, effects []Effect) {
	t := w.t
	for _, f := range effects {
		switch f := again(t, f).(type) {
		case ResumeParts:
			require.True(t, w.mapped, "resumed before the SCID was mapped")
			w.checkWithheld(s, f)
			amount := OfferOf(s).Part.AmountMsat
			var out ln.Msat
			for _, k := range f.Keys {
				require.False(t, w.refused[k], "resumed after it was refused: %s", k)
				require.Contains(t, w.arrived, k)
				out += w.arrived[k].OutgoingMsat
				if len(f.Keys) == 1 && w.resumed[k] {
					out = amount // offered again
				}
				w.resumed[k] = true
			}
			if out < amount {
				// In place of what came back, and never for more than the amount.
				require.True(t, len(w.resumed) > len(f.Keys), "an incomplete set was resumed")
				require.LessOrEqual(t, liveOf(s), amount)
			}
		case RefuseParts:
			require.False(t, f.How == RefuseUnknown && w.mapped, "RESUME of a mapped SCID would forward")
			require.False(t, f.Reason.IsZero())
			for _, k := range f.Keys {
				require.False(t, w.resumed[k], "refused after it was resumed: %s", k)
				w.refused[k] = true
			}
		case MapChannel:
			w.mapped = true
		case OpenChannel:
			if f.OpeningID != w.lastOpen {
				require.NotContains(t, w.opens, f.OpeningID)
				for id, fate := range w.opens {
					require.Equal(t, "failed", fate, "%s begun beside %s", f.OpeningID, id)
				}
				w.opens[f.OpeningID], w.lastOpen = "", f.OpeningID
			}
		}
	}
	// Nothing is forgotten: whatever arrived is held, resumed, refused or gone.
	held := map[ln.CircuitKey]bool{}
	for _, p := range PartsOf(s) {
		held[p.Htlc.Key] = true
	}
	for k := range w.arrived {
		require.True(t, held[k] || w.resumed[k] || w.refused[k] || w.gone[k], "%s: nobody answers %s", s.StateName(), k)
		if held[k] {
			require.False(t, w.refused[k], "%s: %s is held after it was refused", s.StateName(), k)
		}
	}
}

// liveOf is what was handed on and has not come back.
func liveOf(s State) (live ln.Msat) {
	f, ok := s.(Forwarded)
	if q, resuming := s.(Resuming); resuming {
		f, ok = Forwarded(q), true
	}
	if ok {
		for _, p := range f.Parts {
			if p.Outcome != OutcomeFailed {
				live += p.Htlc.OutgoingMsat
			}
		}
	}
	return live
}

func TestRandomDays(t *testing.T) {
	ended := map[string]int{}
	day := func(t *rapid.T) {
		terms := patient(testTerms(rapid.Bool().Draw(t, "zero conf")), time.Duration(rapid.IntRange(0, 20).Draw(t, "hold for"))*time.Minute)
		switch rapid.IntRange(0, 3).Draw(t, "who pays the fee") {
		case 0:
			terms = withheldTerms(100_000_000)
		case 1:
			terms = withheldTerms(0)
		}
		terms.ClientTrusts = terms.ZeroConf && rapid.Bool().Draw(t, "trust")
		terms.Part.MaxParts = 3
		w := &world{
			extra: map[ln.CircuitKey]ln.Msat{},
			t:     t, terms: terms, resumed: map[ln.CircuitKey]bool{}, refused: map[ln.CircuitKey]bool{},
			arrived: map[ln.CircuitKey]ln.InterceptedHtlc{}, gone: map[ln.CircuitKey]bool{}, opens: map[string]string{},
			unfunded: map[string]bool{}, left: map[string]bool{}, released: map[string]bool{},
		}
		var s State = Offered{Offer{Terms: terms}}
		now, height, next := testStart, uint32(testHeight), uint64(0)
		for range rapid.IntRange(10, 120).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "seconds")) * time.Second)
			m := lsp.Moment{At: now, Height: height}
			var v Event
			switch rapid.IntRange(0, 15).Draw(t, "event") {
			case 0, 1, 2:
				next++
				h := testPart(next, ln.Msat(rapid.SampledFrom([]uint64{30, 50, 100, 120}).Draw(t, "out"))*1_000_000)
				h.IncomingExpiry += height - testHeight
				h.OutgoingExpiry += height - testHeight
				h.AutoFailHeight += height - testHeight
				switch rapid.IntRange(0, 6).Draw(t, "fault") {
				case 0:
					h.Hash = ln.Hash{9}
				case 1:
					h.IncomingMsat = h.OutgoingMsat
				case 2:
					h.OutgoingExpiry -= 10
				}
				w.arrived[h.Key] = h
				v = PartArrived{Moment: m, Htlc: h, Order: int64(next)} //nolint:gosec // small
			case 3, 4, 5:
				v = WalletStatus{Moment: m, Online: rapid.IntRange(0, 3).Draw(t, "online") > 0, Wait: rapid.IntRange(0, 3).Draw(t, "wait") == 0, Room: rapid.SampledFrom([]ln.SCID{0, 0, 42}).Draw(t, "room")}
			case 6:
				if w.lastOpen == "" || w.opens[w.lastOpen] == "failed" {
					continue
				}
				// One that was asked to end may say that it is usable first, or that
				// another payment was claimed over it and it is funded after all.
				withheld := terms.ClientTrusts && !w.released[w.lastOpen] && (!w.left[w.lastOpen] || rapid.Bool().Draw(t, "stale"))
				if !withheld || !w.left[w.lastOpen] {
					w.opens[w.lastOpen] = "usable"
					w.made = true
				}
				_, waits := s.(Opening)
				if withheld && waits && !w.left[w.lastOpen] {
					w.unfunded[w.lastOpen] = true
				}
				v = OpeningUsable{Moment: m, OpeningID: w.lastOpen, ChanID: 43, Withheld: withheld}
			case 7:
				if w.lastOpen == "" || w.opens[w.lastOpen] == "usable" {
					continue
				}
				w.opens[w.lastOpen] = "failed"
				v = OpeningFailed{m, w.lastOpen, lsp.Because(rapid.SampledFrom([]lsp.ReasonCode{lsp.ReasonOpenSlow, lsp.ReasonOpenFailed}).Draw(t, "why"), "no"), true}
			case 8, 9:
				if q, ok := s.(Mapping); ok {
					v = Mapped{m, q.Via}
				} else {
					v = Mapped{m, 42}
				}
			case 10:
				v = MapFailed{m, 42, "no"}
				switch q, maps := s.(Mapping); rapid.IntRange(0, 3).Draw(t, "instead") {
				case 0:
					if maps {
						v = PayerAway{m, q.Via}
					}
				case 1:
					// The interceptor could not hold one that came since, or before.
					order := rapid.Int64Range(0, int64(next)+1).Draw(t, "order") //nolint:gosec // small
					v = PartRefused{m, testPart(1000+next, 0).Key, rapid.SampledFrom([]ln.Hash{testPart(1, 0).Hash, {9}}).Draw(t, "hash"), order, "full"}
				}
			case 11:
				v = PartsResumed{m}
			case 12:
				if rapid.IntRange(0, 3).Draw(t, "block") == 0 {
					height++
				}
				v = NewBlock{lsp.Moment{At: now, Height: height}}
			case 13:
				v = Tick{m}
			default:
				parts := PartsOf(s)
				if len(parts) == 0 {
					continue
				}
				p := rapid.SampledFrom(parts).Draw(t, "part")
				switch rapid.IntRange(0, 4).Draw(t, "fate") {
				case 0:
					w.gone[p.Htlc.Key] = true
					v = PartGone{m, p.Htlc.Key, "auto-fail"}
				case 1:
					v = PartFailed{m, p.Htlc.Key, "no"}
				case 2:
					v = PartArrived{Moment: m, Htlc: p.Htlc} // offered again
				default:
					if !wasResumed(s, p.Htlc.Key) {
						// Only where an older copy was put back: see
						// TestAnOlderCopyHoldsWhatWasClaimed.
						continue
					}
					v = PartSettled{m, p.Htlc.Key}
				}
			}
			after, effects, err := Step(again(t, s), again(t, v))
			if errors.Is(err, fsm.ErrIllegal) {
				// An arrival must always be answered.
				_, arrival := v.(PartArrived)
				require.False(t, arrival)
				continue
			}
			require.NoError(t, err)
			if _, waited := s.(Collecting); waited && terms.Withhold != nil && !now.Before(terms.ExpiresAt) {
				for _, f := range effects {
					require.NotContains(t, []string{"open_channel", "map_channel"}, f.EffectName(), "begun after valid_until")
				}
			}
			s = after
			w.checkTrust(s, v, effects)
			w.take(s, effects)
		}
		if paid, ok := s.(Paid); ok {
			var in, out ln.Msat
			for _, p := range paid.Parts {
				if p.Outcome == OutcomeSettled {
					in, out = in+p.Htlc.IncomingMsat, out+p.Htlc.OutgoingMsat-p.ExtraFeeMsat
				}
			}
			require.Equal(t, in-out, paid.FeeEarnedMsat)
			require.Equal(t, out, paid.ForwardedMsat)
		}
		ended[s.StateName()]++
		if terms.Withhold != nil {
			ended["withheld "+s.StateName()]++
		}
		if len(w.released) > 0 {
			ended["released"]++
		}
	}
	seen := func() bool {
		for _, name := range []string{"paid", "offered", "refunded", "withheld paid", "withheld offered", "released"} {
			if ended[name] == 0 {
				return false
			}
		}
		return true
	}
	// One round ends in paid a few times as a rule, and sometimes never: then
	// it shows too little, and another is run.
	for round := 0; round == 0 || (!seen() && round < 20 && !t.Failed()); round++ {
		rapid.Check(t, day)
	}
	t.Log(ended)
	require.True(t, seen(), "the random days never end in paid, offered or refunded, or never withhold a fee: %v", ended)
}

// The story of design and issue: a part fails as a probe, two parts pay, the
// channel is opened, both are resumed together and the fee is earned.
func TestHappyDay(t *testing.T) {
	var s State = Offered{Offer{Terms: testTerms(true)}}
	step := func(v Event, want string, effects ...string) {
		t.Helper()
		next, got, err := Step(s, v)
		require.NoError(t, err)
		s = next
		require.Equal(t, want, s.StateName())
		var names []string
		for _, f := range got {
			names = append(names, f.EffectName())
		}
		require.Equal(t, effects, names)
	}
	m := moment()
	probe := testPart(9, 100_000_000)
	probe.Hash = ln.Hash{1}
	step(PartArrived{Moment: m, Htlc: probe}, "offered", "refuse_parts")
	step(PartArrived{Moment: m, Htlc: testPart(1, 50_000_000)}, "collecting", "ask_wallet")
	step(WalletStatus{Moment: m}, "collecting", "wake_wallet")
	step(PartArrived{Moment: m, Htlc: testPart(2, 50_000_000)}, "collecting", "ask_wallet")
	step(WalletStatus{Moment: m, Online: true}, "opening", "open_channel")
	step(PartArrived{Moment: m, Htlc: testPart(3, 50_000_000)}, "opening", "refuse_parts")
	step(OpeningUsable{Moment: m, OpeningID: "offer-1-open-1", ChanID: 43}, "mapping", "map_channel")
	step(Mapped{m, 43}, "resuming", "resume_parts", "watch_parts")
	_, _, err := Step(s, Cancel{m, lsp.Reason{}})
	require.ErrorIs(t, err, ErrTooLate)
	step(PartsResumed{m}, "forwarded")
	step(PartSettled{m, testPart(1, 0).Key}, "forwarded")
	step(PartSettled{m, testPart(2, 0).Key}, "paid")
	require.Equal(t, ln.Msat(2_000_000), s.(Paid).FeeEarnedMsat)
}

// A slow open outlives its attempt: the payer is refunded, and the retry uses
// the channel instead of opening another.
func TestRetryUsesLateChannel(t *testing.T) {
	var s State = Offered{Offer{Terms: testTerms(true)}}
	m := moment()
	late := lsp.Moment{At: testStart.Add(2 * time.Minute), Height: testHeight}
	for _, v := range []Event{
		PartArrived{Moment: m, Htlc: testPart(1, 100_000_000)},
		WalletStatus{Moment: m, Online: true},
		Tick{late},
		OpeningUsable{Moment: late, OpeningID: "offer-1-open-1", ChanID: 43},
		PartArrived{Moment: late, Htlc: testPart(2, 100_000_000)},
		WalletStatus{Moment: late, Online: true, Room: 43},
	} {
		next, effects, err := Step(s, v)
		require.NoError(t, err)
		s = next
		for _, f := range effects {
			if r, ok := f.(RefuseParts); ok {
				require.Equal(t, RefuseTemporary, r.How)
				require.Equal(t, []ln.CircuitKey{testPart(1, 0).Key}, r.Keys)
			}
		}
	}
	require.Equal(t, ln.SCID(43), s.(Mapping).Via)
	require.EqualValues(t, 1, OfferOf(s).Opens)
}

// The interceptor fails a part at its deadline before the RESUME reaches it:
// nothing else will be told of that part, and the payment ends all the same.
func TestPartTakenBackBeforeItsResume(t *testing.T) {
	var s State = Offered{Offer{Terms: testTerms(true)}}
	m := moment()
	for _, v := range []Event{
		PartArrived{Moment: m, Htlc: testPart(1, 50_000_000)},
		PartArrived{Moment: m, Htlc: testPart(2, 50_000_000)},
		WalletStatus{Moment: m, Online: true, Room: 42},
		Mapped{m, 42},
		PartGone{m, testPart(1, 0).Key, "its deadline came"},
		PartsResumed{m},
		PartFailed{m, testPart(2, 0).Key, "the set is not complete"},
	} {
		next, _, err := Step(s, v)
		require.NoError(t, err, v.EventName())
		s = next
	}
	require.Equal(t, "offered", s.StateName())
}

// What would break a limit is refused whole, so that the payer may try again;
// nothing of it stays held, and a part that is held already is not refused.
func TestOverALimitNothingStaysHeld(t *testing.T) {
	m := moment()
	full := lsp.Because(lsp.ReasonLimit, "full")
	terms := testTerms(true)
	terms.Part.MaxParts = 3
	var s State = Offered{Offer{Terms: terms}}
	for _, v := range []PartArrived{
		{Moment: m, Htlc: testPart(1, 30_000_000)},
		{Moment: m, Htlc: testPart(1, 30_000_000), Refusal: full}, // offered again
		{Moment: m, Htlc: testPart(2, 30_000_000)},
	} {
		next, effects, err := Step(s, v)
		require.NoError(t, err)
		for _, f := range effects {
			require.NotEqual(t, "refuse_parts", f.EffectName())
		}
		s = next
	}
	require.Equal(t, lsp.Holding{HeldMsat: 61_200_000, SatBlocks: 61_200 * 144, Slots: lsp.Slots{{Chan: 7, Htlcs: 2}}}, HoldOf(s))

	s, effects, err := Step(s, PartArrived{Moment: m, Htlc: testPart(3, 40_000_000), Refusal: full})
	require.NoError(t, err)
	require.Equal(t, "offered", s.StateName())
	require.Equal(t, []Effect{RefuseParts{
		OfferID: "offer-1", How: RefuseTemporary, Reason: full,
		Keys: []ln.CircuitKey{testPart(1, 0).Key, testPart(2, 0).Key, testPart(3, 0).Key},
	}}, effects)
	require.Zero(t, HoldOf(s))

	s, effects, err = Step(s, PartArrived{Moment: m, Htlc: testPart(4, 100_000_000), Refusal: full})
	require.NoError(t, err)
	require.Equal(t, full.Text, OfferOf(s).Last.Text)
	require.Len(t, effects, 1)

	// What came after the set was handed on goes back alone.
	for _, s := range []State{
		Resuming{Offer: OfferOf(s), Held: Held{Parts: []Part{{Htlc: testPart(5, 100_000_000)}}}, Via: 42},
		Forwarded{Offer: OfferOf(s), Held: Held{Parts: []Part{{Htlc: testPart(5, 100_000_000)}}}, Via: 42},
	} {
		next, effects, err := Step(s, PartArrived{Moment: m, Htlc: testPart(6, 50_000_000), Refusal: full})
		require.NoError(t, err)
		require.Equal(t, s, next)
		require.Equal(t, []Effect{RefuseParts{OfferID: "offer-1", How: RefuseTemporary, Reason: full, Keys: []ln.CircuitKey{testPart(6, 0).Key}}}, effects)
	}
}

// A payment that was agreed without a fee opens no channel, also when the
// wallet has closed the one that had room.
func TestNoFeeNoChannel(t *testing.T) {
	terms := testTerms(true)
	terms.Part.FeeMsat, terms.MayOpenMore, terms.MaxOpens = 0, false, 0
	var s State = Offered{Offer{Terms: terms}}
	m := moment()
	for _, v := range []Event{PartArrived{Moment: m, Htlc: testPart(1, 100_000_000)}, WalletStatus{Moment: m, Online: true}} {
		next, _, err := Step(s, v)
		require.NoError(t, err)
		s = next
	}
	require.Equal(t, lsp.ReasonNoRoom, s.(Refunded).Reason.Code)

	// Promised room that is gone may come back: the payer may try again.
	terms.Room = 42
	s = Offered{Offer{Terms: terms}}
	for _, v := range []Event{PartArrived{Moment: m, Htlc: testPart(1, 100_000_000)}, WalletStatus{Moment: m, Online: true, Channels: 1}} {
		next, _, err := Step(s, v)
		require.NoError(t, err)
		s = next
	}
	require.Equal(t, "offered", s.StateName())
	require.Equal(t, lsp.ReasonNoRoom, OfferOf(s).Last.Code)
}

// A stranger who has seen the invoice sends a part that leaves the gateway no
// fee. It goes back alone: the payer's own parts stay, and the payment is
// forwarded.
func TestAStrangersPartSpoilsNothing(t *testing.T) {
	free := testPart(9, 1_000_000)
	free.IncomingMsat = free.OutgoingMsat
	m := moment()
	for name, first := range map[string]uint64{"before the payer's": 0, "between the payer's": 1, "after the payer's": 2} {
		var s State = Offered{Offer{Terms: testTerms(true)}}
		for i := range uint64(3) {
			part := free
			if i != first {
				part = testPart(i+1, 50_000_000)
			}
			next, effects, err := Step(s, PartArrived{Moment: m, Htlc: part})
			require.NoError(t, err, name)
			s = next
			for _, f := range effects {
				if r, ok := f.(RefuseParts); ok {
					require.Equal(t, []ln.CircuitKey{free.Key}, r.Keys, name)
				}
			}
			if i == first {
				require.Contains(t, effects[0].(RefuseParts).Reason.Text, "share of the fee", name)
			}
		}
		require.Equal(t, ln.Msat(100_000_000), s.(Collecting).outgoing(), name)
	}
}

// Whatever is wrong with a part that came alone, the client reads it; a probe
// is not its business.
func TestTheClientReadsWhyAPartWentBack(t *testing.T) {
	m := moment()
	for name, c := range map[string]struct {
		change func(*ln.InterceptedHtlc)
		want   lsp.ReasonCode
	}{
		"no fee":            {func(h *ln.InterceptedHtlc) { h.IncomingMsat = h.OutgoingMsat }, lsp.ReasonFeeShort},
		"too few blocks":    {func(h *ln.InterceptedHtlc) { h.IncomingExpiry-- }, lsp.ReasonCltv},
		"too small":         {func(h *ln.InterceptedHtlc) { h.OutgoingMsat = 1 }, lsp.ReasonPartTooSmall},
		"far above":         {func(h *ln.InterceptedHtlc) { h.OutgoingMsat, h.IncomingMsat = 300_000_000, 310_000_000 }, lsp.ReasonAmountOver},
		"another's payment": {func(h *ln.InterceptedHtlc) { h.Hash[0]++ }, lsp.ReasonNone},
	} {
		h := testPart(1, 100_000_000)
		c.change(&h)
		next, _, err := Step(Offered{Offer{Terms: testTerms(true)}}, PartArrived{Moment: m, Htlc: h})
		require.NoError(t, err, name)
		require.Equal(t, c.want, ReasonOf(next).Code, name)
	}
}

// A part finds no room in the channel that lnd chose for it, and the payer sends
// its money again in two, before lnd's word of the failure is here: they wait
// for it, and are handed on. What does not fit goes back when its time is over.
func TestPartSentAgainBeforeItsFailureIsKnown(t *testing.T) {
	terms := testTerms(true)
	terms.Part.MaxParts = 6
	var s State = Offered{Offer{Terms: terms}}
	var effects []Effect
	step := func(v Event) {
		t.Helper()
		var err error
		s, effects, err = Step(again(t, s), again(t, v))
		require.NoError(t, err)
	}
	m := moment()
	for _, v := range []Event{
		PartArrived{Moment: m, Htlc: testPart(1, 60_000_000)},
		PartArrived{Moment: m, Htlc: testPart(2, 40_000_000)},
		WalletStatus{Moment: m, Online: true, Room: 42},
		Mapped{m, 42},
		PartsResumed{m},
	} {
		step(v)
	}
	for n := uint64(3); n <= 5; n++ {
		step(PartArrived{Moment: m, Htlc: testPart(n, 20_000_000)})
		require.Empty(t, effects, "it waits")
		step(PartArrived{Moment: m, Htlc: testPart(n, 20_000_000)})
		require.Empty(t, effects, "offered again, it still waits")
	}
	step(PartFailed{m, testPart(2, 0).Key, "no room"})
	require.Equal(t, ResumeParts{OfferID: terms.ID, Keys: []ln.CircuitKey{testPart(3, 0).Key, testPart(4, 0).Key}}, effects[0])
	due, tick, ok := deadline(s)
	require.True(t, ok)
	require.Equal(t, testStart.Add(terms.CollectFor), due)
	step(tick)
	require.Equal(t, []ln.CircuitKey{testPart(5, 0).Key}, effects[0].(RefuseParts).Keys)
	for _, n := range []uint64{1, 3, 4} {
		step(PartSettled{m, testPart(n, 0).Key})
	}
	require.Equal(t, ln.Msat(100_000_000), s.(Paid).ForwardedMsat)
	require.Equal(t, ln.Msat(2_000_000), s.(Paid).FeeEarnedMsat)
}

// The wallet refuses the whole: what waited begins the next attempt.
func TestSparesBeginTheNextAttempt(t *testing.T) {
	var s State = Offered{Offer{Terms: testTerms(true)}}
	m := moment()
	for _, v := range []Event{
		PartArrived{Moment: m, Htlc: testPart(1, 100_000_000)},
		WalletStatus{Moment: m, Online: true, Room: 42},
		Mapped{m, 42},
		PartArrived{Moment: m, Htlc: testPart(2, 100_000_000)},
		PartFailed{m, testPart(1, 0).Key, "no room"},
	} {
		next, _, err := Step(s, v)
		require.NoError(t, err, v.EventName())
		s = next
	}
	require.Equal(t, []Part{{Htlc: testPart(2, 100_000_000), At: testStart, SatBlocks: 102_000 * 144}}, s.(Collecting).Parts)
}

// A client that trusts the gateway: its channel is funded when the payment is
// claimed, and given up when it goes back, whichever way.
func TestTrustedFunding(t *testing.T) {
	m := moment()
	step := func(s State, events ...Event) (State, []Effect) {
		t.Helper()
		var effects []Effect
		for _, v := range events {
			var err error
			s, effects, err = Step(again(t, s), again(t, v))
			require.NoError(t, err, v.EventName())
		}
		return s, effects
	}
	usable := OpeningUsable{Moment: m, OpeningID: "offer-1-open-1", ChanID: 43, Withheld: true}
	opening, _ := step(Offered{Offer{Terms: trusting(testTerms(true))}},
		PartArrived{Moment: m, Htlc: testPart(1, 50_000_000)}, PartArrived{Moment: m, Htlc: testPart(2, 50_000_000)}, WalletStatus{Moment: m, Online: true})
	mapping, effects := step(opening, usable)
	require.Equal(t, MapChannel{OfferID: "offer-1", Client: ln.PubKey{2, 1}, SCID: testTerms(true).SCID, Via: 43, Withheld: true, OpeningID: "offer-1-open-1"}, effects[0])
	forwarded, _ := step(mapping, Mapped{m, 43}, PartsResumed{m})

	// The first part that is claimed is enough.
	s, effects := step(forwarded, PartSettled{m, testPart(1, 0).Key})
	require.Equal(t, []Effect{ReleaseOpening{OfferID: "offer-1", OpeningID: "offer-1-open-1"}}, effects)
	s, effects = step(s, PartSettled{m, testPart(2, 0).Key})
	require.Equal(t, "paid", s.StateName())
	require.Empty(t, effects)

	late := lsp.Moment{At: testStart.Add(2 * time.Minute), Height: testHeight}
	for name, end := range map[string]struct {
		from   State
		events []Event
	}{
		"the wallet refuses":         {forwarded, []Event{PartFailed{m, testPart(1, 0).Key, "no"}, PartFailed{m, testPart(2, 0).Key, "no"}}},
		"the channel is not mapped":  {mapping, []Event{MapFailed{m, 43, "no"}}},
		"the mapping takes too long": {mapping, []Event{Tick{late}}},
		"the payment is withdrawn":   {mapping, []Event{Cancel{m, lsp.Reason{}}}},
		"a part goes back":           {mapping, []Event{PartGone{m, testPart(1, 0).Key, "on chain"}}},
	} {
		t.Run(name, func(t *testing.T) {
			s, effects := step(end.from, end.events...)
			abandoned := effects[len(effects)-1].(AbandonOpening)
			require.Equal(t, "offer-1-open-1", abandoned.OpeningID)
			o := OfferOf(s)
			require.True(t, o.OpenLive && !o.Withheld && o.Chan == 0)
			if Final(s) {
				return
			}
			// The payer tries again: nothing is opened beside a channel that is
			// going, and its late word is not believed.
			s, _ = step(s, PartArrived{Moment: late, Htlc: testPart(3, 100_000_000)}, WalletStatus{Moment: late, Online: true}, usable)
			require.Equal(t, "opening", s.StateName())
			// It is gone: another.
			next, effects := step(s, OpeningFailed{late, "offer-1-open-1", abandoned.Reason, true})
			require.Equal(t, "offer-1-open-2", next.(Opening).OpeningID)
			require.Equal(t, "open_channel", effects[0].EffectName())
			// Or it was funded for another payment that lnd put onto it: it is used.
			next, _ = step(s, OpeningUsable{Moment: late, OpeningID: "offer-1-open-1", ChanID: 43})
			require.Equal(t, "mapping", next.StateName())
			require.False(t, OfferOf(next).Withheld)
		})
	}
}
