package app

import (
	"fmt"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/api/lspsv1"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps2"
)

// lspsJobs are payments that an LSPS2 client receives: one that takes less than
// its onions ask, which a stock lnd never does.
func lspsJobs() []job {
	return []job{
		{name: "lsps2", lsps2: true, amountSat: 100_000, parts: 1, opens: true},
		{name: "lsps2-in-two-parts", lsps2: true, amountSat: 600_000, parts: 2, opens: true},
		{name: "lsps2-room", lsps2: true, amountSat: 100_000, parts: 1, channelSat: 500_000},
		{name: "trusted-payer-pays", amountSat: 100_000, parts: 1, opens: true, trust: true},
		{name: "trusted-in-two-parts", amountSat: 600_000, parts: 2, opens: true, trust: true},
		{name: "trusted-receiver-pays", receiverPays: true, amountSat: 100_000, parts: 1, opens: true, trust: true},
		{name: "trusted-second-channel", amountSat: 400_000, parts: 1, channelSat: 200_000, opens: true, trust: true},
		{name: "trusted-lsps2", lsps2: true, amountSat: 100_000, parts: 1, opens: true, trust: true},
		{name: "trusted-second-channel-in-two-parts", amountSat: 600_000, parts: 2, channelSat: 200_000, opens: true, trust: true},
	}
}

// askLSPS buys a channel and makes the invoice as bLIP-52 has it.
func (r *rig) askLSPS() (agreement, error) {
	amount := ln.Msat(r.job.amountSat * 1000)
	item, bought, err := r.lsps.Buy(r.ctx, amount)
	if err != nil {
		return agreement{}, err
	}
	fee, err := item.Fee(amount)
	if err != nil {
		return agreement{}, err
	}
	if !r.job.opens {
		fee = 0
	}
	own, err := r.ln(r.wallet).AddInvoice(r.ctx, r.lspsInvoice(int64(amount), bought))
	if err != nil {
		return agreement{}, err
	}
	id, err := r.paymentOf(bought.SCID)
	return agreement{
		id: id, hash: ln.Hash(own.RHash), bolt11: own.PaymentRequest, walletMsat: int64(amount - fee), payerMsat: int64(amount), opens: r.job.opens,
	}, err
}

func (r *rig) lspsInvoice(amount int64, bought lsps2.BuyResult) *lnrpc.Invoice {
	return &lnrpc.Invoice{
		ValueMsat: amount, Expiry: 500, CltvExpiry: 82,
		RouteHints: []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
			NodeId: r.gateway.PubKey(), ChanId: uint64(bought.SCID), CltvExpiryDelta: bought.CltvExpiryDelta,
		}}}},
	}
}

// paymentOf is what sluiced calls the payment over a channel id.
func (r *rig) paymentOf(scid ln.SCID) (string, error) {
	s := r.service.Load()
	if s == nil {
		return "", errAway
	}
	list, err := s.operator.FindPayments(r.ctx, &lspv1.FindPaymentsRequest{})
	if err != nil {
		return "", err
	}
	for _, p := range list.Payments {
		if p.JitScid == scid.String() {
			return p.PaymentId, nil
		}
	}
	return "", fmt.Errorf("no payment over %s", scid)
}

func (r *rig) payAny(req *routerrpc.SendPaymentRequest) *lnrpc.Payment {
	r.t.Helper()
	req.TimeoutSeconds, req.NoInflightUpdates, req.FeeLimitMsat = 60, true, 100_000_000
	stream, err := routerrpc.NewRouterClient(r.conns[r.payer]).SendPaymentV2(r.ctx, req)
	require.NoError(r.t, err)
	m, err := stream.Recv()
	require.NoError(r.t, err)
	return m
}

