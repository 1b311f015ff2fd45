package fsm

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm/fsmdb"
	"github.com/sluice-lsp/sluice/internal/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the tables that all machines share up to date.
func Migrate(ctx context.Context, db *store.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("fsm migrations: %w", err)
	}
	return store.Migrate(ctx, db, "fsm", files)
}

// Task is one effect to be carried out.
type Task[F Effect] struct {
	// ID is the instance.
	ID string

	// Key is the effect's idempotency key: the same at every attempt, never used
	// by another effect of any machine in this database.
	Key string

	// Effect is what to do.
	Effect F

	// Attempt counts from 1 in this process. The first attempt of a process may
	// still be a repetition: an earlier process may have carried the effect out.
	Attempt int
}

// Transition is what InTx and watchers see.
type Transition[S State, V Event] struct {
	ID    string
	From  S
	Event V
	To    S

	// Seq counts an instance's transitions from 1. Machine, ID and Seq together
	// are a key for what InTx writes.
	Seq int64
	At  time.Time

	// More says that another transition of this instance follows in the same
	// transaction: what mirrors only its present state can wait for that.
	More bool

	// Was is the state before the first of the transitions that follow one another
	// in this transaction; From, where there is only one.
	Was S
}

// Options connect a machine to the world.
type Options[S State, V Event, F Effect] struct {
	// DB has the tables of Migrate.
	DB *store.DB

	// Context is the life of what effects work with, such as a stream that one
	// effect opens and another reads. The engine stops when it ends; what an
	// effect makes of that interruption is no result, and it runs again after the
	// next start. Nil: Close alone ends the engine.
	Context context.Context //nolint:containedctx // a life, not a call's

	// Execute carries out an effect and returns the events that it led to; they
	// are sent, and the effect is done, in one transaction. It must be idempotent
	// by Task.Key. An error means "try again later" (with backoff, for ever): a
	// failure that is final is an event. Its context ends when the engine closes.
	// May be nil if the machine has no effects.
	Execute func(ctx context.Context, task Task[F]) ([]V, error)

	// Reconcile compares an unfinished instance with the world at start and
	// returns the events that it missed. Until it has succeeded, the instance's
	// pending effects don't run; an error means "try again later". May be nil.
	Reconcile func(ctx context.Context, id string, s S) ([]V, error)

	// InTx runs in the transaction of each transition: ledger postings, side
	// tables, another machine's SendTx. It may run more than once for one
	// transition and must have no other effects. An error undoes the transition.
	InTx func(ctx context.Context, tx *store.Tx, t Transition[S, V]) error

	// Follow learns of each state that is durable, one at a time and newest last: what
	// a process keeps in memory of its instances follows here, and not in InTx, because
	// a commit that got no answer is told here as well, once the database has said
	// how it ended, and so is what Recover finds. Such a Transition has only ID, To, Seq
	// and At. A state that another follows (More, or before it could be told) may be
	// passed over. It must not send events itself. May be nil.
	Follow func(t Transition[S, V])

	// Fence runs first in every transaction; pass a store.Lease's Check to make
	// sure that only the lease's holder moves instances. Who loses the lease
	// closes the engine and makes a new one when he has it again: what runs into
	// store.ErrLeaseLost is not retried. May be nil.
	Fence func(ctx context.Context, tx *store.Tx) error

	// Concurrent names effects that may run beside the instance's others, such as
	// one that waits long for an outcome. They don't count towards Workers. Nil:
	// none.
	Concurrent func(F) bool

	// Workers bounds how many effects run at a time (0: 64).
	Workers int

	// RetryMin and RetryMax bound the backoff of effects, reconciliation and
	// timers (0: 100 ms and 1 min).
	RetryMin, RetryMax time.Duration

	// Clock is the real one when nil. Log may be nil.
	Clock Clock
	Log   *zap.Logger
}

// Engine runs one machine's instances on one database. It is safe for use by
// many goroutines.
type Engine[S State, V Event, F Effect] struct {
	m     Machine[S, V, F]
	codec *codec[S, V, F]
	opt   Options[S, V, F]
	slots chan struct{}

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	phase    phase
	closed   bool
	live     map[string]*instance[S, V, F]
	watchers map[string]map[*watcher[S, V]]struct{}
	news     []Transition[S, V] // for Follow

	following sync.Mutex // who holds it tells the news
}

// phase says whether effects may run yet.
type phase int

