package wrap

import "github.com/sluice-lsp/sluice/lsp"

// DefaultMarginBlocks is law 4's: what must lie between the outgoing HTLC's
// expiry and the height where the node would take back the held set, so that
// an HTLC that goes on chain is resolved first.
const DefaultMarginBlocks = 60

// DefaultHoldExpiryDelta is lnd's invoices.holdexpirydelta: so many blocks
// before the earliest expiry it cancels an accepted hold invoice.
const DefaultHoldExpiryDelta = 18

// HoldCltvFor is the final CLTV delta that the wrapped invoice must ask for, so
// that a payment can still be sent waitBlocks after the set was accepted (the
// confirmations to wait for and some slack; a few even with zero-conf).
func HoldCltvFor(walletFinalCltv, padBlocks, marginBlocks, holdExpiryDelta, waitBlocks uint32) uint32 {
	return walletFinalCltv + padBlocks + marginBlocks + holdExpiryDelta + waitBlocks
}

// outgoingExpiry is the expiry of a payment sent at this height, and whether
// law 4 allows it: expiry + margin <= earliest incoming expiry − hold expiry
// delta.
func (o Offer) outgoingExpiry(h Held, height uint32) (uint32, lsp.Reason) {
	expiry := uint64(height) + uint64(o.WalletFinalCltv) + uint64(o.PadBlocks)
	need := expiry + uint64(o.MarginBlocks) + uint64(o.HoldExpiryDelta)
	if need > uint64(h.EarliestExpiry) {
		return 0, lsp.Because(lsp.ReasonMargin,
			"at block %d the held payment (expiring at %d) leaves %d blocks too few to pay the wallet safely: it went back; pay again", height, h.EarliestExpiry, need-uint64(h.EarliestExpiry))
	}
	return uint32(expiry), lsp.Reason{} //nolint:gosec // at most EarliestExpiry, a uint32
}

// BackAt is the first block at which the held set goes back, for the wallet can no
// longer be paid safely; 0 while nothing is held.
func BackAt(s State) uint32 {
	o, earliest := OfferOf(s), HeldOf(s).EarliestExpiry
	if earliest == 0 {
		return 0
	}
	back := uint64(o.WalletFinalCltv) + uint64(o.PadBlocks) + uint64(o.MarginBlocks) + uint64(o.HoldExpiryDelta)
	if back > uint64(earliest) {
		return 1
	}
	return earliest - uint32(back) + 1 //nolint:gosec // at most earliest
}