// An LSPS2 client on a stock gateway: a probe opens the channel and pays
// nothing, the payment that follows is forwarded less the fee, and a further
// payment over the same channel id is an ordinary forward. Its size is the
// payer's choice.
func TestLSPS2VariableAfterAProbe(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: job{name: "lsps2", lsps2: true, parts: 1}})
		r.openBooks()
		raw, err := r.lsps.Call(r.ctx, lsps0.MethodListProtocols, nil)
		require.NoError(t, err)
		require.JSONEq(t, `{"protocols":[1,2,5]}`, string(raw))
		item, bought, err := r.lsps.Buy(r.ctx, 0)
		require.NoError(t, err)
		hints := r.lspsInvoice(0, bought).RouteHints
		const amount = 150_000_000
		probe := r.payAny(&routerrpc.SendPaymentRequest{
			Dest: r.walletKey[:], PaymentHash: make([]byte, 32), AmtMsat: amount, PaymentAddr: make([]byte, 32), FinalCltvDelta: 83, RouteHints: hints,
		})
		require.Equal(t, lnrpc.PaymentFailureReason_FAILURE_REASON_INCORRECT_PAYMENT_DETAILS, probe.FailureReason, r.stories())
		require.Equal(t, r.before[r.wallet], r.w.Wealth(r.wallet).TotalMsat())

		fee, err := item.Fee(amount)
		require.NoError(t, err)
		pay := func() *lnrpc.Payment {
			own, err := r.ln(r.wallet).AddInvoice(r.ctx, r.lspsInvoice(0, bought))
			require.NoError(t, err)
			m := r.payAny(&routerrpc.SendPaymentRequest{PaymentRequest: own.PaymentRequest, AmtMsat: amount})
			require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
			return m
		}
		first := pay()
		id, err := r.paymentOf(bought.SCID)
		require.NoError(t, err)
		r.await(id)
		require.Equal(t, int64(amount)-int64(fee), r.w.Wealth(r.wallet).TotalMsat()-r.before[r.wallet])
		shown, err := r.service.Load().operator.ShowPayment(r.ctx, &lspv1.ShowPaymentRequest{IdOrHash: first.PaymentHash})
		require.NoError(t, err)
		require.Equal(t, uint64(fee), shown.Payment.FeeMsat)
		require.Len(t, shown.Openings, 1, "one channel for probe and payment")
		require.Equal(t, bought.SCID.String(), shown.Payment.JitScid)
	})
}

// What the payer of an LSPS2 client is told, on the wire, where bLIP-52 says it, and that
// it has its money back.
func TestLSPS2WhatPayersSee(t *testing.T) {
	const (
		temporary = lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE
		unknown   = lnrpc.Failure_UNKNOWN_NEXT_PEER
		amount    = 100_000_000
	)
	for name, day := range map[string]struct {
		// size is what is bought for, pays what is paid.
		size, pays int64
		before     func(r *rig, bought lsps2.BuyResult, until time.Time)
		want       lnrpc.Failure_FailureCode
		least      time.Duration
	}{
		"the client is away": {amount, amount, func(r *rig, _ lsps2.BuyResult, _ time.Time) {
			r.w.Disconnect(r.gateway, r.wallet)
		}, temporary, 90 * time.Second},
		"a part never comes": {amount + 1_000, amount, nil, temporary, 90 * time.Second},
		"valid_until has passed": {amount, amount, func(r *rig, _ lsps2.BuyResult, until time.Time) {
			r.pause(time.Until(until))
		}, unknown, 0},
		"it passes while a part is waited for": {amount + 1_000, amount, func(r *rig, _ lsps2.BuyResult, until time.Time) {
			r.pause(time.Until(until) - 30*time.Second)
		}, unknown, 29 * time.Second},
		"it passes while the client is waited for": {amount, amount, func(r *rig, _ lsps2.BuyResult, until time.Time) {
			r.w.Disconnect(r.gateway, r.wallet)
			r.pause(time.Until(until) - 30*time.Second)
		}, unknown, 29 * time.Second},
		"no size, and it cannot bear the fee": {0, 1_500_000, nil, unknown, 0},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: job{name: "lsps2", lsps2: true, parts: 1}})
				r.openBooks()
				item, bought, err := r.lsps.Buy(r.ctx, ln.Msat(day.size))
				require.NoError(t, err)
				invoice := r.lspsInvoice(day.size, bought)
				invoice.Expiry = 7_200
				own, err := r.ln(r.wallet).AddInvoice(r.ctx, invoice)
				require.NoError(t, err)
				if day.before != nil {
					day.before(r, bought, item.ValidUntil)
				}
				began := time.Now()
				list, err := r.ln(r.payer).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{})
				require.NoError(t, err)
				final := r.w.Height() + uint32(invoice.CltvExpiry) + 3 //nolint:gosec // blocks
				attempt, err := routerrpc.NewRouterClient(r.conns[r.payer]).SendToRouteV2(r.ctx, &routerrpc.SendToRouteRequest{
					PaymentHash: own.RHash,
					Route: &lnrpc.Route{
						TotalTimeLock: final + bought.CltvExpiryDelta, TotalAmtMsat: day.pays,
						Hops: []*lnrpc.Hop{
							{ChanId: list.Channels[0].ChanId, PubKey: r.gateway.PubKey(), AmtToForwardMsat: day.pays, Expiry: final},
							{
								ChanId: uint64(bought.SCID), PubKey: r.wallet.PubKey(), AmtToForwardMsat: day.pays, Expiry: final,
								MppRecord: &lnrpc.MPPRecord{PaymentAddr: own.PaymentAddr, TotalAmtMsat: max(day.size, day.pays)},
							},
						},
					},
				})
				require.NoError(t, err)
				require.Equal(t, lnrpc.HTLCAttempt_FAILED, attempt.Status)
				require.Equal(t, day.want, attempt.Failure.Code, r.stories())
				require.EqualValues(t, 1, attempt.Failure.FailureSourceIndex, "the gateway says it")
				require.GreaterOrEqual(t, time.Since(began), day.least)
				require.Less(t, time.Since(began), day.least+time.Minute)
				require.Equal(t, r.before[r.payer], r.w.Wealth(r.payer).TotalMsat())
				require.Empty(t, r.lsps.Odd())
			})
		})
	}
}

