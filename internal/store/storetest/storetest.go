package storetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/sluice-lsp/sluice/internal/store"
)

// Each runs f as a subtest per engine. open opens the test's one database: again
// at each call, as another process would. All are closed when the test ends.
func Each(t *testing.T, f func(t *testing.T, open func() *store.DB)) {
	t.Helper()
	EachConfig(t, func(t *testing.T, cfg store.Config) {
		f(t, func() *store.DB {
			t.Helper()
			return Open(t, cfg)
		})
	})
}

// EachConfig is Each for tests that change the configuration before Open, to add
// Hooks for example.
func EachConfig(t *testing.T, f func(t *testing.T, cfg store.Config)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { f(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, Postgres(t)) })
}

// SQLite is the configuration of an empty SQLite database.
func SQLite(t testing.TB) store.Config {
	t.Helper()
	return store.Config{Engine: store.SQLite, Path: filepath.Join(t.TempDir(), "test.db"), Log: zaptest.NewLogger(t)}
}

// Postgres is the configuration of an empty database on this process's
// PostgreSQL server, which doesn't wait for the disk: it survives kill -9 of its
// clients, not a power cut.
func Postgres(t testing.TB) store.Config {
	t.Helper()
	if os.Getenv("SLUICE_SKIP_POSTGRES") == "1" {
		t.Skip("PostgreSQL part skipped: SLUICE_SKIP_POSTGRES=1")
	}
	srv, err := shared()
	if err != nil {
		t.Fatalf("PostgreSQL for tests: %v\n(install it, or set SLUICE_SKIP_POSTGRES=1 to skip)", err)
	}
	return srv.Database(t)
}

// Open opens a database and closes it when the test ends.
func Open(t testing.TB, cfg store.Config) *store.DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	db, err := store.Open(ctx, cfg)
	if err != nil {
		t.Fatalf("open database: %v", err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close database: %v", err)
		}
	})
	return db
}

// Empty empties all tables but the migrations' own, for tests that want many
// fresh databases cheaply. Nothing else may use the database meanwhile.
func Empty(ctx context.Context, db *store.DB) error {
	return db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		query := "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
		if db.Engine() == store.Postgres {
			query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
		}
		tables, err := names(ctx, tx, query)
		if err != nil {
			return err
		}
		if db.Engine() == store.Postgres {
			_, err = tx.ExecContext(ctx, "TRUNCATE "+strings.Join(tables, ", "))
			return err
		}
		if _, err := tx.ExecContext(ctx, "PRAGMA defer_foreign_keys = ON"); err != nil {
			return err
		}
		for _, table := range tables {
			if _, err := tx.ExecContext(ctx, "DELETE FROM "+table); err != nil {
				return err
			}
		}
		return nil
	})
}

func names(ctx context.Context, tx *store.Tx, query string) (tables []string, err error) {
	rows, err := tx.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			return nil, err
		}
		if !strings.HasPrefix(table, "goose_") {
			tables = append(tables, table)
		}
	}
	return tables, rows.Err()
}
