package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// ErrRows says that a statement of a Pipe did not change exactly one row.
var ErrRows = errors.New("not exactly one row was changed")

// errPiped is what the results of statements answer that have not run yet.
var errPiped = errors.New("this statement runs at the pipe's end: its result is not known before")

// Pipe runs statements of one transaction that don't wait for each other's
// results: on PostgreSQL they cost one round trip together, on SQLite they run
// one after the other. They take effect in their order.
//
// It has the methods that sqlc's generated code wants (its DBTX). Statements of
// kind :exec are queued, and each must change exactly one row when it runs. What
// is read through those methods runs at once, after all that was queued before.
type Pipe struct {
	tx     *Tx
	queued []piped
	// err is of an early run.
	err error
}

// piped is a queued statement; without rows it must change one.
type piped struct {
	query string
	args  []any
	row   func(scan func(dest ...any) error) error
}

// Pipe gives an empty pipe.
func (tx *Tx) Pipe() *Pipe { return &Pipe{tx: tx} }

// Query queues a query, and calls row for each of its rows when it runs.
func (p *Pipe) Query(query string, row func(scan func(dest ...any) error) error, args ...any) {
	p.queued = append(p.queued, piped{query: query, args: args, row: row})
}

// ExecContext queues a statement.
func (p *Pipe) ExecContext(_ context.Context, query string, args ...any) (sql.Result, error) {
	p.queued = append(p.queued, piped{query: query, args: args})
	return pipedResult{}, nil
}

// PrepareContext runs what is queued and prepares a statement.
func (p *Pipe) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	if err := p.Run(ctx); err != nil {
		return nil, err
	}
	return p.tx.PrepareContext(ctx, query)
}

// QueryContext runs what is queued, and then a query.
func (p *Pipe) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := p.Run(ctx); err != nil {
		return nil, err
	}
	return p.tx.QueryContext(ctx, query, args...)
}

// QueryRowContext runs what is queued, and then a query for one row. If the
// former fails, Run says so in the end.
func (p *Pipe) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	p.err = p.Run(ctx)
	return p.tx.QueryRowContext(ctx, query, args...)
}

// Run runs what is queued. After an error the transaction is to be rolled back.
func (p *Pipe) Run(ctx context.Context) error {
	queued := p.queued
	p.queued = nil
	switch {
	case p.err != nil || len(queued) == 0:
		return p.err
	case p.tx.conn == nil:
		return p.oneByOne(ctx, queued)
	}
	if err := p.tx.flush(ctx); err != nil {
		return err
	}
	return p.tx.conn.Raw(func(conn any) error {
		pg, ok := conn.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("the PostgreSQL driver's connection is a %T", conn)
		}
		return together(ctx, pg.Conn(), queued)
	})
}

func (p *Pipe) oneByOne(ctx context.Context, queued []piped) error {
	for _, s := range queued {
		if err := p.one(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s.name(), MapError(err))
		}
	}
	return nil
}

func (p *Pipe) one(ctx context.Context, s piped) (err error) {
	if s.row == nil {
		result, err := p.tx.ExecContext(ctx, s.query, s.args...)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		return errors.Join(err, oneRow(n))
	}
	rows, err := p.tx.QueryContext(ctx, s.query, s.args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := s.row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// together sends all statements and then reads all answers.
func together(ctx context.Context, conn *pgx.Conn, queued []piped) error {
	var batch pgx.Batch
	for _, s := range queued {
		batch.Queue(s.query, s.args...)
	}
	results := conn.SendBatch(ctx, &batch)
	for _, s := range queued {
		if err := answer(results, s); err != nil {
			// What closing adds is the same failure again.
			_ = results.Close()
			return fmt.Errorf("%s: %w", s.name(), MapError(err))
		}
	}
	return MapError(results.Close())
}

func answer(results pgx.BatchResults, s piped) error {
	if s.row == nil {
		tag, err := results.Exec()
		if err != nil {
			return err
		}
		return oneRow(tag.RowsAffected())
	}
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := s.row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func oneRow(n int64) error {
	if n != 1 {
		return fmt.Errorf("%w but %d", ErrRows, n)
	}
	return nil
}

// name is what a generated query is called, or its beginning.
func (s piped) name() string {
	first, _, _ := strings.Cut(strings.TrimPrefix(s.query, generated), " ")
	return first
}

// pipedResult is the result of a statement that has not run.
type pipedResult struct{}

func (pipedResult) LastInsertId() (int64, error) { return 0, errPiped }
func (pipedResult) RowsAffected() (int64, error) { return 0, errPiped }
