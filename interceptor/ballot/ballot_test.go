package ballot_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/ballot"
	"github.com/sluice-lsp/sluice/internal/ln"
)

var (
	preimage = ln.Preimage{7}
	offer    = ln.InterceptedHtlc{Hash: preimage.Hash(), IncomingMsat: 10_100, OutgoingMsat: 10_000}
)

func resume() ballot.Vote { return ballot.Vote{Action: interceptor.ActionResume} }
func fail() ballot.Vote   { return ballot.Vote{Action: interceptor.ActionFail} }

func settle() ballot.Vote {
	return ballot.Vote{Action: interceptor.ActionSettle, Preimage: preimage}
}

func sending(msat ln.Msat, records map[uint64][]byte) ballot.Vote {
	v := resume()
	v.Send = interceptor.Sending{Msat: msat, Records: interceptor.NewWireRecords(records)}
	return v
}

func TestMerge(t *testing.T) {
	const hold = interceptor.ActionHold
	for _, tc := range []struct {
		name  string
		votes map[string]ballot.Vote // a and b are asked
		want  interceptor.Action
		msat  ln.Msat
	}{
		{"nobody has answered", nil, hold, 0},
		{"one holds", map[string]ballot.Vote{"a": resume()}, hold, 0},
		{"fail beats hold", map[string]ballot.Vote{"a": fail()}, interceptor.ActionFail, 0},
		{"fail beats resume", map[string]ballot.Vote{"a": resume(), "b": fail()}, interceptor.ActionFail, 0},
		{"fail beats settle", map[string]ballot.Vote{"a": settle(), "b": fail()}, interceptor.ActionFail, 0},
		{"hold beats settle", map[string]ballot.Vote{"a": settle()}, hold, 0},
		{"settle beats resume", map[string]ballot.Vote{"a": resume(), "b": settle()}, interceptor.ActionSettle, 0},
		{"all resume", map[string]ballot.Vote{"a": resume(), "b": resume()}, interceptor.ActionResume, 0},
		{"the least amount", map[string]ballot.Vote{"a": sending(9_000, nil), "b": sending(8_000, nil)}, interceptor.ActionResume, 8_000},
		{"one changes the amount", map[string]ballot.Vote{"a": sending(9_000, nil), "b": resume()}, interceptor.ActionResume, 9_000},
		{"the same record twice", map[string]ballot.Vote{
			"a": sending(0, map[uint64][]byte{70_000: {1}}), "b": sending(0, map[uint64][]byte{70_000: {1}}),
		}, interceptor.ActionResume, 0},
		{"records that contradict", map[string]ballot.Vote{
			"a": sending(0, map[uint64][]byte{70_000: {1}}), "b": sending(0, map[uint64][]byte{70_000: {2}}),
		}, interceptor.ActionFail, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := ballot.New("a", "b")
			for _, name := range []string{"a", "b"} {
				if v, ok := tc.votes[name]; ok {
					require.NoError(t, b.Cast(name, v))
				}
			}
			r, ok := b.Ruling()
			require.Equal(t, tc.want != hold, ok)
			if ok {
				require.Equal(t, tc.want, r.Action)
				require.Equal(t, tc.msat, r.Send.Msat)
				require.Equal(t, tc.want == interceptor.ActionSettle, r.Preimage == preimage)
				require.Equal(t, tc.want == interceptor.ActionFail, r.Action == interceptor.ActionFail && r.Reason != "")
			}
		})
	}
}

func TestWhoMayAnswerWhat(t *testing.T) {
	require.NoError(t, resume().Check(offer, false))
	require.NoError(t, fail().Check(offer, false))
	require.ErrorIs(t, settle().Check(offer, false), ballot.ErrNoRight)
	require.NoError(t, settle().Check(offer, true))
	require.ErrorIs(t, ballot.Vote{Action: interceptor.ActionSettle}.Check(offer, true), ballot.ErrPreimage)
	require.NoError(t, sending(10_000, nil).Check(offer, false))
	require.ErrorIs(t, sending(10_001, nil).Check(offer, false), ballot.ErrRaises)
	// A payer may ask for more to go out than comes in; lnd's policy refuses that
	// unless somebody overrides the amount.
	greedy := offer
	greedy.OutgoingMsat = 20_000
	require.ErrorIs(t, sending(10_101, nil).Check(greedy, true), ballot.ErrRaises)
	require.ErrorIs(t, sending(0, map[uint64][]byte{65_535: {}}).Check(offer, false), ballot.ErrInvalid)
	require.ErrorIs(t, sending(0, map[uint64][]byte{70_000: make([]byte, 5000)}).Check(offer, false), ballot.ErrInvalid)
	for _, a := range []interceptor.Action{"", interceptor.ActionHold, interceptor.ActionRefuseUnknown} {
		require.ErrorIs(t, ballot.Vote{Action: a}.Check(offer, true), ballot.ErrInvalid)
	}
}

