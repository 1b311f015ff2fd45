package app

import (
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// TestOldStoriesGoAndTheBooksStay: a payment over a channel that stands is
// kept, others go, the books are as before, and what was deleted is not booked
// again when lnd's history is read once more.
func TestOldStoriesGoAndTheBooksStay(t *testing.T) {
	for _, j := range jobs()[:2] {
		t.Run(j.name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: j, latency: lndfake.Observed(), configure: func(c *Config) {
					c.LSP.KeepHistory, c.Interceptor.KeepRows = config.Duration(time.Hour), config.Duration(time.Hour)
				}})
				r.openBooks()
				opened := r.agree()
				m := r.outcome(r.pay(opened.bolt11))
				require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, r.stories())
				r.settle()
				r.check(opened, m)
				// A second one finds room in the channel; a third is never paid.
				r.job.opens, r.job.amountSat = false, 15_000
				small := r.agree()
				require.Equal(t, lnrpc.Payment_SUCCEEDED, r.outcome(r.pay(small.bolt11)).Status, r.stories())
				r.settle()
				never := r.agree()

				books := func() []*lspv1.ReconcileLine {
					got, err := r.service.Load().operator.Reconcile(r.ctx, &lspv1.ReconcileRequest{})
					require.NoError(t, err)
					require.True(t, got.Balanced, got)
					return got.Lines
				}
				before := books()
				known := func() (ids []string) {
					list, err := r.service.Load().operator.FindPayments(r.ctx, &lspv1.FindPaymentsRequest{})
					require.NoError(t, err)
					for _, p := range list.Payments {
						ids = append(ids, p.PaymentId)
					}
					return ids
				}
				require.Equal(t, []string{never.id, small.id, opened.id}, known())
				time.Sleep(3 * time.Hour)
				require.Equal(t, []string{opened.id}, known(), "its channel stands: it is kept")
				require.Equal(t, len(before), len(books()))
				for i, line := range books() {
					require.Equal(t, before[i].BooksMsat, line.BooksMsat, line.Account)
				}
				_, err := r.service.Load().operator.ShowPayment(r.ctx, &lspv1.ShowPaymentRequest{IdOrHash: small.id})
				require.ErrorIs(t, err, errkind.NotFound)

				// Its channel closes: then it goes as well.
				r.closeChannels()
				time.Sleep(2 * time.Hour)
				require.Empty(t, known())
			})
		})
	}
}

// closeChannels closes what the gateway and the wallet have with each other.
func (r *rig) closeChannels() {
	r.t.Helper()
	list, err := r.ln(r.wallet).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(r.t, err)
	for _, c := range list.Channels {
		point, err := ln.ParseOutpoint(c.ChannelPoint)
		require.NoError(r.t, err)
		stream, err := r.ln(r.wallet).CloseChannel(r.ctx, &lnrpc.CloseChannelRequest{
			ChannelPoint: &lnrpc.ChannelPoint{
				FundingTxid: &lnrpc.ChannelPoint_FundingTxidBytes{FundingTxidBytes: point.TxID[:]}, OutputIndex: point.Index,
			},
			SatPerVbyte: 2,
		})
		require.NoError(r.t, err)
		_, err = stream.Recv()
		require.NoError(r.t, err)
	}
	for range 20 {
		r.w.Mine(1)
		pending, err := r.ln(r.gateway).PendingChannels(r.ctx, &lnrpc.PendingChannelsRequest{})
		require.NoError(r.t, err)
		if r.channels() == 0 && len(pending.WaitingCloseChannels)+len(pending.PendingForceClosingChannels) == 0 {
			return
		}
		r.pause(r.step)
	}
	r.t.Fatal("the channels do not close")
}
