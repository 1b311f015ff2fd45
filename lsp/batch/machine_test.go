package batch

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/fsm/fsmtest"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

var (
	testStart  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	testChange = append([]byte{0x51, 32}, make([]byte, 32)...)
	testNo     = lsp.Because(lsp.ReasonWalletRejected, "no")
)

func testPlan(members int) Plan {
	p := Plan{ID: "batch-1", FeeRate: 1000, GatherUntil: testStart.Add(time.Minute), AnswerFor: time.Minute}
	for i := range members {
		p.Members = append(p.Members, Member{
			OpeningID: fmt.Sprintf("open-%d", i), OrderID: fmt.Sprintf("order-%d", i), Client: ln.PubKey{2, byte(i)}, CapacitySat: ln.Sat(100_000 * (i + 1)), //nolint:gosec // small
		})
	}
	return p
}

func testScript(openingID string) []byte {
	script := append([]byte{0, 32}, make([]byte, 32)...)
	script[33] = openingID[len(openingID)-1]
	return script
}

func moment(after time.Duration) lsp.Moment {
	return lsp.Moment{At: testStart.Add(after), Height: 100}
}

// leased is the answer to a lease of coins for the channels that a state has.
func leased(s State) CoinsLeased {
	v := CoinsLeased{Moment: moment(0), ChangeScript: testChange}
	sel := funding.Selection{FeeSat: 1_001, FeeRate: 1000, ChangeSat: 50_000, WeightWU: 1000}
	if s, ok := s.(Leasing); ok {
		for _, o := range s.Outputs {
			sel.FundingSat += o.CapacitySat
		}
	}
	sel.Inputs = []ln.Coin{{Outpoint: ln.Outpoint{TxID: ln.TxID{1}}, AmountSat: sel.InputSat(), PkScript: testChange}}
	v.Selection = sel
	return v
}

func testEvents(s State) []Event {
	m := moment(0)
	events := []Event{
		Start{m},
		CoinsRefused{m, lsp.Because(lsp.ReasonCoinsShort, "short")},
		Committed{m},
		CommitRefused{m, testNo, true},
		CommitRefused{m, testNo, false},
		Tick{m},
		Tick{moment(time.Minute)},
	}
	for _, c := range append(PlanOf(s).Members, Member{OpeningID: "open-9"}) {
		op := ln.Outpoint{}
		_, channels, _ := TxOf(s)
		for _, x := range channels {
			if x.OpeningID == c.OpeningID {
				op = x.Outpoint
			}
		}
		events = append(events, OutputNamed{m, c.OpeningID, testScript(c.OpeningID)}, MemberLeft{m, c.OpeningID, testNo}, MemberPending{m, c.OpeningID, op})
	}
	if _, ok := s.(Leasing); ok {
		events = append(events, leased(s))
	}
	return events
}

