package wrap

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

// TestRandomDays plays an honest world: a payment's outcome is told only for a
// payment that was asked for, and nothing else is promised about the order of
// what happens. It checks that the hold is never cancelled while a payment may
// be in flight, that every payment keeps law 4's margin, that one channel at
// most is made, and that what the payer pays is what the wallet and the
// gateway get.
func TestRandomDays(t *testing.T) {
	ended := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		terms := testTerms(rapid.Bool().Draw(t, "zero conf"))
		terms.ClientTrusts = terms.ZeroConf && rapid.Bool().Draw(t, "trust")
		// unfunded: a channel is used that nothing funds, for money that may be claimed.
		unfunded := false
		var s State = Offered{Offer{Terms: terms}}
		var inFlight, settled bool
		var live string
		channels := 0
		now, height := testStart, uint32(testHeight)
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 10).Draw(t, "seconds")) * time.Second)
			if rapid.IntRange(0, 4).Draw(t, "block") == 0 {
				height++
			}
			m := lsp.Moment{At: now, Height: height}
			v := rapid.SampledFrom(append(testEvents(s), likely(s)...)).Draw(t, "event")
			v = at(v, m)
			switch v := v.(type) {
			case PaymentSucceeded, PaymentFailed, PaymentNotSent, PaymentMissing:
				if !inFlight {
					continue
				}
				inFlight = false
			case OpeningUsable:
				if v.OpeningID != live {
					continue
				}
				channels++
				live = ""
				unfunded = v.Withheld
			case OpeningFailed:
				if v.OpeningID != live {
					continue
				}
				live = ""
			case PaidAfterAll:
				continue // this world's database is never put back
			case InvoiceSettled:
				if !settled {
					continue
				}
			case SetAccepted:
				for i := range v.Htlcs {
					v.Htlcs[i].Expiry += height - testHeight
				}
			}
			next, effects, err := Step(again(t, s), again(t, v))
			if errors.Is(err, fsm.ErrIllegal) {
				switch v.(type) {
				case PaymentSucceeded, PaymentFailed, PaymentNotSent, PaymentMissing:
					t.Fatalf("%s does not take a payment's outcome", s.StateName())
				}
				continue
			}
			require.NoError(t, err)
			s = next
			for _, f := range effects {
				switch f := again(t, f).(type) {
				case Pay:
					require.False(t, inFlight, "a second payment beside the first")
					inFlight = true
					h := s.(Paying)
					require.LessOrEqual(t, f.Payment.ExpiryHeight+terms.MarginBlocks+terms.HoldExpiryDelta, h.EarliestExpiry)
					require.GreaterOrEqual(t, f.SendUntilHeight, height)
					require.Equal(t, terms.WalletMsat, f.Payment.AmountMsat)
				case ReleaseOpening:
					_, claimed := v.(PaymentSucceeded)
					require.True(t, claimed && unfunded, "published for nothing")
					unfunded = false
				case AbandonOpening:
					require.False(t, inFlight, "given up while a payment may be in flight")
					unfunded = false
				case CancelInvoice:
					require.False(t, inFlight, "cancelled while a payment may be in flight")
					require.False(t, settled)
				case SettleInvoice:
					require.Equal(t, terms.Hash, f.Preimage.Preimage().Hash())
					settled = true
				case OpenChannel:
					require.Empty(t, live, "an open beside another")
					require.Zero(t, channels, "a second channel for one payment")
					live = f.OpeningID
				}
			}
			_, claimed := v.(PaymentSucceeded)
			require.False(t, unfunded && (claimed || !InFlight(s)), "%s: nothing funds the channel, and nobody gives it up", s.StateName())
			require.Equal(t, inFlight || settled && !Final(s), InFlight(s), s.StateName())
			switch s := s.(type) {
			case Settled:
				require.Equal(t, s.HeldMsat, s.AmountMsat+s.FeeEarnedMsat)
			case Lost:
				require.Equal(t, terms.Hash, s.Preimage.Preimage().Hash())
			case Refunded:
				require.NotEmpty(t, s.Reason.Text)
				require.False(t, settled)
			}
			if Final(s) {
				break
			}
		}
		ended[s.StateName()]++
	})
	t.Log(ended)
	require.Positive(t, ended["refunded"]+ended["settled"], "%v", ended)
}

