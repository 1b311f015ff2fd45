// Package fsmtest tests state machines: that a machine's diagram in the docs is
// what its Step does, and that no effect and no money is lost when the process
// crashes at any commit.
package fsmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-lsp/sluice/internal/fsm"
)

// Samples drive the exploration of a machine.
type Samples[S fsm.State, V fsm.Event] struct {
	// Initial are the states that Create is called with.
	Initial []S

	// Events are the events to try in a state: every type of event, with the data
	// that leads to different edges.
	Events func(s S) []V

	// Max bounds the number of states (0: 20,000). Machines that count further
	// than that need samples that stop.
	Max int
}

// CheckEdges explores a machine from its initial states and fails unless Step
// admits exactly the declared edges, with exactly the declared effects, and
// nothing leads out of a terminal state but back into it.
func CheckEdges[S fsm.State, V fsm.Event, F fsm.Effect](t testing.TB, m fsm.Machine[S, V, F], samples Samples[S, V]) {
	t.Helper()
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	found, err := explore(m, samples)
	if err != nil {
		t.Fatal(err)
	}
	declared := make(map[string][]string)
	for _, e := range m.Edges {
		declared[edgeKey(e.From, e.Event, e.To)] = slices.Sorted(slices.Values(e.Effects))
	}
	for _, key := range slices.Sorted(maps.Keys(found)) {
		effects := slices.Sorted(maps.Keys(found[key]))
		want, ok := declared[key]
		switch {
		case !ok:
			t.Errorf("%s: Step admits %s %v, which is not among the edges", m.Name, key, effects)
		case !slices.Equal(want, effects):
			t.Errorf("%s: %s asks for effects %v, the edge declares %v", m.Name, key, effects, want)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(declared)) {
		if found[key] == nil {
			t.Errorf("%s: the edge %s was never seen: it is wrong, or the samples don't reach it", m.Name, key)
		}
	}
}

func edgeKey(from, event, to string) string { return from + " --" + event + "--> " + to }

func explore[S fsm.State, V fsm.Event, F fsm.Effect](m fsm.Machine[S, V, F], samples Samples[S, V]) (map[string]map[string]bool, error) {
	limit := samples.Max
	if limit == 0 {
		limit = 20_000
	}
	found := make(map[string]map[string]bool)
	seen := make(map[string]bool)
	var todo []S
	reach := func(s S) (string, error) {
		raw, err := json.Marshal(s)
		if err != nil {
			return "", fmt.Errorf("%s: state %q: %w", m.Name, s.StateName(), err)
		}
		key := s.StateName() + string(raw)
		if !seen[key] {
			seen[key] = true
			todo = append(todo, s)
		}
		return key, nil
	}
	for _, s := range samples.Initial {
		if _, err := reach(s); err != nil {
			return nil, err
		}
	}
	for len(todo) > 0 {
		if len(seen) > limit {
			return nil, fmt.Errorf("%s: more than %d states: use samples that reach fewer, or raise Max", m.Name, limit)
		}
		s := todo[0]
		todo = todo[1:]
		before, err := reach(s)
		if err != nil {
			return nil, err
		}
		var tried []string
		for _, v := range samples.Events(s) {
			next, effects, err := m.Step(s, v)
			if errors.Is(err, fsm.ErrIllegal) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("%s: state %q, event %q: %w", m.Name, s.StateName(), v.EventName(), err)
			}
			if m.Terminal(s) && next.StateName() != s.StateName() {
				return nil, fmt.Errorf("%s: %q leads out of the terminal state %q", m.Name, v.EventName(), s.StateName())
			}
			key := edgeKey(s.StateName(), v.EventName(), next.StateName())
			if found[key] == nil {
				found[key] = make(map[string]bool)
			}
			for _, effect := range effects {
				found[key][effect.EffectName()] = true
			}
			if _, err := reach(next); err != nil {
				return nil, err
			}
			tried = append(tried, v.EventName())
		}
		// Once for all events: encoding a state costs more than all else here.
		after, err := reach(s)
		if err != nil {
			return nil, err
		}
		if before != after {
			return nil, fmt.Errorf("%s: Step changed its argument %q, on one of %s", m.Name, s.StateName(), strings.Join(tried, ", "))
		}
	}
	return found, nil
}

// CheckDiagram is CheckEdges, and fails unless the Markdown file at path has the
// machine's diagram between its markers. With UPDATE_DIAGRAMS=1 in the
// environment it writes the diagram instead, appending it to a file that lacks
// the markers. Several machines may share a file.
func CheckDiagram[S fsm.State, V fsm.Event, F fsm.Effect](t testing.TB, m fsm.Machine[S, V, F], path string, samples Samples[S, V]) {
	t.Helper()
	CheckEdges(t, m, samples)
	begin, end := "<!-- fsm "+m.Name+": generated, see fsmtest.CheckDiagram -->\n", "<!-- end fsm "+m.Name+" -->\n"
	section := begin + "```mermaid\n" + m.Diagram() + "```\n" + end
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	text := string(raw)
	if strings.Contains(text, section) {
		return
	}
	if os.Getenv("UPDATE_DIAGRAMS") != "1" {
		t.Errorf("%s: the diagram in %s is not that of the edges: run this test with UPDATE_DIAGRAMS=1", m.Name, path)
		return
	}
	from, to := strings.Index(text, begin), strings.Index(text, end)
	switch {
	case from >= 0 && to > from:
		text = text[:from] + section + text[to+len(end):]
	case text == "":
		text = "# State machines\n\n## " + m.Name + "\n\n" + section
	default:
		text += "\n## " + m.Name + "\n\n" + section
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
