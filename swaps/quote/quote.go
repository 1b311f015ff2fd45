package quote

import (
	"errors"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// Rates are what the chain asks at one time: for a transaction that must
// confirm soon, and for one that may wait.
type Rates struct {
	At    time.Time          `json:"at"`
	Soon  ln.FeeRateSatPerKW `json:"soon_sat_per_kw"`
	Later ln.FeeRateSatPerKW `json:"later_sat_per_kw"`
}

// Of is the rate of a class of publication. Waiting never costs more.
func (r Rates) Of(later bool) ln.FeeRateSatPerKW {
	if later {
		return min(r.Soon, r.Later)
	}
	return r.Soon
}

// Window is what was quoted from, oldest first.
type Window []Rates

// ErrNoRates: nothing is quoted without a fresh estimate.
var ErrNoRates = errkind.New(errkind.Unavailable, "there is no fresh estimate of chain fees: try again in a minute")

// Latest is what a quote is made from now.
func (w Window) Latest(now time.Time, stale time.Duration) (Rates, error) {
	if len(w) == 0 || now.Sub(w[len(w)-1].At) > stale {
		return Rates{}, ErrNoRates
	}
	return w[len(w)-1], nil
}

// Firm is what a swap is priced from: the lowest that any quote of the last
// while was made from. The sample before the oldest one within counts too,
// because quotes were made from it until that came.
func (w Window) Firm(now time.Time, stale, firm time.Duration, later bool) (ln.FeeRateSatPerKW, error) {
	latest, err := w.Latest(now, stale)
	if err != nil {
		return 0, err
	}
	rate := latest.Of(later)
	since := now.Add(-firm)
	for i := len(w) - 1; i >= 0; i-- {
		rate = min(rate, w[i].Of(later))
		if !w[i].At.After(since) {
			break
		}
	}
	return rate, nil
}

// Policy is how swaps out are priced.
type Policy struct {
	BaseSat ln.Sat
	PPM     uint64
	// FundingWU is what a funding transaction is expected to weigh.
	FundingWU uint64
	// StressPercent of today's rate is what a refund may cost when a client
	// does not show up; the prepay covers it.
	StressPercent uint64
	MinPrepaySat  ln.Sat
}

// Price is what a swap out costs. The prepay is a part of what the client pays
// in all (amount and fee), not an extra.
type Price struct {
	FeeSat    ln.Sat
	PrepaySat ln.Sat
	// MinerSat is the share of the fee that is meant for the chain.
	MinerSat ln.Sat
}

// SwapInvoiceSat is the amount of the invoice on the client's hash.
func (p Price) SwapInvoiceSat(amount ln.Sat) ln.Sat { return amount + p.FeeSat - p.PrepaySat }

// InPolicy is how swaps in are priced.
type InPolicy struct {
	BaseSat ln.Sat
	PPM     uint64
	// RoutingPPM of the amount, and RoutingBaseSat, are the most that paying the
	// client may cost; the fee covers them.
	RoutingBaseSat ln.Sat
	RoutingPPM     uint64
}

// RoutingMsat is the most that the payment may cost.
func (p InPolicy) RoutingMsat(amount ln.Sat) (ln.Msat, error) {
	msat, err := amount.Msat()
	if err != nil {
		return 0, err
	}
	share, err := ln.PPMCeil(msat, p.RoutingPPM)
	if err != nil {
		return 0, err
	}
	base, err := p.RoutingBaseSat.Msat()
	if err != nil {
		return 0, err
	}
	return share.Add(base)
}

// Direct is In for a client that is paid over a channel of its own, without a route.
func (p InPolicy) Direct(amount ln.Sat, rate ln.FeeRateSatPerKW) (ln.Sat, error) {
	p.RoutingBaseSat, p.RoutingPPM = 0, 0
	return p.In(amount, rate)
}

// In is the fee of a swap in: what is taken off the amount that the client is
// paid.
func (p InPolicy) In(amount ln.Sat, rate ln.FeeRateSatPerKW) (ln.Sat, error) {
	msat, err := amount.Msat()
	if err != nil {
		return 0, err
	}
	share, err := ln.PPMCeil(msat, p.PPM)
	if err != nil {
		return 0, err
	}
	routing, err := p.RoutingMsat(amount)
	if err != nil {
		return 0, err
	}
	claim, err := rate.Fee(htlc.ClaimWU)
	if err != nil {
		return 0, err
	}
	fee := p.BaseSat
	for _, part := range []ln.Sat{share.ToSatCeil(), routing.ToSatCeil(), claim} {
		if fee, err = fee.Add(part); err != nil {
			return 0, err
		}
	}
	return fee, nil
}

// Out prices a swap out.
func (p Policy) Out(amount ln.Sat, rate ln.FeeRateSatPerKW) (Price, error) {
	msat, err := amount.Msat()
	if err != nil {
		return Price{}, err
	}
	share, err := ln.PPMCeil(msat, p.PPM)
	if err != nil {
		return Price{}, err
	}
	miner, err := rate.Fee(p.FundingWU)
	if err != nil {
		return Price{}, err
	}
	fee, err := p.BaseSat.Add(share.ToSatCeil())
	if err != nil {
		return Price{}, err
	}
	if fee, err = fee.Add(miner); err != nil {
		return Price{}, err
	}
	if p.StressPercent > 10_000 {
		return Price{}, errors.New("the stress of fee rates is above a hundredfold")
	}
	refund, err := (rate * ln.FeeRateSatPerKW(p.StressPercent) / 100).Fee(htlc.RefundWU)
	if err != nil {
		return Price{}, err
	}
	prepay, err := miner.Add(refund)
	if err != nil {
		return Price{}, err
	}
	// Half of the amount is far more than any no-show costs; more would turn
	// the prepay into the swap.
	prepay = min(max(prepay, p.MinPrepaySat), max(amount/2, 1))
	return Price{FeeSat: fee, PrepaySat: prepay, MinerSat: miner}, nil
}
