package lws

import (
	"fmt"
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

// Limits are the gateway's, of each wallet and of all.
type Limits struct {
	HoldFor            time.Duration
	Htlcs, AllHtlcs    int
	Sat, AllSat        ln.Sat
	MinFinal, MaxFinal uint32
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

// Sum is what waits, of one wallet or of all.
type Sum struct {
	Htlcs int
	Msat  ln.Msat
}

// Add counts one HTLC.
func (s Sum) Add(m ln.Msat) Sum { return Sum{Htlcs: s.Htlcs + 1, Msat: s.Msat + m} }

// Refuse says why an HTLC cannot be held beside what waits already, or "".
func (l Limits) Refuse(w Wish, mine, all Sum, incoming ln.Msat) string {
	mine, all = mine.Add(incoming), all.Add(incoming)
	switch {
	case mine.Htlcs > min(w.MaxHtlcs, l.Htlcs):
		return fmt.Sprintf("limit reached: %d HTLCs wait for this wallet", min(w.MaxHtlcs, l.Htlcs))
	case exceeds(mine.Msat, min(w.MaxSat, l.Sat)):
		return fmt.Sprintf("limit reached: more than %s would wait for this wallet", min(w.MaxSat, l.Sat))
	case all.Htlcs > l.AllHtlcs:
		return fmt.Sprintf("limit reached: %d HTLCs wait for wallets", l.AllHtlcs)
	case exceeds(all.Msat, l.AllSat):
		return fmt.Sprintf("limit reached: more than %s would wait for wallets", l.AllSat)
	}
	return ""
}

// exceeds compares without multiplying: limits may be any number.
func exceeds(m ln.Msat, limit ln.Sat) bool {
	return uint64(m)/1000 > uint64(limit) || (uint64(m)/1000 == uint64(limit) && uint64(m)%1000 > 0)
}

// FailHeight is the first block at which a held HTLC goes back to its payer: the
// earlier of a margin before lnd would fail it by itself, and of when the wallet would
// refuse it for too few blocks.
func FailHeight(h ln.InterceptedHtlc, finalCltv, margin uint32) uint32 {
	byLnd := uint32(0)
	if h.AutoFailHeight > margin {
		byLnd = h.AutoFailHeight - margin
	}
	byWallet := uint32(0)
	if h.OutgoingExpiry >= finalCltv {
		byWallet = h.OutgoingExpiry - finalCltv + 1
	}
	return min(byLnd, byWallet)
}
