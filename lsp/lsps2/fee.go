package lsps2

import (
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
