package lndfake

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
)

const genesisHeight = 450

// chain is the shared bitcoin chain: blocks, the coins they made, and one mempool that everybody sees.
type chain struct {
	w            *World
	params       *chaincfg.Params
	blocks       []*block
	coins        map[opKey]*coin
	spentBy      map[wire.OutPoint]chainhash.Hash
	mempool      []*mempoolTx
	txs          map[chainhash.Hash]*mempoolTx
	owned        map[*Node]map[opKey]*coin
	owner        map[string]*Node
	internal     map[wire.OutPoint]*channel
	contracts    map[wire.OutPoint]*contract
	owed         map[wire.OutPoint]*output
	minersMsat   int64
	feeRatePerKW int64
	refuse       error
}

type block struct {
	height uint32
	header wire.BlockHeader
	hash   chainhash.Hash
	txs    []*mempoolTx
}

// coin is an output that somebody may still spend, confirmed when its transaction is.
type coin struct {
	op  wire.OutPoint
	out *wire.TxOut
	tx  *mempoolTx
}

type mempoolTx struct {
	tx      *wire.MsgTx
	txid    chainhash.Hash
	prev    map[opKey]*coin
	feeSat  int64
	weight  int64
	height  uint32 // 0 while unconfirmed
	arrived time.Time
	label   string
}

var (
	errMissingInputs = errors.New("-25: TX rejected: bad-txns-inputs-missingorspent")
	errDoubleSpend   = errors.New("-26: txn-mempool-conflict: output already spent in the mempool")
	errKnownTx       = errors.New("-27: transaction already in block chain")
)

func newChain(w *World) *chain {
	c := &chain{
		w: w, params: &chaincfg.RegressionNetParams,
		coins: map[opKey]*coin{}, spentBy: map[wire.OutPoint]chainhash.Hash{},
		txs: map[chainhash.Hash]*mempoolTx{}, owned: map[*Node]map[opKey]*coin{},
		owner: map[string]*Node{}, internal: map[wire.OutPoint]*channel{},
		contracts:    map[wire.OutPoint]*contract{},
		owed:         map[wire.OutPoint]*output{},
		feeRatePerKW: 2500,
	}
	c.blocks = []*block{{height: genesisHeight, header: *c.header(chainhash.Hash{}, 0), hash: chainhash.Hash{}}}
	c.blocks[0].hash = c.blocks[0].header.BlockHash()
	return c
}

func (c *chain) tip() *block    { return c.blocks[len(c.blocks)-1] }
func (c *chain) height() uint32 { return c.tip().height }

func (c *chain) header(prev chainhash.Hash, nonce uint32) *wire.BlockHeader {
	return &wire.BlockHeader{Version: 4, PrevBlock: prev, Timestamp: time.Now().Truncate(time.Second), Nonce: nonce}
}

func (c *chain) mine() { c.mineOnly(func(*mempoolTx) bool { return true }) }

// mineOnly adds a block of what is wanted, in the mempool's order. What spends from a transaction that no block has
// stays with it.
func (c *chain) mineOnly(wanted func(*mempoolTx) bool) {
	tip := c.tip()
	b := &block{height: tip.height + 1, header: *c.header(tip.hash, c.w.rng.Uint32())}
	b.hash = b.header.BlockHash()
	var left []*mempoolTx
	for _, e := range c.mempool {
		if !wanted(e) || e.orphaned() {
			left = append(left, e)
			continue
		}
		e.height = b.height
		b.txs = append(b.txs, e)
	}
	c.mempool = left
	c.blocks = append(c.blocks, b)
	c.w.onBlock()
}

// mineEmpty is a block that leaves the mempool as it is.
func (c *chain) mineEmpty() { c.mineOnly(func(*mempoolTx) bool { return false }) }

// orphaned says that no block has all that the transaction spends from.
func (e *mempoolTx) orphaned() bool {
	for _, k := range e.prev {
		if k.tx.height == 0 {
			return true
		}
	}
	return false
}

func (c *chain) reorg(depth int, confirm bool) {
	if depth >= len(c.blocks) {
		depth = len(c.blocks) - 1
	}
	from := len(c.blocks) - depth
	var back []*mempoolTx
	for _, b := range c.blocks[from:] {
		for _, e := range b.txs {
			e.height = 0
			back = append(back, e)
		}
	}
	c.blocks = c.blocks[:from]
	pending := append(back, c.mempool...)
	c.mempool = slices.Clone(pending)
	c.w.onReorg(c.height())
	for range depth + 1 {
		c.mineOnly(func(e *mempoolTx) bool { return confirm || !slices.Contains(pending, e) })
		c.w.drain()
	}
}

func (c *chain) confirmations(txid chainhash.Hash) uint32 {
	e := c.txs[txid]
	if e == nil || e.height == 0 {
		return 0
	}
	return c.height() - e.height + 1
}