const (
	phaseIdle       phase = iota // before Recover: transitions are stored, effects wait in the outbox
	phaseRecovering              // Recover is listing what is unfinished
	phaseRunning
)

// New makes an engine. Sends work at once; effects and time-outs start with
// Recover. The machine must be well formed (see Machine.Validate).
func New[S State, V Event, F Effect](m Machine[S, V, F], opt Options[S, V, F]) (*Engine[S, V, F], error) {
	c, err := m.codec()
	if err != nil {
		return nil, err
	}
	if opt.DB == nil {
		return nil, fmt.Errorf("state machine %q: Options.DB is missing", m.Name)
	}
	if opt.Execute == nil && len(m.Effects) > 0 {
		return nil, fmt.Errorf("state machine %q has effects, but Options.Execute is missing", m.Name)
	}
	if opt.Workers == 0 {
		opt.Workers = 64
	}
	if opt.RetryMin == 0 {
		opt.RetryMin = 100 * time.Millisecond
	}
	if opt.RetryMax == 0 {
		opt.RetryMax = time.Minute
	}
	if opt.Clock == nil {
		opt.Clock = SystemClock()
	}
	if opt.Log == nil {
		opt.Log = zap.NewNop()
	}
	opt.Log = opt.Log.With(zap.String("machine", m.Name))
	if opt.Context == nil {
		opt.Context = context.Background()
	}
	ctx, cancel := context.WithCancel(opt.Context)
	return &Engine[S, V, F]{
		m: m, codec: c, opt: opt, slots: make(chan struct{}, opt.Workers),
		ctx: ctx, cancel: cancel,
		live:     make(map[string]*instance[S, V, F]),
		watchers: make(map[string]map[*watcher[S, V]]struct{}),
	}, nil
}

// Machine is the machine's description.
func (e *Engine[S, V, F]) Machine() Machine[S, V, F] { return e.m }

// Close stops effects and time-outs and waits for those that run; their
// contexts end. What is pending stays in the database for the next Recover.
func (e *Engine[S, V, F]) Close() {
	e.mu.Lock()
	e.closed = true
	for _, inst := range e.live {
		inst.disarm()
	}
	e.mu.Unlock()
	e.cancel()
	e.wg.Wait()
}

// start runs f in a goroutine that Close waits for. The caller holds e.mu.
func (e *Engine[S, V, F]) start(f func()) {
	if !e.closed {
		e.wg.Go(f)
	}
}

// Create brings an instance into being by a first event: what is stored is the
// state that Step reaches from initial. An id that exists already is
// store.ErrUnique.
func (e *Engine[S, V, F]) Create(ctx context.Context, id string, initial S, event V) (S, error) {
	var s S
	err := e.opt.DB.WriteTogether(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		s, err = e.CreateTx(ctx, tx, id, initial, event)
		return err
	})
	return s, err
}

// CreateTx is Create in the caller's transaction.
func (e *Engine[S, V, F]) CreateTx(ctx context.Context, tx *store.Tx, id string, initial S, event V) (S, error) {
	var none S
	if id == "" {
		return none, fmt.Errorf("%s: an instance needs an id", e.m.Name)
	}
	if err := e.fence(ctx, tx); err != nil {
		return none, err
	}
	next, effects, err := e.step(id, initial, event)
	if err != nil {
		return none, err
	}
	return e.persist(ctx, tx, []*applied[S, V, F]{{
		Transition: Transition[S, V]{ID: id, From: initial, Event: event, To: next, Seq: 1, At: e.timeOf(event), Was: initial},
		effects:    effects,
	}})
}

// Send gives an event to an instance and returns the state it led to, durable.
//
// An event that the state doesn't admit is an IllegalError and changes nothing;
// an unknown id is store.ErrNotFound. After store.ErrOutcomeUnknown the event
// may have been taken: Get tells.
func (e *Engine[S, V, F]) Send(ctx context.Context, id string, event V) (S, error) {
	return e.send(ctx, id, event, 0)
}

// SendTx is Send in the caller's transaction; its effects start when that one is
// durable.
func (e *Engine[S, V, F]) SendTx(ctx context.Context, tx *store.Tx, id string, event V) (S, error) {
	return e.apply(ctx, tx, id, 0, event)
}

// SendAllTx is SendTx for events that follow one another: each is a transition of
// its own in the instance's story, and the instance is stored once. All are taken
// or none.
func (e *Engine[S, V, F]) SendAllTx(ctx context.Context, tx *store.Tx, id string, events ...V) (S, error) {
	return e.apply(ctx, tx, id, 0, events...)
}

