package app

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// virtual runs f in a bubble whose clock jumps over waiting.
func virtual(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// TestEveryKindOfPayment plays each kind once on a good day.
func TestEveryKindOfPayment(t *testing.T) {
	for name, latency := range map[string]lndfake.Latency{"immediate": {}, "observed": lndfake.Observed()} {
		for _, j := range jobs() {
			t.Run(name+"/"+j.name, func(t *testing.T) {
				virtual(t, func(t *testing.T) {
					began := time.Now()
					r := newRig(t, rigConfig{seed: 1, job: j, latency: latency})
					r.openBooks()
					a := r.agree()
					require.Equal(t, j.opens, a.opens)
					m := r.outcome(r.pay(a.bolt11))
					require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
					took := time.Since(began)
					r.settle()
					r.check(a, m)
					t.Logf("%s, %d commits", took, r.faults.Commits())
				})
			})
		}
	}
}

// crashRun plays one payment; sluiced dies at the n-th commit from its
// agreement on, 0 never. It tells how many commits it took until the payment
// was over, and until everything was at rest.
func crashRun(t *testing.T, c rigConfig, n int64, point storetest.Point) (over, rest int64) {
	t.Helper()
	return commitRun(t, c, func(r *rig) {
		if n > 0 {
			r.crashAt(n, point)
		}
	})
}

// commitRun plays one payment after a strike, at the end of which all must be well.
func commitRun(t *testing.T, c rigConfig, strike func(*rig)) (over, rest int64) {
	t.Helper()
	r := newRig(t, c)
	r.openBooks()
	from := r.faults.Commits()
	strike(r)
	a := r.agree()
	// Without sluiced lnd refuses every forward: that is a payer's bad luck.
	r.up()
	began := time.Now()
	m := r.outcome(r.pay(a.bolt11))
	if took := time.Since(began); !r.realTime {
		require.LessOrEqual(t, took, afterCrash+r.confirming(), "the payer waited too long\n%s", r.stories())
	}
	// Also when an HTLC was offered and not yet recorded: nobody can have resumed
	// it, so the next process holds it.
	require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
	r.await(a.id)
	over = r.faults.Commits() - from
	r.settle()
	rest = r.faults.Commits() - from
	r.calm()
	r.check(a, m)
	return over, rest
}

// TestCrashAtEveryCommit kills sluiced before and after each commit of each
// kind of payment. It is back within a second, so every payer is paid, within afterCrash.
func TestCrashAtEveryCommit(t *testing.T) {
	base := drawnSeed(t)
	for _, j := range jobs() {
		t.Run(j.name, func(t *testing.T) {
			t.Parallel()
			c := rigConfig{seed: base, job: j, latency: lndfake.Observed()}
			var commits int64
			virtual(t, func(t *testing.T) {
				over, rest := crashRun(t, c, 0, 0)
				// What follows a payment are the blocks that bury its channel.
				commits = over
				if runs(0) > 0 {
					commits = rest
				}
			})
			for n := int64(1); n <= commits; n++ {
				for _, point := range []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit} {
					t.Run(fmt.Sprintf("%s-%d", point, n), func(t *testing.T) {
						virtual(t, func(t *testing.T) { crashRun(t, c, n, point) })
					})
				}
			}
		})
	}
}

// TestLostAnswerAtEveryCommit: a database that commits and whose answer is lost, once
// or some times in a row, holds nobody up: what follows from the commit in memory follows all the same.
func TestLostAnswerAtEveryCommit(t *testing.T) {
	base := drawnSeed(t)
	for _, j := range jobs() {
		t.Run(j.name, func(t *testing.T) {
			t.Parallel()
			c := rigConfig{seed: base, job: j, latency: lndfake.Observed()}
			var commits int64
			virtual(t, func(t *testing.T) { commits, _ = commitRun(t, c, func(*rig) {}) })
			lost := int64(0)
			for n := int64(1); n <= commits; n++ {
				for _, count := range []int64{1, 5} {
					t.Run(fmt.Sprintf("%d-from-%d", count, n), func(t *testing.T) {
						virtual(t, func(t *testing.T) {
							var played *rig
							commitRun(t, c, func(r *rig) {
								played = r
								r.faults.LoseAnswers(n, count)
							})
							lost += played.faults.Lost()
						})
					})
				}
			}
			// The last of them may come after the payment's end.
			require.Greater(t, lost, commits)
		})
	}
}

// runs is SLUICE_RUNS, or the default.
func runs(otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv("SLUICE_RUNS")); err == nil {
		return n
	}
	return otherwise
}
