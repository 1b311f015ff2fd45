package lnd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// AddHoldInvoice makes an invoice whose preimage somebody else knows. Adding a
// hash that lnd has already is ln.ErrExists.
func (c *Client) AddHoldInvoice(ctx context.Context, r ln.HoldInvoiceRequest) (bolt11 string, err error) {
	amount, err := r.AmountMsat.Int64()
	if err != nil {
		return "", err
	}
	resp, err := c.invoices.AddHoldInvoice(ctx, &invoicesrpc.AddHoldInvoiceRequest{
		Memo: r.Memo, Hash: r.Hash[:], ValueMsat: amount, DescriptionHash: r.DescriptionHash,
		Expiry: int64(r.Expiry / time.Second), CltvExpiry: uint64(r.FinalCltvDelta),
		RouteHints: hintsToRPC(r.RouteHints), Private: r.Private,
	})
	if err != nil {
		return "", mapError("add a hold invoice", err)
	}
	return resp.PaymentRequest, nil
}

// AddInvoice makes an ordinary invoice; lnd keeps its preimage, and makes it
// unless the request brings one. A hash that lnd has already is ln.ErrExists.
func (c *Client) AddInvoice(ctx context.Context, r ln.InvoiceRequest) (bolt11 string, hash ln.Hash, err error) {
	amount, err := r.AmountMsat.Int64()
	if err != nil {
		return "", hash, err
	}
	req := &lnrpc.Invoice{
		Memo: r.Memo, ValueMsat: amount, Expiry: int64(r.Expiry / time.Second), CltvExpiry: uint64(r.FinalCltvDelta),
		RouteHints: hintsToRPC(r.RouteHints), Private: r.Private,
	}
	if !r.Preimage.IsZero() {
		req.RPreimage = r.Preimage.Bytes()
	}
	resp, err := c.lightning.AddInvoice(ctx, req)
	if err != nil {
		return "", hash, mapError("add an invoice", err)
	}
	hash, err = ln.HashFromBytes(resp.RHash)
	return resp.PaymentRequest, hash, err
}

// LookupInvoice reads one invoice, or ln.ErrNotFound.
func (c *Client) LookupInvoice(ctx context.Context, hash ln.Hash) (ln.Invoice, error) {
	inv, err := c.invoices.LookupInvoiceV2(ctx, &invoicesrpc.LookupInvoiceMsg{
		InvoiceRef: &invoicesrpc.LookupInvoiceMsg_PaymentHash{PaymentHash: hash[:]},
	})
	if err != nil {
		return ln.Invoice{}, mapError("look up an invoice", err)
	}
	return invoiceFromRPC(inv)
}

// SubscribeInvoice gives every state of one invoice, the present one first.
func (c *Client) SubscribeInvoice(ctx context.Context, hash ln.Hash, handle func(ln.Invoice)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.invoices.SubscribeSingleInvoice(ctx, &invoicesrpc.SubscribeSingleInvoiceRequest{RHash: hash[:]})
	if err != nil {
		return mapError("subscribe to an invoice", err)
	}
	return receive("invoice updates", stream.Recv, func(inv *lnrpc.Invoice) error {
		converted, err := invoiceFromRPC(inv)
		if err == nil {
			handle(converted)
		}
		return err
	})
}

// SettleInvoice settles a held invoice. Settling a settled one is success.
func (c *Client) SettleInvoice(ctx context.Context, preimage ln.Preimage) error {
	_, err := c.invoices.SettleInvoice(ctx, &invoicesrpc.SettleInvoiceMsg{Preimage: preimage.Bytes()})
	mapped := mapError("settle invoice "+preimage.Hash().Short(), err)
	if errors.Is(mapped, ln.ErrInvoiceClosed) {
		inv, lookErr := c.LookupInvoice(ctx, preimage.Hash())
		if lookErr == nil && inv.State == ln.InvoiceSettled {
			return nil
		}
	}
	return mapped
}

// CancelInvoice cancels an open or held invoice and so refunds its payers.
// Cancelling a cancelled one is success; a settled one is ln.ErrInvoiceClosed.
func (c *Client) CancelInvoice(ctx context.Context, hash ln.Hash) error {
	_, err := c.invoices.CancelInvoice(ctx, &invoicesrpc.CancelInvoiceMsg{PaymentHash: hash[:]})
	mapped := mapError("cancel invoice "+hash.Short(), err)
	if errors.Is(mapped, ln.ErrInvoiceClosed) {
		inv, lookErr := c.LookupInvoice(ctx, hash)
		if lookErr == nil && inv.State == ln.InvoiceCanceled {
			return nil
		}
	}
	return mapped
}

// SettledInvoices lists a page of invoices beyond an add index, as far as they
// are settled, so that the books need not read all history again.
func (c *Client) SettledInvoices(ctx context.Context, after uint64) (page ln.InvoicePage, err error) {
	page = ln.InvoicePage{Next: after, From: after, Done: true}
	resp, err := c.lightning.ListInvoices(ctx, &lnrpc.ListInvoiceRequest{IndexOffset: after, NumMaxInvoices: 1000})
	if err != nil {
		return page, mapError("list invoices", err)
	}
	for _, inv := range resp.Invoices {
		if final := inv.State == lnrpc.Invoice_SETTLED || inv.State == lnrpc.Invoice_CANCELED; !final {
			page.Open = true
		} else if !page.Open {
			page.From = inv.AddIndex
		}
		if inv.State != lnrpc.Invoice_SETTLED {
			continue
		}
		converted, err := invoiceFromRPC(inv)
		if err != nil {
			return page, err
		}
		page.Settled = append(page.Settled, converted)
	}
	if len(resp.Invoices) > 0 && resp.LastIndexOffset > after {
		page.Next, page.Done = resp.LastIndexOffset, false
	}
	return page, nil
}

