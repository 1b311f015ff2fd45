// Package lookout searches every block for commitments that clients sent blobs
// for, and sees justice done.
//
// It promises that no block is skipped: the next one is searched only when what
// the last one brought is durable, whatever the chain's backend does meanwhile,
// through restarts and reorganisations; that a justice transaction is durable
// before it is published, and is handed out again until it, or another that makes
// it pointless, is buried; and that a client's bad blob holds up nobody.
//
// It uses lnd's code for blobs and justice transactions, and not lnd's lookout,
// which publishes before anything is stored and goes on to the next block when a
// search fails.
package lookout

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/btcsuite/btcd/wire"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/watchtower"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
)

// Config is what a lookout needs.
type Config struct {
	Chain  Chain
	Store  *tower.Store
	Depths watchtower.Depths
	Now    func() time.Time
	Log    *zap.Logger
	// CallTimeout bounds a call of the chain's; 0 is a minute.
	CallTimeout time.Duration
}

// How the lookout works.
const (
	// window is how many searched blocks are kept, so that a reorganisation's fork
	// is found: far more than any that a node accepts without its operator.
	window = 4032
	// poll is how often the chain is asked although no block was announced, and
	// transactions that lnd refused are handed out again.
	poll = 15 * time.Second
	// publishers are how many transactions are handed out at once, handedOut how
	// many wait for one.
	publishers = 8
	handedOut  = 1024
	// again bounds how long a failing backend is left alone.
	againLeast = 200 * time.Millisecond
	againMost  = 10 * time.Second
)

// View is what the lookout last knew, for metrics and operators.
type View struct {
	// Tip is the last block that was searched, Best the chain's height, and At when
	// both were the same.
	Tip  watchtower.Point
	Best int32
	At   time.Time
	// Open breaches are not final; of Due ones the transaction is handed out.
	Open int
	Due  int
	// Problem is why the next block cannot be searched; empty when it can.
	Problem string
}

// Lookout searches blocks. One runs at a time; the store's fence sees to it.
type Lookout struct {
	cfg Config
	// open are the breaches that are not final, and watched the outputs that their
	// justice transactions spend. Only Run's goroutine uses them.
	open    map[watchtower.BreachID]*watchtower.Breach
	watched map[wire.OutPoint][]watchtower.BreachID
	tip     watchtower.Point
	// unsure says that a commit failed whose outcome may be unknown: what is
	// stored must be read again before anything rests on it.
	unsure bool
	// pending are to be handed out, busy are being handed out.
	pending []watchtower.BreachID
	busy    map[watchtower.BreachID]bool
	work    chan order
	results chan outcome
	wake    chan struct{}
	view    atomic.Pointer[View]
	metrics *Metrics
}

// order is a transaction to hand out; outcome what came of it.
type order struct {
	id  watchtower.BreachID
	raw []byte
}

type outcome struct {
	id      watchtower.BreachID
	problem string
}

// New makes a lookout.
func New(cfg Config, metrics *Metrics) *Lookout {
	l := &Lookout{
		cfg: cfg, open: map[watchtower.BreachID]*watchtower.Breach{}, watched: map[wire.OutPoint][]watchtower.BreachID{},
		busy: map[watchtower.BreachID]bool{}, work: make(chan order, handedOut), results: make(chan outcome, handedOut+publishers),
		wake: make(chan struct{}, 1), metrics: metrics,
	}
	l.cfg.Chain = bounded{cfg.Chain, cmp.Or(cfg.CallTimeout, callTimeout)}
	l.view.Store(&View{})
	return l
}

// View tells how it stands.
func (l *Lookout) View() View { return *l.view.Load() }

// Begin makes the chain's present tip the first, unless there is one. It is to
// return before the first session is made: blocks before it are never searched.
func Begin(ctx context.Context, chain Chain, s *tower.Store) error {
	if _, ok, err := s.Tip(ctx); err != nil || ok {
		return err
	}
	best, err := chain.Best(ctx)
	if err != nil {
		return err
	}
	hash, err := chain.BlockHash(ctx, best)
	if err != nil {
		return err
	}
	return s.FirstTip(ctx, watchtower.Point{Height: best, Hash: hash})
}

