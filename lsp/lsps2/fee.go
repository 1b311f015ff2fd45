package lsps2

import (
	"encoding/binary"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// CheckSize judges lsps2.buy's payment_size_msat and gives the opening fee: the
// size is within the item's bounds, and leaves the client an HTLC.
func CheckSize(p lsp.OpeningFeeParams, size, htlcMinimum ln.Msat) (fee ln.Msat, err error) {
	if err := p.CheckSize(size); err != nil {
		return 0, err
	}
	if fee, err = p.Fee(size); err != nil {
		return 0, err
	}
	if fee >= size || size-fee < htlcMinimum {
		return 0, fmt.Errorf("%w (a fee of %s for %s)", lsp.ErrFeeTooLarge, fee, size)
	}
	return fee, nil
}

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

// ExtraFeeTLV is the value of ExtraFeeRecord.
func ExtraFeeTLV(fee ln.Msat) []byte { return binary.BigEndian.AppendUint64(nil, uint64(fee)) }
