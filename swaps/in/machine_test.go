package in

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/fsm/fsmtest"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

func testStart() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func testPlan() Plan {
	return Plan{
		Terms:     htlc.Terms{Hash: ln.Preimage{1}.Hash(), ExpiryHeight: 1000, Sender: ln.PubKey{2, 1}, Receiver: ln.PubKey{2, 2}},
		AmountSat: 500_000, Invoice: "lnbc1", InvoiceMsat: 498_000_000, Probe: "lnbc2", MaxRoutingMsat: 1_000_000,
		ProbeBy: testStart().Add(time.Minute), Confs: 2, DeepConfs: 6, PayMarginBlocks: 100, MinCltvBlocks: 40, MaxAttempts: 2,
		KeyFor: time.Minute, BeginHeight: 100,
	}
}

// openPlan is of a client that has no channel.
func openPlan() Plan {
	p := testPlan()
	p.Probe, p.ProbeBy, p.MaxRoutingMsat = "", time.Time{}, 0
	p.Open = &Open{ID: "o", Node: ln.PubKey{2, 9}, FinalCltv: 30, FeeMsat: 1_500_000, CapacitySat: 600_000, Confs: 3, MaxOpens: 2, DepositByHeight: 244}
	return p
}

func moment(height uint32) swaps.Moment { return swaps.Moment{At: testStart(), Height: height} }

func outpoint() ln.Outpoint { return ln.Outpoint{TxID: ln.TxID{7}, Index: 1} }

// other pays the same contract.
func other() ln.Outpoint { return ln.Outpoint{TxID: ln.TxID{77}} }

func testEvents(s State) []Event {
	switch o := OutputOf(s); {
	case o.Outpoint == other():
		return append(slices.DeleteFunc(events(), func(v Event) bool {
			_, found := v.(OutputFound)
			return found || v.EventName() == "channel_usable"
		}), OutputSpent{moment(109), other(), htlc.SpendKey, ln.TxID{}, 104, 200})
	case o.AwayHeight > 0:
		return append(events(), OutputFound{moment(103), other(), 500_000, 1, 103}, OutputFound{moment(108), other(), 500_000, 1, 108}, OutputReorged{moment(101), other(), false})
	}
	return events()
}

func events() []Event {
	m := moment(101)
	late := swaps.Moment{At: testStart().Add(time.Hour), Height: 101}
	preimage := swaps.NewSecret(ln.Preimage{1})
	return []Event{
		Start{m},
		ProbePassed{m},
		ProbeFailed{m, "no route"},
		Tick{m},
		Tick{late},
		OutputFound{m, outpoint(), 500_000, 1, 101},
		OutputFound{m, outpoint(), 499_999, 1, 101},
		OutputFound{m, outpoint(), 500_000, 2, 101},
		OutputReorged{m, outpoint(), false},
		OutputReorged{m, outpoint(), true},
		NewBlock{moment(101), 500, 0, false},
		NewBlock{moment(102), 500, 1_000_000, false},
		NewBlock{moment(102), 500, 499_999, false},
		NewBlock{moment(106), 500, 0, false},
		NewBlock{moment(861), 500, 1_000_000, false},
		NewBlock{moment(245), 500, 1_000_000, false},
		ChannelUsable{m, 77},
		ChannelNotOpened{m, "away", false},
		ChannelNotOpened{m, "rejected", true},
		PaymentFailed{m, "incorrect details", true},
		PaymentSucceeded{m, preimage, 5},
		PaymentFailed{m, "no route", false},
		PaymentCutOff{m, "eof"},
		PaymentNotSent{m, "unknown"},
		PaymentMissing{moment(925)},
		NewBlock{moment(920), 500, 1_000_000, false},
		KeyPushed{m, swaps.NewSecret(ln.Preimage{3})},
		ClaimSigned{moment(103), Claim{Raw: []byte("claim"), TxID: ln.TxID{8}, ClaimFeeSat: 200, Rate: 500}},
		ClaimRefused{m, "dust"},
		OutputSpent{moment(104), outpoint(), htlc.SpendKey, ln.TxID{}, 104, 200},
		OutputSpent{moment(109), outpoint(), htlc.SpendSuccess, ln.TxID{}, 104, 200},
		OutputSpent{moment(104), outpoint(), htlc.SpendTimeout, ln.TxID{}, 104, 200},
		OutputSpent{moment(109), outpoint(), htlc.SpendTimeout, ln.TxID{}, 104, 200},
		SpendReorged{m, outpoint()},
		NewBlock{moment(109), 500, 0, false},
		NewBlock{moment(109), 500, 0, true},
		NewBlock{moment(1006), 500, 0, true},
	}
}

