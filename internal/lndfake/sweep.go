package lndfake

import (
	"slices"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
)

const (
	csvDelay     = 144
	claimFeeSat  = 250 // of an HTLC's claim or time-out transaction
	sweepFeeSat  = 200 // of a sweep to the wallet
	anchorBlocks = 16  // after which anybody may take an anchor
)

type outputKind int

const (
	outputBalance outputKind = iota // to_local or to_remote
	outputAnchor
	outputStage // of a second-stage transaction
)

// output is one of a side's on a published commitment, or in the second stage, on its way to the wallet.
type output struct {
	c        *channel
	side     int
	kind     outputKind
	op       wire.OutPoint
	sat      int64
	csv      uint32
	spend    *wire.MsgTx
	done     bool
	ours     bool // the wallet has it
	incoming bool // a second stage: of an incoming HTLC
}

// contract is an HTLC's output of a published commitment. Until it is spent it counts as its offerer's money.
type contract struct {
	h      *htlc
	op     wire.OutPoint
	spend  *wire.MsgTx
	claim  bool
	done   bool
	staged *output
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
		cl.confirmed, cl.height = true, chain.txs[cl.tx.TxHash()].height
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
	for _, k := range cl.contracts {
		c.settleContract(k)
	}
	for i := range c.sides {
		c.sweep(i)
	}
	open := false
	for _, s := range c.sides {
		was := s.over
		if s.over = s.resolved(); s.over && !was {
			s.pkgs = nil
			s.event(lnrpc.ChannelEventUpdate_FULLY_RESOLVED_CHANNEL)
		}
		open = open || !s.over
	}
	if !open {
		c.phase = phaseClosed
		c.htlcs = nil
	}
}

// final says that the resolver of an HTLC has ended. It passes a preimage on at once, and waits for what brought it.
func (k *contract) final() bool {
	chain := k.h.c.w.chain
	return k.done && (!k.claim || k.staged != nil || chain.confirmations(k.spend.TxHash()) >= closeConfs)
}

// resolved says that nothing on chain is the side's business any more.
func (s *side) resolved() bool {
	cl := s.c.closing
	return !slices.ContainsFunc(cl.contracts, func(k *contract) bool { return !k.final() }) &&
		!slices.ContainsFunc(cl.outputs, func(o *output) bool { return o.side == s.i && !o.done })
}

func (s *side) report(kind lnrpc.ResolutionType, outcome lnrpc.ResolutionOutcome, op wire.OutPoint, sat int64, by *wire.MsgTx) {
	r := &lnrpc.Resolution{ResolutionType: kind, Outcome: outcome, Outpoint: outpointRPC(op), AmountSat: uint64(sat)}
	if by != nil {
		r.SweepTxid = by.TxHash().String()
	}
	s.c.closing.reports[s.i] = append(s.c.closing.reports[s.i], r)
}

// sweep brings home what is mature, in one transaction, with the anchor if that is worth it.
func (c *channel) sweep(i int) {
	cl, chain, s := c.closing, c.w.chain, c.sides[i]
	var ready []*output
	var sum int64
	for _, o := range cl.outputs {
		if o.side != i || o.done {
			continue
		}
		if o.spend != nil && chain.txs[o.spend.TxHash()] == nil {
			o.spend = nil // replaced, or out of the mempool
		}
		if o.spend != nil {
			if chain.confirmations(o.spend.TxHash()) > 0 {
				o.finish(true)
			}
			continue
		}
		confs := chain.confirmations(o.op.Hash)
		if o.kind == outputAnchor && confs >= anchorBlocks {
			o.finish(false)
			continue
		}
		if confs >= max(o.csv, 1) && s.node.up {
			ready = append(ready, o)
			sum += o.sat
		}
	}
	// An anchor alone costs more than it brings.
	if len(ready) == 0 || sum <= sweepFeeSat+dustSat || sum <= anchorSat {
		for _, o := range ready {
			if o.kind != outputAnchor {
				o.finish(false)
			}
		}
		return
	}
	script, _, err := s.node.wallet.newScript(true)
	if err != nil {
		return
	}
	tx := wire.NewMsgTx(2)
	for _, o := range ready {
		tx.AddTxIn(&wire.TxIn{PreviousOutPoint: o.op, Sequence: o.csv, Witness: wire.TxWitness{{2}}})
	}
	tx.AddTxOut(wire.NewTxOut(sum-sweepFeeSat, script))
	if chain.publish(tx, "sweep") == nil {
		for _, o := range ready {
			o.spend = tx
		}
	}
}

