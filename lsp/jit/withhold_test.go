package jit

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// story steps an offer and remembers what it asked for.
type story struct {
	*testing.T
	s     State
	asked []Effect
}

func (y *story) step(v Event, want string, effects ...string) {
	y.Helper()
	next, got, err := Step(y.s, v)
	require.NoError(y, err)
	y.s, y.asked = next, got
	require.Equal(y, want, next.StateName())
	var names []string
	for _, f := range got {
		names = append(names, f.EffectName())
	}
	require.Equal(y, effects, names)
}

func (y *story) refusal() RefuseParts {
	y.Helper()
	for _, f := range y.asked {
		if r, ok := f.(RefuseParts); ok {
			return r
		}
	}
	require.Fail(y, "nothing was refused")
	return RefuseParts{}
}

// of gives a part without any fee for the gateway, as bLIP-52's hint has it.
func of(hash byte, n uint64, out ln.Msat) ln.InterceptedHtlc {
	h := testPart(n, out)
	h.IncomingMsat, h.Hash = out, ln.Hash{hash}
	return h
}

// bLIP-52's story: a probe opens the channel, and the fee for it is taken from
// the payment that follows; strangers' parts do not get in its way.
func TestWithheldHappyDay(t *testing.T) {
	y := &story{T: t, s: Offered{Offer{Terms: withheldTerms(100_000_000)}}}
	m := moment()
	y.step(PartArrived{Moment: m, Htlc: of(0, 1, 100_000_000)}, "collecting", "ask_wallet")
	y.step(WalletStatus{Moment: m, Online: true}, "opening", "open_channel")
	open := y.asked[0].(OpenChannel)
	require.Equal(t, ln.Msat(98_000_000), open.AmountMsat, "the channel carries the size less the fee")
	require.Equal(t, ln.Msat(2_000_000), open.Terms.AgreedFee())
	y.step(OpeningUsable{Moment: m, OpeningID: "offer-1-open-1", ChanID: 43}, "mapping", "map_channel")
	y.step(Mapped{m, 43}, "resuming", "resume_parts", "watch_parts")
	require.Equal(t, []ln.Msat{2_000_000}, y.asked[0].(ResumeParts).ExtraFees)
	y.step(PartsResumed{m}, "forwarded")
	y.step(PartFailed{m, of(0, 1, 0).Key, "a probe with a hash of zeros"}, "offered")
	require.False(t, OfferOf(y.s).Withhold.Bound)

	y.step(PartArrived{Moment: m, Htlc: of(9, 2, 40_000_000)}, "collecting", "ask_wallet")
	y.step(PartArrived{Moment: m, Htlc: of(2, 3, 50_000_000)}, "collecting", "ask_wallet")
	y.step(WalletStatus{Moment: m, Online: true, Room: 43}, "collecting")
	y.step(PartArrived{Moment: m, Htlc: of(2, 4, 50_000_000)}, "collecting", "refuse_parts", "ask_wallet")
	require.Equal(t, []ln.CircuitKey{of(9, 2, 0).Key}, y.refusal().Keys)
	require.Equal(t, RefuseTemporary, y.refusal().How)
	require.Equal(t, ln.Msat(98_000_000), y.asked[1].(AskWallet).AmountMsat)
	y.step(WalletStatus{Moment: m, Online: true, Room: 43}, "mapping", "map_channel")
	y.step(Mapped{m, 43}, "resuming", "resume_parts", "watch_parts")
	require.Equal(t, []ln.Msat{2_000_000, 0}, y.asked[0].(ResumeParts).ExtraFees)
	y.step(PartsResumed{m}, "forwarded")
	// One comes back and is sent again: it bears what came back with it.
	y.step(PartFailed{m, of(2, 3, 0).Key, "no"}, "forwarded")
	y.step(PartArrived{Moment: m, Htlc: of(2, 5, 50_000_000)}, "forwarded", "resume_parts", "watch_parts")
	require.Equal(t, []ln.Msat{2_000_000}, y.asked[0].(ResumeParts).ExtraFees)
	// Offered again: the same answer.
	y.step(PartArrived{Moment: m, Htlc: of(2, 5, 50_000_000)}, "forwarded", "resume_parts")
	require.Equal(t, []ln.Msat{2_000_000}, y.asked[0].(ResumeParts).ExtraFees)
	y.step(PartSettled{m, of(2, 4, 0).Key}, "forwarded")
	y.step(PartSettled{m, of(2, 5, 0).Key}, "paid", "release_scid")
	paid := y.s.(Paid)
	require.Equal(t, ln.Msat(2_000_000), paid.FeeEarnedMsat)
	require.Equal(t, ln.Msat(98_000_000), paid.ForwardedMsat)
	require.EqualValues(t, 1, paid.Opens)
	fee, ok := paid.Covers()
	require.True(t, ok)
	require.Equal(t, ln.Msat(2_000_000), fee)
	// A wallet that claimed the part without the fee, or that with it alone, has not paid.
	for _, n := range []uint64{4, 5} {
		some := paid
		some.Parts, some.FeeEarnedMsat = slices.Clone(paid.Parts), 0
		for i, p := range some.Parts {
			switch {
			case p.Htlc.Key != of(2, n, 0).Key:
				some.Parts[i].Outcome = OutcomeFailed
			case p.Outcome == OutcomeSettled:
				some.FeeEarnedMsat = p.ExtraFeeMsat
			}
		}
		_, ok := some.Covers()
		require.False(t, ok)
	}
}

