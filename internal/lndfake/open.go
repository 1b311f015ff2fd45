package lndfake

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
)

// openParams are the terms of a channel under negotiation.
type openParams struct {
	capacity, pushSat           int64
	private, zeroConf, scidType bool
	kind                        lnrpc.CommitmentType
	policy                      policy
	memo                        string
	pendID                      [32]byte
	minDepth                    uint32
}

// shim is a channel whose funding transaction the caller makes.
type shim struct {
	id        [32]byte
	noPublish bool
	verified  bool
	params    openParams
	peer      *Node
	script    []byte
	updates   *feed[openUpdate]
	psbt      []byte
	c         *channel
}

type openUpdate struct {
	u    *lnrpc.OpenStatusUpdate
	err  error
	last bool
}

var errNotOnline = errors.New("peer is not online")

// parseOpen checks an OpenChannel request as lnd does before it talks to the peer.
func (n *Node) parseOpen(r *lnrpc.OpenChannelRequest) (*Node, openParams, error) {
	p := openParams{
		capacity: r.LocalFundingAmount, pushSat: r.PushSat, private: r.Private, zeroConf: r.ZeroConf, scidType: r.ScidAlias,
		kind: r.CommitmentType, memo: r.Memo, pendID: n.w.random32(),
	}
	pub := hex.EncodeToString(r.NodePubkey)
	if len(r.NodePubkey) == 0 {
		pub = r.NodePubkeyString
	}
	peer := n.w.byPub[pub]
	switch {
	case peer == n:
		return nil, p, errors.New("cannot open channel to self")
	case p.capacity < 20_000:
		return nil, p, errors.New("channel is too small, the minimum channel size is: 20000 SAT")
	case p.pushSat >= p.capacity:
		return nil, p, errors.New("amount pushed to remote peer for initial state must be below the local funding amount")
	case p.zeroConf && n.cfg.NoZeroConf:
		return nil, p, errors.New("zero-conf channels are not enabled")
	case p.scidType && !p.private:
		return nil, p, errors.New("option-scid-alias chantype for public channel")
	case p.zeroConf && p.kind == lnrpc.CommitmentType_UNKNOWN_COMMITMENT_TYPE:
		return nil, p, errors.New("use anchors for zero-conf")
	case p.kind == lnrpc.CommitmentType_SIMPLE_TAPROOT && !p.private:
		return nil, p, errors.New("taproot channels must be private")
	case peer == nil || !n.connected(peer):
		return nil, p, fmt.Errorf("peer %s is not online", pub)
	}
	if p.kind == lnrpc.CommitmentType_UNKNOWN_COMMITMENT_TYPE {
		p.kind = lnrpc.CommitmentType_ANCHORS
	}
	p.policy = n.defaultPolicy(p.capacity)
	if r.UseBaseFee {
		p.policy.baseMsat = int64(r.BaseFee)
	}
	if r.UseFeeRate {
		p.policy.ratePPM = int64(r.FeeRate)
	}
	if r.MinHtlcMsat > 0 {
		p.policy.minMsat = r.MinHtlcMsat
	}
	return peer, p, nil
}

// propose asks the peer, whose acceptors answer in their own time; then runs with the outcome.
func (n *Node) propose(peer *Node, p openParams, then func(p openParams, err error)) {
	inst := n.inst
	conn := n.w.conn(n, peer)
	gen := conn.gen
	verdict := func(resp *lnrpc.ChannelAcceptResponse, err error) {
		if n.inst != inst || !conn.up || conn.gen != gen {
			then(p, errors.New("peer disconnected"))
			return
		}
		if err != nil {
			then(p, fmt.Errorf("received funding error from %s: chan_id=%x, err=%w", peer.pub, p.pendID, err))
			return
		}
		if resp != nil {
			p.minDepth = resp.MinAcceptDepth
		}
		then(p, nil)
	}
	n.w.after(n.w.cfg.Latency.Message, func() {
		if !peer.up {
			verdict(nil, errNotOnline)
			return
		}
		peer.consider(n, p, verdict)
	})
}

func (n *Node) pendingWith(peer *Node) (count int) {
	for _, c := range n.w.channels {
		if c.between(n, peer) && c.phase == phasePending && !c.sideOf(n).gone {
			count++
		}
	}
	return count
}

// consider is the accepting side: limits of its own first, then its acceptors.
func (n *Node) consider(from *Node, p openParams, answer func(*lnrpc.ChannelAcceptResponse, error)) {
	switch {
	case n.pendingWith(from) >= n.cfg.MaxPendingChannels:
		answer(nil, errors.New("number of pending channels exceed maximum"))
	case n.behind:
		// lnd's own reason ("Synchronizing blockchain") is not among those that it tells.
		answer(nil, errors.New("funding failed due to internal error"))
	case p.pushSat > 0 && n.cfg.RejectPush:
		answer(nil, errors.New("non-zero push amounts are disabled"))
	case p.zeroConf && n.cfg.NoZeroConf, p.scidType && n.cfg.NoScidAlias:
		answer(nil, errors.New("requested channel type not supported"))
	case len(n.mem.acceptors) == 0 && p.zeroConf:
		answer(nil, errors.New("channel rejected"))
	case len(n.mem.acceptors) == 0:
		answer(nil, nil)
	default:
		n.askAcceptors(from, p, answer)
	}
}

