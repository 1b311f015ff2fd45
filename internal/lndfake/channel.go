package lndfake

import (
	"fmt"
	"time"

	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
)

const (
	firstAlias   = uint64(16_000_000) << 40
	endAlias     = uint64(16_250_000) << 40
	anchorsSat   = 660
	dustSat      = 354
	commitWeight = 1124
	htlcWeight   = 172
)

type phase int

const (
	phasePending phase = iota // negotiated, waiting for confirmations
	phaseOpen
	phaseClosing // a closing transaction is out
	phaseClosed
)

// channel is the state both sides share. Side 0 opened it.
type channel struct {
	w        *World
	op       wire.OutPoint
	script   []byte
	capacity int64 // sat
	sides    [2]*side
	balance  [2]int64 // msat, HTLCs in flight taken out of their offerer's
	sent     [2]int64 // msat, settled
	htlcs    []*htlc
	rounds   []*round
	phase    phase
	private  bool
	zeroConf bool
	scidType bool // option_scid_alias channel type
	taproot  lnrpc.CommitmentType
	numConfs uint32
	scid     uint64 // of the confirmed funding output, 0 before
	pushSat  int64
	feePerKW int64
	memo     string
	up       bool // the link
	gen      int
	failed   bool // the link failed and waits for a reconnection
	heldBack bool // by HoldCommits: no commitment is signed
	flushing *shutdown
	closing  *closing
	pendID   [32]byte
	born     uint32
}

// side is one node's view of a channel.
type side struct {
	c      *channel
	i      int
	node   *Node
	alias  uint64
	gone   bool // abandoned by this node
	goneAt uint32
	over   bool // closed, and all of the side's is home
	wanted policy
	graph  *policy // on disk: the own policy in the own graph
	peerOK bool    // on disk: the other side's channel_update has arrived
	nextID uint64
	pkgs   []*fwdPkg
	signed *round // on disk: signed and not yet revoked by the other side
	// commits counts the side's own commitments, on disk.
	commits uint64
	opened  bool // OPEN event was sent

	link    policy // in memory: what the link forwards by
	mailbox []*addPacket
	resbox  []*resPacket
	armed   bool
}

// policy is a side's forwarding policy for HTLCs going out over the channel.
type policy struct {
	baseMsat, ratePPM int64
	delta             uint32
	minMsat, maxMsat  int64
	disabled          bool
	updated           int64
}

func (p policy) fee(amtMsat int64) int64 {
	return p.baseMsat + amtMsat/1_000_000*p.ratePPM + amtMsat%1_000_000*p.ratePPM/1_000_000
}

func (n *Node) defaultPolicy(capacity int64) policy {
	return policy{
		baseMsat: *n.cfg.BaseFeeMsat, ratePPM: *n.cfg.FeeRatePPM, delta: n.cfg.TimeLockDelta,
		minMsat: 1000, maxMsat: capacity * 990,
	}
}

func (c *channel) between(a, b *Node) bool {
	x, y := c.sides[0].node, c.sides[1].node
	return x == a && y == b || x == b && y == a
}

func (c *channel) sideOf(n *Node) *side {
	for _, s := range c.sides {
		if s.node == n {
			return s
		}
	}
	return nil
}

func (s *side) other() *side { return s.c.sides[1-s.i] }

// chanID is what the node calls the channel: for zero-conf the alias, for ever; else the confirmed SCID.
func (s *side) chanID() uint64 {
	if s.c.zeroConf {
		return s.alias
	}
	return s.c.scid
}

// holdsMoney says whether the funding output exists, in a block or in the mempool, and is unspent. Before that
// the balances of a channel, active or not, are promises only.
func (c *channel) holdsMoney() bool { return c.w.chain.coins[c.op] != nil }

func (n *Node) takeAlias(s *side) uint64 {
	for {
		a := n.nextAlias
		n.nextAlias++
		if n.aliases[a] == nil {
			n.aliases[a] = s
			return a
		}
	}
}

func isAlias(scid uint64) bool { return scid >= firstAlias && scid < endAlias }

// lookup finds the channel of the node's that an onion's SCID means.
func (n *Node) lookup(scid uint64) *side {
	if scid == 0 {
		return nil
	}
	s := n.aliases[scid]
	if s == nil {
		s = n.mem.switched[scid]
	}
	if s != nil && !s.gone && s.c.phase == phaseOpen {
		return s
	}
	for _, c := range n.w.channels {
		if s := c.sideOf(n); s != nil && !s.gone && c.phase == phaseOpen && c.scid == scid {
			return s
		}
	}
	return nil
}

// byChanID finds the side that a circuit key of the node's names, open or not.
func (n *Node) byChanID(scid uint64) *side {
	for _, c := range n.w.channels {
		if s := c.sideOf(n); s != nil && s.chanID() == scid && scid != 0 {
			return s
		}
	}
	return nil
}

