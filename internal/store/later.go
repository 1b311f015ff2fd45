package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// Later runs statements of a transaction whose outcome nothing in the closure
// waits for. In a shared transaction on PostgreSQL they gather and go to the server
// in one message, before the next statement whose outcome is waited for and before
// the commit: a round trip for each of many would be most of the time that they
// take. Everywhere else they run at once.
//
// It has the methods that sqlc's generated code wants (its DBTX). A statement that
// gathers says that it changed one row; what it really did is what check is told.
type Later struct {
	tx    *Tx
	check func(rows int64, err error) error
}

// Later says what becomes of such a statement: an error of check is the
// transaction's. A nil check passes the statement's own error on.
func (tx *Tx) Later(check func(rows int64, err error) error) Later {
	if check == nil {
		check = func(_ int64, err error) error { return err }
	}
	return Later{tx: tx, check: check}
}

// OneRow is a check that a statement changed one row, and what it means if not.
func OneRow(otherwise error) func(rows int64, err error) error {
	return func(rows int64, err error) error {
		if err == nil && rows != 1 {
			return otherwise
		}
		return err
	}
}

// gathered is a statement that waits.
type gathered struct {
	query  string
	args   []any
	check  func(rows int64, err error) error
	member int
}

// presumed is what a statement that has not run is taken to have done.
type presumed struct{}

func (presumed) LastInsertId() (int64, error) { return 0, fmt.Errorf("no such thing in this database") }
func (presumed) RowsAffected() (int64, error) { return 1, nil }

// ExecContext runs the statement now or later.
func (l Later) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if l.tx.gather {
		l.tx.waiting = append(l.tx.waiting, gathered{query: query, args: args, check: l.check, member: l.tx.member})
		return presumed{}, nil
	}
	res, err := l.tx.ExecContext(ctx, query, args...)
	var rows int64
	if err == nil {
		rows, err = res.RowsAffected()
	}
	return res, l.check(rows, err)
}

// PrepareContext is the transaction's.
func (l Later) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	return l.tx.PrepareContext(ctx, query)
}

// QueryContext is the transaction's.
func (l Later) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return l.tx.QueryContext(ctx, query, args...)
}

// QueryRowContext is the transaction's.
func (l Later) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return l.tx.QueryRowContext(ctx, query, args...)
}

// flush runs what waits. The first error ends the transaction, and is given again at
// every flush: the server may know nothing of it. Whose statement it was is in
// blamed.
func (tx *Tx) flush(ctx context.Context) error {
	if tx.flushed != nil || len(tx.waiting) == 0 {
		return tx.flushed
	}
	waiting := tx.waiting
	tx.waiting = nil
	err := tx.conn.Raw(func(driver any) error {
		c, ok := driver.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("the driver's connection is a %T", driver)
		}
		batch := &pgx.Batch{}
		for _, w := range waiting {
			batch.Queue(w.query, w.args...)
		}
		results := c.Conn().SendBatch(ctx, batch)
		for _, w := range waiting {
			tag, err := results.Exec()
			if err = w.check(tag.RowsAffected(), err); err != nil {
				tx.blamed = w.member
				_ = results.Close() // it repeats the error
				return err
			}
		}
		return results.Close()
	})
	if err != nil {
		tx.flushed = err
	}
	return err
}
