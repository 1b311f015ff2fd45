package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/btcsuite/btcd/chaincfg"
	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/groupcommit"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/sharedcall"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/in"
	"github.com/sluice-lsp/sluice/swaps/out"
	"github.com/sluice-lsp/sluice/swaps/quote"
)

type (
	outs = fsm.Engine[out.State, out.Event, out.Effect]
	ins  = fsm.Engine[in.State, in.Event, in.Effect]
)

// Options are what the engine runs on.
type Options struct {
	Node Node
	// Channels opens channels for clients that have none; nil offers that to nobody.
	Channels Channels
	DB       *store.DB
	// Fence refuses every transition of a process that lost its lease; may be nil.
	Fence  func(ctx context.Context, tx *store.Tx) error
	Params *chaincfg.Params
	// DecodeBolt11 reads and verifies an invoice of the network.
	DecodeBolt11 func(text string) (ln.Bolt11, error)
	Config       Config
	Now          func() time.Time
	Random       io.Reader
	Log          *zap.Logger
}

// Engine is the gateway's side of swaps.
type Engine struct {
	opt  Options
	cfg  Config
	node Node
	db   *store.DB
	log  *zap.Logger
	outs *outs
	ins  *ins

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	// heard is closed with the first block.
	heard chan struct{}

	mu       sync.Mutex
	height   uint32
	rates    quote.Window
	urgent   ln.FeeRateSatPerKW
	followed map[string]bool
	ids      *ulid.MonotonicEntropy

	tokens *Tokens
	probes *probes
	// unknownFor is the constant of its name; tests wait less.
	unknownFor time.Duration
	// offerings are stored together; rooms answers how much room there is.
	offerings *groupcommit.Queue[*offering]
	rooms     sharedcall.Answers[ln.Sat]
	callers   [32]byte
}

