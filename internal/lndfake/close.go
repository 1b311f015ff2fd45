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
	incomingBroadcastDelta = 10 // blocks before expiry at which lnd goes on chain to claim
	closeConfs             = 3  // lnd 0.21 takes a close for final after three to six, by size
	anchorSat              = anchorsSat / 2
)

// closing is the end of a channel on chain.
type closing struct {
	tx        *wire.MsgTx
	force     bool
	breach    bool
	initiator int
	confirmed bool
	height    uint32
	outputs   []*output
	contracts []*contract
	gone      []*htlc // in flight, but without an output
	settled   [2]int64
	reports   [2][]*lnrpc.Resolution
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

// shutdown is a cooperative close that waits for the channel's HTLCs.
type shutdown struct {
	by       int
	feePerKW int64
}

func (c *channel) mayShutDown() error {
	switch {
	case c.phase != phaseOpen:
		return errors.New("channel is not open")
	case !c.up:
		return errors.New("cannot close channel: peer is offline; use force")
	}
	return nil
}

// shutDown closes once no HTLC is left; new ones are not taken any more. Both sides have it on disk.
func (c *channel) shutDown(by int, feePerKW int64) {
	c.flushing = &shutdown{by, feePerKW}
	c.flush()
}

func (c *channel) flush() {
	f := c.flushing
	if f == nil || c.mayShutDown() != nil || len(c.htlcs)+len(c.rounds)+len(c.sides[0].mailbox)+len(c.sides[1].mailbox) > 0 {
		return
	}
	c.flushing = nil
	if err := c.closeCooperatively(f.by, f.feePerKW); err != nil {
		c.w.tracef("%v: the close that was begun fails: %v", c, err)
	}
}

// closeCooperatively publishes a closing transaction. Stock 0.21 nodes agree on rbf-coop-close: each makes one that it
// pays for itself, and whichever reaches the mempool first stands. Without a balance for that the opener pays.
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
	cl := &closing{tx: tx, initiator: by}
	bal := [2]int64{c.balance[0] / 1000, c.balance[1] / 1000}
	payer := c.w.rng.IntN(2)
	if bal[payer] < fee+dustSat {
		payer = 0
	}
	bal[payer] -= fee
	for i, sat := range bal {
		if err := c.pay(tx, i, sat); err != nil {
			return err
		}
		if sat >= dustSat {
			cl.settled[i] = sat
		}
	}
	return c.publishClose(tx, cl)
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
	bal[0] -= (c.feePerKW*c.weight(len(outs))/1000 + anchorsSat) * 1000
	tx, err := c.commitment(cl, bal, len(outs) > 0)
	if err != nil {
		return err
	}
	base := len(tx.TxOut)
	for _, o := range outs {
		if err := c.addContract(tx, o.sat); err != nil {
			return err
		}
	}
	cl.tx = tx
	for i, o := range outs {
		k := &contract{h: o.h, op: wire.OutPoint{Hash: tx.TxHash(), Index: uint32(base + i)}}
		cl.contracts = append(cl.contracts, k)
		c.w.chain.internal[k.op] = c
		c.w.chain.contracts[k.op] = k
	}
	c.own(cl)
	for _, s := range c.sides {
		s.mailbox, s.signed = nil, nil
	}
	c.rounds = nil
	if err := c.publishClose(tx, cl); err != nil {
		return err
	}
	c.hurry(cl)
	return nil
}

// commitment begins a commitment with what belongs to the two sides. Balances
// below dust have no output, and a side without any output has no anchor.
func (c *channel) commitment(cl *closing, bal [2]int64, htlcs bool) (*wire.MsgTx, error) {
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(&wire.TxIn{PreviousOutPoint: c.op, Witness: wire.TxWitness{{1}}})
	for i := range bal {
		sat := bal[i] / 1000
		if sat < dustSat {
			sat = 0
		}
		if sat > 0 || htlcs {
			cl.outputs = append(cl.outputs, &output{c: c, side: i, kind: outputAnchor, sat: anchorSat})
		}
		if sat > 0 {
			csv := uint32(1)
			if i == cl.initiator {
				csv = csvDelay
			}
			cl.outputs = append(cl.outputs, &output{c: c, side: i, kind: outputBalance, sat: sat, csv: csv})
			cl.settled[i] = sat
		}
	}
	for _, o := range cl.outputs {
		if err := c.addContract(tx, o.sat); err != nil {
			return nil, err
		}
	}
	return tx, nil
}

// addContract adds an output whose script is nobody's; the world knows whose
// it is.
func (c *channel) addContract(tx *wire.MsgTx, sat int64) error {
	seed := c.w.random32()
	addr, err := btcutil.NewAddressWitnessScriptHash(seed[:], c.w.chain.params)
	if err != nil {
		return err
	}
	script, err := txscript.PayToAddrScript(addr)
	if err != nil {
		return err
	}
	tx.AddTxOut(wire.NewTxOut(sat, script))
	return nil
}

// own tells the chain whose the commitment's outputs are.
func (c *channel) own(cl *closing) {
	for i, o := range cl.outputs {
		o.op = wire.OutPoint{Hash: cl.tx.TxHash(), Index: uint32(i)}
		c.w.chain.internal[o.op] = c
		c.w.chain.owed[o.op] = o
	}
}

// Breach makes a node publish an old commitment, by which all is its own. The
// other side takes everything once that is confirmed.
func (w *World) Breach(n *Node, point string) error {
	err := fmt.Errorf("no channel %s", point)
	w.do(func() {
		for _, c := range w.channels {
			s := c.sideOf(n)
			if s == nil || c.pointString() != point {
				continue
			}
			if err = nil; c.phase != phaseOpen || len(c.htlcs) > 0 || !c.holdsMoney() {
				err = errors.New("the channel is not quiet")
				return
			}
			cl := &closing{force: true, breach: true, initiator: s.i}
			var bal [2]int64
			bal[s.i] = (c.capacity - c.commitFeeSat() - anchorsSat) * 1000
			if cl.tx, err = c.commitment(cl, bal, false); err != nil {
				return
			}
			for _, o := range cl.outputs {
				o.side, o.csv = 1-s.i, 0
			}
			cl.settled = [2]int64{}
			// From here on the money is the victim's.
			c.balance[1-s.i] += c.balance[s.i]
			c.balance[s.i] = 0
			c.own(cl)
			err = c.publishClose(cl.tx, cl)
			return
		}
	})
	return err
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
		CloseHeight: s.goneAt,
	}
	if c.zeroConf {
		m.ZeroConfConfirmedScid = c.scid
	}
	if s.gone || cl == nil {
		return m
	}
	m.ClosingTxHash, m.CloseHeight, m.SettledBalance = cl.tx.TxHash().String(), cl.height, cl.settled[s.i]
	m.CloseInitiator = lnrpc.Initiator_INITIATOR_REMOTE
	if cl.initiator == s.i {
		m.CloseInitiator = lnrpc.Initiator_INITIATOR_LOCAL
	}
	m.Resolutions = slices.Clone(cl.reports[s.i])
	switch {
	case !cl.force:
		m.CloseType = lnrpc.ChannelCloseSummary_COOPERATIVE_CLOSE
	case cl.initiator == s.i:
		m.CloseType, m.TimeLockedBalance = lnrpc.ChannelCloseSummary_LOCAL_FORCE_CLOSE, cl.settled[s.i]
	case cl.breach:
		m.CloseType, m.Resolutions = lnrpc.ChannelCloseSummary_BREACH_CLOSE, nil
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
		n.wallet.layGhosts()
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
	for _, n := range w.order {
		if n.up {
			n.sweepChildren()
		}
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
