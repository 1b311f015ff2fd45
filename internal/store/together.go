package store

import (
	"context"
	"sync"
)

// Together lets writes that are made at the same time share a transaction, and with it
// the wait for the disk. It promises that each is durable when it returns nil, and that
// one that fails undoes no other: it is done again by itself.
type Together struct {
	db   *DB
	most int

	mu      sync.Mutex
	waiting []*joined
	busy    bool
}

type joined struct {
	ctx  context.Context //nolint:containedctx // of the call that waits
	do   func(ctx context.Context, tx *Tx) error
	err  error
	done chan struct{}
}

// NewTogether shares transactions among so many writes at most: that bounds how long
// those wait that come next.
func NewTogether(db *DB, most int) *Together { return &Together{db: db, most: most} }

// Write is DB.Write for what may share its transaction. It returns when the outcome is
// known, even if its context ends before.
func (t *Together) Write(ctx context.Context, do func(ctx context.Context, tx *Tx) error) error {
	if ctx.Value(txKey{}) == t.db {
		return errNested
	}
	j := &joined{ctx: ctx, do: do, done: make(chan struct{})}
	t.mu.Lock()
	t.waiting = append(t.waiting, j)
	lead := !t.busy
	t.busy = true
	t.mu.Unlock()
	if lead {
		go t.writeWaiting() // ends with those who wait for it
	}
	<-j.done
	return j.err
}

// writeWaiting writes what waits, until nothing does.
func (t *Together) writeWaiting() {
	for {
		t.mu.Lock()
		n := min(len(t.waiting), t.most)
		batch := t.waiting[:n:n]
		t.waiting = t.waiting[n:]
		t.busy = n > 0
		t.mu.Unlock()
		if n == 0 {
			return
		}
		t.writeBatch(batch)
	}
}

func (t *Together) writeBatch(batch []*joined) {
	var err error
	if len(batch) > 1 {
		// No member's end may undo the others: each is looked at before its turn.
		err = t.db.Write(context.WithoutCancel(batch[0].ctx), func(ctx context.Context, tx *Tx) error {
			for _, j := range batch {
				if err := j.ctx.Err(); err != nil {
					return err
				}
				if err := j.do(ctx, tx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, j := range batch {
		if len(batch) == 1 || err != nil {
			j.err = t.db.Write(j.ctx, j.do)
		}
		close(j.done)
	}
}
