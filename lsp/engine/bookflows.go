package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/books"
)

// bookFlows takes in what moved over Lightning since the cursors: forwards,
// payments of the node's own, invoices of its own.
func (e *Engine) bookFlows(ctx context.Context, c *cursors) error {
	for _, step := range []func(context.Context, *cursors) error{e.bookForwards, e.bookPayments, e.bookInvoices} {
		if err := step(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// postFlow posts a movement that lnd reports. Where a flow of ours has booked
// it already, lnd's report still tells over which channel a payment reached
// the wallet, which that flow did not know.
func postFlow(ctx context.Context, tx *store.Tx, entry ledger.Entry) error {
	old, found, err := ledger.Lookup(ctx, tx, entry.Key)
	if err != nil {
		return err
	}
	if !found {
		return ledger.Post(ctx, tx, entry)
	}
	var lines []ledger.Line
	var sum int64
	for _, l := range old.Lines {
		if n := books.Parse(string(l.Account)); !n.Peer.IsZero() {
			lines = append(lines, ledger.Line{Account: l.Account, AmountMsat: -l.AmountMsat})
			sum += l.AmountMsat
		}
	}
	if len(lines) == 0 {
		return nil
	}
	for _, l := range entry.Lines {
		if strings.HasPrefix(string(l.Account), books.OutPrefix) {
			lines = append(lines, l)
			sum -= l.AmountMsat
		}
	}
	if sum != 0 {
		return nil
	}
	return ledger.Post(ctx, tx, ledger.Entry{
		Key: "channel-of/" + entry.Key, At: entry.At, Reference: old.Reference,
		Reason: "the channel that lnd chose", Lines: lines,
	})
}

// savePage posts a page of movements with the cursors beyond it.
func (e *Engine) savePage(ctx context.Context, c cursors, entries []ledger.Entry) error {
	err := e.writeBooks(ctx, func(ctx context.Context, tx *store.Tx) error {
		for _, entry := range entries {
			if err := postFlow(ctx, tx, entry); err != nil {
				return err
			}
		}
		return e.saveCursors(ctx, tx, c)
	})
	e.progress.count.Add(int64(len(entries)))
	return err
}

func (e *Engine) bookForwards(ctx context.Context, c *cursors) error {
	e.progress.at("forwards")
	for {
		page, err := e.opt.Books.ForwardingHistory(ctx, time.Unix(0, 0), c.Forwards, historyPage)
		if err != nil {
			return err
		}
		var entries []ledger.Entry
		for _, f := range page {
			if entry, ok := forwardEntry(f, *c); ok {
				entries = append(entries, entry)
			}
		}
		if len(page) == 0 {
			return nil
		}
		c.Forwards += uint32(len(page)) //nolint:gosec // at most historyPage
		if err := e.savePage(ctx, *c, entries); err != nil {
			return err
		}
		if len(page) < historyPage {
			return nil
		}
	}
}

// forwardEntry books one settled forward. lnd writes its history late: what
// was over before the books were opened is in the opening balance, except for
// what was still on its way back to us then.
func forwardEntry(f ln.Forward, c cursors) (ledger.Entry, bool) {
	in, out := int64(f.IncomingMsat), int64(f.OutgoingMsat) //nolint:gosec // amounts of lnd's
	key := "forward/" + f.Incoming.String()
	if !f.HasIndexes {
		key = fmt.Sprintf("forward-at/%d", f.Offset)
	}
	entry := ledger.Entry{Key: key, At: f.At, Reason: "ordinary forward"}
	if f.At.Before(c.Began) {
		entry.Reason = "the incoming side of a forward that was settled when the books were opened"
		entry.Lines = ledgerLines([]books.Line{{Account: books.InAccount(f.Incoming.ChanID), Msat: in}, {Account: books.AtStart, Msat: -in}})
		return entry, f.HasIndexes && in != 0 && slices.Contains(c.HeldBefore, f.Incoming)
	}
	entry.Lines = ledgerLines([]books.Line{
		{Account: books.InAccount(f.Incoming.ChanID), Msat: in},
		{Account: books.OutAccount(f.Outgoing.ChanID), Msat: -out},
		{Account: books.Routing, Msat: -(in - out)},
	})
	return entry, len(entry.Lines) > 1
}

// bookPayments goes from the first payment that had no outcome the last time:
// one that is stuck must not keep later ones out of the books.
func (e *Engine) bookPayments(ctx context.Context, c *cursors) error {
	e.progress.at("payments")
	open := false
	for at := c.Payments; ; {
		page, next, err := e.opt.Books.SentPayments(ctx, at)
		if err != nil || len(page) == 0 {
			return err
		}
		var entries []ledger.Entry
		for _, p := range page {
			open = open || p.State == ln.PaymentInFlight
			if !open {
				c.Payments = p.Index
			}
			if p.State != ln.PaymentSucceeded || slices.Contains(c.PaidBefore, p.Index) {
				continue
			}
			var lines []books.Line
			var total int64
			at := c.Began
			for _, part := range p.Parts {
				amount := int64(part.AmtMsat) //nolint:gosec // an amount of lnd's
				lines = append(lines, books.Line{Account: books.OutAccount(part.ChanID), Msat: -amount})
				total += amount
				at = part.EndedAt
			}
			entries = append(entries, ledger.Entry{
				Key: "payment/" + p.Hash.String(), At: at, Reason: "payment sent by the gateway's node",
				Lines: ledgerLines(books.Tidy(append(lines, books.Line{Account: books.OwnPayments, Msat: total}))),
			})
		}
		c.PaidBefore = slices.DeleteFunc(c.PaidBefore, func(index uint64) bool { return index <= c.Payments })
		if err := e.savePage(ctx, *c, entries); err != nil {
			return err
		}
		at = next
	}
}

// bookInvoices goes from the first invoice that was open the last time.
func (e *Engine) bookInvoices(ctx context.Context, c *cursors) error {
	e.progress.at("invoices")
	open := false
	for at := c.Invoices; ; {
		page, err := e.opt.Books.SettledInvoices(ctx, at)
		if err != nil {
			return err
		}
		if !open {
			c.Invoices = page.From
		}
		open = open || page.Open
		var entries []ledger.Entry
		for _, inv := range page.Settled {
			if inv.SettleIndex <= c.SettledBefore {
				continue
			}
			var lines []books.Line
			var paid int64
			at := inv.CreatedAt
			for _, h := range inv.Htlcs {
				if h.State != ln.InvoiceSettled {
					continue
				}
				amount := int64(h.AmtMsat) //nolint:gosec // an amount of lnd's
				lines = append(lines, books.Line{Account: books.InAccount(h.Key.ChanID), Msat: amount})
				paid += amount
				at = h.ResolvedAt
			}
			if paid == 0 {
				continue
			}
			entries = append(entries, ledger.Entry{
				Key: "invoice/" + inv.Hash.String(), At: at, Reason: "invoice of the gateway's node settled",
				Lines: ledgerLines(books.Tidy(append(lines, books.Line{Account: books.OwnInvoices, Msat: -paid}))),
			})
		}
		if page.Done {
			return nil
		}
		if err := e.savePage(ctx, *c, entries); err != nil {
			return err
		}
		at = page.Next
	}
}
