package lsp

import (
	"math/bits"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Load is what is in use, or what is allowed at most. In caps a zero field
// means no limit.
type Load struct {
	// OpenRequests are offers that wait for their payment.
	OpenRequests int
	// QuotedSat is the capacity promised to them, none of it leased yet.
	QuotedSat ln.Sat
	// UnpaidSat is capacity opened on demand whose payment has not settled.
	UnpaidSat ln.Sat
	// HeldSat is held for payments, HeldSatBlocks times the blocks that it may
	// be held for.
	HeldSat       ln.Sat
	HeldSatBlocks uint64
	OpensLastHour int
}

// Usage is the present load of one client and of all, and what the wallet
// could fund beyond what is leased and reserved.
type Usage struct {
	Client      Load
	All         Load
	FundableSat ln.Sat
	Draining    bool
}

// Caps are the limits.
type Caps struct {
	Client Load
	All    Load
}

// Request is what is about to be admitted. A new offer is a request of 1 and
// its capacity quoted; holding a payment is held sats for some blocks; opening
// a channel is its capacity unpaid, one open, and one quote less.
type Request struct {
	NewOffer    bool
	QuoteSat    ln.Sat
	HoldSat     ln.Sat
	HoldBlocks  uint32
	NewOpen     bool
	CapacitySat ln.Sat
}

// ErrDraining answers new business while the operator drains the gateway.
var ErrDraining = errkind.New(errkind.Unavailable, "this gateway takes no new business at the moment: try again later or use another LSP")

// Admit says whether a request fits under the caps; errkind.Exhausted with the
// limit's name and figures if not, ErrDraining while draining (what is held
// already may still be opened for: only new offers are refused).
func Admit(r Request, u Usage, c Caps) error {
	if u.Draining && r.NewOffer {
		return ErrDraining
	}
	if err := admit(r, u.Client, c.Client, "your"); err != nil {
		return err
	}
	if err := admit(r, u.All, c.All, "the gateway's"); err != nil {
		return err
	}
	// What is quoted must be fundable, or an offer is a promise of a failure.
	if r.NewOffer && over(uint64(u.All.QuotedSat), uint64(r.QuoteSat), uint64(u.FundableSat)) {
		return errkind.Newf(errkind.Unavailable, "the gateway has too few free coins for a channel of %s now: try again later or receive less", r.QuoteSat)
	}
	return nil
}

func admit(r Request, have, most Load, whose string) error {
	switch {
	case r.NewOffer && most.OpenRequests > 0 && have.OpenRequests >= most.OpenRequests:
		return errkind.Newf(errkind.Exhausted, "%s open requests are at their limit of %d: wait until one is paid or expires, or cancel one", whose, most.OpenRequests)
	case r.NewOffer && capped(uint64(have.QuotedSat), uint64(r.QuoteSat), uint64(most.QuotedSat)):
		return errkind.Newf(errkind.Exhausted, "%s open requests would together need channels of more than %s: wait until one is paid or expires, or receive less", whose, most.QuotedSat)
	case r.HoldSat > 0 && capped(uint64(have.HeldSat), uint64(r.HoldSat), uint64(most.HeldSat)):
		return errkind.Newf(errkind.Exhausted, "%s held payments are at their limit of %s: try again when they have been delivered", whose, most.HeldSat)
	case r.HoldSat > 0 && satBlocks(have.HeldSatBlocks, r, most.HeldSatBlocks):
		return errkind.Newf(errkind.Exhausted, "%s held payments would be held for too long (limit %d sat·blocks): ask for fewer confirmations or receive less", whose, most.HeldSatBlocks)
	case r.NewOpen && capped(uint64(have.UnpaidSat), uint64(r.CapacitySat), uint64(most.UnpaidSat)):
		return errkind.Newf(errkind.Exhausted, "%s channels whose payment is outstanding are at their limit of %s: claim the payments first", whose, most.UnpaidSat)
	case r.NewOpen && most.OpensLastHour > 0 && have.OpensLastHour >= most.OpensLastHour:
		return errkind.Newf(errkind.Exhausted, "%s limit of %d channel opens per hour is used up: try again later", whose, most.OpensLastHour)
	}
	return nil
}

// capped is over, for a limit where 0 means none.
func capped(have, more, most uint64) bool { return most > 0 && over(have, more, most) }

func over(have, more, most uint64) bool {
	sum, carry := bits.Add64(have, more, 0)
	return carry != 0 || sum > most
}

func satBlocks(have uint64, r Request, most uint64) bool {
	hi, lo := bits.Mul64(uint64(r.HoldSat), uint64(r.HoldBlocks))
	return most > 0 && (hi != 0 || over(have, lo, most))
}
