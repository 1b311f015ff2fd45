package app

import (
	"slices"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// TestRetryAfterItsChannelWasClosed: the wallet refuses a payment, closes the
// channel that was opened for it, and gets another one by another payment. The
// payer tries the first invoice again: its short channel id, which lnd keeps as
// an alias of the closed channel, leads to the other one, and the channel that
// was never paid for is forgotten because it is closed.
func TestRetryAfterItsChannelWasClosed(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: job{name: "payer-pays", amountSat: 100_000, parts: 1, opens: true}})
		r.openBooks()
		s := r.service.Load()
		menu, err := s.channels.GetMenu(r.asWallet(), &lspv1.GetMenuRequest{})
		require.NoError(t, err)
		preimage := ln.Preimage{9}
		hash := preimage.Hash()
		const amount = 15_000_000
		agreed, err := s.channels.Negotiate(r.asWallet(), &lspv1.NegotiateRequest{
			PaymentHash: hash[:], AmountMsat: amount, OpeningFeeParams: menu.OpeningFeeParamsMenu[0],
			Channel: &lspv1.ChannelWish{ZeroConf: true}, FinalCltvDeltaBlocks: 80, InvoiceExpiresMs: time.Now().Add(20 * time.Minute).UnixMilli(),
		})
		require.NoError(t, err)
		scid, err := ln.ParseSCID(agreed.JitScid)
		require.NoError(t, err)
		hints := []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
			NodeId: r.gateway.PubKey(), ChanId: uint64(scid), FeeProportionalMillionths: agreed.HintFeePpm, CltvExpiryDelta: agreed.HintCltvDeltaBlocks,
		}}}}
		pay := func(req *routerrpc.SendPaymentRequest) *lnrpc.Payment {
			req.TimeoutSeconds, req.NoInflightUpdates, req.FeeLimitMsat = 60, true, 100_000_000
			stream, err := routerrpc.NewRouterClient(r.conns[r.payer]).SendPaymentV2(r.ctx, req)
			require.NoError(t, err)
			m, err := stream.Recv()
			require.NoError(t, err)
			return m
		}
		unpaid := func() []*lspv1.Opening {
			list, err := s.operator.ListOpenings(r.ctx, &lspv1.ListOpeningsRequest{UnpaidOnly: true})
			require.NoError(t, err)
			return list.Openings
		}
		eventually := func(what string, ok func() bool) {
			t.Helper()
			for range 200 {
				if ok() {
					return
				}
				r.pause(r.step)
			}
			t.Fatalf("%s\n%s", what, r.stories())
		}

		// The wallet knows of no such invoice yet.
		m := pay(&routerrpc.SendPaymentRequest{
			Dest: r.walletKey[:], PaymentHash: hash[:], AmtMsat: amount, PaymentAddr: make([]byte, 32), FinalCltvDelta: 83, RouteHints: hints,
		})
		require.Equal(t, lnrpc.Payment_FAILED, m.Status)
		eventually("the payment does not go back", func() bool {
			p, err := s.channels.GetPayment(r.asWallet(), &lspv1.GetPaymentRequest{PaymentId: agreed.PaymentId})
			return err == nil && p.Payment.State == "offered"
		})
		require.Len(t, unpaid(), 1)
		owner := func() (base uint64) {
			aliases, err := r.ln(r.gateway).ListAliases(r.ctx, &lnrpc.ListAliasesRequest{})
			require.NoError(t, err)
			for _, a := range aliases.AliasMaps {
				if slices.Contains(a.Aliases, uint64(scid)) {
					base = a.BaseScid
				}
			}
			return base
		}
		channels := func() []*lnrpc.Channel {
			list, err := r.ln(r.gateway).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{Peer: r.walletKey[:], ActiveOnly: true})
			require.NoError(t, err)
			return list.Channels
		}
		first := channels()[0]
		require.Equal(t, first.ChanId, owner())

		r.w.Mine(1)
		point := &lnrpc.ChannelPoint{FundingTxid: &lnrpc.ChannelPoint_FundingTxidStr{FundingTxidStr: first.ChannelPoint[:64]}}
		point.OutputIndex = uint32(first.ChannelPoint[65] - '0')
		closing, err := r.ln(r.wallet).CloseChannel(r.ctx, &lnrpc.CloseChannelRequest{ChannelPoint: point})
		require.NoError(t, err)
		_, err = closing.Recv()
		require.NoError(t, err)
		r.w.Mine(6)
		eventually("the close is not noted", func() bool { return len(unpaid()) == 0 })
		require.Empty(t, channels())

		// Another payment opens another channel.
		other := r.agree()
		require.True(t, other.opens)
		require.Equal(t, lnrpc.Payment_SUCCEEDED, pay(&routerrpc.SendPaymentRequest{PaymentRequest: other.bolt11}).Status, r.stories())
		second := channels()[0]
		require.Equal(t, first.ChanId, owner(), "lnd keeps a closed channel's alias")

		own, err := r.ln(r.wallet).AddInvoice(r.ctx, &lnrpc.Invoice{
			RPreimage: preimage.Bytes(), ValueMsat: amount, Expiry: 600, CltvExpiry: 80, RouteHints: hints,
		})
		require.NoError(t, err)
		m = pay(&routerrpc.SendPaymentRequest{PaymentRequest: own.PaymentRequest})
		require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
		require.Equal(t, second.ChanId, owner())
		require.Len(t, channels(), 1)
		require.Empty(t, unpaid())
		c, err := s.operator.ShowClient(r.ctx, &lspv1.ShowClientRequest{ClientNodeKey: r.walletKey[:]})
		require.NoError(t, err)
		require.False(t, c.Newcomer)
	})
}
