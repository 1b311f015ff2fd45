package agent

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/lws"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
)

// InvoiceUnknown is the word for an invoice that the node never made.
const InvoiceUnknown = "unknown"

// ask hears what one gateway holds, and registers there if that is wished.
func (a *Agent) ask(ctx context.Context, g Gateway, self ln.PubKey) Status {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	s := Status{Gateway: g, AskedAt: a.ports.Now().UTC()}
	client, err := a.client(g, self)
	if err != nil {
		s.Problem = err
		return s
	}
	got, err := client.GetHold(ctx, &lwsv1.GetHoldRequest{})
	if err != nil {
		s.Problem = said(g, err)
		return s
	}
	if s.Terms = got.GetTerms(); s.Terms == nil {
		s.Terms = &lwsv1.HoldTerms{}
	}
	s.Waiting = a.judge(ctx, got.GetWaiting())
	have := fromWire(got.GetHold())
	s.Registered, s.Wish = got.GetHold() != nil, have
	wish, enabled, decided := a.Wish()
	switch want := Clip(wish, s.Terms); {
	case enabled && (!s.Registered || have != want):
		if _, err := client.SetHold(ctx, &lwsv1.SetHoldRequest{Hold: toWire(want)}); err != nil {
			s.Problem = said(g, err)
			return s
		}
		s.Registered, s.Wish = true, want
	case !enabled && decided && s.Registered:
		if _, err := client.RemoveHold(ctx, &lwsv1.RemoveHoldRequest{}); err != nil {
			s.Problem = said(g, err)
			return s
		}
		s.Registered, s.Wish = false, lws.Wish{}
	}
	return s
}

// Clip is the wish within what a gateway offers: asking for more would be refused.
func Clip(w lws.Wish, t *lwsv1.HoldTerms) lws.Wish {
	if most := time.Duration(t.GetHoldForSeconds()) * time.Second; most > 0 {
		w.HoldFor = min(w.HoldFor, most)
	}
	if most := t.GetMaxHtlcs(); most > 0 {
		w.MaxHtlcs = min(w.MaxHtlcs, int(most))
	}
	if most := t.GetMaxSat(); most > 0 {
		w.MaxSat = min(w.MaxSat, ln.Sat(most))
	}
	w.HoldFor = w.HoldFor.Truncate(time.Second)
	return w
}

func toWire(w lws.Wish) *lwsv1.Hold {
	return &lwsv1.Hold{
		HoldForSeconds: uint32(w.HoldFor / time.Second), MaxHtlcs: uint32(w.MaxHtlcs), //nolint:gosec // clipped to the gateway's terms
		MaxSat: uint64(w.MaxSat), FinalCltvDeltaBlocks: w.FinalCltvDelta,
	}
}

func fromWire(h *lwsv1.Hold) lws.Wish {
	if h == nil {
		return lws.Wish{}
	}
	return lws.Wish{
		HoldFor: time.Duration(h.GetHoldForSeconds()) * time.Second, MaxHtlcs: int(h.GetMaxHtlcs()),
		MaxSat: ln.Sat(h.GetMaxSat()), FinalCltvDelta: h.GetFinalCltvDeltaBlocks(),
	}
}

// maxWaiting bounds what is taken of a gateway's word.
const maxWaiting = 1000

// judge asks the node about the invoice of each payment.
func (a *Agent) judge(ctx context.Context, list []*lwsv1.WaitingPayment) []Waiting {
	out := make([]Waiting, 0, min(len(list), maxWaiting))
	for _, p := range list[:min(len(list), maxWaiting)] {
		hash, err := ln.HashFromBytes(p.GetPaymentHash())
		if err != nil {
			continue
		}
		w := Waiting{WaitingPayment: p, Hash: hash}
		switch inv, err := a.ports.Node.LookupInvoice(ctx, hash); {
		case errors.Is(err, ln.ErrNotFound):
			w.Invoice = InvoiceUnknown
		case err == nil:
			w.Invoice = string(inv.State)
		}
		out = append(out, w)
	}
	return out
}

// said gives a gateway's error its kind back, and names the gateway.
func said(g Gateway, err error) error {
	if status.Code(err) == codes.Unimplemented || strings.Contains(err.Error(), "service \"lws\"") {
		return errkind.Wrap(errkind.Unavailable, err, g.Name+" holds no payments for wallets")
	}
	err = rpcserver.FromStatus(err)
	text := errkind.Sentence(err)
	if text == "" {
		text = err.Error()
	}
	return errkind.Wrap(errkind.Of(err), err, g.Name+": "+text)
}

// Return sends a payment back to its payer, named by its id or the first digits of its hash.
func (a *Agent) Return(ctx context.Context, name string) error {
	if len(name) < 6 {
		return errkind.New(errkind.Invalid, "name the payment by its id, or by at least six digits of its hash: `sluice-wallet holds` lists them")
	}
	all, err := a.Refresh(ctx)
	if err != nil {
		return err
	}
	self, err := a.ports.Node.Info(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		for _, w := range s.Waiting {
			if w.GetId() != name && !strings.HasPrefix(w.Hash.String(), strings.ToLower(name)) {
				continue
			}
			client, err := a.client(s.Gateway, self.PubKey)
			if err != nil {
				return err
			}
			if _, err := client.ReturnPayment(ctx, &lwsv1.ReturnPaymentRequest{Id: w.GetId()}); err != nil {
				return said(s.Gateway, err)
			}
			return nil
		}
	}
	return errkind.New(errkind.NotFound, "no such payment waits: `sluice-wallet holds` lists them")
}
