package fsm_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/fsm/fsmtest"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

type engine = fsm.Engine[state, event, effect]

type options = fsm.Options[state, event, effect]

func newEngine(t testing.TB, db *store.DB, m fsm.Machine[state, event, effect], opt options) *engine {
	t.Helper()
	require.NoError(t, fsm.Migrate(t.Context(), db))
	opt.DB = db
	if opt.Execute == nil {
		opt.Execute = func(context.Context, fsm.Task[effect]) ([]event, error) { return nil, nil }
	}
	if opt.RetryMin == 0 {
		opt.RetryMin = time.Millisecond
	}
	e, err := fsm.New(m, opt)
	require.NoError(t, err)
	t.Cleanup(e.Close)
	return e
}

func started(t testing.TB, e *engine) *engine {
	t.Helper()
	report, err := e.Recover(context.Background())
	require.NoError(t, err)
	require.Empty(t, report.Failed)
	return e
}

// await follows an instance until it is in a state.
func await(t testing.TB, e *engine, id, name string) state {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	states, err := e.Watch(ctx, id)
	require.NoError(t, err)
	var last state
	for tr := range states {
		last = tr.To
		if last.StateName() == name {
			return last
		}
	}
	require.Failf(t, "not reached", "%s is %v, not %s", id, last, name)
	return nil
}

// A result that only repeats what somebody else told first is dropped in silence; one
// that contradicts the state is not.
func TestRepeatedResults(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		core, logs := observer.New(zap.InfoLevel)
		var e *engine
		e = newEngine(t, open(), escrow(), options{
			Clock: fsmtest.NewClock(time.UnixMilli(1_700_000_000_000)), Log: zap.New(core),
			Execute: func(ctx context.Context, task fsm.Task[effect]) ([]event, error) {
				switch task.Effect.(type) {
				case efPay:
					return []event{evRejected{"no route"}}, nil
				default:
					// A stream tells it before the effect's own result is stored.
					_, err := e.Send(ctx, task.ID, evGivenBack{})
					if task.ID == "contradicted" {
						return []event{evSettled{}}, err
					}
					return []event{evGivenBack{}}, err
				}
			},
		})
		started(t, e)
		for id, alarms := range map[string]int{"repeated": 0, "contradicted": 1} {
			_, err := e.Create(t.Context(), id, stNew{}, evOffered{7})
			require.NoError(t, err)
			var story []fsm.Record
			require.Eventually(t, func() bool {
				var err error
				story, err = e.History(t.Context(), id)
				return err == nil && len(story) == 3 && !story[1].Effects[0].Done.IsZero()
			}, 10*time.Second, time.Millisecond)
			require.Equal(t, alarms, logs.FilterMessageSnippet("too late").FilterField(zap.String("id", id)).Len(), id)
			require.Equal(t, alarms == 0, story[1].Effects[0].Note == "", id)
		}
		_, err := e.Send(t.Context(), "repeated", evGivenBack{})
		require.ErrorIs(t, err, fsm.ErrIllegal, "who sends it by hand hears that it changed nothing")
	})
}

func TestStory(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		clock := fsmtest.NewClock(time.UnixMilli(1_700_000_000_000))
		var failed sync.Once
		e := started(t, newEngine(t, open(), escrow(), options{
			Clock: clock, Log: zap.NewNop(),
			Execute: func(_ context.Context, task fsm.Task[effect]) (events []event, err error) {
				switch task.Effect.(type) {
				case efPay:
					failed.Do(func() { err = errors.New("link down") })
					return []event{evRejected{"no route"}}, err
				default:
					return []event{evGivenBack{}, evSettled{}}, nil
				}
			},
		}))
		_, err := e.Create(t.Context(), "a", stNew{}, evOffered{7})
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			clock.Advance(time.Second)
			inst, err := e.Get(t.Context(), "a")
			return err == nil && inst.Terminal
		}, 10*time.Second, time.Millisecond)
		story, err := e.History(t.Context(), "a")
		require.NoError(t, err)
		require.Len(t, story, 3)
		require.Equal(t, []string{"offered", "rejected", "given_back"}, []string{story[0].Event, story[1].Event, story[2].Event})
		require.JSONEq(t, `{"Reason":"no route"}`, string(story[1].Data))
		require.Equal(t, "new", story[0].From)
		require.Equal(t, "refunded", story[2].To)
		require.EqualValues(t, 1, story[0].Effects[0].Failures)
		require.Contains(t, story[1].Effects[0].Note, "result dropped", "evSettled came in a state that doesn't admit it")
		require.False(t, story[1].Effects[0].Done.IsZero())
		require.Equal(t, "escrow/a/1/0", story[0].Effects[0].Key)

		counts, err := e.Counts(t.Context())
		require.NoError(t, err)
		require.Equal(t, map[string]int64{"refunded": 1}, counts)
		list, err := e.List(t.Context(), fsm.Filter{State: "refunded"})
		require.NoError(t, err)
		require.Equal(t, state(stRefunded{"no route"}), list[0].State)
		list, err = e.List(t.Context(), fsm.Filter{Live: true})
		require.NoError(t, err)
		require.Empty(t, list)
	})
}

func TestIllegalAndHookErrorsChangeNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		veto := errors.New("the books say no")
		var refuse bool
		e := newEngine(t, open(), escrow(), options{
			InTx: func(context.Context, *store.Tx, fsm.Transition[state, event]) error {
				if refuse {
					return veto
				}
				return nil
			},
		})
		_, err := e.Send(t.Context(), "nobody", evSettled{})
		require.ErrorIs(t, err, store.ErrNotFound)
		_, err = e.Create(t.Context(), "a", stNew{}, evSettled{})
		require.ErrorIs(t, err, fsm.ErrIllegal)
		_, err = e.Create(t.Context(), "a", stNew{}, evOffered{2})
		require.NoError(t, err)
		_, err = e.Create(t.Context(), "a", stNew{}, evOffered{2})
		require.ErrorIs(t, err, store.ErrUnique)
		_, err = e.Send(t.Context(), "a", evSettled{})
		var illegal *fsm.IllegalError
		require.ErrorAs(t, err, &illegal)
		require.Equal(t, fsm.IllegalError{Machine: "escrow", ID: "a", State: "paying", Event: "settled"}, *illegal)
		refuse = true
		_, err = e.Send(t.Context(), "a", evDelivered{})
		require.ErrorIs(t, err, veto)
		inst, err := e.Get(t.Context(), "a")
		require.NoError(t, err)
		require.EqualValues(t, 1, inst.Version)
		require.Equal(t, state(stPaying{2}), inst.State)
		refuse = false
		_, err = e.Send(t.Context(), "a", evDelivered{})
		require.NoError(t, err)
	})
}

// Two engines on one database (two replicas without a lease): each event is
// taken once, however stale what an engine remembers.
func TestTwoEnginesOneWinner(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		engines := []*engine{newEngine(t, open(), escrow(), options{}), newEngine(t, open(), escrow(), options{})}
		for i := range 20 {
			id := fmt.Sprint(i)
			_, err := engines[i%2].Create(t.Context(), id, stNew{}, evOffered{2})
			require.NoError(t, err)
			errs := make(chan error, 2)
			for _, e := range engines {
				go func() {
					_, err := e.Send(context.Background(), id, evDelivered{})
					errs <- err
				}()
			}
			first, second := <-errs, <-errs
			if first != nil {
				first, second = second, first
			}
			require.NoError(t, first)
			require.ErrorIs(t, second, fsm.ErrIllegal)
		}
	})
}

func TestDeadline(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		start := time.UnixMilli(1_700_000_000_000)
		clock := fsmtest.NewClock(start)
		m := escrow()
		m.Step = func(s state, v event) (state, []effect, error) {
			if _, late := v.(evTimeOut); late && s == state(stPaying{2}) {
				return stRefunded{"late"}, nil, nil
			}
			return step(s, v)
		}
		m.Deadline = func(s state) (time.Time, event, bool) {
			if s, ok := s.(stPaying); ok {
				due := start.Add(time.Duration(s.Amount) * time.Hour)
				return due, evTimeOut{due}, true
			}
			return time.Time{}, nil, false
		}
		db := open()
		e := started(t, newEngine(t, db, m, options{Clock: clock}))
		_, err := e.Create(t.Context(), "late", stNew{}, evOffered{2})
		require.NoError(t, err)
		_, err = e.Create(t.Context(), "intime", stNew{}, evOffered{2})
		require.NoError(t, err)
		_, err = e.Send(t.Context(), "intime", evDelivered{})
		require.NoError(t, err)
		inst, err := e.Get(t.Context(), "late")
		require.NoError(t, err)
		require.Equal(t, start.Add(2*time.Hour).UnixMilli(), inst.Due.UnixMilli())
		// The time-out outlives the process.
		e.Close()
		e = started(t, newEngine(t, db, m, options{Clock: clock}))
		clock.Advance(2*time.Hour - time.Second)
		inst, err = e.Get(t.Context(), "late")
		require.NoError(t, err)
		require.False(t, inst.Terminal)
		clock.Advance(time.Second)
		await(t, e, "late", "refunded")
		inst, err = e.Get(t.Context(), "intime")
		require.NoError(t, err)
		require.Equal(t, "settling", inst.State.StateName())
		story, err := e.History(t.Context(), "late")
		require.NoError(t, err)
		require.Equal(t, start.Add(2*time.Hour).UnixMilli(), story[1].At.UnixMilli(), "an event's own time is recorded")
	})
}

