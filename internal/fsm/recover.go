package fsm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/internal/fsm/fsmdb"
	"github.com/sluice-lsp/sluice/internal/store"
)

// Report tells what Recover found.
type Report struct {
	// Unfinished instances were found, Reconciled of them are.
	Unfinished, Reconciled int

	// Failed holds the reasons of those that are not, by id. They are tried
	// again in the background; their effects and time-outs wait until then. One
	// whose row cannot be read is here as well, and stays.
	Failed map[string]error
}

const recoverPage = 500

// Recover takes up what an earlier process left: each unfinished instance is
// reconciled with the world, and then its pending effects run again and its
// time-out is set. It returns when each instance was tried once; call it once,
// before new work is accepted. An error (the database) means that it may be
// called again.
func (e *Engine[S, V, F]) Recover(ctx context.Context) (Report, error) {
	report := Report{Failed: make(map[string]error)}
	e.mu.Lock()
	if e.phase != phaseIdle {
		e.mu.Unlock()
		return report, fmt.Errorf("%s: Recover was called before", e.m.Name)
	}
	e.phase = phaseRecovering
	e.mu.Unlock()
	rows, leftovers, err := e.unfinished(ctx)
	if err != nil {
		e.mu.Lock()
		e.phase = phaseIdle
		e.mu.Unlock()
		return report, fmt.Errorf("%s: list unfinished instances: %w", e.m.Name, err)
	}
	report.Unfinished = len(rows)
	parked := e.begin(rows, leftovers, &report)
	var (
		mu    sync.Mutex
		group errgroup.Group
	)
	group.SetLimit(16)
	for _, inst := range parked {
		group.Go(func() error {
			err := e.reconcile(ctx, inst)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				report.Reconciled++
				return nil
			}
			report.Failed[inst.id] = err
			e.opt.Log.Error("instance not reconciled, its effects wait", zap.String("id", inst.id), zap.Error(err))
			e.mu.Lock()
			defer e.mu.Unlock()
			e.start(func() {
				if e.pause(e.opt.RetryMin) {
					e.persevere("instance not reconciled", inst.id, func() error { return e.reconcile(e.ctx, inst) })
				}
			})
			return nil
		})
	}
	return report, group.Wait()
}

// unfinished lists the instances that are not terminal and the ids that have
// pending effects.
func (e *Engine[S, V, F]) unfinished(ctx context.Context) (rows []fsmdb.FsmInstance, leftovers []string, err error) {
	err = e.opt.DB.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		rows = nil
		q := fsmdb.New(tx)
		for after := ""; ; after = rows[len(rows)-1].ID {
			page, err := q.ListLive(ctx, fsmdb.ListLiveParams{Machine: e.m.Name, ID: after, Limit: recoverPage})
			if err != nil {
				return err
			}
			rows = append(rows, page...)
			if len(page) < recoverPage {
				break
			}
		}
		leftovers, err = q.ListUndoneIDs(ctx, e.m.Name)
		return err
	})
	return rows, leftovers, err
}

// begin lets the engine run: what was found unfinished is parked until it is
// reconciled; finished instances with pending effects and instances that were
// created since Recover began need no reconciliation.
func (e *Engine[S, V, F]) begin(rows []fsmdb.FsmInstance, leftovers []string, report *Report) []*instance[S, V, F] {
	defer e.follow()
	e.mu.Lock()
	defer e.mu.Unlock()
	var parked []*instance[S, V, F]
	for _, row := range rows {
		inst := e.live[row.ID]
		if inst == nil {
			inst = &instance[S, V, F]{id: row.ID}
			e.live[row.ID] = inst
		}
		inst.parked, inst.reload = true, true
		if inst.version < row.Version {
			s, err := e.codec.states.decode(row.State, row.Data)
			if err != nil {
				report.Failed[row.ID] = err
				e.opt.Log.Error("instance cannot be read", zap.String("id", row.ID), zap.Error(err))
				continue
			}
			inst.state, inst.version, inst.known = s, row.Version, true
			// A commit of this process may be known from here first.
			e.hear(Transition[S, V]{ID: row.ID, To: s, Seq: row.Version, At: time.UnixMilli(row.UpdatedMs)})
		}
		parked = append(parked, inst)
	}
	for _, id := range leftovers {
		if e.live[id] == nil {
			// Unfinished ones are there already, so this one is terminal.
			e.live[id] = &instance[S, V, F]{id: id, terminal: true, reload: true}
		}
	}
	e.phase = phaseRunning
	for _, inst := range e.live {
		e.arm(inst)
		e.work(inst)
	}
	return parked
}