func TestDiagram(t *testing.T) {
	fsmtest.CheckDiagram(t, Machine(), "STATES.md", fsmtest.Samples[State, Event]{Initial: []State{Probing{testPlan()}, Waiting{Plan: openPlan()}}, Events: testEvents})
}

// again is what the database makes of a value.
func again[T any](t require.TestingT, v T) T {
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	p := reflect.New(reflect.TypeOf(v))
	require.NoError(t, json.Unmarshal(raw, p.Interface()))
	require.Equal(t, v, p.Elem().Interface())
	return p.Elem().Interface().(T)
}

// Random events, right and wrong, in any order: the promises of the package hold.
func TestRandomDays(t *testing.T) {
	ended := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		var s State = Probing{testPlan()}
		if rapid.Bool().Draw(t, "opens a channel") {
			s = Waiting{Plan: openPlan()}
		}
		inFlight, paid, channel := false, false, false
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			v := rapid.SampledFrom(testEvents(s)).Draw(t, "event")
			if rapid.IntRange(0, 2).Draw(t, "usual") > 0 {
				v = usual(t, s)
			}
			before := s
			next, effects, err := Step(again(t, s), again(t, v))
			if errors.Is(err, fsm.ErrIllegal) {
				continue
			}
			require.NoError(t, err)
			s = next
			switch v.(type) {
			case ChannelUsable:
				channel = true
			case PaymentSucceeded:
				inFlight, paid = false, true
			case PaymentFailed, PaymentNotSent, PaymentMissing:
				inFlight = false
			}
			for _, f := range effects {
				switch f := again(t, f).(type) {
				case Pay:
					_, stored := s.(Paying)
					require.True(t, stored, "paid before it was stored")
					require.False(t, inFlight || paid, "paid twice")
					b, w := v.(NewBlock), before.(Waiting)
					require.GreaterOrEqual(t, ln.Confirmations(w.ConfirmedHeight, b.Height), uint32(2))
					require.True(t, b.FreeSat >= w.AmountSat || ln.Confirmations(w.ConfirmedHeight, b.Height) >= 6, "exposed beyond the cap")
					require.LessOrEqual(t, b.Height, w.LastPayHeight())
					if w.Open != nil {
						require.True(t, channel && f.ChanID == 77, "paid over no channel")
						require.LessOrEqual(t, f.ExpiryHeight+w.PayMarginBlocks, w.Terms.ExpiryHeight)
					}
					inFlight = true
				case OpenChannel:
					_, stored := s.(Opening)
					require.True(t, stored && !channel, "a second channel")
					b, w := v.(NewBlock), before.(Waiting)
					require.GreaterOrEqual(t, ln.Confirmations(w.ConfirmedHeight, b.Height), uint32(2), "a channel for an output that is not deep")
				case ChannelPaid:
					require.True(t, paid)
				case SignClaim:
					require.True(t, paid)
					require.Equal(t, testPlan().Terms.Hash, f.Preimage.Preimage().Hash())
				case PublishClaim:
					_, stored := s.(Claiming)
					require.True(t, stored && paid)
				}
			}
			if _, ok := s.(Failed); ok {
				require.False(t, inFlight, "given up while a payment is in flight")
				require.False(t, paid)
			}
			if Final(s) {
				break
			}
		}
		ended[s.StateName()]++
	})
	t.Log(ended)
	for _, name := range []string{"claimed", "failed", "lost"} {
		require.NotZero(t, ended[name], "no day ended %s", name)
	}
}

