package out

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// again is what the database makes of a value: no field may be lost, which two
// embedded fields of one name would be.
func again[T any](t require.TestingT, v T) T {
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	p := reflect.New(reflect.TypeOf(v))
	require.NoError(t, json.Unmarshal(raw, p.Interface()))
	require.Equal(t, v, p.Elem().Interface())
	return p.Elem().Interface().(T)
}

// Random events, right and wrong, in any order, every value through the
// database's form: the promises of the package hold.
func TestRandomDays(t *testing.T) {
	ended := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		var s State = Offered{testPlan()}
		var stored, published, refundStored, prepaid, settleAsked bool
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			v := rapid.SampledFrom(testEvents(s)).Draw(t, "event")
			if rapid.IntRange(0, 2).Draw(t, "usual") > 0 {
				v = usual(t, s)
			}
			before := s
			if _, taken := v.(PaymentTaken); taken {
				settleAsked = true
			}
			next, effects, err := Step(again(t, s), again(t, v))
			if errors.Is(err, fsm.ErrIllegal) {
				continue
			}
			if errors.Is(err, ErrRefunding) || errors.Is(err, ErrTooLate) || errors.Is(err, ErrNoOutput) {
				continue
			}
			require.NoError(t, err)
			s = next
			if _, ok := s.(Funded); ok {
				stored = true
			}
			live, isLive := LiveOf(s)
			if isLive && live.Refund != nil {
				refundStored = true
			}
			for _, f := range effects {
				switch f := again(t, f).(type) {
				case FundHtlc:
					inv := before.(Invoiced)
					p := v.(PaymentHeld)
					require.True(t, inv.SwapHeld || p.Leg == LegSwap)
					require.True(t, inv.PrepayHeld || p.Leg == LegPrepay)
					require.False(t, stored, "funded twice")
				case SettlePrepay:
					require.True(t, stored, "the prepay was taken before the transaction was stored")
					require.LessOrEqual(t, v.(HtlcFunded).Height, f.ByHeight, "too late for the client")
					prepaid = true
				case PublishHtlc:
					require.True(t, stored && prepaid)
					require.Equal(t, testTx().Raw, f.Raw, "other bytes were published")
					published = true
				case SettleSwap:
					require.Equal(t, testPlan().Terms.Hash, f.Preimage.Preimage().Hash())
					require.NotNil(t, live.Preimage, "settled with a preimage that is not stored")
					settleAsked = true
				case SignRefund:
					require.Nil(t, live.Preimage)
					require.False(t, live.Settled)
					require.GreaterOrEqual(t, v.(NewBlock).Height, uint32(testExpiry))
				case PublishRefund:
					require.True(t, refundStored, "a refund was published before it was stored")
				case CancelInvoices:
					if f.Prepay != nil {
						require.False(t, published, "cancelled after it was published")
					} else {
						require.True(t, live.Spent == htlc.SpendTimeout || live.TakenHeight > 0, "the payment went back while the output could be taken")
						require.Nil(t, live.Preimage)
					}
				case ForgetTxs:
					require.True(t, Final(s) && live.Spent != "")
				case ReleaseCoins:
					_, cancelling := s.(Cancelling)
					require.True(t, Final(s) || cancelling)
				}
			}
			require.Equal(t, MayCosign(s), isLive && live.Settled)
			if MayCosign(s) {
				require.True(t, settleAsked)
			}
			if Final(s) {
				break
			}
		}
		ended[s.StateName()]++
	})
	t.Log(ended)
	for _, name := range []string{"cancelled", "succeeded", "refunded", "lost"} {
		require.NotZero(t, ended[name], "no day ended %s", name)
	}
}

