package lsp

import (
	"fmt"
	"slices"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Share is what one agreement or order counts for.
type Share struct {
	Client   ln.PubKey
	Newcomer bool
	// QuotedSat is the capacity that it was promised; Funded says that an open
	// of it has begun, so that its coins are no longer only promised.
	QuotedSat ln.Sat
	Funded    bool
	Holding
	// Only holds: it is no request of its own.
	Only bool
	// Stays: it is an HTLC that was refused and cannot go back yet. Whoever keeps shares
	// does not have it.
	Stays bool
}

func (s Share) equal(o Share) bool {
	return s.Client == o.Client && s.Newcomer == o.Newcomer && s.QuotedSat == o.QuotedSat && s.Funded == o.Funded && s.Only == o.Only &&
		s.HeldMsat == o.HeldMsat && s.SatBlocks == o.SatBlocks && slices.Equal(s.Slots, o.Slots)
}

// Loads are running sums of what is agreed and held, by client, by newcomers and
// in all. They are exactly the sums of the shares that were put in: whoever puts
// a share in the place of another takes the other out.
type Loads struct {
	shares    map[string]Share
	clients   map[ln.PubKey]tally
	newcomers tally
	all       tally
	incoming  map[ln.SCID]waiting
}

// waiting is how many HTLCs of one incoming channel wait.
type waiting struct{ all, newcomers int }

// tally is one sum. Sums of what is held stay far below 2^64: there is less than
// 2.1e18 msat, and SatBlocks is bounded.
type tally struct {
	shares    int
	newcomers int
	requests  int
	quoted    ln.Sat
	unfunded  Quoted
	held      ln.Msat
	satBlocks uint64
	htlcs     int
}

// NewLoads are empty.
func NewLoads() *Loads {
	return &Loads{shares: make(map[string]Share), clients: make(map[ln.PubKey]tally), incoming: make(map[ln.SCID]waiting)}
}

// Get is the share under this name.
func (l *Loads) Get(id string) (Share, bool) {
	s, ok := l.shares[id]
	return s, ok
}

// Put counts a share from now on, in the place of that of the same name.
func (l *Loads) Put(id string, s Share) {
	l.Drop(id)
	l.shares[id] = s
	l.count(s, 1)
}

// Drop counts a share no longer.
func (l *Loads) Drop(id string) {
	if s, ok := l.shares[id]; ok {
		delete(l.shares, id)
		l.count(s, -1)
	}
}

// Known says that a client has paid for a channel: what it has counts among the
// newcomers' no longer.
func (l *Loads) Known(client ln.PubKey) {
	if l.clients[client].shares == 0 {
		return
	}
	for id, s := range l.shares {
		if s.Client == client && s.Newcomer {
			s.Newcomer = false
			l.Put(id, s)
		}
	}
}

// Newcomer says whether a client counts as one; ok is false if it has nothing
// here, and then somebody else must know.
func (l *Loads) Newcomer(client ln.PubKey) (newcomer, ok bool) {
	t := l.clients[client]
	return t.newcomers > 0, t.shares > 0
}

// Usage is the part of a usage that these sums are: what is opened, and what is
// fundable, is not among them.
func (l *Loads) Usage(client ln.PubKey) Usage {
	return Usage{
		Client: l.clients[client].load(), Newcomers: l.newcomers.load(), All: l.all.load(),
		Unfunded: l.all.unfunded, NewcomersUnfunded: l.newcomers.unfunded,
	}
}

// Incoming are the HTLCs that wait here and came in on the channels that are named,
// of all clients and of newcomers.
func (l *Loads) Incoming(on Slots) (all, newcomers Slots) {
	for _, c := range on {
		w := l.incoming[c.Chan]
		all, newcomers = append(all, Slot{Chan: c.Chan, Htlcs: w.all}), append(newcomers, Slot{Chan: c.Chan, Htlcs: w.newcomers})
	}
	return all, newcomers
}

// Busiest is the incoming channel of which most HTLCs wait here.
func (l *Loads) Busiest() (most Slot) {
	for scid, w := range l.incoming {
		if w.all > most.Htlcs || w.all == most.Htlcs && scid < most.Chan {
			most = Slot{Chan: scid, Htlcs: w.all}
		}
	}
	return most
}

func (l *Loads) count(s Share, sign int) {
	l.all.add(s, sign)
	for _, c := range s.Slots {
		w := l.incoming[c.Chan]
		w.all += sign * c.Htlcs
		if s.Newcomer {
			w.newcomers += sign * c.Htlcs
		}
		if l.incoming[c.Chan] = w; w.all == 0 {
			delete(l.incoming, c.Chan)
		}
	}
	if s.Newcomer {
		l.newcomers.add(s, sign)
	}
	t := l.clients[s.Client]
	t.add(s, sign)
	if t.shares == 0 {
		delete(l.clients, s.Client)
		return
	}
	l.clients[s.Client] = t
}

func (t *tally) add(s Share, sign int) {
	t.shares += sign
	if s.Newcomer {
		t.newcomers += sign
	}
	if !s.Only {
		t.requests += sign
	}
	// Taking out wraps around and back: what is left is exact.
	by := func(n uint64) uint64 { return n * uint64(sign) } //nolint:gosec // wrapping is meant
	t.quoted += ln.Sat(by(uint64(s.QuotedSat)))
	if !s.Funded && s.QuotedSat > 0 {
		t.unfunded.Sat += ln.Sat(by(uint64(s.QuotedSat)))
		t.unfunded.Channels += sign
	}
	t.held += ln.Msat(by(uint64(s.HeldMsat)))
	t.satBlocks += by(s.SatBlocks)
	t.htlcs += sign * s.Slots.Total()
}

func (t tally) load() Load {
	return Load{OpenRequests: t.requests, QuotedSat: t.quoted, HeldSat: t.held.ToSatCeil(), HeldSatBlocks: t.satBlocks, HeldHtlcs: t.htlcs}
}

// Differs says in which share that is kept two loads differ; empty if in none.
func (l *Loads) Differs(other *Loads) string {
	for id, s := range l.shares {
		if s.Stays {
			continue
		}
		if o, ok := other.shares[id]; !ok || !o.equal(s) {
			return fmt.Sprintf("%s: %+v here, %+v there", id, s, o)
		}
	}
	for id, o := range other.shares {
		if _, ok := l.shares[id]; !ok {
			return fmt.Sprintf("%s: nothing here, %+v there", id, o)
		}
	}
	return ""
}
