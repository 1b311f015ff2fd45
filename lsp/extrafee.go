package lsp

import "github.com/sluice-lsp/sluice/internal/ln"

// ExtraFees says how much is taken out of each part of a payment (bLIP-52, "the
// LSP can use the algorithm below"): as much as fits, from the first part on,
// leaving every part htlcMinimum. amounts are what the onions ask to forward.
// false: the parts are too many or too small to bear the fee, and the payment
// must not be forwarded. The fees of parts add up to fee exactly.
func ExtraFees(amounts []ln.Msat, fee, htlcMinimum ln.Msat) ([]ln.Msat, bool) {
	out := make([]ln.Msat, len(amounts))
	for i, amount := range amounts {
		if amount < htlcMinimum || amount > ln.MaxMsat {
			return nil, false
		}
		out[i] = min(fee, amount-htlcMinimum)
		fee -= out[i]
	}
	return out, fee == 0
}
