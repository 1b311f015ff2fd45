package lsp

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Who is asked to trust: by what the operator set for all or for one, and by who
// opens channels that nobody pays for.
func TestOfWhomTrustIsWanted(t *testing.T) {
	p := TrustPolicy{Mode: TrustAuto, UnclaimedEach: 3, Unclaimed: 10}
	off := TrustPolicy{Mode: TrustAuto}
	for name, c := range map[string]struct {
		policy   TrustPolicy
		own      TrustMode
		newcomer bool
		u        Unclaimed
		want     bool
	}{
		"a quiet day":                            {p, "", true, Unclaimed{2, 9}, false},
		"too many of its own":                    {p, "", false, Unclaimed{3, 3}, true},
		"too many in all, and it is new":         {p, "", true, Unclaimed{0, 10}, true},
		"too many in all, and it has paid":       {p, "", false, Unclaimed{2, 50}, false},
		"the operator trusts it":                 {p, TrustNever, true, Unclaimed{9, 50}, false},
		"the operator does not":                  {p, TrustAlways, false, Unclaimed{}, true},
		"automatic for one, though never in all": {TrustPolicy{Mode: TrustNever, UnclaimedEach: 3}, TrustAuto, false, Unclaimed{3, 3}, true},
		"never":                                  {TrustPolicy{Mode: TrustNever, UnclaimedEach: 1, Unclaimed: 1}, "", true, Unclaimed{9, 9}, false},
		"always":                                 {TrustPolicy{Mode: TrustAlways}, "", false, Unclaimed{}, true},
		"no thresholds":                          {off, "", true, Unclaimed{999, 999}, false},
	} {
		require.Equal(t, c.want, c.policy.Wants(c.own, c.newcomer, c.u), name)
	}
	require.True(t, p.Attacked(Unclaimed{All: 10}))
	require.False(t, off.Attacked(Unclaimed{All: 999}))
	require.False(t, TrustMode("sometimes").Known())
}
