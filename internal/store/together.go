package store

import (
	"context"
	"sync"
	"time"
)

const (
	// mostTogether bounds a shared transaction, and so how long those wait that
	// come next.
	mostTogether = 64
	// Shared transactions at a time: SQLite has one writer in any case.
	sharedSQLite   = 1
	sharedPostgres = 2
	// calmFor is how long there is one at a time after two have undone each other:
	// what is done again costs more than what they gain.
	calmFor = 2 * time.Second
)

// sharing are writes that share transactions.
type sharing struct {
	mu      sync.Mutex
	waiting []*joined
	leaders int
	calm    time.Time // until then one at a time
}

// joined is one write among others.
type joined struct {
	ctx  context.Context //nolint:containedctx // of the call that waits
	do   func(ctx context.Context, tx *Tx) error
	err  error
	done chan struct{}
}

// WriteTogether is Write for work that may share its transaction with that of
// others who ask at the same time: then they wait for the disk once. Everything
// that Write promises holds for each. One that fails is done again by itself: it
// undoes no other. Within the shared transaction they run one after the other, in
// the order in which they came, and see each other's changes.
func (db *DB) WriteTogether(ctx context.Context, f func(ctx context.Context, tx *Tx) error) error {
	if ctx.Value(txKey{}) == db {
		return errNested
	}
	j := &joined{ctx: ctx, do: f, done: make(chan struct{})}
	t := &db.together
	t.mu.Lock()
	t.waiting = append(t.waiting, j)
	lead := t.leaders < t.most(db.engine)
	if lead {
		t.leaders++
	}
	t.mu.Unlock()
	if lead {
		db.lead()
	}
	// It may be durable already when ctx ends: only the outcome is an answer.
	<-j.done
	return j.err
}

// lead writes those whose turn it is. Who came meanwhile is not for this caller
// to wait for.
func (db *DB) lead() {
	next := func() []*joined { return db.together.next(db.engine) }
	batch := next()
	if batch == nil {
		return
	}
	db.writeBatch(batch)
	if batch = next(); batch == nil {
		return
	}
	go func() {
		for ; batch != nil; batch = next() {
			db.writeBatch(batch)
		}
	}()
}

// most is how many shared transactions there may be now.
func (t *sharing) most(engine Engine) int {
	if engine != Postgres || time.Now().Before(t.calm) {
		return sharedSQLite
	}
	return sharedPostgres
}

// undone takes note that a shared transaction was undone by another.
func (t *sharing) undone() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calm = time.Now().Add(calmFor)
}

// next takes those whose turn it is; with nil a leader has ended. One too many
// leaves what waits to the others.
func (t *sharing) next(engine Engine) []*joined {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(t.waiting), mostTogether)
	if n == 0 || t.leaders > t.most(engine) {
		t.leaders--
		return nil
	}
	batch := t.waiting[:n:n]
	t.waiting = t.waiting[n:]
	return batch
}

// writeBatch writes all that can be written together, and then by itself what
// failed.
func (db *DB) writeBatch(batch []*joined) {
	// One by itself needs no second attempt, unless statements gather: then it
	// learns of an error late, and alone at once.
	if len(batch) == 1 && db.engine != Postgres {
		batch[0].finish(db.Write(batch[0].ctx, batch[0].do))
		return
	}
	var alone []*joined
	for len(batch) > 0 {
		failed := -1
		err := db.writeAll(batch, &failed)
		if err == nil || failed < 0 {
			// Committed, or nobody's fault: a commit that failed, or of which
			// nobody knows the outcome, did so for each of them.
			for _, j := range batch {
				j.finish(err)
			}
			break
		}
		alone = append(alone, batch[failed])
		batch = append(append([]*joined(nil), batch[:failed]...), batch[failed+1:]...)
	}
	for _, j := range alone {
		j.finish(db.Write(j.ctx, j.do))
	}
}

func (db *DB) writeAll(batch []*joined, failed *int) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// It ends when nobody waits for it any more.
	var (
		mu   sync.Mutex
		left = len(batch)
	)
	for _, j := range batch {
		stop := context.AfterFunc(j.ctx, func() {
			mu.Lock()
			defer mu.Unlock()
			if left--; left == 0 {
				cancel()
			}
		})
		defer stop()
	}
	runs := 0
	return db.write(ctx, true, func(ctx context.Context, tx *Tx) error {
		*failed = -1
		if runs++; runs > 1 {
			db.together.undone()
		}
		blame := func(i int, err error) error {
			if tx.flushed != nil {
				i, err = tx.blamed, tx.flushed
			}
			if !retryable(MapError(err)) {
				*failed = i
			}
			return err
		}
		for i, j := range batch {
			tx.member = i
			err := j.ctx.Err()
			if err == nil {
				err = j.do(ctx, tx)
			}
			if err != nil {
				return blame(i, err)
			}
		}
		if err := tx.flush(ctx); err != nil {
			return blame(0, err)
		}
		return nil
	})
}

func (j *joined) finish(err error) {
	j.err = err
	close(j.done)
}
