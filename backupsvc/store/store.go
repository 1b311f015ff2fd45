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
	"time"

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

// Apply runs jobs, in order, in one transaction: a refused job changes nothing
// and holds up no other. An error says that none of them is known to be
// durable. Every job's result is set anew at each attempt.
func (s *Store) Apply(ctx context.Context, terms Terms, jobs ...*Job) error {
	for attempt := 1; ; attempt++ {
		err := s.apply(ctx, terms, jobs)
		// PostgreSQL may name the duplicate number of an entry, rather than the
		// conflict with the transaction that took it. That one has committed, so
		// that the next attempt sees it.
		if !errors.Is(err, store.ErrUnique) || attempt == maxAttempts || ctx.Err() != nil {
			return err
		}
	}
}

// maxAttempts is far above what a few replicas need that write for the same
// identity at the same moment.
const maxAttempts = 100

func (s *Store) apply(ctx context.Context, terms Terms, jobs []*Job) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		b := batch{
			s: s, q: backupsdb.New(tx), terms: terms, now: tx.Now(),
			first: map[vault.OwnerID]uint64{}, accounts: map[vault.OwnerID]vault.Account{}, order: nil,
		}
		for _, j := range jobs {
			j.Plan, j.Refusal = vault.Plan{}, nil
			if err := b.run(ctx, j); err != nil {
				return err
			}
			if len(j.Plan.Changes) > 0 {
				tx.Notify(Topic(j.Identity))
			}
		}
		return b.finish(ctx)
	})
}

// batch is one attempt at a transaction of several jobs. An identity's row is
// read at its first job and written once, at the end.
type batch struct {
	s     *Store
	q     *backupsdb.Queries
	terms Terms
	now   time.Time
	// first is where each identity's log stood in the database.
	first    map[vault.OwnerID]uint64
	accounts map[vault.OwnerID]vault.Account
	order    []vault.OwnerID
}

func (b *batch) run(ctx context.Context, j *Job) error {
	// What can be refused without the database is, before an identity is made.
	if j.Refusal = j.Write.Check(); j.Refusal != nil {
		return nil //nolint:nilerr // a refusal is the job's answer
	}
	owner := j.Identity.Owner()
	acc, seen := b.accounts[owner]
	known := seen
	if !seen {
		var err error
		if acc, known, err = b.s.account(ctx, b.q, j.Identity); err != nil {
			return err
		}
	}
	if b.terms.NoGrowth {
		acc.Own.Bytes, acc.Own.Objects = max(1, acc.Bytes), max(1, acc.Objects)
	}
	held, err := heldBy(ctx, b.q, owner, j.Write)
	if err != nil {
		return err
	}
	if j.Plan, j.Refusal = vault.Decide(acc, held, j.Write, b.terms.Quota, b.now); j.Refusal != nil {
		return nil //nolint:nilerr // a refusal is the job's answer
	}
	if len(j.Plan.Changes) == 0 {
		return nil
	}
	if !seen {
		if !known {
			if j.Newcomer != nil {
				if refusal := j.Newcomer(); refusal != nil {
					j.Plan, j.Refusal = vault.Plan{}, refusal
					return nil //nolint:nilerr // a refusal is the job's answer
				}
			}
			if err := b.q.InsertIdentity(ctx, backupsdb.InsertIdentityParams{
				Owner: owner[:], Identity: string(j.Identity), Head: acc.Head[:], CreatedMs: b.now.UnixMilli(),
			}); err != nil {
				return fmt.Errorf("insert identity: %w", err)
			}
		}
		b.first[owner], b.order = acc.Seq, append(b.order, owner)
	}
	for _, c := range j.Plan.Changes {
		if err := b.store(ctx, owner, c); err != nil {
			return err
		}
	}
	b.accounts[owner] = j.Plan.Account
	return nil
}

// store writes one change: the log first, then what is now.
func (b *batch) store(ctx context.Context, owner vault.OwnerID, c vault.Change) error {
	e := c.Entry
	row := backupsdb.AppendLogParams{
		Owner: owner[:], Seq: num(e.Seq), Op: string(e.Op), StoreID: text(e.Store), ObjectKey: text(e.Key), Version: e.Version,
		Content: e.Content[:], Size: e.Size, AtMs: e.AtMs,
	}
	if e.Op == vault.OpPut {
		row.Value = c.Value
		if row.Value == nil {
			row.Value = []byte{} // NULL is a value that was let go
		}
	}
	if err := b.q.AppendLog(ctx, row); err != nil {
		return fmt.Errorf("append to the log: %w", err)
	}
	if e.Op == vault.OpDelete {
		n, err := b.q.DeleteObject(ctx, backupsdb.DeleteObjectParams{Owner: owner[:], StoreID: text(e.Store), ObjectKey: text(e.Key)})
		if err == nil && n != 1 {
			err = errors.New("it was there a moment ago")
		}
		if err != nil {
			return fmt.Errorf("delete object: %w", err)
		}
		return nil
	}
	if err := b.q.PutObject(ctx, backupsdb.PutObjectParams{
		Owner: owner[:], StoreID: text(e.Store), ObjectKey: text(e.Key), Version: e.Version, Size: e.Size, Seq: num(e.Seq), Created: num(c.Created),
	}); err != nil {
		return fmt.Errorf("put object: %w", err)
	}
	return nil
}

// finish stores where each log stands now.
func (b *batch) finish(ctx context.Context) error {
	for _, owner := range b.order {
		acc := b.accounts[owner]
		n, err := b.q.AdvanceIdentity(ctx, backupsdb.AdvanceIdentityParams{
			Owner: owner[:], Seq: num(b.first[owner]), Seq_2: num(acc.Seq), Head: acc.Head[:], Objects: acc.Objects, StoredBytes: acc.Bytes,
			HistoryBytes: acc.HistoryBytes, Day: acc.Day, DayWrites: acc.DayWrites, DayBytes: acc.DayBytes, WrittenMs: b.now.UnixMilli(),
		})
		if err == nil && n != 1 {
			// Serializable isolation makes this impossible; a log with two
			// entries of one number would be a fork of our own making.
			err = errors.New("its log went on meanwhile")
		}
		if err != nil {
			return fmt.Errorf("advance identity %s: %w", acc.Identity, err)
		}
	}
	return nil
}

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

func heldBy(ctx context.Context, q *backupsdb.Queries, owner vault.OwnerID, w vault.Write) (map[string]vault.Held, error) {
	keys := w.Keys()
	held := make(map[string]vault.Held, len(keys))
	for _, key := range keys {
		row, err := q.GetObject(ctx, backupsdb.GetObjectParams{Owner: owner[:], StoreID: text(w.Store), ObjectKey: text(key)})
		if err = store.MapError(err); errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read object: %w", err)
		}
		held[key] = vault.Held{Version: row.Version, Size: row.Size, Seq: seq(row.Seq), Created: seq(row.Created)}
	}
	return held, nil
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
