package hold

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
)

var testStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const testHeight = 800_000

func testPart(n uint64) Part {
	return Part{Key: ln.CircuitKey{ChanID: 7, HtlcID: n}, AmountMsat: 1000 * ln.Msat(n), FailHeight: testHeight + 4}
}

func fresh() Fresh {
	return Fresh{Payment{ID: "p", Client: ln.PubKey{2, 1}, Hash: ln.Hash{9}, Since: testStart, Until: testStart.Add(time.Hour)}}
}

func testEvents(s State) []Event {
	m := Moment{At: testStart, Height: testHeight}
	late := Moment{At: testStart.Add(time.Hour), Height: testHeight + 4}
	soon := Moment{At: testStart.Add(20 * time.Minute), Height: testHeight}
	var out []Event
	for n := uint64(1); n <= 2; n++ {
		k := testPart(n).Key
		out = append(out, Offered{Moment: m, Part: testPart(n)}, Offered{Moment: m, Part: testPart(n), Refusal: "full"},
			Offered{Moment: late, Part: testPart(n)}, Decided{m, k, true}, Decided{m, k, false}, Gone{m, k})
	}
	out = append(out, NewBlock{m}, NewBlock{late}, Tick{m}, Tick{late}, WalletActive{m}, SentBack{m, "no room"})
	if Of(s).WokeHow == "" {
		out = append(out, Woken{m, "told"})
	}
	if Of(s).Wakes < 2 {
		// Each wakes the wallet once more: there is no end to such states.
		out = append(out, WalletGone{m}, Tick{soon})
	}
	return out
}

func TestDiagram(t *testing.T) {
	fsmtest.CheckDiagram(t, Machine(), "STATES.md", fsmtest.Samples[State, Event]{
		Initial: []State{fresh()}, Events: testEvents,
	})
}

// again is what the database makes of a value.
func again[T any](t require.TestingT, v T) T {
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	p := reflect.New(reflect.TypeOf(v))
	require.NoError(t, json.Unmarshal(raw, p.Interface()))
	return p.Elem().Interface().(T)
}

// TestPartsEndAlike plays an honest interceptor in any order of events: what it is
// asked to do to a part it does, unless its own deadline or lnd came first. No part is
// asked to be failed after one was resumed by us, and the other way round; every part
// is asked about or over in the end.
func TestPartsEndAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s State = fresh()
		asked := map[ln.CircuitKey]string{}
		offered := map[ln.CircuitKey]bool{}
		over := map[ln.CircuitKey]bool{}
		away := 0
		m := Moment{At: testStart, Height: testHeight}
		step := func(v Event) {
			next, effects, err := Step(s, v)
			if errors.Is(err, fsm.ErrIllegal) {
				return
			}
			require.NoError(t, err)
			s = again(t, next)
			for _, f := range effects {
				switch f := again(t, f).(type) {
				case Resume:
					for _, k := range f.Keys {
						require.NotEqual(t, "fail", asked[k], "resumed after it was failed")
						require.False(t, over[k])
					}
					// The wallet may have gone again when it is carried out.
					if f.Force || rapid.Bool().Draw(t, "still there") {
						for _, k := range f.Keys {
							asked[k] = "resume"
						}
					} else {
						away++
					}
				case Fail:
					for _, k := range f.Keys {
						require.NotEqual(t, "resume", asked[k], "failed after it was resumed")
						require.False(t, over[k])
						asked[k] = "fail"
					}
				case Wake:
					require.NotZero(t, f.AmountMsat)
				}
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			if Final(s) {
				break
			}
			m.At = m.At.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "seconds")) * time.Second)
			if rapid.IntRange(0, 5).Draw(t, "block") == 0 {
				m.Height++
			}
			switch rapid.IntRange(0, 8).Draw(t, "what") {
			case 7:
				step(Woken{m, "told"})
			case 8:
				step(SentBack{m, "no room"})
			case 0:
				part := testPart(rapid.Uint64Range(1, 4).Draw(t, "part"))
				if over[part.Key] || asked[part.Key] != "" {
					continue
				}
				offered[part.Key] = true
				step(Offered{Moment: m, Part: part})
			case 1:
				step(WalletActive{m})
			case 2:
				if away > 0 {
					away--
					step(WalletGone{m})
				}
			case 3:
				step(NewBlock{m})
			case 4:
				step(Tick{m})
			default:
				for k, what := range asked {
					if !over[k] {
						over[k] = true
						step(Decided{m, k, what == "resume"})
						break
					}
				}
			}
		}
		// Nothing is forgotten.
		p := Of(s)
		for k := range offered {
			require.True(t, p.has(k) || over[k], "%s is forgotten", k)
		}
		if r, ok := s.(Resuming); ok {
			for _, k := range p.keys() {
				require.True(t, over[k] || slices.Contains(r.Open, k))
			}
		}
		if Final(s) {
			first := ""
			for _, k := range p.keys() {
				require.True(t, over[k], "%s ended with %s undecided", s.StateName(), k)
				require.True(t, first == "" || first == asked[k], "parts ended apart")
				first = asked[k]
			}
		}
	})
}

func TestDeadlines(t *testing.T) {
	s, effects, err := Step(fresh(), Offered{Moment: Moment{At: testStart, Height: testHeight}, Part: testPart(1)})
	require.NoError(t, err)
	require.Len(t, effects, 1)
	require.False(t, Due(s, testHeight+3))
	require.True(t, Due(s, testHeight+4))
	require.False(t, Due(s, 0), "no tip is known")
	due, _, ok := deadline(s)
	require.True(t, ok)
	require.Equal(t, testStart.Add(wakeFirst), due)
	// However often it is woken, it goes back in time.
	for range 100 {
		at, v, _ := deadline(s)
		require.False(t, at.After(testStart.Add(time.Hour)))
		if s, _, err = Step(s, v); s.StateName() != "held" {
			require.NoError(t, err)
			require.Equal(t, testStart.Add(time.Hour), at)
			return
		}
	}
	require.Fail(t, "it is held for ever")
}
