package batch

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

const tip = 1000

func member(t *rapid.T, id string) Member {
	amount := ln.Sat(rapid.Uint64Range(10_000, 10_000_000).Draw(t, "amount"))
	m := Member{
		ID: id, AmountSat: amount, MostSat: amount / 2,
		Way:      rapid.SampledFrom([]htlc.Spend{htlc.SpendKey, htlc.SpendSuccess, htlc.SpendTimeout}).Draw(t, "way"),
		Rate:     ln.FeeRateSatPerKW(rapid.Uint64Range(253, 50_000).Draw(t, "rate")),
		Deadline: tip + 100, Present: true, Buried: true,
	}
	// Most are ready to share; the others are not in one way or in several.
	if usually(t, "ready") {
		return m
	}
	m.Deadline = uint32(rapid.IntRange(tip-5, tip+120).Draw(t, "deadline"))
	m.Present = usually(t, "present")
	m.Buried = m.Present && usually(t, "buried")
	if usually(t, "in one already") {
		tx := rapid.IntRange(1, 2).Draw(t, "in")
		m.In, m.InFeeSat = ln.TxID{byte(tx)}, ln.Sat(1_000*tx)
	}
	return m
}

func usually(t *rapid.T, what string) bool {
	return rapid.SampledFrom([]bool{true, true, false}).Draw(t, what)
}

// Whoever they are: a batch endangers nobody's deadline, loses nobody who is in it,
// and costs one input for each that joins.
func TestBatchesEndangerNobody(t *testing.T) {
	joinedEver, replacedEver := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{MaxMembers: rapid.SampledFrom([]int{1, 2, 3, 6}).Draw(t, "most"), JoinBlocks: 40}
		first := member(t, "first")
		var others []Member
		for i := range rapid.SampledFrom([]int{0, 1, 2, 5, 10}).Draw(t, "others") {
			others = append(others, member(t, fmt.Sprint(i)))
		}
		group := Join(first, append(others, first), tip, p)
		require.Equal(t, first, group[0])
		in := map[string]bool{}
		companions, joined := 0, 0
		for _, m := range group {
			require.False(t, in[m.ID], "twice")
			in[m.ID] = true
			if m.ID == first.ID {
				continue
			}
			require.True(t, m.Present, "an output that is not there would take the transaction along")
			if m.In != (ln.TxID{}) {
				require.Equal(t, first.In, m.In, "another transaction is broken up")
				companions++
				continue
			}
			joined++
			for _, g := range []Member{first, m} {
				require.True(t, g.Buried, "a reorg could undo it")
				require.GreaterOrEqual(t, g.Deadline, uint32(tip+40))
			}
		}
		for _, m := range others {
			if m.In != (ln.TxID{}) && m.In == first.In && m.Present {
				require.True(t, in[m.ID], "a companion is left behind")
			}
		}
		require.LessOrEqual(t, len(group), max(p.MaxMembers, 1+companions))
		joinedEver += joined

		cost, ok, err := CostOf(group)
		require.NoError(t, err)
		ways, most, sum := []htlc.Spend{}, ln.Sat(0), ln.Sat(0)
		extra := htlc.TogetherWU(first.Way)
		for i, m := range group {
			ways = append(ways, m.Way)
			most += m.MostSat
			sum += cost.Shares[i]
			if i > 0 {
				extra += m.Way.InputWU()
			}
		}
		weight := htlc.TogetherWU(ways...)
		require.Equal(t, extra, weight, "one input for each that joins")
		require.Equal(t, cost.FeeSat, sum)
		require.LessOrEqual(t, cost.FeeSat, most)
		if cost.FeeSat < most {
			for _, m := range group {
				alone, err := m.Rate.Fee(weight)
				require.NoError(t, err)
				require.GreaterOrEqual(t, cost.FeeSat, alone, "it would be dearer alone, and sooner")
			}
		}
		if !ok {
			require.NotZero(t, first.In, "what replaces nothing is always made")
			return
		}
		replaced := map[ln.TxID]ln.Sat{}
		for _, m := range group {
			if m.In != (ln.TxID{}) {
				replaced[m.In] = m.InFeeSat
			}
		}
		if len(replaced) > 0 {
			replacedEver++
			step, err := swaps.ReplaceStep.Fee(weight)
			require.NoError(t, err)
			for _, fee := range replaced {
				step += fee
			}
			require.GreaterOrEqual(t, cost.FeeSat, step, "nodes would refuse the replacement")
		}
	})
	require.NotZero(t, joinedEver)
	require.NotZero(t, replacedEver)
}

// The most urgent join first, up to as many as may, and a dust claim joins nobody.
func TestWhoJoins(t *testing.T) {
	p := Policy{MaxMembers: 3, JoinBlocks: 40}
	m := func(id string, deadline uint32, amount ln.Sat) Member {
		return Member{ID: id, AmountSat: amount, MostSat: amount / 2, Way: htlc.SpendKey, Rate: 2_000, Deadline: deadline, Present: true, Buried: true}
	}
	ids := func(group []Member) (out []string) {
		for _, g := range group {
			out = append(out, g.ID)
		}
		return out
	}
	others := []Member{m("late", 1900, 500_000), m("near", 1039, 500_000), m("soon", 1100, 500_000), m("dust", 1050, 1_500), m("next", 1200, 500_000)}
	require.Equal(t, []string{"first", "soon", "next"}, ids(Join(m("first", 2000, 500_000), others, tip, p)))
	require.Equal(t, []string{"first"}, ids(Join(m("first", 1039, 500_000), others, tip, p)), "its own deadline is near")
	shallow := m("first", 2000, 500_000)
	shallow.Buried = false
	require.Equal(t, []string{"first"}, ids(Join(shallow, others, tip, p)))
	require.Equal(t, []string{"dust"}, ids(Join(m("dust", 2000, 1_500), others, tip, p)), "it cannot pay its part")
}
