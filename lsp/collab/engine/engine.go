package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/collab"
)

type opens = fsm.Engine[collab.State, collab.Event, collab.Effect]

// Options are what the engine runs on.
type Options struct {
	Node Node
	Desk Desk
	DB   *store.DB
	// Fence refuses every transition of a process that lost its lease; may be nil.
	Fence  func(ctx context.Context, tx *store.Tx) error
	Config Config
	Now    func() time.Time
	Log    *zap.Logger
}

// Engine is the gateway's side of joint fundings.
type Engine struct {
	opt   Options
	cfg   Config
	node  Node
	db    *store.DB
	log   *zap.Logger
	opens *opens

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	// heard is closed with the first block.
	heard chan struct{}
	// blocks holds one token: a block is worth looking at.
	blocks chan struct{}

	mu           sync.Mutex
	height       uint32
	negotiations map[ln.PendingChanID]*negotiation
	followed     map[string]bool
}

// negotiation is one that this process holds.
type negotiation struct {
	stream Negotiation
	cancel context.CancelFunc
}

// New prepares the engine; Run starts it.
func New(opt Options) (*Engine, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = zap.NewNop()
	}
	if err := opt.Config.Validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &Engine{
		opt: opt, cfg: opt.Config, node: opt.Node, db: opt.DB, log: opt.Log, ctx: ctx, cancel: cancel,
		heard: make(chan struct{}), blocks: make(chan struct{}, 1),
		negotiations: make(map[ln.PendingChanID]*negotiation), followed: make(map[string]bool),
	}
	var err error
	e.opens, err = fsm.New(collab.Machine(), fsm.Options[collab.State, collab.Event, collab.Effect]{
		Context: ctx, DB: opt.DB, Execute: e.execute, Reconcile: e.reconcile, InTx: e.record, Fence: opt.Fence,
		Concurrent: concurrent, RetryMax: 5 * time.Second, Log: opt.Log,
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("joint fundings: %w", err)
	}
	return e, nil
}

// concurrent names the effects that may wait for a peer: giving an open up must
// not queue behind them.
func concurrent(f collab.Effect) bool {
	switch f.(type) {
	case collab.Negotiate, collab.Verify:
		return true
	}
	return false
}

// Config is the business as it runs.
func (e *Engine) Config() Config { return e.cfg }

// Run reconciles what an earlier process left and serves until ctx ends. ready is
// called once new business can be accepted.
func (e *Engine) Run(ctx context.Context, ready func()) error {
	defer e.stop()
	stop := context.AfterFunc(ctx, e.cancel)
	defer stop()
	e.spawn(func() {
		e.keep(e.ctx, "blocks", func(ctx context.Context) error { return e.node.Channels.SubscribeBlocks(ctx, e.onBlock) })
	})
	select {
	case <-e.heard:
	case <-ctx.Done():
		return nil
	}
	report, err := e.opens.Recover(ctx)
	if err != nil {
		return fmt.Errorf("joint fundings: recover: %w", err)
	}
	if report.Unfinished > 0 {
		e.log.Info("took up unfinished joint fundings", zap.Int("unfinished", report.Unfinished), zap.Int("reconciled", report.Reconciled))
	}
	e.spawn(func() { e.eachBlock(e.ctx) })
	ready()
	<-ctx.Done()
	return nil
}

func (e *Engine) stop() {
	e.cancel()
	e.opens.Close()
	e.wg.Wait()
}

func (e *Engine) spawn(f func()) { e.wg.Go(f) }

// moment is now, as events carry it.
func (e *Engine) moment() lsp.Moment {
	e.mu.Lock()
	defer e.mu.Unlock()
	return lsp.Moment{At: e.opt.Now().UTC(), Height: e.height}
}

// momentAt is now, with a height that the chain just told: its own stream may be
// ahead of the one of blocks.
func (e *Engine) momentAt(height uint32) lsp.Moment {
	m := e.moment()
	m.Height = max(m.Height, height)
	return m
}

// keep runs a subscription again whenever it ends.
func (e *Engine) keep(ctx context.Context, what string, subscribe func(context.Context) error) {
	pace.Keep(ctx, pace.Backoff{First: 50 * time.Millisecond, Most: 2 * time.Second, Healthy: time.Minute}, subscribe, func(err error) {
		e.log.Debug("lnd ended a subscription; subscribing again", zap.String("subscription", what), zap.Error(err))
	})
}

func (e *Engine) onBlock(b ln.Block) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.height = b.Height
	select {
	case <-e.heard:
	default:
		close(e.heard)
	}
	e.lookAgain()
}

// lookAgain has everything told of the tip.
func (e *Engine) lookAgain() {
	select {
	case e.blocks <- struct{}{}:
	default:
	}
}

