package app

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	lspapi "github.com/sluice-lsp/sluice/lsp/api"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	lwsapi "github.com/sluice-lsp/sluice/lws/api"
)

func (r *rig) asWallet() context.Context { return asWallet(r, r.walletKey) }

func asWallet(r *rig, key ln.PubKey) context.Context {
	return auth.WithIdentity(r.ctx, auth.Identity{Kind: auth.KindWallet, NodeKey: key, Services: []string{lspapi.Name, lwsapi.Name}})
}

func (r *rig) ln(n *lndfake.Node) lnrpc.LightningClient { return lnrpc.NewLightningClient(r.conns[n]) }

// agreement is an invoice that the wallet shows to the payer.
type agreement struct {
	id     string
	hash   ln.Hash
	bolt11 string
	// The wallet gets amount; the payer's fee on top of it, or the fee taken off.
	walletMsat, payerMsat int64
	opens                 bool
	// preimage of an invoice that the wallet holds.
	preimage ln.Preimage
}

// ask gets an invoice as a wallet's agent does: with a new hash for each try.
func (r *rig) ask() (agreement, error) {
	if r.job.lsps2 {
		return r.askLSPS()
	}
	s := r.service.Load()
	if s == nil {
		return agreement{}, errAway
	}
	menu, err := s.channels.GetMenu(r.asWallet(), &lspv1.GetMenuRequest{})
	if err != nil {
		return agreement{}, err
	}
	if len(menu.OpeningFeeParamsMenu) == 0 {
		return agreement{}, errors.New(menu.Refusal)
	}
	return r.askFor(s, menu.OpeningFeeParamsMenu[0])
}

// askFor gets an invoice under an item of the menu; nil is none.
func (r *rig) askFor(s *services, params *lspv1.OpeningFeeParams) (agreement, error) {
	ctx := r.asWallet()
	wish := &lspv1.ChannelWish{ZeroConf: r.job.confs == 0, MinConfirmations: r.job.confs, AllowAnotherChannel: true, HoldForSeconds: uint32(r.job.holdFor / time.Second)}
	amount := r.job.amountSat * 1000
	if r.job.trust {
		wish.TrustMsat = uint64(amount)
	}
	var preimage ln.Preimage
	for i := range 4 {
		binary.BigEndian.PutUint64(preimage[8*i:], r.rng.Uint64())
	}
	hash := preimage.Hash()
	if r.job.receiverPays {
		fee := int64(0)
		if r.job.opens {
			fee = max(int64(params.MinFeeMsat), (amount*int64(params.ProportionalPpm)+999_999)/1_000_000)
		}
		own, err := r.ln(r.wallet).AddInvoice(ctx, &lnrpc.Invoice{RPreimage: preimage.Bytes(), ValueMsat: amount - fee, Expiry: 1200 + 3600*int64(r.job.confs) + int64(r.job.holdFor/time.Second), CltvExpiry: 80})
		if err != nil {
			return agreement{}, err
		}
		w, err := s.channels.Wrap(ctx, &lspv1.WrapRequest{
			Bolt11: own.PaymentRequest, AmountMsat: uint64(amount), OpeningFeeParams: params, Channel: wish,
		})
		if err != nil {
			return agreement{}, err
		}
		return agreement{id: w.PaymentId, hash: hash, bolt11: w.Bolt11, walletMsat: amount - fee, payerMsat: amount, opens: r.job.opens}, nil
	}
	a, err := s.channels.Negotiate(ctx, &lspv1.NegotiateRequest{
		PaymentHash: hash[:], AmountMsat: uint64(amount), OpeningFeeParams: params, Channel: wish,
		FinalCltvDeltaBlocks: 80, InvoiceExpiresMs: time.Now().Add(10 * time.Minute).UnixMilli(),
	})
	if err != nil {
		return agreement{}, err
	}
	agreed := false
	defer func() {
		if !agreed {
			// As the agent does: what nobody will pay takes no coins from the next try.
			_, _ = s.channels.CancelPayment(ctx, &lspv1.CancelPaymentRequest{PaymentId: a.PaymentId})
		}
	}()
	scid, err := ln.ParseSCID(a.JitScid)
	if err != nil {
		return agreement{}, err
	}
	own, err := r.ln(r.wallet).AddInvoice(ctx, &lnrpc.Invoice{
		RPreimage: preimage.Bytes(), ValueMsat: amount, Expiry: 600 + int64(r.job.holdFor/time.Second), CltvExpiry: 80,
		RouteHints: []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
			NodeId: r.gateway.PubKey(), ChanId: uint64(scid), FeeBaseMsat: a.HintBaseFeeMsat,
			FeeProportionalMillionths: a.HintFeePpm, CltvExpiryDelta: a.HintCltvDeltaBlocks,
		}}}},
	})
	if err != nil {
		return agreement{}, err
	}
	if r.job.holdFor > 0 {
		// Payers must leave the wallet so many blocks more.
		own.PaymentRequest, err = r.walletClient.ReissueInvoice(ctx, "regtest", own.PaymentRequest, ln.Reissue{
			FinalCltvDelta: 80 + uint32(r.job.holdFor/(10*time.Minute)), Expiry: 10 * time.Minute,
		})
		if err != nil {
			return agreement{}, err
		}
	}
	agreed = true
	return agreement{
		id: a.PaymentId, hash: hash, bolt11: own.PaymentRequest, walletMsat: amount,
		payerMsat: amount + int64(a.FeeMsat), opens: a.OpensChannel,
	}, nil
}

