// Package store keeps the vault's tables on both databases.
//
// It promises that a write is decided by the pure package vault on the state
// that its own serializable transaction read, and is durable when Apply returns
// nil; that every statement names one owner, so that no call can reach another
// identity's rows; that rows of the log are never changed but for letting a past
// value go; and that a value which does not hash to what the log says is never
// handed out.
package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/sluice-lsp/sluice/backupsvc/store/backupsdb"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the service's tables up to date.
func Migrate(ctx context.Context, db *store.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("backups migrations: %w", err)
	}
	return store.Migrate(ctx, db, "backups", files)
}

// Store is the vault's tables, for the server with one key.
type Store struct {
	db     *store.DB
	server vault.ServerKey
}

// New uses a migrated database.
func New(db *store.DB, server vault.ServerKey) *Store { return &Store{db: db, server: server} }

// Terms are what writes are judged by.
type Terms struct {
	Quota vault.Quota
	// NoGrowth lets identities replace and delete only: the disk is filling up.
	NoGrowth bool
}

// Job is one write on its way. Plan or Refusal is its result.
type Job struct {
	Identity vault.Identity
	Write    vault.Write
	// Newcomer, if set, is asked before an identity that never wrote is let in.
	// Its error is what that identity hears.
	Newcomer func() error
	Plan     vault.Plan
	Refusal  error
}

// Topic is what store.Notifier's listeners of an identity's changes listen to.
// Identities share topics: a wake-up is a hint to look.
func Topic(id vault.Identity) string { return fmt.Sprintf("backups/%02x", id.Owner()[0]) }

// account reads an identity's state; known is false before its first write.
func (s *Store) account(ctx context.Context, q *backupsdb.Queries, id vault.Identity) (acc vault.Account, known bool, err error) {
	owner := id.Owner()
	row, err := q.GetIdentity(ctx, owner[:])
	if err = store.MapError(err); errors.Is(err, store.ErrNotFound) {
		return vault.NewAccount(s.server, id), false, nil
	}
	if err != nil {
		return acc, false, fmt.Errorf("read identity: %w", err)
	}
	if row.Identity != string(id) {
		return acc, false, fmt.Errorf("the rows of %s belong to %q", id, row.Identity)
	}
	acc, err = accountOf(row)
	return acc, true, err
}

func accountOf(row backupsdb.BackupsIdentity) (vault.Account, error) {
	acc := vault.Account{
		Identity: vault.Identity(row.Identity), Seq: seq(row.Seq), Blocked: row.Blocked,
		Usage: vault.Usage{
			Bytes: row.StoredBytes, Objects: row.Objects, HistoryBytes: row.HistoryBytes, Day: row.Day, DayWrites: row.DayWrites, DayBytes: row.DayBytes,
		},
		Own: vault.Quota{
			Bytes: row.OwnBytes, Objects: row.OwnObjects, ObjectBytes: row.OwnObjectBytes,
			DayWrites: row.OwnDayWrites, DayBytes: row.OwnDayBytes, HistoryBytes: row.OwnHistoryBytes,
		},
	}
	var err error
	acc.Head, err = hash(row.Head)
	return acc, err
}

// num and seq are the storage form of sequence numbers, which count single
// writes and so stay far below 63 bits.
func num(n uint64) int64 { return int64(n) }  //nolint:gosec // see above
func seq(n int64) uint64 { return uint64(n) } //nolint:gosec // see above

// text is the storage form of names. It is never nil, which would be NULL.
func text(s string) []byte { return append([]byte{}, s...) }

func hash(b []byte) (vault.Hash, error) {
	if len(b) != len(vault.Hash{}) {
		return vault.Hash{}, fmt.Errorf("a stored hash has %d bytes", len(b))
	}
	return vault.Hash(b), nil
}
