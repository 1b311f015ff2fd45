package funding

import (
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Estimate is one answer of a fee estimator.
type Estimate struct {
	Rate ln.FeeRateSatPerKW
	At   time.Time
}

// RatePolicy is the one way from estimates to rates: floor, ceiling, and how
// old an estimate may be.
type RatePolicy struct {
	Floor   ln.FeeRateSatPerKW
	Ceiling ln.FeeRateSatPerKW
	MaxAge  time.Duration
}

// Rate is the rate to use and what to warn the operator of; an empty Alarm is
// none. Stale says that nothing should be bumped to this rate.
type Rate struct {
	Rate  ln.FeeRateSatPerKW
	Stale bool
	Alarm string
}

// Check refuses a policy that cannot be followed.
func (p RatePolicy) Check() error {
	switch {
	case p.Floor < ln.MinFeeRate:
		return fmt.Errorf("the fee floor of %d sat/kw is below what nodes relay: set at least %d", p.Floor, ln.MinFeeRate)
	case p.Ceiling < p.Floor:
		return fmt.Errorf("the fee ceiling of %d sat/kw is below the floor of %d: raise it", p.Ceiling, p.Floor)
	case p.MaxAge <= 0:
		return fmt.Errorf("the age at which a fee estimate is stale must be positive")
	}
	return nil
}

// Decide bounds an estimate. A missing or stale one still gives a rate, since a
// held payment waits: the last known, at least the floor, with an alarm.
func (p RatePolicy) Decide(e Estimate, now time.Time) Rate {
	r := Rate{Rate: min(max(e.Rate, p.Floor), p.Ceiling)}
	switch age := now.Sub(e.At); {
	case e.At.IsZero() || e.Rate == 0:
		r.Stale, r.Alarm = true, fmt.Sprintf("no fee estimate yet: opening at %d sat/kw, nothing is bumped", r.Rate)
	case age > p.MaxAge:
		r.Stale, r.Alarm = true, fmt.Sprintf("the fee estimate is %s old: opening at %d sat/kw, nothing is bumped", age.Truncate(time.Second), r.Rate)
	case e.Rate > p.Ceiling:
		r.Alarm = fmt.Sprintf("the network asks %d sat/kw, the ceiling is %d: transactions may lag", e.Rate, p.Ceiling)
	}
	return r
}
