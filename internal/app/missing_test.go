package app

import (
	"slices"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// TestLndLosesThePaymentToTheWallet: lnd dies between the record of a payment of
// its own and the commitment that has its HTLC. It calls the payment in flight for ever
// then, and no restart helps. The payer of a wrapped invoice has the money back
// soon after the lost HTLC has expired, and the payment ends.
func TestLndLosesThePaymentToTheWallet(t *testing.T) {
	for name, sluicedDies := range map[string]bool{"lnd alone": false, "and sluiced later": true} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				j := jobs()[1]
				require.True(t, j.receiverPays)
				r := newRig(t, rigConfig{seed: 1, job: j, latency: lndfake.Observed()})
				r.openBooks()
				a := r.agree()
				paying := r.pay(a.bolt11)
				r.untilRecorded()
				r.gateway.Kill()
				require.NoError(t, r.gateway.Start())
				r.w.Connect(r.payer, r.gateway)
				r.w.Connect(r.gateway, r.wallet)
				r.up()
				lost := func() *lnrpc.Payment {
					payments := r.paysWallet()
					require.Len(t, payments, 1)
					return payments[0]
				}
				if sluicedDies {
					r.w.Mine(50)
					r.pause(10 * time.Second)
					r.killProcess()
					r.up()
				}
				var m *lnrpc.Payment
				mined := 0
				for ; m == nil && mined < 140; mined++ {
					r.w.Mine(1)
					select {
					case m = <-paying:
					case <-time.After(2 * time.Second):
					}
				}
				require.NotNil(t, m, "the payer waits in vain\n%s", r.stories())
				require.Equal(t, lnrpc.Payment_FAILED, m.Status)
				require.Equal(t, lnrpc.Payment_IN_FLIGHT, lost().Status, "lnd's word for it")
				t.Logf("refunded after %d blocks", mined)
				r.await(a.id)
				p, err := r.service.Load().operator.ShowPayment(r.ctx, &lspv1.ShowPaymentRequest{IdOrHash: a.id})
				require.NoError(t, err)
				require.Equal(t, "refunded", p.Payment.State)
				require.Contains(t, p.Payment.Reason, "lost the payment")
				r.settle()
				r.check(a, m)
			})
		})
	}
}

// untilRecorded waits until the gateway's lnd has recorded a payment of its own.
func (r *rig) untilRecorded() {
	r.t.Helper()
	for range 60_000 {
		if payments := r.paysWallet(); len(payments) > 0 && len(payments[0].Htlcs) > 0 {
			return
		}
		r.pause(time.Millisecond)
	}
	r.t.Fatalf("the gateway pays nobody\n%s", r.stories())
}

// paysWallet are the payments of the gateway's own lnd to the wallet, without those of one
// satoshi that make its channel sign (lsp/links).
func (r *rig) paysWallet() []*lnrpc.Payment {
	r.t.Helper()
	list, err := r.ln(r.gateway).ListPayments(r.ctx, &lnrpc.ListPaymentsRequest{IncludeIncomplete: true})
	require.NoError(r.t, err)
	return slices.DeleteFunc(list.Payments, func(p *lnrpc.Payment) bool { return p.ValueMsat == 1000 })
}
