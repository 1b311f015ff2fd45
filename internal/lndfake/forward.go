package lndfake

import (
	"slices"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
)

// onion is a route as its hops will read it. An id stands for the encrypted packet: who has seen one refuses it
// the second time.
type onion struct {
	id   [32]byte
	hops []hop
}

type hop struct {
	node       string // public key
	scid       uint64 // the channel to take to get there
	amt        int64  // msat to arrive at that node's successor, or at the node if it is the last
	expiry     uint32
	addr       *[32]byte // payment address, at the last hop
	totalMsat  int64
	records    map[uint64][]byte
	amtInto    int64  // msat of the HTLC into that node
	expiryInto uint32 // expiry of the HTLC into that node
}

// fwdPkg is lnd's forwarding package: the HTLCs locked in by one commitment, kept on disk until each has been
// answered for good.
type fwdPkg struct {
	s     *side
	adds  []*htlc
	acked []bool
	// taking says that the node died before it recorded that it processed the package.
	taking bool
}

// addRef points to an HTLC within its package. Its index is taken from the list of those unacknowledged, as lnd
// does, so that after a replay of a part of a package it points to another HTLC than it should.
type addRef struct {
	pkg *fwdPkg
	idx int
}

// circuit links an incoming HTLC with the outgoing one that it became.
type circuit struct {
	key     circuitKey
	ref     addRef
	inAmt   int64
	outAmt  int64
	outChan uint64
	outID   uint64
	signed  bool       // on disk: its keystone
	opened  *addPacket // in memory: a keystone not yet signed
	loaded  bool       // read from disk at start, so that no packet for it is in memory
	res     *resolution
	inTime  uint32
	outTime uint32
}

func (k *circuit) hasKeystone() bool { return k.signed || k.opened != nil && k.opened.opened }

// loadCircuits is the circuit map at start: what was not signed has no keystone any more.
func (n *Node) loadCircuits() {
	for _, key := range n.circuitKeys() {
		k := n.circuits[key]
		k.loaded, k.opened = true, nil
		if k.res != nil {
			n.deliver(k, k.res)
		}
	}
}

func (n *Node) circuitKeys() []circuitKey {
	keys := make([]circuitKey, 0, len(n.circuits))
	for key := range n.circuits {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b circuitKey) int {
		if a.chanID != b.chanID {
			if a.chanID < b.chanID {
				return -1
			}
			return 1
		}
		return int(int64(a.htlcID) - int64(b.htlcID))
	})
	return keys
}

func (n *Node) ack(ref addRef) {
	p := ref.pkg
	if p == nil || ref.idx >= len(p.acked) {
		return
	}
	p.acked[ref.idx] = true
	if !slices.Contains(p.acked, false) {
		p.s.pkgs = slices.DeleteFunc(p.s.pkgs, func(x *fwdPkg) bool { return x == p })
	}
}

// receive takes HTLCs that were locked in, for the first time.
func (s *side) receive(adds []*htlc) {
	p := &fwdPkg{s: s, adds: adds, acked: make([]bool, len(adds))}
	s.pkgs = append(s.pkgs, p)
	s.process(p, false)
}

// replay offers again what was never answered, as lnd does whenever a link starts.
func (s *side) replay() {
	for _, p := range slices.Clone(s.pkgs) {
		s.process(p, true)
	}
}

func (s *side) process(p *fwdPkg, replayed bool) {
	taking := p.taking && replayed
	p.taking = p.taking && !replayed
	idx := 0
	for i, h := range p.adds {
		if p.acked[i] {
			continue
		}
		ref := addRef{p, idx}
		idx++
		switch {
		case s.c.phase != phaseOpen:
		case taking:
			s.answer(circuitKey{s.chanID(), h.id}, h.id, ref, replayedOnion(h))
		default:
			s.node.incoming(s, h, ref, replayed)
		}
	}
}

// forward is an HTLC on its way through a node.
type forward struct {
	key    circuitKey
	in     *side // nil for the node's own payments
	h      *htlc
	ref    addRef
	amtIn  int64
	expIn  uint32
	amt    int64
	expiry uint32
	scid   uint64
	hash   [32]byte
	onion  *onion
	pos    int               // the hop of the onion that this node is, -1 for the payer
	wire   map[uint64][]byte // custom records for the outgoing update_add_htlc
}