// However votes fall, in whatever order, twice, from strangers, over restarts: the
// ruling is that of the first vote of each, by the order of beats.
func TestMergeDoesNotDependOnOrder(t *testing.T) {
	names := []string{"a", "b", "c", "d"}
	rapid.Check(t, func(t *rapid.T) {
		asked := names[:rapid.IntRange(1, 3).Draw(t, "asked")]
		b := ballot.New(asked...)
		first := make(map[string]ballot.Vote)
		for range rapid.IntRange(0, 12).Draw(t, "answers") {
			name := rapid.SampledFrom(names).Draw(t, "program")
			v := ballot.Vote{Action: rapid.SampledFrom([]interceptor.Action{
				interceptor.ActionResume, interceptor.ActionFail, interceptor.ActionSettle,
			}).Draw(t, "action")}
			switch v.Action {
			case interceptor.ActionSettle:
				v.Preimage = preimage
			case interceptor.ActionResume:
				v = sending(ln.Msat(rapid.IntRange(0, 10_000).Draw(t, "msat")), map[uint64][]byte{
					rapid.Uint64Range(65_536, 65_538).Draw(t, "type"): {byte(rapid.IntRange(0, 1).Draw(t, "value"))},
				})
			}
			if v.Check(offer, true) != nil {
				t.Fatal("the draw is to be valid")
			}
			err := b.Cast(name, v)
			_, before := first[name]
			switch {
			case !slices.Contains(asked, name):
				if !errors.Is(err, ballot.ErrNotAsked) {
					t.Fatalf("a stranger's answer: %v", err)
				}
			case before:
				if !errors.Is(err, ballot.ErrAnswered) {
					t.Fatalf("a second answer: %v", err)
				}
			default:
				if err != nil {
					t.Fatal(err)
				}
				first[name] = v
			}
			if rapid.Bool().Draw(t, "restart") {
				text, err := b.Text()
				if err != nil {
					t.Fatal(err)
				}
				if b, err = ballot.Parse(text); err != nil {
					t.Fatal(err)
				}
			}
		}
		got, ok := b.Ruling()
		want, wantMsat := model(asked, first)
		if ok != (want != interceptor.ActionHold) || (ok && got.Action != want) {
			t.Fatalf("%v: ruled %q (%t), want %q", first, got.Action, ok, want)
		}
		if ok && got.Action == interceptor.ActionResume && got.Send.Msat != wantMsat {
			t.Fatalf("%v: sends %d, want %d", first, got.Send.Msat, wantMsat)
		}
		if ok && !got.Send.Within(offer.IncomingMsat, offer.OutgoingMsat) {
			t.Fatalf("%v: sends %d", first, got.Send.Msat)
		}
		if ok && got.Send.Records.Validate() != nil {
			t.Fatalf("%v: records that lnd refuses", first)
		}
	})
}

// model is the rule, said the other way round.
func model(asked []string, first map[string]ballot.Vote) (interceptor.Action, ln.Msat) {
	said := func(a interceptor.Action) bool {
		for _, v := range first {
			if v.Action == a {
				return true
			}
		}
		return false
	}
	switch {
	case said(interceptor.ActionFail):
		return interceptor.ActionFail, 0
	case len(first) < len(asked):
		return interceptor.ActionHold, 0
	case said(interceptor.ActionSettle):
		return interceptor.ActionSettle, 0
	}
	least, values := ln.Msat(0), make(map[uint64]byte)
	for _, v := range first {
		if v.Send.Msat > 0 && (least == 0 || v.Send.Msat < least) {
			least = v.Send.Msat
		}
		records, err := v.Send.Records.Map()
		if err != nil {
			return "", 0
		}
		for kind, value := range records {
			if old, set := values[kind]; set && old != value[0] {
				return interceptor.ActionFail, 0
			}
			values[kind] = value[0]
		}
	}
	return interceptor.ActionResume, least
}

func TestBallotsThatCannotBeRead(t *testing.T) {
	for _, text := range []string{"", "x", `{"a":{"action":"hold"}}`, `{"a":{"action":"settle"}}`, `{"a":{"action":"explode"}}`} {
		_, err := ballot.Parse(text)
		require.Error(t, err, text)
	}
	b, err := ballot.Parse(`{"a":null,"b":{"action":"resume"}}`)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, b.Waiting())
	require.True(t, b.Waits("a"))
	require.False(t, b.Waits("b"))
}

func FuzzRecords(f *testing.F) {
	f.Add([]byte(interceptor.NewWireRecords(map[uint64][]byte{65_536: {1, 2}, 70_000: nil})))
	f.Fuzz(func(t *testing.T, in []byte) {
		records, err := interceptor.WireRecords(in).Map()
		if err == nil {
			require.Equal(t, interceptor.WireRecords(in), interceptor.NewWireRecords(records), "one encoding only")
		}
	})
}
