// Package engine holds payments for wallets that are offline: it follows the
// channels of registered wallets, claims their ids at the interceptor while they have
// no active one, feeds the state machine of each payment (lws/hold), and carries out
// what that asks for.
//
// It promises that nothing is claimed, and so nothing held or slowed down, while a
// wallet has an active channel; that limits are judged before an HTLC counts; and that
// what waits is taken up again after every restart.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lws"
	"github.com/sluice-lsp/sluice/lws/hold"
)

// Options connect an engine to the world.
type Options struct {
	Node   Node
	Holds  Holds
	Wishes Wishes
	// Expected nil takes no invoices with another final delta.
	Expected Expected
	// Waker nil wakes nobody.
	Waker Waker
	// Others nil: nothing waits elsewhere.
	Others Others
	DB     *store.DB
	Fence  func(context.Context, *store.Tx) error
	Limits lws.Limits
	// MaxWallets bounds registrations. MarginBlocks is how long before lnd's auto-fail
	// a payment goes back; it is more than the interceptor's own margin.
	MaxWallets   int64
	MarginBlocks uint32
	Now          func() time.Time
	Random       io.Reader
	Log          *zap.Logger
}

// Engine is one run of the service.
type Engine struct {
	opt   Options
	log   *zap.Logger
	holds *fsm.Engine[hold.State, hold.Event, hold.Effect]

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	height uint32
	wishes map[ln.PubKey]lws.Wish
	// channels are lnd's, by funding outpoint; byName finds one by any of its names.
	channels map[ln.Outpoint]channel
	byName   map[ln.SCID]ln.Outpoint
	listed   bool
	// events counts lnd's words about channels, and changed has the count of the latest
	// about each: a listing that was requested before it does not know of it.
	events  uint64
	changed map[ln.Outpoint]uint64
	// claimed says until when an id is claimed at the interceptor.
	claimed map[ln.SCID]time.Time
	live    map[string]hold.Payment
	// queues have what the interceptor reported and nobody has taken yet, by payment hash;
	// who is in work has an entry. admitted are HTLCs that were admitted and are not stored
	// yet: they count. gone waits to be acknowledged.
	queues   map[ln.Hash][]HtlcEvent
	admitted map[ln.CircuitKey]lws.Htlc
	gone     []ln.CircuitKey
	ack      chan struct{}
	// decided are payments of live that do not wait any more.
	decided map[string]bool
	byKey   map[ln.CircuitKey]string
	// paying are HTLCs whose hash lnd is paying: they wait for the end of that, and count
	// until then, also when they were refused.
	paying map[ln.CircuitKey]bool
	// reported are HTLCs that the interceptor told of since the attachment, nil once it has
	// told of all.
	reported map[ln.CircuitKey]bool
	// deciding are parts of live that an effect decides, or has decided.
	deciding map[ln.CircuitKey]*deciding
	// handing are wallets that came, with what is handed on to each together.
	handing map[ln.PubKey]*handover
	ids     *ulid.MonotonicEntropy
	relist  chan struct{}
	reclaim chan struct{}
}

// channel is one of lnd's.
type channel struct {
	ln.Channel
	// since says when it became active, by what lnd told.
	since time.Time
}