func (c *channel) weight(htlcs int) int64 { return commitWeight + htlcWeight*int64(htlcs) }

func (c *channel) commitFeeSat() int64 { return c.feePerKW * c.weight(c.untrimmed()) / 1000 }

func (c *channel) untrimmed() (n int) {
	for _, h := range c.htlcs {
		if h.amt >= dustSat*1000 {
			n++
		}
	}
	return n
}

func (c *channel) reserveSat() int64 { return max(c.capacity/100, dustSat) }

// sendableMsat is what the side can offer in one more HTLC: its balance without the reserve and, for the opener,
// the commitment fee at twice the rate with room for this and one more HTLC, and the anchors.
func (s *side) sendableMsat() int64 {
	v := s.c.balance[s.i] - s.c.reserveSat()*1000
	if s.i == 0 {
		v -= (anchorsSat + 2*s.c.feePerKW*s.c.weight(s.c.untrimmed()+2)/1000) * 1000
	}
	for _, p := range s.mailbox {
		v -= p.amt
	}
	return max(v, 0)
}

// localSat is the balance as lnd shows it.
func (s *side) localSat() int64 {
	v := s.c.balance[s.i] / 1000
	if s.i == 0 {
		v -= s.c.commitFeeSat() + anchorsSat
	}
	return max(v, 0)
}

func (s *side) active() bool { return s.c.phase == phaseOpen && s.c.up && !s.gone && !s.other().gone }

func (s *side) canUse() bool { return !s.gone && s.c.phase == phaseOpen }

// linkStart brings the link up after a (re)connection: both sides retransmit what was signed, replay their
// forwarding packages, and build the forwarding policy from the graph, or from defaults if it is not there yet.
func (c *channel) linkStart() {
	if c.phase != phaseOpen || c.up || c.sides[0].gone || c.sides[1].gone {
		return
	}
	if !c.w.conn(c.sides[0].node, c.sides[1].node).up {
		return
	}
	c.up, c.failed = true, false
	c.gen++
	for _, s := range c.sides {
		if s.graph != nil {
			s.link = *s.graph
		} else if s.opened {
			s.link = s.node.defaultPolicy(c.capacity)
		} else {
			s.link = s.wanted
		}
	}
	// A link trims the circuits that it opened and never signed when it starts, not when it stops.
	for _, s := range c.sides {
		for _, p := range s.mailbox {
			p.opened = false
		}
	}
	c.resume()
	for _, s := range c.sides {
		s.opened = true
		s.peerOK = s.peerOK || s.other().graph != nil
		s.kick()
		s.replay()
		if !c.up {
			return // what was signed at once has killed it
		}
		s.event(lnrpc.ChannelEventUpdate_ACTIVE_CHANNEL)
	}
	c.flush()
}

func (c *channel) linkStop() {
	if !c.up {
		return
	}
	c.up = false
	c.gen++
	for _, s := range c.sides {
		s.armed = false
		for _, p := range s.mailbox {
			s.watchMailbox(p)
		}
		s.event(lnrpc.ChannelEventUpdate_INACTIVE_CHANNEL)
	}
}

// forget is the loss of a side's memory.
func (s *side) forget() {
	s.mailbox, s.resbox, s.armed = nil, nil, false
}

func (s *side) event(kind lnrpc.ChannelEventUpdate_UpdateType) {
	if !s.node.up || s.gone {
		return
	}
	e := &lnrpc.ChannelEventUpdate{Type: kind}
	switch kind {
	case lnrpc.ChannelEventUpdate_ACTIVE_CHANNEL:
		e.Channel = &lnrpc.ChannelEventUpdate_ActiveChannel{ActiveChannel: s.c.point()}
	case lnrpc.ChannelEventUpdate_INACTIVE_CHANNEL:
		e.Channel = &lnrpc.ChannelEventUpdate_InactiveChannel{InactiveChannel: s.c.point()}
	case lnrpc.ChannelEventUpdate_OPEN_CHANNEL:
		e.Channel = &lnrpc.ChannelEventUpdate_OpenChannel{OpenChannel: s.rpc()}
	case lnrpc.ChannelEventUpdate_PENDING_OPEN_CHANNEL:
		e.Channel = &lnrpc.ChannelEventUpdate_PendingOpenChannel{PendingOpenChannel: &lnrpc.PendingUpdate{
			Txid: s.c.op.Hash[:], OutputIndex: s.c.op.Index,
		}}
	case lnrpc.ChannelEventUpdate_CLOSED_CHANNEL:
		e.Channel = &lnrpc.ChannelEventUpdate_ClosedChannel{ClosedChannel: s.closeSummary()}
	case lnrpc.ChannelEventUpdate_FULLY_RESOLVED_CHANNEL:
		e.Channel = &lnrpc.ChannelEventUpdate_FullyResolvedChannel{FullyResolvedChannel: s.c.point()}
	default:
		return
	}
	s.node.mem.chanEvents.publish(e)
}

