package engine

import (
	"bytes"
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
	var faults storetest.Faults
	cfg := storetest.SQLite(t)
	cfg.Hooks, cfg.Log = faults.Hooks(), zap.NewNop()
	db := storetest.Open(t, cfg)
	for _, migrate := range []func(context.Context, *store.DB) error{fsm.Migrate, ledger.Migrate, swapsstore.Migrate} {
		require.NoError(t, migrate(context.Background(), db))
	}
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
		s := newSim(t, db, &faults, seed)
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

// client lets a client do what it would do now.
func (s *sim) client(sw *simSwap) {
	ctx, cancel := context.WithTimeout(s.ctx, 40*time.Millisecond)
	defer cancel()
	switch {
	case !sw.begun && sw.open:
		s.beginOpen(sw)
	case !sw.begun && sw.in:
		s.beginIn(sw)
	case !sw.begun:
		s.beginOut(sw)
	case sw.in:
		s.actIn(ctx, sw)
	default:
		s.actOut(ctx, sw)
	}
}

// patient is how long a client waits for an answer.
const patient = 400 * time.Millisecond

func (s *sim) beginOut(sw *simSwap) {
	ctx, cancel := context.WithTimeout(s.ctx, patient)
	defer cancel()
	hash := sw.preimage.Hash()
	expiry := s.node.chain.height() + 100
	offer, err := s.e.OfferOut(ctx, OutWish{Hash: hash, Receiver: sw.key.PubKey(), AmountSat: sw.amount, ExpiryHeight: expiry, PublishBy: time.Now(), Client: "sim"})
	sw.begun = true // a hash is good for one swap, whatever came of it
	s.note("out %d of %s: %v", sw.preimage[0], sw.amount, err)
	if err != nil {
		sw.pays, sw.prepays = false, false
		return
	}
	terms := htlc.Terms{Hash: hash, ExpiryHeight: expiry, Sender: offer.Sender, Receiver: sw.key.PubKey(), SenderInternal: offer.Sender, ReceiverInternal: sw.key.PubKey()}
	sw.contract, _ = htlc.New(terms)
	s.node.change(func() { s.node.chain.contracts[string(sw.contract.PkScript)] = true })
}

func (s *sim) actOut(ctx context.Context, sw *simSwap) {
	hash := sw.preimage.Hash()
	inst, err := s.e.outs.Get(ctx, hash.String())
	if err != nil || sw.contract == nil {
		return
	}
	plan := out.PlanOf(inst.State)
	switch {
	case sw.pays:
		sw.pays = false
		s.node.arrives(hash)
		return
	case sw.prepays:
		sw.prepays = false
		s.node.arrives(plan.PrepayHash())
		return
	case sw.cancels:
		invoices, _ := out.InvoicesOf(inst.State)
		_ = s.e.CancelOut(ctx, hash, invoices.PaymentAddr[:], "enough")
		return
	}
	op, confirmed := s.output(sw)
	if !confirmed {
		return
	}
	invoices, _ := out.InvoicesOf(inst.State)
	if sw.hasty && !sw.onChain {
		s.cosweeps(ctx, sw, op, invoices)
	}
	if sw.noShow {
		return
	}
	if !sw.onChain {
		_ = s.e.PushPreimage(ctx, sw.preimage)
		sw.onChain = s.one(2)
		return
	}
	if !sw.byKey || !s.cosweeps(ctx, sw, op, invoices) {
		s.takes(sw, op)
	}
}

// output is the contract's, if it is in the chain.
func (s *sim) output(sw *simSwap) (op wire.OutPoint, confirmed bool) {
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	for _, block := range s.node.chain.blocks {
		for _, tx := range block {
			for i, o := range tx.TxOut {
				if sw.contract != nil && string(o.PkScript) == string(sw.contract.PkScript) {
					return wire.OutPoint{Hash: tx.TxHash(), Index: uint32(i)}, true
				}
			}
		}
	}
	return op, false
}

// takes has the client take a swap out's output by the preimage.
func (s *sim) takes(sw *simSwap, op wire.OutPoint) {
	claim, err := sw.contract.Claim(sw.key, sw.preimage, ln.Outpoint{TxID: ln.TxID(op.Hash), Index: op.Index}, sw.amount, []byte{txscript.OP_TRUE}, ln.FeeRateSatPerKW(300+s.rng.IntN(2_000)))
	if err == nil {
		err = s.send(claim.Raw)
	}
	s.note("client %d takes its output: %v", sw.preimage[0], err)
}

func (s *sim) send(raw []byte) (err error) {
	tx := &wire.MsgTx{}
	if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
		return err
	}
	s.node.change(func() { err = s.node.chain.publish(tx) })
	return err
}

