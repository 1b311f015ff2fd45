// Package links promises that a channel does not stay unusable unnoticed while
// its peer is connected. lnd takes a link down when an update fails (BOLT 2:
// fail the channel) and brings it up again only with the next connection, which
// between two nodes that are both up may never come: HTLCs on it wait until
// they expire and the channel is closed by force. So such a peer is connected
// anew, each time after a longer wait.
//
// Nor does a channel that calls itself active stand still until it is closed. A
// node that dies between revoke_and_ack and commitment_signed forgets that it
// owes the latter (Standing): with lnd no reconnection helps, only another
// update, so one is made that changes nothing. An HTLC that comes near its expiry
// and does not go is reason enough to connect anew all the same.
//
// Some links do not recover: lnd forgets that it settled an HTLC that ends at
// the node itself, when another one of the same commitment was resolved first
// and the link was restarted in between. It settles it again at every start of
// the link, which fails with "No HTLC with ID". No reconnection and no restart
// helps; what is left is closing the channel. Such channels are reported as
// dead.
package links

import (
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

const (
	// maxWait bounds the time between two attempts at one peer.
	maxWait = time.Hour
	// deadAfter is the number of attempts after which a channel counts as dead.
	deadAfter = 3
)

// trouble is one peer with channels that its link does not serve.
type trouble struct {
	faults []fault
	// since is when this connection was first seen so.
	since    time.Time
	attempts int
	// next is the earliest moment of the next attempt, last the latest at which
	// a fault was seen.
	next, last time.Time
}

// fault is a channel that does not do what it should.
type fault struct {
	channel ln.Outpoint
	// stalled: it is active, with an HTLC that expires at that height and does
	// not go. Otherwise the channel is inactive.
	stalled bool
	expiry  uint32
}

// htlc is one HTLC of a channel.
type htlc struct {
	channel  ln.Outpoint
	incoming bool
	index    uint64
}

// Watch decides which peers to connect anew. It is not safe for concurrent use.
type Watch struct {
	after time.Duration
	peers map[ln.PubKey]*trouble
	// near are the HTLCs that are near their expiry, since when.
	near map[htlc]time.Time
}

// NewWatch makes a Watch that waits so long before the first attempt at a peer;
// reestablishing a channel takes seconds.
func NewWatch(after time.Duration) *Watch {
	return &Watch{after: after, peers: make(map[ln.PubKey]*trouble), near: make(map[htlc]time.Time)}
}

// Look takes what lnd shows now, its open channels, the peers that are
// connected and the height in blocks, and returns the peers whose turn it is. A
// link that fails right after each start is active for a moment: a peer is
// forgotten only when its channels were fine for twice the wait.
func (w *Watch) Look(now time.Time, channels []ln.Channel, connected []ln.PubKey, height uint32) []ln.PubKey {
	seen := w.faults(now, channels, height)
	online := make(map[ln.PubKey]bool, len(connected))
	for _, p := range connected {
		online[p] = true
	}
	for p, t := range w.peers {
		switch _, still := seen[p]; {
		case !still && now.Sub(t.last) >= 2*w.after:
			delete(w.peers, p)
		case !still || !online[p]:
			t.since = time.Time{}
		}
	}
	var due []ln.PubKey
	for p, found := range seen {
		t := w.peers[p]
		if !online[p] {
			continue
		}
		if t == nil {
			t = &trouble{}
			w.peers[p] = t
		}
		if t.since.IsZero() {
			t.since = now
		}
		t.faults, t.last = found, now
		// What has stalled has been waited for already.
		waited := now.Sub(t.since) >= w.after || slices.ContainsFunc(found, func(f fault) bool { return f.stalled })
		if !waited || now.Before(t.next) {
			continue
		}
		t.next = now.Add(wait(w.after, t.attempts))
		t.attempts++
		due = append(due, p)
	}
	slices.SortFunc(due, func(a, b ln.PubKey) int { return slices.Compare(a[:], b[:]) })
	return due
}

// faults finds the channels that are inactive, and the active ones in which the
// same HTLC has been near its expiry for the wait. One after the other may pass
// through a channel whose payments expire soon.
func (w *Watch) faults(now time.Time, channels []ln.Channel, height uint32) map[ln.PubKey][]fault {
	near := make(map[htlc]time.Time)
	out := make(map[ln.PubKey][]fault)
	for _, c := range channels {
		if !c.Active {
			// Its HTLCs are given their time anew once it is.
			out[c.Peer] = append(out[c.Peer], fault{channel: c.Outpoint})
			continue
		}
		f := fault{channel: c.Outpoint, stalled: true}
		for _, h := range c.Htlcs {
			if !h.NearExpiry(height) {
				continue
			}
			id := htlc{channel: c.Outpoint, incoming: h.Incoming, index: h.Index}
			since, known := w.near[id]
			if !known {
				since = now
			}
			near[id] = since
			if now.Sub(since) >= w.after && (f.expiry == 0 || h.Expiry < f.expiry) {
				f.expiry = h.Expiry
			}
		}
		if f.expiry != 0 {
			out[c.Peer] = append(out[c.Peer], f)
		}
	}
	w.near = near
	return out
}

// wait doubles with each attempt.
func wait(after time.Duration, attempts int) time.Duration {
	for range attempts + 1 {
		if after >= maxWait/2 {
			return maxWait
		}
		after *= 2
	}
	return after
}

// Dead is a channel that reconnecting did not bring back.
type Dead struct {
	Peer     ln.PubKey
	Outpoint ln.Outpoint
	Attempts int
	// Stalled: it is active, and an HTLC in it that expires at height Expiry does
	// not go. Else it is inactive.
	Stalled bool
	Expiry  uint32
}

// Dead lists the channels that had a fault at the last look, after all those
// attempts.
func (w *Watch) Dead() []Dead {
	var out []Dead
	for p, t := range w.peers {
		if t.attempts < deadAfter {
			continue
		}
		for _, f := range t.faults {
			out = append(out, Dead{Peer: p, Outpoint: f.channel, Attempts: t.attempts, Stalled: f.stalled, Expiry: f.expiry})
		}
	}
	slices.SortFunc(out, func(a, b Dead) int { return slices.Compare([]byte(a.Outpoint.String()), []byte(b.Outpoint.String())) })
	return out
}
