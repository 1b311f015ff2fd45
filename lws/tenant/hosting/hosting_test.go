package hosting_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/lws/tenant/hosting"
)

func at(n int) time.Time {
	return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Second)
}

func backoff() hosting.Backoff {
	return hosting.Backoff{First: 2 * time.Second, Most: 60 * time.Second, Healthy: 5 * time.Minute}
}

// TestANodeThatDiedWithItsSigner waits for it, then for its turn, and comes back; one
// that dies again and again, ever more slowly.
func TestANodeThatDiedWithItsSigner(t *testing.T) {
	var n hosting.Node
	var do []hosting.Action
	see := func(second int, f hosting.Facts) []hosting.Action {
		f.Now = at(second)
		n, do = n.Next(f, backoff())
		return do
	}
	require.Empty(t, see(0, hosting.Facts{Up: true, Serving: true, SignerUp: true}))
	require.Equal(t, hosting.Running, n.State)
	require.Empty(t, see(10, hosting.Facts{}))
	require.Equal(t, hosting.Waiting, n.State)
	require.Empty(t, see(3600, hosting.Facts{}), "an hour without its signer")
	require.Equal(t, []hosting.Action{hosting.Start}, see(3601, hosting.Facts{SignerUp: true}))
	require.Empty(t, see(3602, hosting.Facts{SignerUp: true}), "it was just started")
	require.Empty(t, see(3603, hosting.Facts{SignerUp: true, Up: true}))
	require.Equal(t, hosting.Starting, n.State)
	var starts []int
	for s := 3604; s < 3604+400; s++ {
		if len(see(s, hosting.Facts{SignerUp: true})) > 0 {
			starts = append(starts, s-3604)
		}
	}
	require.Equal(t, []int{1, 9, 25, 57, 117, 177, 237, 297, 357}, starts)
	require.Len(t, n.Starts, 10)
	// In service for long: the next time it begins quickly again.
	see(5000, hosting.Facts{Up: true, Serving: true, SignerUp: true})
	see(5400, hosting.Facts{Up: true, Serving: true, SignerUp: true})
	see(5401, hosting.Facts{SignerUp: true})
	require.Equal(t, []hosting.Action{hosting.Start}, see(5403, hosting.Facts{SignerUp: true}))
	see(5403+24*3600, hosting.Facts{Up: true, Serving: true})
	require.Empty(t, n.Starts, "of a day")
}

// TestDraining: told once, stopped when there is no HTLC, down as long as that is wished.
func TestDraining(t *testing.T) {
	var n hosting.Node
	var do []hosting.Action
	see := func(second int, f hosting.Facts) []hosting.Action {
		f.Now = at(second)
		n, do = n.Next(f, backoff())
		return do
	}
	require.Equal(t, []hosting.Action{hosting.Disable}, see(0, hosting.Facts{Up: true, Serving: true, HTLCs: 2, Drain: true}))
	require.Empty(t, see(1, hosting.Facts{Up: true, Serving: true, HTLCs: -1, Drain: true}), "not known is not none")
	require.Empty(t, see(7200, hosting.Facts{Up: true, Serving: true, HTLCs: 1, Drain: true}))
	require.Equal(t, []hosting.Action{hosting.Stop}, see(7201, hosting.Facts{Up: true, Serving: true, Drain: true}))
	require.Empty(t, see(7202, hosting.Facts{SignerUp: true, Drain: true}))
	require.Equal(t, hosting.Drained, n.State)
	require.Empty(t, see(90000, hosting.Facts{SignerUp: true, Drain: true}))
	see(90001, hosting.Facts{SignerUp: true})
	require.Equal(t, []hosting.Action{hosting.Start}, see(90003, hosting.Facts{SignerUp: true}))
	require.Equal(t, []hosting.Action{hosting.Enable}, see(90010, hosting.Facts{Up: true, Serving: true, SignerUp: true}))
	require.Empty(t, see(90011, hosting.Facts{Up: true, Serving: true, SignerUp: true}))
}

// TestMovedElsewhere: stopped at once, whatever is under way, and never started again,
// whatever is wished; back when the claim is.
func TestMovedElsewhere(t *testing.T) {
	var n hosting.Node
	var do []hosting.Action
	see := func(second int, f hosting.Facts) []hosting.Action {
		f.Now = at(second)
		n, do = n.Next(f, backoff())
		return do
	}
	require.Equal(t, []hosting.Action{hosting.Stop}, see(0, hosting.Facts{Up: true, Serving: true, SignerUp: true, HTLCs: 2, Elsewhere: true}))
	require.Equal(t, []hosting.Action{hosting.Stop}, see(1, hosting.Facts{Up: true, SignerUp: true, Elsewhere: true}), "started by somebody else")
	require.Empty(t, see(2, hosting.Facts{SignerUp: true, Elsewhere: true}))
	require.Equal(t, hosting.Drained, n.State)
	require.Empty(t, see(90000, hosting.Facts{SignerUp: true, Elsewhere: true}))
	see(90001, hosting.Facts{SignerUp: true})
	require.Equal(t, []hosting.Action{hosting.Start}, see(90003, hosting.Facts{SignerUp: true}))
}

// TestNeverStoppedWithHTLCs, whatever is seen in whatever order; and never started
// without a signer, or against the wish.
func TestNeverStoppedWithHTLCs(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var n hosting.Node
		second := 0
		for range rapid.IntRange(1, 60).Draw(r, "steps") {
			second += rapid.IntRange(0, 300).Draw(r, "later")
			f := hosting.Facts{Now: at(second), Up: rapid.Bool().Draw(r, "up"), SignerUp: rapid.Bool().Draw(r, "signer"), HTLCs: rapid.IntRange(-1, 2).Draw(r, "htlcs"), Drain: rapid.Bool().Draw(r, "drain"), Elsewhere: rapid.IntRange(0, 9).Draw(r, "elsewhere") == 0}
			f.Serving = f.Up && rapid.Bool().Draw(r, "serving")
			var do []hosting.Action
			n, do = n.Next(f, backoff())
			require.False(t, slices.Contains(do, hosting.Stop) && !f.Elsewhere && (f.HTLCs != 0 || !f.Drain), "%+v", f)
			require.False(t, slices.Contains(do, hosting.Start) && (!f.SignerUp || f.Drain || f.Up || f.Elsewhere), "%+v", f)
		}
	})
}

func TestSummary(t *testing.T) {
	var s hosting.Signer
	require.Zero(t, s.Summary())
	for i := range 100 {
		s.Add(hosting.Sample{At: at(i), Up: true, Took: map[string]time.Duration{"SignMessage": time.Duration(i+1) * time.Millisecond}})
	}
	s.Add(hosting.Sample{At: at(100)})
	got := s.Summary()
	require.False(t, got.Up)
	require.Equal(t, 990, got.Permille)
	require.Equal(t, []hosting.Latency{{Call: "SignMessage", P50: 50 * time.Millisecond, P99: 99 * time.Millisecond, Samples: 100}}, got.Latencies)
	s.Add(hosting.Sample{At: at(100 + 24*3600), Up: true, Took: map[string]time.Duration{"SignMessage": time.Second, "DeriveSharedKey": time.Second}})
	got = s.Summary()
	require.Equal(t, 1000, got.Permille)
	require.Len(t, got.Latencies, 2)
	require.Equal(t, time.Second, got.Latencies[0].P99)
	for i := range 20_000 {
		s.Add(hosting.Sample{At: at(200_000 + i), Up: true, Took: map[string]time.Duration{"SignMessage": time.Second}})
	}
	require.LessOrEqual(t, s.Summary().Latencies[0].Samples, 6000)
}
