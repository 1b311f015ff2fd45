package lndfake

import (
	"slices"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
)

// An update (an HTLC added, settled or failed) moves through these stages. Up to the first it is in the memory of
// the sending link; from the first on it is on disk and is retransmitted after a reconnection.
type stage int

const (
	stageQueued   stage = iota
	stageSigned         // the sender has signed: it counts, whether or not the peer ever answers
	stageReceived       // the peer has it in its own commitment
	stageAcked          // the sender has it in its own commitment
	stageLocked         // the peer may act on it
)

// circuitKey names an HTLC by the channel it came in on, as lnd's circuit keys; chanID 0 is a payment of the
// node's own, htlcID then the attempt.
type circuitKey struct {
	chanID, htlcID uint64
}

// htlc is one HTLC in flight on one channel.
type htlc struct {
	c        *channel
	from     int // the side that offered it
	id       uint64
	amt      int64 // msat
	expiry   uint32
	hash     [32]byte
	onion    *onion
	pos      int               // the hop of the onion that its receiver is
	wire     map[uint64][]byte // custom records of its update_add_htlc
	stage    stage
	inKey    circuitKey // at the offerer: what it forwards
	res      *resolution
	resStage stage
}

// resolution ends an HTLC: with a preimage, or with a failure.
type resolution struct {
	preimage *[32]byte
	failure  *failure
}

// failure is an onion error: its code and the hop it comes from.
type failure struct {
	code   lnrpc.Failure_FailureCode
	src    int // index of the failing node on the route, 0 is the payer
	detail string
	opaque bool // an encrypted message given by an interceptor's client
}

// addPacket is an HTLC waiting in an outgoing link's mailbox.
type addPacket struct {
	inKey  circuitKey
	amt    int64
	expiry uint32
	hash   [32]byte
	onion  *onion
	pos    int
	wire   map[uint64][]byte
	opened bool // the link opened its circuit but could not sign for want of a revocation
	gen    int
}

// resPacket is a settle or fail waiting in an incoming link's mailbox.
type resPacket struct {
	htlcID uint64
	res    *resolution
	ref    addRef
	key    circuitKey
	event  *routerrpc.HtlcEvent // nil for what ends at this node
}

func (p *resPacket) tell(n *Node) {
	if p.event != nil {
		n.mem.htlcEvents.publish(p.event)
		p.event = nil
	}
}

// round is one commitment signature with what it carries.
type round struct {
	from  int
	adds  []*htlc
	res   []*htlc
	stage stage
	// forgotten: its receiver died when it had revoked, and does not know that it owes the signature.
	forgotten bool
}

// kick makes the side sign what waits: at once if something ends, else after the batch tick.
func (s *side) kick() {
	if !s.c.up || len(s.mailbox)+len(s.resbox) == 0 || s.armed && len(s.resbox) == 0 {
		return
	}
	tick := s.c.w.cfg.Latency.Commit
	if len(s.resbox) > 0 {
		tick = 0
	}
	s.armed = true
	gen := s.c.gen
	s.c.w.after(tick, func() {
		if s.c.gen == gen {
			s.armed = false
			s.sign()
		}
	})
}

// sign is the batch tick of a link. Keystones reach the disk here, before the signature.
func (s *side) sign() {
	c := s.c
	if !c.up || c.heldBack || len(s.mailbox)+len(s.resbox) == 0 {
		return
	}
	if s.signed != nil {
		// The link has taken up what it cannot sign for now; its events tell of that already.
		for _, p := range s.resbox {
			p.tell(s.node)
		}
		for _, p := range s.mailbox {
			if k := s.node.circuits[p.inKey]; k != nil {
				p.opened = true
				k.outChan, k.outID, k.opened = s.chanID(), s.nextID, p
			}
		}
		return
	}
	r := &round{from: s.i, stage: stageSigned}
	adds, ress := s.mailbox, s.resbox
	s.mailbox, s.resbox = nil, nil
	for i, p := range adds {
		if s.node.circuits[p.inKey] == nil {
			// lnd's link dies of an unknown circuit, with an error to the peer.
			s.mailbox = append(s.mailbox, adds[i+1:]...)
			s.resbox = ress
			c.restore(r)
			c.failLink()
			return
		}
		if h := s.add(p); h != nil {
			r.adds = append(r.adds, h)
		}
	}
	for _, p := range ress {
		if h := s.resolveHTLC(p); h != nil {
			r.res = append(r.res, h)
		}
	}
	if len(r.adds)+len(r.res) == 0 {
		return
	}
	s.signed = r
	c.recall()
	c.rounds = append(c.rounds, r)
	c.step(r)
}

// forgetSignatures is what a node loses that dies between its revocation and its signature.
func (c *channel) forgetSignatures(n *Node) {
	for _, r := range c.rounds {
		from := c.sides[r.from]
		if r.stage != stageReceived || from.other().node != n {
			continue
		}
		r.forgotten = true
		// The revocation has arrived: its sender may sign anew.
		if from.signed == r {
			from.signed = nil
		}
	}
}

// recall continues what was forgotten: whoever signs next, the debtor signs all that it owes.
func (c *channel) recall() {
	for _, r := range c.rounds {
		if r.forgotten {
			r.forgotten = false
			c.step(r)
		}
	}
}

