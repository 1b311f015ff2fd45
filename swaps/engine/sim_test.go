package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/in"
	"github.com/sluice-lsp/sluice/swaps/out"
	swapsstore "github.com/sluice-lsp/sluice/swaps/store"
)

// TestSwapsConserve plays lives of swaps in both directions at once, on the whole
// engine, beside a node and a chain that remember, with real transactions: crashes at
// any commit, calls that are not answered or answered to nobody, streams that break
// off, reorgs, replaced and double-spent deposits, clients that cheat as far as they
// can. At the end each sat is where it belongs, and the books say the same. SLUICE_SEED
// runs one alone, SLUICE_RUNS says how many.
func TestSwapsConserve(t *testing.T) {
	db, faults := simDB(t)
	runs, first := 25, rand.Uint64()
	if n, err := strconv.Atoi(os.Getenv("SLUICE_RUNS")); err == nil {
		runs = n
	}
	if seed, err := strconv.ParseUint(os.Getenv("SLUICE_SEED"), 10, 64); err == nil {
		runs, first = 1, seed
	}
	t.Logf("seeds %d to %d", first, first+uint64(runs)-1)
	ends := map[string]int{}
	for i := range runs {
		seed := first + uint64(i)
		s := newSim(t, db, faults, seed)
		if err := s.run(); err != nil {
			t.Fatalf("seed %d (SLUICE_SEED=%[1]d runs it alone; its order of events is not the same each time): %v", seed, err)
		}
		for _, sw := range s.swaps {
			ends[sw.end]++
		}
		ends["batches"] += s.batches()
	}
	t.Log(ends)
}

// simDB is a database for runs, with what can go wrong with it.
func simDB(t *testing.T) (*store.DB, *storetest.Faults) {
	t.Helper()
	faults := new(storetest.Faults)
	cfg := storetest.SQLite(t)
	cfg.Hooks, cfg.Log = faults.Hooks(), zap.NewNop()
	db := storetest.Open(t, cfg)
	for _, migrate := range []func(context.Context, *store.DB) error{fsm.Migrate, ledger.Migrate, payhash.Migrate, swapsstore.Migrate} {
		require.NoError(t, migrate(context.Background(), db))
	}
	return db, faults
}

// sim is one run.
type sim struct {
	db     *store.DB
	faults *storetest.Faults
	rng    *rand.Rand
	node   *simNode
	ctx    context.Context

	e    *Engine
	stop func()
	up   bool

	channels *simChannels
	swaps    []*simSwap
	log      []string
}

// simSwap is a swap as its client has it.
type simSwap struct {
	in bool
	// open: its wallet has no channel.
	open     bool
	opened   OpenQuote
	preimage ln.Preimage
	amount   ln.Sat
	begun    bool
	key      htlc.Key
	internal [32]byte
	contract *htlc.Contract
	// What the client does in this life.
	pays, prepays, noShow, onChain, cancels bool
	// byKey: it sweeps with the gateway's signature, hasty: and asks for it before it paid.
	byKey, hasty                          bool
	takes, givesKey, refunds, wrongAmount bool
	deposit                               *wire.MsgTx
	doubleSpent                           bool
	end                                   string
}

func newSim(t *testing.T, db *store.DB, faults *storetest.Faults, seed uint64) *sim {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	faults.Restart()
	require.NoError(t, storetest.Empty(ctx, db))
	node := newSimNode(seed)
	return &sim{
		db: db, faults: faults, rng: rand.New(rand.NewPCG(seed, 1)), node: node, ctx: ctx,
		channels: &simChannels{node: node, opens: map[string]*simOpening{}, told: map[string]int{}},
	}
}

func (s *sim) one(n int) bool { return s.rng.IntN(n) == 0 }

func (s *sim) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%d: ", s.node.chain.height())+fmt.Sprintf(format, args...))
}

