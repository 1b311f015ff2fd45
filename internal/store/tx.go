package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Tx is a transaction as Write and Read hand it to their closure. It has the
// methods that sqlc's generated code wants (its DBTX).
type Tx struct {
	tx *sql.Tx
	// conn is the connection that tx is on; nil on SQLite, which needs no
	// pipelining.
	conn     *sql.Conn
	db       *DB
	readOnly bool
	onCommit []func()
	onUnsure []func()
	onUndone []func()
	topics   []string

	// leases are those that were found held in this transaction: serializable
	// isolation makes that hold until the commit.
	leases map[leaseHeld]bool
	// marks says that the transaction takes note of a restore, and does nothing else.
	marks bool
	// known is what was durable of each lease before this transaction began.
	known map[string]leaseMark

	// gather says that statements may wait for each other (Later); waiting do, of the
	// member of a shared transaction that runs. flushed is the error that ended it,
	// blamed the member whose statement it was.
	gather  bool
	waiting []gathered
	member  int
	flushed error
	blamed  int
}

type leaseHeld struct {
	name  string
	epoch int64
}

// ExecContext runs a statement in the transaction.
func (tx *Tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := tx.flush(ctx); err != nil {
		return nil, err
	}
	return tx.tx.ExecContext(ctx, query, args...)
}

// PrepareContext prepares a statement in the transaction.
func (tx *Tx) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	return tx.tx.PrepareContext(ctx, query)
}

// QueryContext runs a query in the transaction.
func (tx *Tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := tx.flush(ctx); err != nil {
		return nil, err
	}
	return tx.tx.QueryContext(ctx, query, args...)
}

// QueryRowContext runs a query for one row in the transaction.
func (tx *Tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if tx.flush(ctx) != nil {
		// The row cannot carry that error; flush gives it again.
		var end context.CancelFunc
		ctx, end = context.WithCancel(ctx)
		end()
	}
	return tx.tx.QueryRowContext(ctx, query, args...)
}

// Now is the database's wall clock.
func (tx *Tx) Now() time.Time { return tx.db.now() }

// OnCommit runs f once this transaction is known to be durable, before Write
// returns, in the order of the calls. An attempt that is rolled back or retried
// drops what it registered; so does a commit whose outcome is unknown.
func (tx *Tx) OnCommit(f func()) { tx.onCommit = append(tx.onCommit, f) }

// OnUnknown runs f instead of OnCommit's functions when the commit's outcome is
// unknown (ErrOutcomeUnknown): whoever acts on commits must look whether this one
// took place. It may still be taking place when f runs.
func (tx *Tx) OnUnknown(f func()) { tx.onUnsure = append(tx.onUnsure, f) }

// OnRollback runs f when this attempt is known to have changed nothing, before it
// is tried again or its error is returned. It undoes what the closure noted in
// memory: that others count with it as long as it may be committed.
func (tx *Tx) OnRollback(f func()) { tx.onUndone = append(tx.onUndone, f) }

// Notify wakes the listeners of a topic once the transaction is durable. It is
// a hint: a listener must also look at the tables when it starts.
func (tx *Tx) Notify(topic string) { tx.topics = append(tx.topics, topic) }

// CheckLease fences the transaction: it fails with ErrLeaseLost unless the
// lease still has this epoch, and with ErrWentBack if the database is of an earlier
// time than this process knows. Serializable isolation makes the check hold until
// the commit.
func (tx *Tx) CheckLease(ctx context.Context, name string, epoch int64) error {
	held := leaseHeld{name: name, epoch: epoch}
	if tx.db.hasGoneBack() {
		return fmt.Errorf("lease %q, epoch %d: %w", name, epoch, ErrWentBack)
	}
	if tx.leases[held] {
		return nil
	}
	row, err := tx.lease(ctx, name)
	if err != nil {
		return fmt.Errorf("check lease %q: %w", name, err)
	}
	if row.Epoch != epoch || row.Owner == "" {
		return fmt.Errorf("lease %q, epoch %d: %w", name, epoch, ErrLeaseLost)
	}
	if tx.leases == nil {
		tx.leases = make(map[leaseHeld]bool, 1)
	}
	tx.leases[held] = true
	return nil
}

type txKey struct{}

// errNested guards against the one mistake that SQLite punishes with a
// dead-lock: the inner transaction would wait for the outer one's connection.
var errNested = errors.New("a transaction was started inside another one's closure: pass the Tx on instead")

// Write runs f in a serializable transaction and commits it. When Write returns
// nil, the changes are durable.
//
// f MAY RUN SEVERAL TIMES: conflicts with other transactions roll back and start
// again with backoff, until Config.RetryFor has passed (ErrConflict, or
// ErrUnavailable when SQLite stayed locked). So f has no effects but those
// through tx, sets captured variables anew at every run, and leaves the rest to
// OnCommit. An error of f rolls back and is returned, mapped by MapError.
func (db *DB) Write(ctx context.Context, f func(ctx context.Context, tx *Tx) error) error {
	if ctx.Value(txKey{}) == db {
		return errNested
	}
	return db.write(ctx, false, f)
}

