package watchtower

import (
	"math"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Limits bound what one tenant stores. In a tenant's own limits 0 means the
// service's.
type Limits struct {
	Sessions int64
	Updates  int64
	Bytes    int64
	// Free is how many updates are held without a price, where there is one.
	Free int64
}

// With gives the limits that hold where a tenant has own ones.
func (l Limits) With(own Limits) Limits {
	pick := func(service, own int64) int64 {
		if own > 0 {
			return own
		}
		return service
	}
	return Limits{
		Sessions: pick(l.Sessions, own.Sessions), Updates: pick(l.Updates, own.Updates), Bytes: pick(l.Bytes, own.Bytes), Free: pick(l.Free, own.Free),
	}
}

// Check names the first limit that cannot work.
func (l Limits) Check() error {
	if l.Sessions < 1 || l.Updates < 1 || l.Bytes < 1 {
		return errkind.New(errkind.Invalid, "Sessions, updates and bytes must each be at least 1.")
	}
	if l.Free < 0 {
		return errkind.New(errkind.Invalid, "Free updates cannot be negative.")
	}
	return nil
}

// CheckOwn is Check for a tenant's own limits.
func (l Limits) CheckOwn() error {
	if l.Sessions < 0 || l.Updates < 0 || l.Bytes < 0 || l.Free < 0 {
		return errkind.New(errkind.Invalid, "Limits cannot be negative; 0 is the service's limit.")
	}
	return nil
}

// Usage is what a tenant stores. Updates are the blobs that are held: a client
// that sends one sequence number twice with different hints has two.
type Usage struct {
	Sessions int64
	Updates  int64
	Bytes    int64
}

// Plus adds.
func (u Usage) Plus(v Usage) Usage {
	return Usage{Sessions: u.Sessions + v.Sessions, Updates: u.Updates + v.Updates, Bytes: u.Bytes + v.Bytes}
}

// Standing is whether a tenant may store.
type Standing string

// The standings. What is stored is watched in each of them.
const (
	// Active may store.
	Active Standing = "active"
	// Expiring may store, and must renew soon.
	Expiring Standing = "expiring"
	// Expired may store nothing until it renews. What it stored is watched until
	// the time of grace is over, then deleted.
	Expired Standing = "expired"
	// Suspended may store nothing until the operator lifts it.
	Suspended Standing = "suspended"
)

// Terms are what the service gives to every tenant.
type Terms struct {
	Limits Limits
	// For is how long a registration lasts, Notice how long before its end it is
	// said to expire, Grace how long after it what was stored is watched.
	For, Notice, Grace time.Duration
	// MinSweepFee is the least fee rate of a session's justice transactions. It is
	// fixed when the session is made: the transactions are signed by then.
	MinSweepFee ln.FeeRateSatPerKW
	// MaxUpdates is the most updates that one session may have.
	MaxUpdates uint16
	// PriceMsat is what each update costs that is held beyond the free ones; 0 sells
	// nothing. It is drawn from credit that was paid before.
	PriceMsat ln.Msat
}

// MaxPriceMsat is far above what anybody pays for 300 bytes, and keeps every sum
// of prices in range.
const MaxPriceMsat ln.Msat = 1_000_000

// Check names the first term that cannot work.
func (t Terms) Check() error {
	switch {
	case t.For <= 0 || t.Notice < 0 || t.Notice >= t.For || t.Grace < 0:
		return errkind.New(errkind.Invalid, "A registration lasts longer than its notice, and neither is negative.")
	case t.MinSweepFee < LeastSweepFee:
		return errkind.Newf(errkind.Invalid, "The sweep-fee floor is at least %d sat/kw, lnd's own.", LeastSweepFee)
	case t.MaxUpdates < 1:
		return errkind.New(errkind.Invalid, "A session has at least one update.")
	case t.PriceMsat > MaxPriceMsat:
		return errkind.Newf(errkind.Invalid, "An update costs at most %d msat.", MaxPriceMsat)
	}
	return t.Limits.Check()
}

// LeastSweepFee is lnd's own floor: a session below it is not made by any lnd.
const LeastSweepFee ln.FeeRateSatPerKW = 1000

// Tenant is who registered.
type Tenant struct {
	// ID is the database's number.
	ID int64
	// Identity is the scheme, a colon and the subject: "node:02...".
	Identity string
	// TowerKey is the key of the tower that only this tenant was told.
	TowerKey ln.PubKey
	Own      Limits
	Usage    Usage
	// CreditMsat is what it paid and has not used. It is negative when a payment
	// that was credited turned out to have gone back after it was used.
	CreditMsat int64
	// DrawnMsat is what its updates have cost so far.
	DrawnMsat int64
	// Suspended says that the operator stopped its uploads, Reason why.
	Suspended bool
	Reason    string
	Created   time.Time
	Expires   time.Time
}

// Standing judges at a moment.
func (t Tenant) Standing(terms Terms, now time.Time) Standing {
	switch {
	case t.Suspended:
		return Suspended
	case !now.Before(t.Expires):
		return Expired
	case !now.Before(t.Expires.Add(-terms.Notice)):
		return Expiring
	}
	return Active
}

// Forgotten says that the time of grace is over: what was stored may go. A
// suspended tenant cannot renew, so its time does not run out.
func (t Tenant) Forgotten(terms Terms, now time.Time) bool {
	return !t.Suspended && !now.Before(t.Expires.Add(terms.Grace))
}

// Admit judges what a tenant wants to store in addition. A refusal changes
// nothing; the client keeps what it could not upload and tries again.
func (t Tenant) Admit(terms Terms, more Usage, now time.Time) error {
	switch t.Standing(terms, now) {
	case Suspended:
		return errkind.New(errkind.Denied, "The tower's operator suspended this registration: ask why. What was stored is still watched.")
	case Expired:
		return errkind.New(errkind.Denied, "The registration at the tower has expired: renew it. What was stored is still watched for a while.")
	}
	limits, after := terms.Limits.With(t.Own), t.Usage.Plus(more)
	switch {
	case more.Sessions > 0 && after.Sessions > limits.Sessions:
		return errkind.Newf(errkind.Exhausted, "The tower holds %d sessions for this registration, which is its limit.", t.Usage.Sessions)
	case more.Updates > 0 && after.Updates > limits.Updates:
		return errkind.Newf(errkind.Exhausted, "The tower holds %d updates for this registration, which is its limit.", t.Usage.Updates)
	case more.Bytes > 0 && after.Bytes > limits.Bytes:
		return errkind.Newf(errkind.Exhausted, "The tower holds %d bytes for this registration, which is its limit.", t.Usage.Bytes)
	}
	if cost := t.CostMsat(terms, more); cost > 0 && t.CreditMsat < cost {
		return errkind.New(errkind.Exhausted, "The updates that the tower holds without a price are used up, and so is the credit: buy credit. What was stored is still watched.")
	}
	return nil
}

// CostMsat is what storing more costs: each update that is then held beyond the
// free ones, and was not held before, has the price. Nothing that is stored is
// ever charged again, and what is deleted makes room among the free ones.
func (t Tenant) CostMsat(terms Terms, more Usage) int64 {
	price, err := terms.PriceMsat.Int64()
	beyond := t.Usage.Updates + more.Updates - max(terms.Limits.With(t.Own).Free, t.Usage.Updates)
	if price == 0 || beyond <= 0 {
		return 0
	}
	if err != nil || beyond > math.MaxInt64/price {
		return math.MaxInt64 // no credit is so large
	}
	return beyond * price
}

// UpdatesLeft is how many more updates a tenant may store before its limit, or
// its free updates and credit, are used up.
func (t Tenant) UpdatesLeft(terms Terms) int64 {
	limits := terms.Limits.With(t.Own)
	left := max(0, limits.Updates-t.Usage.Updates)
	if price, err := terms.PriceMsat.Int64(); err == nil && price > 0 {
		left = min(left, max(0, limits.Free-t.Usage.Updates)+max(0, t.CreditMsat)/price)
	}
	return left
}

// SessionPolicy is what a client asks for when it makes a session.
type SessionPolicy struct {
	MaxUpdates   uint16
	RewardBase   uint32
	RewardRate   uint32
	SweepFeeRate ln.FeeRateSatPerKW
}

// Refusal is the code that the protocol has for a policy.
type Refusal uint16

// The codes, as they stand on the wire.
const (
	NotRefused     Refusal = 0
	RefuseUpdates  Refusal = 61
	RefuseReward   Refusal = 62
	RefuseSweepFee Refusal = 63
)

// Judge says which part of a policy the service refuses. A tower that took low
// fees would hold transactions that no mempool takes when it matters.
func (t Terms) Judge(p SessionPolicy) Refusal {
	switch {
	case p.SweepFeeRate < t.MinSweepFee:
		return RefuseSweepFee
	case p.MaxUpdates == 0 || p.MaxUpdates > t.MaxUpdates:
		return RefuseUpdates
	case p.RewardBase != 0 || p.RewardRate != 0:
		return RefuseReward
	}
	return NotRefused
}
