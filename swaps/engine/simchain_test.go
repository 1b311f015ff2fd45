package engine

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// simChain is a chain of real transactions with a mempool: it takes what the script
// engine takes, and a reorg puts back what it undoes.
type simChain struct {
	base   uint32
	blocks [][]*wire.MsgTx
	pool   []*wire.MsgTx
	// outs are all outputs that ever were; contracts the scripts that are verified.
	outs      map[wire.OutPoint]*wire.TxOut
	contracts map[string]bool
	// where and spent are of the best chain.
	where map[ln.TxID]uint32
	spent map[wire.OutPoint]simSpend
}

type simSpend struct {
	tx     *wire.MsgTx
	input  uint32
	height uint32
}

func newSimChain() *simChain {
	c := &simChain{base: 500, outs: map[wire.OutPoint]*wire.TxOut{}, contracts: map[string]bool{}}
	c.index()
	return c
}

func (c *simChain) height() uint32 { return c.base + uint32(len(c.blocks)) }

func (c *simChain) index() {
	c.where, c.spent = map[ln.TxID]uint32{}, map[wire.OutPoint]simSpend{}
	for i, block := range c.blocks {
		h := c.base + uint32(i) + 1
		for _, tx := range block {
			c.where[ln.TxID(tx.TxHash())] = h
			for n, in := range tx.TxIn {
				c.spent[in.PreviousOutPoint] = simSpend{tx, uint32(n), h}
			}
		}
	}
}

// coin is money from before everything.
func (c *simChain) coin(n uint32, value int64, script []byte) wire.OutPoint {
	op := wire.OutPoint{Index: n}
	c.outs[op] = wire.NewTxOut(value, script)
	return op
}

func (c *simChain) confirmed(op wire.OutPoint) bool {
	return op.Hash == [32]byte{} || c.where[ln.TxID(op.Hash)] > 0
}

func (c *simChain) known(tx *wire.MsgTx) bool {
	id := tx.TxHash()
	return c.where[ln.TxID(id)] > 0 || slices.ContainsFunc(c.pool, func(p *wire.MsgTx) bool { return p.TxHash() == id })
}

func (c *simChain) fee(tx *wire.MsgTx) (fee int64) {
	for _, in := range tx.TxIn {
		fee += c.outs[in.PreviousOutPoint].Value
	}
	for _, o := range tx.TxOut {
		fee -= o.Value
	}
	return fee
}

// minable says that a transaction can be in the next block, with others of it.
func (c *simChain) minable(tx *wire.MsgTx, inBlock map[[32]byte]bool) error {
	if tx.LockTime > c.height() {
		return errors.New("non-final")
	}
	for _, in := range tx.TxIn {
		op := in.PreviousOutPoint
		if _, spent := c.spent[op]; spent {
			return errors.New("missing or spent")
		}
		if !c.confirmed(op) && (!inBlock[op.Hash] || in.Sequence == 1) {
			return errors.New("its parent is not there yet")
		}
	}
	return nil
}

