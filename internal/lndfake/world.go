package lndfake

import (
	"container/heap"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/btcsuite/btcd/wire"
)

// Latency sets how long the parts of the network take. Zero means within the same step of the world, which is
// what a matrix of thousands of runs wants; Observed returns the figures seen on real nodes.
type Latency struct {
	// Message is one hop of one protocol message between two connected peers.
	Message time.Duration
	// Commit is the batch tick: how long an update waits in the outgoing link before it is signed. On lnd it is
	// channel-commit-interval, 50 ms. It is the window in which a resumed HTLC looks as if it had not moved.
	Commit time.Duration
	// Open is the time from the peer's acceptance to the channel's being pending (and active, if zero-conf).
	Open time.Duration
	// Graph is the time from ACTIVE to the opener's own private edge and policy being in its graph.
	Graph time.Duration
	// PeerPolicy is the time from ACTIVE to the other side having the channel_update it needs for a hop hint.
	PeerPolicy time.Duration
	// Reconnect is how long peers with a common channel need to find each other again.
	Reconnect time.Duration
}

// Observed are the latencies of stock nodes on one host.
func Observed() Latency {
	return Latency{
		Message: time.Millisecond, Commit: 50 * time.Millisecond, Open: 80 * time.Millisecond,
		Graph: time.Second, PeerPolicy: 1400 * time.Millisecond, Reconnect: 200 * time.Millisecond,
	}
}

// Config is what a World is made from.
type Config struct {
	// Seed fixes every key, address, alias and random choice of the world.
	Seed uint64
	// Latency of the network; zero is immediate.
	Latency Latency
	// ForgetsSignatures has a node that is killed between its revoke_and_ack and its commitment_signed
	// forget that it owes the latter, as lnd does, whenever it is: with lnd that is a matter of a millisecond.
	ForgetsSignatures bool
	// OnViolation is called, with the world locked, when money appears or vanishes. Err keeps the first one.
	OnViolation func(error)
}

// World is one chain and the nodes that share it. All its methods may be called from any goroutine.
type World struct {
	cfg Config

	mu       sync.Mutex
	rng      *rand.Rand
	queue    []func()
	timers   timerHeap
	seq      uint64
	timer    *time.Timer
	closed   bool
	err      error
	chain    *chain
	nodes    map[string]*Node
	byPub    map[string]*Node
	order    []*Node
	channels []*channel
	conns    map[[2]*Node]*conn
	hook     Hook
	supply   int64
	trace    func(string)
}

// New makes an empty world with a chain of 450 blocks.
func New(cfg Config) *World {
	w := &World{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x5eed)),
		nodes: map[string]*Node{}, byPub: map[string]*Node{}, conns: map[[2]*Node]*conn{},
	}
	w.chain = newChain(w)
	return w
}

// Close stops every node and every pending event.
func (w *World) Close() {
	w.mu.Lock()
	w.closed = true
	if w.timer != nil {
		w.timer.Stop()
	}
	w.timers, w.queue = nil, nil
	nodes := append([]*Node(nil), w.order...)
	w.mu.Unlock()
	for _, n := range nodes {
		n.Kill()
	}
}

// Err returns the first violation of the conservation of money, nil if there was none.
func (w *World) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// SetTrace calls f for each protocol step, under the world's lock; nil stops it.
func (w *World) SetTrace(f func(string)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = f
}

func (w *World) tracef(format string, args ...any) {
	if w.trace != nil {
		w.trace(fmt.Sprintf(format, args...))
	}
}

// do runs f with the world locked, then everything that follows from it without delay, then checks the money.
func (w *World) do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.drain()
}

func (w *World) drain() {
	for len(w.queue) > 0 {
		f := w.queue[0]
		w.queue = w.queue[1:]
		f()
	}
	w.audit()
	w.arm()
}

// after schedules f; without delay it runs at the end of the current step, in the order of scheduling.
func (w *World) after(d time.Duration, f func()) {
	if w.closed {
		return
	}
	if d <= 0 {
		w.queue = append(w.queue, f)
		return
	}
	w.seq++
	heap.Push(&w.timers, timed{due: time.Now().Add(d), seq: w.seq, f: f})
}

func (w *World) arm() {
	if w.closed || len(w.timers) == 0 {
		return
	}
	d := max(time.Until(w.timers[0].due), 0)
	if w.timer == nil {
		w.timer = time.AfterFunc(d, w.fire)
		return
	}
	w.timer.Reset(d)
}

func (w *World) fire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	now := time.Now()
	for len(w.timers) > 0 && !w.timers[0].due.After(now) {
		t, _ := heap.Pop(&w.timers).(timed)
		t.f()
		w.drain()
	}
	w.arm()
}

type timed struct {
	due time.Time
	seq uint64
	f   func()
}

type timerHeap []timed

func (h timerHeap) Len() int { return len(h) }

func (h timerHeap) Less(i, j int) bool {
	if h[i].due.Equal(h[j].due) {
		return h[i].seq < h[j].seq
	}
	return h[i].due.Before(h[j].due)
}