func (s *sim) beginIn(sw *simSwap) {
	ctx, cancel := context.WithTimeout(s.ctx, patient)
	defer cancel()
	hash := sw.preimage.Hash()
	fee, err := s.e.QuoteIn(ctx, sw.amount)
	if err != nil {
		return
	}
	msat, _ := (sw.amount - fee).Msat()
	internal, _ := htlc.KeyFromShared(sw.internal)
	s.node.change(func() {
		for text, h := range map[string]ln.Hash{"swap" + hash.Short(): hash, "probe" + hash.Short(): ProbeHash(hash)} {
			s.node.foreign[text] = ln.Bolt11{Hash: h, AmountMsat: msat, CreatedAt: time.Now(), Expiry: time.Hour, FinalCltvDelta: 40, Payee: ln.PubKey{2, 5}}
		}
		s.node.wallets[ProbeHash(hash)] = func(uint32) ln.PaymentState { return ln.PaymentFailed }
		s.takesPayment(sw, simPay{sw.preimage, msat, 7_000})
	})
	offer, err := s.e.OfferIn(ctx, InWish{
		Hash: hash, Sender: sw.key.PubKey(), SenderInternal: internal.PubKey(), AmountSat: sw.amount, SwapInvoice: "swap" + hash.Short(), Probe: "probe" + hash.Short(), Client: "sim",
	})
	sw.begun = true
	s.note("in %d of %s: %v", sw.preimage[0], sw.amount, err)
	if err != nil {
		return
	}
	sw.contract, _ = htlc.New(htlc.Terms{
		Hash: hash, ExpiryHeight: offer.ExpiryHeight, Sender: sw.key.PubKey(), Receiver: offer.Receiver, SenderInternal: internal.PubKey(), ReceiverInternal: offer.ReceiverInternal,
	})
	s.node.change(func() { s.node.chain.contracts[string(sw.contract.PkScript)] = true })
}

// takesPayment says what a client's wallet does with its payment.
func (s *sim) takesPayment(sw *simSwap, price simPay) {
	s.node.wallets[sw.preimage.Hash()] = func(uint32) ln.PaymentState {
		if sw.takes {
			return ln.PaymentSucceeded
		}
		return ln.PaymentFailed
	}
	s.node.prices[sw.preimage.Hash()] = price
}

func (s *sim) actIn(ctx context.Context, sw *simSwap) {
	if sw.contract == nil {
		return
	}
	if sw.deposit == nil {
		value := int64(sw.amount)
		if sw.wrongAmount {
			value--
		}
		s.node.change(func() {
			sw.deposit = s.node.clientTx(wire.NewTxOut(value, sw.contract.PkScript))
			s.note("deposit of %d: %v", sw.preimage[0], s.node.chain.publish(sw.deposit))
		})
		return
	}
	s.node.mu.Lock()
	paid := s.node.paid[sw.preimage.Hash()] > 0
	s.node.mu.Unlock()
	if paid && sw.givesKey && sw.open {
		_ = s.e.GiveKey(ctx, sw.simWallet(), sw.preimage.Hash(), sw.internal)
		return
	}
	if paid && sw.givesKey {
		_ = s.e.PushKey(ctx, sw.preimage.Hash(), sw.internal)
		return
	}
	s.refund(sw)
}

// refund has the client take its deposit back, whether it was paid or not.
func (s *sim) refund(sw *simSwap) {
	op, confirmed := s.output(sw)
	if !confirmed || !sw.refunds || s.node.chain.height() < sw.contract.ExpiryHeight {
		return
	}
	value := ln.Sat(s.node.chain.outs[op].Value)
	raw, _, err := sw.contract.Refund(sw.key, ln.Outpoint{TxID: ln.TxID(op.Hash), Index: op.Index}, value, []byte{txscript.OP_TRUE}, ln.FeeRateSatPerKW(300+s.rng.IntN(2_000)))
	if err == nil {
		err = s.send(raw)
	}
	if err == nil {
		s.note("client %d takes its deposit back", sw.preimage[0])
	}
}

