package app

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
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
