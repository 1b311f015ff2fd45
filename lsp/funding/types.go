package funding

import "github.com/sluice-lsp/sluice/internal/ln"

// Selection is what a funding transaction will spend and pay. Inputs are in
// the transaction's order. Input amounts equal FundingSat+ChangeSat+FeeSat,
// always; FeeSat is at least FeeRate for WeightWU, and more only when there is
// no change output to take the rest.
type Selection struct {
	Inputs     []ln.Coin          `json:"inputs"`
	FundingSat ln.Sat             `json:"funding_sat"`
	ChangeSat  ln.Sat             `json:"change_sat"`
	FeeSat     ln.Sat             `json:"fee_sat"`
	FeeRate    ln.FeeRateSatPerKW `json:"fee_rate_sat_per_kw"`
	WeightWU   uint64             `json:"weight_wu"`
}

// InputSat is the sum of the inputs.
func (s Selection) InputSat() ln.Sat { return s.FundingSat + s.ChangeSat + s.FeeSat }

// HasChange reports that a change output exists: the handle for CPFP.
func (s Selection) HasChange() bool { return s.ChangeSat > 0 }