// errPassed says that an instance has moved on from the version that a time-out
// was meant for.
var errPassed = errors.New("the instance has moved on")

func (e *Engine[S, V, F]) send(ctx context.Context, id string, event V, ifVersion int64) (S, error) {
	var s S
	var refused error
	err := e.opt.DB.WriteTogether(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		s, err = e.apply(ctx, tx, id, ifVersion, event)
		if refused = nil; changedNothing(err) {
			// It undoes nothing, so that those who share the transaction go on.
			refused, err = err, nil
		}
		return err
	})
	if err == nil {
		err = refused
	}
	return s, err
}

// changedNothing: the event was refused before anything was written.
func changedNothing(err error) bool {
	var hook *hookError
	return !errors.As(err, &hook) && (errors.Is(err, ErrIllegal) || errors.Is(err, store.ErrNotFound) || errors.Is(err, errPassed))
}

// applied is a transition on its way into the database.
type applied[S State, V Event, F Effect] struct {
	Transition[S, V]
	effects []F
	tasks   []queued[F]
}

func (e *Engine[S, V, F]) fence(ctx context.Context, tx *store.Tx) error {
	if e.opt.Fence == nil {
		return nil
	}
	if err := e.opt.Fence(ctx, tx); err != nil {
		return fmt.Errorf("%s: %w", e.m.Name, err)
	}
	return nil
}

// step runs Step and puts the instance into an IllegalError of it.
func (e *Engine[S, V, F]) step(id string, s S, event V) (S, []F, error) {
	next, effects, err := e.m.Step(s, event)
	if err == nil {
		return next, effects, nil
	}
	var none S
	var illegal *IllegalError
	if errors.As(err, &illegal) {
		return none, nil, &IllegalError{Machine: e.m.Name, ID: id, State: illegal.State, Event: illegal.Event, Repeated: illegal.Repeated}
	}
	return none, nil, fmt.Errorf("%s %s: event %q in state %q: %w", e.m.Name, id, event.EventName(), s.StateName(), err)
}

func (e *Engine[S, V, F]) timeOf(event V) time.Time {
	if timed, ok := any(event).(interface{ EventTime() time.Time }); ok {
		if at := timed.EventTime(); !at.IsZero() {
			return at
		}
	}
	return e.opt.Clock.Now()
}

// apply is one or more transitions in a transaction. The state that this process
// knows saves a query; it is only a guess, which the compare-and-swap verifies.
func (e *Engine[S, V, F]) apply(ctx context.Context, tx *store.Tx, id string, ifVersion int64, events ...V) (S, error) {
	var none S
	if err := e.fence(ctx, tx); err != nil {
		return none, err
	}
	if s, version, ok := e.known(id); ok && (ifVersion == 0 || ifVersion == version) {
		if chain, err := e.steps(id, s, version, events); err == nil {
			to, err := e.persist(ctx, tx, chain)
			if !errors.Is(err, errStale) {
				return to, err
			}
		}
	}
	row, err := fsmdb.New(tx).GetInstance(ctx, fsmdb.GetInstanceParams{Machine: e.m.Name, ID: id})
	if err != nil {
		return none, fmt.Errorf("%s %s: %w", e.m.Name, id, store.MapError(err))
	}
	if ifVersion != 0 && row.Version != ifVersion {
		return none, errPassed
	}
	s, err := e.codec.states.decode(row.State, row.Data)
	if err != nil {
		return none, fmt.Errorf("%s %s: %w", e.m.Name, id, err)
	}
	chain, err := e.steps(id, s, row.Version, events)
	if err != nil {
		return none, err
	}
	to, err := e.persist(ctx, tx, chain)
	if errors.Is(err, errStale) {
		return none, fmt.Errorf("%s %s: %w: %w", e.m.Name, id, store.ErrConflict, err)
	}
	return to, err
}

// steps are the transitions that the events lead to, one after the other.
func (e *Engine[S, V, F]) steps(id string, s S, version int64, events []V) ([]*applied[S, V, F], error) {
	if len(events) == 0 {
		return nil, fmt.Errorf("%s %s: no event to send", e.m.Name, id)
	}
	chain, was := make([]*applied[S, V, F], 0, len(events)), s
	for i, event := range events {
		next, effects, err := e.step(id, s, event)
		if err != nil {
			return nil, err
		}
		version++
		chain = append(chain, &applied[S, V, F]{
			Transition: Transition[S, V]{
				ID: id, From: s, Event: event, To: next, Seq: version, At: e.timeOf(event), More: i < len(events)-1,
				Was: was,
			},
			effects: effects,
		})
		s = next
	}
	return chain, nil
}

