package lndfake

import (
	"errors"
	"fmt"
	"slices"

	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
)

const (
	incomingBroadcastDelta = 10  // blocks before expiry at which lnd goes on chain to claim
	claimFeeSat            = 250 // of an HTLC's claim or time-out transaction
	closeConfs             = 3   // lnd 0.21 takes a close for final after three to six, by size
)

// closing is the end of a channel on chain.
type closing struct {
	tx        *wire.MsgTx
	force     bool
	initiator int
	confirmed bool
	height    uint32
	contracts []*contract
	gone      []*htlc // in flight, but without an output
}

// contract is an HTLC's output of a published commitment. Until it is spent it counts as its offerer's money.
type contract struct {
	h     *htlc
	op    wire.OutPoint
	spend *wire.MsgTx
	claim bool
	done  bool
}

func (c *channel) pay(tx *wire.MsgTx, i int, sat int64) error {
	if sat < dustSat {
		return nil
	}
	script, _, err := c.sides[i].node.wallet.newScript(true)
	if err != nil {
		return err
	}
	tx.AddTxOut(wire.NewTxOut(sat, script))
	return nil
}

// closeCooperatively publishes a closing transaction that the opener pays for.
func (c *channel) closeCooperatively(by int, feePerKW int64) error {
	switch {
	case c.phase != phaseOpen:
		return errors.New("channel is not open")
	case len(c.htlcs) > 0 || len(c.sides[0].mailbox)+len(c.sides[1].mailbox) > 0:
		return errors.New("cannot co-op close channel with active htlcs")
	case !c.up:
		return errors.New("cannot close channel: peer is offline; use force")
	}
	fee := feePerKW * 700 / 1000
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(&wire.TxIn{PreviousOutPoint: c.op, Witness: wire.TxWitness{{1}}})
	bal := [2]int64{c.balance[0]/1000 - fee, c.balance[1] / 1000}
	for i := range bal {
		if err := c.pay(tx, i, bal[i]); err != nil {
			return err
		}
	}
	return c.publishClose(tx, &closing{tx: tx, initiator: by})
}

func (c *channel) publishClose(tx *wire.MsgTx, cl *closing) error {
	if len(tx.TxOut) == 0 {
		return errors.New("nothing to close for: all outputs are dust")
	}
	c.linkStop()
	if err := c.w.chain.publish(tx, "closechannel"); err != nil {
		if cl.force { // lnd keeps the channel as waiting close and tries again
			c.phase, c.closing = phaseClosing, cl
		}
		return fmt.Errorf("publish closing transaction: %w", err)
	}
	c.phase, c.closing = phaseClosing, cl
	return nil
}

// forceClose publishes the side's own commitment.
func (c *channel) forceClose(by int) error {
	if c.phase != phaseOpen && c.phase != phasePending {
		return errors.New("channel is closing already")
	}
	cl := &closing{force: true, initiator: by}
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(&wire.TxIn{PreviousOutPoint: c.op, Witness: wire.TxWitness{{1}}})
	bal := c.balance
	type pending struct {
		h   *htlc
		sat int64
	}
	var outs []pending
	for _, h := range c.htlcs {
		mine := h.from == by
		if mine && h.stage < stageAcked || !mine && h.stage < stageReceived {
			bal[h.from] += h.amt
			cl.gone = append(cl.gone, h)
			continue
		}
		if h.amt < (dustSat+claimFeeSat)*1000 {
			cl.gone = append(cl.gone, h)
			continue
		}
		outs = append(outs, pending{h, h.amt / 1000})
	}
	bal[0] -= (c.feePerKW * c.weight(len(outs)) / 1000) * 1000
	for i := range bal {
		if err := c.pay(tx, i, bal[i]/1000); err != nil {
			return err
		}
	}
	for _, o := range outs {
		seed := c.w.random32()
		addr, err := btcutil.NewAddressWitnessScriptHash(seed[:], c.w.chain.params)
		if err != nil {
			return err
		}
		script, err := txscript.PayToAddrScript(addr)
		if err != nil {
			return err
		}
		tx.AddTxOut(wire.NewTxOut(o.sat, script))
	}
	cl.tx = tx
	base := len(tx.TxOut) - len(outs)
	for i, o := range outs {
		k := &contract{h: o.h, op: wire.OutPoint{Hash: tx.TxHash(), Index: uint32(base + i)}}
		cl.contracts = append(cl.contracts, k)
		c.w.chain.internal[k.op] = c
		c.w.chain.contracts[k.op] = k
	}
	for _, s := range c.sides {
		s.mailbox, s.signed = nil, nil
	}
	c.rounds = nil
	return c.publishClose(tx, cl)
}

