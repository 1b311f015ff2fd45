package lsp

import (
	"fmt"
	"math/bits"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// ChainPrices ties the menu to what the chain asks: how heavy an opening is
// expected to be, how much of its cost the least fee must cover, and how far a
// fee that was promised is honoured when the chain has become dearer since.
type ChainPrices struct {
	// OpeningWU is what a funding transaction is expected to weigh.
	OpeningWU uint64
	// ClosingWU is what closing the channel is expected to weigh; 0 leaves the
	// close out of the price.
	ClosingWU uint64
	// MarginPercent is how much of the expected cost the least fee covers: 100
	// exactly, 150 half as much again. 0 lets prices stand as they are written.
	MarginPercent uint32
	// TolerancePercent is how much an opening may cost of the fee agreed for it:
	// 200 gives the gateway's own money for up to once the fee. 0 honours every
	// fee, whatever the opening costs.
	TolerancePercent uint32
}

// OpeningFee is what a funding transaction is expected to pay at this rate.
func (p ChainPrices) OpeningFee(rate ln.FeeRateSatPerKW) (ln.Sat, error) {
	return rate.Fee(p.OpeningWU)
}

// Cover is the least opening fee that covers the chain at this rate: the
// expected cost with its margin, rounded up to a whole satoshi.
func (p ChainPrices) Cover(rate ln.FeeRateSatPerKW) (ln.Sat, error) {
	if p.MarginPercent == 0 {
		return 0, nil
	}
	open, err := rate.Fee(p.OpeningWU)
	if err != nil {
		return 0, err
	}
	closing, err := rate.Fee(p.ClosingWU)
	if err != nil {
		return 0, err
	}
	cost, err := open.Add(closing)
	if err != nil {
		return 0, err
	}
	hi, lo := bits.Mul64(uint64(cost), uint64(p.MarginPercent))
	lo, carry := bits.Add64(lo, 99, 0)
	if hi += carry; hi >= 100 {
		return 0, fmt.Errorf("%d percent of %s: %w", p.MarginPercent, cost, ln.ErrOverflow)
	}
	cover, _ := bits.Div64(hi, lo, 100)
	if ln.Sat(cover) > ln.MaxMsat.ToSatFloor() {
		return 0, fmt.Errorf("%d percent of %s: %w", p.MarginPercent, cost, ln.ErrOverflow)
	}
	return ln.Sat(cover), nil
}

// MaxOpeningFee is the most that a funding transaction may pay when this fee
// was agreed for the channel; false when nothing bounds it.
func (p ChainPrices) MaxOpeningFee(agreed ln.Msat) (ln.Sat, bool) {
	if p.TolerancePercent == 0 {
		return 0, false
	}
	const unit = 100 * 1000 // percent of msat to sat
	hi, lo := bits.Mul64(uint64(min(agreed, ln.MaxMsat)), uint64(p.TolerancePercent))
	if hi >= unit {
		return ln.MaxMsat.ToSatFloor(), true
	}
	most, _ := bits.Div64(hi, lo, unit)
	return min(ln.Sat(most), ln.MaxMsat.ToSatFloor()), true
}

// leastLeft is what a payment must leave the wallet beside the fee: lnd's
// least HTLC (bLIP-52: payment size less fee must be a forwardable HTLC).
const leastLeft ln.Msat = 1_000

// PriceMenu is the menu on offer when no channel may be opened for less than
// cover. Items are raised only as far as that, and as bLIP-52's order asks: one
// that would cost the same as the item before it stays a satoshi dearer. The
// smallest payment of an item is raised above its least fee, so that nothing is
// on offer that every purchase would be refused for; items of which nothing is
// left are dropped.
func PriceMenu(base []OpeningFeeParams, cover ln.Sat) ([]OpeningFeeParams, error) {
	least, err := cover.Msat()
	if err != nil {
		return nil, err
	}
	menu := make([]OpeningFeeParams, 0, len(base))
	var before OpeningFeeParams
	for i, item := range base {
		// No sum wraps: MinFeeMsat and cover are bounded by MaxMsat.
		item.MinFeeMsat = max(item.MinFeeMsat, least, before.MinFeeMsat)
		if i > 0 && item.MinFeeMsat == before.MinFeeMsat && item.ProportionalPPM == before.ProportionalPPM {
			item.MinFeeMsat += 1_000
		}
		before = item
		item.MinPaymentSizeMsat = max(item.MinPaymentSizeMsat, item.MinFeeMsat+leastLeft)
		if item.MinPaymentSizeMsat <= item.MaxPaymentSizeMsat {
			menu = append(menu, item)
		}
	}
	return menu, nil
}