func (n *Node) incoming(s *side, h *htlc, ref addRef, replayed bool) {
	key := circuitKey{s.chanID(), h.id}
	if first, seen := n.seenOnions[h.onion.id]; seen && first != key {
		s.answer(key, h.id, ref, replayedOnion(h))
		return
	}
	n.seenOnions[h.onion.id] = key
	at := h.onion.hops[h.pos]
	if h.pos == len(h.onion.hops)-1 {
		n.exitHop(s, h, at, ref, key)
		return
	}
	if s.answered(key) {
		return
	}
	n.intercept(&forward{
		key: key, in: s, h: h, ref: ref, amtIn: h.amt, expIn: h.expiry, amt: at.amt, expiry: at.expiry,
		scid: h.onion.hops[h.pos+1].scid, hash: h.hash, onion: h.onion, pos: h.pos,
	}, replayed)
}

func replayedOnion(h *htlc) *resolution {
	return &resolution{failure: &failure{code: lnrpc.Failure_INVALID_ONION_VERSION, src: h.pos + 1, detail: "replayed onion"}}
}

// answer queues a settle or fail for an HTLC that came in on this side.
func (s *side) answer(key circuitKey, id uint64, ref addRef, res *resolution) {
	s.queue(&resPacket{htlcID: id, res: res, ref: ref, key: key})
}

// answerForward is answer for an HTLC that was to be forwarded. lnd's events tell of its end twice: when its incoming
// link takes the answer up, which is before any commitment and so not final, and when it is off the commitment.
func (s *side) answerForward(key circuitKey, ref addRef, res *resolution, event *routerrpc.HtlcEvent) {
	s.queue(&resPacket{htlcID: key.htlcID, res: res, ref: ref, key: key, event: event})
}

func (s *side) queue(p *resPacket) {
	if s.c.phase != phaseOpen {
		if p.res.preimage != nil {
			s.claimOnChain(p.htlcID, *p.res.preimage)
		}
		return
	}
	if s.answered(p.key) {
		return
	}
	s.resbox = append(s.resbox, p)
	// What ends is signed without waiting for the batch's tick, and what ends after it waits for the peer's answer.
	if s.signed == nil {
		s.sign()
	} else {
		s.kick()
	}
}

// answered says that a response to a forward waits in the mailbox of its incoming link, which does not forward it again.
func (s *side) answered(key circuitKey) bool {
	return slices.ContainsFunc(s.resbox, func(p *resPacket) bool { return p.key == key })
}

func (n *Node) failBack(f *forward, code lnrpc.Failure_FailureCode, detail string) {
	if f.in == nil {
		n.payments.resolve(f.key.htlcID, &resolution{failure: &failure{code: code, src: 0, detail: detail}})
		return
	}
	f.in.answerForward(f.key, f.ref, &resolution{failure: &failure{code: code, src: f.pos + 1, detail: detail}},
		n.linkFail(f, code, detail))
}

// refuse ends a forward whose HTLC could not be added to the outgoing channel.
func (n *Node) refuse(key circuitKey, k *circuit, code lnrpc.Failure_FailureCode, pos int, detail string) {
	if k == nil {
		return
	}
	n.deliver(k, &resolution{failure: &failure{code: code, src: pos, detail: detail}})
}