// start starts the engine, also if the start crashes.
func (s *sim) start() error {
	for {
		c := Defaults()
		c.Network, c.Self = "regtest", ln.PubKey{2, 9}
		c.MinSat, c.In.MinSat, c.In.ExpiryDelta, c.In.PayMarginBlocks, c.In.KeyFor = 100_000, 100_000, 200, 45, 5*time.Millisecond
		c.In.WaitBlocks = uint32(s.rng.IntN(9))
		c.In.Batch.MaxMembers, c.In.Batch.JoinBlocks = 12, 36
		e, err := New(Options{
			Node: s.node.ports(), Channels: s.channels, DB: s.db, Params: &chaincfg.RegressionNetParams, Config: c, DecodeBolt11: s.node.invoice,
		})
		if err != nil {
			return err
		}
		e.unknownFor = time.Millisecond
		ctx, cancel := context.WithCancel(s.ctx)
		ready, done := make(chan struct{}), make(chan error, 1)
		go func() { done <- e.Run(ctx, func() { close(ready) }) }()
		select {
		case <-ready:
			s.e, s.up, s.stop = e, true, func() { cancel(); <-done; s.up = false }
			return nil
		case err := <-done:
			cancel()
			if err != nil && !s.faults.Crashed() && !errors.Is(err, ln.ErrUnavailable) {
				return fmt.Errorf("start: %w", err)
			}
			s.faults.Restart()
		}
	}
}

// moves lets the engine work for a moment, and starts it again if it crashed.
func (s *sim) moves() error {
	time.Sleep(time.Duration(1+s.rng.IntN(4)) * time.Millisecond)
	if !s.faults.Crashed() {
		return nil
	}
	s.note("crashed")
	s.stop()
	s.faults.Restart()
	return s.start()
}

func (s *sim) run() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%v", err, s.log)
		}
	}()
	s.node.flaky = s.rng.IntN(6)
	if err := s.start(); err != nil {
		return err
	}
	defer func() { s.stop() }()
	count, crowd := 1+s.rng.IntN(3), s.one(6)
	if crowd {
		count = 4 + s.rng.IntN(7)
	}
	for i := range count {
		s.swaps = append(s.swaps, s.plan(byte(i+1)))
		if crowd {
			// Begun at once, so that they share transactions.
			s.client(s.swaps[i])
			if err := s.moves(); err != nil {
				return err
			}
		}
	}
	for range 30 + 15*count {
		if s.one(9) {
			s.faults.CrashAt(1+s.rng.Int64N(12), storetest.Point(s.rng.IntN(2)))
		}
		if err := s.act(); err != nil {
			return err
		}
		if err := s.moves(); err != nil {
			return err
		}
	}
	return s.rest()
}

// plan draws what a swap's client is like.
func (s *sim) plan(n byte) *simSwap {
	sw := &simSwap{
		in: s.one(2), preimage: ln.Preimage{n, 1}, amount: ln.Sat(100_000 + 1_000*s.rng.IntN(900)),
		pays: !s.one(6), prepays: !s.one(6), noShow: s.one(3), onChain: s.one(3), cancels: s.one(8),
		takes: !s.one(5), givesKey: !s.one(3), refunds: !s.one(4), wrongAmount: s.one(8), byKey: s.one(2), hasty: s.one(4),
	}
	sw.open = sw.in && s.one(3)
	sw.key, _ = htlc.KeyFromShared([32]byte{31: n})
	sw.internal = [32]byte{31: n + 100}
	return sw
}

// act lets one random thing happen.
func (s *sim) act() error {
	sw := s.swaps[s.rng.IntN(len(s.swaps))]
	for _, other := range s.swaps {
		// What a short reorg could take is in danger for a few blocks only.
		if s.exposed(other) {
			sw = other
		}
	}
	if s.exposed(sw) && !s.one(3) {
		s.reorg(1, sw)
		return nil
	}
	switch s.rng.IntN(14) {
	case 0, 1, 2, 3:
		s.mine(1+s.rng.IntN(3), !s.one(4))
	case 4, 5:
		s.reorg(1+s.rng.IntN(3), sw)
	case 6:
		s.node.breakStreams()
	case 7:
		if s.one(3) {
			// sluiced is away for a while.
			s.stop()
			s.faults.Restart()
			s.mine(1+s.rng.IntN(25), s.one(2))
			if s.one(3) {
				s.reorg(2, sw)
			}
			err := s.start()
			s.hears()
			return err
		}
	default:
		s.client(sw)
	}
	return nil
}