// publish is a node's mempool: replacements pay more, scripts are verified.
func (c *simChain) publish(tx *wire.MsgTx) error {
	if c.known(tx) {
		return nil
	}
	waits := map[[32]byte]bool{}
	for _, p := range c.pool {
		waits[p.TxHash()] = true
	}
	prevouts := map[wire.OutPoint]*wire.TxOut{}
	for _, in := range tx.TxIn {
		if prevouts[in.PreviousOutPoint] = c.outs[in.PreviousOutPoint]; prevouts[in.PreviousOutPoint] == nil {
			return errors.New("missing or spent")
		}
	}
	if err := c.minable(tx, waits); err != nil {
		return err
	}
	fetcher := txscript.NewMultiPrevOutFetcher(prevouts)
	hashes := txscript.NewTxSigHashes(tx, fetcher)
	for i, in := range tx.TxIn {
		out := prevouts[in.PreviousOutPoint]
		if !c.contracts[string(out.PkScript)] {
			continue
		}
		vm, err := txscript.NewEngine(out.PkScript, tx, i, txscript.StandardVerifyFlags, nil, hashes, out.Value, fetcher)
		if err == nil {
			err = vm.Execute()
		}
		if err != nil {
			return fmt.Errorf("mandatory-script-verify-flag-failed: %w", err)
		}
	}
	var replaced []*wire.MsgTx
	for _, p := range c.pool {
		if slices.ContainsFunc(p.TxIn, func(a *wire.TxIn) bool {
			return slices.ContainsFunc(tx.TxIn, func(b *wire.TxIn) bool { return a.PreviousOutPoint == b.PreviousOutPoint })
		}) {
			if c.fee(p) >= c.fee(tx) {
				return errors.New("insufficient fee, rejecting replacement")
			}
			replaced = append(replaced, p)
		}
	}
	for _, p := range replaced {
		c.drop(p)
	}
	c.pool = append(c.pool, tx)
	for i, o := range tx.TxOut {
		c.outs[wire.OutPoint{Hash: tx.TxHash(), Index: uint32(i)}] = o
	}
	return nil
}

// drop takes a transaction out of the mempool, with what spends it.
func (c *simChain) drop(tx *wire.MsgTx) {
	id := tx.TxHash()
	c.pool = slices.DeleteFunc(c.pool, func(p *wire.MsgTx) bool { return p == tx })
	for _, p := range slices.Clone(c.pool) {
		if slices.ContainsFunc(p.TxIn, func(in *wire.TxIn) bool { return in.PreviousOutPoint.Hash == id }) {
			c.drop(p)
		}
	}
}

// mine makes a block of everything that can be in it, or an empty one.
func (c *simChain) mine(full bool) {
	var block []*wire.MsgTx
	in := map[[32]byte]bool{}
	if full {
		for _, tx := range c.pool {
			if c.minable(tx, in) == nil {
				block, in[tx.TxHash()] = append(block, tx), true
				for n, i := range tx.TxIn {
					c.spent[i.PreviousOutPoint] = simSpend{tx, uint32(n), c.height() + 1}
				}
			}
		}
	}
	c.blocks = append(c.blocks, block)
	c.index()
	c.pool = slices.DeleteFunc(c.pool, func(tx *wire.MsgTx) bool {
		return in[tx.TxHash()] || slices.ContainsFunc(tx.TxIn, func(i *wire.TxIn) bool { _, spent := c.spent[i.PreviousOutPoint]; return spent })
	})
}

// reorg undoes blocks and makes one more, the first with these transactions instead of
// what they conflict with.
func (c *simChain) reorg(depth int, instead ...*wire.MsgTx) {
	depth = min(depth, len(c.blocks))
	var back []*wire.MsgTx
	for _, block := range c.blocks[len(c.blocks)-depth:] {
		back = append(back, block...)
	}
	c.blocks = c.blocks[:len(c.blocks)-depth]
	c.index()
	c.pool = append(back, c.pool...)
	first := []*wire.MsgTx(nil)
	for _, tx := range instead {
		for _, p := range slices.Clone(c.pool) {
			if slices.ContainsFunc(p.TxIn, func(a *wire.TxIn) bool { return a.PreviousOutPoint == tx.TxIn[0].PreviousOutPoint }) {
				c.drop(p)
			}
		}
		for i, o := range tx.TxOut {
			c.outs[wire.OutPoint{Hash: tx.TxHash(), Index: uint32(i)}] = o
		}
		first = append(first, tx)
	}
	c.blocks = append(c.blocks, first)
	for range depth {
		c.blocks = append(c.blocks, nil)
	}
	c.index()
}

func rawOf(tx *wire.MsgTx) []byte {
	var raw bytes.Buffer
	_ = tx.Serialize(&raw)
	return raw.Bytes()
}