func TestDiagram(t *testing.T) {
	fsmtest.CheckDiagram(t, Machine(), "STATES.md", fsmtest.Samples[State, Event]{
		Initial: []State{Gathering{Plan: testPlan(1)}, Gathering{Plan: testPlan(3)}}, Events: testEvents,
	})
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

func output(id string) Event { return OutputNamed{moment(0), id, testScript(id)} }

func TestTheWholeWay(t *testing.T) {
	m := moment(0)
	s, effects := walk(t, Gathering{Plan: testPlan(3)}, Start{m}, output("open-2"), output("open-0"))
	require.Empty(t, effects)
	require.True(t, Wants(s, "open-1"))
	require.False(t, Wants(s, "open-0"))
	s, effects = walk(t, s, output("open-1"))
	require.Equal(t, []Effect{LeaseCoins{
		BatchID: "batch-1", LeaseID: opening.BatchLeaseID("batch-1"), FundingSat: 600_000, Channels: 3, FeeRate: 1000,
	}}, effects)
	s, effects = walk(t, s, leased(s))
	var fees ln.Sat
	for _, id := range []string{"open-0", "open-1", "open-2"} {
		require.Len(t, effects, 1, "one peer after the other")
		hand := effects[0].(Hand)
		require.Equal(t, id, hand.OpeningID)
		fees += hand.Coins.Share.FeeSat
		require.EqualValues(t, 1, hand.Coins.Share.First.Index, "the books clear all of it in one place; the change comes first")
		s, effects = walk(t, s, MemberPending{m, id, hand.Unsigned.Outpoint})
	}
	require.EqualValues(t, 1_001, fees, "the parts make the whole")
	commit := effects[0].(Commit)
	require.Len(t, commit.Channels, 3)
	s, effects = walk(t, s, Committed{m})
	require.Empty(t, effects)
	require.True(t, Final(s))
}

// Who leaves before the transaction is built is left out of it; who does so later
// costs all of them the transaction, and nobody else a try.
func TestSomebodyLeaves(t *testing.T) {
	m := moment(0)
	s, effects := walk(t, Gathering{Plan: testPlan(3)}, Start{m}, output("open-0"), output("open-1"), MemberLeft{m, "open-0", testNo})
	require.Empty(t, effects)
	s, effects = walk(t, s, Tick{moment(time.Minute)})
	require.Equal(t, Dismiss{BatchID: "batch-1", OpeningIDs: []string{"open-2"}, Reason: tooSlow()}, effects[0])
	require.EqualValues(t, 200_000, effects[1].(LeaseCoins).FundingSat)
	one, _ := walk(t, s, leased(s))
	gone, effects := walk(t, one, MemberLeft{m, "open-1", testNo})
	require.IsType(t, Failed{}, gone)
	require.Equal(t, []Effect{ReleaseCoins{BatchID: "batch-1", LeaseID: opening.BatchLeaseID("batch-1")}}, effects)

	all, _ := walk(t, Gathering{Plan: testPlan(3)}, Start{m}, output("open-0"), output("open-1"), output("open-2"))
	all, effects = walk(t, all, leased(all))
	all, _ = walk(t, all, MemberPending{m, "open-0", effects[0].(Hand).Unsigned.Outpoint})
	spared := Dismiss{BatchID: "batch-1", OpeningIDs: []string{"open-0", "open-2"}, Reason: opening.SharedReason(), Spared: true}
	gone, effects = walk(t, all, MemberLeft{m, "open-1", testNo})
	require.Contains(t, gone.(Failed).Reason.Text, "open-1")
	require.Equal(t, spared, effects[0])
	require.Equal(t, "release_coins", effects[1].EffectName())
	_, effects = walk(t, all, Tick{moment(time.Minute)})
	require.Equal(t, []Effect{Dismiss{BatchID: "batch-1", OpeningIDs: []string{"open-1"}, Reason: tooSlow()}, spared}, effects[:2])

	none, effects := walk(t, Gathering{Plan: testPlan(1)}, Start{m}, Tick{moment(time.Minute)})
	require.IsType(t, Failed{}, none)
	require.Len(t, effects, 1)
}

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

// usual is an event that the world would likely send next.
func usual(s State) Event {
	m := moment(0)
	switch s := s.(type) {
	case Gathering:
		return output(s.waitsFor()[0].OpeningID)
	case Leasing:
		return leased(s)
	case Handing:
		c := s.Channels[s.Pending]
		return MemberPending{m, c.OpeningID, c.Outpoint}
	}
	return Committed{m}
}

// Random events in any order, every value through the database's form: it is
// committed to only when every one of its channels is pending, coins are leased once
// and end with it, and nobody is forgotten: whoever did not leave is in the signed
// transaction or was dismissed.
func TestRandomDays(t *testing.T) {
	ended := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "members")
		var s State = Gathering{Plan: testPlan(n)}
		asked, out := map[string]bool{}, map[string]bool{}
		leases, released := 0, false
		pending := map[string]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			v := rapid.SampledFrom(testEvents(s)).Draw(t, "event")
			if rapid.IntRange(0, 2).Draw(t, "forward") > 0 {
				v = usual(s)
			}
			switch is := v.(type) {
			case MemberLeft, CommitRefused, CoinsRefused, Tick:
				if rapid.IntRange(0, 9).Draw(t, "bad") > 0 {
					continue
				}
			case MemberPending:
				if !asked[is.OpeningID] {
					continue
				}
			}
			next, effects, err := Step(again(t, s), again(t, v))
			if errors.Is(err, fsm.ErrIllegal) {
				continue
			}
			require.NoError(t, err)
			s = next
			switch v := v.(type) {
			case MemberLeft:
				out[v.OpeningID] = true
			case MemberPending:
				pending[v.OpeningID] = true
			}
			for _, f := range effects {
				switch f := again(t, f).(type) {
				case LeaseCoins:
					leases++
				case Hand:
					require.False(t, out[f.OpeningID])
					asked[f.OpeningID] = true
				case Commit:
					for _, c := range f.Channels {
						require.True(t, pending[c.OpeningID] && !out[c.OpeningID])
					}
				case Dismiss:
					for _, id := range f.OpeningIDs {
						require.False(t, out[id], "dismissed, and gone already")
						out[id] = true
					}
				case ReleaseCoins:
					released = true
				}
			}
			require.LessOrEqual(t, leases, 1)
			if Final(s) {
				break
			}
		}
		switch s := s.(type) {
		case Signed:
			require.False(t, released)
			for _, m := range s.Members {
				in := slices.ContainsFunc(s.Channels, func(c Channel) bool { return c.OpeningID == m.OpeningID })
				require.NotEqual(t, in, out[m.OpeningID], m.OpeningID)
			}
		case Failed:
			require.Equal(t, leases == 1, released)
			require.NotEmpty(t, s.Reason.Text)
			for _, m := range s.Members {
				require.True(t, out[m.OpeningID], m.OpeningID)
			}
		}
		ended[s.StateName()]++
	})
	t.Log(ended)
}
