// Package acceptor is the gateway's policy on channels that peers propose to
// it: who may open, how large, how many at once, and who may be trusted with
// zero confirmations.
//
// It promises to answer from memory, because lnd's funding of all peers waits
// for each answer; to give every refusal a sentence that the peer's operator
// can act on; and to grant zero-conf to nobody who is not listed, whatever the
// proposal asks.
package acceptor

import (
	"cmp"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// MaxRefusal is lnd's limit on the text that a peer gets, in bytes.
const MaxRefusal = 500

// Policy says which proposals are accepted. The zero value refuses everything
// with a size above 0: sizes must be set.
type Policy struct {
	// MinSat and MaxSat bound the capacity, inclusively.
	MinSat, MaxSat ln.Sat
	// MaxPendingPerPeer bounds the channels that one peer has proposed and that
	// are not yet open; 0 allows none.
	MaxPendingPerPeer int
	// ZeroConfFrom may open zero-conf channels: whoever is listed could spend
	// the funding again and take what was forwarded meanwhile.
	ZeroConfFrom map[ln.PubKey]bool
	// Deny lists peers that may not open.
	Deny map[ln.PubKey]bool
}

// Acceptor applies a Policy. It is safe for concurrent use.
type Acceptor struct {
	now func() time.Time

	mu      sync.Mutex
	policy  Policy
	pending map[ln.PubKey]map[ln.PendingChanID]proposal
	// open counts what lnd lists as opening, by peer.
	open map[ln.PubKey]int
	// looked is when lnd was last asked because a peer was at its limit.
	looked time.Time
}

// proposal is one that was accepted and may not be among what lnd lists.
type proposal struct {
	at       time.Time
	capacity ln.Sat
}

// proposalLife is how long an accepted proposal counts before lnd lists it as
// opening; lnd's acceptor side forgets reservations after ten minutes.
const proposalLife = 10 * time.Minute

// New starts with a policy.
func New(p Policy, now func() time.Time) *Acceptor {
	return &Acceptor{
		now: now, policy: p,
		pending: make(map[ln.PubKey]map[ln.PendingChanID]proposal), open: make(map[ln.PubKey]int),
	}
}

// SetOpening takes what lnd lists as opening. Proposals made before since are
// in that list, or over; of later ones a listed channel of the peer's takes one of
// its capacity, so that no channel counts twice.
func (a *Acceptor) SetOpening(channels []ln.PendingChannel, since time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for peer, proposals := range a.pending {
		maps.DeleteFunc(proposals, func(_ ln.PendingChanID, p proposal) bool { return p.at.Before(since) })
		if len(proposals) == 0 {
			delete(a.pending, peer)
		}
	}
	clear(a.open)
	for _, c := range channels {
		if c.Kind != ln.PendingOpen || c.Initiator {
			continue
		}
		a.open[c.Peer]++
		for id, p := range a.pending[c.Peer] {
			if p.capacity == c.CapacitySat {
				delete(a.pending[c.Peer], id)
				break
			}
		}
	}
}

// Decide answers one proposal (BOLT 2, open_channel).
func (a *Acceptor) Decide(p ln.OpenProposal) ln.AcceptVerdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if text := cmp.Or(a.unfit(p), a.full(p, now)); text != "" {
		return ln.AcceptVerdict{Refusal: text}
	}
	if a.pending[p.Peer] == nil {
		a.pending[p.Peer] = make(map[ln.PendingChanID]proposal)
	}
	a.pending[p.Peer][p.PendingID] = proposal{now, p.CapacitySat}
	return ln.AcceptVerdict{Accept: true, ZeroConf: p.WantsZeroConf}
}

// forget takes back an accepted proposal that was refused after all.
func (a *Acceptor) forget(p ln.OpenProposal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pending[p.Peer], p.PendingID)
}

// unfit is why the channel as such is not taken.
func (a *Acceptor) unfit(p ln.OpenProposal) string {
	pol := a.policy
	switch {
	case pol.Deny[p.Peer]:
		return "this node takes no channels from your node; please contact its operator"
	case p.CapacitySat < pol.MinSat:
		return fmt.Sprintf("the channel is too small: %s proposed, at least %s wanted", p.CapacitySat, pol.MinSat)
	case p.CapacitySat > pol.MaxSat:
		return fmt.Sprintf("the channel is too large: %s proposed, at most %s taken", p.CapacitySat, pol.MaxSat)
	case p.WantsZeroConf && !pol.ZeroConfFrom[p.Peer]:
		return "this node does not take zero-conf channels from your node; propose the channel without zero-conf"
	}
	return ""
}

// full is why there is none now: too many of the peer's are opening.
func (a *Acceptor) full(p ln.OpenProposal, now time.Time) string {
	if n := a.pendingOf(p.Peer, now); n >= a.policy.MaxPendingPerPeer {
		return fmt.Sprintf("%d channels from your node are still opening, at most %d may be: wait until one is open",
			n, a.policy.MaxPendingPerPeer)
	}
	return ""
}

// counted says that only the number of its channels keeps the peer from another.
func (a *Acceptor) counted(p ln.OpenProposal) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unfit(p) == "" && a.full(p, a.now()) != ""
}

func (a *Acceptor) pendingOf(peer ln.PubKey, now time.Time) int {
	proposals := a.pending[peer]
	maps.DeleteFunc(proposals, func(_ ln.PendingChanID, p proposal) bool { return now.Sub(p.at) >= proposalLife })
	return len(proposals) + a.open[peer]
}