func usual(t *rapid.T, s State) Event {
	switch s := s.(type) {
	case Probing:
		return ProbePassed{moment(100)}
	case Waiting:
		if s.ConfirmedHeight == 0 {
			return OutputFound{moment(101), outpoint(), 500_000, 1, 101}
		}
		return NewBlock{moment(106), 500, 0, false}
	case Opening:
		if rapid.IntRange(0, 3).Draw(t, "not opened") == 0 {
			return ChannelNotOpened{moment(106), "rejected", rapid.Bool().Draw(t, "begun")}
		}
		return ChannelUsable{moment(106), 77}
	case Paying:
		if rapid.Bool().Draw(t, "cut off") {
			return PaymentCutOff{moment(106), "eof"}
		}
		return PaymentSucceeded{moment(106), swaps.NewSecret(ln.Preimage{1}), 5}
	case Paid:
		return ClaimSigned{moment(107), Claim{Raw: []byte("claim"), TxID: ln.TxID{8}, ClaimFeeSat: 200, Rate: 500}}
	case Claiming:
		return OutputSpent{moment(120), outpoint(), rapid.SampledFrom([]htlc.Spend{htlc.SpendKey, htlc.SpendTimeout}).Draw(t, "by"), ln.TxID{}, 110, 200}
	}
	return NewBlock{moment(101), 500, 0, false}
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

func waiting(t *testing.T) State {
	t.Helper()
	s, effects := walk(t, Probing{testPlan()}, Start{moment(100)}, ProbePassed{moment(100)})
	require.Equal(t, "watch_output", effects[0].EffectName())
	s, _ = walk(t, s, OutputFound{moment(101), outpoint(), 500_000, 1, 101})
	return s
}

// When it is paid, to the block and to the sat.
func TestConfirmations(t *testing.T) {
	for _, c := range []struct {
		block NewBlock
		pays  bool
	}{
		{NewBlock{moment(101), 500, 1_000_000, false}, false}, // one confirmation of two
		{NewBlock{moment(102), 500, 500_000, false}, true},
		{NewBlock{moment(102), 500, 499_999, false}, false}, // the cap
		{NewBlock{moment(105), 500, 0, false}, false},
		{NewBlock{moment(106), 500, 0, false}, true}, // deep: no cap
		{NewBlock{moment(860), 500, 0, false}, true},
	} {
		s, _ := walk(t, waiting(t), c.block)
		_, paying := s.(Paying)
		require.Equal(t, c.pays, paying, "%+v", c.block)
	}
	s, _ := walk(t, waiting(t), NewBlock{moment(861), 500, 1_000_000, false})
	require.Equal(t, "failed", s.StateName(), "a payment now could outlive the swap")
	// A reorg before it was paid: back to waiting for it.
	s, _ = walk(t, waiting(t), OutputReorged{moment(101), outpoint(), false}, NewBlock{moment(120), 500, 1_000_000, false})
	require.Zero(t, s.(Waiting).ConfirmedHeight)
}

// A payment that lnd lost is looked for once none of it can live any more, and not
// a block earlier.
func TestAPaymentThatIsLost(t *testing.T) {
	s, _ := walk(t, waiting(t), NewBlock{moment(106), 500, 0, false})
	_, effects := walk(t, s, NewBlock{moment(919), 500, 0, false})
	require.Empty(t, effects)
	s, effects = walk(t, s, NewBlock{moment(920), 500, 0, false})
	require.Equal(t, LookForPayment{Hash: s.(Paying).Terms.Hash}, effects[0])
	s, _ = walk(t, s, PaymentMissing{moment(920)})
	require.Equal(t, swaps.ReasonPayment, ReasonOf(s).Code)
}

func TestOutputsThatAreNotPaidFor(t *testing.T) {
	s, _ := walk(t, Probing{testPlan()}, ProbePassed{moment(100)})
	for _, v := range []OutputFound{
		{moment(101), outpoint(), 499_999, 1, 101}, {moment(101), outpoint(), 500_001, 1, 101}, {moment(101), outpoint(), 500_000, 2, 101},
	} {
		end, effects := walk(t, s, v)
		require.Equal(t, "failed", end.StateName())
		require.Empty(t, effects)
		require.NotEmpty(t, ReasonOf(end).Text)
	}
}

// A claim that lags pays more, and never more than half.
func TestClaimsRise(t *testing.T) {
	s, _ := walk(t, waiting(t), NewBlock{moment(106), 500, 0, false}, PaymentSucceeded{moment(106), swaps.NewSecret(ln.Preimage{1}), 5})
	s, effects := walk(t, s, KeyPushed{moment(106), swaps.NewSecret(ln.Preimage{3})}, NewBlock{moment(106), 500, 0, false})
	require.False(t, effects[0].(SignClaim).ClientKey.IsZero())
	s, effects = walk(t, s, ClaimSigned{moment(106), Claim{Raw: []byte("one"), TxID: ln.TxID{1}, ClaimFeeSat: 70, Rate: 1_500}})
	require.Equal(t, []byte("one"), effects[0].(PublishClaim).Raw)
	_, effects = walk(t, s, NewBlock{moment(108), 500, 0, false})
	require.Len(t, effects, 1)
	_, effects = walk(t, s, NewBlock{moment(109), 500, 0, false})
	require.Equal(t, ln.FeeRateSatPerKW(1_876), effects[1].(SignClaim).Rate)
	_, effects = walk(t, s, NewBlock{moment(109), 1_000_000, 0, false})
	fee, err := effects[1].(SignClaim).Rate.Fee(htlc.ClaimWU)
	require.NoError(t, err)
	require.LessOrEqual(t, fee, ln.Sat(250_000))
	require.Greater(t, fee, ln.Sat(249_000), "all that is allowed")
	// An earlier claim confirms: what it cost counts.
	later, _ := walk(t, s, ClaimSigned{moment(109), Claim{Raw: []byte("two"), TxID: ln.TxID{2}, ClaimFeeSat: 90, Rate: 2_000}},
		OutputSpent{moment(109), outpoint(), htlc.SpendKey, ln.TxID{1}, 109, 0})
	require.Equal(t, ln.Sat(70), later.(Claiming).SpentFeeSat)
	require.Equal(t, ln.Sat(500_000), Exposed(s, 105))
	require.Zero(t, Exposed(s, 106), "six confirmations are deep")
}

// A claim waits for company, if there may be any, and not beyond its time.
func TestClaimsWaitForCompany(t *testing.T) {
	s := waiting(t).(Waiting)
	s.WaitBlocks = 6
	paid, effects := walk(t, s, NewBlock{moment(102), 500, 1_000_000, false}, PaymentSucceeded{moment(102), swaps.NewSecret(ln.Preimage{1}), 5})
	require.Empty(t, effects)
	_, effects = walk(t, paid, NewBlock{moment(103), 500, 0, false})
	require.Empty(t, effects, "the client's key may come")
	keyed, effects := walk(t, paid, KeyPushed{moment(102), swaps.NewSecret(ln.Preimage{3})})
	require.Equal(t, []Effect{AskTip{}}, effects)
	late, effects := walk(t, paid, Tick{swaps.Moment{At: testStart().Add(time.Hour), Height: 102}})
	require.Equal(t, []Effect{AskTip{}}, effects)
	due, _, timed := deadline(late)
	require.False(t, timed, "due %s: it would tick for ever", due)
	for _, s := range []State{keyed, late} {
		_, effects = walk(t, s, NewBlock{moment(102), 500, 0, false})
		require.Equal(t, "sign_claim", effects[0].EffectName(), "alone")
		_, effects = walk(t, s, NewBlock{moment(107), 500, 0, true})
		require.Empty(t, effects)
		_, effects = walk(t, s, NewBlock{moment(108), 500, 0, true})
		require.Equal(t, "sign_claim", effects[0].EffectName())
	}
}

// A deposit that was paid for and never comes back after a reorg ends as a loss, once
// the client could take it anyway.
func TestADepositThatNeverComesBack(t *testing.T) {
	s, _ := walk(t, waiting(t), NewBlock{moment(106), 500, 0, false}, PaymentSucceeded{moment(106), swaps.NewSecret(ln.Preimage{1}), 5})
	claiming, _ := walk(t, s, ClaimSigned{moment(106), Claim{Raw: []byte("one"), TxID: ln.TxID{1}, Rate: 500}})
	for _, s := range []State{s, claiming} {
		s, effects := walk(t, s, OutputReorged{moment(107), outpoint(), false})
		require.Equal(t, "alarm", effects[0].EffectName())
		require.Equal(t, "watch_output", effects[1].EffectName())
		again, _ := walk(t, s, OutputFound{moment(110), outpoint(), 500_000, 1, 109}, NewBlock{moment(1006), 500, 0, false})
		require.NotEqual(t, "lost", again.StateName())
		s, _ = walk(t, s, NewBlock{moment(1005), 500, 0, false})
		require.NotEqual(t, "lost", s.StateName())
		s, effects = walk(t, s, NewBlock{moment(1006), 500, 0, false})
		require.Equal(t, swaps.ReasonLost, ReasonOf(s).Code)
		require.Equal(t, "alarm", effects[0].EffectName())
	}
}

// A reorg takes a deposit that was paid for, and another transaction of the client's
// pays the swap instead: that is claimed, once the first one stays away.
func TestADepositThatIsReplaced(t *testing.T) {
	paying, _ := walk(t, waiting(t), NewBlock{moment(102), 500, 1_000_000, false})
	paid, _ := walk(t, paying, PaymentSucceeded{moment(102), swaps.NewSecret(ln.Preimage{1}), 5}, KeyPushed{moment(102), swaps.NewSecret(ln.Preimage{3})})
	claiming, _ := walk(t, paid, ClaimSigned{moment(102), Claim{Raw: []byte("one"), TxID: ln.TxID{1}, Rate: 500}})
	gone, here := OutputReorged{moment(102), outpoint(), false}, OutputFound{moment(103), other(), 500_000, 1, 103}
	for _, s := range []State{paying, paid, claiming} {
		s, effects := walk(t, s, gone)
		require.Equal(t, []string{"alarm", "watch_output"}, names(effects))
		require.NotEmpty(t, ReasonOf(s).Text)
		require.EqualValues(t, 500_000, Exposed(s, 120))
		s, _ = walk(t, s, here, NewBlock{moment(107), 500, 0, false})
		require.Equal(t, outpoint(), OutputOf(s).Outpoint, "it may come back yet")
		back, _ := walk(t, s, OutputFound{moment(107), outpoint(), 500_000, 1, 107}, NewBlock{moment(130), 500, 0, false})
		require.Equal(t, outpoint(), OutputOf(back).Outpoint, "the client has paid twice: the second is its own")
		undone, _ := walk(t, s, OutputReorged{moment(107), other(), false}, NewBlock{moment(130), 500, 0, false})
		require.Equal(t, outpoint(), OutputOf(undone).Outpoint, "the other one is away as well")
		// So it may be after a restart.
		require.Equal(t, []Event{OutputReorged{moment(107), other(), true}}, ForgetChain(s, moment(107)))
		unsure, _ := walk(t, s, OutputReorged{moment(107), other(), true}, NewBlock{moment(130), 500, 0, false})
		require.Equal(t, outpoint(), OutputOf(unsure).Outpoint)
		s, effects = walk(t, s, NewBlock{moment(108), 500, 0, false})
		require.Equal(t, other(), OutputOf(s).Outpoint)
		require.Contains(t, effects, Effect(WatchOutput{Terms: testPlan().Terms, SinceHeight: 100, Outpoint: other()}))
		require.Empty(t, ReasonOf(s).Text)
		// A deposit of another amount takes nobody's place.
		wrong, _ := walk(t, paid, gone, OutputFound{moment(103), other(), 499_999, 1, 103}, NewBlock{moment(130), 500, 0, false})
		require.Equal(t, outpoint(), OutputOf(wrong).Outpoint)
	}
	s, effects := walk(t, claiming, gone, here, NewBlock{moment(108), 500, 0, false})
	require.Equal(t, []string{"watch_output", "ask_tip"}, names(effects))
	s, effects = walk(t, s, NewBlock{moment(108), 500, 0, false})
	require.Equal(t, other(), effects[0].(SignClaim).Outpoint)
	s, _ = walk(t, s, SpendReorged{moment(108), outpoint()}, OutputSpent{moment(108), outpoint(), htlc.SpendTimeout, ln.TxID{}, 104, 200})
	require.Equal(t, "paid", s.StateName(), "what is told of the one before says nothing")
	s, effects = walk(t, s, ClaimSigned{moment(108), Claim{Raw: []byte("two"), TxID: ln.TxID{2}, Rate: 500}})
	require.Equal(t, other(), effects[1].(WatchSpend).Outpoint)
	s, effects = walk(t, s, OutputSpent{moment(115), other(), htlc.SpendKey, ln.TxID{2}, 109, 200})
	require.Equal(t, "claimed", s.StateName())
	require.Equal(t, []Effect{ForgetTxs{TxIDs: []ln.TxID{{1}}}}, effects, "the claim that can never confirm")
}

func names(effects []Effect) (out []string) {
	for _, f := range effects {
		out = append(out, f.EffectName())
	}
	return out
}

// After a restart nobody is sure of a deposit until the chain has told it again; what
// others sent to the address meanwhile changes nothing.
func TestADepositAfterARestart(t *testing.T) {
	unsure := OutputReorged{moment(245), outpoint(), true}
	open, _ := walk(t, Waiting{Plan: openPlan()}, OutputFound{moment(244), outpoint(), 500_000, 1, 244})
	for _, s := range []State{waiting(t), open} {
		require.Equal(t, []Event{OutputReorged{moment(245), outpoint(), true}}, ForgetChain(s, moment(245)))
		s, effects := walk(t, s, unsure)
		require.Equal(t, []Effect{WatchOutput{Terms: testPlan().Terms, SinceHeight: 100, Outpoint: outpoint()}}, effects)
		s, _ = walk(t, s, OutputFound{moment(245), other(), 1_000, 1, 200}, NewBlock{moment(245), 500, 1_000_000, false})
		require.Equal(t, "waiting", s.StateName())
		s, effects = walk(t, s, OutputFound{moment(245), outpoint(), 500_000, 1, 244}, NewBlock{moment(245), 500, 1_000_000, false})
		require.NotEqual(t, "failed", s.StateName())
		require.NotEmpty(t, effects, "it goes on")
	}
	// One that was paid for is not given up because a restart came late.
	paid, _ := walk(t, waiting(t), NewBlock{moment(106), 500, 0, false}, PaymentSucceeded{moment(106), swaps.NewSecret(ln.Preimage{1}), 5})
	claiming, _ := walk(t, paid, ClaimSigned{moment(106), Claim{Raw: []byte("one"), TxID: ln.TxID{1}, Rate: 500}})
	for _, s := range []State{paid, claiming} {
		s, effects := walk(t, s, OutputReorged{moment(1050), outpoint(), true}, NewBlock{moment(1055), 500, 0, false})
		require.NotContains(t, names(effects), "alarm")
		require.False(t, Final(s), "the chain has six blocks to tell of it")
		s, _ = walk(t, s, NewBlock{moment(1056), 500, 0, false})
		require.Equal(t, "lost", s.StateName())
	}
	_, effects := walk(t, claiming, OutputReorged{moment(1050), outpoint(), false}, NewBlock{moment(1056), 500, 0, false})
	require.Contains(t, effects, Effect(ForgetTxs{TxIDs: []ln.TxID{{1}}}), "lnd would count the claim for ever")
}

// A client's wallet that holds the probe keeps a place until it gives it back.
func TestAProbeThatIsHeld(t *testing.T) {
	late := Tick{swaps.Moment{At: testStart().Add(time.Hour), Height: 101}}
	s, effects := walk(t, Probing{testPlan()}, late)
	require.Equal(t, "probe_held", s.StateName())
	require.Empty(t, effects)
	require.Zero(t, Promised(s), "the channel has it already")
	for _, v := range []Event{ProbePassed{moment(300)}, ProbeFailed{moment(300), "expired"}} {
		over, _ := walk(t, s, v)
		require.Equal(t, swaps.ReasonProbe, ReasonOf(over).Code, "the client was told that nothing is begun")
	}
}

// Who does not deposit keeps room from nobody for long, and is paid if it comes late.
func TestLapsed(t *testing.T) {
	p := testPlan()
	p.ReserveBlocks = 36
	s := State(Waiting{Plan: p})
	require.False(t, Lapsed(s, 136))
	require.True(t, Lapsed(s, 137))
	s, _ = walk(t, s, OutputFound{moment(140), outpoint(), 500_000, 1, 140})
	require.False(t, Lapsed(s, 140))
	_, effects := walk(t, s, NewBlock{moment(141), 500, 1_000_000, false})
	require.Equal(t, "pay", effects[0].EffectName())
	require.False(t, Lapsed(Waiting{Plan: openPlan()}, 500), "these end by themselves")
}

// A client without a channel: the deposit's confirmations first, then the
// channel, then the payment over it; the fee of the channel is not paid out.
func TestOpensAChannel(t *testing.T) {
	s, effects := walk(t, Waiting{Plan: openPlan()}, Start{moment(100)})
	require.Equal(t, "watch_output", effects[0].EffectName())
	require.EqualValues(t, 600_000, Coins(s))
	require.Zero(t, Promised(s))
	s, effects = walk(t, s, OutputFound{moment(101), outpoint(), 500_000, 1, 101}, NewBlock{moment(101), 500, 0, false})
	require.Empty(t, effects, "one confirmation of two")
	s, effects = walk(t, s, NewBlock{moment(102), 500, 0, false})
	require.Equal(t, "o-s1", effects[0].(OpenChannel).OpeningID)
	require.Zero(t, Exposed(s, 102), "nothing is paid yet")
	// The wallet is away: tried again, under the same name.
	s, _ = walk(t, s, ChannelNotOpened{moment(102), "away", false})
	s, effects = walk(t, s, NewBlock{moment(103), 500, 0, false})
	require.Equal(t, "o-s1", effects[0].(OpenChannel).OpeningID)
	// It said no: another open, and then none.
	s, _ = walk(t, s, ChannelNotOpened{moment(103), "no", true})
	again, effects := walk(t, s, NewBlock{moment(104), 500, 0, false})
	require.Equal(t, "o-s2", effects[0].(OpenChannel).OpeningID)
	over, _ := walk(t, again, ChannelNotOpened{moment(104), "no", true})
	require.Equal(t, swaps.ReasonNoChannel, ReasonOf(over).Code)

	s, effects = walk(t, again, ChannelUsable{moment(105), 77})
	require.Equal(t, "ask_tip", effects[0].EffectName())
	require.Zero(t, Coins(s))
	_, effects = walk(t, s, NewBlock{moment(105), 500, 499_999, false})
	require.Empty(t, effects, "the exposure cap holds here as well")
	s, effects = walk(t, s, NewBlock{moment(105), 500, 500_000, false})
	pay := effects[0].(Pay)
	require.EqualValues(t, 77, pay.ChanID)
	require.EqualValues(t, 105+30+padBlocks, pay.ExpiryHeight)
	refused, _ := walk(t, s, PaymentFailed{moment(105), "incorrect", true})
	require.Equal(t, swaps.ReasonPayment, ReasonOf(refused).Code, "a wallet that does not take it is not asked again")
	_, effects = walk(t, s, PaymentSucceeded{moment(105), swaps.NewSecret(ln.Preimage{1}), 0})
	require.Equal(t, "o", effects[0].(ChannelPaid).PaymentID)

	// A reorg takes the deposit while the channel opens: nothing is paid until it is back.
	s, _ = walk(t, again, OutputReorged{moment(105), outpoint(), false}, ChannelUsable{moment(106), 77})
	_, effects = walk(t, s, NewBlock{moment(106), 500, 500_000, false})
	require.Empty(t, effects)
	// Who never deposits keeps no place, and what comes too late opens nothing.
	late, _ := walk(t, Waiting{Plan: openPlan()}, NewBlock{moment(245), 500, 0, false})
	require.Equal(t, swaps.ReasonNoDeposit, ReasonOf(late).Code)
	tooLate, effects := walk(t, again, NewBlock{moment(861), 500, 0, false})
	require.Equal(t, swaps.ReasonLate, ReasonOf(tooLate).Code)
	require.Equal(t, "o-s2", effects[0].(AbandonChannel).OpeningID)
}