// A payer that has probed pays before the probe's failure is known: its parts
// wait for it, and are the next payment.
func TestThePaymentThatFollowsItsProbeAtOnce(t *testing.T) {
	m := moment()
	for _, settled := range []bool{false, true} {
		y := &story{T: t, s: Offered{Offer{Terms: withheldTerms(100_000_000)}}}
		y.step(PartArrived{Moment: m, Htlc: of(1, 1, 100_000_000)}, "collecting", "ask_wallet")
		y.step(WalletStatus{Moment: m, Online: true}, "opening", "open_channel")
		y.step(OpeningUsable{Moment: m, OpeningID: "offer-1-open-1", ChanID: 43}, "mapping", "map_channel")
		y.step(Mapped{m, 43}, "resuming", "resume_parts", "watch_parts")
		y.step(PartArrived{Moment: m, Htlc: of(2, 2, 50_000_000)}, "resuming")
		y.step(PartsResumed{m}, "forwarded")
		y.step(PartArrived{Moment: m, Htlc: of(2, 3, 50_000_000)}, "forwarded")
		if settled {
			// The agreed payment has been made: the payer's retry is an ordinary one.
			y.step(PartSettled{m, of(1, 1, 0).Key}, "paid", "release_scid", "refuse_parts", "refuse_parts")
			require.Equal(t, RefuseTemporary, y.refusal().How)
			continue
		}
		y.step(PartFailed{m, of(1, 1, 0).Key, "a probe"}, "collecting", "ask_wallet", "ask_wallet")
		require.Len(t, PartsOf(y.s), 2)
		require.Equal(t, ln.Hash{2}, OfferOf(y.s).Hash)
	}
}

// Nothing is taken where no channel was opened for it, and the room must be for
// the whole amount.
func TestNothingIsWithheldWithoutAChannel(t *testing.T) {
	y := &story{T: t, s: Offered{Offer{Terms: withheldTerms(100_000_000)}}}
	m := moment()
	y.step(PartArrived{Moment: m, Htlc: of(1, 1, 100_000_000)}, "collecting", "ask_wallet")
	require.Equal(t, ln.Msat(100_000_000), y.asked[0].(AskWallet).AmountMsat)
	y.step(WalletStatus{Moment: m, Online: true, Room: 42, Channels: 1}, "mapping", "map_channel")
	y.step(Mapped{m, 42}, "resuming", "resume_parts", "watch_parts")
	require.Equal(t, []ln.Msat{0}, y.asked[0].(ResumeParts).ExtraFees)
}

