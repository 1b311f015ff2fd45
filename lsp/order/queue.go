package order

import (
	"github.com/sluice-lsp/sluice/lsp"
)

// An order that can wait. Its client asked for a confirmed channel and gave the
// funding time to confirm: it may share its funding transaction with other orders,
// which costs each of them less than one of its own. It waits, paid, until one of
// those must be opened; at the latest until UntilHeight.

const (
	// lastCall is how long before a held payment would have to go back its channel is
	// opened.
	lastCall = 18
	// maxSpared bounds how often an order is tried anew because of others.
	maxSpared = 10
)

// mayWait: it was ordered so, and no try of its own has failed: a node that was away
// or said no would only cost the others their transaction.
func (o Order) mayWait() bool {
	return o.WaitBlocks > 0 && !o.Alone && o.Opens == o.Spared
}

// until is the height at which it is opened at the latest: at once, if its moment has
// come before and others undid it.
func (o Order) until() uint32 {
	until := uint64(o.PaidHeight) + uint64(o.WaitBlocks)
	if o.Spared > 0 {
		until = uint64(o.PaidHeight)
	}
	if o.PaidBy == PaidByLightning && !o.Settled {
		before := uint64(o.HoldMarginBlocks) + uint64(o.HoldExpiryDelta) + lastCall
		until = min(until, uint64(o.Held.EarliestExpiry)-min(uint64(o.Held.EarliestExpiry), before))
	}
	return uint32(min(until, 1<<32-1)) //nolint:gosec // bounded just here
}

func (o Order) queue() (State, []Effect, error) {
	return Queued{Order: o, UntilHeight: o.until()}, nil, nil
}

func stepQueued(s Queued, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Join:
		o := s.Order
		o.Opens++
		o.Batch = v.BatchID
		return Opening{Order: o, Deadline: v.At.Add(o.WaitFor)}, []Effect{openChannel(o)}, nil
	case OpenAlone:
		s.Alone = true
		return Paid{Order: s.Order, Safe: true, Deadline: v.At.Add(s.WaitFor)}, []Effect{askPeer(s.Order)}, nil
	case NewBlock:
		if s.late(v.Height) {
			return unwind(s.Order, tooLate())
		}
		return s, nil, nil
	case PeerStatus:
		// It was asked twice.
		return s, nil, nil
	}
	return s.waiting(v, func(o Order) State { s.Order = o; return s })
}

// mayTry: what failed once may succeed later. A node that says no to an order which
// was undone for the sake of others may count the channel of that time as pending
// still: its person can have it forgotten.
func (s Opening) mayTry(v OpeningFailed) bool {
	return (v.Temporary || s.Spared > 0) && s.Opens-s.Spared < s.MaxOpens
}

// spared: the channel's open ended for the sake of others. It is tried again at once.
func (s Opening) spared(reason lsp.Reason) (State, []Effect, error) {
	o := s.Order
	o.Last = reason
	o.Spared++
	o.Alone = o.Alone || o.Spared >= maxSpared
	return Paid{Order: o, Safe: true, Deadline: s.Deadline}, []Effect{askPeer(o)}, nil
}
