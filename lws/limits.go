package lws

import (
	"fmt"
	"math"
	"math/bits"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Wish is what one wallet asks to have held.
type Wish struct {
	// HoldFor is how long a payment may wait for the wallet.
	HoldFor time.Duration
	// MaxHtlcs and MaxSat bound what waits at a time.
	MaxHtlcs int
	MaxSat   ln.Sat
	// FinalCltvDelta is the final CLTV delta of the wallet's invoices, as its own node
	// keeps them: a payment whose onion leaves fewer blocks is refused by the wallet, so
	// that holding it further would be for nothing.
	FinalCltvDelta uint32
}

// Limits are the gateway's, of each wallet, of each incoming channel and of all.
type Limits struct {
	HoldFor            time.Duration
	Htlcs, AllHtlcs    int
	Sat, AllSat        ln.Sat
	MinFinal, MaxFinal uint32
	// SatBlocks and AllSatBlocks bound what holding costs (see SatBlocks).
	SatBlocks, AllSatBlocks uint64
	// IncomingHtlcs bounds what came over one incoming channel, so that whoever pays
	// through it cannot take all slots, of the channel or of the gateway.
	IncomingHtlcs int
	// PriceMsat is for each million of satoshis times blocks; 0 is free.
	PriceMsat ln.Msat
	// MinHold is how long a payment has waited at least before it makes room for another
	// of its own incoming channel.
	MinHold time.Duration
	// Expected bounds the invoices that one wallet announces.
	Expected int
}

// Check says whether the gateway takes a wish.
func (l Limits) Check(w Wish) error {
	switch {
	case w.HoldFor <= 0 || w.HoldFor > l.HoldFor:
		return errkind.New(errkind.Invalid, fmt.Sprintf("payments are held for at most %s, and for some time at least: ask for that", l.HoldFor))
	case w.MaxHtlcs < 1 || w.MaxHtlcs > l.Htlcs:
		return errkind.New(errkind.Invalid, fmt.Sprintf("1 to %d HTLCs are held for a wallet: ask for that", l.Htlcs))
	case w.MaxSat < 1 || w.MaxSat > l.Sat:
		return errkind.New(errkind.Invalid, fmt.Sprintf("up to %s are held for a wallet: ask for that", l.Sat))
	case w.FinalCltvDelta < l.MinFinal || w.FinalCltvDelta > l.MaxFinal:
		return errkind.New(errkind.Invalid, fmt.Sprintf("the final CLTV delta of invoices is %d to %d blocks", l.MinFinal, l.MaxFinal))
	}
	return nil
}

// FailHeight is the first block at which a held HTLC goes back to its payer: the
// earlier of a margin before lnd would fail it by itself, and of when the wallet would
// refuse it for too few blocks. Where the onion leaves the wallet many blocks, some are
// kept for blocks that come while it is handed on; an ordinary onion leaves three, and
// none to keep.
func FailHeight(h ln.InterceptedHtlc, height, finalCltv, margin uint32) uint32 {
	byLnd := uint32(0)
	if h.AutoFailHeight > margin {
		byLnd = h.AutoFailHeight - margin
	}
	byWallet := uint32(0)
	if h.OutgoingExpiry >= finalCltv {
		byWallet = h.OutgoingExpiry - finalCltv + 1
		if byWallet > height {
			byWallet -= min(arrivalBlocks, (byWallet-height)/arrivalShare)
		}
	}
	return min(byLnd, byWallet)
}

// What is kept for blocks that arrive meanwhile: so many at most, and no more than a
// share of what there is.
const arrivalBlocks, arrivalShare = 2, 6

// SatBlocks is what it costs to hold an HTLC until a height: satoshis, rounded up, times
// blocks.
func SatBlocks(m ln.Msat, height, until uint32) uint64 {
	if until <= height {
		return 0
	}
	hi, lo := bits.Mul64(uint64(m)/1000+min(1, uint64(m)%1000), uint64(until-height))
	if hi != 0 {
		return math.MaxUint64
	}
	return lo
}

// Price is what holding costs the payer, rounded up.
func (l Limits) Price(satBlocks uint64) ln.Msat {
	hi, lo := bits.Mul64(satBlocks, uint64(l.PriceMsat))
	lo, carry := bits.Add64(lo, 999_999, 0)
	if hi += carry; hi >= 1_000_000 {
		return ln.MaxMsat
	}
	q, _ := bits.Div64(hi, lo, 1_000_000)
	return min(ln.Msat(q), ln.MaxMsat)
}