// A part that could not be held takes along what is held of its hash, and nothing else.
func TestRefusedPartOfAHash(t *testing.T) {
	y := &story{T: t, s: Offered{Offer{Terms: withheldTerms(100_000_000)}}}
	m := moment()
	refused := func(hash byte, order int64) PartRefused {
		return PartRefused{m, of(hash, 9, 0).Key, ln.Hash{hash}, order, "full"}
	}
	y.step(PartArrived{Moment: m, Htlc: of(1, 1, 50_000_000), Order: 5}, "collecting", "ask_wallet")
	y.step(PartArrived{Moment: m, Htlc: of(2, 2, 30_000_000), Order: 6}, "collecting", "ask_wallet")
	y.step(PartArrived{Moment: m, Htlc: of(2, 3, 30_000_000), Order: 8}, "collecting")
	for _, other := range []PartRefused{refused(3, 9), refused(2, 4)} {
		_, _, err := Step(y.s, other)
		require.ErrorIs(t, err, fsm.ErrIllegal)
	}
	y.step(refused(2, 7), "collecting", "refuse_parts")
	require.Equal(t, []ln.CircuitKey{of(2, 2, 0).Key, of(2, 3, 0).Key}, y.refusal().Keys)
	require.Equal(t, RefuseTemporary, y.refusal().How)
	y.step(PartArrived{Moment: m, Htlc: of(1, 4, 50_000_000), Order: 10}, "collecting", "ask_wallet")
	_, _, err := Step(y.s, refused(1, 11))
	require.ErrorIs(t, err, fsm.ErrIllegal, "it is whole")
}

// Hashes wait each for itself: one that is given up leaves the others.
func TestHashesWaitApart(t *testing.T) {
	y := &story{T: t, s: Offered{Offer{Terms: withheldTerms(100_000_000)}}}
	at := func(seconds int) lsp.Moment {
		return lsp.Moment{At: testStart.Add(time.Duration(seconds) * time.Second), Height: testHeight}
	}
	y.step(PartArrived{Moment: at(0), Htlc: of(1, 1, 50_000_000)}, "collecting", "ask_wallet")
	y.step(PartArrived{Moment: at(60), Htlc: of(2, 2, 30_000_000)}, "collecting", "ask_wallet")
	y.step(PartArrived{Moment: at(61), Htlc: of(2, 3, 30_000_000)}, "collecting")
	due, _, _ := deadline(y.s)
	require.Equal(t, at(90).At, due)
	y.step(Tick{at(90)}, "collecting", "refuse_parts")
	require.Equal(t, []ln.CircuitKey{of(1, 1, 0).Key}, y.refusal().Keys)
	require.Equal(t, RefuseTemporary, y.refusal().How)
	due, _, _ = deadline(y.s)
	require.Equal(t, at(150).At, due)
	y.step(PartGone{at(100), of(2, 2, 0).Key, "lnd"}, "offered", "refuse_parts")
	require.Equal(t, []ln.CircuitKey{of(2, 3, 0).Key}, y.refusal().Keys)
	// At valid_until it is unknown_next_peer (bLIP-52), also for a hash that has not
	// been waited for as long as ever.
	y.step(PartArrived{Moment: at(550), Htlc: of(1, 4, 50_000_000)}, "collecting", "ask_wallet")
	due, _, _ = deadline(y.s)
	require.Equal(t, OfferOf(y.s).ExpiresAt, due)
	y.step(Tick{at(600)}, "expired", "refuse_parts")
	require.Equal(t, RefuseUnknown, y.refusal().How)
}

