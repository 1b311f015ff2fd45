package lndfake

import (
	"errors"
	"fmt"
	"slices"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
)

// ReplaceTx makes the node replace an unconfirmed transaction that spends only coins of its wallet by one that pays
// extraSat more to miners (BIP 125). With toSelf the replacement pays nobody: it takes the payment back.
//
// What every wallet that was concerned then shows is lnd's: the replaced transaction stays listed, and its outputs
// stay counted, until one that spends the same coins is confirmed and concerns that wallet, or until the node
// starts again and cannot publish it any more.
func (w *World) ReplaceTx(n *Node, txid [32]byte, extraSat int64, toSelf bool) (id [32]byte, err error) {
	w.do(func() {
		var tx *wire.MsgTx
		e := w.chain.txs[chainhash.Hash(txid)]
		if e == nil || e.height > 0 {
			err = errors.New("no such unconfirmed transaction")
			return
		}
		if tx, err = n.replacement(e, extraSat, toSelf); err != nil {
			return
		}
		w.chain.giveWay(e)
		err = w.chain.publish(tx, e.label)
		id = tx.TxHash()
	})
	return id, err
}

func (n *Node) replacement(e *mempoolTx, extraSat int64, toSelf bool) (*wire.MsgTx, error) {
	chain := n.w.chain
	tx := wire.NewMsgTx(2)
	var in int64
	for _, ti := range e.tx.TxIn {
		k := e.prev[ti.PreviousOutPoint]
		if k == nil || chain.owner[string(k.out.PkScript)] != n {
			return nil, fmt.Errorf("input %v is not the wallet's", ti.PreviousOutPoint)
		}
		in += k.out.Value
		tx.AddTxIn(&wire.TxIn{PreviousOutPoint: ti.PreviousOutPoint, Sequence: wire.MaxTxInSequenceNum - 2})
	}
	if toSelf {
		script, _, err := n.wallet.newScript(true)
		if err != nil {
			return nil, err
		}
		tx.AddTxOut(wire.NewTxOut(in-e.feeSat-extraSat, script))
	} else {
		cut := false
		for _, o := range e.tx.TxOut {
			out := wire.NewTxOut(o.Value, o.PkScript)
			if !cut && chain.owner[string(o.PkScript)] == n && o.Value > extraSat+1000 {
				out.Value -= extraSat
				cut = true
			}
			tx.AddTxOut(out)
		}
		if !cut {
			return nil, errors.New("the transaction has no change that could pay more")
		}
	}
	p, err := psbt.NewFromUnsignedTx(tx)
	if err != nil {
		return nil, err
	}
	for i, ti := range tx.TxIn {
		out := e.prev[ti.PreviousOutPoint].out
		p.Inputs[i].WitnessUtxo, p.Inputs[i].SighashType = wire.NewTxOut(out.Value, out.PkScript), txscript.SigHashAll
		if n.wallet.taproot[string(out.PkScript)] {
			p.Inputs[i].SighashType = txscript.SigHashDefault
		}
	}
	if _, err := n.wallet.sign(p); err != nil {
		return nil, err
	}
	return finalize(p)
}

// giveWay takes a transaction and its descendants out of the mempool; wallets keep what concerned them.
func (c *chain) giveWay(e *mempoolTx) {
	all := c.withDescendants(e)
	for _, n := range c.w.order {
		for _, x := range all {
			if n.concerns(x) {
				n.wallet.ghosts = append(n.wallet.ghosts, x)
			}
		}
	}
	c.evict(e.txid)
}

// withDescendants are a transaction and all that spend from it.
func (c *chain) withDescendants(e *mempoolTx) []*mempoolTx {
	var all []*mempoolTx
	var collect func(*mempoolTx)
	collect = func(e *mempoolTx) {
		all = append(all, e)
		for i := range e.tx.TxOut {
			if by, ok := c.spentBy[wire.OutPoint{Hash: e.txid, Index: uint32(i)}]; ok && c.txs[by] != nil && !slices.Contains(all, c.txs[by]) {
				collect(c.txs[by])
			}
		}
	}
	collect(e)
	return all
}

// layGhosts forgets replaced transactions whose coins a confirmed one of the wallet's has spent, and those that came
// back.
func (wl *wallet) layGhosts() {
	chain := wl.n.w.chain
	gone := map[chainhash.Hash]bool{}
	wl.ghosts = slices.DeleteFunc(wl.ghosts, func(g *mempoolTx) bool {
		if chain.txs[g.txid] != nil {
			return true // it came back
		}
		for _, ti := range g.tx.TxIn {
			by := chain.txs[chain.spentBy[ti.PreviousOutPoint]]
			if gone[ti.PreviousOutPoint.Hash] || by != nil && by.height > 0 && wl.n.concerns(by) {
				gone[g.txid] = true
				return true
			}
		}
		return false
	})
}

// rebroadcast is what lnd does with unconfirmed transactions at its start: those that conflict are forgotten.
func (wl *wallet) rebroadcast() {
	again := wl.ghosts
	wl.ghosts = nil
	for _, g := range again {
		_ = wl.n.w.chain.publish(g.tx, g.label)
	}
}

// haunted says that the wallet takes a coin for spent because of a replaced transaction.
func (wl *wallet) haunted(op opKey) bool {
	return slices.ContainsFunc(wl.ghosts, func(g *mempoolTx) bool {
		return slices.ContainsFunc(g.tx.TxIn, func(ti *wire.TxIn) bool { return ti.PreviousOutPoint == op })
	})
}

// ghostSat is what replaced transactions seem to pay to the wallet.
func (wl *wallet) ghostSat() (sum int64) {
	for _, g := range wl.ghosts {
		for i, o := range g.tx.TxOut {
			op := wire.OutPoint{Hash: g.txid, Index: uint32(i)}
			if wl.n.w.chain.owner[string(o.PkScript)] == wl.n && !wl.haunted(op) {
				sum += o.Value
			}
		}
	}
	return sum
}