// finish is the end of an output: the wallet has it, or nobody claims it.
func (o *output) finish(ours bool) {
	o.done, o.ours = true, ours
	s := o.c.sides[o.side]
	outcome := lnrpc.ResolutionOutcome_UNCLAIMED
	if ours {
		outcome = lnrpc.ResolutionOutcome_CLAIMED
	} else {
		delete(o.c.w.chain.owed, o.op)
		o.spend = nil
	}
	switch {
	case o.kind == outputAnchor:
		s.report(lnrpc.ResolutionType_ANCHOR, outcome, o.op, o.sat, o.spend)
	case o.kind == outputBalance:
		s.report(lnrpc.ResolutionType_COMMIT, outcome, o.op, o.sat, o.spend)
	case o.incoming:
		s.report(lnrpc.ResolutionType_INCOMING_HTLC, outcome, o.op, o.sat, o.spend)
	default:
		// lnd's word for an HTLC that it took back after its time.
		s.report(lnrpc.ResolutionType_OUTGOING_HTLC, lnrpc.ResolutionOutcome_TIMEOUT, o.op, o.sat, o.spend)
	}
}

// hurry is what lnd may do while its own commitment waits: its anchor and a coin of the wallet pay for a child.
func (c *channel) hurry(cl *closing) {
	s := c.sides[cl.initiator]
	for _, o := range cl.outputs {
		if o.side != s.i || o.kind != outputAnchor || c.w.rng.IntN(3) > 0 {
			continue
		}
		in := &wire.TxIn{PreviousOutPoint: o.op, Witness: wire.TxWitness{{2}}}
		if tx := c.withCoin(s.node, in, nil, anchorSat); tx != nil && c.w.chain.publish(tx, "sweep") == nil {
			o.spend = tx
		}
	}
}

// withCoin completes a transaction that cannot pay for itself with a coin of the node's wallet, change last.
func (c *channel) withCoin(n *Node, in *wire.TxIn, out *wire.TxOut, extraSat int64) *wire.MsgTx {
	chain := c.w.chain
	for _, k := range chain.sortedCoins(n) {
		if n.wallet.leased(k.op) || n.wallet.drafts[k.op] || chain.confirmations(k.op.Hash) == 0 || k.out.Value < 10*claimFeeSat {
			continue
		}
		script, _, err := n.wallet.newScript(true)
		if err != nil {
			return nil
		}
		tx := wire.NewMsgTx(2)
		tx.AddTxIn(in)
		tx.AddTxIn(&wire.TxIn{PreviousOutPoint: k.op, Sequence: wire.MaxTxInSequenceNum - 2})
		if out != nil {
			tx.AddTxOut(out)
		}
		tx.AddTxOut(wire.NewTxOut(k.out.Value+extraSat-claimFeeSat, script))
		p, err := psbt.NewFromUnsignedTx(unsigned(tx))
		if err != nil {
			return nil
		}
		first := chain.coinOut(in.PreviousOutPoint)
		if first == nil {
			return nil
		}
		p.Inputs[0].WitnessUtxo, p.Inputs[1].WitnessUtxo = first, wire.NewTxOut(k.out.Value, k.out.PkScript)
		p.Inputs[0].FinalScriptWitness = []byte{1, 1, 2}
		p.Inputs[1].SighashType = txscript.SigHashAll
		if n.wallet.taproot[string(k.out.PkScript)] {
			p.Inputs[1].SighashType = txscript.SigHashDefault
		}
		if _, err := n.wallet.sign(p); err != nil {
			return nil
		}
		done, err := finalize(p)
		if err != nil {
			return nil
		}
		done.TxIn[0].Witness = in.Witness
		return done
	}
	return nil
}

func unsigned(tx *wire.MsgTx) *wire.MsgTx {
	out := tx.Copy()
	for _, in := range out.TxIn {
		in.Witness = nil
	}
	return out
}

// coinOut is an output that is unspent.
func (c *chain) coinOut(op wire.OutPoint) *wire.TxOut {
	if k := c.coins[op]; k != nil {
		return wire.NewTxOut(k.out.Value, k.out.PkScript)
	}
	return nil
}

