package ballot_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor/ballot"
	"github.com/sluice-lsp/sluice/internal/ln"
)

func TestMergeOpen(t *testing.T) {
	yes := ln.AcceptVerdict{Accept: true}
	with := func(change func(*ln.AcceptVerdict)) ln.AcceptVerdict {
		v := yes
		change(&v)
		return v
	}
	for _, tc := range []struct {
		name   string
		policy ln.AcceptVerdict
		says   []ln.AcceptVerdict
		want   ln.AcceptVerdict
	}{
		{"nobody to ask", yes, nil, yes},
		{"the policy refuses", ln.AcceptVerdict{Refusal: "no"}, []ln.AcceptVerdict{yes}, ln.AcceptVerdict{Refusal: "no"}},
		{"one refuses", yes, []ln.AcceptVerdict{yes, {Refusal: "too small"}}, ln.AcceptVerdict{Refusal: "too small"}},
		{"one refuses without a word", yes, []ln.AcceptVerdict{{}}, ln.AcceptVerdict{Refusal: "this node does not take the channel"}},
		{
			"no program grants zero-conf", yes,
			[]ln.AcceptVerdict{with(func(v *ln.AcceptVerdict) { v.ZeroConf = true })},
			yes,
		},
		{
			"confirmations against zero-conf", with(func(v *ln.AcceptVerdict) { v.ZeroConf = true }),
			[]ln.AcceptVerdict{with(func(v *ln.AcceptVerdict) { v.MinDepth = 3 })},
			ln.AcceptVerdict{Refusal: "this node wants 3 confirmations; propose the channel without zero-conf"},
		},
		{
			"the most confirmations", with(func(v *ln.AcceptVerdict) { v.MinDepth = 2 }),
			[]ln.AcceptVerdict{with(func(v *ln.AcceptVerdict) { v.MinDepth = 6 }), with(func(v *ln.AcceptVerdict) { v.MinDepth = 1 })},
			with(func(v *ln.AcceptVerdict) { v.MinDepth = 6 }),
		},
		{
			"terms that agree", yes,
			[]ln.AcceptVerdict{with(func(v *ln.AcceptVerdict) { v.CsvDelay = 144 }), with(func(v *ln.AcceptVerdict) { v.CsvDelay, v.ReserveSat = 144, 9 })},
			with(func(v *ln.AcceptVerdict) { v.CsvDelay, v.ReserveSat = 144, 9 }),
		},
		{
			"terms that do not", yes,
			[]ln.AcceptVerdict{with(func(v *ln.AcceptVerdict) { v.MaxHtlcs = 10 }), with(func(v *ln.AcceptVerdict) { v.MaxHtlcs = 11 })},
			ln.AcceptVerdict{Refusal: "this node's programs want different terms for the channel"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var answers []ballot.OpenAnswer
			for _, v := range tc.says {
				answers = append(answers, ballot.OpenAnswer{Program: "p", Verdict: v})
			}
			require.Equal(t, tc.want, ballot.MergeOpen(tc.policy, answers))
		})
	}
}