// Run searches until ctx ends or the database refuses this process its part.
func (l *Lookout) Run(ctx context.Context) error {
	if err := l.load(ctx); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to stop while it began
		}
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	helpers := publishers + 1
	for range publishers {
		go func() { l.publish(ctx); done <- struct{}{} }()
	}
	go func() { l.listen(ctx); done <- struct{}{} }()
	defer func() {
		cancel()
		for range helpers {
			<-done
		}
	}()
	return l.loop(ctx)
}

func (l *Lookout) load(ctx context.Context) error {
	open, err := l.cfg.Store.Open(ctx)
	if err != nil {
		return err
	}
	clear(l.open)
	clear(l.watched)
	var unreadable []tower.Told
	for i := range open {
		if err := l.add(&open[i]); err != nil {
			unreadable = append(unreadable, l.unreadable(open[i], err))
		}
	}
	if err := l.cfg.Store.Tell(ctx, unreadable); err != nil {
		return err
	}
	tip, ok, err := l.cfg.Store.Tip(ctx)
	if err == nil && !ok {
		err = errors.New("the tower has no first block")
	}
	l.tip = tip
	return err
}

func (l *Lookout) add(b *watchtower.Breach) error {
	tx, err := decode(b)
	if err != nil {
		return err
	}
	l.open[b.ID] = b
	for _, in := range tx.TxIn {
		l.watched[in.PreviousOutPoint] = append(l.watched[in.PreviousOutPoint], b.ID)
	}
	return nil
}

// unreadable gives a breach up whose stored transaction is damaged: one row must
// not end the search for all others.
func (l *Lookout) unreadable(b watchtower.Breach, err error) tower.Told {
	l.cfg.Log.Error("a stored justice transaction cannot be read: the breach is not punished by this tower", zap.Int64("tenant", b.Tenant), zap.Stringer("commitment", b.CommitTx), zap.Error(err))
	b.Unreadable(err.Error(), l.cfg.Now())
	return tower.Told{Breach: b, Text: "What the tower had stored of the justice transaction cannot be read any more: it cannot be handed out."}
}

// settled forgets breaches that are final.
func (l *Lookout) settled() {
	for id, b := range l.open {
		if b.Final {
			delete(l.open, id)
		}
	}
	for op, ids := range l.watched {
		if !slices.ContainsFunc(ids, func(id watchtower.BreachID) bool { return l.open[id] != nil }) {
			delete(l.watched, op)
		}
	}
}

// loop is the only one that changes breaches: it takes in what publishers report,
// hands out what is due, and searches the next block. Nothing but ctx and a lost
// lease ends it.
func (l *Lookout) loop(ctx context.Context) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	l.pending = l.due()
	var wait time.Duration
	for ctx.Err() == nil {
		if err := l.takeIn(ctx, nil); err != nil {
			return err
		}
		l.handOut()
		progress, err := l.step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, store.ErrLeaseLost):
			return err
		case err != nil:
			wait = min(max(2*wait, againLeast), againMost)
			l.cfg.Log.Warn("the next block could not be searched; trying again", zap.Int32("tip", l.tip.Height), zap.Error(err))
			l.look(func(v *View) { v.Problem = err.Error() })
		default:
			if wait > 0 {
				// The backend is back: a mempool may have lost what it had.
				wait, l.pending = 0, l.due()
			}
			if progress {
				continue
			}
		}
		if err := l.rest(ctx, wait, ticker.C); err != nil {
			return err
		}
	}
	return nil
}

