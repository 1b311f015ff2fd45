// Package sqlkeys keeps macaroon root keys in the database, for replicas that
// share one: a login at one of them is good at the others, and a revocation
// reaches all. Whoever reads the database can make macaroons; it is guarded
// like them.
package sqlkeys

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/auth/sqlkeys/sqlkeysdb"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the table up to date.
func Migrate(ctx context.Context, db *store.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("root key migrations: %w", err)
	}
	return store.Migrate(ctx, db, "auth", files)
}

// Keys implements auth.RootKeys on a migrated database.
type Keys struct{ db *store.DB }

var _ auth.RootKeys = (*Keys)(nil)

// New uses a database.
func New(db *store.DB) *Keys { return &Keys{db: db} }

func rowID(id uint64) (int64, error) {
	if id > math.MaxInt64 {
		return 0, errkind.New(errkind.Invalid, "A root key id may have 63 bits.")
	}
	return int64(id), nil //nolint:gosec // bounded just above
}

// RootKey implements auth.RootKeys.
func (k *Keys) RootKey(ctx context.Context, id uint64) (key []byte, err error) {
	row, err := rowID(id)
	if err != nil {
		return nil, err
	}
	err = k.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		key, err = sqlkeysdb.New(tx).RootKey(ctx, row)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, errkind.Wrap(errkind.NotFound, err, "There is no such root key.")
	}
	return key, err
}

// PutRootKey implements auth.RootKeys.
func (k *Keys) PutRootKey(ctx context.Context, id uint64, key []byte) (stored []byte, err error) {
	row, err := rowID(id)
	if err != nil {
		return nil, err
	}
	err = k.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := sqlkeysdb.New(tx)
		if _, err := q.InsertRootKey(ctx, sqlkeysdb.InsertRootKeyParams{ID: row, RootKey: key}); err != nil {
			return err
		}
		stored, err = q.RootKey(ctx, row)
		return err
	})
	return stored, err
}

// DeleteRootKey implements auth.RootKeys.
func (k *Keys) DeleteRootKey(ctx context.Context, id uint64) error {
	row, err := rowID(id)
	if err != nil {
		return err
	}
	return k.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		return sqlkeysdb.New(tx).DeleteRootKey(ctx, row)
	})
}