// Pending effects wait for a reconciliation that fails at first, and run in
// order after it; new instances don't wait.
func TestReconcileComesFirst(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		old := newEngine(t, db, escrow(), options{})
		_, err := old.Create(t.Context(), "a", stNew{}, evOffered{2})
		require.NoError(t, err)
		_, err = old.Send(t.Context(), "a", evDelivered{})
		require.NoError(t, err)
		old.Close()

		var (
			mu   sync.Mutex
			log  []string
			gate = make(chan struct{})
		)
		note := func(s string) {
			mu.Lock()
			defer mu.Unlock()
			log = append(log, s)
		}
		e := newEngine(t, db, escrow(), options{
			Reconcile: func(_ context.Context, id string, s state) ([]event, error) {
				select {
				case <-gate:
					note("reconciled " + id)
					return []event{evOffered{1}}, nil // no longer admitted: passed over
				default:
					return nil, errors.New("lnd is not ready")
				}
			},
			Execute: func(_ context.Context, task fsm.Task[effect]) ([]event, error) {
				note(task.Key)
				if _, ok := task.Effect.(efSettle); ok {
					return []event{evSettled{}}, nil
				}
				return nil, nil
			},
		})
		report, err := e.Recover(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, report.Unfinished)
		require.ErrorContains(t, report.Failed["a"], "not ready")
		_, err = e.Create(t.Context(), "b", stNew{}, evOffered{2})
		require.NoError(t, err)
		_, err = e.Send(t.Context(), "b", evDelivered{})
		require.NoError(t, err)
		await(t, e, "b", "done")
		close(gate)
		await(t, e, "a", "done")
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, []string{"escrow/b/1/0", "escrow/b/2/0", "reconciled a", "escrow/a/1/0", "escrow/a/2/0"}, log)
	})
}

// An effect that waits must not hold up the instance's others if it is declared
// concurrent, and Close ends it.
func TestConcurrentEffectsAndClose(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t))
	ignore := goleak.IgnoreCurrent()
	waiting := make(chan struct{})
	e := started(t, newEngine(t, db, escrow(), options{
		Workers:    1,
		Concurrent: func(f effect) bool { _, pay := f.(efPay); return pay },
		Execute: func(ctx context.Context, task fsm.Task[effect]) ([]event, error) {
			if _, pay := task.Effect.(efPay); pay {
				close(waiting)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return []event{evSettled{}}, nil
		},
	}))
	_, err := e.Create(t.Context(), "a", stNew{}, evOffered{2})
	require.NoError(t, err)
	<-waiting
	_, err = e.Send(t.Context(), "a", evDelivered{})
	require.NoError(t, err)
	await(t, e, "a", "done")
	e.Close()
	goleak.VerifyNone(t, ignore)
	pending, err := e.Pending(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, pending, "the effect that was cut off runs again after the next start")
}

