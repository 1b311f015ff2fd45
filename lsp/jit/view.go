package jit

import (
	"math"

	"github.com/sluice-lsp/sluice/lsp"
)

// ReasonOf is what a person should know about the state, in a sentence.
func ReasonOf(s State) lsp.Reason {
	switch s := s.(type) {
	case Offered:
		if !s.Last.IsZero() {
			return lsp.Because(s.Last.Code, "waiting for the payer to try again; the last attempt was refunded: %s", s.Last.Text)
		}
		return lsp.Because(lsp.ReasonNone, "waiting for the payer")
	case Collecting:
		return lsp.Because(lsp.ReasonNone, "holding %d part(s), waiting for the rest or for the wallet to come online", len(s.Parts))
	case Opening:
		return lsp.Because(lsp.ReasonNone, "holding the payment while channel %s is opened", s.OpeningID)
	case Mapping:
		return lsp.Because(lsp.ReasonNone, "the channel is ready, the route is being set up")
	case Resuming:
		return lsp.Because(lsp.ReasonNone, "handing the payment on to the wallet")
	case Forwarded:
		return lsp.Because(lsp.ReasonNone, "handed on; the wallet has not claimed it yet")
	case Paid:
		return lsp.Because(lsp.ReasonNone, "the wallet was paid")
	case Refunded:
		return s.Reason
	case Expired:
		return s.Reason
	case Cancelled:
		return s.Reason
	}
	return lsp.Reason{}
}

// BackAt is the first block at which the parts that are held go back; 0 while none is.
func BackAt(s State) uint32 {
	o, back := OfferOf(s), uint64(0)
	for _, p := range PartsOf(s) {
		for _, at := range []uint64{
			less(uint64(p.Htlc.AutoFailHeight), uint64(o.HoldMarginBlocks)),
			less(uint64(p.Htlc.OutgoingExpiry)+1, uint64(o.Part.FinalCltvDelta)+uint64(o.Part.MarginBlocks)),
		} {
			if back == 0 || at < back {
				back = at
			}
		}
	}
	return uint32(min(back, math.MaxUint32)) //nolint:gosec // bounded here
}

// less is a difference that ends at block 1, which is long over.
func less(a, b uint64) uint64 {
	if b >= a {
		return 1
	}
	return a - b
}