// eachBlock tells the tip to every open that the chain may end, keeps coins
// leased, and looks for channels that nothing will ever fund.
func (e *Engine) eachBlock(ctx context.Context) {
	for {
		select {
		case <-e.blocks:
		case <-ctx.Done():
			return
		}
		live, err := e.live(ctx)
		if err != nil {
			e.log.Warn("joint fundings could not be read for a new block; the next one tells them", zap.Error(err))
			continue
		}
		rate := e.opt.Desk.Rate()
		target := rate.Rate
		if rate.Stale {
			target = 0
		}
		states := make([]collab.State, 0, len(live))
		for _, inst := range live {
			states = append(states, inst.State)
		}
		outbid := replaced(states)
		for _, inst := range live {
			if _, signed := collab.SignedOf(inst.State); signed {
				block := collab.NewBlock{Moment: e.moment(), TargetRate: target}
				if outbid[inst.ID] {
					block.TargetRate = 0
				}
				e.tellBlock(ctx, inst, block)
			}
			if err := e.renewLeases(ctx, inst.ID); err != nil && ctx.Err() == nil {
				e.log.Warn("a lease could not be renewed", zap.String("joint", inst.ID), zap.Error(err))
			}
		}
		if err := e.sweepStrays(ctx); err != nil && ctx.Err() == nil {
			e.log.Warn("channels of given-up joint fundings could not be looked for; the next block tries again", zap.Error(err))
		}
	}
}

// deepBlocks is how deep a block is that no reorg takes away.
const deepBlocks = 144

// tellBlock tells a tip, after what would end the open by it has been looked up in the
// chain as it is now.
func (e *Engine) tellBlock(ctx context.Context, inst fsm.Instance[collab.State], block collab.NewBlock) {
	log := e.log.With(zap.String("joint", inst.ID))
	for _, spend := range collab.Doubtful(inst.State, block.Height) {
		_, err := e.node.Chain.TxInBlock(ctx, spend.Height, spend.By)
		switch {
		case err == nil:
		case errors.Is(err, ln.ErrNotFound):
			log.Warn("a reorg undid the spend of a coin before its news came", zap.Stringer("coin", spend.Input), zap.Stringer("by", spend.By))
			e.tell(inst.ID, collab.SpendReorged{Moment: block.Moment, Input: spend.Input, By: spend.By, SpendHeight: spend.Height})
		case ln.Confirmations(spend.Height, block.Height) > deepBlocks && !errors.Is(err, ln.ErrUnavailable):
			// A backend that has thrown the block away never reads it again.
			log.Info("a block as deep as this cannot be read, and is believed", zap.Uint32("height", spend.Height), zap.Error(err))
		default:
			// Nothing is ended by what is not known; the next block asks again.
			if ctx.Err() == nil {
				log.Warn("a block could not be read; the next one ends what is over", zap.Uint32("height", spend.Height), zap.Error(err))
			}
			return
		}
	}
	e.tell(inst.ID, block)
}

// live pages through what is not over.
func (e *Engine) live(ctx context.Context) (all []fsm.Instance[collab.State], err error) {
	const page = 500
	for after := ""; ; after = all[len(all)-1].ID {
		list, err := e.opens.List(ctx, fsm.Filter{Live: true, After: after, Limit: page})
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
		if len(list) < page {
			return all, nil
		}
	}
}

// tell sends an event from outside an effect, going on until it is durable, was
// refused by the machine, or the engine stops. It reports whether the open goes on.
func (e *Engine) tell(id string, event collab.Event) bool {
	wait := 20 * time.Millisecond
	for {
		s, err := e.opens.Send(e.ctx, id, event)
		switch {
		case err == nil:
			return !collab.Final(s)
		case e.ctx.Err() != nil:
			return false
		case errors.Is(err, store.ErrNotFound):
			return false
		case errors.Is(err, fsm.ErrIllegal), errors.Is(err, collab.ErrTooLate):
			e.log.Debug("an event came too late", zap.String("joint", id), zap.String("event", event.EventName()), zap.Error(err))
			inst, err := e.opens.Get(e.ctx, id)
			return err == nil && !collab.Final(inst.State)
		}
		e.log.Warn("an event could not be stored; trying again", zap.String("joint", id), zap.String("event", event.EventName()), zap.Error(err))
		select {
		case <-time.After(wait):
		case <-e.ctx.Done():
			return false
		}
		wait = min(2*wait, time.Second)
	}
}

// follow runs f once per key at a time.
func (e *Engine) follow(key string, f func(ctx context.Context)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.followed[key] || e.ctx.Err() != nil {
		return
	}
	e.followed[key] = true
	e.spawn(func() {
		ctx, cancel := context.WithCancel(e.ctx)
		defer cancel()
		f(ctx)
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.followed, key)
	})
}

// reconcile takes up an open that an earlier process left. Its negotiation died
// with that process: Verify, if it is pending, finds no stream and says so. What
// the chain said before is forgotten by whoever follows it anew, before that.
func (e *Engine) reconcile(_ context.Context, _ string, s collab.State) ([]collab.Event, error) {
	if w, ok := collab.WatchOf(s); ok {
		e.watchInputs(w, true)
	}
	return nil, nil
}