// WriteFenced is Write, unless fence refuses: pass a [Lease]'s Check, so that only its
// holder commits. It runs first in every run of the transaction; nil refuses nobody.
func (db *DB) WriteFenced(ctx context.Context, fence, f func(ctx context.Context, tx *Tx) error) error {
	if fence == nil {
		return db.Write(ctx, f)
	}
	return db.Write(ctx, func(ctx context.Context, tx *Tx) error {
		if err := fence(ctx, tx); err != nil {
			return err
		}
		return f(ctx, tx)
	})
}

// write is Write; with gather statements may wait for each other (Later).
func (db *DB) write(ctx context.Context, gather bool, f func(ctx context.Context, tx *Tx) error) error {
	var (
		deadline = time.Now().Add(db.retryFor)
		wait     = time.Millisecond
	)
	for {
		err := db.try(ctx, false, gather, f)
		if err == nil || !retryable(err) {
			return err
		}
		if !time.Now().Before(deadline) {
			return fmt.Errorf("gave up after %s: %w", db.retryFor, err)
		}
		// Jitter, so that transactions that collided don't collide again.
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
		wait = min(2*wait, 200*time.Millisecond)
	}
}

// Read runs f in a read-only transaction that sees one consistent state. It is
// retried as Write is.
func (db *DB) Read(ctx context.Context, f func(ctx context.Context, tx *Tx) error) error {
	if ctx.Value(txKey{}) == db {
		return errNested
	}
	deadline := time.Now().Add(db.retryFor)
	for {
		err := db.try(ctx, true, false, f)
		if err == nil || !retryable(err) || ctx.Err() != nil || !time.Now().Before(deadline) {
			return err
		}
	}
}

// try is one attempt.
func (db *DB) try(ctx context.Context, readOnly, gather bool, f func(ctx context.Context, tx *Tx) error) (err error) {
	if db.hooks.Begin != nil {
		if err := db.hooks.Begin(readOnly); err != nil {
			return err
		}
	}
	pool := db.writer
	if readOnly {
		pool = db.reader
	}
	known := db.known()
	raw, conn, err := db.begin(ctx, pool, readOnly)
	if err != nil {
		return fmt.Errorf("begin: %w", MapError(err))
	}
	done, undone := false, true
	free := func() {
		if conn != nil {
			_ = conn.Close()
			conn = nil
		}
	}
	tx := &Tx{tx: raw, conn: conn, db: db, readOnly: readOnly, gather: gather && conn != nil, known: known}
	defer func() {
		if !done {
			// Also when f panics: the writer's connection must come free.
			_ = raw.Rollback()
		}
		free()
		if undone {
			for i := len(tx.onUndone) - 1; i >= 0; i-- {
				tx.onUndone[i]()
			}
		}
	}()
	if err := f(context.WithValue(ctx, txKey{}, db), tx); err != nil {
		return MapError(err)
	}
	if err := tx.flush(ctx); err != nil {
		return MapError(err)
	}
	if !readOnly && !tx.marks && db.hasGoneBack() {
		return ErrWentBack
	}
	if !readOnly && db.hooks.BeforeCommit != nil {
		if err := db.hooks.BeforeCommit(); err != nil {
			return err
		}
	}
	done = true
	err = raw.Commit()
	if err != nil {
		_ = raw.Rollback()
	}
	// Whoever hears of the commit may want the connection.
	free()
	if err != nil {
		if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil {
			// database/sql rolled it back when the context ended.
			return fmt.Errorf("commit: %w", ctx.Err())
		}
		if !readOnly && commitUnknown(err) {
			undone = false
			tx.unsure()
			return fmt.Errorf("commit: %w: %w: %w", ErrUnavailable, ErrOutcomeUnknown, err)
		}
		return fmt.Errorf("commit: %w", MapError(err))
	}
	undone = false
	if readOnly {
		return nil
	}
	if db.hooks.AfterCommit != nil {
		if err := db.hooks.AfterCommit(); err != nil {
			tx.unsure()
			return err
		}
	}
	for _, g := range tx.onCommit {
		g()
	}
	db.wake.queue(tx.topics)
	return nil
}

// begin begins a transaction; on PostgreSQL it gives the connection too, to be
// closed after the transaction's end.
func (db *DB) begin(ctx context.Context, pool *sql.DB, readOnly bool) (*sql.Tx, *sql.Conn, error) {
	if db.engine != Postgres {
		raw, err := pool.BeginTx(ctx, nil)
		return raw, nil, err
	}
	// Reads are serializable too, or a reader could see a state that no serial
	// order of the writers explains (and CheckLease rests on that).
	opts := &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: readOnly}
	for left := pool.Stats().OpenConnections; ; left-- {
		conn, err := pool.Conn(ctx)
		if err != nil {
			return nil, nil, err
		}
		raw, err := conn.BeginTx(ctx, opts)
		if err == nil {
			return raw, conn, nil
		}
		_ = conn.Close()
		// The pool forgets a connection that turns out to be dead. After the
		// server's restart all of them are, and then a new one is made.
		if !errors.Is(classify(err), ErrUnavailable) || left <= 0 {
			return nil, nil, err
		}
	}
}

func (tx *Tx) unsure() {
	for _, f := range tx.onUnsure {
		f()
	}
}