// InvoicesAfter lists a page of invoices beyond an add index, whatever became of them,
// with the index to go on from; the same index when there are none.
func (c *Client) InvoicesAfter(ctx context.Context, after uint64) ([]ln.Invoice, uint64, error) {
	resp, err := c.lightning.ListInvoices(ctx, &lnrpc.ListInvoiceRequest{IndexOffset: after, NumMaxInvoices: 1000})
	if err != nil {
		return nil, after, mapError("list invoices", err)
	}
	out := make([]ln.Invoice, 0, len(resp.Invoices))
	for _, inv := range resp.Invoices {
		converted, err := invoiceFromRPC(inv)
		if err != nil {
			return nil, after, err
		}
		out = append(out, converted)
		after = max(after, inv.AddIndex)
	}
	return out, after, nil
}

// NewestIndexes are lnd's own counts of invoices and of payments, as they stand.
func (c *Client) NewestIndexes(ctx context.Context) (invoices, payments uint64, err error) {
	made, err := c.lightning.ListInvoices(ctx, &lnrpc.ListInvoiceRequest{Reversed: true, NumMaxInvoices: 1})
	if err != nil {
		return 0, 0, mapError("ask for the newest invoice", err)
	}
	sent, err := c.lightning.ListPayments(ctx, &lnrpc.ListPaymentsRequest{Reversed: true, MaxPayments: 1, IncludeIncomplete: true})
	if err != nil {
		return 0, 0, mapError("ask for the newest payment", err)
	}
	for _, inv := range made.Invoices {
		invoices = inv.AddIndex
	}
	for _, p := range sent.Payments {
		payments = p.PaymentIndex
	}
	return invoices, payments, nil
}

// OpenInvoices are those that are neither settled nor cancelled, with their
// preimages where lnd has them. lnd cancels what expires, so that they are few.
func (c *Client) OpenInvoices(ctx context.Context) (out []ln.Invoice, err error) {
	const page = 1000
	for after := uint64(0); ; {
		resp, err := c.lightning.ListInvoices(ctx, &lnrpc.ListInvoiceRequest{PendingOnly: true, IndexOffset: after, NumMaxInvoices: page})
		if err != nil {
			return nil, mapError("list open invoices", err)
		}
		for _, inv := range resp.Invoices {
			converted, err := invoiceFromRPC(inv)
			if err != nil {
				return nil, err
			}
			copy(converted.Preimage[:], inv.RPreimage)
			out = append(out, converted)
		}
		if len(resp.Invoices) < page || resp.LastIndexOffset <= after {
			return out, nil
		}
		after = resp.LastIndexOffset
	}
}

func invoiceFromRPC(inv *lnrpc.Invoice) (ln.Invoice, error) {
	hash, err := ln.HashFromBytes(inv.RHash)
	if err != nil {
		return ln.Invoice{}, fmt.Errorf("lnd's invoice: %w", err)
	}
	created := time.Unix(inv.CreationDate, 0)
	out := ln.Invoice{
		Hash: hash, Bolt11: inv.PaymentRequest, AmountMsat: msat(inv.ValueMsat), PaidMsat: msat(inv.AmtPaidMsat),
		FinalCltvDelta: uint32(inv.CltvExpiry), CreatedAt: created, Memo: inv.Memo,
		ExpiresAt: created.Add(time.Duration(inv.Expiry) * time.Second), SettleIndex: inv.SettleIndex,
	}
	copy(out.PaymentAddr[:], inv.PaymentAddr)
	switch inv.State {
	case lnrpc.Invoice_OPEN:
		out.State = ln.InvoiceOpen
	case lnrpc.Invoice_ACCEPTED:
		out.State = ln.InvoiceAccepted
	case lnrpc.Invoice_SETTLED:
		out.State = ln.InvoiceSettled
		if len(inv.RPreimage) == len(out.Preimage) {
			copy(out.Preimage[:], inv.RPreimage)
		}
	case lnrpc.Invoice_CANCELED:
		out.State = ln.InvoiceCanceled
	default:
		return out, fmt.Errorf("lnd's invoice %s has state %s, which this version does not know", hash.Short(), inv.State)
	}
	for _, h := range inv.Htlcs {
		state := ln.InvoiceAccepted
		switch h.State {
		case lnrpc.InvoiceHTLCState_SETTLED:
			state = ln.InvoiceSettled
		case lnrpc.InvoiceHTLCState_CANCELED:
			state = ln.InvoiceCanceled
		default:
		}
		out.Htlcs = append(out.Htlcs, ln.InvoiceHtlc{
			Key:     ln.CircuitKey{ChanID: ln.SCID(h.ChanId), HtlcID: h.HtlcIndex},
			AmtMsat: ln.Msat(h.AmtMsat), ResolvedAt: time.Unix(h.ResolveTime, 0), AcceptHeight: uint32(h.AcceptHeight), Expiry: uint32(h.ExpiryHeight), State: state,
		})
	}
	return out, nil
}
