package fsm

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Diagram draws a machine's edges as a Mermaid state diagram (without the code
// fence). Edges between the same states share an arrow; terminal states lead to
// the end, states that no edge leads to come from the start.
func (m *Machine[S, V, F]) Diagram() string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n")
	entered := make(map[string]bool)
	for _, e := range m.Edges {
		if e.From != e.To {
			entered[e.To] = true
		}
	}
	terminal := make(map[string]bool)
	for _, s := range m.States {
		// The examples are enough where being terminal is a matter of the type.
		terminal[s.StateName()] = m.Terminal(s)
	}
	declared := make(map[string]bool)
	alias := func(name string) string {
		return strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
				return r
			}
			return '_'
		}, name)
	}
	declare := func(name string) {
		if !declared[name] {
			declared[name] = true
			fmt.Fprintf(&b, "    state %q as %s\n", name, alias(name))
			if !entered[name] {
				fmt.Fprintf(&b, "    [*] --> %s\n", alias(name))
			}
		}
	}
	for _, e := range m.Edges {
		declare(e.From)
		declare(e.To)
	}
	type arrow struct{ from, to string }
	var order []arrow
	labels := make(map[arrow][]string)
	for _, e := range m.Edges {
		a := arrow{e.From, e.To}
		if labels[a] == nil {
			order = append(order, a)
		}
		label := e.Event
		if len(e.Effects) > 0 {
			label += " / " + strings.Join(e.Effects, ", ")
		}
		labels[a] = append(labels[a], label)
	}
	for _, a := range order {
		fmt.Fprintf(&b, "    %s --> %s : %s\n", alias(a.from), alias(a.to), strings.Join(labels[a], "<br/>"))
	}
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		if terminal[name] {
			fmt.Fprintf(&b, "    %s --> [*]\n", alias(name))
		}
	}
	return b.String()
}