// watchExpiry force-closes for HTLCs that nobody resolved in time.
func (c *channel) watchExpiry() {
	if c.phase != phaseOpen {
		return
	}
	height := c.w.chain.height()
	for _, h := range slices.Clone(c.htlcs) {
		offerer, receiver := c.sides[h.from], c.sides[1-h.from]
		_, known := receiver.node.preimages[h.hash]
		switch {
		case height >= h.expiry && offerer.node.up && !offerer.node.frozen && !offerer.gone:
			_ = c.forceClose(h.from)
			return
		case known && height+incomingBroadcastDelta >= h.expiry && receiver.node.up && !receiver.node.frozen && h.stage >= stageReceived:
			_ = c.forceClose(1 - h.from)
			return
		}
	}
}

// settleOnChain moves a closing channel on: after every block, and when a preimage becomes known.
func (c *channel) settleOnChain() {
	cl := c.closing
	if c.phase != phaseClosing || cl == nil {
		return
	}
	chain := c.w.chain
	if cl.tx != nil && chain.txs[cl.tx.TxHash()] == nil {
		_ = chain.publish(cl.tx, "closechannel")
	}
	if chain.confirmations(cl.tx.TxHash()) < closeConfs {
		return
	}
	if !cl.confirmed {
		cl.confirmed, cl.height = true, chain.height()
		for _, s := range c.sides {
			s.event(lnrpc.ChannelEventUpdate_CLOSED_CHANNEL)
		}
	}
	for _, h := range cl.gone {
		n := c.sides[h.from].node
		if n.up && h.res == nil {
			h.res = &resolution{failure: &failure{code: lnrpc.Failure_PERMANENT_CHANNEL_FAILURE, src: h.pos, detail: "not on chain"}}
			n.outgoingResolved(h)
		}
	}
	open := false
	for _, k := range cl.contracts {
		c.settleContract(k)
		open = open || !k.done
	}
	if !open {
		c.phase = phaseClosed
		c.htlcs = nil
		for _, s := range c.sides {
			s.pkgs = nil
			s.event(lnrpc.ChannelEventUpdate_FULLY_RESOLVED_CHANNEL)
		}
	}
}

func (c *channel) settleContract(k *contract) {
	if k.done {
		return
	}
	chain, h := c.w.chain, k.h
	offerer, receiver := c.sides[h.from], c.sides[1-h.from]
	if k.spend != nil && chain.txs[k.spend.TxHash()] == nil {
		k.spend = nil
	}
	if k.spend == nil {
		if pre, ok := receiver.node.preimages[h.hash]; ok && receiver.node.up {
			c.spendContract(k, receiver, wire.TxWitness{{2}, pre[:]}, true)
		} else if chain.height() >= h.expiry && offerer.node.up {
			c.spendContract(k, offerer, wire.TxWitness{{2}, {}}, false)
		} else if receiver.node.up {
			c.offerHTLC(receiver, h)
		}
		return
	}
	if chain.confirmations(k.spend.TxHash()) == 0 {
		return
	}
	if !offerer.node.up || !receiver.node.up {
		return
	}
	k.done = true
	receiver.node.mem.intercept.pop(circuitKey{receiver.chanID(), h.id})
	receiver.node.resolved[circuitKey{receiver.chanID(), h.id}] = k.claim
	if k.claim {
		pre := receiver.node.preimages[h.hash]
		h.res = &resolution{preimage: &pre}
	} else {
		h.res = &resolution{failure: &failure{code: lnrpc.Failure_PERMANENT_CHANNEL_FAILURE, src: h.pos, detail: "on-chain timeout"}}
	}
	offerer.node.outgoingResolved(h)
}

func (c *channel) spendContract(k *contract, to *side, witness wire.TxWitness, claim bool) {
	script, _, err := to.node.wallet.newScript(true)
	if err != nil {
		return
	}
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(&wire.TxIn{PreviousOutPoint: k.op, Witness: witness})
	tx.AddTxOut(wire.NewTxOut(k.h.amt/1000-claimFeeSat, script))
	if c.w.chain.publish(tx, "sweep") == nil {
		k.spend, k.claim = tx, claim
	}
}

