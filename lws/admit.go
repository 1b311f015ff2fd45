package lws

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Htlc is one that waits, or that is to. What is decided does not count any more: it is
// being handed on, or on its way back. But what cannot go back yet does.
type Htlc struct {
	// Payment names the payment that it is a part of; parts end alike.
	Payment string
	Client  ln.PubKey
	// Incoming is the channel that it came over.
	Incoming  ln.SCID
	Msat      ln.Msat
	SatBlocks uint64
	// Since is when its payment began to wait.
	Since time.Time
	// Stays: it makes no room, for lnd is paying its hash.
	Stays bool
}

// Admission is whether an HTLC may wait: Refusal is why not, or "". Payments in Evict go
// back to make room for it.
type Admission struct {
	Refusal string
	Evict   []string
}

// Admit judges an HTLC beside what waits. feeMsat is what the gateway earns by it.
//
// Near a limit the oldest go back first. Who has to make room is whoever takes most of
// it, by incoming channel: so a flood through one channel pushes out its own payments,
// and only those that have had their MinHold, while whoever comes over a channel that
// brings less finds room at the flood's expense. A newcomer that would be the largest
// itself, with nothing old enough to give way, is refused.
func (l Limits) Admit(w Wish, held []Htlc, n Htlc, feeMsat ln.Msat, now time.Time) Admission {
	if price := l.Price(n.SatBlocks); feeMsat < price {
		return Admission{Refusal: fmt.Sprintf("to be held, %d sat·blocks cost %s, and its routing fee is %s", n.SatBlocks, price, feeMsat)}
	}
	left := slices.Clone(held)
	var out Admission
	for {
		over := l.exceeded(w, left, n)
		if over == nil {
			return out
		}
		victim := over.victim(left, n, l.MinHold, now)
		if victim == "" {
			return Admission{Refusal: over.says}
		}
		out.Evict = append(out.Evict, victim)
		left = slices.DeleteFunc(left, func(h Htlc) bool { return h.Payment == victim })
	}
}

// limit is one that an HTLC would exceed: what counts for it, how much, and the words.
type limit struct {
	counts func(Htlc) bool
	size   func(Htlc) uint64
	says   string
}

// exceeded is the first limit that n would exceed beside held, or nil.
func (l Limits) exceeded(w Wish, held []Htlc, n Htlc) *limit {
	mine := func(h Htlc) bool { return h.Client == n.Client }
	incoming := func(h Htlc) bool { return h.Incoming == n.Incoming }
	all := func(Htlc) bool { return true }
	one := func(Htlc) uint64 { return 1 }
	msat := func(h Htlc) uint64 { return uint64(h.Msat) }
	cost := func(h Htlc) uint64 { return h.SatBlocks }
	htlcs, sat := min(w.MaxHtlcs, l.Htlcs), min(w.MaxSat, l.Sat)
	for _, c := range []struct {
		most uint64
		// unit is what a step of most is worth.
		unit uint64
		limit
	}{
		{uint64(max(l.IncomingHtlcs, 0)), 1, limit{incoming, one, fmt.Sprintf("limit reached: %d HTLCs of channel %s wait for wallets", l.IncomingHtlcs, n.Incoming)}},
		{uint64(max(htlcs, 0)), 1, limit{mine, one, fmt.Sprintf("limit reached: %d HTLCs wait for this wallet", htlcs)}},
		{uint64(sat), 1000, limit{mine, msat, fmt.Sprintf("limit reached: more than %s would wait for this wallet", sat)}},
		{l.SatBlocks, 1, limit{mine, cost, fmt.Sprintf("limit reached: more than %d sat·blocks would wait for this wallet", l.SatBlocks)}},
		{uint64(max(l.AllHtlcs, 0)), 1, limit{all, one, fmt.Sprintf("limit reached: %d HTLCs wait for wallets", l.AllHtlcs)}},
		{uint64(l.AllSat), 1000, limit{all, msat, fmt.Sprintf("limit reached: more than %s would wait for wallets", l.AllSat)}},
		{l.AllSatBlocks, 1, limit{all, cost, fmt.Sprintf("limit reached: more than %d sat·blocks would wait for wallets", l.AllSatBlocks)}},
	} {
		sum := c.size(n)
		for _, h := range held {
			if c.counts(h) {
				sum = plus(sum, c.size(h))
			}
		}
		// Without multiplying: limits may be any number.
		if sum/c.unit > c.most || (sum/c.unit == c.most && sum%c.unit > 0) {
			return &c.limit
		}
	}
	return nil
}

// plus saturates.
func plus(a, b uint64) uint64 {
	if a+b < a {
		return 1<<64 - 1
	}
	return a + b
}

// victim is the payment that goes back for n, or "".
func (c *limit) victim(held []Htlc, n Htlc, minHold time.Duration, now time.Time) string {
	usage := map[ln.SCID]uint64{n.Incoming: c.size(n)}
	for _, h := range held {
		if c.counts(h) {
			usage[h.Incoming] = plus(usage[h.Incoming], c.size(h))
		}
	}
	largest := n.Incoming
	for channel, used := range usage {
		if used > usage[largest] || (used == usage[largest] && channel != n.Incoming && largest != n.Incoming && channel < largest) {
			largest = channel
		}
	}
	var oldest []Htlc
	for _, h := range held {
		switch {
		case !c.counts(h), h.Incoming != largest, h.Payment == n.Payment, h.Stays:
		case largest == n.Incoming && now.Sub(h.Since) < minHold:
		default:
			oldest = append(oldest, h)
		}
	}
	if len(oldest) == 0 {
		return ""
	}
	return slices.MinFunc(oldest, func(a, b Htlc) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Payment, b.Payment))
	}).Payment
}
