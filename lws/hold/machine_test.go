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
	for n := uint64(1); n <= 2; n++ {
		out = append(out, Stranded{m, testPart(n).Key})
	}
	first, all := []ln.CircuitKey{testPart(1).Key}, Of(s).keys()
	for _, asked := range [][]ln.CircuitKey{first, all} {
		out = append(out, NotYet{m, asked})
		if len(all) > 0 {
			out = append(out, Unresumable{m, asked, all[0]})
		}
	}
	if Of(s).WokeHow == "" {
		out = append(out, Woken{m, "told"})
	}
	if Of(s).Wakes < 2 {
		// Each wakes the wallet once more: there is no end to such states.
		out = append(out, WalletGone{m, first}, WalletGone{m, all}, Tick{soon})
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

// TestPartsEndAlike plays an honest interceptor in any order of events: what it is asked to
// do to parts it does to all of them or to none, unless its own deadline, lnd or the chain
// came first. Effects run one after the other, each once the answer of the last is stored.
// No part is asked to be failed after one was resumed by us, and the other way round; every
// part is asked about or over in the end, and none waits for an effect that never comes.
func TestPartsEndAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &partsWorld{t: t, s: fresh(), asked: map[ln.CircuitKey]string{}, done: map[ln.CircuitKey]string{}, m: Moment{At: testStart, Height: testHeight}}
		offered := map[ln.CircuitKey]bool{}
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			if Final(w.s) {
				break
			}
			w.m.At = w.m.At.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "seconds")) * time.Second)
			if rapid.IntRange(0, 5).Draw(t, "block") == 0 {
				w.m.Height++
			}
			part := testPart(rapid.Uint64Range(1, 4).Draw(t, "part"))
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				if w.done[part.Key] == "" && w.asked[part.Key] == "" {
					offered[part.Key] = true
					w.step(Offered{Moment: w.m, Part: part})
				}
			case 1:
				w.step(WalletActive{w.m})
			case 2:
				w.step(NewBlock{w.m})
			case 3:
				w.step(Tick{w.m})
			case 4:
				w.step(Woken{w.m, "told"})
			case 5:
				if rapid.IntRange(0, 3).Draw(t, "sent back") == 0 {
					w.step(SentBack{w.m, "no room"})
				}
			case 6:
				// Its channel goes on chain, and later its payer takes it.
				if offered[part.Key] && w.done[part.Key] == "" {
					w.lost(part.Key, "chain")
					w.step(Stranded{w.m, part.Key})
				}
			case 7:
				// The interceptor's own deadline, or lnd's.
				if offered[part.Key] && w.done[part.Key] == "" {
					w.lost(part.Key, "own")
					if rapid.Bool().Draw(t, "by lnd") {
						w.step(Gone{w.m, part.Key})
					} else {
						w.step(Decided{w.m, part.Key, false})
					}
				}
			default:
				w.effect()
			}
		}
		for len(w.queue) > 0 {
			w.effect()
		}
		p := Of(w.s)
		for k := range offered {
			require.True(t, p.has(k), "%s is forgotten", k)
		}
		for k, how := range w.done {
			if how == "chain" {
				w.step(Gone{w.m, k})
			}
		}
		for len(w.queue) > 0 {
			w.effect()
		}
		switch s := w.s.(type) {
		case Resuming, Failing:
			require.Failf(t, "nothing ends it", "%#v", s)
		case Resumed, Failed:
			want := map[string]string{"resumed": "resume", "failed": "fail"}[s.StateName()]
			for _, k := range p.keys() {
				require.Contains(t, []string{want, "chain", "own"}, w.done[k], "parts ended apart")
			}
			require.False(t, w.doomed && want == "resume", "it was resumed although a part was lost before")
		}
	})
}

// partsWorld is an interceptor, and who asks it.
type partsWorld struct {
	t     *rapid.T
	s     State
	m     Moment
	queue []Effect
	// asked is what we had done to a part, done what became of it.
	asked, done map[ln.CircuitKey]string
	// doomed: a part was lost before anything was resumed, or was about to be without it.
	doomed bool
}

// lost takes a part away.
func (w *partsWorld) lost(key ln.CircuitKey, how string) {
	w.done[key] = how
	for _, what := range w.done {
		if what == "resume" {
			return
		}
	}
	for _, f := range w.queue {
		if r, ok := f.(Resume); ok && !slices.Contains(r.Keys, key) {
			return
		}
	}
	w.doomed = true
}

func (w *partsWorld) step(v Event) {
	next, effects, err := Step(w.s, v)
	if errors.Is(err, fsm.ErrIllegal) {
		return
	}
	require.NoError(w.t, err)
	w.s = again(w.t, next)
	for _, f := range effects {
		if _, woken := f.(Wake); !woken {
			w.queue = append(w.queue, again(w.t, f))
		}
	}
}

// effect carries out the next one, as the engine does.
func (w *partsWorld) effect() {
	if len(w.queue) == 0 {
		return
	}
	f := w.queue[0]
	w.queue = w.queue[1:]
	switch f := f.(type) {
	case Resume:
		if !f.Force {
			switch rapid.IntRange(0, 4).Draw(w.t, "who is there") {
			case 0:
				w.step(WalletGone{w.m, f.Keys})
				return
			case 1:
				w.step(NotYet{w.m, f.Keys})
				return
			}
			for _, k := range f.Keys {
				if w.done[k] != "" && w.done[k] != "resume" {
					w.step(Unresumable{w.m, f.Keys, k})
					return
				}
			}
		}
		w.decide(f.Keys, "resume", "fail")
	case Fail:
		w.decide(f.Keys, "fail", "resume")
	}
}

func (w *partsWorld) decide(keys []ln.CircuitKey, as, never string) {
	for _, k := range keys {
		require.NotEqual(w.t, never, w.asked[k], "a part is asked for both")
		w.asked[k] = as
	}
	for k, how := range w.asked {
		require.NotEqual(w.t, never, how, "%s is asked for the other: they end apart", k)
	}
	for _, k := range keys {
		if w.done[k] == "" {
			w.done[k] = as
			w.step(Decided{w.m, k, as == "resume"})
		}
	}
}

// TestPartsDoNotCountAsWakes: however many parts a payment comes in, its wallet is woken
// again as soon as for one.
func TestPartsDoNotCountAsWakes(t *testing.T) {
	var s State = fresh()
	for n := range uint64(20) {
		next, effects, err := Step(s, Offered{Moment: Moment{At: testStart, Height: testHeight}, Part: testPart(n + 1)})
		require.NoError(t, err)
		require.Len(t, effects, 1)
		require.Equal(t, Of(next).AmountMsat(), effects[0].(Wake).AmountMsat, "it hears of every part")
		s = next
	}
	at := testStart
	for _, seconds := range []int{15, 30, 60, 120, 240, 300, 300} {
		due, v, _ := deadline(s)
		at = at.Add(time.Duration(seconds) * time.Second)
		require.Equal(t, at, due)
		next, effects, err := Step(s, v)
		require.NoError(t, err)
		require.Len(t, effects, 1)
		s = next
	}
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
