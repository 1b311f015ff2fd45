package app

import (
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
)

// TestStockFees: the gateway's lnd has fees of its own, 1,000 msat and 1 ppm, on every
// link that it builds before our policy is in its graph, and on every channel that
// somebody opens without naming any. They stay on the link when the graph has our policy
// at last. No invoice of ours mentions them, so nothing may be forwarded over such a link
// before sluiced has set the policy.
func TestStockFees(t *testing.T) {
	small := job{name: "payer-pays", amountSat: 5_000, parts: 1}
	play := func(name string, f func(r *rig, pays func(job) agreement)) {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: jobs()[0], latency: lndfake.Observed()})
				r.openBooks()
				f(r, func(j job) agreement {
					t.Helper()
					r.job = j
					a := r.agree()
					require.Equal(t, j.opens, a.opens)
					m := r.outcome(r.pay(a.bolt11))
					require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
					require.Equal(t, a.payerMsat, m.ValueMsat+m.FeeMsat)
					return a
				})
			})
		})
	}
	flap := func(r *rig) {
		r.w.Disconnect(r.gateway, r.wallet)
		r.w.Connect(r.gateway, r.wallet)
	}
	play("the wallet's link flaps in the channel's first second", func(r *rig, pays func(job) agreement) {
		pays(jobs()[0])
		flap(r)
		pays(small)
		// And once the graph has it, one more flap changes nothing.
		flap(r)
		pays(small)
	})
	play("lnd is restarted in the channel's first second", func(r *rig, pays func(job) agreement) {
		pays(jobs()[0])
		r.gateway.Kill()
		require.NoError(r.t, r.gateway.Start())
		r.w.Connect(r.payer, r.gateway)
		r.w.Connect(r.gateway, r.wallet)
		pays(small)
	})
	play("sluiced is killed, and the link flaps, in the channel's first second", func(r *rig, pays func(job) agreement) {
		pays(jobs()[0])
		r.killProcess()
		flap(r)
		r.up()
		r.pause(10 * time.Second)
		pays(small)
	})
	play("a channel that was opened by hand while channels are followed", func(r *rig, pays func(job) agreement) {
		// Another open, so that they are.
		pays(jobs()[0])
		before, err := r.ln(r.wallet).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{})
		require.NoError(r.t, err)
		r.job.channelSat = 900_000
		r.privateChannelBeside(len(before.Channels))
		pays(job{name: "payer-pays", amountSat: 300_000, parts: 1})
	})
}