// TestInterruptionIsNoAnswer: an effect that the end of its owner cuts off says so as
// if the other side had. It runs again after the next start, and nothing came of it.
func TestInterruptionIsNoAnswer(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t))
	const times = 50
	for i := range times {
		id := fmt.Sprint(i)
		owner, end := context.WithCancel(t.Context())
		stream, done := context.WithCancel(owner)
		called := make(chan struct{})
		e := started(t, newEngine(t, db, escrow(), options{
			Context: owner, Workers: 2 * times,
			Execute: func(ctx context.Context, task fsm.Task[effect]) ([]event, error) {
				if task.ID != id {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				close(called)
				<-stream.Done()
				return []event{evRejected{"the node does not answer: " + stream.Err().Error()}}, nil
			},
		}))
		_, err := e.Create(t.Context(), id, stNew{}, evOffered{2})
		require.NoError(t, err)
		<-called
		end()
		for range i % 5 {
			runtime.Gosched()
		}
		e.Close()
		done()
		inst, err := e.Get(t.Context(), id)
		require.NoError(t, err)
		require.EqualValues(t, 1, inst.Version, "it is %v", inst.State)
	}
	again := newEngine(t, db, escrow(), options{})
	pending, err := again.Pending(t.Context())
	require.NoError(t, err)
	require.Len(t, pending, times)
}

func TestFencedByLease(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db, other := open(), open()
		lease, err := db.AcquireLease(t.Context(), store.LeaseConfig{Name: "gw", Owner: "a"})
		require.NoError(t, err)
		e := newEngine(t, db, escrow(), options{Fence: lease.Check})
		_, err = e.Create(t.Context(), "x", stNew{}, evOffered{2})
		require.NoError(t, err)
		// Another process of the same name takes over; this one hasn't noticed.
		second, err := other.AcquireLease(t.Context(), store.LeaseConfig{Name: "gw", Owner: "a"})
		require.NoError(t, err)
		require.Equal(t, lease.Epoch()+1, second.Epoch())
		_, err = e.Send(t.Context(), "x", evDelivered{})
		require.ErrorIs(t, err, store.ErrLeaseLost)
		inst, err := e.Get(t.Context(), "x")
		require.NoError(t, err)
		require.EqualValues(t, 1, inst.Version)
		require.NoError(t, lease.Release(t.Context()))
		require.True(t, second.Valid(), "releasing a lost lease must not take it from its new owner")
		require.NoError(t, second.Release(t.Context()))
	})
}

