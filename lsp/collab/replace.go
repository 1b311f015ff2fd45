package collab

import (
	"slices"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// MayReplace says why an open may not take the place of another; nil when it may.
// Both are kept, whatever comes: they share a coin of the wallet's, so that one of
// them at most confirms, and each sees the other's as a spend of its input. Neither
// is given up before the other is buried.
func MayReplace(old State, next Plan) error {
	p := PlanOf(old)
	wrong := func(format string, args ...any) error { return errkind.Newf(errkind.Conflict, format, args...) }
	switch old.(type) {
	case Signed, Published:
	default:
		return wrong("the joint funding is %s: only one that is signed and in no block is replaced", old.StateName())
	}
	shared := slices.ContainsFunc(next.Inputs, func(a Input) bool {
		return slices.ContainsFunc(p.Inputs, func(b Input) bool { return a.Outpoint == b.Outpoint })
	})
	l, _ := liveOf(old)
	switch {
	case p.ZeroConf:
		// What the wallet received over it would be gone.
		return wrong("the channel is used already, and not replaced: it is hurried by the gateway's change")
	case !shared:
		return wrong("none of the coins is one of the funding to be replaced: both could confirm")
	case next.FeeRate < l.leastRate():
		return wrong("the chain's fee rate is %d sat/kw, and to replace this transaction takes %d: it is hurried by the gateway's change", next.FeeRate, l.leastRate())
	}
	return nil
}

// leastRate is what a replacement must pay, for the network to take it instead. A
// child that hurried it is paid for, too.
func (l live) leastRate() ln.FeeRateSatPerKW {
	return max(l.Joint.FeeRate+l.Joint.FeeRate/4, l.BumpRate+l.BumpRate/2)
}

// Outbids says that a transaction pays more than the one it replaces, and for its own
// way through the network besides (BIP 125, rules 3 and 4).
func Outbids(old State, fee ln.Sat, weightWU uint64) bool {
	l, _ := liveOf(old)
	relay, err := ln.MinFeeRate.Fee(weightWU)
	return err == nil && fee >= l.Joint.FeeSat+relay
}