// issue makes a confirmed coin out of nothing, which only the world's funding of a node does.
func (c *chain) issue(pkScript []byte, sat int64) wire.OutPoint {
	tx := wire.NewMsgTx(2)
	r := c.w.random32()
	tx.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Hash: r, Index: 0xffffffff}, Witness: wire.TxWitness{{1}}})
	tx.AddTxOut(wire.NewTxOut(sat, pkScript))
	e := c.entry(tx)
	e.height = c.height()
	c.tip().txs = append(c.tip().txs, e)
	c.txs[e.txid] = e
	c.addCoins(e)
	c.w.supply += sat * 1000
	return wire.OutPoint{Hash: e.txid}
}

func (c *chain) entry(tx *wire.MsgTx) *mempoolTx {
	return &mempoolTx{
		tx: tx, txid: tx.TxHash(), prev: map[opKey]*coin{}, arrived: time.Now(),
		weight: blockchain.GetTransactionWeight(btcTx(tx)),
	}
}

func (c *chain) addCoins(e *mempoolTx) {
	for i, out := range e.tx.TxOut {
		op := wire.OutPoint{Hash: e.txid, Index: uint32(i)}
		k := &coin{op: op, out: out, tx: e}
		c.coins[op] = k
		if n := c.owner[string(out.PkScript)]; n != nil {
			c.owned[n][op] = k
		}
	}
}

// knows: the wallet has the output, or what spends it is not in a block yet, as lnd's wallet counts for leases.
func (c *chain) knows(n *Node, op wire.OutPoint) bool {
	if c.owned[n][op] != nil {
		return true
	}
	e := c.txs[c.spentBy[op]]
	return e != nil && e.height == 0 && e.prev[op] != nil && c.owner[string(e.prev[op].out.PkScript)] == n
}

// publish checks a transaction as a node's mempool does and admits it: inputs known and unspent, signatures and
// scripts valid, time locks reached, fee above the relay minimum.
func (c *chain) publish(tx *wire.MsgTx, label string) error {
	e := c.entry(tx.Copy())
	if old := c.txs[e.txid]; old != nil {
		if old.height > 0 {
			return errKnownTx
		}
		return nil // already in the mempool: lnd takes this for success
	}
	if c.refuse != nil {
		return c.refuse
	}
	if len(tx.TxIn) == 0 || len(tx.TxOut) == 0 {
		return errors.New("transaction has no inputs or no outputs")
	}
	if replaced, err := c.replaced(e); err != nil {
		return err
	} else if len(replaced) > 0 {
		for _, old := range replaced {
			c.giveWay(old)
		}
		if err := c.accept(e, label); err != nil {
			for _, old := range replaced {
				if again := c.publish(old.tx, old.label); again != nil {
					return errors.Join(err, again)
				}
			}
			return err
		}
		return nil
	}
	return c.accept(e, label)
}