// New prepares the engine; Run starts it.
func New(opt Options) (*Engine, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Random == nil {
		opt.Random = rand.Reader
	}
	if opt.Log == nil {
		opt.Log = zap.NewNop()
	}
	if err := opt.Config.Validate(); err != nil {
		return nil, err
	}
	if opt.Params == nil {
		return nil, errors.New("swaps: the chain's parameters are missing")
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &Engine{
		opt: opt, cfg: opt.Config, node: opt.Node, db: opt.DB, log: opt.Log, ctx: ctx, cancel: cancel,
		heard: make(chan struct{}), unknownFor: unknownFor, followed: make(map[string]bool), ids: ulid.Monotonic(opt.Random, 0), probes: newProbes(),
	}
	e.offerings = groupcommit.New(e.offers())
	var err error
	e.outs, err = fsm.New(out.Machine(), fsm.Options[out.State, out.Event, out.Effect]{
		Context: ctx, DB: opt.DB, Execute: e.executeOut, Reconcile: e.reconcileOut, InTx: e.recordOut, Fence: opt.Fence,
		RetryMax: 5 * time.Second, Log: opt.Log,
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("swaps: %w", err)
	}
	e.ins, err = fsm.New(in.Machine(), fsm.Options[in.State, in.Event, in.Effect]{
		Context: ctx, DB: opt.DB, Execute: e.executeIn, Reconcile: e.reconcileIn, InTx: e.recordIn, Fence: opt.Fence,
		Concurrent: concurrentIn, RetryMax: 5 * time.Second, Log: opt.Log,
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("swaps: %w", err)
	}
	return e, nil
}

// Run reconciles what an earlier process left and serves until ctx ends. ready
// is called once new business can be accepted.
func (e *Engine) Run(ctx context.Context, ready func()) error {
	defer e.stop()
	stop := context.AfterFunc(ctx, e.cancel)
	defer stop()
	if err := e.loadRates(ctx); err != nil {
		return fmt.Errorf("swaps: %w", err)
	}
	if err := e.loadTokens(ctx); err != nil {
		return fmt.Errorf("swaps: %w", err)
	}
	if err := e.loadCallers(ctx); err != nil {
		return fmt.Errorf("swaps: %w", err)
	}
	e.spawn(func() {
		e.keep(e.ctx, "blocks", func(ctx context.Context) error { return e.node.Events.SubscribeBlocks(ctx, e.onBlock) })
	})
	select {
	case <-e.heard:
	case <-ctx.Done():
		return nil
	}
	if err := e.loadProbes(ctx); err != nil {
		return fmt.Errorf("swaps: %w", err)
	}
	if err := e.refreshRates(ctx); err != nil {
		e.log.Warn("there is no fee estimate yet: no swaps are quoted until there is", zap.Error(err))
	}
	for _, recover := range []func(context.Context) (fsm.Report, error){e.outs.Recover, e.ins.Recover} {
		report, err := recover(ctx)
		if err != nil {
			return fmt.Errorf("swaps: recover: %w", err)
		}
		if report.Unfinished > 0 {
			e.log.Info("took up unfinished swaps", zap.Int("unfinished", report.Unfinished), zap.Int("reconciled", report.Reconciled))
		}
	}
	e.spawn(func() { e.keepRates(e.ctx) })
	e.spawn(func() { _ = e.offerings.Run(e.ctx) })
	ready()
	<-ctx.Done()
	return nil
}

func (e *Engine) stop() {
	e.cancel()
	e.outs.Close()
	e.ins.Close()
	e.wg.Wait()
}

func (e *Engine) spawn(f func()) { e.wg.Go(f) }

// spawnForCall is spawn for a call from outside, which may come while the engine ends:
// then it is errStopping.
func (e *Engine) spawnForCall(f func()) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() != nil {
		return errStopping
	}
	e.spawn(f)
	return nil
}

// moment is now, as events carry it.
func (e *Engine) moment() swaps.Moment {
	e.mu.Lock()
	defer e.mu.Unlock()
	return swaps.Moment{At: e.opt.Now().UTC(), Height: e.height}
}

// momentAt is now, with a height that the chain just told: its own stream may be
// ahead of the one of blocks.
func (e *Engine) momentAt(height uint32) swaps.Moment {
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

// onBlock tells the tip to every swap that the chain may end.
func (e *Engine) onBlock(b ln.Block) {
	e.mu.Lock()
	e.height = b.Height
	first := false
	select {
	case <-e.heard:
	default:
		first = true
		close(e.heard)
	}
	urgent := e.urgent
	e.mu.Unlock()
	if first {
		return
	}
	live, err := e.allLive(e.ctx)
	if err != nil {
		e.log.Warn("swaps could not be read for a new block; the next one tells them", zap.Error(err))
		return
	}
	for _, inst := range live {
		if _, ok := out.LiveOf(inst.State); ok {
			e.tellOut(inst.ID, out.NewBlock{Moment: e.moment(), TargetRate: urgent})
		}
	}
	e.blockIn()
}

// allLive pages through the unfinished swaps.
func (e *Engine) allLive(ctx context.Context) (all []fsm.Instance[out.State], err error) {
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		all, err = e.allLiveTx(ctx, tx)
		return err
	})
	return all, err
}

func (e *Engine) allLiveTx(ctx context.Context, tx *store.Tx) (all []fsm.Instance[out.State], err error) {
	const page = 500
	for after := ""; ; after = all[len(all)-1].ID {
		list, err := e.outs.ListTx(ctx, tx, fsm.Filter{Live: true, After: after, Limit: page, Shared: true})
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
// refused by the machine, or the engine stops. It reports whether the swap goes
// on taking such events.
func tell[S fsm.State, V fsm.Event, F fsm.Effect](e *Engine, m *fsm.Engine[S, V, F], id string, event V, final func(S) bool) bool {
	wait := 20 * time.Millisecond
	for {
		s, err := m.Send(e.ctx, id, event)
		switch {
		case err == nil:
			return !final(s)
		case e.ctx.Err() != nil:
			return false
		case errors.Is(err, fsm.ErrIllegal), errors.Is(err, store.ErrNotFound):
			e.log.Debug("an event came too late", zap.String("swap", id), zap.String("event", event.EventName()), zap.Error(err))
			return false
		}
		e.log.Warn("an event could not be stored; trying again", zap.String("swap", id), zap.String("event", event.EventName()), zap.Error(err))
		select {
		case <-time.After(wait):
		case <-e.ctx.Done():
			return false
		}
		wait = min(2*wait, time.Second)
	}
}

func (e *Engine) tellOut(id string, event out.Event) bool {
	return tell(e, e.outs, id, event, out.Final)
}

func (e *Engine) tellIn(id string, event in.Event) bool { return tell(e, e.ins, id, event, in.Final) }

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
