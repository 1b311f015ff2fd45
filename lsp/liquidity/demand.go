package liquidity

import (
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Open is a channel that was begun.
type Open struct {
	At time.Time
	// Sat is its capacity.
	Sat ln.Sat
}

// refillTime is how long it may take until coins that are spent are there again:
// three blocks of the usual length.
const refillTime = 30 * time.Minute

// Follows reports that Follow may change anything.
func (p Policy) Follows() bool { return p.MaxCoins > p.Coins || p.MaxCoinSat > p.CoinSat }

// Follow grows the policy with demand. Coins become half as many again as the most
// opens that came within the time of a refill, up to MaxCoins. CoinSat is doubled
// until nine of ten opens, and extraSat for their fee and change, fit into one coin,
// up to MaxCoinSat: it moves in such steps so that a coin cut today is of the right
// size tomorrow. Nothing sinks below what the operator set.
func (p Policy) Follow(opens []Open, extraSat ln.Sat) Policy {
	if len(opens) == 0 {
		return p
	}
	opens = slices.Clone(opens)
	slices.SortFunc(opens, func(a, b Open) int { return a.At.Compare(b.At) })
	most, first := 0, 0
	for i, o := range opens {
		for o.At.Sub(opens[first].At) > refillTime {
			first++
		}
		most = max(most, i-first+1)
	}
	p.Coins = max(p.Coins, min((3*most+1)/2, p.MaxCoins))
	sizes := make([]ln.Sat, 0, len(opens))
	for _, o := range opens {
		sizes = append(sizes, o.Sat)
	}
	slices.Sort(sizes)
	want := sizes[(len(sizes)*9-1)/10]
	for p.CoinSat > 0 && p.CoinSat < want+extraSat && 2*p.CoinSat <= p.MaxCoinSat {
		p.CoinSat *= 2
	}
	return p
}

// Refill is when the pool will be full again.
type Refill string

// The kinds of refill.
const (
	// RefillFull: nothing is missing.
	RefillFull Refill = "full"
	// RefillBlock: what is missing is in a transaction that waits for its block.
	RefillBlock Refill = "next_block"
	// RefillDue: the next look cuts what is missing, if a coin is large enough, and
	// a block after that it is there.
	RefillDue Refill = "two_blocks"
	// RefillCheap: it waits for cheap blocks, because enough are left.
	RefillCheap Refill = "cheap_blocks"
	// RefillFees: no fee rate can be trusted at the moment.
	RefillFees Refill = "fee_rate"
)

// Refills says when the pool is full again at this rate; unsure says that the rate
// is stale or beyond the ceiling.
func (p Policy) Refills(s Stock, rate ln.FeeRateSatPerKW, unsure bool) Refill {
	switch {
	case s.Ready >= p.Coins:
		return RefillFull
	case s.Ready+s.Coming >= p.Coins:
		return RefillBlock
	case unsure:
		return RefillFees
	case rate <= p.CheapRate || s.Ready < p.Low:
		return RefillDue
	}
	return RefillCheap
}