// agree asks until it has an invoice.
func (r *rig) agree() agreement {
	r.t.Helper()
	var last error
	for range 200 {
		a, err := r.ask()
		if err == nil {
			return a
		}
		last = err
		r.pause(r.step)
	}
	r.t.Fatalf("no agreement: %v", last)
	return agreement{}
}

// openBooks lets the books begin with what lnd holds.
func (r *rig) openBooks() { r.reconcile() }

// reconcile asks as a person does: again, while sluiced is away or cannot reach
// an lnd that has just been killed.
func (r *rig) reconcile() *lspv1.ReconcileResponse {
	r.t.Helper()
	var books *lspv1.ReconcileResponse
	var last error
	for range 200 {
		if s := r.service.Load(); s != nil {
			if books, last = s.operator.Reconcile(r.ctx, &lspv1.ReconcileRequest{}); last == nil {
				return books
			}
		}
		r.pause(r.step)
	}
	r.t.Fatalf("the books cannot be reconciled: %v", last)
	return nil
}

// pay is the payer: it tries for the time-out that a phone would.
func (r *rig) pay(bolt11 string) <-chan *lnrpc.Payment {
	r.t.Helper()
	return r.send(&routerrpc.SendPaymentRequest{
		PaymentRequest: bolt11, TimeoutSeconds: 120, NoInflightUpdates: true, FeeLimitMsat: 100_000_000, MaxParts: 4,
	})
}

func (r *rig) send(req *routerrpc.SendPaymentRequest) <-chan *lnrpc.Payment {
	r.t.Helper()
	stream, err := routerrpc.NewRouterClient(r.conns[r.payer]).SendPaymentV2(r.ctx, req)
	require.NoError(r.t, err)
	return r.result(stream)
}

// track is send's result, of a payment that the payer's node had begun before it was restarted.
func (r *rig) track(hash ln.Hash) <-chan *lnrpc.Payment {
	r.t.Helper()
	stream, err := routerrpc.NewRouterClient(r.conns[r.payer]).TrackPaymentV2(r.ctx, &routerrpc.TrackPaymentRequest{PaymentHash: hash[:], NoInflightUpdates: true})
	require.NoError(r.t, err)
	return r.result(stream)
}

func (r *rig) result(stream interface {
	Recv() (*lnrpc.Payment, error)
},
) <-chan *lnrpc.Payment {
	out := make(chan *lnrpc.Payment, 1)
	r.running.Go(func() {
		m, err := stream.Recv()
		if err != nil && !errors.Is(err, io.EOF) {
			return
		}
		out <- m
	})
	return out
}

// outcome waits for the payer's result, mining now and then: somebody always
// mines, what waits for confirmations needs it, and a payment that lnd lost in a
// restart ends a hundred blocks later.
func (r *rig) outcome(paid <-chan *lnrpc.Payment) *lnrpc.Payment {
	r.t.Helper()
	for i := range 8000 {
		select {
		case m := <-paid:
			return m
		case <-time.After(r.step):
		}
		switch {
		case i%40 == 39, r.job.confs > 0 && i%20 == 19, r.realTime && i > 3000 && i%4 == 3:
			r.w.Mine(1)
		}
	}
	r.t.Fatalf("the payer is neither paid nor refunded; in flight: payer %d, gateway %d msat",
		r.w.Wealth(r.payer).InFlightMsat, r.w.Wealth(r.gateway).InFlightMsat)
	return nil
}

// await waits until the payment has ended in sluiced's own eyes. One that was
// refunded ends with its invoice, which ask lets live for hours where
// confirmations are awaited.
func (r *rig) await(id string) {
	r.t.Helper()
	for until := time.Now().Add(time.Hour * time.Duration(1+r.job.confs)); time.Now().Before(until); {
		if s := r.service.Load(); s != nil {
			p, err := s.channels.GetPayment(r.asWallet(), &lspv1.GetPaymentRequest{PaymentId: id})
			if err == nil && p.Payment.Terminal {
				return
			}
		}
		r.pause(r.step)
	}
	r.t.Fatalf("payment %s does not end\n%s", id, r.stories())
}
