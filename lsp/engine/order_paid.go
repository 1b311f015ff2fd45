package engine

import (
	"context"
	"errors"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/order"
)

// unpaid says why a held payment does not pay for its order any more; the zero reason is
// that it does, or that the order was paid otherwise. It was asked when the set was
// complete, and is asked again before a channel is begun and before it is signed: a client
// decides when its node connects, up to an hour later. If it has closed the channel that
// brought the money by then, a claim costs a transaction of ours, and parts too small for
// one are nobody's; yet lnd goes on calling the invoice accepted.
func (e *Engine) unpaid(ctx context.Context, orderID string) (lsp.Reason, error) {
	inst, err := e.orders.Get(ctx, orderID)
	if errors.Is(err, store.ErrNotFound) {
		return lsp.Reason{}, nil
	}
	if err != nil {
		return lsp.Reason{}, err
	}
	o := order.Of(inst.State)
	if o.PaidBy != order.PaidByLightning || o.Settled || o.Lightning == nil {
		return lsp.Reason{}, nil
	}
	inv, err := e.node.Invoices.LookupInvoice(ctx, o.Lightning.Hash)
	if err != nil && !errors.Is(err, ln.ErrNotFound) {
		return lsp.Reason{}, err
	}
	switch inv.State {
	case ln.InvoiceSettled:
		return lsp.Reason{}, nil
	case ln.InvoiceAccepted:
		safe, text, err := e.incomingSafe(ctx, orderID, inv.HtlcsIn(ln.InvoiceAccepted))
		if err != nil || safe {
			return lsp.Reason{}, err
		}
		return lsp.Because(lsp.ReasonUnsafeIncoming, "%s: it went back; order again", text), nil
	}
	return lsp.Because(lsp.ReasonInvoiceCanceled, "the gateway's node does not hold the payment any more: order again"), nil
}

// signedInVain says why an open should not be signed after all: its order is unpaid.
func (e *Engine) signedInVain(ctx context.Context, openingID string) (string, error) {
	inst, err := e.openings.Get(ctx, openingID)
	if err != nil {
		return "", err
	}
	machine, id, _ := splitOwner(opening.PlanOf(inst.State).Owner)
	if machine != machineOrder {
		return "", nil
	}
	why, err := e.unpaid(ctx, id)
	return why.Text, err
}
