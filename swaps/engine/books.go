package engine

import (
	"context"
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// The accounts of swaps. What moved over channels and in the wallet is booked
// from lnd's own lists (lsp/books), invoices of the node's own against
// equity/own_invoices and payments to strangers against equity/outside. Swaps
// explain those two accounts.
const (
	ownInvoices = "equity/own_invoices"
	outside     = "equity/outside"
	chainFee    = "expense/chain_fee"
	swapFee     = "income/swap_fee"
	openingFee  = "income/opening_fee"
	noShow      = "income/swap_no_show"
	swapLoss    = "expense/swap_loss"
	ownPayments = "equity/own_payments"
	routingFee  = "expense/swap_routing"
)

// clearing holds a swap's prepay until it is known what it was for.
func clearing(hash ln.Hash) ledger.Account {
	return ledger.Account("clearing/swap/" + hash.String())
}

// recordOut posts what a transition of a swap out means in money.
func (e *Engine) recordOut(ctx context.Context, tx *store.Tx, t fsm.Transition[out.State, out.Event]) error {
	p := out.PlanOf(t.To)
	lines, reason := outLines(t.From, t.To)
	return postSwap(ctx, tx, "swaps/out/"+t.ID+"/"+reason, "swap out: "+reason, p.ID(), t.At, lines)
}

// postSwap posts what moves anything.
func postSwap(ctx context.Context, tx *store.Tx, key, reason, reference string, at time.Time, lines []ledger.Line) error {
	kept := lines[:0]
	for _, l := range lines {
		if l.AmountMsat != 0 {
			kept = append(kept, l)
		}
	}
	if len(kept) == 0 {
		return nil
	}
	return ledger.Post(ctx, tx, ledger.Entry{Key: key, At: at, Reason: reason, Reference: reference, Lines: kept})
}

// outLines are what a transition moves, in msat: what comes is positive.
func outLines(from, to out.State) ([]ledger.Line, string) {
	p := out.PlanOf(to)
	msat := func(s ln.Sat) int64 { return int64(s) * 1000 } //nolint:gosec // bounded by all bitcoin where it was agreed
	amount, fee, prepay := msat(p.AmountSat), msat(p.FeeSat), msat(p.PrepaySat)
	wasSettled := false
	if l, ok := out.LiveOf(from); ok {
		wasSettled = l.Settled
	}
	live, isLive := out.LiveOf(to)
	_, funded := from.(out.Funded)
	if out.PrepayKept(to) && !out.PrepayKept(from) {
		return []ledger.Line{{Account: ownInvoices, AmountMsat: prepay}, {Account: noShow, AmountMsat: -prepay}}, "prepay kept"
	}
	switch to.(type) {
	case out.Published:
		if funded {
			return []ledger.Line{{Account: ownInvoices, AmountMsat: prepay}, {Account: clearing(p.Terms.Hash), AmountMsat: -prepay}}, "prepay"
		}
	case out.Refunded:
		refundFee := int64(0)
		if live.Spent == htlc.SpendTimeout {
			refundFee = msat(live.SpentFeeSat)
		}
		return []ledger.Line{
			{Account: clearing(p.Terms.Hash), AmountMsat: prepay},
			{Account: noShow, AmountMsat: -prepay},
			{Account: chainFee, AmountMsat: refundFee},
			{Account: outside, AmountMsat: -refundFee},
		}, "refunded"
	case out.Lost:
		return []ledger.Line{
			{Account: clearing(p.Terms.Hash), AmountMsat: prepay},
			{Account: outside, AmountMsat: -amount},
			{Account: swapLoss, AmountMsat: amount - prepay},
		}, "lost"
	}
	if isLive && live.Settled && !wasSettled {
		return []ledger.Line{
			{Account: clearing(p.Terms.Hash), AmountMsat: prepay},
			{Account: ownInvoices, AmountMsat: amount + fee - prepay},
			{Account: outside, AmountMsat: -amount},
			{Account: swapFee, AmountMsat: -fee},
		}, "settled"
	}
	return nil, ""
}
