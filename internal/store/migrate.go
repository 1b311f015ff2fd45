package store

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// Migrate brings the tables of one service up to date: fsys holds its goose
// files (NNNNN_name.sql) at its root, and the version is kept in a table of its
// own, goose_<name>. The same files run on both engines. Replicas that start at
// the same time wait for each other.
//
// A database written by a newer version than fsys knows is an error.
func Migrate(ctx context.Context, db *DB, name string, fsys fs.FS) error {
	dialect := goose.DialectSQLite3
	opts := []goose.ProviderOption{
		goose.WithTableName("goose_" + name),
		goose.WithDisableGlobalRegistry(true),
	}
	if db.engine == Postgres {
		dialect = goose.DialectPostgres
		locker, err := lock.NewPostgresSessionLocker()
		if err != nil {
			return fmt.Errorf("migrate %s: %w", name, err)
		}
		opts = append(opts, goose.WithSessionLocker(locker))
	}
	provider, err := goose.NewProvider(dialect, db.writer, fsys, opts...)
	if err != nil {
		return fmt.Errorf("migrate %s: %w", name, err)
	}
	current, latest, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("migrate %s: read version: %w", name, MapError(err))
	}
	if current > latest {
		return fmt.Errorf("the %s tables have version %d, this program knows %d: use the newer program that wrote them",
			name, current, latest)
	}
	if current == latest {
		return nil
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate %s: %w", name, MapError(err))
	}
	return nil
}
