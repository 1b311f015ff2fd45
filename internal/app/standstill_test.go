package app

import (
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
)

// standingDays are days on which a node dies when it has revoked its old commitment and has
// not signed its peer's next one, which lnd then forgets (lsp/links, Standing): the channel
// stands still until sluiced makes both sides sign. On real nodes it is
// TestRestartBetweenRevokeAndSign.
func standingDays() (days []badDay) {
	for _, c := range []struct {
		name         string
		victim, peer func(r *rig) *lndfake.Node
		// claims: it dies when the wallet claims, else when the payer pays.
		claims bool
	}{
		{"the gateway's lnd dies owing the payer its signature", (*rig).itsGateway, (*rig).itsPayer, false},
		{"the wallet's lnd dies owing the gateway its signature", (*rig).itsWallet, (*rig).itsGateway, false},
		{"the gateway's lnd dies owing the wallet its signature", (*rig).itsGateway, (*rig).itsWallet, true},
		{"the payer's lnd dies owing the gateway its signature", (*rig).itsPayer, (*rig).itsGateway, true},
	} {
		for _, j := range jobs()[:2] {
			days = append(days, badDay{
				name: c.name + "/" + j.name, job: j, ends: []ending{paid}, within: 6 * time.Minute, forgets: true,
				play: func(d *day) {
					victim, peer := c.victim(d.r), c.peer(d.r)
					d.agree(order{hold: c.claims})
					if c.claims {
						d.pay()
						d.accepted()
					}
					// Two starts of a node in no time look like one.
					d.r.pause(10 * time.Second)
					dead := victim.KillOwing(peer)
					if c.claims {
						d.claim()
					} else {
						d.pay()
					}
					<-dead
					require.NoError(d.r.t, victim.Start())
					if victim == d.r.payer {
						d.paying = d.r.track(d.a.hash)
					}
					d.outcome()
				},
			})
		}
	}
	return days
}

func (r *rig) itsGateway() *lndfake.Node { return r.gateway }
func (r *rig) itsPayer() *lndfake.Node   { return r.payer }
func (r *rig) itsWallet() *lndfake.Node  { return r.wallet }

// accepted waits until the wallet holds the payment, and everything is signed.
func (d *day) accepted() {
	d.r.t.Helper()
	for range 600 {
		i, err := d.r.ln(d.r.wallet).LookupInvoice(d.r.ctx, &lnrpc.PaymentHash{RHash: d.a.hash[:]})
		d.r.pause(d.r.step)
		if err == nil && i.State == lnrpc.Invoice_ACCEPTED {
			return
		}
	}
	d.r.t.Fatalf("the wallet was not paid\n%s", d.r.stories())
}

func (d *day) claim() {
	d.r.t.Helper()
	_, err := invoicesrpc.NewInvoicesClient(d.r.conns[d.r.wallet]).SettleInvoice(d.r.ctx, &invoicesrpc.SettleInvoiceMsg{Preimage: d.a.preimage.Bytes()})
	require.NoError(d.r.t, err)
}
