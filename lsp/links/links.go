// Package links promises that a channel does not stay unusable unnoticed while
// its peer is connected. lnd takes a link down when an update fails (BOLT 2:
// fail the channel) and brings it up again only with the next connection, which
// between two nodes that are both up may never come: HTLCs on it wait until
// they expire and the channel is closed by force. So such a peer is connected
// anew, each time after a longer wait.
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
	channels []ln.Outpoint
	// since is when this connection was first seen without its links.
	since    time.Time
	attempts int
	// next is the earliest moment of the next attempt, last the latest at which
	// a channel was seen inactive.
	next, last time.Time
}

// Watch decides which peers to connect anew. It is not safe for concurrent use.
type Watch struct {
	after time.Duration
	peers map[ln.PubKey]*trouble
}

// NewWatch makes a Watch that waits so long before the first attempt at a peer;
// reestablishing a channel takes seconds.
func NewWatch(after time.Duration) *Watch {
	return &Watch{after: after, peers: make(map[ln.PubKey]*trouble)}
}

// Look takes what lnd shows now, the channels that are inactive and the peers
// that are connected, and returns the peers whose turn it is. A link that fails
// right after each start is active for a moment: a peer is forgotten only when
// its channels were fine for twice the wait.
func (w *Watch) Look(now time.Time, inactive []ln.Channel, connected []ln.PubKey) []ln.PubKey {
	seen := make(map[ln.PubKey][]ln.Outpoint)
	for _, c := range inactive {
		seen[c.Peer] = append(seen[c.Peer], c.Outpoint)
	}
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
	for p, channels := range seen {
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
		t.channels, t.last = channels, now
		if now.Sub(t.since) < w.after || now.Before(t.next) {
			continue
		}
		t.next = now.Add(wait(w.after, t.attempts))
		t.attempts++
		due = append(due, p)
	}
	slices.SortFunc(due, func(a, b ln.PubKey) int { return slices.Compare(a[:], b[:]) })
	return due
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
}

// Dead lists the channels that were inactive at the last look, after all those
// attempts.
func (w *Watch) Dead() []Dead {
	var out []Dead
	for p, t := range w.peers {
		if t.attempts < deadAfter {
			continue
		}
		for _, op := range t.channels {
			out = append(out, Dead{Peer: p, Outpoint: op, Attempts: t.attempts})
		}
	}
	slices.SortFunc(out, func(a, b Dead) int { return slices.Compare([]byte(a.Outpoint.String()), []byte(b.Outpoint.String())) })
	return out
}
