package fsm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm/fsmdb"
	"github.com/sluice-lsp/sluice/internal/store"
)

// queued is an effect in an instance's queue; seq and pos are its place.
type queued[F Effect] struct {
	seq, pos int64
	effect   F
}

// instance is what this process knows of a live instance. Engine.mu guards it.
//
// Every transition up to version loaded has its effects in the queue, running,
// or done: so a transition is queued exactly once, however its commit was
// learned of.
type instance[S State, V Event, F Effect] struct {
	id      string
	state   S
	version int64
	known   bool

	loaded  int64
	reload  bool // the outbox may hold effects that are not in the queue
	parked  bool // not reconciled yet: nothing runs
	queue   []queued[F]
	working bool
	beside  int // concurrent effects that run

	terminal bool
	timer    func() bool
	armed    int64 // the version that timer is for
}

func (i *instance[S, V, F]) disarm() {
	if i.timer != nil {
		i.timer()
		i.timer = nil
	}
}

// known is the state that this process believes the instance to be in.
func (e *Engine[S, V, F]) known(id string) (s S, version int64, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if inst := e.live[id]; inst != nil && inst.known {
		return inst.state, inst.version, true
	}
	return s, 0, false
}

// committed learns of a durable transition. Two transitions of one instance may
// be learned of in the wrong order; versions put them right.
func (e *Engine[S, V, F]) committed(a *applied[S, V, F], terminal bool) {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return
	}
	e.tell(a.Transition)
	inst := e.live[a.ID]
	if inst == nil && a.Seq > 1 && e.phase == phaseRunning {
		// A later one may have ended the instance, and been learned of first.
		e.look(a.ID, a.Seq)
		e.mu.Unlock()
		return
	}
	if inst == nil {
		inst = &instance[S, V, F]{id: a.ID}
		e.live[a.ID] = inst
	}
	if a.Seq > inst.version {
		inst.state, inst.version, inst.known, inst.terminal = a.To, a.Seq, true, terminal
		e.arm(inst)
		if !a.More {
			e.news = append(e.news, a.Transition)
		}
	}
	switch {
	case e.phase != phaseRunning || inst.parked:
		// The outbox is read when the instance may run.
		inst.reload = true
	case a.Seq == inst.loaded+1 && !inst.reload:
		inst.loaded = a.Seq
		inst.queue = append(inst.queue, a.tasks...)
	case a.Seq > inst.loaded:
		inst.reload = true
	}
	e.mu.Unlock()
	e.follow()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.work(inst)
}

// follow tells Follow the news, before it returns at the latest. What one state's
// effects lead to is told after that state, if they are begun after this.
func (e *Engine[S, V, F]) follow() {
	e.following.Lock()
	defer e.following.Unlock()
	for {
		e.mu.Lock()
		if len(e.news) == 0 {
			e.mu.Unlock()
			return
		}
		t := e.news[0]
		e.news = e.news[1:]
		e.mu.Unlock()
		if e.opt.Follow != nil {
			e.opt.Follow(t)
		}
	}
}

// work makes sure that somebody works on the instance's queue, or forgets an
// instance that is through. The caller holds e.mu.
func (e *Engine[S, V, F]) work(inst *instance[S, V, F]) {
	if e.phase != phaseRunning || inst.parked || inst.working || e.closed {
		return
	}
	if len(inst.queue) > 0 || inst.reload {
		inst.working = true
		e.start(func() { e.run(inst) })
		return
	}
	if inst.terminal && inst.beside == 0 && e.live[inst.id] == inst {
		inst.disarm()
		delete(e.live, inst.id)
	}
}