// reconcile asks the world about one instance, sends what it missed, and lets it
// run. Events that came in meanwhile may have made some of it out of date; what
// the state doesn't admit any more is passed over.
func (e *Engine[S, V, F]) reconcile(ctx context.Context, inst *instance[S, V, F]) error {
	if e.opt.Reconcile != nil {
		s, _, _ := e.known(inst.id)
		events, err := e.opt.Reconcile(ctx, inst.id, s)
		if ended := e.ended(); ended != nil {
			return ended
		}
		if err != nil {
			return err
		}
		if err := e.catchUp(ctx, inst.id, events); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	inst.parked = false
	e.arm(inst)
	e.work(inst)
	return nil
}

func (e *Engine[S, V, F]) catchUp(ctx context.Context, id string, events []V) error {
	if len(events) == 0 {
		return nil
	}
	return e.opt.DB.WriteTogether(ctx, func(ctx context.Context, tx *store.Tx) error {
		for _, event := range events {
			_, err := e.apply(ctx, tx, id, 0, event)
			var (
				illegal *IllegalError
				hook    *hookError
			)
			if err != nil && !errors.As(err, &hook) && errors.As(err, &illegal) {
				if illegal.Repeated {
					continue
				}
				e.opt.Log.Warn("reconciliation came too late for the state", zap.String("id", id), zap.Error(err))
				continue
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// unsureFor is how long a commit whose answer was lost may still be under way in
// the database server.
const unsureFor = 30 * time.Second

// unsure finds out whether a transition took place whose commit got no answer.
// If it did, its effects are in the outbox and nobody else would run them.
func (e *Engine[S, V, F]) unsure(id string, seq int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.look(id, seq)
}

// look is unsure for callers that hold e.mu.
func (e *Engine[S, V, F]) look(id string, seq int64) {
	e.start(func() {
		until := e.opt.Clock.Now().Add(unsureFor)
		for wait := e.opt.RetryMin; ; wait = min(2*wait, e.opt.RetryMax) {
			row, ok := e.read(id)
			if ok && row.Version >= seq {
				if e.refresh(id, row) {
					// It was not known here: it may have ended, and been forgotten, since it was read.
					if row, ok = e.read(id); ok {
						e.refresh(id, row)
					}
				}
				return
			}
			if !ok || !e.opt.Clock.Now().Before(until) || !e.pause(wait) {
				return
			}
		}
	})
}

// read goes on until it is told what the database says of an instance, which is the zero
// value of one that does not exist; not ok: the engine ends.
func (e *Engine[S, V, F]) read(id string) (row Instance[S], ok bool) {
	ok = e.persevere("a commit's outcome is not known", id, func() (err error) {
		row, err = e.Get(e.ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	return row, ok
}

// refresh takes over what the database says of an instance, and tells whether this
// process did not know it.
func (e *Engine[S, V, F]) refresh(id string, row Instance[S]) (unknown bool) {
	e.mu.Lock()
	if row.Version == 0 || e.closed {
		e.mu.Unlock()
		return false
	}
	inst := e.live[id]
	if unknown = inst == nil; unknown {
		inst = &instance[S, V, F]{id: id}
		e.live[id] = inst
	}
	if row.Version > inst.version {
		inst.state, inst.version, inst.known, inst.terminal = row.State, row.Version, true, row.Terminal
		e.arm(inst)
		e.hear(Transition[S, V]{ID: id, To: row.State, Seq: row.Version, At: row.Updated})
	}
	inst.reload = inst.reload || inst.loaded < inst.version
	e.mu.Unlock()
	e.follow()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.work(inst)
	return unknown
}

// hear passes a state on that the database told of. The caller holds e.mu.
func (e *Engine[S, V, F]) hear(t Transition[S, V]) {
	e.tell(t)
	e.news = append(e.news, t)
}
