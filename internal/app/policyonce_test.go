package app

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
)

// TestAPolicyIsSetOnce: while lnd changes a channel's policy it can come to a stop for good
// (docs/runbook.md, faults of lnd), and it walks through all its channels. A channel that
// opened under sluiced's eyes needs no change, and one whose link was built before its
// policy was known needs a single one, however often sluiced and lnd are restarted.
func TestAPolicyIsSetOnce(t *testing.T) {
	for _, c := range []struct {
		name string
		// early kills sluiced when the channel has just become active.
		early bool
		want  int64
	}{{"opened under our eyes", false, 0}, {"unseen for a moment", true, 1}} {
		t.Run(c.name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: jobNamed(t, "payer-pays"), latency: lndfake.Observed()})
				r.openBooks()
				a := r.agree()
				r.up()
				var sets atomic.Int64
				var died atomic.Bool
				r.w.OnRPC(func(call lndfake.Call) lndfake.Verdict {
					if call.Node != r.gateway.Name() || call.Phase != lndfake.AfterCall {
						return lndfake.Pass
					}
					switch call.Method {
					case "/lnrpc.Lightning/UpdateChannelPolicy":
						sets.Add(1)
					case "/routerrpc.Router/XAddLocalChanAliases":
						if c.early && !died.Swap(true) {
							r.killProcess()
						}
					}
					return lndfake.Pass
				})
				m := r.outcome(r.pay(a.bolt11))
				require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
				r.await(a.id)
				r.pause(2 * heard)
				for range 3 {
					r.killProcess()
					r.pause(2 * heard)
					r.up()
					r.gatewayDies()
					r.pause(2 * heard)
					r.up()
				}
				require.Equal(t, c.want, sets.Load())
				r.settle()
				r.check(a, m)
			})
		})
	}
}

// heard is more than lnd's word of a link that went away takes.
const heard = 5 * time.Second