// route hands a forward to the outgoing link. The circuit is committed first: of an HTLC that already has one
// nothing happens, unless the circuit was read from disk without a keystone, for then it can never be forwarded.
func (n *Node) route(f *forward) {
	if k := n.circuits[f.key]; k != nil {
		if k.hasKeystone() || !k.loaded {
			n.w.tracef("%s: duplicate of %v dropped", n.name, f.key)
			return
		}
		n.failBack(f, lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE, "circuit half open")
		return
	}
	k := &circuit{key: f.key, ref: f.ref, inAmt: f.amtIn, outAmt: f.amt, inTime: f.expIn, outTime: f.expiry}
	n.circuits[f.key] = k
	delete(n.mem.delivered, f.key)
	// The circuit stays until the failure is committed: a RESUME meanwhile does nothing, and one after a restart finds
	// it half open.
	drop := func(code lnrpc.Failure_FailureCode, detail string) {
		if f.in == nil {
			delete(n.circuits, f.key)
		}
		n.failBack(f, code, detail)
	}
	if f.in != nil && !f.in.c.up {
		drop(lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE, "incoming link is down")
		return
	}
	target := n.lookup(f.scid)
	if target == nil || !target.c.up {
		drop(lnrpc.Failure_UNKNOWN_NEXT_PEER, "no link for the requested channel")
		return
	}
	var takes []*side
	var code lnrpc.Failure_FailureCode
	var detail string
	for _, s := range n.linksTo(target) {
		c, d := s.checkForward(f)
		if c == 0 {
			takes = append(takes, s)
		} else if s == target || code == 0 {
			code, detail = c, d
		}
	}
	if len(takes) == 0 {
		drop(code, detail)
		return
	}
	out := takes[0]
	// What the node sends itself goes over the channel that it named, or the first other (in lnd over that one alone;
	// but lnd's path finding knows to the millisatoshi what its links can take).
	if len(takes) > 1 && f.in != nil {
		out = takes[n.w.rng.IntN(len(takes))]
	}
	p := &addPacket{inKey: f.key, amt: f.amt, expiry: f.expiry, hash: f.hash, onion: f.onion, pos: f.pos + 1, wire: f.wire}
	out.mailbox = append(out.mailbox, p)
	out.kick()
}

// linksTo lists the links to the target's peer, the target first: lnd forwards to any that takes it, by chance.
func (n *Node) linksTo(target *side) []*side {
	out := []*side{target}
	for _, c := range n.w.channels {
		if s := c.sideOf(n); s != nil && s != target && c.between(n, target.other().node) && s.active() {
			out = append(out, s)
		}
	}
	return out
}

// checkForward says why the side cannot take the forward, 0 if it can.
func (s *side) checkForward(f *forward) (lnrpc.Failure_FailureCode, string) {
	// Failures that carry a channel_update degrade while the own policy is not in the graph.
	withUpdate := func(code lnrpc.Failure_FailureCode) lnrpc.Failure_FailureCode {
		if s.graph == nil {
			return lnrpc.Failure_TEMPORARY_NODE_FAILURE
		}
		return code
	}
	p := s.link
	if f.in != nil {
		if f.amt < p.minMsat {
			return withUpdate(lnrpc.Failure_AMOUNT_BELOW_MINIMUM), "below minimum"
		}
		if f.amtIn-f.amt < p.fee(f.amt) {
			return withUpdate(lnrpc.Failure_FEE_INSUFFICIENT), "insufficient fee"
		}
		if f.expIn < f.expiry+p.delta {
			return withUpdate(lnrpc.Failure_INCORRECT_CLTV_EXPIRY), "time lock delta"
		}
	}
	height := s.node.w.chain.height()
	if f.expiry <= height+3 {
		return withUpdate(lnrpc.Failure_EXPIRY_TOO_SOON), "outgoing expiry too soon"
	}
	if f.expiry > height+2016 {
		return lnrpc.Failure_EXPIRY_TOO_FAR, "outgoing expiry too far"
	}
	if f.amt > s.sendableMsat() {
		return withUpdate(lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE), "insufficient balance"
	}
	return 0, ""
}

// outgoingResolved is the end of an HTLC that this node offered. A settle arrives as soon as the peer sends it, a
// fail when it is locked in; both may come twice.
func (n *Node) outgoingResolved(h *htlc) {
	if !n.up {
		return
	}
	if h.res.preimage != nil {
		n.preimages[h.hash] = *h.res.preimage
	}
	k := n.circuits[h.inKey]
	if k == nil || k.outID != h.id || k.outChan != h.c.sides[h.from].chanID() {
		n.w.tracef("%s: resolution of %v for an unknown circuit", n.name, h.inKey)
		return
	}
	if k.res == nil && h.inKey.chanID != 0 && h.res.preimage != nil {
		now := time.Now()
		n.forwards = append(n.forwards, &lnrpc.ForwardingEvent{
			Timestamp: uint64(now.Unix()), TimestampNs: uint64(now.UnixNano()), ChanIdIn: k.key.chanID, ChanIdOut: k.outChan,
			AmtIn: uint64(k.inAmt / 1000), AmtOut: uint64(k.outAmt / 1000), Fee: uint64((k.inAmt - k.outAmt) / 1000),
			FeeMsat: uint64(k.inAmt - k.outAmt), AmtInMsat: uint64(k.inAmt), AmtOutMsat: uint64(k.outAmt),
			IncomingHtlcId: &k.key.htlcID, OutgoingHtlcId: &k.outID,
		})
	}
	k.res = h.res
	n.deliver(k, h.res)
}