// New makes an engine.
func New(opt Options) (*Engine, error) {
	if opt.Log == nil {
		opt.Log = zap.NewNop()
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &Engine{
		opt: opt, log: opt.Log, ctx: ctx, cancel: cancel,
		wishes: make(map[ln.PubKey]lws.Wish), channels: make(map[ln.Outpoint]channel), byName: make(map[ln.SCID]ln.Outpoint),
		claimed: make(map[ln.SCID]time.Time), changed: make(map[ln.Outpoint]uint64), live: make(map[string]hold.Payment), decided: make(map[string]bool),
		queues: make(map[ln.Hash][]HtlcEvent), admitted: make(map[ln.CircuitKey]lws.Htlc), ack: make(chan struct{}, 1), byKey: make(map[ln.CircuitKey]string), paying: make(map[ln.CircuitKey]bool), deciding: make(map[ln.CircuitKey]*deciding), handing: make(map[ln.PubKey]*handover),
		ids: ulid.Monotonic(opt.Random, 0), relist: make(chan struct{}, 1), reclaim: make(chan struct{}, 1),
	}
	var err error
	e.holds, err = fsm.New(hold.Machine(), fsm.Options[hold.State, hold.Event, hold.Effect]{
		Context: ctx, Clock: fsm.WallClock(opt.Now), DB: opt.DB, Execute: e.execute, Fence: opt.Fence, Follow: e.note, RetryMax: 5 * time.Second, Log: opt.Log, Workers: 512,
		Concurrent: func(f hold.Effect) bool { _, waking := f.(hold.Wake); return waking },
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("lws: %w", err)
	}
	return e, nil
}

// Run takes up what waits and serves until ctx ends.
func (e *Engine) Run(ctx context.Context, ready func()) error {
	defer func() {
		e.cancel()
		e.holds.Close()
		e.wg.Wait()
	}()
	stop := context.AfterFunc(ctx, e.cancel)
	defer stop()
	wishes, err := e.opt.Wishes.Wishes(ctx)
	if err != nil {
		return fmt.Errorf("lws: load what wallets asked for: %w", err)
	}
	e.mu.Lock()
	e.wishes = wishes
	e.mu.Unlock()
	if err := e.load(ctx); err != nil {
		return fmt.Errorf("lws: load what waits: %w", err)
	}
	e.wg.Go(func() {
		e.keep("blocks", func(ctx context.Context) error { return e.opt.Node.SubscribeBlocks(ctx, e.onBlock) })
	})
	e.wg.Go(func() {
		e.keep("channel events", func(ctx context.Context) error {
			// lnd does not say when it has begun to tell: what happened before is listed.
			begun := time.AfterFunc(time.Second, func() { wake(e.relist) })
			defer begun.Stop()
			return e.opt.Node.SubscribeChannelEvents(ctx, e.onChannel)
		})
	})
	e.wg.Go(e.keepListed)
	e.wg.Go(e.keepClaimed)
	e.wg.Go(e.keepAcknowledged)
	if _, err := e.holds.Recover(ctx); err != nil {
		return fmt.Errorf("lws: recover: %w", err)
	}
	e.wg.Go(func() {
		e.keep("the interceptor", func(ctx context.Context) error {
			e.mu.Lock()
			e.reported = make(map[ln.CircuitKey]bool)
			e.mu.Unlock()
			return e.opt.Holds.Attach(ctx, e.onHtlc)
		})
	})
	ready()
	<-ctx.Done()
	return nil
}

// load finds what is unfinished.
func (e *Engine) load(ctx context.Context) error {
	for after := ""; ; {
		page, err := e.holds.List(ctx, fsm.Filter{Live: true, After: after, Limit: 500})
		if err != nil {
			return err
		}
		e.mu.Lock()
		for _, inst := range page {
			e.remember(inst.ID, inst.State)
			after = inst.ID
		}
		e.mu.Unlock()
		if len(page) < 500 {
			return nil
		}
	}
}

// keep keeps a subscription up.
func (e *Engine) keep(what string, subscribe func(context.Context) error) {
	pace.Keep(e.ctx, pace.Backoff{First: 20 * time.Millisecond, Most: time.Second, Healthy: 10 * time.Second}, subscribe, func(err error) {
		e.log.Info("a subscription ended; subscribing again", zap.String("what", what), zap.Error(err))
		// What happened meanwhile is in the next listing.
		wake(e.relist)
	})
}

func (e *Engine) pause(d time.Duration) { _ = pace.Pause(e.ctx, d) }

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (e *Engine) moment() hold.Moment {
	e.mu.Lock()
	defer e.mu.Unlock()
	return hold.Moment{At: e.opt.Now().UTC(), Height: e.height}
}

// remember and forget keep what is live in memory (under mu).
func (e *Engine) remember(id string, s hold.State) {
	p := hold.Of(s)
	e.live[id] = p
	if _, waits := s.(hold.Held); waits {
		delete(e.decided, id)
	} else {
		e.decided[id] = true
	}
	for _, part := range p.Parts {
		e.byKey[part.Key] = id
	}
}

func (e *Engine) forget(id string) {
	for _, part := range e.live[id].Parts {
		delete(e.byKey, part.Key)
		delete(e.deciding, part.Key)
		delete(e.paying, part.Key)
	}
	delete(e.live, id)
	delete(e.decided, id)
}

// note follows the machine.
func (e *Engine) note(t fsm.Transition[hold.State, hold.Event]) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if hold.Final(t.To) {
		e.forget(t.ID)
		return
	}
	asked := e.decided[t.ID] || t.From == nil // or nobody knows
	e.remember(t.ID, t.To)
	if h, waits := t.To.(hold.Held); waits && asked && e.ctx.Err() == nil && e.online(h.Client) && e.ready(keysOf(h.Payment), settleFor) {
		// Who was missed came while that was being stored.
		e.wg.Go(func() { e.arrived(h.Client, settleFor) })
	}
}

// tell gives an event to a payment, going on until it is stored or came too late.
func (e *Engine) tell(id string, v hold.Event) error {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		_, err := e.holds.Send(e.ctx, id, v)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, fsm.ErrIllegal), errors.Is(err, store.ErrNotFound):
			return err
		case e.ctx.Err() != nil:
			return e.ctx.Err()
		}
		e.log.Warn("an event could not be stored; trying again", zap.String("hold", id), zap.String("event", v.EventName()), zap.Error(err))
		e.pause(wait)
	}
}

