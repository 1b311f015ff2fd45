package app

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// closePayersFirst publishes the commitment of the payer's first channel: once that is
// in a block, what is held over the channel can only be claimed on chain.
func (r *rig) closePayersFirst() {
	r.t.Helper()
	list, err := r.ln(r.payer).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(r.t, err)
	require.NoError(r.t, r.w.ForceClose(r.payer, list.Channels[0].ChannelPoint))
}

// payOverFirst pays over the channel that closePayersFirst closes.
func (r *rig) payOverFirst(bolt11 string) <-chan *lnrpc.Payment {
	r.t.Helper()
	list, err := r.ln(r.payer).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(r.t, err)
	return r.send(&routerrpc.SendPaymentRequest{
		PaymentRequest: bolt11, TimeoutSeconds: 120, NoInflightUpdates: true, FeeLimitMsat: 100_000_000, MaxParts: 1,
		OutgoingChanIds: []uint64{list.Channels[0].ChanId},
	})
}

func (r *rig) payment(a agreement) *lspv1.Payment {
	r.t.Helper()
	p, err := r.service.Load().channels.GetPayment(r.asWallet(), &lspv1.GetPaymentRequest{PaymentId: a.id})
	require.NoError(r.t, err)
	return p.Payment
}

// TestIncomingChannelOnChainWhileItWaits: the wallet is away, and the channel that a
// payment on demand came over goes on chain. Nothing is opened for it when the
// wallet comes; another part of it goes back at once, and is not handed on alone.
func TestIncomingChannelOnChainWhileItWaits(t *testing.T) {
	for _, j := range []job{jobs()[0], jobs()[1], jobs()[2]} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprint(j.name, restart), func(t *testing.T) {
				virtual(t, func(t *testing.T) {
					r := newRig(t, rigConfig{seed: 1, job: j, latency: lndfake.Observed()})
					r.openBooks()
					a := r.agree()
					r.w.Disconnect(r.gateway, r.wallet)
					paid := r.pay(a.bolt11)
					r.awaitEvent(a.id, "set_accepted", "part_arrived")
					r.pause(2 * time.Second)
					if restart {
						r.killProcess()
					}
					r.closePayersFirst()
					r.closed = true
					r.w.Mine(3)
					r.up()
					says := "no longer open"
					if !j.receiverPays {
						r.awaitEvent(a.id, "part_gone")
						says = "went on chain"
					}
					r.w.Connect(r.gateway, r.wallet)
					if j.parts == 1 {
						r.pause(40 * time.Second)
						require.Zero(t, r.channels(), "nothing is opened for what cannot be forwarded\n%s", r.stories())
						require.Contains(t, r.payment(a).Reason, says)
					}
					r.theDustSettles()
					m := r.outcome(paid)
					if j.parts == 1 {
						require.Equal(t, lnrpc.Payment_FAILED, m.Status)
					}
					r.settle()
					r.checkAfterClose(a, m)
				})
			})
		}
	}
}

// checkAfterClose: the payer, who closed a channel, lost what that costs and no more;
// the wallet has all or nothing; the books are right.
func (r *rig) checkAfterClose(a agreement, m *lnrpc.Payment) {
	t := r.t
	t.Helper()
	const closeCostMsat = 20_000_000
	require.NoError(t, r.w.Err())
	spent := r.before[r.payer] - r.w.Wealth(r.payer).TotalMsat()
	got := r.w.Wealth(r.wallet).TotalMsat() - r.before[r.wallet]
	if m.Status == lnrpc.Payment_SUCCEEDED {
		require.Equal(t, a.walletMsat, got, r.stories())
		spent -= m.ValueMsat + m.FeeMsat
	} else {
		require.Zero(t, got, r.stories())
	}
	require.Positive(t, spent, r.stories())
	require.Less(t, spent, int64(closeCostMsat), r.stories())
	books, err := r.service.Load().operator.Reconcile(r.ctx, &lspv1.ReconcileRequest{})
	require.NoError(t, err)
	require.True(t, books.Balanced, "the books: %s\n%s", books, r.stories())
	holdsNothing(t, books)
}

// theDustSettles has the blocks pass that contracts on chain take.
func (r *rig) theDustSettles() {
	for range 40 {
		r.w.Mine(10)
		r.pause(2 * time.Second)
	}
}

// TestIncomingChannelOnChainAtTheHandOver: the channel of one part goes on chain when
// the wallet's channel is there already. Nothing of the set is handed on.
func TestIncomingChannelOnChainAtTheHandOver(t *testing.T) {
	for _, j := range []job{jobs()[0], jobs()[2]} {
		t.Run(j.name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: j, latency: lndfake.Observed()})
				r.openBooks()
				a := r.agree()
				var once sync.Once
				r.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
					if c.Node == r.gateway.Name() && c.Phase == lndfake.AfterCall && strings.HasSuffix(c.Method, "/XAddLocalChanAliases") {
						once.Do(func() {
							r.closePayersFirst()
							r.closed = true
							r.w.Mine(3)
						})
					}
					return lndfake.Pass
				})
				paid := r.pay(a.bolt11)
				r.awaitEvent(a.id, "mapped", "part_gone")
				r.pause(10 * time.Second)
				r.theDustSettles()
				m := r.outcome(paid)
				if j.parts == 1 {
					require.Equal(t, lnrpc.Payment_FAILED, m.Status)
					// Whether the RESUME was written before lnd told is chance.
					require.Contains(t, r.payment(a).Reason, "the last attempt was refunded")
				}
				r.settle()
				r.checkAfterClose(a, m)
			})
		})
	}
}