// usual is an event that the world would likely send next.
func usual(t *rapid.T, s State) Event {
	m, preimage := moment(100), testPreimage()
	switch s := s.(type) {
	case Offered:
		return InvoicesMade{m, Invoices{SwapInvoice: "lnbc1", PrepayInvoice: "lnbc2"}}
	case Invoiced:
		if s.SwapHeld {
			return PaymentHeld{m, LegPrepay, 500, ""}
		}
		return PaymentHeld{m, LegSwap, 500, ""}
	case Funding:
		return HtlcFunded{m, testTx()}
	case Funded:
		return PrepaySettled{m}
	case Published:
		switch {
		case s.ConfirmedHeight == 0:
			return HtlcConfirmed{moment(101), 101}
		case rapid.Bool().Draw(t, "no-show"):
			return NewBlock{moment(300), 500}
		case rapid.Bool().Draw(t, "signed"):
			return RefundSigned{moment(300), Refund{Raw: []byte("refund"), Rate: 300, FeeSat: 200}}
		}
		return HtlcSpent{moment(103), htlc.SpendSuccess, ln.TxID{5}, 103, 200, &preimage}
	case Refunding:
		return HtlcSpent{moment(306), htlc.SpendTimeout, ln.TxID{6}, 301, 200, nil}
	case Revealed:
		if rapid.Bool().Draw(t, "released") {
			return SwapUnsettled{m}
		}
		return SwapSettled{m}
	case Settled:
		return HtlcConfirmed{moment(106), 101}
	}
	return InvoicesCancelled{m}
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

func published(t *testing.T) State {
	t.Helper()
	m := moment(100)
	s, _ := walk(t, Offered{testPlan()}, Start{m}, InvoicesMade{m, Invoices{SwapInvoice: "a", PrepayInvoice: "b"}},
		PaymentHeld{m, LegPrepay, 500, ""}, PaymentHeld{m, LegSwap, 500, ""}, HtlcFunded{m, testTx()}, PrepaySettled{m},
		HtlcPublished{m}, HtlcConfirmed{moment(101), 101})
	return s
}

// The one moment in which both could be ours: a preimage that comes once a
// refund may be public is not taken, one that is on chain is.
func TestPreimageAgainstRefund(t *testing.T) {
	s, effects := walk(t, published(t), NewBlock{moment(300), 500})
	require.Equal(t, "sign_refund", effects[0].EffectName())
	// Nothing is signed yet, but it may be at any moment.
	_, _, err := Step(s, PreimagePushed{moment(300), testPreimage()})
	require.ErrorIs(t, err, ErrRefunding)
	s, effects = walk(t, s, RefundSigned{moment(300), Refund{Raw: []byte("refund"), Rate: 500}})
	require.Equal(t, "publish_refund", effects[0].EffectName())
	// A reorg that goes below the expiry changes nothing about that.
	_, _, err = Step(s, PreimagePushed{moment(299), testPreimage()})
	require.ErrorIs(t, err, ErrRefunding)
	preimage := testPreimage()
	won, effects := walk(t, s, HtlcSpent{moment(302), htlc.SpendSuccess, ln.TxID{5}, 302, 0, &preimage})
	require.Equal(t, "refunding", won.StateName())
	require.Empty(t, effects, "a reorg could let the refund win after the payment was taken")
	again, _ := walk(t, won, SpendReorged{moment(302)}, HtlcSpent{moment(303), htlc.SpendTimeout, ln.TxID{6}, 303, 200, nil}, NewBlock{moment(308), 0})
	require.Equal(t, "refunded", again.StateName())
	won, effects = walk(t, won, NewBlock{moment(307), 0})
	require.Equal(t, "revealed", won.StateName())
	require.Equal(t, []Effect{SettleSwap{Preimage: preimage}}, effects)
	won, _ = walk(t, won, SwapSettled{moment(307)})
	require.True(t, MayCosign(won))

	lost, effects := walk(t, s, HtlcSpent{moment(301), htlc.SpendTimeout, ln.TxID{6}, 301, 200, nil})
	require.Empty(t, effects, "not final: the payment stays held")
	lost, _ = walk(t, lost, SpendReorged{moment(301)}, HtlcSpent{moment(302), htlc.SpendTimeout, ln.TxID{6}, 302, 200, nil}, NewBlock{moment(306), 0})
	require.Equal(t, "refunding", lost.StateName())
	lost, effects = walk(t, lost, NewBlock{moment(307), 0})
	require.Equal(t, "refunded", lost.StateName())
	require.Contains(t, effects, Effect(CancelInvoices{Swap: testPlan().Terms.Hash}))
}

func TestARefundThatLagsPaysMore(t *testing.T) {
	s, _ := walk(t, published(t), NewBlock{moment(300), 500}, RefundSigned{moment(300), Refund{Raw: []byte("one"), Rate: 500}})
	s, effects := walk(t, s, NewBlock{moment(302), 500})
	require.Equal(t, []Effect{PublishRefund{Raw: []byte("one"), Label: publishRefund(mustLive(s)).(PublishRefund).Label}}, effects)
	_, effects = walk(t, s, NewBlock{moment(303), 500})
	require.Equal(t, ln.FeeRateSatPerKW(750), effects[1].(SignRefund).Rate, "nodes want a sat per vbyte more, though the chain asks no more")
	_, effects = walk(t, s, NewBlock{moment(303), 5_000})
	require.Equal(t, ln.FeeRateSatPerKW(5_000), effects[1].(SignRefund).Rate)
	_, effects = walk(t, s, NewBlock{moment(303), 1_000_000})
	fee, err := effects[1].(SignRefund).Rate.Fee(htlc.RefundWU)
	require.NoError(t, err)
	require.LessOrEqual(t, fee, mustLive(s).AmountSat/2, "never more than half of what it brings back")
	require.Greater(t, fee, mustLive(s).AmountSat/2-2_000, "but that")
	_, effects = walk(t, published(t), NewBlock{moment(300), 1_000_000})
	fee, err = effects[0].(SignRefund).Rate.Fee(htlc.RefundWU)
	require.NoError(t, err)
	require.LessOrEqual(t, fee, mustLive(s).AmountSat/2, "nor at first")
	// A share of a transaction that several swaps have is what it cost this one,
	// whichever of its versions confirms.
	s, _ = walk(t, published(t), NewBlock{moment(300), 500}, RefundSigned{moment(300), Refund{Raw: []byte("one"), TxID: ln.TxID{1}, Rate: 500, FeeSat: 70, TxFeeSat: 700, Shared: 10}},
		RefundSigned{moment(303), Refund{Raw: []byte("two"), TxID: ln.TxID{2}, Rate: 900, FeeSat: 90}}, HtlcSpent{moment(304), htlc.SpendTimeout, ln.TxID{1}, 304, 0, nil})
	require.Equal(t, ln.Sat(70), mustLive(s).SpentFeeSat)
}

// An output that never confirmed is taken back, too: its refund pays for both.
func TestARefundOfAnUnconfirmedOutput(t *testing.T) {
	m := moment(100)
	s, _ := walk(t, Offered{testPlan()}, InvoicesMade{m, Invoices{SwapInvoice: "a", PrepayInvoice: "b"}},
		PaymentHeld{m, LegPrepay, 500, ""}, PaymentHeld{m, LegSwap, 500, ""}, HtlcFunded{m, testTx()}, PrepaySettled{m})
	_, effects := walk(t, s, NewBlock{moment(299), 500})
	require.NotContains(t, names(effects), "sign_refund")
	s, effects = walk(t, s, NewBlock{moment(300), 2_000})
	require.Equal(t, "publish_htlc", effects[0].EffectName(), "the parent first")
	sign := effects[len(effects)-1].(SignRefund)
	tx := testTx()
	child, err := sign.Rate.Fee(htlc.RefundWU)
	require.NoError(t, err)
	both, err := ln.FeeRateSatPerKW(2_000).Fee(htlc.RefundWU + tx.WeightWU)
	require.NoError(t, err)
	require.InDelta(t, float64(both), float64(child+tx.MinerSat), 2)
	_, _, err = Step(s, PreimagePushed{moment(300), testPreimage()})
	require.ErrorIs(t, err, ErrRefunding)
}

// A funding transaction that lags is hurried: to what the chain asks; near the height
// at which a client no longer takes the output a quarter more each time, whatever the
// estimates say; and never for more than half of the amount. Then the refund does it.
func TestAFundingThatLagsIsHurried(t *testing.T) {
	m := moment(100)
	s, _ := walk(t, Offered{testPlan()}, InvoicesMade{m, Invoices{SwapInvoice: "a", PrepayInvoice: "b"}},
		PaymentHeld{m, LegPrepay, 500, ""}, PaymentHeld{m, LegSwap, 500, ""}, HtlcFunded{m, testTx()}, PrepaySettled{m})
	bump := func(effects []Effect) (f BumpHtlc, ok bool) {
		for _, e := range effects {
			if b, is := e.(BumpHtlc); is {
				return b, true
			}
		}
		return f, false
	}
	quiet := func(height uint32, target ln.FeeRateSatPerKW) {
		t.Helper()
		_, effects := walk(t, s, NewBlock{moment(height), target})
		_, hurried := bump(effects)
		require.False(t, hurried)
	}
	hurried := func(height uint32, target, want ln.FeeRateSatPerKW) {
		t.Helper()
		next, effects := walk(t, s, NewBlock{moment(height), target})
		f, ok := bump(effects)
		require.True(t, ok)
		require.Equal(t, want, f.PackageRate)
		require.Equal(t, testTx().ChangeOutpoint, f.Tx.ChangeOutpoint)
		require.Equal(t, ln.Sat(250_000), f.MostSat)
		s = next
	}
	quiet(102, 10_000)
	quiet(110, 300)
	hurried(103, 1_000, 1_000)
	quiet(105, 5_000)
	hurried(106, 800, 1_000)
	hurried(109, 0, 1_000)
	hurried(112, 6_000, 6_000)
	// Thirty blocks before the last thirty.
	hurried(239, 0, 6_000)
	hurried(242, 0, 7_501)
	hurried(245, 20_000, 20_000)
	last := ln.FeeRateSatPerKW(20_000)
	for height := uint32(248); height < testExpiry; height += 3 {
		most := swaps.Within(testTx().WeightWU+ChildWU, 250_000+testTx().MinerSat)
		last = min(last+last/4+1, most)
		hurried(height, 0, last)
		fee, err := last.Fee(testTx().WeightWU + ChildWU)
		require.NoError(t, err)
		require.LessOrEqual(t, fee, 250_000+testTx().MinerSat)
	}
	require.Equal(t, swaps.Within(testTx().WeightWU+ChildWU, 250_000+testTx().MinerSat), last)
	quiet(300, 1_000_000)
	// A client that paid is owed its output, however late.
	paid, _ := walk(t, s, PreimagePushed{moment(290), testPreimage()}, SwapSettled{moment(290)})
	s = paid
	hurried(310, 0, last)

	// One whose client lets it wait, waits.
	plan := testPlan()
	plan.Later, plan.BumpAfterBlocks = true, 36
	s, _ = walk(t, Offered{plan}, InvoicesMade{m, Invoices{SwapInvoice: "a", PrepayInvoice: "b"}},
		PaymentHeld{m, LegPrepay, 500, ""}, PaymentHeld{m, LegSwap, 500, ""}, HtlcFunded{m, testTx()}, PrepaySettled{m})
	quiet(135, 10_000)
	hurried(136, 10_000, 10_000)
}

func names(effects []Effect) (out []string) {
	for _, f := range effects {
		out = append(out, f.EffectName())
	}
	return out
}

// Another program spends a coin of the funding transaction: once that is buried no
// output can confirm any more, and the held payment goes back.
func TestACoinThatIsSpentElsewhere(t *testing.T) {
	m := moment(100)
	s, _ := walk(t, Offered{testPlan()}, InvoicesMade{m, Invoices{SwapInvoice: "a", PrepayInvoice: "b"}},
		PaymentHeld{m, LegPrepay, 500, ""}, PaymentHeld{m, LegSwap, 500, ""}, HtlcFunded{m, testTx()}, PrepaySettled{m})
	s, effects := walk(t, s, CoinTaken{moment(102), ln.TxID{4}, 102})
	require.Equal(t, []string{"alarm"}, names(effects))
	_, effects = walk(t, s, NewBlock{moment(103), 500})
	require.Empty(t, effects, "what cannot confirm is not published")
	_, _, err := Step(s, PreimagePushed{moment(103), testPreimage()})
	require.ErrorIs(t, err, ErrNoOutput, "its payment would be taken for nothing")
	// A reorg gives the coin back.
	back, effects := walk(t, s, CoinBack{moment(103)})
	require.Equal(t, []string{"watch_htlc"}, names(effects))
	_, effects = walk(t, back, NewBlock{moment(104), 500})
	require.Contains(t, names(effects), "publish_htlc")
	over, effects := walk(t, s, NewBlock{moment(107), 500})
	require.Equal(t, "refunded", over.StateName())
	require.Equal(t, swaps.ReasonForeignSpend, ReasonOf(over).Code)
	require.Contains(t, effects, Effect(CancelInvoices{Swap: testPlan().Terms.Hash}))
	// Never while the client has paid.
	paid, _ := walk(t, published(t), PreimagePushed{moment(102), testPreimage()}, SwapSettled{moment(102)}, HtlcReorged{moment(102)}, CoinTaken{moment(103), ln.TxID{4}, 103}, NewBlock{moment(120), 500})
	require.Equal(t, "settled", paid.StateName())
	require.Contains(t, ReasonOf(paid).Text, "owed")
}

func mustLive(s State) Live { l, _ := LiveOf(s); return l }

func TestAPreimageOfAnotherSwap(t *testing.T) {
	_, _, err := Step(published(t), PreimagePushed{moment(102), swaps.NewSecret(ln.Preimage{9})})
	require.ErrorContains(t, err, "another hash")
}

// A payment that the node gave back while the prepay was being taken: nothing
// is published, whatever SettlePrepay comes back with.
func TestReleasedBeforePublication(t *testing.T) {
	m := moment(100)
	s, _ := walk(t, Offered{testPlan()}, InvoicesMade{m, Invoices{SwapInvoice: "a", PrepayInvoice: "b"}},
		PaymentHeld{m, LegSwap, 500, ""}, PaymentHeld{m, LegPrepay, 500, ""}, HtlcFunded{m, testTx()}, PaymentReleased{m, LegSwap})
	require.Equal(t, "cancelling", s.StateName())
	for _, v := range []Event{PrepaySettled{m}, PrepayLost{m, "gone", true}} {
		s, effects := walk(t, s, v)
		require.Equal(t, []string{"alarm"}, names(effects))
		require.True(t, PrepayKept(s))
		s, effects = walk(t, s, v, InvoicesCancelled{m})
		require.Empty(t, effects, "once")
		require.Equal(t, "cancelled", s.StateName())
		require.True(t, PrepayKept(s))
		require.Contains(t, ReasonOf(s).Text, "owed")
	}
	s, _ = walk(t, s, PrepayLost{m, "gone", false}, InvoicesCancelled{m})
	require.False(t, PrepayKept(s))

	// A restart between both: the node says that the prepay was taken.
	s, effects := walk(t, funded(t), PrepayLost{m, "released", true})
	require.Equal(t, []string{"alarm", "release_coins", "cancel_invoices"}, names(effects))
	require.True(t, PrepayKept(s))
}

func funded(t *testing.T) State {
	t.Helper()
	m := moment(100)
	s, _ := walk(t, Offered{testPlan()}, InvoicesMade{m, Invoices{SwapInvoice: "a", PrepayInvoice: "b"}},
		PaymentHeld{m, LegSwap, 500, ""}, PaymentHeld{m, LegPrepay, 500, ""}, HtlcFunded{m, testTx()})
	return s
}

// An outage between the payments and the publication: an output that comes out at the
// end of its time could be taken after the payment went back, so none does.
func TestTooLateToPublish(t *testing.T) {
	const last = testExpiry - 30
	m := moment(100)
	funding, _ := walk(t, Offered{testPlan()}, InvoicesMade{m, Invoices{SwapInvoice: "a", PrepayInvoice: "b"}},
		PaymentHeld{m, LegSwap, 500, ""}, PaymentHeld{moment(last), LegPrepay, 500, ""})
	require.Equal(t, "funding", funding.StateName())
	s, effects := walk(t, funding, HtlcFunded{moment(last), testTx()})
	require.EqualValues(t, last, effects[0].(SettlePrepay).ByHeight)
	for _, late := range []struct {
		s State
		v Event
	}{{funding, HtlcFunded{moment(last + 1), testTx()}}, {s, PrepayLost{moment(last + 1), "late", false}}} {
		s, effects := walk(t, late.s, late.v)
		require.Equal(t, swaps.ReasonLate, ReasonOf(s).Code)
		require.Equal(t, []string{"release_coins", "cancel_invoices"}, names(effects))
	}
}

// The node has settled a payment that this database knows no preimage of, since it is
// an older copy of itself: the output is the client's, and no refund takes it back.
func TestAPaymentThatWasTakenBefore(t *testing.T) {
	taken := PaymentTaken{moment(300), testPreimage()}
	refunding, _ := walk(t, published(t), NewBlock{moment(300), 500}, RefundSigned{moment(300), Refund{Raw: []byte("refund"), Rate: 500}})
	for _, s := range []State{published(t), refunding} {
		s, effects := walk(t, s, taken)
		require.Equal(t, []string{"release_coins"}, names(effects))
		require.Equal(t, "succeeded", s.StateName())
		require.True(t, MayCosign(s))
	}
	young, effects := walk(t, funded(t), PrepaySettled{moment(100)}, taken)
	require.Empty(t, effects)
	_, effects = walk(t, young, NewBlock{moment(310), 500})
	require.NotContains(t, names(effects), "sign_refund")
	robbed, _ := walk(t, refunding, HtlcSpent{moment(301), htlc.SpendTimeout, ln.TxID{6}, 301, 200, nil})
	_, effects = walk(t, robbed, taken)
	require.Equal(t, "alarm", effects[0].EffectName(), "a person must pay the client back")
	_, _, err := Step(published(t), PaymentTaken{moment(300), swaps.NewSecret(ln.Preimage{9})})
	require.ErrorContains(t, err, "another hash")
}

// A refund that came too late leaves the wallet: it can never confirm.
func TestARefundThatLost(t *testing.T) {
	preimage := testPreimage()
	s, _ := walk(t, published(t), NewBlock{moment(300), 500}, RefundSigned{moment(300), Refund{Raw: []byte("one"), TxID: ln.TxID{1}, Rate: 500}},
		RefundSigned{moment(303), Refund{Raw: []byte("two"), TxID: ln.TxID{2}, Rate: 900}}, HtlcSpent{moment(304), htlc.SpendSuccess, ln.TxID{5}, 304, 0, &preimage}, NewBlock{moment(309), 0})
	s, effects := walk(t, s, SwapSettled{moment(309)})
	require.Equal(t, "succeeded", s.StateName())
	require.Contains(t, effects, Effect(ForgetTxs{TxIDs: []ln.TxID{{1}, {2}}}))
}