// bLIP-52 has the LSP go on only before valid_until: a set that is complete by
// then and whose wallet is away, or comes at that very moment, goes back, and no
// channel is opened for it. What has begun before goes on.
func TestNothingBeginsAfterValidUntil(t *testing.T) {
	m := moment()
	end := withheldTerms(0).ExpiresAt
	at := func(before time.Duration) lsp.Moment { return lsp.Moment{At: end.Add(-before), Height: testHeight} }
	for name, size := range map[string]ln.Msat{"sized": 100_000_000, "any size": 0} {
		terms := patient(withheldTerms(size), time.Hour)
		complete := func() *story {
			y := &story{T: t, s: Offered{Offer{Terms: terms}}}
			y.step(PartArrived{Moment: at(time.Second), Htlc: of(1, 1, 100_000_000)}, "collecting", "ask_wallet")
			due, _, _ := deadline(y.s)
			require.Equal(t, end, due, name)
			return y
		}
		y := complete()
		y.step(WalletStatus{Moment: at(time.Millisecond)}, "collecting", "wake_wallet")
		require.Equal(t, end, y.asked[0].(WakeWallet).Until)
		y.step(Tick{at(0)}, "expired", "refuse_parts")
		require.Equal(t, RefuseUnknown, y.refusal().How, name)

		// Its status overtakes the tick, with room for it or without.
		for _, room := range []ln.SCID{0, 42} {
			y = complete()
			y.step(WalletStatus{Moment: at(0), Online: true, Room: room}, "expired", "refuse_parts")
			require.Equal(t, RefuseUnknown, y.refusal().How, name)
		}

		y = complete()
		y.step(WalletStatus{Moment: at(time.Millisecond), Online: true}, "opening", "open_channel")
		y.step(OpeningUsable{Moment: at(-20 * time.Second), OpeningID: "offer-1-open-1", ChanID: 43}, "mapping", "map_channel")
		y.step(Mapped{at(-21 * time.Second), 43}, "resuming", "resume_parts", "watch_parts")
	}
	// An attempt before left its open under way. Nothing waits for it past the end.
	y := &story{T: t, s: Offered{Offer{Terms: withheldTerms(100_000_000)}}}
	y.step(PartArrived{Moment: m, Htlc: of(1, 1, 100_000_000)}, "collecting", "ask_wallet")
	y.step(WalletStatus{Moment: m, Online: true}, "opening", "open_channel")
	y.step(PartGone{m, of(1, 1, 0).Key, "lnd"}, "offered", "abandon_opening")
	y.step(PartArrived{Moment: at(time.Second), Htlc: of(1, 2, 100_000_000)}, "collecting", "ask_wallet")
	y.step(WalletStatus{Moment: at(0), Online: true}, "expired", "refuse_parts", "abandon_opening")

	// Where the payer pays the fee, the promise bounds the agreement and not the wait.
	y = &story{T: t, s: Offered{Offer{Terms: testTerms(true)}}}
	y.step(PartArrived{Moment: at(time.Second), Htlc: testPart(1, 100_000_000)}, "collecting", "ask_wallet")
	due, _, _ := deadline(y.s)
	require.Equal(t, at(-89*time.Second).At, due)
	y.step(WalletStatus{Moment: at(-time.Second), Online: true}, "opening", "open_channel")
}

