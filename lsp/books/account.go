package books

import (
	"slices"
	"strings"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// The books' accounts. Assets are positive; income and equity are negative.
const (
	OnChain      = "onchain"
	ChainFee     = "expense/chain_fee"
	CloseFee     = "expense/close_fee"
	SweepFee     = "expense/sweep_fee"
	Abandoned    = "expense/abandoned"
	Justice      = "income/justice"
	OpeningFee   = "income/opening_fee"
	Routing      = "income/routing"
	AtStart      = "equity/at_first_start"
	Outside      = "equity/outside"
	Pushed       = "equity/pushed"
	OwnPayments  = "equity/own_payments"
	OwnInvoices  = "equity/own_invoices"
	ClearingWrap = "clearing/wrap"
	RefundRests  = "income/refund_rests"
	DoubleSpent  = "expense/double_spent_payments"
	LostPayments = "expense/lost_payments"

	// HeldPayments and HeldOrders are payers' HTLCs that are held for payments on
	// demand and for channel orders, HeldPayers what the payers may get back: the
	// same, negative. They end at zero.
	HeldPayments = "held/payments"
	HeldOrders   = "held/orders"
	HeldPayers   = "held/payers"

	// OutPrefix begins the accounts of what went out over a channel.
	OutPrefix = "channels/out/"

	prefixChan    = "channels/chan/"
	prefixIn      = "channels/in/"
	prefixPeer    = "channels/peer/"
	prefixClosing = "closing/"
	prefixFunding = "clearing/funding/"
	prefixOrder   = "orders/"
)

// OrderAccount is what is owed to the client of a channel order: what it paid,
// until it has its channel or its money back. It ends at zero.
func OrderAccount(orderID string) string { return prefixOrder + orderID }

// ChanAccount holds what was funded into a channel, and what it began with.
func ChanAccount(op ln.Outpoint) string { return prefixChan + op.String() }

// InAccount and OutAccount hold what came in and went out under one of a
// channel's names.
func InAccount(id ln.SCID) string { return prefixIn + id.String() }

// OutAccount is InAccount for what went out.
func OutAccount(id ln.SCID) string { return OutPrefix + id.String() }

// PeerAccount holds what went to a peer over a channel that lnd has not named
// yet.
func PeerAccount(peer ln.PubKey) string { return prefixPeer + peer.String() }

// ClosingAccount holds what a channel that is closing still owes us.
func ClosingAccount(op ln.Outpoint) string { return prefixClosing + op.String() }

// FundingAccount holds what a transaction of ours, signed and stored, takes
// from the wallet, until lnd's wallet lists it.
func FundingAccount(op ln.Outpoint) string { return prefixFunding + op.String() }

// JointKey is the key of the entry that a complete joint funding transaction has.
func JointKey(id string) string { return "collab/" + id + "/funding" }

// Line moves an amount in (positive) or out (negative) of an account.
type Line struct {
	Account string `json:"account"`
	Msat    int64  `json:"msat"`
}

// Tidy adds up lines of one account, leaves out those that move nothing, and
// sorts them, so that equal movements are equal lists.
func Tidy(lines []Line) []Line {
	sums := make(map[string]int64, len(lines))
	for _, l := range lines {
		sums[l.Account] += l.Msat
	}
	out := make([]Line, 0, len(sums))
	for a, v := range sums {
		if v != 0 {
			out = append(out, Line{a, v})
		}
	}
	slices.SortFunc(out, func(a, b Line) int { return strings.Compare(a.Account, b.Account) })
	return out
}

// Reversed moves everything back.
func Reversed(lines []Line) []Line {
	out := make([]Line, 0, len(lines))
	for _, l := range lines {
		out = append(out, Line{l.Account, -l.Msat})
	}
	return out
}

// Named is the channel name, outpoint or peer that an account is of.
type Named struct {
	SCID    ln.SCID
	Chan    ln.Outpoint
	Closing ln.Outpoint
	Funding ln.Outpoint
	Peer    ln.PubKey
}

// Parse tells what an account is of; the zero value for one of no channel.
func Parse(account string) Named {
	var n Named
	if rest, ok := strings.CutPrefix(account, prefixChan); ok {
		n.Chan, _ = ln.ParseOutpoint(rest)
	} else if rest, ok := strings.CutPrefix(account, prefixClosing); ok {
		n.Closing, _ = ln.ParseOutpoint(rest)
	} else if rest, ok := strings.CutPrefix(account, prefixFunding); ok {
		n.Funding, _ = ln.ParseOutpoint(rest)
	} else if rest, ok := strings.CutPrefix(account, prefixPeer); ok {
		n.Peer, _ = ln.ParsePubKey(rest)
	} else if rest, ok := strings.CutPrefix(account, prefixIn); ok {
		n.SCID, _ = ln.ParseSCID(rest)
	} else if rest, ok := strings.CutPrefix(account, OutPrefix); ok {
		n.SCID, _ = ln.ParseSCID(rest)
	}
	return n
}
