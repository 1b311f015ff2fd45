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
	Floor ln.FeeRateSatPerKW
	// Ceiling is never exceeded, whatever an estimator says.
	Ceiling ln.FeeRateSatPerKW
	MaxAge  time.Duration
}

// Rate is an estimate as the policy sees it at a moment.
type Rate struct {
	// Rate is what a transaction pays that cannot wait: the last estimate,
	// within floor and ceiling. Without any estimate it is the floor.
	Rate ln.FeeRateSatPerKW
	// Asked is the last estimate itself; 0 when there was none.
	Asked ln.FeeRateSatPerKW
	// Age is that of the last estimate.
	Age time.Duration
	// Stale: too old to do new business on, or to bump to.
	Stale bool
	// High: the network asks more than the ceiling. What pays the ceiling then
	// may wait for long, so no new business is done on it.
	High bool
}

// Known says that there was an estimate, however old.
func (r Rate) Known() bool { return r.Asked > 0 }

// Alarm is what the operator must be told; empty when all is well.
func (r Rate) Alarm() string {
	switch {
	case !r.Known():
		return "there is no fee estimate yet: no new channels are offered, nothing is bumped"
	case r.Stale:
		return fmt.Sprintf("the fee estimate is %s old: no new channels are offered, nothing is bumped, and what was promised is opened at %d sat/kw", r.Age.Truncate(time.Second), r.Rate)
	case r.High:
		return fmt.Sprintf("the network asks %d sat/kw, more than the ceiling: no new channels are offered, and what was promised is opened at %d sat/kw", r.Asked, r.Rate)
	}
	return ""
}

// Decide judges the last estimate. A missing or stale one still gives a rate,
// since a held payment waits.
func (p RatePolicy) Decide(e Estimate, now time.Time) Rate {
	r := Rate{Rate: min(max(e.Rate, p.Floor), p.Ceiling), Asked: e.Rate}
	if !r.Known() {
		r.Stale = true
		return r
	}
	r.Age = max(0, now.Sub(e.At))
	r.Stale, r.High = r.Age > p.MaxAge, e.Rate > p.Ceiling
	return r
}
