package agent

import (
	"fmt"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Policy bounds the channels that the wallet takes.
type Policy struct {
	// MaxChannelSat is the largest channel of an LSP.
	MaxChannelSat ln.Sat
	// MaxToSelfDelayBlocks is for how long an LSP may make our own money wait
	// after we close a channel by force.
	MaxToSelfDelayBlocks uint32
	// AcceptOthers takes ordinary, confirmed channels from anybody, as lnd does
	// without an acceptor. Zero-conf from others is refused always.
	AcceptOthers bool
}

// DefaultPolicy fits a phone's wallet: channels up to lnd's size without
// "wumbo", two weeks of delay.
func DefaultPolicy() Policy {
	return Policy{MaxChannelSat: 16_777_215, MaxToSelfDelayBlocks: 2_016, AcceptOthers: true}
}

// Bounds of what an LSP's proposal may ask; stock lnd stays well within them.
const (
	// maxReservePercent is of the capacity, and minReserveSat is fine always.
	maxReservePercent = 2
	minReserveSat     = 1_000
	maxMinHtlcMsat    = 1_000_000
	minMaxHtlcs       = 6
)

// Wish is what the standing agreements with an LSP say of its next channel.
type Wish struct {
	// Declined says that zero-conf was declined in every one of them.
	Declined bool
	// Confirmations is the most that any of them asked for.
	Confirmations uint32
	// Trusting: the user asked for a zero-conf channel of this LSP just now.
	Trusting bool
	// Joint says that the wallet asked for exactly this channel and brings coins to
	// it: what is pushed is its own, and whether it confirms first was agreed.
	Joint bool
	// Ordered are channels that were bought outright and have not come.
	Ordered []Expected
}

// Expected is a channel that was bought outright.
type Expected struct {
	CapacitySat   ln.Sat
	PushSat       ln.Sat
	Announce      bool
	Confirmations uint32
}

// ordered finds the order that a proposal is for: a channel that is as large, pushes
// what was paid for, is as public, and comes unconfirmed if that was ordered.
func (w Wish) ordered(o ln.OpenProposal) (Expected, bool) {
	for _, x := range w.Ordered {
		push, err := x.PushSat.Msat()
		if err == nil && o.CapacitySat >= x.CapacitySat && o.PushMsat == push && o.Announce == x.Announce && o.WantsZeroConf == (x.Confirmations == 0) {
			return x, true
		}
	}
	return Expected{}, false
}

// confirmed is the wish of a wallet that also waits for a payment over a channel which
// must have confirmed: the LSP could take back what it pays over another one. A user who
// asks for a zero-conf channel all the same gets it.
func (w Wish) confirmed(confs uint32) Wish {
	w.Confirmations = max(w.Confirmations, confs, 1)
	w.Declined = w.Declined || !w.Trusting
	return w
}

// Decide answers a proposal. proposer is the LSP whose node key made it, nil
// for everybody else. The node key is proven: lnd knows it from the
// connection's handshake (BOLT 8).
func (p Policy) Decide(o ln.OpenProposal, proposer *LSP, wish Wish) ln.AcceptVerdict {
	if proposer == nil {
		return p.decideStranger(o)
	}
	if why := p.refusal(o, *proposer, wish); why != "" {
		return ln.AcceptVerdict{Refusal: why}
	}
	switch {
	case o.WantsZeroConf:
		return ln.AcceptVerdict{Accept: true, ZeroConf: true}
	case wish.Joint:
		return ln.AcceptVerdict{Accept: true}
	}
	depth := wish.Confirmations
	if x, ok := wish.ordered(o); ok {
		depth = x.Confirmations
	}
	return ln.AcceptVerdict{Accept: true, MinDepth: depth}
}

func (p Policy) decideStranger(o ln.OpenProposal) ln.AcceptVerdict {
	switch {
	case o.WantsZeroConf:
		return ln.AcceptVerdict{Refusal: "this wallet takes zero-conf channels from its own LSPs only"}
	case !p.AcceptOthers:
		return ln.AcceptVerdict{Refusal: "this wallet takes channels from its own LSPs only"}
	default:
		return ln.AcceptVerdict{Accept: true}
	}
}

func (p Policy) refusal(o ln.OpenProposal, l LSP, wish Wish) string {
	reserveLimit := max(o.CapacitySat/100*maxReservePercent, minReserveSat)
	switch {
	case o.CapacitySat > p.MaxChannelSat:
		return fmt.Sprintf("this wallet takes channels up to %s, not of %s", p.MaxChannelSat, o.CapacitySat)
	case o.CsvDelay > p.MaxToSelfDelayBlocks:
		return fmt.Sprintf("this wallet lets its money wait for %d blocks at most (to_self_delay), not %d", p.MaxToSelfDelayBlocks, o.CsvDelay)
	case o.ReserveSat > reserveLimit:
		return fmt.Sprintf("this wallet keeps a channel reserve of %s at most, not %s", reserveLimit, o.ReserveSat)
	case o.MinHtlcMsat > maxMinHtlcMsat:
		return fmt.Sprintf("this wallet wants to send as little as %s, not %s", ln.Msat(maxMinHtlcMsat), o.MinHtlcMsat)
	case o.MaxHtlcs < minMaxHtlcs:
		return fmt.Sprintf("this wallet wants room for %d HTLCs, not %d", minMaxHtlcs, o.MaxHtlcs)
	case !o.WantsZeroConf:
		return ""
	case wish.Joint && !o.Announce && anchored(o.CommitmentType):
		return ""
	case !l.ZeroConf:
		return "this wallet's user trusts no zero-conf channel of this LSP"
	case !anchored(o.CommitmentType):
		return fmt.Sprintf("this wallet takes zero-conf channels with anchors only, not of type %s", o.CommitmentType)
	}
	if _, bought := wish.ordered(o); bought {
		// The user chose to pay for it and to use it unconfirmed.
		return ""
	}
	switch {
	case wish.Declined:
		return "this wallet's user asked for confirmations, not for zero-conf"
	case o.PushMsat > 0:
		// Pushed money looks like a balance, and a double-spent funding
		// transaction takes it away again.
		return "this wallet takes no pushed balance in a zero-conf channel"
	case o.Announce:
		return "this wallet takes no announced zero-conf channel"
	default:
		return ""
	}
}

// anchored are the commitment types whose fee can be raised later; a lease
// (SCRIPT_ENFORCED_LEASE) would lock money for longer than agreed.
func anchored(t ln.CommitmentType) bool {
	switch t {
	case ln.CommitmentAnchors, ln.CommitmentSimpleTaproot, "SIMPLE_TAPROOT_FINAL":
		return true
	default:
		return false
	}
}