// offerHTLC offers a forward whose incoming channel is on chain to the interceptor, settle only.
func (c *channel) offerHTLC(s *side, h *htlc) {
	if h.pos == len(h.onion.hops)-1 {
		return
	}
	at := h.onion.hops[h.pos]
	s.node.offerOnChain(&forward{
		key: circuitKey{s.chanID(), h.id}, in: s, h: h, amtIn: h.amt, expIn: h.expiry, amt: at.amt, expiry: at.expiry,
		scid: h.onion.hops[h.pos+1].scid, hash: h.hash, onion: h.onion, pos: h.pos,
	})
}

// claimOnChain uses a preimage for an HTLC of a channel that is closing.
func (s *side) claimOnChain(_ uint64, pre [32]byte) {
	s.node.preimages[sha(pre)] = pre
	s.c.settleOnChain()
}

func (s *side) closeSummary() *lnrpc.ChannelCloseSummary {
	c, cl := s.c, s.c.closing
	m := &lnrpc.ChannelCloseSummary{
		ChannelPoint: c.pointString(), ChanId: s.chanID(), ChainHash: c.w.chain.params.GenesisHash.String(),
		RemotePubkey: s.other().node.pub, Capacity: c.capacity, SettledBalance: c.balance[s.i] / 1000,
		AliasScids: []uint64{s.alias}, OpenInitiator: initiator(s.i), CloseType: lnrpc.ChannelCloseSummary_ABANDONED,
	}
	if c.zeroConf {
		m.ZeroConfConfirmedScid = c.scid
	}
	if cl == nil {
		return m
	}
	m.ClosingTxHash, m.CloseHeight = cl.tx.TxHash().String(), cl.height
	m.CloseInitiator = lnrpc.Initiator_INITIATOR_REMOTE
	if cl.initiator == s.i {
		m.CloseInitiator = lnrpc.Initiator_INITIATOR_LOCAL
	}
	switch {
	case !cl.force:
		m.CloseType = lnrpc.ChannelCloseSummary_COOPERATIVE_CLOSE
	case cl.initiator == s.i:
		m.CloseType = lnrpc.ChannelCloseSummary_LOCAL_FORCE_CLOSE
	default:
		m.CloseType = lnrpc.ChannelCloseSummary_REMOTE_FORCE_CLOSE
	}
	return m
}

func initiator(i int) lnrpc.Initiator {
	if i == 0 {
		return lnrpc.Initiator_INITIATOR_LOCAL
	}
	return lnrpc.Initiator_INITIATOR_REMOTE
}

// listed says whether ListChannels still has the channel: a peer that did not close it itself learns of the close
// by its confirmations only.
func (s *side) listed() bool {
	c := s.c
	return c.phase == phaseOpen || c.phase == phaseClosing && c.closing.force && c.closing.initiator != s.i && !c.closing.confirmed
}

// ForceClose makes a node publish its commitment of the channel, named as lnd prints channel points.
func (w *World) ForceClose(n *Node, point string) error {
	err := fmt.Errorf("no channel %s", point)
	w.do(func() {
		for _, c := range w.channels {
			if s := c.sideOf(n); s != nil && c.pointString() == point {
				err = c.forceClose(s.i)
			}
		}
	})
	return err
}

// onBlock is everybody's reaction to a block.
func (w *World) onBlock() {
	tip := w.chain.tip()
	for _, n := range w.order {
		if !n.up {
			continue
		}
		n.expireHeld()
		n.invoices.expire()
		n.mem.blocks.publish(blockEvent{height: tip.height, hash: tip.hash})
		for _, e := range tip.txs {
			n.announceTx(e)
		}
		n.mem.chainTopic.publish(chainEvent{})
	}
	for _, c := range slices.Clone(w.channels) {
		c.onBlock()
		c.watchExpiry()
		c.settleOnChain()
	}
}

func (w *World) onReorg(height uint32) {
	for _, c := range w.channels {
		if c.scid != 0 && uint32(c.scid>>40) > height && (c.zeroConf || c.phase == phasePending) {
			c.scid = 0
		}
	}
	for _, n := range w.order {
		if n.up {
			n.mem.chainTopic.publish(chainEvent{reorg: true})
		}
	}
}

func (w *World) onTx(e *mempoolTx) {
	for _, n := range w.order {
		if n.up {
			n.announceTx(e)
			n.mem.chainTopic.publish(chainEvent{})
		}
	}
}
