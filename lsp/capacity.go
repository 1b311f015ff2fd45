package lsp

import (
	"fmt"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Weights of a commitment transaction (BOLT 3, "Expected Weight of the
// Commitment Transaction", with anchors; simple taproot channels for taproot)
// and of one HTLC output on it.
const (
	anchorCommitWeight  = 1124
	taprootCommitWeight = 968
	htlcOutputWeight    = 172
	// anchorsSat is what both anchor outputs take from the opener.
	anchorsSat ln.Sat = 660
	// BOLT 2: the opener must be able to pay the commitment fee at twice the
	// rate with one HTLC more ("fee spike buffer").
	spikeFactor = 2
	spikeHtlcs  = 1
)

// ErrChannelTooLarge: no channel that this gateway may open carries it.
var ErrChannelTooLarge = errkind.New(errkind.Invalid, "the channel for this payment would be larger than this LSP opens: ask to receive less, or in several payments")

// CapacityPolicy says how large a channel for one payment is made.
type CapacityPolicy struct {
	// CommitFeeRate is the commitment's fee rate as lnd would choose it now;
	// StressPercent (at least 100) is how much of it must be affordable.
	CommitFeeRate ln.FeeRateSatPerKW
	StressPercent uint32
	// HeadroomSat and HeadroomPPM (of the payment) are added for later
	// payments.
	HeadroomSat ln.Sat
	HeadroomPPM uint32
	// ReserveSat is each side's reserve where it is set; 0 means 1 % of the
	// capacity and at least DustLimitSat.
	ReserveSat   ln.Sat
	DustLimitSat ln.Sat
	MinSat       ln.Sat
	MaxSat       ln.Sat
}

// Reserve is what a side of a channel of this capacity must keep.
func (p CapacityPolicy) Reserve(capacity ln.Sat) ln.Sat {
	if p.ReserveSat > 0 {
		return max(p.ReserveSat, p.DustLimitSat)
	}
	return max((capacity+99)/100, p.DustLimitSat)
}

// CommitFee is the fee of a commitment with so many HTLC outputs at the rate.
func CommitFee(t ln.CommitmentType, rate ln.FeeRateSatPerKW, htlcs int) (ln.Sat, error) {
	weight := uint64(anchorCommitWeight)
	switch t {
	case ln.CommitmentAnchors:
	case ln.CommitmentSimpleTaproot:
		weight = taprootCommitWeight
	default:
		return 0, fmt.Errorf("commitment type %q has no known weight", t)
	}
	if htlcs < 0 || htlcs > 966 {
		return 0, fmt.Errorf("a commitment cannot have %d HTLCs", htlcs)
	}
	return rate.Fee(weight + htlcOutputWeight*uint64(htlcs))
}

// spike is the commitment fee that BOLT 2 wants the opener to afford before it
// adds so many HTLCs.
func spike(t ln.CommitmentType, rate ln.FeeRateSatPerKW, htlcs int) (ln.Sat, error) {
	if rate > 1<<40 {
		return 0, fmt.Errorf("a fee rate of %d sat/kw: %w", rate, ln.ErrOverflow)
	}
	return CommitFee(t, rate*spikeFactor, htlcs+spikeHtlcs)
}

// Capacity is the size of a channel through which amount, in so many parts,
// reaches the peer at once: the amount, both reserves, the commitment fee with
// BOLT 2's buffer at the stressed rate, both anchors and the headroom; at least
// MinSat. Above MaxSat the headroom is given up first, then ErrChannelTooLarge.
func (p CapacityPolicy) Capacity(amount ln.Msat, parts int, t ln.CommitmentType) (ln.Sat, error) {
	stressed := p.CommitFeeRate * ln.FeeRateSatPerKW(max(p.StressPercent, 100)) / 100
	if p.CommitFeeRate > 1<<30 {
		return 0, fmt.Errorf("a commitment fee rate of %d sat/kw is no rate", p.CommitFeeRate)
	}
	fee, err := spike(t, max(stressed, ln.MinFeeRate), parts)
	if err != nil {
		return 0, err
	}
	extra, err := ln.PPMCeil(amount, uint64(p.HeadroomPPM))
	if err != nil {
		return 0, fmt.Errorf("headroom: %w", err)
	}
	need := amount.ToSatCeil()
	for _, part := range []ln.Sat{fee, anchorsSat} {
		if need, err = need.Add(part); err != nil {
			return 0, ErrChannelTooLarge
		}
	}
	roomy, err := need.Add(extra.ToSatCeil())
	if err == nil {
		roomy, err = roomy.Add(p.HeadroomSat)
	}
	if err != nil {
		return 0, ErrChannelTooLarge
	}
	capacity, least := p.withReserves(roomy), p.withReserves(need)
	if p.MaxSat > 0 && least > p.MaxSat {
		return 0, fmt.Errorf("%w (%s needed, at most %s)", ErrChannelTooLarge, least, p.MaxSat)
	}
	if p.MaxSat > 0 {
		capacity = min(capacity, p.MaxSat)
	}
	return max(capacity, p.MinSat), nil
}

// OpenerKeeps is the least that the opener of a channel of this capacity must have
// of it, so that it can be opened and pay for its commitment: the reserve, the
// fee with BOLT 2's buffer at the stressed rate, and both anchors.
func (p CapacityPolicy) OpenerKeeps(capacity ln.Sat, t ln.CommitmentType) (ln.Sat, error) {
	if p.CommitFeeRate > 1<<30 {
		return 0, fmt.Errorf("a commitment fee rate of %d sat/kw is no rate", p.CommitFeeRate)
	}
	fee, err := spike(t, max(p.CommitFeeRate*ln.FeeRateSatPerKW(max(p.StressPercent, 100))/100, ln.MinFeeRate), 1)
	if err != nil {
		return 0, err
	}
	keeps := p.Reserve(capacity)
	for _, part := range []ln.Sat{fee, anchorsSat} {
		if keeps, err = keeps.Add(part); err != nil {
			return 0, err
		}
	}
	return keeps, nil
}

// withReserves is the least capacity c with c >= need + 2·reserve(c). The
// reserve grows by at most 1 sat per 100, so the climb ends within a few steps.
func (p CapacityPolicy) withReserves(need ln.Sat) ln.Sat {
	c := need
	for {
		next := need + 2*p.Reserve(c)
		if next <= c {
			return c
		}
		c = next
	}
}

// Spendable is how much can be sent to the peer through an open channel now,
// in so many parts, at a commitment fee rate: the local balance (of which lnd
// has taken the commitment fee already), less the reserve, less what BOLT 2's
// buffer still wants of an opener.
func Spendable(ch ln.Channel, rate ln.FeeRateSatPerKW, parts int) (ln.Msat, error) {
	left := ch.LocalSat
	take := func(sat ln.Sat) { left -= min(left, sat) }
	take(ch.LocalReserveSat)
	if ch.Initiator {
		buffer, err := spike(ln.CommitmentType(ch.CommitmentType), max(rate, ln.MinFeeRate), len(ch.Htlcs)+parts)
		if err != nil {
			return 0, err
		}
		take(buffer - min(buffer, ch.CommitFeeSat))
	}
	return left.Msat()
}