// rest brings everything to its end: nothing fails any more, and blocks come.
func (s *sim) rest() error {
	s.node.change(func() { s.node.flaky = 0 })
	s.stop()
	s.faults.Restart()
	if err := s.start(); err != nil {
		return err
	}
	deadline := time.Now().Add(90 * time.Second)
	for i := 0; ; i++ {
		over, err := s.over()
		if err != nil || over {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("it does not come to its end: " + s.present())
		}
		for _, sw := range s.swaps {
			if sw.begun {
				sw.pays, sw.prepays = false, false
				s.client(sw)
			}
		}
		s.catchesUp()
		s.mine(1+4*(i%2), true)
	}
}

// catchesUp waits until the engine has heard of the tip and does no more about it: on
// the real chain it has minutes. What waits for a client's wallet may go on.
func (s *sim) catchesUp() {
	last, still := "", 0
	for range 2_000 {
		time.Sleep(2 * time.Millisecond)
		outs, err := s.e.outs.Pending(s.ctx)
		ins, err2 := s.e.ins.Pending(s.ctx)
		now := fmt.Sprint(outs, ins, err, err2)
		s.node.mu.Lock()
		height := s.node.chain.height()
		s.node.mu.Unlock()
		if now != last || s.e.moment().Height < height {
			last, still = now, 0
			continue
		}
		if still++; still > 3 && len(outs)+len(ins) == 0 || still > 20 {
			return
		}
	}
}

func (s *sim) present() (text string) {
	outs, _ := s.e.allLive(s.ctx)
	for _, inst := range outs {
		text += fmt.Sprintf("%s %+v; ", inst.State.StateName(), inst.State)
	}
	ins, _ := s.e.liveIns(s.ctx)
	for _, inst := range ins {
		text += fmt.Sprintf("%s %+v; ", inst.State.StateName(), inst.State)
	}
	return text
}

// over holds what must be so once no swap is under way.
func (s *sim) over() (bool, error) {
	outs, err := s.e.allLive(s.ctx)
	if err != nil {
		return false, err
	}
	ins, err := s.e.liveIns(s.ctx)
	if err != nil {
		return false, err
	}
	waits := 0
	for _, inst := range outs {
		switch inst.State.(type) {
		case out.Offered, out.Invoiced:
			// These wait for minutes, not for blocks.
			waits++
			invoices, _ := out.InvoicesOf(inst.State)
			_ = s.e.CancelOut(s.ctx, out.PlanOf(inst.State).Terms.Hash, invoices.PaymentAddr[:], "the end")
		}
	}
	if len(outs)+len(ins) > 0 {
		return false, nil
	}
	for _, pending := range []func(context.Context) ([]string, error){s.e.outs.Pending, s.e.ins.Pending} {
		list, err := pending(s.ctx)
		if err != nil || len(list) > 0 {
			return false, err
		}
	}
	return true, s.check()
}

func (s *sim) check() error {
	var invoiced, paid int64
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	if s.node.bad != nil {
		return s.node.bad
	}
	for _, inv := range s.node.invoices {
		switch inv.State {
		case ln.InvoiceSettled:
			invoiced += int64(inv.AmountMsat)
		case ln.InvoiceAccepted:
			return errors.New("a payment is still held")
		}
	}
	for hash, times := range s.node.paid {
		if times > 1 {
			return errors.New("a client was paid twice")
		}
		paid += int64(s.node.payments[hash].ValueMsat + s.node.payments[hash].FeeMsat)
	}
	if len(s.node.leases) > 0 {
		return fmt.Errorf("coins are still leased: %v", s.node.leases)
	}
	for _, sw := range s.swaps {
		err := s.checkOut(sw)
		if sw.in {
			err = s.checkIn(sw)
		}
		if err != nil {
			return fmt.Errorf("swap %d (%s): %w", sw.preimage[0], sw.end, err)
		}
	}
	for account, want := range map[ledger.Account]int64{ownInvoices: invoiced, ownPayments: -paid, outside: -s.node.outsideSat() * 1000} {
		if have, err := s.balance(account); err != nil || have != want {
			return fmt.Errorf("the books have %d msat in %s, the node's lists say %d (%w)", have, account, want, err)
		}
	}
	for _, sw := range s.swaps {
		if have, err := s.balance(clearing(sw.preimage.Hash())); err != nil || have != 0 {
			return fmt.Errorf("%d msat are left in a swap's clearing account (%w)", have, err)
		}
	}
	return nil
}