func (c *channel) point() *lnrpc.ChannelPoint {
	return &lnrpc.ChannelPoint{
		FundingTxid: &lnrpc.ChannelPoint_FundingTxidBytes{FundingTxidBytes: append([]byte(nil), c.op.Hash[:]...)},
		OutputIndex: c.op.Index,
	}
}

func (c *channel) pointString() string { return c.op.String() }

// rpc renders the channel as ListChannels does: HTLCs of the local commitment only.
func (s *side) rpc() *lnrpc.Channel {
	c, o := s.c, s.other()
	reserve := uint64(c.reserveSat())
	r := &lnrpc.Channel{
		Active: s.active(), RemotePubkey: o.node.pub, ChannelPoint: c.pointString(), ChanId: s.chanID(),
		Capacity: c.capacity, LocalBalance: s.localSat(), RemoteBalance: o.localSat(), CommitFee: c.commitFeeSat(),
		CommitWeight: c.weight(c.untrimmed()), FeePerKw: c.feePerKW, CsvDelay: 144, Private: c.private, Initiator: s.i == 0,
		ChanStatusFlags: "ChanStatusDefault", CommitmentType: c.taproot, StaticRemoteKey: true,
		LocalChanReserveSat: int64(reserve), RemoteChanReserveSat: int64(reserve), ZeroConf: c.zeroConf,
		AliasScids: append([]uint64{s.alias}, s.node.addedAlias[s]...), PeerScidAlias: o.alias,
		PushAmountSat: uint64(c.pushSat), Memo: s.memo(), Lifetime: int64(time.Since(s.node.started).Seconds()), NumUpdates: s.commits,
		TotalSatoshisSent: c.sent[s.i] / 1000, TotalSatoshisReceived: c.sent[1-s.i] / 1000,
		LocalConstraints: s.constraints(), RemoteConstraints: o.constraints(),
	}
	if c.zeroConf && c.scid != 0 {
		r.ZeroConfConfirmedScid = c.scid
	}
	for _, h := range c.htlcs {
		if e := s.htlcRPC(h); e != nil {
			r.PendingHtlcs = append(r.PendingHtlcs, e)
			r.UnsettledBalance += e.Amount
		}
	}
	return r
}

func (s *side) memo() string {
	if s.i == 0 {
		return s.c.memo
	}
	return ""
}

func (s *side) constraints() *lnrpc.ChannelConstraints {
	return &lnrpc.ChannelConstraints{
		CsvDelay: 144, ChanReserveSat: uint64(s.c.reserveSat()), DustLimitSat: dustSat,
		MaxPendingAmtMsat: uint64(s.c.capacity * 990), MinHtlcMsat: 1, MaxAcceptedHtlcs: 483,
	}
}

func (s *side) htlcRPC(h *htlc) *lnrpc.HTLC {
	incoming := h.from != s.i
	if !incoming && (h.stage < stageAcked || h.resStage >= stageReceived) {
		return nil
	}
	if incoming && h.stage < stageReceived {
		return nil
	}
	e := &lnrpc.HTLC{
		Incoming: incoming, Amount: h.amt / 1000, HashLock: append([]byte(nil), h.hash[:]...),
		ExpirationHeight: h.expiry, HtlcIndex: h.id, LockedIn: !incoming || h.stage >= stageLocked && h.resStage < stageReceived,
	}
	if incoming {
		if k := s.node.circuits[circuitKey{s.chanID(), h.id}]; k != nil && k.hasKeystone() {
			e.ForwardingChannel, e.ForwardingHtlcIndex = k.outChan, k.outID
		}
	} else if h.inKey.chanID != 0 {
		e.ForwardingChannel, e.ForwardingHtlcIndex = h.inKey.chanID, h.inKey.htlcID
	} else {
		e.ForwardingHtlcIndex = h.inKey.htlcID
	}
	return e
}

// HoldCommits keeps the two nodes' links from signing new commitments, so that what was resumed stays in the
// outgoing batch, until release is called.
func (w *World) HoldCommits(a, b *Node) (release func()) {
	set := func(v bool) {
		w.do(func() {
			for _, c := range w.channels {
				if c.between(a, b) {
					c.heldBack = v
					c.sides[0].kick()
					c.sides[1].kick()
				}
			}
		})
	}
	set(true)
	return func() { set(false) }
}

func (c *channel) String() string {
	return fmt.Sprintf("%s-%s %v", c.sides[0].node.name, c.sides[1].node.name, c.op)
}