// negotiated makes the channel that both have agreed on; its funding transaction may not exist yet.
func (n *Node) negotiated(peer *Node, p openParams, op wire.OutPoint, script []byte) *channel {
	c := &channel{
		w: n.w, op: op, script: script, capacity: p.capacity, private: p.private, zeroConf: p.zeroConf, scidType: p.scidType,
		taproot: p.kind, pushSat: p.pushSat, memo: p.memo, pendID: p.pendID, numConfs: 3, born: n.w.chain.height(),
		feePerKW: min(max(n.w.chain.feeRatePerKW, 253), 2500),
	}
	if p.minDepth > 0 {
		c.numConfs = p.minDepth
	}
	c.balance = [2]int64{(p.capacity - p.pushSat) * 1000, p.pushSat * 1000}
	for i, node := range []*Node{n, peer} {
		s := &side{c: c, i: i, node: node, wanted: node.defaultPolicy(p.capacity)}
		s.alias = node.takeAlias(s)
		c.sides[i] = s
	}
	c.sides[0].wanted = p.policy
	n.w.channels = append(n.w.channels, c)
	n.w.chain.internal[op] = c
	for _, s := range c.sides {
		s.event(lnrpc.ChannelEventUpdate_PENDING_OPEN_CHANNEL)
	}
	if c.zeroConf {
		n.w.after(n.w.cfg.Latency.Message, c.open)
	}
	return c
}

// open makes a pending channel usable, and lets the graph learn of it.
func (c *channel) open() {
	if c.phase != phasePending || c.sides[0].gone && c.sides[1].gone {
		return
	}
	c.phase = phaseOpen
	for _, s := range c.sides {
		s.link = s.wanted
		s.event(lnrpc.ChannelEventUpdate_OPEN_CHANNEL)
	}
	c.linkStart()
	lat := c.w.cfg.Latency
	for _, s := range c.sides {
		c.w.after(lat.Graph, func() { s.publishPolicy(s.wanted) })
		s.learnPolicy()
	}
}

// publishPolicy puts the own edge into the own graph; a link that was rebuilt before keeps what it was built with.
func (s *side) publishPolicy(p policy) {
	if s.graph != nil || s.gone || s.c.phase != phaseOpen {
		return
	}
	p.updated = time.Now().Unix()
	s.graph = &p
}

// learnPolicy: the peer's channel_update. Who is away when it is sent gets it at the reconnection.
func (s *side) learnPolicy() {
	conn := s.c.w.conn(s.node, s.other().node)
	s.c.w.after(s.c.w.cfg.Latency.PeerPolicy, func() {
		if conn.up && !s.gone {
			s.peerOK = true
		}
	})
}

// fundingScript is the channel's 2-of-2 output; the keys are nobody's, the world knows whose it is.
func (n *Node) fundingScript(peer *Node, p openParams) ([]byte, btcutil.Address, error) {
	seed := sha256.Sum256(append(p.pendID[:], n.pub+peer.pub...))
	addr, err := btcutil.NewAddressWitnessScriptHash(seed[:], n.w.chain.params)
	if err != nil {
		return nil, nil, err
	}
	script, err := txscript.PayToAddrScript(addr)
	return script, addr, err
}

// fundNow opens a channel from the wallet's own coins.
func (n *Node) fundNow(peer *Node, p openParams, feePerKW int64, minConfs int32, fixed []opKey) (*channel, error) {
	script, _, err := n.fundingScript(peer, p)
	if err != nil {
		return nil, err
	}
	packet, _, err := n.wallet.build([]*wire.TxOut{wire.NewTxOut(p.capacity, script)}, feePerKW, minConfs, fixed)
	if err != nil {
		return nil, err
	}
	if _, err := n.wallet.sign(packet); err != nil {
		return nil, err
	}
	tx, err := finalize(packet)
	if err != nil {
		return nil, err
	}
	c := n.negotiated(peer, p, wire.OutPoint{Hash: tx.TxHash()}, script)
	// lnd publishes here and only logs an error: the channel is pending, or even active, all the same.
	if err := n.w.chain.publish(tx, "openchannel"); err != nil {
		n.w.tracef("%s: funding transaction not published: %v", n.name, err)
	}
	return c, nil
}

// onFundingConfirmed is called for every block while a channel waits for confirmations.
func (c *channel) onBlock() {
	if c.phase != phasePending && c.phase != phaseOpen {
		return
	}
	confs := c.w.chain.confirmations(c.op.Hash)
	if confs == 0 {
		return
	}
	if c.scid == 0 && confs >= min(c.numConfs, 6) {
		e := c.w.chain.txs[c.op.Hash]
		pos := uint64(1)
		for _, b := range c.w.chain.blocks {
			for i, t := range b.txs {
				if t == e {
					pos = uint64(i + 1)
				}
			}
		}
		c.scid = uint64(e.height)<<40 | pos<<16 | uint64(c.op.Index)
		if !c.zeroConf {
			c.w.after(c.w.cfg.Latency.Message, c.open)
		}
	}
}

// OpenChannel makes an open, confirmed, announced channel between two nodes without any RPC, connecting them first
// if need be. The opener needs coins. Its channel point is returned as lnd prints it.
func (w *World) OpenChannel(a, b *Node, capacitySat, pushSat int64) (point string, err error) {
	w.do(func() {
		c := w.conn(a, b)
		c.wanted = true
		c.establish()
		p := openParams{
			capacity: capacitySat, pushSat: pushSat, kind: lnrpc.CommitmentType_ANCHORS, policy: a.defaultPolicy(capacitySat),
			pendID: w.random32(),
		}
		var ch *channel
		if ch, err = a.fundNow(b, p, w.chain.feeRatePerKW, 0, nil); err != nil {
			return
		}
		point = ch.pointString()
		for range 6 {
			w.chain.mine()
			w.drain()
		}
		ch.open()
		for _, s := range ch.sides {
			s.publishPolicy(s.wanted)
			s.peerOK = true
		}
	})
	return point, err
}
