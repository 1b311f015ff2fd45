package app

import (
	"sync"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
)

// TestPolicyRace: lnd dies in the second between a channel's first activity and its own
// policy's entry into its graph, and is back before that. The link that it builds has
// its default fees, and the graph shows ours a moment later. A part from which no fee
// is withheld has none to spare, so the policy must be set although it looks right.
func TestPolicyRace(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: jobNamed(t, "lsps2-in-two-parts"), latency: lndfake.Observed()})
		r.openBooks()
		a := r.agree()
		r.up()
		var once sync.Once
		r.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
			if c.Node == r.gateway.Name() && c.Phase == lndfake.AfterCall && c.Method == "/routerrpc.Router/XAddLocalChanAliases" {
				once.Do(r.gatewayDies)
			}
			return lndfake.Pass
		})
		began := time.Now()
		m := r.outcome(r.pay(a.bolt11))
		require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
		require.Less(t, time.Since(began), 20*time.Second)
		r.await(a.id)
		r.settle()
		r.check(a, m)
	})
}