// What a client gets for what it may not ask, over the wire.
func TestLSPS2Refusals(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: job{name: "lsps2", lsps2: true, parts: 1}})
		r.openBooks()
		raw, err := r.lsps.Call(r.ctx, lsps2.MethodGetInfo, struct{}{})
		require.NoError(t, err)
		menu, err := lsps2.ReadMenu(raw)
		require.NoError(t, err)
		good := lsps2.BuyRequest{Params: menu[0], SizeMsat: 100_000_000, HasSize: true}
		code := func(method string, params any) int {
			t.Helper()
			r.pause(time.Second)
			_, err := r.lsps.Call(r.ctx, method, params)
			refused := &lsps0.RemoteError{}
			require.ErrorAs(t, err, &refused)
			return refused.Code
		}
		require.Equal(t, lsps0.CodeMethodNotFound, code("lsps9.do_this", nil))
		require.Equal(t, lsps0.CodeInvalidParams, code(lsps0.MethodListProtocols, map[string]int{"x": 1}))
		require.Equal(t, lsps2.CodeUnrecognizedToken, code(lsps2.MethodGetInfo, lsps2.GetInfoRequest{Token: "x"}))
		bad := good
		bad.Params.MinFeeMsat--
		require.Equal(t, lsps2.CodeInvalidParams, code(lsps2.MethodBuy, bad))
		bad = good
		bad.SizeMsat = good.Params.MinPaymentSizeMsat - 1
		require.Equal(t, lsps2.CodeSizeTooSmall, code(lsps2.MethodBuy, bad))
		bad.SizeMsat = good.Params.MaxPaymentSizeMsat + 1
		require.Equal(t, lsps2.CodeSizeTooLarge, code(lsps2.MethodBuy, bad))
		bad.SizeMsat = 3_500_000_000
		require.Equal(t, lsps2.CodeSizeTooLarge, code(lsps2.MethodBuy, bad), "the gateway's own channels bring no more than 3,000,000 sat")
		_, err = r.lsps.Call(r.ctx, lsps2.MethodBuy, good)
		require.NoError(t, err)
		r.pause(time.Until(good.Params.ValidUntil))
		require.Equal(t, lsps2.CodeInvalidParams, code(lsps2.MethodBuy, good), "valid_until itself is too late")
		require.Empty(t, r.lsps.Odd())
	})
}