// restore takes back the adds of a round that was never signed.
func (c *channel) restore(r *round) {
	for _, h := range r.adds {
		c.balance[h.from] += h.amt
		c.htlcs = slices.DeleteFunc(c.htlcs, func(x *htlc) bool { return x == h })
		s := c.sides[h.from]
		s.nextID = min(s.nextID, h.id)
		if k := s.node.circuits[h.inKey]; k != nil {
			k.signed = false
		}
		s.mailbox = append(s.mailbox, &addPacket{
			inKey: h.inKey, amt: h.amt, expiry: h.expiry, hash: h.hash, onion: h.onion, pos: h.pos, wire: h.wire,
		})
	}
	r.adds = nil
}

func (c *channel) failLink() {
	c.w.tracef("%v: link failed: unknown payment circuit", c)
	c.linkStop()
	c.failed = true
}

func (s *side) add(p *addPacket) *htlc {
	c := s.c
	k := s.node.circuits[p.inKey]
	if c.flushing != nil || p.amt > s.sendableMsat() || len(c.htlcs) >= 2*483 {
		s.node.refuse(p.inKey, k, lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE, p.pos, "insufficient balance")
		return nil
	}
	h := &htlc{
		c: c, from: s.i, id: s.nextID, amt: p.amt, expiry: p.expiry, hash: p.hash, onion: p.onion, pos: p.pos, wire: p.wire,
		stage: stageSigned, inKey: p.inKey,
	}
	s.nextID++
	c.balance[s.i] -= h.amt
	c.htlcs = append(c.htlcs, h)
	k.outChan, k.outID, k.signed, k.opened = s.chanID(), h.id, true, nil
	c.w.tracef("%s signs htlc %d/%d of %d msat to %s", s.node.name, s.chanID(), h.id, h.amt, s.other().node.name)
	s.node.htlcForwarded(p, h)
	return h
}

// resolveHTLC applies a settle or fail to an HTLC offered by the other side. If it is gone already, only the
// reference is acknowledged, whatever that points to: this is what leaves phantoms behind.
func (s *side) resolveHTLC(p *resPacket) *htlc {
	h := s.c.incoming(s, p.htlcID)
	s.node.ack(p.ref)
	delete(s.node.circuits, p.key)
	if h == nil || h.res != nil {
		s.c.w.tracef("%s: spurious resolution of %v", s.node.name, p.key)
		return nil
	}
	h.res, h.resStage = p.res, stageSigned
	p.tell(s.node)
	return h
}

func (c *channel) incoming(s *side, id uint64) *htlc {
	for _, h := range c.htlcs {
		if h.from != s.i && h.id == id {
			return h
		}
	}
	return nil
}

// resume continues every round from where it stood.
func (c *channel) resume() {
	for _, r := range slices.Clone(c.rounds) {
		if !r.forgotten {
			c.step(r)
		}
	}
}

// step schedules the next message of a round, if the link is up and its receiver reads.
func (c *channel) step(r *round) {
	gen, at := c.gen, r.stage
	c.w.after(c.w.cfg.Latency.Message, func() {
		if !c.up || c.gen != gen || r.stage != at {
			return
		}
		to := c.sides[1-r.from].node
		if at == stageReceived {
			to = c.sides[r.from].node
		}
		if to.frozen {
			return
		}
		c.advance(r)
	})
}

func (c *channel) advance(r *round) {
	from, peer := c.sides[r.from], c.sides[1-r.from]
	r.stage++
	for _, h := range r.adds {
		h.stage = r.stage
	}
	for _, h := range r.res {
		h.resStage = r.stage
	}
	switch r.stage {
	case stageReceived:
		peer.commits++
		for _, h := range r.res {
			if h.res.preimage != nil {
				peer.node.outgoingResolved(h)
			}
		}
		if peer.node.owing != nil && peer.node.owing(from.node) {
			return // whoever signs next, or a start, goes on with it
		}
	case stageAcked:
		for _, h := range r.res {
			c.remove(h)
			from.node.final(circuitKey{from.chanID(), h.id}, h.res.preimage != nil, true)
		}
		from.commits++
		if from.signed == r {
			from.signed = nil
		}
		from.kick()
	case stageLocked:
		c.rounds = slices.DeleteFunc(c.rounds, func(x *round) bool { return x == r })
		for _, h := range r.res {
			peer.node.outgoingResolved(h)
		}
		if len(r.adds) > 0 {
			peer.receive(r.adds)
		}
		c.flush()
		return
	}
	c.step(r)
}

// remove pays an HTLC out to whom it belongs.
func (c *channel) remove(h *htlc) {
	i := slices.Index(c.htlcs, h)
	if i < 0 {
		return
	}
	c.htlcs = slices.Delete(c.htlcs, i, i+1)
	if h.res.preimage != nil {
		c.balance[1-h.from] += h.amt
		c.sent[h.from] += h.amt
	} else {
		c.balance[h.from] += h.amt
	}
}

// watchMailbox fails an HTLC whose outgoing link stays down too long.
func (s *side) watchMailbox(p *addPacket) {
	p.gen++
	gen := p.gen
	s.c.w.after(s.node.cfg.MailboxTimeout, func() {
		if s.c.up || p.gen != gen {
			return
		}
		i := slices.Index(s.mailbox, p)
		if i < 0 {
			return
		}
		s.mailbox = slices.Delete(s.mailbox, i, i+1)
		s.node.refuse(p.inKey, s.node.circuits[p.inKey], lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE, p.pos, "mailbox timeout")
	})
}
