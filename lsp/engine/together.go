package engine

import (
	"context"
	"sync"

	"github.com/sluice-lsp/sluice/internal/store"
)

// together lets agreements that are made at the same time share a transaction:
// each sums what all others agreed on, so that apart they would wait for the
// disk one by one, and on PostgreSQL undo each other.
type together struct {
	mu      sync.Mutex
	waiting []*joined
	busy    bool
}

type joined struct {
	ctx  context.Context //nolint:containedctx // of the call that waits
	do   func(ctx context.Context, tx *store.Tx) error
	err  error
	done chan struct{}
}

// mostTogether bounds a transaction, and how long those wait that come next.
const mostTogether = 64

// writeTogether is db.Write for work that may share its transaction with that of
// others. What fails is done again by itself: it undoes no other.
func (e *Engine) writeTogether(ctx context.Context, do func(ctx context.Context, tx *store.Tx) error) error {
	j := &joined{ctx: ctx, do: do, done: make(chan struct{})}
	t := &e.together
	t.mu.Lock()
	t.waiting = append(t.waiting, j)
	lead := !t.busy
	t.busy = true
	t.mu.Unlock()
	if lead {
		go e.writeWaiting() // ends with those who wait for it
	}
	// It may be durable already when ctx ends: only the outcome is an answer.
	<-j.done
	return j.err
}

// writeWaiting writes what waits, until nothing does.
func (e *Engine) writeWaiting() {
	t := &e.together
	for {
		t.mu.Lock()
		n := min(len(t.waiting), mostTogether)
		batch := t.waiting[:n:n]
		t.waiting = t.waiting[n:]
		t.busy = n > 0
		t.mu.Unlock()
		if n == 0 {
			return
		}
		e.writeBatch(batch)
	}
}

func (e *Engine) writeBatch(batch []*joined) {
	err := e.db.Write(e.ctx, func(ctx context.Context, tx *store.Tx) error {
		for _, j := range batch {
			if j.ctx.Err() != nil {
				return j.ctx.Err() // by itself it is told so
			}
			if err := j.do(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	for _, j := range batch {
		switch {
		case err == nil:
		case len(batch) == 1 && j.ctx.Err() == nil:
			j.err = err
		default:
			j.err = e.db.Write(j.ctx, j.do)
		}
		close(j.done)
	}
}
