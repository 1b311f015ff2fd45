package app

import (
	"errors"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// refusedDays are days on which the network does not take a signed funding transaction
// until another process of sluiced sends it again: the open is watched on the chain all the
// same, or one that waits for confirmations would never be usable, and any other one count
// as unconfirmed for ever.
func refusedDays(within time.Duration) (days []badDay) {
	for _, j := range []job{jobs()[0], jobs()[1], jobs()[8]} {
		days = append(days, badDay{
			name: "the network refuses the funding transaction until sluiced has started anew/" + j.name, job: j, ends: []ending{paid}, within: within,
			play: func(d *day) {
				d.agree(order{})
				d.r.w.RejectPublications(errors.New("-26: min relay fee not met"))
				d.pay()
				require.True(d.r.t, d.opening("signed") || d.crashes, "it is signed, and nobody has it\n%s", d.r.stories())
				d.r.killProcess()
				d.r.pause(time.Second)
				d.r.up()
				d.r.w.RejectPublications(nil)
				d.r.w.Mine(1)
				d.outcome()
				d.r.w.Mine(3)
				require.True(d.r.t, d.opening("confirmed", "buried"), "it counts as unconfirmed for ever\n%s", d.r.stories())
			},
		})
	}
	return days
}

// opening waits until a channel open of the payment is in one of these states, for a while.
func (d *day) opening(states ...string) bool {
	d.r.t.Helper()
	for range 40 {
		if s := d.r.service.Load(); s != nil {
			shown, err := s.operator.ShowPayment(d.r.ctx, &lspv1.ShowPaymentRequest{IdOrHash: d.a.id})
			if err == nil && slices.ContainsFunc(shown.Openings, func(o *lspv1.Opening) bool { return slices.Contains(states, o.State) }) {
				return true
			}
		}
		d.r.pause(d.r.step)
	}
	return false
}
