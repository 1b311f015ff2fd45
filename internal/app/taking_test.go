package app

import (
	"sync"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
)

// TestKilledWhileItTakesTheMoney: lnd dies in the moment after it called a wrapped invoice
// accepted. If it had recorded no more than that, it fails the HTLC once the payer's peer
// is back, and lists it until then; the wallet must not be paid in between. If it had, the
// payment goes on. Nobody but lnd knows which, before that peer is back.
func TestKilledWhileItTakesTheMoney(t *testing.T) {
	for name, day := range map[string]struct {
		job string
		// taken: lnd recorded that it processed the HTLC.
		taken bool
		// away is how long after the wallet's the payer's peer is back.
		away        time.Duration
		sluicedDies bool
	}{
		"it opens a channel":             {job: "receiver-pays"},
		"it has room":                    {job: "receiver-pays-room"},
		"in two parts":                   {job: "receiver-pays-in-two-parts", away: 10 * time.Second},
		"the payer's peer is slow":       {job: "receiver-pays-room", away: 10 * time.Second},
		"sluiced dies with it":           {job: "receiver-pays-room", away: 10 * time.Second, sluicedDies: true},
		"taken":                          {job: "receiver-pays-room", taken: true},
		"taken, payer's peer is slow":    {job: "receiver-pays-room", taken: true, away: 10 * time.Second},
		"taken, sluiced dies with it":    {job: "receiver-pays-room", taken: true, away: 10 * time.Second, sluicedDies: true},
		"taken before a channel is open": {job: "receiver-pays", taken: true, away: 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: jobNamed(t, day.job), latency: lndfake.Observed()})
				r.openBooks()
				a := r.agree()
				died := r.dieTaking(day.taken)
				paying := r.pay(a.bolt11)
				<-died
				if day.sluicedDies {
					r.killProcess()
				}
				require.NoError(t, r.gateway.Start())
				r.w.Connect(r.gateway, r.wallet)
				r.up()
				r.pause(day.away)
				require.Equal(t, r.before[r.wallet], r.w.Wealth(r.wallet).TotalMsat(), "the wallet was paid too early\n%s", r.stories())
				r.w.Connect(r.payer, r.gateway)
				m := r.outcome(paying)
				if day.taken {
					require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
				} else {
					require.Equal(t, lnrpc.Payment_FAILED, m.Status)
				}
				r.await(a.id)
				r.settle()
				r.check(a, m)
			})
		})
	}
}

// TestKilledWhileItTakesTheMoneyOfAnOrder is the same for a channel that was ordered: it is
// not funded for money that lnd gives back.
func TestKilledWhileItTakesTheMoneyOfAnOrder(t *testing.T) {
	for name, taken := range map[string]bool{"it fails the HTLC": false, "it has recorded it": true} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				b := newBuyer(t, 31, nil)
				o := b.order()
				died := b.dieTaking(taken)
				paying := b.pay(o.Payment.Bolt11.Invoice)
				<-died
				require.NoError(t, b.gateway.Start())
				b.w.Connect(b.gateway, b.wallet)
				b.up()
				b.pause(10 * time.Second)
				require.Zero(t, b.channels(), "it was funded too early\n%s", b.story(o.OrderID))
				b.w.Connect(b.payer, b.gateway)
				m := b.outcome(paying)
				if taken {
					require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, b.story(o.OrderID))
					b.completed(o.OrderID)
					b.w.Mine(200)
					require.Equal(t, "ended", b.over(o.OrderID).State, b.story(o.OrderID))
					require.Equal(t, 1, b.channels())
					b.balanced(o.OrderID)
					return
				}
				require.Equal(t, lnrpc.Payment_FAILED, m.Status)
				b.failed(o.OrderID)
				require.Zero(t, b.channels())
				require.Zero(t, b.gained(b.payer))
				require.Zero(t, b.gained(b.wallet))
				b.balanced(o.OrderID)
			})
		})
	}
}

// dieTaking kills the gateway's lnd as it tells that it accepted an invoice, and takes the
// payer's peer away. Taken says whether its link had recorded that it processed the HTLCs.
func (r *rig) dieTaking(taken bool) (died <-chan struct{}) {
	over := make(chan struct{})
	var once sync.Once
	r.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
		inv, ok := c.Message.(*lnrpc.Invoice)
		if c.Node != r.gateway.Name() || !ok || inv.State != lnrpc.Invoice_ACCEPTED {
			return lndfake.Pass
		}
		once.Do(func() {
			r.w.Disconnect(r.payer, r.gateway)
			if taken {
				r.gateway.Kill()
			} else {
				r.gateway.KillTaking([32]byte(inv.RHash))
			}
			close(over)
		})
		return lndfake.Pass
	})
	return over
}

func jobNamed(t *testing.T, name string) job {
	t.Helper()
	for _, j := range jobs() {
		if j.name == name {
			return j
		}
	}
	t.Fatalf("no job is called %q", name)
	return job{}
}