// replaced are the transactions of the mempool that one takes the place of (BIP
// 125): each signals that it may be, and it pays more than all of them and their
// descendants, and for its own relay besides.
func (c *chain) replaced(e *mempoolTx) (out []*mempoolTx, err error) {
	var in, spent int64
	for _, ti := range e.tx.TxIn {
		by, taken := c.spentBy[ti.PreviousOutPoint]
		if !taken {
			if k := c.coins[ti.PreviousOutPoint]; k != nil {
				in += k.out.Value
			}
			continue
		}
		old := c.txs[by]
		if old == nil || old.height > 0 || !slices.ContainsFunc(old.tx.TxIn, func(ti *wire.TxIn) bool { return ti.Sequence < wire.MaxTxInSequenceNum-1 }) {
			return nil, errDoubleSpend
		}
		in += old.prev[ti.PreviousOutPoint].out.Value
		if !slices.Contains(out, old) {
			out = append(out, old)
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	fee := in
	for _, o := range e.tx.TxOut {
		fee -= o.Value
	}
	for _, old := range out {
		for _, x := range c.withDescendants(old) {
			spent += x.feeSat
		}
	}
	if vsize := (e.weight + 3) / 4; fee < spent+vsize {
		return nil, errors.New("-26: insufficient fee: rejecting replacement")
	}
	return out, nil
}

// accept takes a transaction into the mempool.
func (c *chain) accept(e *mempoolTx, label string) error {
	tx := e.tx
	var in, out int64
	fetch := txscript.NewMultiPrevOutFetcher(nil)
	for _, ti := range tx.TxIn {
		if _, spent := c.spentBy[ti.PreviousOutPoint]; spent {
			return errDoubleSpend
		}
		k := c.coins[ti.PreviousOutPoint]
		if k == nil {
			return errMissingInputs
		}
		e.prev[ti.PreviousOutPoint] = k
		fetch.AddPrevOut(ti.PreviousOutPoint, k.out)
		in += k.out.Value
	}
	for _, o := range tx.TxOut {
		if o.Value < 0 {
			return errors.New("negative output")
		}
		if len(o.PkScript) > 0 && o.PkScript[0] != txscript.OP_RETURN && o.Value < 330 && o.Value > 0 {
			return errors.New("-26: dust")
		}
		out += o.Value
	}
	if e.feeSat = in - out; e.feeSat < 0 {
		return errors.New("-26: bad-txns-in-belowout")
	}
	if vsize := (e.weight + 3) / 4; e.feeSat < vsize {
		return errors.New("-26: min relay fee not met")
	}
	if err := c.checkLocks(tx); err != nil {
		return err
	}
	if err := c.checkScripts(e, fetch); err != nil {
		return err
	}
	for op := range e.prev {
		c.spentBy[op] = e.txid
		delete(c.coins, op)
		if n := c.owner[string(e.prev[op].out.PkScript)]; n != nil {
			delete(c.owned[n], op)
		}
	}
	e.label = label
	c.txs[e.txid] = e
	c.mempool = append(c.mempool, e)
	c.addCoins(e)
	c.minersMsat += e.feeSat * 1000
	for _, n := range c.w.order {
		n.wallet.layGhosts()
	}
	c.w.onTx(e)
	return nil
}

func (c *chain) checkLocks(tx *wire.MsgTx) error {
	next := c.height() + 1
	final := true
	for _, ti := range tx.TxIn {
		if ti.Sequence != wire.MaxTxInSequenceNum {
			final = false
		}
		if tx.Version < 2 || ti.Sequence&wire.SequenceLockTimeDisabled != 0 ||
			ti.Sequence&wire.SequenceLockTimeIsSeconds != 0 {
			continue
		}
		need := ti.Sequence & wire.SequenceLockTimeMask
		if need == 0 {
			continue
		}
		if c.confirmations(ti.PreviousOutPoint.Hash) < need {
			return errors.New("-26: non-BIP68-final")
		}
	}
	if !final && tx.LockTime < txscript.LockTimeThreshold && tx.LockTime >= next {
		return errors.New("-26: non-final")
	}
	return nil
}

// checkScripts runs the script engine on every input but those of channels, whose signatures the world keeps.
func (c *chain) checkScripts(e *mempoolTx, fetch txscript.PrevOutputFetcher) error {
	hashes := txscript.NewTxSigHashes(e.tx, fetch)
	for i, ti := range e.tx.TxIn {
		if c.internal[ti.PreviousOutPoint] != nil {
			if len(ti.Witness) == 0 {
				return fmt.Errorf("input %d of a channel is not signed", i)
			}
			continue
		}
		prev := fetch.FetchPrevOutput(ti.PreviousOutPoint)
		vm, err := txscript.NewEngine(prev.PkScript, e.tx, i, txscript.StandardVerifyFlags, nil, hashes, prev.Value, fetch)
		if err == nil {
			err = vm.Execute()
		}
		if err != nil {
			return fmt.Errorf("-26: mandatory-script-verify-flag-failed: input %d: %w", i, err)
		}
	}
	return nil
}

// evict takes an unconfirmed transaction and its descendants out of the mempool and gives the coins back.
func (c *chain) evict(txid chainhash.Hash) {
	e := c.txs[txid]
	if e == nil || e.height > 0 {
		return
	}
	for i := range e.tx.TxOut {
		op := wire.OutPoint{Hash: txid, Index: uint32(i)}
		if by, ok := c.spentBy[op]; ok {
			c.evict(by)
		}
		if k := c.coins[op]; k != nil {
			delete(c.coins, op)
			if n := c.owner[string(k.out.PkScript)]; n != nil {
				delete(c.owned[n], op)
			}
		}
	}
	for op, k := range e.prev {
		delete(c.spentBy, op)
		c.coins[op] = k
		if n := c.owner[string(k.out.PkScript)]; n != nil {
			c.owned[n][op] = k
		}
	}
	delete(c.txs, txid)
	for i, m := range c.mempool {
		if m == e {
			c.mempool = append(c.mempool[:i:i], c.mempool[i+1:]...)
			break
		}
	}
	c.minersMsat -= e.feeSat * 1000
}

// strangersMsat is what lies on outputs that neither a node nor a channel owns.
func (c *chain) strangersMsat() int64 {
	var sum int64
	for op, k := range c.coins {
		if c.owner[string(k.out.PkScript)] == nil && !c.funds(op) {
			sum += k.out.Value * 1000
		}
	}
	return sum
}

// funds says whether the output belongs to a channel that counts its own money.
func (c *chain) funds(op wire.OutPoint) bool {
	ch := c.internal[op]
	return c.contracts[op] != nil || c.owed[op] != nil || ch != nil && ch.op == op
}

func (c *chain) rawBlock(b *block) []byte {
	var buf bytes.Buffer
	m := wire.NewMsgBlock(&b.header)
	for _, e := range b.txs {
		if err := m.AddTransaction(e.tx); err != nil {
			return nil
		}
	}
	if err := m.Serialize(&buf); err != nil {
		return nil
	}
	return buf.Bytes()
}

func (c *chain) sortedCoins(n *Node) []*coin {
	out := make([]*coin, 0, len(c.owned[n]))
	for _, k := range c.owned[n] {
		out = append(out, k)
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].out.Value != out[j].out.Value {
			return out[i].out.Value > out[j].out.Value
		}
		return out[i].op.String() < out[j].op.String()
	})
	return out
}

type opKey = wire.OutPoint

func btcTx(tx *wire.MsgTx) *btcutil.Tx { return btcutil.NewTx(tx) }