// batches counts the transactions in the chain that take several contracts' outputs.
func (s *sim) batches() (count int) {
	for _, block := range s.node.chain.blocks {
		for _, tx := range block {
			contracts := 0
			for _, in := range tx.TxIn {
				if o := s.node.chain.outs[in.PreviousOutPoint]; o != nil && s.node.chain.contracts[string(o.PkScript)] {
					contracts++
				}
			}
			if contracts > 1 {
				count++
			}
		}
	}
	return count
}

func (s *sim) balance(account ledger.Account) (msat int64, err error) {
	err = s.db.Read(s.ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		msat, err = ledger.Balance(ctx, tx, account)
		return err
	})
	return msat, err
}

// spender says who has a contract's output in the best chain.
func (s *sim) spender(sw *simSwap, op ln.Outpoint) htlc.Spend {
	spend := s.node.chain.spent[wire.OutPoint{Hash: chainhash.Hash(op.TxID), Index: op.Index}]
	if spend.tx == nil {
		return ""
	}
	how, _, err := sw.contract.Classify(spend.tx.TxIn[spend.input].Witness)
	if err != nil {
		return "?"
	}
	return how
}

func (s *sim) checkOut(sw *simSwap) error {
	if sw.in {
		return nil
	}
	inst, err := s.e.outs.Get(s.ctx, sw.preimage.Hash().String())
	if errors.Is(err, store.ErrNotFound) {
		sw.end = "out never begun"
		return nil
	}
	if err != nil {
		return err
	}
	sw.end = "out " + inst.State.StateName()
	plan := out.PlanOf(inst.State)
	taken := s.state(plan.Terms.Hash) == ln.InvoiceSettled
	prepaid := s.state(plan.PrepayHash()) == ln.InvoiceSettled
	tx, _ := out.TxOf(inst.State)
	exists := !tx.Outpoint.IsZero() && s.node.chain.where[tx.Outpoint.TxID] > 0
	how := htlc.Spend("")
	if exists {
		how = s.spender(sw, tx.Outpoint)
		sw.end += " " + string(how)
	}
	switch {
	case taken && (!exists || how == htlc.SpendTimeout):
		return errors.New("the client was robbed: it paid and has no output")
	case !taken && exists && how != htlc.SpendTimeout:
		return errors.New("the gateway was robbed: the output is the client's, the payment went back")
	case exists && !prepaid:
		return errors.New("an output without a prepay")
	case prepaid && !exists && !out.PrepayKept(inst.State):
		return errors.New("the prepay was taken for nothing, and nobody knows")
	}
	return nil
}

func (s *sim) state(hash ln.Hash) ln.InvoiceState {
	if inv := s.node.invoices[hash]; inv != nil {
		return inv.State
	}
	return ""
}

func (s *sim) checkIn(sw *simSwap) error {
	inst, err := s.e.ins.Get(s.ctx, sw.preimage.Hash().String())
	if errors.Is(err, store.ErrNotFound) {
		sw.end = "in never begun"
		return nil
	}
	if err != nil {
		return err
	}
	sw.end = "in " + inst.State.StateName()
	paid := s.node.paid[sw.preimage.Hash()] == 1
	if sw.open {
		sw.end = "open " + inst.State.StateName()
		if err := s.checkOpen(sw, inst.State, paid); err != nil {
			return err
		}
	}
	ours := false
	for op, spend := range s.node.chain.spent {
		o := s.node.chain.outs[op]
		if sw.contract == nil || string(o.PkScript) != string(sw.contract.PkScript) {
			continue
		}
		how, _, err := sw.contract.Classify(spend.tx.TxIn[spend.input].Witness)
		if err != nil {
			return err
		}
		ours = ours || how != htlc.SpendTimeout
	}
	switch {
	case s.node.payments[sw.preimage.Hash()].State == ln.PaymentInFlight:
		return errors.New("over, with a payment in flight")
	case paid && !ours && !sw.doubleSpent:
		return fmt.Errorf("the gateway was robbed: it paid and has no deposit: %s", in.ReasonOf(inst.State).Text)
	case paid && !ours && inst.State.StateName() != "lost":
		return errors.New("a loss that nobody is told of")
	case ours && !paid:
		return errors.New("the client was robbed: its deposit was claimed unpaid")
	case paid && sw.wrongAmount:
		return errors.New("another amount was paid for")
	}
	if s, ok := inst.State.(in.Lost); ok && !sw.doubleSpent {
		return fmt.Errorf("lost: %s", s.Reason.Text)
	}
	return nil
}