// deliver passes a resolution to where the HTLC came from, once per run.
func (n *Node) deliver(k *circuit, res *resolution) {
	if n.mem.delivered[k.key] {
		return
	}
	if k.key.chanID == 0 {
		delete(n.circuits, k.key)
		n.payments.resolve(k.key.htlcID, res)
		return
	}
	n.mem.delivered[k.key] = true
	if s := n.byChanID(k.key.chanID); s != nil {
		e := n.htlcEvent(k.key, k.outChan, k.outID)
		if res.preimage != nil {
			e.Event = &routerrpc.HtlcEvent_SettleEvent{SettleEvent: &routerrpc.SettleEvent{Preimage: res.preimage[:]}}
		} else {
			e.Event = &routerrpc.HtlcEvent_ForwardFailEvent{ForwardFailEvent: &routerrpc.ForwardFailEvent{}}
		}
		s.answerForward(k.key, k.ref, res, e)
	}
}

func (n *Node) htlcEvent(k circuitKey, out uint64, outID uint64) *routerrpc.HtlcEvent {
	e := &routerrpc.HtlcEvent{
		IncomingChannelId: k.chanID, IncomingHtlcId: k.htlcID, OutgoingChannelId: out, OutgoingHtlcId: outID,
		TimestampNs: uint64(time.Now().UnixNano()), EventType: routerrpc.HtlcEvent_FORWARD,
	}
	if k.chanID == 0 {
		e.EventType, e.IncomingHtlcId = routerrpc.HtlcEvent_SEND, k.htlcID
	}
	return e
}

func (n *Node) htlcForwarded(p *addPacket, h *htlc) {
	k := n.circuits[p.inKey]
	e := n.htlcEvent(p.inKey, k.outChan, k.outID)
	e.Event = &routerrpc.HtlcEvent_ForwardEvent{ForwardEvent: &routerrpc.ForwardEvent{Info: &routerrpc.HtlcInfo{
		IncomingTimelock: k.inTime, OutgoingTimelock: k.outTime, IncomingAmtMsat: uint64(k.inAmt),
		OutgoingAmtMsat: uint64(k.outAmt),
	}}}
	n.mem.htlcEvents.publish(e)
}

func (n *Node) linkFail(f *forward, code lnrpc.Failure_FailureCode, detail string) *routerrpc.HtlcEvent {
	e := n.htlcEvent(f.key, f.scid, 0)
	e.Event = &routerrpc.HtlcEvent_LinkFailEvent{LinkFailEvent: &routerrpc.LinkFailEvent{
		Info: &routerrpc.HtlcInfo{
			IncomingTimelock: f.expIn, OutgoingTimelock: f.expiry, IncomingAmtMsat: uint64(f.amtIn),
			OutgoingAmtMsat: uint64(f.amt),
		},
		WireFailure: code, FailureString: detail,
	}}
	return e
}

// final is an HTLC's last word, kept for LookupHtlcResolution.
func (n *Node) final(key circuitKey, settled, offChain bool) {
	n.resolved[key] = settled
	e := n.htlcEvent(key, 0, 0)
	e.EventType = routerrpc.HtlcEvent_UNKNOWN
	e.Event = &routerrpc.HtlcEvent_FinalHtlcEvent{FinalHtlcEvent: &routerrpc.FinalHtlcEvent{
		Settled: settled, Offchain: offChain,
	}}
	n.mem.htlcEvents.publish(e)
}
