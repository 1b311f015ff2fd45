package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
)

var (
	// ErrNotFound says that a query for one row found none.
	ErrNotFound = errors.New("not found")

	// ErrUnique says that a row with this key exists already.
	ErrUnique = errors.New("already exists")

	// ErrConflict says that other transactions kept winning against this one
	// until its retries were used up. Nothing was changed.
	ErrConflict = errors.New("conflicting transactions")

	// ErrUnavailable says that the database cannot be used now: it is gone,
	// full, locked by another program, or closed. Unless ErrOutcomeUnknown is in
	// the chain too, nothing was changed.
	ErrUnavailable = errors.New("database unavailable")

	// ErrOutcomeUnknown comes with ErrUnavailable when the connection broke after
	// COMMIT was sent: the transaction may or may not be durable, and only
	// reading again tells.
	ErrOutcomeUnknown = errors.New("outcome of the commit unknown")
)

// SQLite's primary result codes, and the two extended codes of a key that
// exists already (sqlite.org/rescode.html).
const (
	sqliteBusy             = 5
	sqliteLocked           = 6
	sqliteNoMem            = 7
	sqliteReadOnly         = 8
	sqliteInterrupt        = 9
	sqliteIOErr            = 10
	sqliteCorrupt          = 11
	sqliteFull             = 13
	sqliteCantOpen         = 14
	sqliteProtocol         = 15
	sqliteNotADB           = 26
	sqliteConstraintUnique = 2067
	sqliteConstraintPK     = 1555
)

// MapError gives an error of database/sql or of a driver its place among this
// package's errors, keeping the original in the chain. Write and Read apply it
// to what they return; code inside a transaction that wants to tell errors apart
// calls it itself. Other errors, context errors among them, pass unchanged.
func MapError(err error) error {
	if err == nil {
		return nil
	}
	for _, known := range []error{ErrNotFound, ErrUnique, ErrConflict, ErrUnavailable} {
		if errors.Is(err, known) {
			return err
		}
	}
	if kind := classify(err); kind != nil {
		return fmt.Errorf("%w: %w", kind, err)
	}
	return err
}

func classify(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return classifyPostgres(pg.Code)
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		return classifySQLite(lite.Code())
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	var (
		connect *pgconn.ConnectError
		network net.Error
	)
	switch {
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.As(err, &connect), errors.As(err, &network):
		return ErrUnavailable
	case strings.Contains(err.Error(), "sql: database is closed"),
		strings.Contains(err.Error(), "conn closed"):
		// Neither database/sql nor pgx exports a value for these two.
		return ErrUnavailable
	}
	return nil
}

func classifyPostgres(code string) error {
	switch {
	case code == "40001", code == "40P01":
		return ErrConflict
	case code == "23505":
		return ErrUnique
	case len(code) == 5 && (code[:2] == "08" || code[:2] == "53" || code[:2] == "58" || code[:3] == "57P"),
		code == "55P03", // lock not available
		code == "55000", // the database takes no connections
		code == "25P03", // the server ended a transaction that stood still
		code == "25006", // read-only: a standby, or a fail-over under way
		code == "3D000": // the database does not exist (any more)
		return ErrUnavailable
	}
	return nil
}

func classifySQLite(code int) error {
	if code == sqliteConstraintUnique || code == sqliteConstraintPK {
		return ErrUnique
	}
	switch code & 0xff {
	case sqliteBusy, sqliteLocked, sqliteNoMem, sqliteReadOnly, sqliteIOErr, sqliteCorrupt,
		sqliteFull, sqliteCantOpen, sqliteProtocol, sqliteNotADB:
		return ErrUnavailable
	}
	return nil
}

// retryable says whether running the transaction again may help at once.
func retryable(err error) bool {
	if errors.Is(err, ErrOutcomeUnknown) {
		return false
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		return lite.Code()&0xff == sqliteBusy || lite.Code()&0xff == sqliteLocked
	}
	var pg *pgconn.PgError
	return errors.As(err, &pg) && errors.Is(classifyPostgres(pg.Code), ErrConflict)
}

// commitUnknown says whether a failed COMMIT may have been carried out: the
// server did not answer, or the disk failed while it was being written.
func commitUnknown(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		// The server itself was going down: it may have got as far as the commit.
		return len(pg.Code) == 5 && pg.Code[:3] == "57P"
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		return lite.Code()&0xff == sqliteIOErr
	}
	return errors.Is(classify(err), ErrUnavailable) || errors.Is(err, context.Canceled) ||
		errors.Is(err, context.DeadlineExceeded)
}