func TestNewerStateIsRefused(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t))
	e := newEngine(t, db, escrow(), options{})
	_, err := e.Create(t.Context(), "a", stNew{}, evOffered{2})
	require.NoError(t, err)
	e.Close()
	require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE fsm_instances SET data = '{"Amount":2,"Fee":1}'`)
		return err
	}))
	e = newEngine(t, db, escrow(), options{})
	report, err := e.Recover(t.Context())
	require.NoError(t, err)
	require.ErrorContains(t, report.Failed["a"], "Fee")
	_, err = e.Send(t.Context(), "a", evDelivered{})
	require.ErrorContains(t, err, "Fee")
}

func TestMalformedMachines(t *testing.T) {
	for name, spoil := range map[string]func(*fsm.Machine[state, event, effect]){
		"no step":       func(m *fsm.Machine[state, event, effect]) { m.Step = nil },
		"same name":     func(m *fsm.Machine[state, event, effect]) { m.States = append(m.States, stNew{}) },
		"pointer":       func(m *fsm.Machine[state, event, effect]) { m.Events = append(m.Events, &evOffered{}) },
		"unknown edge":  func(m *fsm.Machine[state, event, effect]) { m.Edges[0].To = "nowhere" },
		"edge twice":    func(m *fsm.Machine[state, event, effect]) { m.Edges = append(m.Edges, m.Edges[0]) },
		"edge's effect": func(m *fsm.Machine[state, event, effect]) { m.Edges[0].Effects = []string{"x"} },
	} {
		m := escrow()
		spoil(&m)
		require.Error(t, m.Validate(), name)
	}
}

// Another process's transition leaves a gap in what this one has queued: it reads
// the outbox for what it missed, and no more.
func TestGapIsFilledOnce(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t))
	var (
		mu   sync.Mutex
		log  []string
		gate = make(chan struct{})
		busy = make(chan struct{})
	)
	a := started(t, newEngine(t, db, escrow(), options{
		Concurrent: func(f effect) bool { _, pay := f.(efPay); return pay },
		Execute: func(_ context.Context, task fsm.Task[effect]) ([]event, error) {
			mu.Lock()
			log = append(log, task.Key)
			mu.Unlock()
			if _, ok := task.Effect.(efPay); ok {
				close(busy)
				<-gate
			}
			return nil, nil
		},
	}))
	b := newEngine(t, db, escrow(), options{})
	_, err := a.Create(t.Context(), "x", stNew{}, evOffered{2})
	require.NoError(t, err)
	<-busy
	_, err = b.Send(t.Context(), "x", evDelivered{})
	require.NoError(t, err)
	_, err = a.Send(t.Context(), "x", evSettled{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(log) > 1
	}, 10*time.Second, time.Millisecond)
	close(gate)
	require.Eventually(t, func() bool {
		pending, err := a.Pending(t.Context())
		return err == nil && len(pending) == 0
	}, 10*time.Second, time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []string{"escrow/x/1/0", "escrow/x/2/0"}, log)
}

// The last effect of an instance that has come to its end is not forgotten.
func TestEffectsOfFinishedInstances(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t))
	old := newEngine(t, db, escrow(), options{})
	_, err := old.Create(t.Context(), "x", stNew{}, evOffered{2})
	require.NoError(t, err)
	for _, v := range []event{evDelivered{}, evSettled{}} {
		_, err = old.Send(t.Context(), "x", v)
		require.NoError(t, err)
	}
	old.Close()
	e := started(t, newEngine(t, db, escrow(), options{}))
	require.Eventually(t, func() bool {
		pending, err := e.Pending(t.Context())
		return err == nil && len(pending) == 0
	}, 10*time.Second, time.Millisecond)
}

// What is over can be forgotten, with all its traces, and nothing else.
func TestForget(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		e := started(t, newEngine(t, db, escrow(), options{
			Execute: func(_ context.Context, task fsm.Task[effect]) ([]event, error) {
				if _, pay := task.Effect.(efPay); pay {
					return []event{evRejected{"no route"}}, nil
				}
				return nil, nil
			},
		}))
		forget := func(id string) error {
			return db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error { return e.ForgetTx(ctx, tx, id) })
		}
		require.NoError(t, forget("never was"))
		_, err := e.Create(t.Context(), "a", stNew{}, evOffered{2})
		require.NoError(t, err)
		_, err = e.Create(t.Context(), "b", stNew{}, evOffered{2})
		require.NoError(t, err)
		for _, id := range []string{"a", "b"} {
			require.Eventually(t, func() bool {
				_, err := e.Send(t.Context(), id, evGivenBack{})
				inst, getErr := e.Get(t.Context(), id)
				pending, pendErr := e.Pending(t.Context())
				return (err == nil || errors.Is(err, fsm.ErrIllegal)) && getErr == nil && inst.Terminal && pendErr == nil && len(pending) == 0
			}, 15*time.Second, time.Millisecond)
		}
		require.NoError(t, forget("a"))
		_, err = e.Get(t.Context(), "a")
		require.ErrorIs(t, err, store.ErrNotFound)
		_, err = e.Send(t.Context(), "a", evSettled{})
		require.ErrorIs(t, err, store.ErrNotFound)
		story, err := e.History(t.Context(), "b")
		require.NoError(t, err)
		require.NotEmpty(t, story, "b's story stays")

		_, err = e.Create(t.Context(), "a", stNew{}, evOffered{2})
		require.NoError(t, err, "an id that was forgotten leaves nothing behind")
		idle := newEngine(t, db, escrow(), options{})
		_, err = idle.Create(t.Context(), "c", stNew{}, evOffered{2})
		require.NoError(t, err)
		require.ErrorIs(t, forget("c"), fsm.ErrUnfinished)
	})
}

// A list of states that are at hand is what the database has, also of what another
// process moved meanwhile.
func TestSharedLists(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		one, two := newEngine(t, db, escrow(), options{}), newEngine(t, db, escrow(), options{})
		for _, id := range []string{"a", "b", "c"} {
			_, err := one.Create(t.Context(), id, stNew{}, evOffered{7})
			require.NoError(t, err)
		}
		_, err := two.Send(t.Context(), "b", evRejected{"no route"})
		require.NoError(t, err)
		for _, e := range []*engine{one, two} {
			read, err := e.List(t.Context(), fsm.Filter{Live: true})
			require.NoError(t, err)
			shared, err := e.List(t.Context(), fsm.Filter{Live: true, Shared: true})
			require.NoError(t, err)
			require.Equal(t, read, shared)
			require.Equal(t, state(stRefunding{7, "no route"}), shared[1].State)
		}
	})
}