func (c *channel) settleContract(k *contract) {
	if k.done {
		return
	}
	chain, h := c.w.chain, k.h
	offerer, receiver := c.sides[h.from], c.sides[1-h.from]
	if k.spend != nil && chain.txs[k.spend.TxHash()] == nil {
		k.spend = nil
		k.dropStage()
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
	k.reports()
	receiver.node.mem.intercept.pop(circuitKey{receiver.chanID(), h.id})
	receiver.node.final(circuitKey{receiver.chanID(), h.id}, k.claim, false)
	if k.claim {
		pre := receiver.node.preimages[h.hash]
		h.res = &resolution{preimage: &pre}
	} else {
		h.res = &resolution{failure: &failure{code: lnrpc.Failure_PERMANENT_CHANNEL_FAILURE, src: h.pos, detail: "on-chain timeout"}}
	}
	offerer.node.outgoingResolved(h)
}

// reports are lnd's words: to its offerer an HTLC that the other claimed is CLAIMED, one that it took back TIMEOUT.
func (k *contract) reports() {
	c, h, sat := k.h.c, k.h, k.h.amt/1000
	offerer, receiver := c.sides[h.from], c.sides[1-h.from]
	mine := receiver
	if !k.claim {
		mine = offerer
	}
	if k.staged != nil {
		kind := lnrpc.ResolutionType_OUTGOING_HTLC
		if k.claim {
			kind = lnrpc.ResolutionType_INCOMING_HTLC
		}
		mine.report(kind, lnrpc.ResolutionOutcome_FIRST_STAGE, k.op, sat, k.spend)
	}
	switch {
	case k.claim:
		offerer.report(lnrpc.ResolutionType_OUTGOING_HTLC, lnrpc.ResolutionOutcome_CLAIMED, k.op, sat, k.spend)
		if k.staged == nil {
			receiver.report(lnrpc.ResolutionType_INCOMING_HTLC, lnrpc.ResolutionOutcome_CLAIMED, k.op, sat, k.spend)
		}
	default:
		receiver.report(lnrpc.ResolutionType_INCOMING_HTLC, lnrpc.ResolutionOutcome_TIMEOUT, k.op, sat, nil)
		if k.staged == nil {
			offerer.report(lnrpc.ResolutionType_OUTGOING_HTLC, lnrpc.ResolutionOutcome_TIMEOUT, k.op, sat, k.spend)
		}
	}
}

// spendContract takes an HTLC's output: to the wallet from the other side's commitment; from the own one into a
// second stage first, for which a coin of the wallet pays.
func (c *channel) spendContract(k *contract, to *side, witness wire.TxWitness, claim bool) {
	chain := c.w.chain
	sat := k.h.amt / 1000
	if to.i != c.closing.initiator {
		script, _, err := to.node.wallet.newScript(true)
		if err != nil {
			return
		}
		tx := wire.NewMsgTx(2)
		tx.AddTxIn(&wire.TxIn{PreviousOutPoint: k.op, Witness: witness, Sequence: 1})
		tx.AddTxOut(wire.NewTxOut(sat-claimFeeSat, script))
		if chain.publish(tx, "sweep") == nil {
			k.spend, k.claim = tx, claim
		}
		return
	}
	stage := wire.NewMsgTx(2)
	if c.addContract(stage, sat) != nil {
		return
	}
	in := &wire.TxIn{PreviousOutPoint: k.op, Witness: witness, Sequence: 1}
	tx := c.withCoin(to.node, in, stage.TxOut[0], 0)
	if tx == nil {
		// Without a coin the HTLC pays for itself, as it does in old channels.
		tx = wire.NewMsgTx(2)
		tx.AddTxIn(in)
		stage.TxOut[0].Value -= claimFeeSat
		tx.AddTxOut(stage.TxOut[0])
	}
	o := &output{
		c: c, side: to.i, kind: outputStage, op: wire.OutPoint{Hash: tx.TxHash()}, sat: tx.TxOut[0].Value, csv: csvDelay, incoming: claim,
	}
	chain.internal[o.op], chain.owed[o.op] = c, o
	if chain.publish(tx, "sweep") != nil {
		delete(chain.internal, o.op)
		delete(chain.owed, o.op)
		return
	}
	k.spend, k.claim, k.staged = tx, claim, o
	c.closing.outputs = append(c.closing.outputs, o)
}

// dropStage forgets a second stage that the mempool lost.
func (k *contract) dropStage() {
	if k.staged == nil {
		return
	}
	cl := k.h.c.closing
	cl.outputs = slices.DeleteFunc(cl.outputs, func(o *output) bool { return o == k.staged })
	delete(k.h.c.w.chain.owed, k.staged.op)
	k.staged = nil
}

// limbo is what lnd says is on its way to the side's wallet, and what has arrived.
func (s *side) limbo() (limbo, recovered int64, htlcs []*lnrpc.PendingHTLC) {
	c, cl := s.c, s.c.closing
	for _, o := range cl.outputs {
		switch {
		case o.side != s.i:
		case !o.done:
			limbo += o.sat
			if o.kind == outputStage {
				htlcs = append(htlcs, &lnrpc.PendingHTLC{
					Incoming: o.incoming, Amount: o.sat, Outpoint: o.op.String(), MaturityHeight: c.w.chain.height() + 1, Stage: 2,
				})
			}
		case o.ours:
			recovered += o.sat
		}
	}
	for _, k := range cl.contracts {
		incoming := k.h.from != s.i
		switch {
		case k.staged != nil && incoming == k.claim:
		case !k.final():
			limbo += k.h.amt / 1000
			htlcs = append(htlcs, &lnrpc.PendingHTLC{
				Incoming: incoming, Amount: k.h.amt / 1000, Outpoint: k.op.String(), MaturityHeight: k.h.expiry, Stage: 1,
			})
		case incoming == k.claim:
			recovered += k.h.amt / 1000
		}
	}
	return limbo, recovered, htlcs
}