// The first HTLC of a variable payment is all of it; one that cannot bear the
// fee is answered unknown_next_peer.
func TestVariableSize(t *testing.T) {
	m := moment()
	for name, out := range map[string]ln.Msat{
		"below the offer's": 9_999_999, "above the offer's": 110_000_001, "more than exists": ln.MaxMsat + 1,
	} {
		y := &story{T: t, s: Offered{Offer{Terms: withheldTerms(0)}}}
		y.step(PartArrived{Moment: m, Htlc: of(1, 1, out)}, "offered", "refuse_parts")
		require.Equal(t, RefuseUnknown, y.refusal().How, name)
		require.False(t, OfferOf(y.s).Withhold.Bound, name)
	}
	terms := withheldTerms(0)
	terms.Params.MinFeeMsat = 10_000_000
	for out, ok := range map[ln.Msat]bool{10_000_999: false, 10_001_000: true} {
		next, _, err := Step(Offered{Offer{Terms: terms}}, PartArrived{Moment: m, Htlc: of(1, 1, out)})
		require.NoError(t, err)
		require.Equal(t, ok, next.StateName() == "collecting", out)
	}
	terms.Params.ProportionalPPM = 1<<32 - 1
	terms.Params.MaxPaymentSizeMsat = ln.MaxMsat
	y := &story{T: t, s: Offered{Offer{Terms: terms}}}
	y.step(PartArrived{Moment: m, Htlc: of(1, 1, ln.MaxMsat)}, "offered", "refuse_parts")
	require.Equal(t, RefuseUnknown, y.refusal().How)

	y = &story{T: t, s: Offered{Offer{Terms: withheldTerms(0)}}}
	y.step(PartArrived{Moment: m, Htlc: of(1, 1, 110_000_000)}, "collecting", "ask_wallet")
	require.Equal(t, ln.Msat(2_000_000), OfferOf(y.s).AgreedFee())
	y.step(PartArrived{Moment: m, Htlc: of(1, 2, 50_000_000)}, "collecting", "refuse_parts")
	y.step(PartArrived{Moment: m, Htlc: of(2, 3, 50_000_000)}, "collecting", "refuse_parts")
	y.step(WalletStatus{Moment: m, Online: true}, "opening", "open_channel")
	y.step(OpeningUsable{Moment: m, OpeningID: "offer-1-open-1", ChanID: 43}, "mapping", "map_channel")
	y.step(Mapped{m, 43}, "resuming", "resume_parts", "watch_parts")
	y.step(PartsResumed{m}, "forwarded")
	y.step(PartFailed{m, of(1, 1, 0).Key, "no"}, "offered")
	require.Equal(t, Withhold{}, *OfferOf(y.s).Withhold, "the next payment has a size of its own")
}

// An older copy of the database holds parts that were handed on and claimed since:
// the payment was paid, and nothing of it is refused or opened again.
func TestAnOlderCopyHoldsWhatWasClaimed(t *testing.T) {
	m := moment()
	for _, at := range []string{"collecting", "opening", "mapping"} {
		y := &story{T: t, s: Offered{Offer{Terms: testTerms(true)}}}
		one, two := testPart(1, 40_000_000), testPart(2, 60_000_000)
		y.step(PartArrived{Moment: m, Htlc: one}, "collecting", "ask_wallet")
		y.step(PartArrived{Moment: m, Htlc: two}, "collecting", "ask_wallet")
		if at != "collecting" {
			y.step(WalletStatus{Moment: m, Online: true}, "opening", "open_channel")
		}
		if at == "mapping" {
			y.step(OpeningUsable{Moment: m, OpeningID: "offer-1-open-1", ChanID: 43}, "mapping", "map_channel")
		}
		_, _, err := Step(y.s, PartSettled{m, testPart(7, 0).Key})
		require.ErrorIs(t, err, fsm.ErrIllegal, "another's part")
		next, effects, err := Step(y.s, PartSettled{m, two.Key})
		require.NoError(t, err)
		require.Equal(t, "forwarded", next.StateName(), at)
		for _, f := range effects {
			require.NotContains(t, []string{"refuse_parts", "open_channel"}, f.EffectName(), at)
		}
		resumed := slices.IndexFunc(effects, func(f Effect) bool { return f.EffectName() == "resume_parts" })
		require.Contains(t, effects[resumed].(ResumeParts).Keys, one.Key, "what may not have been handed on is")
		next, _, err = Step(next, PartSettled{m, one.Key})
		require.NoError(t, err)
		require.Equal(t, "paid", next.StateName(), at)
		require.Equal(t, ln.Msat(100_000_000), next.(Paid).ForwardedMsat)
	}
}