// rest waits for a block, or after a failure for a while, and goes on handing
// out meanwhile.
func (l *Lookout) rest(ctx context.Context, failed time.Duration, tick <-chan time.Time) error {
	var retry <-chan time.Time
	wake := (<-chan struct{})(l.wake)
	if failed > 0 {
		timer := time.NewTimer(failed)
		defer timer.Stop()
		// A new block does not bring a failing backend back sooner.
		retry, wake = timer.C, nil
	}
	for {
		l.handOut()
		select {
		case o := <-l.results:
			if err := l.takeIn(ctx, &o); err != nil {
				return err
			}
		case <-retry:
			return nil
		case <-wake:
			l.pending = l.due()
			return nil
		case <-tick:
			l.pending = l.due()
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// due lists what is to be handed out, in a fixed order.
func (l *Lookout) due() []watchtower.BreachID {
	var out []watchtower.BreachID
	for id, b := range l.open {
		if b.Due() {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b watchtower.BreachID) int { return bytes.Compare(a[:], b[:]) })
	return out
}

// handOut gives publishers what they have room for.
func (l *Lookout) handOut() {
	for len(l.pending) > 0 {
		b := l.open[l.pending[0]]
		if b != nil && b.Due() && !l.busy[b.ID] {
			select {
			case l.work <- order{id: b.ID, raw: b.Justice}:
				l.busy[b.ID] = true
			default:
				return
			}
		}
		l.pending = l.pending[1:]
	}
}

// publish hands transactions to lnd.
func (l *Lookout) publish(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-l.work:
			out := outcome{id: o.id}
			err := l.cfg.Chain.Publish(ctx, o.raw)
			if err != nil {
				out.problem = err.Error()
			}
			l.metrics.published(err)
			if ctx.Err() != nil {
				// What a call that was cut off said is no answer of lnd's.
				return
			}
			l.results <- out
		}
	}
}

// takeIn records what publishers report, all that is there in one transaction. A
// report that cannot be stored is dropped: the transaction is handed out again.
func (l *Lookout) takeIn(ctx context.Context, first *outcome) error {
	var batch []outcome
	if first != nil {
		batch = append(batch, *first)
	}
	for more := true; more; {
		select {
		case o := <-l.results:
			batch = append(batch, o)
		default:
			more = false
		}
	}
	now := l.cfg.Now()
	var changed []tower.Told
	for _, o := range batch {
		delete(l.busy, o.id)
		b := l.open[o.id]
		if b == nil {
			continue
		}
		after := *b
		if after.Tried(o.problem, now) {
			changed = append(changed, tower.Told{Breach: after, Text: triedText(after)})
		}
	}
	return l.tell(ctx, changed)
}

func triedText(b watchtower.Breach) string {
	if b.Problem != "" {
		return "lnd does not take the justice transaction now; it is handed out again with every block: " + b.Problem
	}
	return "The justice transaction was handed to the network."
}

// tell stores changes and takes them over once they are durable.
func (l *Lookout) tell(ctx context.Context, changed []tower.Told) error {
	err := l.cfg.Store.Tell(ctx, changed)
	switch {
	case err == nil:
		l.take(changed)
		return nil
	case errors.Is(err, store.ErrLeaseLost):
		return err
	}
	l.unsure = true
	if ctx.Err() == nil {
		l.cfg.Log.Warn("what became of justice transactions could not be stored; they are handed out again", zap.Error(err))
	}
	return nil
}

func (l *Lookout) take(changed []tower.Told) {
	for i := range changed {
		b := &changed[i].Breach
		if l.open[b.ID] != nil {
			l.open[b.ID] = b
		}
		l.cfg.Log.Info("breach", zap.String("breach", hex.EncodeToString(b.ID[:])), zap.Int64("tenant", b.Tenant), zap.String("state", string(b.State)), zap.String("text", changed[i].Text))
	}
	l.settled()
	l.look(func(*View) {})
}

// look changes the view, and brings its counts up to date.
func (l *Lookout) look(change func(*View)) {
	v := *l.view.Load()
	change(&v)
	v.Tip, v.Open, v.Due = l.tip, len(l.open), 0
	for _, b := range l.open {
		if b.Due() {
			v.Due++
		}
	}
	l.view.Store(&v)
}

// listen wakes the loop at every block, and attaches again when lnd was away.
func (l *Lookout) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := l.cfg.Chain.Watch(ctx, func() {
			select {
			case l.wake <- struct{}{}:
			default:
			}
		})
		if ctx.Err() != nil {
			return
		}
		l.cfg.Log.Debug("the subscription to blocks ended; attaching again", zap.Error(err))
		select {
		case <-time.After(againLeast):
		case <-ctx.Done():
		}
	}
}