// likely leads on from a state, so that the days get somewhere.
func likely(s State) []Event {
	var v Event
	o := OfferOf(s)
	switch s := s.(type) {
	case Offered:
		v = InvoiceAdded{Bolt11: "lnbcrt1"}
	case InvoiceMade:
		v = SetAccepted{Htlcs: testHtlcs()}
	case Accepted:
		v = WalletStatus{Online: true}
		if !s.Safe {
			v = IncomingChecked{Safe: true}
		}
	case Opening:
		v = OpeningUsable{OpeningID: OpeningID(o.ID, o.Opens), ChanID: 43, Withheld: o.ClientTrusts}
	case Paying, PaymentUnknown:
		v = PaymentSucceeded{Preimage: lsp.NewSecret(testPreimage)}
	case Settling:
		v = InvoiceSettled{}
	default:
		return nil
	}
	var many []Event
	for range 30 {
		many = append(many, v)
	}
	return many
}

// at sets an event's moment.
func at(v Event, m lsp.Moment) Event {
	p := reflect.New(reflect.TypeOf(v)).Elem()
	p.Set(reflect.ValueOf(v))
	p.FieldByName("Moment").Set(reflect.ValueOf(m))
	return p.Interface().(Event)
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

func paying() []Event {
	m := moment()
	return []Event{
		Start{m},
		InvoiceAdded{m, "lnbcrt1"},
		SetAccepted{Moment: m, Htlcs: testHtlcs()},
		IncomingChecked{m, true, ""},
		WalletStatus{Moment: m, Online: true},
		OpeningUsable{Moment: m, OpeningID: "offer-1-open-1", ChanID: 43},
	}
}

func TestHappyDay(t *testing.T) {
	m := moment()
	s, effects := walk(t, Offered{Offer{Terms: testTerms(true)}}, paying()...)
	require.Equal(t, ln.DirectPayment{
		Hash: testPreimage.Hash(), AmountMsat: 98_000_000, ChanID: 43, Peer: ln.PubKey{2, 1}, ExpiryHeight: testHeight + 83,
	}, effects[0].(Pay).Payment)
	require.EqualValues(t, testHeight+3, effects[0].(Pay).SendUntilHeight)
	s, _ = walk(t, s, PaymentSucceeded{m, lsp.NewSecret(testPreimage)}, InvoiceSettled{m})
	require.Equal(t, ln.Msat(2_000_000), s.(Settled).FeeEarnedMsat)
}

// Law 4's margin, to the block: the earliest part expires at h+181, the payment
// at h+83, 60 blocks of margin and 18 of lnd's own lie between.
func TestMarginToTheBlock(t *testing.T) {
	m := moment()
	last := lsp.Moment{At: testStart, Height: testHeight + 20}
	first := lsp.Moment{At: testStart, Height: testHeight + 21}
	s, _ := walk(t, Offered{Offer{Terms: testTerms(true)}}, paying()[:5]...)
	ok, _ := walk(t, s, NewBlock{last}, OpeningUsable{Moment: last, OpeningID: "offer-1-open-1", ChanID: 43})
	require.Equal(t, "paying", ok.StateName())
	over, effects := walk(t, s, OpeningUsable{Moment: first, OpeningID: "offer-1-open-1", ChanID: 43})
	require.Equal(t, lsp.ReasonMargin, over.(Cancelling).Reason.Code)
	require.Equal(t, "cancel_invoice", effects[0].EffectName())
	over, _ = walk(t, s, NewBlock{first})
	require.Equal(t, "cancelling", over.StateName())
	// A retry is computed anew as well.
	retry, _ := walk(t, ok, PaymentFailed{first, "flap", true})
	require.Equal(t, lsp.ReasonPaymentFailed, retry.(Cancelling).Reason.Code, "not that it is late, but why it failed")
	retry, _ = walk(t, ok, PaymentFailed{m, "flap", true})
	require.EqualValues(t, 2, OfferOf(retry).Payments)
}

// The payment is cut off and the node cancels the hold meanwhile: nothing is
// assumed, and what TrackPaymentV2 says decides between refund and loss.
func TestCutOffPayment(t *testing.T) {
	m := moment()
	s, _ := walk(t, Offered{Offer{Terms: testTerms(true)}}, paying()...)
	s, effects := walk(t, s, PaymentCutOff{m, "eof"})
	require.Equal(t, "track_payment", effects[0].EffectName())
	_, _, err := Step(s, Cancel{m, lsp.Reason{}})
	require.ErrorIs(t, err, ErrTooLate)
	s, effects = walk(t, s, InvoiceCanceled{m})
	require.Equal(t, "payment_unknown", s.StateName())
	require.Equal(t, "alarm", effects[0].EffectName())
	failed, _ := walk(t, s, PaymentFailed{m, "timeout", true})
	require.Equal(t, "refunded", failed.StateName(), "nothing is paid again for a hold that is gone")
	lost, _ := walk(t, s, PaymentSucceeded{m, lsp.NewSecret(testPreimage)})
	require.Equal(t, testPreimage, lost.(Lost).Preimage.Preimage())
	_, _, err = Step(s, PaymentSucceeded{m, lsp.NewSecret(ln.Preimage{9})})
	require.ErrorContains(t, err, "does not open its hash")
}

// A database that is an older copy of itself may believe of a payment that the
// wallet got that it can be given back, wherever it stands: the payment ends as
// the one that it was, with the gateway's own part counted.
func TestPaidAfterAll(t *testing.T) {
	m := moment()
	for n := 2; n <= len(paying()); n++ {
		older, _ := walk(t, Offered{Offer{Terms: testTerms(true)}}, paying()[:n]...)
		if InFlight(older) {
			continue // what was sent is asked about
		}
		for _, told := range []Event{InvoiceSettled{m}, Cancel{m, lsp.Reason{}}} {
			s, effects := walk(t, older, told)
			require.Equal(t, "cancelling", s.StateName())
			cancels := 0
			for _, f := range effects {
				if f.EffectName() == "cancel_invoice" {
					cancels++
				}
			}
			require.Equal(t, 1, cancels, "the node is asked, which knows of the payment")
			paid := PaidAfterAll{m, lsp.NewSecret(testPreimage), testHtlcs()}
			s, effects = walk(t, s, paid)
			require.Equal(t, SettleInvoice{OfferID: "offer-1", Hash: testPreimage.Hash(), Preimage: lsp.NewSecret(testPreimage)}, effects[0])
			require.True(t, InFlight(s))
			s, _ = walk(t, s, InvoiceSettled{m})
			require.Equal(t, ln.Msat(2_000_000), s.(Settled).FeeEarnedMsat)
			require.Equal(t, ln.Msat(100_000_000), s.(Settled).HeldMsat)
		}
	}
	s, _ := walk(t, Offered{Offer{Terms: testTerms(true)}}, append(paying()[:3], Cancel{m, lsp.Reason{}})...)
	_, _, err := Step(s, PaidAfterAll{m, lsp.NewSecret(ln.Preimage{9}), testHtlcs()})
	require.ErrorContains(t, err, "does not open its hash")
	_, _, err = Step(s, PaidAfterAll{m, lsp.NewSecret(testPreimage), nil})
	require.ErrorContains(t, err, "has only")
}

// A client that trusts the gateway: its channel is funded as soon as its preimage
// is known, also where the hold invoice is gone, and given up when nothing of the
// payment is in flight any more.
func TestTrustedFunding(t *testing.T) {
	m := moment()
	s, _ := walk(t, Offered{Offer{Terms: trusting(testTerms(true))}}, paying()[:5]...)
	s, effects := walk(t, s, OpeningUsable{Moment: m, OpeningID: "offer-1-open-1", ChanID: 43, Withheld: true})
	require.Equal(t, "offer-1-open-1", effects[0].(Pay).Withheld)
	preimage := PaymentSucceeded{m, lsp.NewSecret(testPreimage)}
	release := ReleaseOpening{OfferID: "offer-1", OpeningID: "offer-1-open-1"}
	_, effects = walk(t, s, preimage)
	require.Equal(t, release, effects[0])
	unknown, _ := walk(t, s, PaymentCutOff{m, "eof"}, InvoiceCanceled{m})
	_, effects = walk(t, unknown, preimage)
	require.Equal(t, release, effects[0])
	for name, v := range map[string]struct {
		from  State
		event Event
	}{
		"the wallet refuses":           {s, PaymentFailed{m, "no", false}},
		"it was never sent, too late":  {s, PaymentNotSent{lsp.Moment{At: testStart, Height: testHeight + 21}, "late"}},
		"it failed, the hold is gone":  {unknown, PaymentFailed{m, "no", true}},
		"lnd lost it, the hold stands": {s, PaymentMissing{m}},
	} {
		t.Run(name, func(t *testing.T) {
			_, effects := walk(t, v.from, v.event)
			require.Equal(t, "offer-1-open-1", effects[len(effects)-1].(AbandonOpening).OpeningID)
		})
	}
}
