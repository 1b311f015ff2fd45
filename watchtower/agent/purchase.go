package agent

import (
	"bytes"
	"math"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
)

// CheckPurchase judges an invoice before it is paid: it asks what the tower's price
// says, no more than the wallet's limit (0 is none), and pays this purchase.
func CheckPurchase(p *towerv1.Purchase, updates, priceMsat int64, maxSat uint64, decode func(string) (ln.Bolt11, error)) error {
	if priceMsat < 1 || updates < 1 || updates > math.MaxInt64/priceMsat || p.GetAmountMsat() != updates*priceMsat {
		return errkind.Newf(errkind.Invalid, "The tower asks %d msat for %d updates at %d msat each: don't pay, and ask its operator.", p.GetAmountMsat(), updates, priceMsat)
	}
	if maxSat > 0 && (uint64(p.GetAmountMsat())+999)/1000 > maxSat { //nolint:gosec // positive
		return errkind.Newf(errkind.Invalid, "%d updates cost %d msat, more than the %d sat that you allow: nothing was paid.", updates, p.GetAmountMsat(), maxSat)
	}
	invoice, err := decode(p.GetBolt11())
	if err != nil {
		return errkind.Wrap(errkind.Invalid, err, "The tower's invoice is none: don't pay it.")
	}
	if int64(invoice.AmountMsat) != p.GetAmountMsat() || !bytes.Equal(invoice.Hash[:], p.GetPaymentHash()) { //nolint:gosec // below all bitcoin
		return errkind.New(errkind.Invalid, "The tower's invoice is not for this purchase: don't pay it.")
	}
	return nil
}
