package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"go.uber.org/zap"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Engine names a database engine.
type Engine string

// The two engines.
const (
	SQLite   Engine = "sqlite"
	Postgres Engine = "postgres"
)

// Config says which database to open.
type Config struct {
	// Engine is SQLite when empty.
	Engine Engine

	// Path is the SQLite file. Its directory must exist.
	Path string

	// DSN is the PostgreSQL connection string (URL or key=value form).
	DSN string

	// MaxConns bounds the PostgreSQL pool, or SQLite's pool of readers
	// (0: 16 and 4).
	MaxConns int

	// RetryFor bounds how long one Write goes on retrying (0: 10 s).
	RetryFor time.Duration

	// BusyTimeout is how long SQLite waits for a lock that another program
	// holds (0: 5 s).
	BusyTimeout time.Duration

	// Now is the wall clock for the times kept in tables (nil: time.Now).
	Now func() time.Time

	// Log may be nil.
	Log *zap.Logger

	// Hooks are for tests; nil in production.
	Hooks *Hooks
}

// Hooks let a test act where a crash or a failure hurts most. Each may be nil;
// they are called from many goroutines.
type Hooks struct {
	// Begin runs before every transaction. Its error is the transaction's.
	Begin func(readOnly bool) error

	// BeforeCommit runs when a Write's closure has succeeded and COMMIT is next.
	// Its error rolls the transaction back and is what Write returns.
	BeforeCommit func() error

	// AfterCommit runs when COMMIT was durable, before the caller learns of it.
	// Its error is what Write returns: to the caller the outcome is unknown.
	AfterCommit func() error
}

// DB is one open database. It is safe for use by many goroutines.
type DB struct {
	engine   Engine
	writer   *sql.DB
	reader   *sql.DB
	pgConfig *pgx.ConnConfig
	retryFor time.Duration
	now      func() time.Time
	log      *zap.Logger
	hooks    *Hooks
	wake     *wakeups
	together sharing
	past     past
	close    sync.Once
	closeErr error
}

// Open opens the database and brings this package's own tables (leases,
// generation) up to date. The other packages' tables are theirs: see Migrate.
//
// A database that cannot be reached is ErrUnavailable.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	db := &DB{
		engine: cfg.Engine, retryFor: cfg.RetryFor, now: cfg.Now, log: cfg.Log, hooks: cfg.Hooks,
		past: past{back: make(chan struct{})},
	}
	if db.engine == "" {
		db.engine = SQLite
	}
	if db.retryFor == 0 {
		db.retryFor = 10 * time.Second
	}
	if db.now == nil {
		db.now = time.Now
	}
	if db.log == nil {
		db.log = zap.NewNop()
	}
	if db.hooks == nil {
		db.hooks = &Hooks{}
	}
	var err error
	switch db.engine {
	case SQLite:
		err = db.openSQLite(cfg)
	case Postgres:
		err = db.openPostgres(cfg)
	default:
		return nil, fmt.Errorf("unknown database engine %q: use %q or %q", cfg.Engine, SQLite, Postgres)
	}
	if err != nil {
		return nil, err
	}
	db.wake = newWakeups(db)
	if err := db.check(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	base, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if err := Migrate(ctx, db, "store", base); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func (db *DB) openSQLite(cfg Config) error {
	if cfg.Path == "" {
		return errors.New("the SQLite database needs a file path")
	}
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return fmt.Errorf("SQLite path: %w", err)
	}
	busy := cfg.BusyTimeout
	if busy == 0 {
		busy = 5 * time.Second
	}
	dsn := func(txlock string, extra ...string) string {
		q := url.Values{"_txlock": {txlock}}
		q.Add("_pragma", fmt.Sprintf("busy_timeout(%d)", busy.Milliseconds()))
		for _, p := range append([]string{"journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"}, extra...) {
			q.Add("_pragma", p)
		}
		return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
	}
	// One writer: SQLite admits one at a time anyway, and a queue in this
	// process is fair and cheap where its busy handler sleeps and polls.
	db.writer = sql.OpenDB(liteConnector{dsn("immediate")})
	db.writer.SetMaxOpenConns(1)
	db.writer.SetMaxIdleConns(1)
	db.reader = sql.OpenDB(liteConnector{dsn("deferred", "query_only(1)")})
	conns := cfg.MaxConns
	if conns == 0 {
		conns = 4
	}
	db.reader.SetMaxOpenConns(conns)
	db.reader.SetMaxIdleConns(conns)
	return nil
}

func (db *DB) openPostgres(cfg Config) error {
	pc, err := pgx.ParseConfig(cfg.DSN)
	if err != nil {
		// pgx hides the password in its message.
		return fmt.Errorf("PostgreSQL connection string: %w", err)
	}
	if pc.ConnectTimeout == 0 {
		pc.ConnectTimeout = 5 * time.Second
	}
	// A process that is frozen inside a transaction must not keep a standby
	// from the rows that it has locked, the lease's least of all.
	if pc.RuntimeParams["idle_in_transaction_session_timeout"] == "" {
		pc.RuntimeParams["idle_in_transaction_session_timeout"] = idleInTransaction
	}
	db.pgConfig = pc
	pool := stdlib.OpenDB(*pc)
	conns := cfg.MaxConns
	if conns == 0 {
		conns = 16
	}
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	db.writer, db.reader = pool, pool
	return nil
}

// idleInTransaction is far above the pauses within a transaction, which makes no
// call but the database's, and below the least lease.
const idleInTransaction = "2s"

// check makes the first connection, and says so when the server would forget
// commits that this package calls durable.
func (db *DB) check(ctx context.Context) error {
	if err := db.writer.PingContext(ctx); err != nil {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("open %s database: %w", db.engine, err)
		}
		return fmt.Errorf("open %s database: %w: %w", db.engine, ErrUnavailable, err)
	}
	if db.engine != Postgres {
		return nil
	}
	for _, setting := range []string{"fsync", "synchronous_commit"} {
		var value string
		if err := db.writer.QueryRowContext(ctx, "SELECT current_setting($1)", setting).Scan(&value); err != nil {
			return fmt.Errorf("open postgres database: %w", MapError(err))
		}
		if value == "off" {
			db.log.Warn("PostgreSQL may forget transactions after a power cut: set "+setting+" = on",
				zap.String("setting", setting))
		}
	}
	return nil
}

// Engine tells which engine this is.
func (db *DB) Engine() Engine { return db.engine }

// Now is the wall clock that the times in the tables come from.
func (db *DB) Now() time.Time { return db.now() }

// Close ends all connections and closes the channels that Listen gave out. What
// runs meanwhile gets ErrUnavailable.
func (db *DB) Close() error {
	db.close.Do(func() {
		if db.wake != nil {
			db.wake.close()
		}
		if db.reader != nil && db.reader != db.writer {
			db.closeErr = db.reader.Close()
		}
		if db.writer != nil {
			db.closeErr = errors.Join(db.closeErr, db.writer.Close())
		}
	})
	return db.closeErr
}