// SetWish registers a wallet that has a channel here.
func (e *Engine) SetWish(ctx context.Context, client ln.PubKey, w lws.Wish) error {
	if err := e.opt.Limits.Check(w); err != nil {
		return err
	}
	e.mu.Lock()
	_, known := e.wishes[client]
	has, listed := e.hasChannel(client), e.listed
	e.mu.Unlock()
	if !listed {
		return errkind.New(errkind.Unavailable, "the gateway is starting: try again in a few seconds")
	}
	if !has {
		return errkind.New(errkind.Conflict, "your node has no channel with this gateway: payments can be held for channels only, open one first")
	}
	taken, err := e.opt.Wishes.Put(ctx, client, w, known, e.opt.MaxWallets, e.opt.Now())
	if err != nil {
		return err
	}
	if !taken {
		return errkind.New(errkind.Exhausted, "this gateway holds payments for as many wallets as it can: try again another day")
	}
	e.mu.Lock()
	e.wishes[client] = w
	e.mu.Unlock()
	wake(e.reclaim)
	e.expect(client)
	return nil
}

// RemoveWish ends a registration. What waits is held to its end.
func (e *Engine) RemoveWish(ctx context.Context, client ln.PubKey) error {
	if err := e.opt.Wishes.Delete(ctx, client); err != nil {
		return err
	}
	e.mu.Lock()
	delete(e.wishes, client)
	e.mu.Unlock()
	wake(e.reclaim)
	return nil
}

// Wish is a wallet's registration.
func (e *Engine) Wish(client ln.PubKey) (lws.Wish, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w, ok := e.wishes[client]
	return w, ok
}

// Registered counts registrations.
func (e *Engine) Registered() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.wishes)
}

// List shows what waits, of one wallet or of all, oldest first, wherever in the gateway,
// with what was done to wake each wallet.
func (e *Engine) List(ctx context.Context, client *ln.PubKey) ([]lws.Shown, error) {
	var out []lws.Shown
	height := e.moment().Height
	for after := ""; ; {
		page, err := e.holds.List(ctx, fsm.Filter{Live: true, After: after, Limit: 500})
		if err != nil {
			return nil, err
		}
		for _, inst := range page {
			after = inst.ID
			if p := hold.Of(inst.State); client == nil || p.Client == *client {
				out = append(out, shown(p, inst.State.StateName(), height))
			}
		}
		if len(page) < 500 {
			break
		}
	}
	if e.opt.Others != nil {
		others, err := e.opt.Others.Waiting(ctx, client)
		if err != nil {
			return nil, err
		}
		out = append(out, others...)
	}
	slices.SortStableFunc(out, func(a, b lws.Shown) int { return a.Since.Compare(b.Since) })
	return out, e.tellCalls(ctx, out)
}

// tellCalls adds what became of the calls of wallets' webhooks: from when the wallet's
// oldest payment began to wait, for one call stands for all that waits then.
func (e *Engine) tellCalls(ctx context.Context, list []lws.Shown) error {
	if e.opt.Waker == nil {
		return nil
	}
	calls := map[ln.PubKey][]string{}
	for i := range list {
		s := &list[i]
		if _, asked := calls[s.Client]; !asked {
			got, err := e.opt.Waker.Calls(ctx, s.Client, s.Since)
			if err != nil {
				return fmt.Errorf("what became of webhooks' calls: %w", err)
			}
			calls[s.Client] = got
		}
		s.Webhooks = calls[s.Client]
	}
	return nil
}

func shown(p hold.Payment, state string, height uint32) lws.Shown {
	s := lws.Shown{
		Kind: lws.KindRegistered, ID: p.ID, Client: p.Client, Hash: p.Hash, AmountMsat: p.AmountMsat(), Htlcs: len(p.Parts), SatBlocks: p.SatBlocks(), State: state,
		Since: p.Since, Until: p.Until, FailHeight: p.FailHeight(), Wakes: p.Wakes, NextWake: p.NextWake, LastWake: p.LastWake, WokeHow: p.WokeHow,
	}
	if height != 0 {
		s.BlocksLeft = int32(int64(p.FailHeight()) - int64(height)) //nolint:gosec // heights are far below
	}
	return s
}
