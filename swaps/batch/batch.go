package batch

import (
	"cmp"
	"slices"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// Policy bounds batches.
type Policy struct {
	// MaxMembers is how many swaps share a transaction.
	MaxMembers int
	// JoinBlocks must be left until a member's deadline when it joins, or is joined.
	JoinBlocks uint32
}

// Sound: what companions can cost a member in blocks, and a refund that is final
// after that, fits into JoinBlocks.
func (p Policy) Sound() bool {
	return p.MaxMembers >= 1 && p.MaxMembers <= 100 && (p.MaxMembers == 1 || uint64(p.JoinBlocks) >= uint64(p.MaxMembers)+finalBlocks) //nolint:gosec // positive
}

// finalBlocks are what a refund or claim needs besides: to be mined, and buried.
const finalBlocks = 24

// Member is a swap that wants its output.
type Member struct {
	ID        string
	AmountSat ln.Sat
	Way       htlc.Spend
	// MostSat is the most that it ever pays.
	MostSat ln.Sat
	// Rate is what it would pay alone now.
	Rate ln.FeeRateSatPerKW
	// Deadline is the height by which it must have its output for good.
	Deadline uint32
	// Present: its output is in a block. Buried: so deep that no reorg is expected to
	// change that.
	Present, Buried bool
	// In is the transaction that it is in already and that is not confirmed, and
	// InFeeSat what that pays in all.
	In       ln.TxID
	InFeeSat ln.Sat
}

func (m Member) mayShare(tip uint32, p Policy) bool {
	return m.Buried && m.Present && uint64(tip)+uint64(p.JoinBlocks) <= uint64(m.Deadline)
}

// worthIt: what its input costs leaves most of the output.
func (m Member) worthIt(rate ln.FeeRateSatPerKW) bool {
	fee, err := rate.Fee(m.Way.InputWU())
	return err == nil && fee <= m.MostSat/2
}

// Join chooses who shares a transaction with first, which wants one now. first
// comes first.
func Join(first Member, others []Member, tip uint32, p Policy) []Member {
	group := []Member{first}
	var free []Member
	for _, m := range others {
		switch {
		case m.ID == first.ID:
		case m.In != (ln.TxID{}) && m.In == first.In:
			// Without its output the transaction is worth nothing.
			if m.Present {
				group = append(group, m)
			}
		case m.In == (ln.TxID{}) && m.mayShare(tip, p):
			free = append(free, m)
		}
	}
	for _, m := range group {
		if !m.mayShare(tip, p) {
			return group
		}
	}
	slices.SortFunc(free, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Deadline, b.Deadline), cmp.Compare(a.ID, b.ID))
	})
	rate := RateOf(group)
	for _, m := range free {
		if len(group) >= p.MaxMembers {
			break
		}
		if joint := max(rate, m.Rate); m.worthIt(joint) && !slices.ContainsFunc(group, func(g Member) bool { return !g.worthIt(joint) }) {
			group, rate = append(group, m), joint
		}
	}
	return group
}

// RateOf is what a transaction of theirs must pay at the least: what the most urgent
// of them would pay alone.
func RateOf(group []Member) (rate ln.FeeRateSatPerKW) {
	for _, m := range group {
		rate = max(rate, m.Rate)
	}
	return rate
}

// Cost is what a transaction pays.
type Cost struct {
	FeeSat ln.Sat
	Rate   ln.FeeRateSatPerKW
	// Shares are its members' parts, in order, which sum up to it.
	Shares []ln.Sat
}

// CostOf prices a transaction. ok is false when what it would replace could not be
// outbid within what its members ever pay: then that stays.
func CostOf(group []Member) (c Cost, ok bool, err error) {
	ways := make([]htlc.Spend, 0, len(group))
	var most ln.Sat
	replaced := map[ln.TxID]ln.Sat{}
	for _, m := range group {
		ways = append(ways, m.Way)
		if most, err = most.Add(m.MostSat); err != nil {
			return c, false, err
		}
		if m.In != (ln.TxID{}) {
			replaced[m.In] = m.InFeeSat
		}
	}
	weight := htlc.TogetherWU(ways...)
	if c.FeeSat, err = RateOf(group).Fee(weight); err != nil {
		return c, false, err
	}
	if len(replaced) > 0 {
		least, err := swaps.ReplaceStep.Fee(weight)
		if err != nil {
			return c, false, err
		}
		for _, fee := range replaced {
			if least, err = least.Add(fee); err != nil {
				return c, false, err
			}
		}
		c.FeeSat = max(c.FeeSat, least)
		if c.FeeSat > most {
			c.FeeSat = most
			ok = most >= least
		} else {
			ok = true
		}
	} else {
		c.FeeSat, ok = min(c.FeeSat, most), true
	}
	c.Rate = swaps.Within(weight, c.FeeSat)
	c.Shares = shares(group, c.FeeSat)
	return c, ok, nil
}

// shares splits a fee by the weight of each member's input; what does not divide is
// the first one's.
func shares(group []Member, fee ln.Sat) []ln.Sat {
	var inputs uint64
	for _, m := range group {
		inputs += m.Way.InputWU()
	}
	out := make([]ln.Sat, len(group))
	rest := fee
	for i, m := range group[1:] {
		out[i+1] = ln.Sat(uint64(fee) * m.Way.InputWU() / inputs)
		rest -= out[i+1]
	}
	out[0] = rest
	return out
}
