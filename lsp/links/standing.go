package links

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// OnItsWay is a payment to a wallet, under way or over lately.
type OnItsWay struct {
	Peer ln.PubKey
	Hash ln.Hash
	// Via is the channel that it takes, zero when it is over.
	Via ln.SCID
	// Direct: it is the node's own, else a forward, of which the incoming HTLC tells.
	Direct bool
	// Over is when it ended, zero while it is under way.
	Over time.Time
}

// Standing decides which channels to make sign. A node that dies when it has revoked
// its old commitment, and has not yet signed the peer's next one, owes that signature.
// lnd forgets the debt: at the next channel_reestablish nothing is missing on the wire,
// so it sends nothing (ProcessChanSyncMsg looks at what it owes only where it owes a
// revocation as well), and its timer for signing counts its own updates alone
// (toggleBatchTicker). So an HTLC that one side added or removed stays with one of the
// two for ever, until either adds another update: then all is signed.
//
// Which side owes, and what is seen here of it:
//
//	the peer's HTLC, added:    we owe    it is here, not locked in
//	the peer's HTLC, removed:  peer owes it is here, not locked in
//	our HTLC, added:           peer owes it is on its way and in no channel
//	our HTLC, removed:         we owe    the same, if it failed; nothing, if it succeeded
//
// For the last, the channels of wallets whose payments were under way, or over just
// before, when the node started have a turn once they are back. No other has: a peer that goes away
// with what makes its channel sign, and never comes back, has the channel closed by
// force when that expires. Standing is not safe for concurrent use.
type Standing struct {
	after   time.Duration
	seen    map[cause]*stand
	started time.Time
}

// cause is one HTLC for which a channel is to sign, or the node's start.
type cause struct {
	channel  ln.Outpoint
	start    bool
	incoming bool
	index    uint64
	hash     ln.Hash
}

// place is the channel that a cause is in, and whether its links are up.
type place struct {
	channel ln.Channel
	up      bool
}

type stand struct {
	// since is when it was first seen as it is, with so many commitments; zero while a
	// link is down.
	since       time.Time
	commitments uint64
	next        time.Time
	attempts    int
	// signed, of a start: the channel needs no turn any more.
	signed bool
}

// Turn is a channel whose turn it is, and how often it was before for the same cause.
type Turn struct {
	Channel ln.Channel
	Before  int
}

const (
	// startSlack is how far off what is known of a start may be: whole seconds, and the time
	// that lnd takes to tell. Two starts that are no further apart look like one, and what was
	// signed in between like signed since; one that is taken for two costs a turn for nothing.
	startSlack = 3 * time.Second
	// startFor is for how long after a start its channels are cared for.
	startFor = 10 * time.Minute
	// overBefore is how long before the node's start a payment may have ended of which it owes
	// a signature; a start takes a while itself.
	overBefore = 2 * time.Minute
	// maxTurns ends what does not help, after some two hours.
	maxTurns = 8
)

// NewStanding makes a Standing that gives a channel so long to sign by itself; it takes
// a second at most between peers that are well.
func NewStanding(after time.Duration) *Standing {
	return &Standing{after: after, seen: make(map[cause]*stand)}
}