// errStale says that the compare-and-swap found another version.
var errStale = errors.New("the instance was changed by another transaction")

// hookError keeps what InTx returned apart from errors of the machine itself:
// an IllegalError of another machine must not look like one of this.
type hookError struct{ err error }

func (e *hookError) Error() string { return e.err.Error() }
func (e *hookError) Unwrap() error { return e.err }

// persist writes transitions that follow one another and everything that belongs
// to them, and registers what follows once they are durable.
func (e *Engine[S, V, F]) persist(ctx context.Context, tx *store.Tx, chain []*applied[S, V, F]) (S, error) {
	var none S
	first, last := chain[0], chain[len(chain)-1]
	fail := func(err error) (S, error) {
		return none, fmt.Errorf("%s %s: %w", e.m.Name, first.ID, err)
	}
	q := fsmdb.New(tx.Later(nil))
	state, data, err := e.codec.states.encode(last.To)
	if err != nil {
		return fail(err)
	}
	terminal := e.m.Terminal(last.To)
	var dueMs int64
	if due, _, ok := e.deadline(last.To); ok && !terminal {
		dueMs = due.UnixMilli()
	}
	atMs := last.At.UnixMilli()
	if first.Seq == 1 {
		err = q.InsertInstance(ctx, fsmdb.InsertInstanceParams{
			Machine: e.m.Name, ID: first.ID, State: state, Data: data, Version: last.Seq, Terminal: terminal,
			DueMs: dueMs, CreatedMs: first.At.UnixMilli(), UpdatedMs: atMs,
		})
		if err != nil {
			return fail(store.MapError(err))
		}
	} else {
		_, err := fsmdb.New(tx.Later(store.OneRow(errStale))).UpdateInstance(ctx, fsmdb.UpdateInstanceParams{
			State: state, Data: data, Terminal: terminal, DueMs: dueMs, UpdatedMs: atMs,
			Machine: e.m.Name, ID: first.ID, Version: last.Seq, Was: first.Seq - 1,
		})
		if errors.Is(err, errStale) {
			return none, errStale
		}
		if err != nil {
			return fail(err)
		}
	}
	for _, a := range chain {
		if err := e.record(ctx, q, a); err != nil {
			return fail(err)
		}
		// Before the hook, so that what the hook sends is learned of after this.
		tx.OnCommit(func() { e.committed(a, e.m.Terminal(a.To)) })
		tx.OnUnknown(func() { e.unsure(a.ID, a.Seq) })
		if e.opt.InTx != nil {
			if err := e.opt.InTx(ctx, tx, a.Transition); err != nil {
				return fail(&hookError{err})
			}
		}
	}
	return last.To, nil
}

// record writes a transition into the story, and its effects into the outbox.
func (e *Engine[S, V, F]) record(ctx context.Context, q *fsmdb.Queries, a *applied[S, V, F]) error {
	name, data, err := e.codec.events.encode(a.Event)
	if err != nil {
		return err
	}
	atMs := a.At.UnixMilli()
	if err := q.InsertEvent(ctx, fsmdb.InsertEventParams{
		Machine: e.m.Name, ID: a.ID, Seq: a.Seq, Event: name, Data: data,
		FromState: a.From.StateName(), ToState: a.To.StateName(), AtMs: atMs,
	}); err != nil {
		return err
	}
	for i, effect := range a.effects {
		name, data, err := e.codec.effects.encode(effect)
		if err != nil {
			return err
		}
		err = q.InsertEffect(ctx, fsmdb.InsertEffectParams{
			Machine: e.m.Name, ID: a.ID, Seq: a.Seq, Pos: int64(i), Effect: name, Data: data, CreatedMs: atMs,
		})
		if err != nil {
			return err
		}
		a.tasks = append(a.tasks, queued[F]{seq: a.Seq, pos: int64(i), effect: effect})
	}
	return nil
}

func (e *Engine[S, V, F]) deadline(s S) (due time.Time, event V, ok bool) {
	if e.m.Deadline == nil {
		return due, event, false
	}
	return e.m.Deadline(s)
}