// A promise is a price, not a voucher: its client may buy by it more than once while
// it is valid, each time another short channel id, as often as its limits allow.
func TestLSPS2OnePromiseManyPurchases(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: job{name: "lsps2", lsps2: true, parts: 1}, configure: func(c *Config) { c.LSP.RequestsEach = 2 }})
		r.openBooks()
		raw, err := r.lsps.Call(r.ctx, lsps2.MethodGetInfo, struct{}{})
		require.NoError(t, err)
		menu, err := lsps2.ReadMenu(raw)
		require.NoError(t, err)
		buy := lsps2.BuyRequest{Params: menu[0], SizeMsat: 100_000_000, HasSize: true}
		bought := map[ln.SCID]bool{}
		for range 2 {
			raw, err = r.lsps.Call(r.ctx, lsps2.MethodBuy, buy)
			require.NoError(t, err)
			got, err := lsps2.ReadBuyResult(raw)
			require.NoError(t, err)
			require.False(t, bought[got.SCID])
			bought[got.SCID] = true
			r.pause(time.Second)
		}
		refused := &lsps0.RemoteError{}
		_, err = r.lsps.Call(r.ctx, lsps2.MethodBuy, buy)
		require.ErrorAs(t, err, &refused)
		require.Equal(t, lsps0.CodeClientRejected, refused.Code)
		require.Empty(t, r.lsps.Odd())
	})
}

// Tokens have menus of their own, from the configuration and at run time; what
// was promised under one stands when the token is withdrawn.
func TestLSPS2Tokens(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: job{name: "lsps2", lsps2: true, parts: 1}, configure: func(c *Config) {
			item := c.LSP.Menu[0]
			item.PPM = 100
			c.LSP.Tokens = []TokenItem{{Token: "FRIENDS", Menu: []MenuItem{item}}}
		}})
		r.openBooks()
		menu := func(token string) ([]lsp.OpeningFeeParams, error) {
			r.pause(time.Second)
			raw, err := r.lsps.Call(r.ctx, lsps2.MethodGetInfo, lsps2.GetInfoRequest{Token: token})
			if err != nil {
				return nil, err
			}
			return lsps2.ReadMenu(raw)
		}
		for range 2 {
			everybody, err := menu("")
			require.NoError(t, err)
			require.EqualValues(t, 10_000, everybody[0].ProportionalPPM)
			friends, err := menu("FRIENDS")
			require.NoError(t, err)
			require.EqualValues(t, 100, friends[0].ProportionalPPM)

			operator := r.service.Load().lsps
			items := []*lspsv1.MenuItem{
				{MinFeeMsat: 3_000_000, ProportionalPpm: 5, MinPaymentSizeMsat: 10_000_000, MaxPaymentSizeMsat: 1_000_000_000, MaxClientToSelfDelayBlocks: 2016, MinLifetimeBlocks: 1008},
				{MinFeeMsat: 4_000_000, ProportionalPpm: 5, MinPaymentSizeMsat: 10_000_000, MaxPaymentSizeMsat: 1_000_000_000, MaxClientToSelfDelayBlocks: 2016, MinLifetimeBlocks: 4032},
			}
			_, err = operator.SetMenu(r.ctx, &lspsv1.SetMenuRequest{Token: "SALE", Items: []*lspsv1.MenuItem{items[1], items[0]}})
			require.ErrorIs(t, err, errkind.Invalid, "bLIP-52's order")
			_, err = operator.SetMenu(r.ctx, &lspsv1.SetMenuRequest{Token: "SALE", Items: items})
			require.NoError(t, err)
			sale, err := menu("SALE")
			require.NoError(t, err)
			require.Len(t, sale, 2)
			list, err := operator.ListMenus(r.ctx, &lspsv1.ListMenusRequest{})
			require.NoError(t, err)
			require.Len(t, list.Menus, 3)
			require.Empty(t, list.Menus[0].Token)
			require.Equal(t, "SALE", list.Menus[2].Token)
			require.Len(t, list.Menus[2].Offered, 2)

			r.killProcess()
			r.pause(time.Second)
			r.up()
			sale, err = menu("SALE")
			require.NoError(t, err, "it stands after a restart")
			_, err = r.service.Load().lsps.WithdrawToken(r.ctx, &lspsv1.WithdrawTokenRequest{Token: "SALE"})
			require.NoError(t, err)
			_, err = menu("SALE")
			refused := &lsps0.RemoteError{}
			require.ErrorAs(t, err, &refused)
			require.Equal(t, lsps2.CodeUnrecognizedToken, refused.Code)
			_, err = r.lsps.Call(r.ctx, lsps2.MethodBuy, lsps2.BuyRequest{Params: sale[0], SizeMsat: 100_000_000, HasSize: true})
			require.NoError(t, err, "what was promised stands")
		}
	})
}