// Look takes the node's channels, and the payments that were on their way before the
// channels were listed, and returns whose turn it is: for the same cause later and later.
func (s *Standing) Look(now time.Time, channels []ln.Channel, payments []OnItsWay) []Turn {
	named := byName(channels)
	causes := halfSigned(channels, named)
	for _, p := range payments {
		c, ok := named[p.Via]
		if ok && p.Direct && p.Over.IsZero() && !offered(c, func(h ln.ChannelHtlc) bool { return h.Hash == p.Hash }) {
			causes[cause{channel: c.Outpoint, hash: p.Hash}] = place{c, c.Active}
		}
	}
	s.start(now, channels)
	if now.Sub(s.started) <= startFor {
		paid := make(map[ln.PubKey]bool)
		for _, p := range payments {
			paid[p.Peer] = paid[p.Peer] || p.Over.IsZero() || p.Over.After(s.started.Add(-overBefore))
		}
		for _, c := range channels {
			if paid[c.Peer] {
				causes[cause{channel: c.Outpoint, start: true}] = place{c, c.Active}
			}
		}
	}
	for c := range s.seen {
		if _, still := causes[c]; !still {
			delete(s.seen, c)
		}
	}
	turns := make(map[ln.Outpoint]Turn)
	for c, at := range causes {
		st := s.seen[c]
		if st == nil {
			st = &stand{}
			s.seen[c] = st
		}
		if before := st.attempts; st.due(now, at, c.start, s.after) {
			turns[c.channel] = Turn{at.channel, max(before, turns[c.channel].Before)}
		}
	}
	return slices.SortedFunc(maps.Values(turns), func(a, b Turn) int { return cmp.Compare(a.Channel.ChanID, b.Channel.ChanID) })
}

func (st *stand) due(now time.Time, at place, start bool, after time.Duration) bool {
	switch {
	case !at.up:
		st.since = time.Time{}
		return false
	case st.since.IsZero():
		st.since, st.commitments = now, at.channel.Commitments
		return false
	case st.commitments != at.channel.Commitments:
		// Each commitment makes the other side sign what it owes.
		st.since, st.commitments = now, at.channel.Commitments
		st.signed = start
		return false
	}
	// Looks are that far apart, and never exactly.
	if st.signed || st.attempts >= maxTurns || now.Sub(st.since) < after*9/10 || now.Before(st.next) {
		return false
	}
	st.next = now.Add(wait(after, st.attempts))
	st.attempts++
	return true
}

// start notices when the node was started. While it starts it does not say for how long
// it has followed its channels.
func (s *Standing) start(now time.Time, channels []ln.Channel) {
	var longest time.Duration
	for _, c := range channels {
		longest = max(longest, c.SeenFor)
	}
	if longest == 0 {
		return
	}
	started := now.Add(-longest)
	if started.Sub(s.started) <= startSlack {
		return
	}
	s.started = started
	for c := range s.seen {
		if c.start {
			delete(s.seen, c)
		}
	}
}

func byName(channels []ln.Channel) map[ln.SCID]ln.Channel {
	named := make(map[ln.SCID]ln.Channel, len(channels))
	for _, c := range channels {
		for _, scid := range append([]ln.SCID{c.ChanID, c.ConfirmedSCID}, c.Aliases...) {
			if scid != 0 {
				named[scid] = c
			}
		}
	}
	return named
}

// halfSigned finds the HTLCs that the node alone, or its peer alone, is committed to, as
// far as the channels tell.
func halfSigned(channels []ln.Channel, named map[ln.SCID]ln.Channel) map[cause]place {
	out := make(map[cause]place)
	for _, c := range channels {
		for _, h := range c.Htlcs {
			if !h.LockedIn {
				out[cause{channel: c.Outpoint, incoming: h.Incoming, index: h.Index}] = place{c, c.Active}
				continue
			}
			// Where the incoming channel's peer is there and the outgoing HTLC has ended for
			// both, the incoming one goes at once.
			next, ok := named[h.ForwardingChan]
			if h.Incoming && ok && !offered(next, func(o ln.ChannelHtlc) bool { return o.Index == h.ForwardingIndex }) {
				out[cause{channel: next.Outpoint, index: h.ForwardingIndex}] = place{next, next.Active && c.Active}
			}
		}
	}
	return out
}

// offered tells whether we have offered the peer such an HTLC.
func offered(c ln.Channel, such func(ln.ChannelHtlc) bool) bool {
	return slices.ContainsFunc(c.Htlcs, func(h ln.ChannelHtlc) bool { return !h.Incoming && such(h) })
}
