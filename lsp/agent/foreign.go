package agent

import (
	"context"
	"slices"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/lsps2"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
)

// OnDemand is LSPS2's menu, and LSPS5.
type OnDemand interface {
	Menu(ctx context.Context, lsp ln.PubKey, token string) ([]lsp.OpeningFeeParams, error)
	SetWebhook(ctx context.Context, lsp ln.PubKey, app, url string) (lsps5.SetResult, error)
	Webhooks(ctx context.Context, lsp ln.PubKey) (lsps5.ListResult, error)
	RemoveWebhook(ctx context.Context, lsp ln.PubKey, app string) error
}

// errWithheld says why a menu of LSPS2 is shown and not used: its fee is withheld
// from what is forwarded, and lnd refuses an HTLC that brings less than its onion
// says, whatever its invoice says.
var errWithheld = errkind.New(errkind.Invalid, "it sells channels on demand by LSPS2 only, which takes its fee out of the payment: an lnd refuses such a payment. Order a channel of it (`sluice-wallet order`), or receive through an LSP that runs Sluice")

// foreign is the menu of an LSP that speaks LSPS and nothing of ours.
func (a *Agent) foreign(ctx context.Context, l LSP) (Menu, error) {
	m := Menu{LSP: l, Accepting: true, Withheld: true}
	if a.ports.LSPS == nil {
		return m, errNoLSPS
	}
	served, err := a.ports.LSPS.Protocols(ctx, l.NodeKey)
	if err != nil {
		return m, prefixed(l.Name, err)
	}
	m.Serves = served
	if slices.Contains(served, lsps2.Number) {
		if m.Offers, err = a.ports.LSPS.Menu(ctx, l.NodeKey, ""); err != nil {
			return m, prefixed(l.Name, err)
		}
	}
	if len(m.Offers) == 0 {
		m.Refused = errkind.New(errkind.Unavailable, l.Name+" offers no channels on demand (`sluice-wallet order` buys one outright, if it sells them)")
	}
	return m, nil
}

// OrderOffer is what a channel to receive an amount through costs outright.
type OrderOffer struct {
	LSP    LSP
	LspSat ln.Sat
	Order  Order
	Err    error
}

// OrderOffers asks every LSP that sells channels by LSPS1 what one costs that takes
// the amount. LSPS1 tells a price only of an order, so that each is ordered, and
// lapses unpaid.
func (a *Agent) OrderOffers(ctx context.Context, amount ln.Msat) []OrderOffer {
	lsps := a.book.List()
	out := make([]OrderOffer, len(lsps))
	each(lsps, func(i int, l LSP) {
		ctx, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
		defer cancel()
		out[i] = a.orderOffer(ctx, l, amount)
	})
	slices.SortStableFunc(out, func(a, b OrderOffer) int {
		switch {
		case (a.Err == nil) != (b.Err == nil):
			if a.Err == nil {
				return -1
			}
			return 1
		case a.Order.FeeSat < b.Order.FeeSat:
			return -1
		case a.Order.FeeSat > b.Order.FeeSat:
			return 1
		}
		return 0
	})
	return out
}

func (a *Agent) orderOffer(ctx context.Context, l LSP, amount ln.Msat) OrderOffer {
	o := OrderOffer{LSP: l}
	if a.ports.LSPS == nil {
		o.Err = errNoLSPS
		return o
	}
	options, err := a.ports.LSPS.OrderOptions(ctx, l.NodeKey)
	if err != nil {
		o.Err = prefixed(l.Name, err)
		return o
	}
	o.LspSat = max(sizeFor(amount), options.MinLspSat)
	if options.MinClientSat < options.MinChannelSat {
		o.LspSat = max(o.LspSat, options.MinChannelSat-options.MinClientSat)
	}
	r := OrderRequest{LSP: l.Name, LspBalanceSat: o.LspSat, ClientBalanceSat: options.MinClientSat, Confirmations: -1}
	if o.Order, o.Err = a.order(ctx, l, r); o.Err != nil {
		o.Err = prefixed(l.Name, o.Err)
	}
	return o
}

// sizeFor is a balance of the LSP's through which an amount can come: the reserve
// that it must keep, and what the commitment costs it, do not.
func sizeFor(amount ln.Msat) ln.Sat {
	const commitment = 5_000
	sat := amount.ToSatCeil()
	return sat + sat/50 + commitment
}

// SetWebhook has an LSP wake this wallet (LSPS5).
func (a *Agent) SetWebhook(ctx context.Context, name, app, url string) (lsps5.SetResult, error) {
	l, err := a.orderLSP(name)
	if err != nil {
		return lsps5.SetResult{}, err
	}
	switch {
	case app == "" || len(app) > lsps5.MaxAppName || printable(app) != app:
		return lsps5.SetResult{}, errkind.Newf(errkind.Invalid, "a webhook's name has 1 to %d printable bytes", lsps5.MaxAppName)
	case len(url) > lsps5.MaxURL:
		return lsps5.SetResult{}, errkind.Newf(errkind.Invalid, "a webhook's URL has at most %d characters", lsps5.MaxURL)
	}
	if _, refused := lsps5.ParseTarget(url); refused != nil {
		return lsps5.SetResult{}, errkind.New(errkind.Invalid, "the webhook must be an https URL, in ASCII")
	}
	r, err := a.ports.LSPS.SetWebhook(ctx, l.NodeKey, app, url)
	if err != nil {
		return r, prefixed(l.Name, err)
	}
	return r, nil
}

// Webhooks are those that an LSP keeps for this wallet.
func (a *Agent) Webhooks(ctx context.Context, name string) (lsps5.ListResult, error) {
	l, err := a.orderLSP(name)
	if err != nil {
		return lsps5.ListResult{}, err
	}
	r, err := a.ports.LSPS.Webhooks(ctx, l.NodeKey)
	if err != nil {
		return r, prefixed(l.Name, err)
	}
	for i, app := range r.AppNames {
		r.AppNames[i] = printable(app)
	}
	return r, nil
}

// RemoveWebhook takes one out.
func (a *Agent) RemoveWebhook(ctx context.Context, name, app string) error {
	l, err := a.orderLSP(name)
	if err != nil {
		return err
	}
	if err := a.ports.LSPS.RemoveWebhook(ctx, l.NodeKey, app); err != nil {
		return prefixed(l.Name, err)
	}
	return nil
}
