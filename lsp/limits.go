package lsp

import (
	"math/bits"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Load is what is in use, or what is allowed at most. In caps a zero field
// means no limit.
type Load struct {
	// OpenRequests are agreements that have not ended, whether a channel would
	// be opened for them or not.
	OpenRequests int
	// QuotedSat is the capacity that they were promised.
	QuotedSat ln.Sat
	// UnpaidSat is the capacity of channels on demand, from the decision to open
	// one until it was paid for, closed, forgiven or forgotten.
	UnpaidSat ln.Sat
	// UnconfirmedSat is the capacity of channels whose funding is in no block, from
	// the decision to open one.
	UnconfirmedSat ln.Sat
	// HeldSat is held for payments; HeldSatBlocks counts each HTLC's satoshis
	// times the blocks that it may be held for.
	HeldSat       ln.Sat
	HeldSatBlocks uint64
	// HeldHtlcs is in how many HTLCs: each keeps a slot of the channel that it came
	// in on, whatever it is worth.
	HeldHtlcs     int
	OpensLastHour int
}

// Usage is the present load of one client, of all newcomers and of all
// clients, and what the wallet could fund beyond what is leased and reserved.
type Usage struct {
	Client    Load
	Newcomers Load
	All       Load
	// Incoming and NewcomersIncoming are the HTLCs that wait already on the channels
	// that brought those to be held.
	Incoming          Slots
	NewcomersIncoming Slots
	// Newcomer: the client has not paid for a channel yet.
	Newcomer bool
	// Unfunded is what was quoted, by all, and has no open yet: no coin is leased
	// for it. NewcomersUnfunded is the newcomers' part.
	Unfunded          Quoted
	NewcomersUnfunded Quoted
	Fundable          Fundable
	Draining          bool
}

// Quoted are channels that were promised.
type Quoted struct {
	Channels int
	Sat      ln.Sat
}

// Fundable is what the wallet could fund when it was asked.
type Fundable struct {
	Sat ln.Sat
	// Channels is for how many its coins are cut, where that is Counted: an open
	// takes a whole coin, and its change is good again after a block only.
	Channels int
	Counted  bool
}

// Caps are the limits. A node key is free, so that caps per client bound only
// those who keep to one. Newcomers together may use NewcomersPercent of what is
// allowed in all: whoever makes up keys without end leaves the rest to clients
// that have paid for a channel.
type Caps struct {
	Client Load
	All    Load
	// IncomingHtlcs bounds the HTLCs that came in on one channel, however they are
	// held: a channel has ChannelSlots, and who pays through it into ours shall leave
	// some to everybody else.
	IncomingHtlcs    int
	NewcomersPercent uint32
}

// Newcomers is the newcomers' share of what is allowed in all.
func (c Caps) Newcomers() Load {
	return Load{
		OpenRequests: c.shareCount(c.All.OpenRequests), QuotedSat: ln.Sat(c.share(uint64(c.All.QuotedSat))),
		UnpaidSat: ln.Sat(c.share(uint64(c.All.UnpaidSat))), UnconfirmedSat: ln.Sat(c.share(uint64(c.All.UnconfirmedSat))), HeldSat: ln.Sat(c.share(uint64(c.All.HeldSat))),
		HeldSatBlocks: c.share(c.All.HeldSatBlocks), HeldHtlcs: c.shareCount(c.All.HeldHtlcs), OpensLastHour: c.shareCount(c.All.OpensLastHour),
	}
}

// NewcomersIncoming is their share of what may have come in on one channel.
func (c Caps) NewcomersIncoming() int { return c.shareCount(c.IncomingHtlcs) }

func (c Caps) share(n uint64) uint64 {
	if n == 0 {
		return 0
	}
	hi, lo := bits.Mul64(n, uint64(min(c.NewcomersPercent, 100)))
	part, _ := bits.Div64(hi, lo, 100)
	// Rounded down to zero it would be no limit at all.
	return max(part, 1)
}

func (c Caps) shareCount(n int) int { return int(c.share(uint64(max(0, n)))) } //nolint:gosec // at most n

// maxSatBlocks is where SatBlocks ends: far above every cap, and low enough for
// the sum over thousands of payments to stay within 63 bits.
const maxSatBlocks = 1 << 50

// SatBlocks is what holding an amount from a height until another costs. Even
// what could go back at once costs a block.
func SatBlocks(amount ln.Msat, from, until uint32) uint64 {
	blocks := uint64(1)
	if until > from {
		blocks = uint64(until - from)
	}
	hi, lo := bits.Mul64(uint64(amount.ToSatCeil()), blocks)
	if hi != 0 {
		return maxSatBlocks
	}
	return min(lo, maxSatBlocks)
}

// Request is what is about to be admitted. A new offer is a request of 1 and
// its capacity quoted; holding a payment is held sats and what they cost in
// time; opening a channel is its capacity unpaid and unconfirmed, and one open.
type Request struct {
	NewOffer      bool
	QuoteSat      ln.Sat
	HoldSat       ln.Sat
	HoldSatBlocks uint64
	HoldSlots     Slots
	NewOpen       bool
	CapacitySat   ln.Sat
	// UnconfirmedSat is also what a channel that is only quoted would add if it were
	// opened now.
	UnconfirmedSat ln.Sat
}

// ErrDraining answers new business while the operator drains the gateway.
var ErrDraining = errkind.New(errkind.Unavailable, "this gateway takes no new business at the moment: try again later or use another LSP")

// Admit says whether a request fits under the caps; errkind.Exhausted with the
// limit's name and figures if not, ErrDraining while draining (what is held
// already may still be opened for: only new offers are refused). It is asked in
// the transaction that makes the request count.
func Admit(r Request, u Usage, c Caps) error {
	if u.Draining && r.NewOffer {
		return ErrDraining
	}
	if err := admit(r, u.Client, c.Client, "your"); err != nil {
		return err
	}
	if u.Newcomer {
		if err := admit(r, u.Newcomers, c.Newcomers(), "the gateway's new clients'"); err != nil {
			return err
		}
	}
	if err := admit(r, u.All, c.All, "the gateway's"); err != nil {
		return err
	}
	if err := admitSlots(r.HoldSlots, u.Incoming, c.IncomingHtlcs); err != nil {
		return err
	}
	if u.Newcomer {
		if err := admitSlots(r.HoldSlots, u.NewcomersIncoming, c.NewcomersIncoming()); err != nil {
			return err
		}
	}
	// What is quoted must be fundable, or an offer is a promise of a failure.
	// Newcomers' quotes lease no coin and keep none from clients that are known.
	promised := u.Unfunded
	if !u.Newcomer {
		promised.Sat -= min(promised.Sat, u.NewcomersUnfunded.Sat)
		promised.Channels -= min(promised.Channels, u.NewcomersUnfunded.Channels)
	}
	if !r.NewOffer || r.QuoteSat == 0 {
		return nil
	}
	if over(uint64(promised.Sat), uint64(r.QuoteSat), uint64(u.Fundable.Sat)) {
		return errkind.Newf(errkind.Unavailable, "the gateway has too few free coins for a channel of %s now: try again later or receive less", r.QuoteSat)
	}
	if u.Fundable.Counted && promised.Channels >= u.Fundable.Channels {
		return errkind.New(errkind.Unavailable, "the gateway has promised every coin that it can open a channel with before the next block: try again in some minutes")
	}
	return nil
}

func admit(r Request, have, most Load, whose string) error {
	switch {
	case r.NewOffer && most.OpenRequests > 0 && have.OpenRequests >= most.OpenRequests:
		return errkind.Newf(errkind.Exhausted, "%s open requests are at their limit of %d: wait until one is paid or expires, or cancel one", whose, most.OpenRequests)
	case r.QuoteSat > 0 && capped(uint64(have.QuotedSat), uint64(r.QuoteSat), uint64(most.QuotedSat)):
		return errkind.Newf(errkind.Exhausted, "%s open requests would together need channels of more than %s: wait until one is paid or expires, or receive less", whose, most.QuotedSat)
	case r.HoldSat > 0 && capped(uint64(have.HeldSat), uint64(r.HoldSat), uint64(most.HeldSat)):
		return errkind.Newf(errkind.Exhausted, "%s held payments are at their limit of %s: try again when they have been delivered", whose, most.HeldSat)
	case r.HoldSatBlocks > 0 && capped(have.HeldSatBlocks, r.HoldSatBlocks, most.HeldSatBlocks):
		return errkind.Newf(errkind.Exhausted, "%s held payments could be held for too long (limit %d sat·blocks): try again when some have been delivered, or receive less", whose, most.HeldSatBlocks)
	case most.HeldHtlcs > 0 && len(r.HoldSlots) > 0 && have.HeldHtlcs+r.HoldSlots.Total() > most.HeldHtlcs:
		return errkind.Newf(errkind.Exhausted, "%s held payments are at their limit of %d HTLCs: try again when some have been delivered, or pay in fewer parts", whose, most.HeldHtlcs)
	case r.NewOpen && capped(uint64(have.UnpaidSat), uint64(r.CapacitySat), uint64(most.UnpaidSat)):
		return errkind.Newf(errkind.Exhausted, "%s channels that were not paid for yet are at their limit of %s: claim payments that are on their way, or close such a channel", whose, most.UnpaidSat)
	case r.UnconfirmedSat > 0 && capped(uint64(have.UnconfirmedSat), uint64(r.UnconfirmedSat), uint64(most.UnconfirmedSat)):
		return errkind.Newf(errkind.Exhausted, "%s channels whose funding is in no block yet are at their limit of %s: try again after the next block, or receive less", whose, most.UnconfirmedSat)
	case r.NewOpen && most.OpensLastHour > 0 && have.OpensLastHour >= most.OpensLastHour:
		return errkind.Newf(errkind.Exhausted, "%s limit of %d channel opens per hour is used up: try again later", whose, most.OpensLastHour)
	}
	return nil
}

// admitSlots leaves the channel's name out: who pays through which one is not the
// business of whoever reads the text.
func admitSlots(more, have Slots, most int) error {
	if most <= 0 {
		return nil
	}
	for _, c := range more {
		if have.Of(c.Chan)+c.Htlcs > most {
			return errkind.Newf(errkind.Exhausted, "payments that came over the same channel wait here in %d HTLCs, and %d is the limit: try again when some have been delivered, pay in fewer parts, or over another channel", have.Of(c.Chan), most)
		}
	}
	return nil
}

// capped is over, for a limit where 0 means none.
func capped(have, more, most uint64) bool { return most > 0 && over(have, more, most) }

func over(have, more, most uint64) bool {
	sum, carry := bits.Add64(have, more, 0)
	return carry != 0 || sum > most
}