// run works on one instance's queue until it is empty.
func (e *Engine[S, V, F]) run(inst *instance[S, V, F]) {
	for {
		e.mu.Lock()
		if e.closed || (!inst.reload && len(inst.queue) == 0) {
			inst.working = false
			e.work(inst)
			e.mu.Unlock()
			return
		}
		if inst.reload {
			e.mu.Unlock()
			e.load(inst)
			continue
		}
		task := inst.queue[0]
		inst.queue = inst.queue[1:]
		if e.opt.Concurrent != nil && e.opt.Concurrent(task.effect) {
			inst.beside++
			e.start(func() {
				e.execute(inst.id, task, false)
				e.mu.Lock()
				inst.beside--
				e.work(inst)
				e.mu.Unlock()
			})
			e.mu.Unlock()
			continue
		}
		e.mu.Unlock()
		e.execute(inst.id, task, true)
	}
}

// load reads the instance's pending effects that are not in the queue yet.
func (e *Engine[S, V, F]) load(inst *instance[S, V, F]) {
	e.mu.Lock()
	inst.reload = false
	after, upTo := inst.loaded, inst.version
	e.mu.Unlock()
	var tasks []queued[F]
	e.persevere("pending effects not loaded", inst.id, func() error {
		tasks = tasks[:0]
		return e.opt.DB.Read(e.ctx, func(ctx context.Context, tx *store.Tx) error {
			tasks = tasks[:0]
			rows, err := fsmdb.New(tx).ListUndoneOf(ctx, fsmdb.ListUndoneOfParams{
				Machine: e.m.Name, ID: inst.id, Seq: after,
			})
			if err != nil {
				return err
			}
			for _, row := range rows {
				effect, err := e.codec.effects.decode(row.Effect, row.Data)
				if err != nil {
					return err
				}
				tasks = append(tasks, queued[F]{seq: row.Seq, pos: row.Pos, effect: effect})
			}
			return nil
		})
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	// All that was committed up to upTo was visible to the query; it may have
	// seen more, of which committed has queued some meanwhile.
	have := inst.loaded
	for _, task := range tasks {
		if task.seq > have {
			inst.queue = append(inst.queue, task)
			upTo = max(upTo, task.seq)
		}
	}
	inst.loaded = max(have, upTo)
}

// persevere repeats f with backoff until it succeeds or the engine closes, and
// tells which. A lost lease ends it too: the work is another's now.
func (e *Engine[S, V, F]) persevere(complaint, id string, f func() error) bool {
	wait := e.opt.RetryMin
	for e.ctx.Err() == nil {
		err := f()
		if err == nil {
			return true
		}
		if e.ctx.Err() != nil {
			return false
		}
		if errors.Is(err, store.ErrLeaseLost) {
			e.opt.Log.Warn(complaint+": left to the new owner of the lease", zap.String("id", id), zap.Error(err))
			return false
		}
		e.opt.Log.Warn(complaint+", trying again", zap.String("id", id), zap.Duration("in", wait), zap.Error(err))
		if !e.pause(wait) {
			return false
		}
		wait = min(2*wait, e.opt.RetryMax)
	}
	return false
}

// ended is an error once the engine or its owner ends. The owner's context is asked
// itself: it has ended before any that is derived from it, such as a stream's.
func (e *Engine[S, V, F]) ended() error {
	return cmp.Or(e.opt.Context.Err(), e.ctx.Err())
}

// pause waits on the engine's clock, with jitter; false when the engine closes.
func (e *Engine[S, V, F]) pause(d time.Duration) bool {
	done := make(chan struct{})
	stop := e.opt.Clock.AfterFunc(d-d/8+rand.N(d/4+1), func() { close(done) })
	select {
	case <-done:
		return true
	case <-e.ctx.Done():
		stop()
		return false
	}
}

// key is an effect's idempotency key.
func (e *Engine[S, V, F]) key(id string, seq, pos int64) string {
	return fmt.Sprintf("%s/%s/%d/%d", e.m.Name, id, seq, pos)
}

// execute carries out one effect until its result is durable or the engine
// closes. A slot is held only while Execute runs.
func (e *Engine[S, V, F]) execute(id string, task queued[F], slot bool) {
	var (
		events  []V
		attempt int
	)
	ok := e.persevere("effect failed", id, func() error {
		if slot {
			select {
			case e.slots <- struct{}{}:
				defer func() { <-e.slots }()
			case <-e.ctx.Done():
				return e.ctx.Err()
			}
		}
		attempt++
		var err error
		events, err = e.opt.Execute(e.ctx, Task[F]{
			ID: id, Key: e.key(id, task.seq, task.pos), Effect: task.effect, Attempt: attempt,
		})
		// A call that the end cut off may look like a node's refusal.
		if ended := e.ended(); ended != nil {
			return ended
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", task.effect.EffectName(), err)
			e.noteFailure(id, task, err)
		}
		return err
	})
	if !ok {
		return
	}
	// From here on only the commit is repeated: the result is known.
	e.persevere("effect's result not stored", id, func() error {
		return e.opt.DB.WriteTogether(e.ctx, func(ctx context.Context, tx *store.Tx) error {
			return e.finish(ctx, tx, id, task, events)
		})
	})
}

// noteFailure leaves the reason where History shows it.
func (e *Engine[S, V, F]) noteFailure(id string, task queued[F], cause error) {
	err := e.opt.DB.WriteTogether(e.ctx, func(ctx context.Context, tx *store.Tx) error {
		_, err := fsmdb.New(tx).NoteEffectFailure(ctx, fsmdb.NoteEffectFailureParams{
			Note: cause.Error(), Machine: e.m.Name, ID: id, Seq: task.seq, Pos: task.pos,
		})
		return err
	})
	if err != nil && e.ctx.Err() == nil {
		e.opt.Log.Warn("effect's failure not noted", zap.String("id", id), zap.Error(err))
	}
}

// errDone says that an effect is done already.
var errDone = errors.New("the effect is done already")

// finish marks an effect done and sends its events, in one transaction. An
// effect that is done already (a commit whose outcome was unknown) changes
// nothing. An event that the state no longer admits is dropped and noted: the
// instance has moved on meanwhile, and History shows what was dropped. One that only
// repeats what the state says is no news (Repeated).
func (e *Engine[S, V, F]) finish(ctx context.Context, tx *store.Tx, id string, task queued[F], events []V) error {
	if err := e.fence(ctx, tx); err != nil {
		return err
	}
	q := fsmdb.New(tx)
	_, err := fsmdb.New(tx.Later(store.OneRow(errDone))).FinishEffect(ctx, fsmdb.FinishEffectParams{
		DoneMs: max(e.opt.Clock.Now().UnixMilli(), 1), Note: "",
		Machine: e.m.Name, ID: id, Seq: task.seq, Pos: task.pos,
	})
	if errors.Is(err, errDone) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, event := range events {
		_, err := e.apply(ctx, tx, id, 0, event)
		var (
			illegal *IllegalError
			hook    *hookError
		)
		if err == nil {
			continue
		}
		if errors.As(err, &hook) || !errors.As(err, &illegal) {
			return err
		}
		if illegal.Repeated {
			e.opt.Log.Debug("an effect's result was known already", zap.String("id", id),
				zap.String("effect", task.effect.EffectName()), zap.String("event", illegal.Event))
			continue
		}
		_, data, encodeErr := e.codec.events.encode(event)
		if encodeErr != nil {
			return encodeErr
		}
		note := fmt.Sprintf("result dropped: %s: %s", illegal, data)
		e.opt.Log.Error("an effect's result came too late for its state", zap.String("id", id),
			zap.String("effect", task.effect.EffectName()), zap.Error(illegal))
		if err := q.NoteEffect(ctx, fsmdb.NoteEffectParams{
			Note: note, Machine: e.m.Name, ID: id, Seq: task.seq, Pos: task.pos,
		}); err != nil {
			return err
		}
	}
	return nil
}
