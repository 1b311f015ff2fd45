package lsp

import (
	"math/bits"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// PartTerms are what the HTLCs of one payment must bring, whoever wrote the
// route hint.
type PartTerms struct {
	// AmountMsat is what the wallet must get in all; FeeMsat the opening fee
	// that the parts together leave at the gateway.
	AmountMsat ln.Msat `json:"amount_msat"`
	FeeMsat    ln.Msat `json:"fee_msat"`
	// CltvDelta is ours: incoming minus outgoing expiry, at least.
	CltvDelta uint32 `json:"cltv_delta"`
	// FinalCltvDelta is what the wallet's node demands when the HTLC reaches
	// it; MarginBlocks is how far its height may be ahead of ours.
	FinalCltvDelta  uint32  `json:"final_cltv_delta"`
	MarginBlocks    uint32  `json:"margin_blocks"`
	HtlcMinimumMsat ln.Msat `json:"htlc_minimum_msat"`
	MaxParts        int     `json:"max_parts"`
}

// CheckPart judges one HTLC by itself, at the given height: amounts, its share
// of the fee, CLTV delta, final delta. The zero Reason means that it may join.
// The hash is the caller's business.
//
// The fee is a matter of each part, not of the set alone: a wallet that takes
// only some of the parts must not keep those without a fee, and a stranger who
// knows hash and SCID must not spoil the set with a part of his own.
func (t PartTerms) CheckPart(h ln.InterceptedHtlc, height uint32) Reason {
	switch {
	case h.OnChain():
		return Because(ReasonExpiryNear, "the channel that the part came in on has gone to chain: it cannot be forwarded")
	case h.IncomingMsat > ln.MaxMsat || h.OutgoingMsat > ln.MaxMsat:
		return Because(ReasonAmountOver, "a part claims more than can exist: it was sent back")
	case h.OutgoingMsat < t.HtlcMinimumMsat:
		return Because(ReasonPartTooSmall, "a part of %s is below the smallest HTLC, %s: send fewer, larger parts", h.OutgoingMsat, t.HtlcMinimumMsat)
	case h.IncomingMsat < h.OutgoingMsat:
		return Because(ReasonFeeShort, "a part asks the gateway to send on more than it brings: it was sent back")
	case uint64(h.IncomingExpiry) < uint64(h.OutgoingExpiry)+uint64(t.CltvDelta):
		return Because(ReasonCltv, "the invoice's route hint leaves the gateway fewer than its %d blocks: ask the receiver for a new invoice", t.CltvDelta)
	// An overpaying part is bounded by BOLT 4's rule for the whole: twice.
	case uint64(h.OutgoingMsat) > 2*uint64(t.AmountMsat):
		return Because(ReasonAmountOver, "a part brings more than twice the invoice's amount: it was sent back")
	case !t.feeShare(h):
		return Because(ReasonFeeShort, "a part of %s leaves the gateway %s, less than its share of the fee of %s: the invoice's route hint promises too little; ask the receiver for a new invoice", h.OutgoingMsat, h.IncomingMsat-h.OutgoingMsat, t.FeeMsat)
	}
	return t.CheckFinalDelta(h, height)
}

// CheckFinalDelta says whether the wallet's node would still take the HTLC at
// this height (BOLT 4, expiry_too_soon at the final node).
func (t PartTerms) CheckFinalDelta(h ln.InterceptedHtlc, height uint32) Reason {
	if uint64(h.OutgoingExpiry) < uint64(height)+uint64(t.FinalCltvDelta)+uint64(t.MarginBlocks) {
		return Because(ReasonCltv, "at block %d the payment no longer leaves the wallet its %d blocks: it went back; pay again", height, t.FinalCltvDelta)
	}
	return Reason{}
}

// CheckCount says why a payment in so many parts is not held: each keeps a slot of
// the channel that brought it from everybody else, however small it is.
func CheckCount(parts, most int) Reason {
	if parts > most {
		return Because(ReasonTooManyParts, "the payment came in %d parts, more than the %d allowed: send it in fewer", parts, most)
	}
	return Reason{}
}

// CheckParts judges a complete set before a channel is opened for it and again
// before it is forwarded: every part by itself, no part twice, their number,
// the sum for the wallet, and the fee. Rounding of the hint's ppm may cost one msat per part, no more. The zero
// Reason means that the set is as agreed.
func (t PartTerms) CheckParts(parts []ln.InterceptedHtlc, height uint32) Reason {
	if reason := CheckCount(len(parts), t.MaxParts); !reason.IsZero() {
		return reason
	}
	var in, out ln.Msat
	seen := make(map[ln.CircuitKey]bool, len(parts))
	for _, h := range parts {
		if reason := t.CheckPart(h, height); !reason.IsZero() {
			return reason
		}
		if seen[h.Key] {
			return Because(ReasonAmountShort, "one HTLC was counted twice")
		}
		seen[h.Key] = true
		var err error
		if in, err = in.Add(h.IncomingMsat); err != nil {
			return Because(ReasonAmountOver, "the parts claim more than can exist: they were sent back")
		}
		if out, err = out.Add(h.OutgoingMsat); err != nil {
			return Because(ReasonAmountOver, "the parts claim more than can exist: they were sent back")
		}
	}
	if out < t.AmountMsat {
		return Because(ReasonAmountShort, "the parts bring the wallet %s of %s", out, t.AmountMsat)
	}
	// in >= out: CheckPart demands it of each part.
	if fee := in - out; fee+ln.Msat(len(parts)) < t.FeeMsat {
		return Because(ReasonFeeShort, "the parts leave the gateway a fee of %s, %s was agreed: the invoice's route hint promises too little; ask the receiver for a new invoice", fee, t.FeeMsat)
	}
	return Reason{}
}

// feeShare says whether the part brings the fee in proportion to what it brings
// the wallet, but for the msat that a payer's rounding may cost.
func (t PartTerms) feeShare(h ln.InterceptedHtlc) bool {
	haveHi, haveLo := bits.Mul64(uint64(h.IncomingMsat-h.OutgoingMsat)+1, uint64(t.AmountMsat))
	wantHi, wantLo := bits.Mul64(uint64(t.FeeMsat), uint64(h.OutgoingMsat))
	return haveHi > wantHi || (haveHi == wantHi && haveLo >= wantLo)
}
