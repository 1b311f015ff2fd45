package order

import (
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

const (
	// claimWU is what the claim of one HTLC with its preimage weighs on the payer's commitment:
	// its input and a transaction around it (BOLT 3, "Offered HTLC Outputs").
	claimWU = 700
	// dustSat is what an HTLC must hold beside that to have an output at all.
	dustSat ln.Sat = 354
)

// Claimable refuses a set with parts that would not bring what it costs to claim them on
// chain. Whoever pays with such parts over a channel of its own may close that once its
// order is granted, and most of the money never arrives, while the gateway has opened and
// pushed. One part may be small: that is what is left over when an amount is cut.
func Claimable(htlcs []ln.InvoiceHtlc, rate ln.FeeRateSatPerKW) (lsp.Reason, error) {
	cost, err := rate.Fee(claimWU)
	if err != nil {
		return lsp.Reason{}, err
	}
	least, err := max(cost, dustSat).Msat()
	if err != nil {
		return lsp.Reason{}, err
	}
	small := 0
	for _, h := range htlcs {
		if h.AmtMsat < least {
			small++
		}
	}
	if small < 2 {
		return lsp.Reason{}, nil
	}
	return lsp.Because(lsp.ReasonPartTooSmall, "%d of the payment's %d parts are below %s, which is what claiming one on chain costs today: it goes back; pay in fewer parts",
		small, len(htlcs), least), nil
}
