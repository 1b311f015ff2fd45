package liquidity

import "github.com/sluice-lsp/sluice/internal/ln"

// Use is what is remembered of a channel's use. Only payments change what the
// peer has in a channel that we opened.
type Use struct {
	RemoteSat ln.Sat
	// SinceHeight is the block at which that was seen first.
	SinceHeight uint32
	// MinLifetime is for how many blocks the channel was promised to stay.
	MinLifetime uint32
}

// Seen is what is remembered after a look at the channel, and whether it changed.
func (u Use) Seen(c ln.Channel, tip uint32) (Use, bool) {
	if c.RemoteSat == u.RemoteSat && len(c.Htlcs) == 0 && u.SinceHeight > 0 && u.SinceHeight <= tip {
		return u, false
	}
	next := Use{RemoteSat: c.RemoteSat, SinceHeight: tip, MinLifetime: u.MinLifetime}
	return next, next != u
}

// UnusedPolicy says when channels on demand that nobody uses are closed. The zero
// value closes none.
type UnusedPolicy struct {
	// AfterBlocks without a payment.
	AfterBlocks uint32
}

// closesFrom is what the peer must have in a channel, if anything: less is dust
// that a close would leave to the miners.
const closesFrom = 1_000

// Closes says that the channel may be closed, in agreement with its peer, who must be
// there. What the peer was promised is kept.
func (p UnusedPolicy) Closes(c ln.Channel, u Use, tip uint32) bool {
	if p.AfterBlocks == 0 || !c.Active || !c.Private || !c.Initiator || c.IsJoint() || len(c.Htlcs) > 0 || c.RemoteSat != u.RemoteSat {
		return false
	}
	if c.RemoteSat > 0 && c.RemoteSat < closesFrom {
		return false
	}
	born := c.ConfirmedSCID
	if !c.ZeroConf {
		born = c.ChanID
	}
	if born == 0 || u.SinceHeight == 0 {
		return false
	}
	return passed(born.Block(), u.MinLifetime, tip) && passed(u.SinceHeight, p.AfterBlocks, tip)
}

func passed(from, blocks, tip uint32) bool { return uint64(from)+uint64(blocks) <= uint64(tip) }
