package links

import (
	"cmp"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// OnItsWay is a payment of the node's own that has not ended, over a named channel.
type OnItsWay struct {
	Hash ln.Hash
	Via  ln.SCID
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
// For the last, each channel that was there when the node started has a turn once it is
// back. Standing is not safe for concurrent use.
type Standing struct {
	after time.Duration
	seen  map[cause]*stand
	runs  map[ln.Outpoint]*run
}

// cause is one HTLC for which a channel is to sign.
type cause struct {
	channel  ln.Outpoint
	incoming bool
	index    uint64
	hash     ln.Hash
}

type stand struct {
	since, next time.Time
	attempts    int
}

// run is a channel in one run of the node's.
type run struct {
	seenFor time.Duration
	// done: it has signed in this run, or need not.
	done bool
	// since is when it was seen active, with updates commitments so far.
	since   time.Time
	updates uint64
}

const (
	// sameStart is how far apart channels may be followed from that were there when
	// the node started; what is known is whole seconds.
	sameStart = 2 * time.Second
	// freshRun is for how long a channel may have been online in this run of a node
	// that somebody else may have looked after before.
	freshRun = 10 * time.Minute
)

// NewStanding makes a Standing that gives a channel so long to sign by itself; it takes
// a second at most between peers that are well.
func NewStanding(after time.Duration) *Standing {
	return &Standing{after: after, seen: make(map[cause]*stand), runs: make(map[ln.Outpoint]*run)}
}

// Look takes the node's channels, and its own payments that are on their way and were
// before the channels were listed, and returns the channels whose turn it is: for the
// same HTLC later and later.
func (s *Standing) Look(now time.Time, channels []ln.Channel, underWay []OnItsWay) []ln.Channel {
	turn := make(map[ln.Outpoint]ln.Channel)
	causes := standing(channels, underWay)
	for c := range s.seen {
		if _, still := causes[c]; !still {
			delete(s.seen, c)
		}
	}
	for c, channel := range causes {
		st := s.seen[c]
		if st == nil {
			st = &stand{since: now}
			s.seen[c] = st
		}
		if now.Sub(st.since) < s.after || now.Before(st.next) {
			continue
		}
		st.next = now.Add(wait(s.after, st.attempts))
		st.attempts++
		turn[c.channel] = channel
	}
	for _, c := range s.restarted(now, channels) {
		turn[c.Outpoint] = c
	}
	due := make([]ln.Channel, 0, len(turn))
	for _, c := range turn {
		due = append(due, c)
	}
	slices.SortFunc(due, func(a, b ln.Channel) int { return cmp.Compare(a.ChanID, b.ChanID) })
	return due
}

// standing finds what one side alone is committed to, and the active channel that it is in.
func standing(channels []ln.Channel, underWay []OnItsWay) map[cause]ln.Channel {
	named := make(map[ln.SCID]ln.Channel, len(channels))
	for _, c := range channels {
		for _, scid := range append([]ln.SCID{c.ChanID, c.ConfirmedSCID}, c.Aliases...) {
			if scid != 0 {
				named[scid] = c
			}
		}
	}
	out := make(map[cause]ln.Channel)
	for _, c := range channels {
		if !c.Active {
			continue
		}
		for _, h := range c.Htlcs {
			if !h.LockedIn {
				out[cause{channel: c.Outpoint, incoming: h.Incoming, index: h.Index}] = c
				continue
			}
			// Where the incoming channel is active and the outgoing HTLC has ended for both,
			// the incoming one goes at once.
			next, ok := named[h.ForwardingChan]
			if h.Incoming && ok && next.Active && !slices.ContainsFunc(next.Htlcs, func(o ln.ChannelHtlc) bool { return !o.Incoming && o.Index == h.ForwardingIndex }) {
				out[cause{channel: next.Outpoint, index: h.ForwardingIndex}] = next
			}
		}
	}
	for _, p := range underWay {
		c, ok := named[p.Via]
		if ok && c.Active && !slices.ContainsFunc(c.Htlcs, func(h ln.ChannelHtlc) bool { return !h.Incoming && h.Hash == p.Hash }) {
			out[cause{channel: c.Outpoint, hash: p.Hash}] = c
		}
	}
	return out
}

// restarted finds the channels that were there when the node started, are back since
// then, and have signed nothing.
func (s *Standing) restarted(now time.Time, channels []ln.Channel) []ln.Channel {
	var oldest time.Duration
	for _, c := range channels {
		oldest = max(oldest, c.SeenFor)
	}
	known := make(map[ln.Outpoint]*run, len(channels))
	var due []ln.Channel
	for _, c := range channels {
		r := s.runs[c.Outpoint]
		// What is opened later has not been through a start.
		there := c.SeenFor > 0 && c.SeenFor+sameStart >= oldest
		switch {
		case r == nil:
			r = &run{done: !there || c.OnlineFor > freshRun}
		case c.SeenFor < r.seenFor:
			r = &run{done: !there}
		}
		r.seenFor = c.SeenFor
		known[c.Outpoint] = r
		switch {
		case r.done:
		case !c.Active:
			r.since = time.Time{}
		case r.since.IsZero():
			r.since, r.updates = now, c.Commitments
		case c.Commitments != r.updates:
			r.done = true
		case now.Sub(r.since) >= s.after:
			r.done = true
			due = append(due, c)
		}
	}
	s.runs = known
	return due
}