// exposed: it was paid for a deposit that a short reorg can undo.
func (s *sim) exposed(sw *simSwap) bool {
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	if sw.deposit == nil || s.node.paid[sw.preimage.Hash()] == 0 {
		return false
	}
	confs := ln.Confirmations(s.node.chain.where[ln.TxID(sw.deposit.TxHash())], s.node.chain.height())
	return confs > 0 && confs < 5
}

func (s *sim) mine(count int, full bool) {
	s.node.change(func() {
		for range count {
			s.node.chain.mine(full)
			s.node.deadlines()
		}
	})
}

// reorg undoes blocks; a client's deposit may be replaced in it, or its coin go
// elsewhere.
func (s *sim) reorg(depth int, sw *simSwap) {
	s.node.change(func() {
		var instead []*wire.MsgTx
		at := uint32(0)
		if sw.deposit != nil {
			at = s.node.chain.where[ln.TxID(sw.deposit.TxHash())]
		}
		if confs := int(ln.Confirmations(at, s.node.chain.height())); confs > 0 && confs < 5 {
			depth = confs
		}
		if at > 0 && at+uint32(depth) > s.node.chain.height() && s.one(2) {
			tx := wire.NewMsgTx(2)
			tx.AddTxIn(wire.NewTxIn(&sw.deposit.TxIn[0].PreviousOutPoint, nil, nil))
			if s.one(3) {
				sw.doubleSpent = true
				tx.AddTxOut(wire.NewTxOut(900, []byte{txscript.OP_TRUE}))
				s.note("deposit double-spent")
			} else {
				tx.AddTxOut(wire.NewTxOut(sw.deposit.TxOut[0].Value, sw.contract.PkScript))
				tx.AddTxOut(wire.NewTxOut(int64(200+s.rng.IntN(200)), []byte{txscript.OP_TRUE}))
				s.note("deposit replaced")
			}
			sw.deposit = tx
			instead = append(instead, tx)
		}
		s.note("reorg of %d", depth)
		s.node.chain.reorg(depth, instead...)
		s.node.deadlines()
	})
	if s.up {
		s.hears()
	}
}

// hears waits until the engine has heard what the chain says now: blocks take minutes, and
// a reorg is told before six more of them have come.
func (s *sim) hears() {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && !s.faults.Crashed() && !s.agrees(); {
		time.Sleep(time.Millisecond)
	}
}

func (s *sim) agrees() bool {
	outs, err := s.e.allLive(s.ctx)
	if err != nil {
		return false
	}
	ins, err := s.e.liveIns(s.ctx)
	if err != nil {
		return false
	}
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	point := func(op ln.Outpoint) uint32 {
		return s.node.chain.spent[wire.OutPoint{Hash: chainhash.Hash(op.TxID), Index: op.Index}].height
	}
	for _, inst := range outs {
		if l, ok := out.LiveOf(inst.State); ok && (l.ConfirmedHeight != s.node.chain.where[l.Outpoint.TxID] || l.SpentHeight != point(l.Outpoint)) {
			return false
		}
	}
	for _, inst := range ins {
		o := in.OutputOf(inst.State)
		if !o.Outpoint.IsZero() && o.ConfirmedHeight != s.node.chain.where[o.Outpoint.TxID] {
			return false
		}
		if c, ok := inst.State.(in.Claiming); ok && c.SpentHeight != point(c.Outpoint) {
			return false
		}
	}
	return true
}
