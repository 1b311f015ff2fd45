package agent

import (
	"context"
	"time"
	"unicode"

	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/agent/holdagentv1"
)

// RegisterControl serves the agent to the command line.
func (a *Agent) RegisterControl(r grpc.ServiceRegistrar) {
	holdagentv1.RegisterWalletHoldsServer(r, &control{agent: a})
}

type control struct {
	holdagentv1.UnimplementedWalletHoldsServer
	agent *Agent
}

func (c *control) GetHolds(ctx context.Context, r *holdagentv1.GetHoldsRequest) (*holdagentv1.GetHoldsResponse, error) {
	all := c.agent.Known()
	if r.GetFresh() {
		// Without lnd's answer what was heard last is what there is.
		if fresh, err := c.agent.Refresh(ctx); err == nil {
			all = fresh
		}
	}
	w, enabled, _ := c.agent.Wish()
	return &holdagentv1.GetHoldsResponse{
		Wish:     &holdagentv1.Wish{Enabled: enabled, HoldForSeconds: int64(w.HoldFor / time.Second), MaxHtlcs: uint32(max(w.MaxHtlcs, 0)), MaxSat: uint64(w.MaxSat)}, //nolint:gosec // not negative
		Gateways: statusesToWire(all),
	}, nil
}

func (c *control) SetHolds(ctx context.Context, r *holdagentv1.SetHoldsRequest) (*holdagentv1.SetHoldsResponse, error) {
	w := r.GetWish()
	if w == nil {
		return nil, errkind.New(errkind.Invalid, "say what is wished")
	}
	s := Said{Enabled: w.GetEnabled(), MaxHtlcs: int(min(w.GetMaxHtlcs(), 482)), MaxSat: ln.Sat(w.GetMaxSat())}
	if n := w.GetHoldForSeconds(); n > 0 {
		s.HoldFor = (time.Duration(min(n, 30*24*3600)) * time.Second).String()
	}
	all, err := c.agent.Say(ctx, s)
	if err != nil {
		return nil, err
	}
	return &holdagentv1.SetHoldsResponse{Gateways: statusesToWire(all)}, nil
}

func (c *control) ReturnPayment(ctx context.Context, r *holdagentv1.ReturnPaymentRequest) (*holdagentv1.ReturnPaymentResponse, error) {
	return &holdagentv1.ReturnPaymentResponse{}, c.agent.Return(ctx, r.GetPayment())
}

func (c *control) MakeInvoice(ctx context.Context, r *holdagentv1.MakeInvoiceRequest) (*holdagentv1.MakeInvoiceResponse, error) {
	const most = 30 * 24 * 3600
	inv, err := c.agent.MakeInvoice(ctx, InvoiceRequest{
		AmountMsat: ln.Msat(r.GetAmountMsat()), Description: r.GetDescription(), Gateway: r.GetGateway(),
		Expiry: time.Duration(min(max(r.GetExpirySeconds(), 0), most)) * time.Second, Wait: time.Duration(min(max(r.GetWaitSeconds(), 0), most)) * time.Second,
	})
	if err != nil {
		return nil, err
	}
	return &holdagentv1.MakeInvoiceResponse{
		Bolt11: inv.Bolt11, PaymentHash: inv.Hash.String(), Gateway: inv.Gateway, ExpiresMs: inv.ExpiresAt.UnixMilli(),
		PayerFinalCltvDeltaBlocks: inv.Plan.PayerFinal, FinalCltvDeltaBlocks: inv.Plan.OwnFinal, WaitBlocks: inv.Plan.WaitBlocks,
		PriceMsat: uint64(inv.Plan.PriceMsat),
	}, nil
}

func statusesToWire(all []Status) []*holdagentv1.Gateway {
	out := make([]*holdagentv1.Gateway, 0, len(all))
	for _, s := range all {
		g := &holdagentv1.Gateway{
			Name: s.Name, Registered: s.Registered, HoldForSeconds: int64(s.Wish.HoldFor / time.Second),
			PriceMsatPerMillionSatBlocks: s.Terms.GetPriceMsatPerMillionSatBlocks(),
		}
		if s.Problem != nil {
			g.Problem = errkind.Told(s.Problem)
		}
		if !s.AskedAt.IsZero() {
			g.AskedMs = s.AskedAt.UnixMilli()
		}
		for _, w := range s.Waiting {
			var webhooks []string
			for _, call := range w.GetWebhooks()[:min(len(w.GetWebhooks()), maxWebhooks)] {
				webhooks = append(webhooks, printable(call))
			}
			g.Waiting = append(g.Waiting, &holdagentv1.Waiting{
				Id: printable(w.GetId()), PaymentHash: w.Hash.String(), AmountMsat: w.GetAmountMsat(), Htlcs: w.GetHtlcs(),
				SinceMs: w.GetSinceMs(), UntilMs: w.GetUntilMs(), BlocksLeft: w.GetBlocksLeft(), Wakes: w.GetWakes(),
				LastWakeMs: w.GetLastWakeMs(), LastWake: printable(w.GetLastWake()), State: printable(w.GetState()), Invoice: w.Invoice,
				Webhooks: webhooks, Kind: printable(w.GetKind()),
			})
		}
		out = append(out, g)
	}
	return out
}

// maxWebhooks bounds what is taken of a gateway's word.
const maxWebhooks = 20

// printable keeps a gateway's words from steering the terminal that shows them.
func printable(s string) string {
	out := []rune(s)
	for i, r := range out {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			out[i] = ' '
		}
	}
	return ln.Clip(string(out), 200)
}
