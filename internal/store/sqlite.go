package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	"modernc.org/sqlite"
)

// generated begins every query that sqlc generated: a constant of the program,
// and a single statement. Only those stay prepared, so that what stays is
// bounded by the program's text.
const generated = "-- name: "

// liteConnector opens connections that keep generated queries prepared: SQLite
// compiles a statement for longer than it takes to run a small one.
type liteConnector struct{ dsn string }

// Connect implements driver.Connector.
func (c liteConnector) Connect(context.Context) (driver.Conn, error) {
	conn, err := c.Driver().Open(c.dsn)
	if err != nil {
		return nil, err
	}
	inner, ok := conn.(liteInner)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the SQLite driver's connection is a %T, which lacks methods", conn), conn.Close())
	}
	return &liteConn{liteInner: inner, idle: map[string]liteStmt{}}, nil
}

// Driver implements driver.Connector.
func (liteConnector) Driver() driver.Driver { return &sqlite.Driver{} }

// liteInner is what the driver's connections can do.
type liteInner interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

type liteStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// liteConn is one connection with its prepared statements. database/sql lets one
// goroutine at a time use it.
type liteConn struct {
	liteInner
	// idle are statements that nobody reads from: one in use is not in it, so that
	// the same query within its own rows gets another.
	idle map[string]liteStmt
}

// ExecContext implements driver.ExecerContext.
func (c *liteConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if !strings.HasPrefix(query, generated) {
		return c.liteInner.ExecContext(ctx, query, args)
	}
	stmt, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	result, err := stmt.ExecContext(ctx, args)
	return result, c.give(query, stmt, err)
}

// QueryContext implements driver.QueryerContext.
func (c *liteConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if !strings.HasPrefix(query, generated) {
		return c.liteInner.QueryContext(ctx, query, args)
	}
	stmt, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, err := stmt.QueryContext(ctx, args)
	if err != nil {
		return nil, c.give(query, stmt, err)
	}
	return &liteRows{Rows: rows, give: func(err error) error { return c.give(query, stmt, err) }}, nil
}

func (c *liteConn) take(ctx context.Context, query string) (liteStmt, error) {
	if stmt, ok := c.idle[query]; ok {
		delete(c.idle, query)
		return stmt, nil
	}
	prepared, err := c.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	stmt, ok := prepared.(liteStmt)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the SQLite driver's statement is a %T, which lacks methods", prepared), prepared.Close())
	}
	return stmt, nil
}

// give keeps a statement for the next call; one that failed, or has a double, is
// closed.
func (c *liteConn) give(query string, stmt liteStmt, err error) error {
	if _, double := c.idle[query]; err != nil || double {
		return errors.Join(err, stmt.Close())
	}
	c.idle[query] = stmt
	return nil
}

// Close implements driver.Conn.
func (c *liteConn) Close() error {
	var errs []error
	for _, stmt := range c.idle {
		errs = append(errs, stmt.Close())
	}
	c.idle = nil
	return errors.Join(append(errs, c.liteInner.Close())...)
}

// liteRows give their statement back when they are closed: until then it holds a
// snapshot of the database.
type liteRows struct {
	driver.Rows
	give func(error) error
}

// Close implements driver.Rows.
func (r *liteRows) Close() error {
	if r.give == nil {
		return nil
	}
	give := r.give
	r.give = nil
	return give(r.Rows.Close())
}