func (h timerHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

func (h *timerHeap) Push(x any) {
	if t, ok := x.(timed); ok {
		*h = append(*h, t)
	}
}

func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	*h = old[:len(old)-1]
	return t
}

// bytes32 draws a deterministic value from the world's seed and a label.
func (w *World) bytes32(label string) [32]byte {
	var seed [8]byte
	binary.BigEndian.PutUint64(seed[:], w.cfg.Seed)
	return sha256.Sum256(append(seed[:], label...))
}

func (w *World) random32() (b [32]byte) {
	for i := 0; i < 32; i += 8 {
		binary.BigEndian.PutUint64(b[i:], w.rng.Uint64())
	}
	return b
}

// Wealth is what one node owns, in msat. In flight are the HTLCs that it has offered and that are unresolved; in
// limbo is what lies on chain and not in the wallet yet.
type Wealth struct {
	OnChainMsat  int64
	ChannelMsat  int64
	InFlightMsat int64
	LimboMsat    int64
}

// TotalMsat is everything the node owns.
func (v Wealth) TotalMsat() int64 {
	return v.OnChainMsat + v.ChannelMsat + v.InFlightMsat + v.LimboMsat
}

// Wealth reports what the node owns now. Commitment fees and anchors count as their channel's opener's.
func (w *World) Wealth(n *Node) Wealth {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wealth(n)
}

func (w *World) wealth(n *Node) Wealth {
	var v Wealth
	for _, u := range w.chain.owned[n] {
		v.OnChainMsat += u.out.Value * 1000
	}
	for op, k := range w.chain.contracts {
		if w.chain.coins[op] != nil && k.h.c.sides[k.h.from].node == n {
			v.InFlightMsat += w.chain.coins[op].out.Value * 1000
		}
	}
	for op, o := range w.chain.owed {
		if w.chain.coins[op] != nil && o.c.sides[o.side].node == n {
			v.LimboMsat += o.sat * 1000
		}
	}
	for _, c := range w.channels {
		for i, s := range c.sides {
			if s.node != n || !c.holdsMoney() {
				continue
			}
			v.ChannelMsat += c.balance[i]
			for _, h := range c.htlcs {
				if h.from == i {
					v.InFlightMsat += h.amt
				}
			}
		}
	}
	return v
}

// audit checks that what all parties own, plus what miners earned and what was sent to strangers, equals what
// was ever issued.
func (w *World) audit() {
	if w.err != nil {
		return
	}
	var total int64
	for _, n := range w.order {
		total += w.wealth(n).TotalMsat()
	}
	total += w.chain.minersMsat + w.chain.strangersMsat()
	if total != w.supply {
		w.violate(fmt.Errorf("money is not conserved: %d msat exist, %d were issued", total, w.supply))
	}
	for _, c := range w.channels {
		if !c.holdsMoney() {
			continue
		}
		sum := c.balance[0] + c.balance[1]
		for _, h := range c.htlcs {
			sum += h.amt
		}
		if sum != c.capacity*1000 {
			w.violate(fmt.Errorf("channel %v holds %d msat of %d sat", c.op, sum, c.capacity))
		}
	}
}

func (w *World) violate(err error) {
	if w.err == nil {
		w.err = err
	}
	if w.cfg.OnViolation != nil {
		w.cfg.OnViolation(err)
	}
}

// Mine adds blocks, taking what is in the mempool into the first.
func (w *World) Mine(blocks int) {
	w.do(func() {
		for range blocks {
			w.chain.mine()
			w.drain()
		}
	})
}

// MineEmpty adds a block that leaves out what is in the mempool.
func (w *World) MineEmpty() {
	w.do(func() {
		w.chain.mineEmpty()
		w.drain()
	})
}

// Reorg removes the last blocks and mines as many plus one; the transactions taken out go back to the mempool,
// and are mined again only if confirm is set.
func (w *World) Reorg(depth int, confirm bool) {
	w.do(func() { w.chain.reorg(depth, confirm) })
}

// DropFromMempool forgets an unconfirmed transaction and all that spend it, as a mempool under pressure does.
func (w *World) DropFromMempool(txid [32]byte) {
	w.do(func() { w.chain.evict(txid) })
}

// Height is the height of the chain's tip.
func (w *World) Height() uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.chain.height()
}

// Mempool lists the unconfirmed transactions in the order of their arrival.
func (w *World) Mempool() []*wire.MsgTx {
	w.mu.Lock()
	defer w.mu.Unlock()
	var txs []*wire.MsgTx
	for _, e := range w.chain.mempool {
		txs = append(txs, e.tx.Copy())
	}
	return txs
}

// SetFeeRate sets what every node's fee estimator says.
func (w *World) SetFeeRate(satPerKW int64) {
	w.do(func() { w.chain.feeRatePerKW = satPerKW })
}

// RejectPublications makes the chain backend refuse new transactions with err; nil ends it.
func (w *World) RejectPublications(err error) {
	w.do(func() { w.chain.refuse = err })
}

// Node returns a node by name, nil if there is none.
func (w *World) Node(name string) *Node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.nodes[name]
}

var errWorldClosed = errors.New("the world is closed")
