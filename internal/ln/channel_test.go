package ln

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestJointMemo(t *testing.T) {
	since := time.Unix(1_800_000_000, 0)
	for _, c := range []JointTerms{{ID: "ab12"}, {"ab12", 1, since}, {"ab12", 50_000, since}, {"ab12", 1 << 62, since}} {
		got, ok := ReadJointTerms(c.Memo())
		require.True(t, ok)
		require.Equal(t, c, got)
	}
	for memo, want := range map[string]bool{
		"": false, "sluice ab12": false, SharedFundingMemo + "ab12 spend 5": true, SharedFundingMemo + "ab12 spend -5 since 1": true,
		SharedFundingMemo + "ab12 spend 99999999999999999999 since 1": true, SharedFundingMemo + "ab12 spend 5 since x": true,
		SharedFundingMemo + "ab12 spend 5 since 1 or so": true, SharedFundingMemo + "ab12 since 5 spend 1": true,
	} {
		got, ok := ReadJointTerms(memo)
		require.Equal(t, want, ok, memo)
		require.Zero(t, got.SpendSat, memo)
		if ok {
			require.Equal(t, "ab12", got.ID, memo)
		}
	}
	long := JointTerms{"0123456789abcdef01234567", 21_000_000 * 100_000_000, since}.Memo()
	require.Less(t, len(long), 500, "lnd keeps so much")
}

// What a peer may spend before its channel is buried counts all that it offered and did
// not get back, whatever it received besides.
func TestWithinLimit(t *testing.T) {
	joint := func(limit, push, sent, remote Sat) Channel {
		return Channel{Initiator: true, ZeroConf: true, Memo: JointTerms{ID: "x", SpendSat: limit}.Memo(), PushSat: push, SentSat: sent, RemoteSat: remote}
	}
	for name, c := range map[string]struct {
		ch   Channel
		want bool
	}{
		"nothing, and nothing is allowed": {joint(0, 400_000, 0, 400_000), false},
		"nothing":                         {joint(50_000, 400_000, 0, 400_000), true},
		"all of it":                       {joint(50_000, 400_000, 0, 350_000), true},
		"one more":                        {joint(50_000, 400_000, 0, 349_999), false},
		"what was received is no more":    {joint(50_000, 400_000, 300_000, 649_999), false},
		"received, and all of it":         {joint(50_000, 400_000, 300_000, 650_000), true},
		"received, not yet counted":       {joint(50_000, 400_000, 0, 700_000), true},
		"a limit beyond all":              {joint(1<<60, 400_000, 0, 0), true},
		"a push beyond all":               {joint(50_000, ^Sat(0), 5, 0), false},
		"of the peer's own opening":       {Channel{ZeroConf: true, Memo: JointTerms{ID: "x", SpendSat: 50_000}.Memo(), PushSat: 400_000, RemoteSat: 400_000}, false},
		"not joint":                       {Channel{Initiator: true, ZeroConf: true, Memo: "sluice spend 50000", PushSat: 9, RemoteSat: 9}, false},
	} {
		require.Equal(t, c.want, c.ch.WithinLimit(), name)
	}
	buried := joint(0, 400_000, 0, 0)
	buried.ConfirmedSCID = NewSCID(100, 1, 0)
	require.False(t, buried.TakesMoney(104))
	require.True(t, buried.TakesMoney(105))
	require.True(t, joint(50_000, 400_000, 0, 350_000).TakesMoney(105))
	require.False(t, joint(50_000, 400_000, 0, 349_999).TakesMoney(105))
}
