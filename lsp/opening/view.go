package opening

import (
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// TxOf is the signed transaction behind a state, if there is one.
func TxOf(s State) (Tx, bool) {
	switch s := s.(type) {
	case Signed:
		return s.Tx, true
	case Published:
		return s.Tx, true
	case Usable:
		return s.Tx, true
	case Confirmed:
		return s.Tx, true
	case Buried:
		return s.Tx, true
	case Conflicted:
		return s.Tx, true
	}
	return Tx{}, false
}

// CoinsOf is what the state's open is funded with, once coins are leased.
func CoinsOf(s State) (Coins, bool) {
	switch s := s.(type) {
	case Leased:
		return s.Coins, true
	case Built:
		return s.Coins, true
	case Unknown:
		return s.Coins, true
	case Pending:
		return s.Coins, true
	case Withheld:
		return s.Coins, true
	case Released:
		return s.Coins, true
	case Signed:
		return s.Coins, true
	case Published:
		return s.Coins, true
	case Usable:
		return s.Coins, true
	case Confirmed:
		return s.Coins, true
	case Buried:
		return s.Coins, true
	case Conflicted:
		return s.Coins, true
	}
	return Coins{}, false
}

// SelectionOf is what the state's open spends, once coins are leased.
func SelectionOf(s State) (funding.Selection, bool) {
	c, leased := CoinsOf(s)
	return c.Selection, leased
}

// Cost is what an open takes from the wallet.
type Cost struct {
	FundingSat, FeeSat ln.Sat
	// Clears is the outpoint under which the books clear the transaction.
	Clears ln.Outpoint
}

// CostOf is what the state's open costs, once its transaction is known; of one
// that funds other channels as well, this channel's part.
func CostOf(s State) (Cost, bool) {
	selection, chosen := SelectionOf(s)
	u, built := UnsignedOf(s)
	if !chosen || !built {
		return Cost{}, false
	}
	if share := shareOf(s); share != nil {
		return Cost{FundingSat: PlanOf(s).CapacitySat, FeeSat: share.FeeSat, Clears: share.First}, true
	}
	return Cost{FundingSat: selection.FundingSat, FeeSat: selection.FeeSat, Clears: u.Outpoint}, true
}

// UnsignedOf is the funding transaction before signatures, once built.
func UnsignedOf(s State) (Unsigned, bool) {
	switch s := s.(type) {
	case Built:
		return s.Unsigned, true
	case Unknown:
		return s.Unsigned, true
	case Pending:
		return s.Unsigned, true
	case Withheld:
		return s.Unsigned, true
	case Released:
		return s.Unsigned, true
	case Signed:
		return s.Unsigned, true
	case Published:
		return s.Unsigned, true
	case Usable:
		return s.Unsigned, true
	case Confirmed:
		return s.Unsigned, true
	case Buried:
		return s.Unsigned, true
	case Conflicted:
		return s.Unsigned, true
	}
	return Unsigned{}, false
}

// Funded says that the channel's money is in a transaction which the network
// has, and which nothing contests as far as is known.
func Funded(s State) bool {
	tx, signed := TxOf(s)
	switch s.(type) {
	case Published, Usable, Confirmed, Buried:
		return signed && tx.SpenderHeight == 0
	}
	return false
}

// OutpointOf is the channel's funding outpoint, zero before it is known.
func OutpointOf(s State) ln.Outpoint {
	if u, ok := UnsignedOf(s); ok {
		return u.Outpoint
	}
	switch s := s.(type) {
	case Rejected:
		return s.Outpoint
	case Failed:
		return s.Outpoint
	}
	return ln.Outpoint{}
}

// ReasonOf is what a person should know about the state, in a sentence.
func ReasonOf(s State) lsp.Reason {
	switch s := s.(type) {
	case Rejected:
		return s.Reason
	case Failed:
		return s.Reason
	case Conflicted:
		return s.Reason
	case Withheld:
		return s.Withdrawn
	case Released:
		return s.Trouble
	}
	if tx, ok := TxOf(s); ok {
		return tx.Trouble
	}
	return lsp.Reason{}
}

// NoticeFor is what the owner of an open in this state has been told last, for
// an owner that asks again; ok is false while there is nothing to tell.
func NoticeFor(s State) (n NotifyOwner, ok bool) {
	p := PlanOf(s)
	n = NotifyOwner{OpeningID: p.ID, Owner: p.Owner, Outpoint: OutpointOf(s)}
	switch s := s.(type) {
	case Rejected:
		n.Notice, n.Reason, n.Temporary = NoticeRejected, s.Reason, s.NotNow
	case Failed:
		n.Notice, n.Reason, n.Temporary, n.Spared = NoticeFailed, s.Reason, s.Temporary, s.Spared
	case Conflicted:
		n.Notice, n.Reason = NoticeConflicted, s.Reason
	case Withheld:
		n.Notice, n.ChanID, n.Withheld = NoticeUsable, s.ChanID, true
		return n, s.Withdrawn.IsZero()
	case Published:
		n.Notice, n.ChanID, ok = NoticeUsable, s.ChanID, s.Told
		return n, ok
	case Usable:
		n.Notice, n.ChanID = NoticeUsable, s.ChanID
	case Confirmed:
		n.Notice, n.ChanID = NoticeUsable, s.ChanID
	case Buried:
		n.Notice, n.ChanID = NoticeUsable, s.ChanID
	default:
		return n, false
	}
	return n, true
}
