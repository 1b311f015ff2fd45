package fsmtest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/fsm"
)

type list struct{ Items []int }

func (list) StateName() string { return "list" }

type poke struct{}

func (poke) EventName() string { return "poke" }

type none interface{ EffectName() string }

// A Step that writes into its argument would change what other instances, and
// the engine's own copy, hold.
func TestAStepThatChangesItsArgumentIsFound(t *testing.T) {
	m := fsm.Machine[list, poke, none]{Name: "test", Terminal: func(list) bool { return false }, Step: func(s list, _ poke) (list, []none, error) {
		s.Items[0] = 7
		return s, nil, nil
	}}
	samples := Samples[list, poke]{Initial: []list{{Items: []int{1}}}, Events: func(list) []poke { return []poke{{}} }}
	_, err := explore(m, samples)
	require.ErrorContains(t, err, `Step changed its argument "list", on one of poke`)
	m.Step = func(list, poke) (list, []none, error) { return list{Items: []int{7}}, nil, nil }
	_, err = explore(m, samples)
	require.NoError(t, err)
}
