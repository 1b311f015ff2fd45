package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/backupsvc/store/backupsdb"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/store"
)

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

// apply reads all that the jobs need, decides, and writes all that they change:
// two round trips to the database, however many jobs there are.
func (s *Store) apply(ctx context.Context, terms Terms, jobs []*Job) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		b := batch{
			s: s, terms: terms, now: tx.Now(), owners: map[vault.OwnerID]*owned{}, held: map[place]vault.Held{},
		}
		if err := b.read(ctx, tx.Pipe(), jobs); err != nil {
			return err
		}
		for _, j := range jobs {
			if err := b.decide(j); err != nil {
				return err
			}
			if len(j.Plan.Changes) > 0 {
				tx.Notify(Topic(j.Identity))
			}
		}
		return b.write(ctx, tx.Pipe(), jobs)
	})
}

// batch is one attempt at a transaction of several jobs. What it read is kept up
// to date by what it decides: a job sees what those before it do.
type batch struct {
	s      *Store
	terms  Terms
	now    time.Time
	owners map[vault.OwnerID]*owned
	held   map[place]vault.Held
	// order has the owners whose logs go on.
	order []vault.OwnerID
}

// owned is an identity's account, and how it stood in the database.
type owned struct {
	account vault.Account
	// known is false for an identity that never wrote.
	known bool
	first uint64
}

// place is where an object is.
type place struct {
	owner      vault.OwnerID
	store, key string
}

func (b *batch) read(ctx context.Context, pipe *store.Pipe, jobs []*Job) error {
	asked := map[place]bool{}
	for _, j := range jobs {
		j.Plan, j.Refusal = vault.Plan{}, j.Write.Check()
		// What can be refused without the database is.
		if j.Refusal != nil {
			continue
		}
		owner := j.Identity.Owner()
		if _, seen := b.owners[owner]; !seen {
			b.askAccount(pipe, j.Identity, owner)
		}
		for _, key := range j.Write.Keys() {
			if at := (place{owner, j.Write.Store, key}); !asked[at] {
				asked[at] = true
				b.askObject(pipe, at)
			}
		}
	}
	if err := pipe.Run(ctx); err != nil {
		return fmt.Errorf("read what is written to: %w", err)
	}
	return nil
}

func (b *batch) askAccount(pipe *store.Pipe, id vault.Identity, owner vault.OwnerID) {
	o := &owned{account: vault.NewAccount(b.s.server, id)}
	b.owners[owner] = o
	pipe.Query(backupsdb.GetIdentity, func(scan func(...any) error) error {
		row, err := scanIdentity(scan)
		if err != nil {
			return err
		}
		if row.Identity != string(id) {
			return fmt.Errorf("the rows of %s belong to %q", id, row.Identity)
		}
		o.account, err = accountOf(row)
		o.known, o.first = true, o.account.Seq
		return err
	}, owner[:])
}

// scanIdentity reads a row of GetIdentity in the order of its columns.
func scanIdentity(scan func(...any) error) (i backupsdb.BackupsIdentity, err error) {
	return i, scan(
		&i.Owner, &i.Identity, &i.Seq, &i.Head, &i.LogFrom, &i.Objects, &i.StoredBytes, &i.HistoryBytes, &i.Day, &i.DayWrites, &i.DayBytes,
		&i.OwnBytes, &i.OwnObjects, &i.OwnObjectBytes, &i.OwnDayWrites, &i.OwnDayBytes, &i.OwnHistoryBytes, &i.Blocked,
		&i.SweptSeq, &i.SweptMs, &i.CreatedMs, &i.WrittenMs,
	)
}

func (b *batch) askObject(pipe *store.Pipe, at place) {
	pipe.Query(backupsdb.GetObject, func(scan func(...any) error) error {
		var row backupsdb.GetObjectRow
		err := scan(&row.Version, &row.Size, &row.Seq, &row.Created)
		b.held[at] = vault.Held{Version: row.Version, Size: row.Size, Seq: seq(row.Seq), Created: seq(row.Created)}
		return err
	}, at.owner[:], text(at.store), text(at.key))
}

// decide makes a job's plan or refusal, which is the job's answer.
func (b *batch) decide(j *Job) error {
	if j.Refusal != nil {
		return nil //nolint:nilerr // a refusal is the job's answer
	}
	owner := j.Identity.Owner()
	o := b.owners[owner]
	acc := o.account
	if acc.Identity != j.Identity {
		return fmt.Errorf("the rows of %s belong to %q", j.Identity, acc.Identity)
	}
	if b.terms.NoGrowth {
		acc.Own.Bytes, acc.Own.Objects = max(1, acc.Bytes), max(1, acc.Objects)
	}
	held := make(map[string]vault.Held)
	for _, key := range j.Write.Keys() {
		if have, exists := b.held[place{owner, j.Write.Store, key}]; exists {
			held[key] = have
		}
	}
	if j.Plan, j.Refusal = vault.Decide(acc, held, j.Write, b.terms.Quota, b.now); j.Refusal != nil || len(j.Plan.Changes) == 0 {
		return nil //nolint:nilerr // a refusal is the job's answer
	}
	if !o.known && o.account.Seq == o.first && j.Newcomer != nil {
		if refusal := j.Newcomer(); refusal != nil {
			j.Plan, j.Refusal = vault.Plan{}, refusal
			return nil //nolint:nilerr // a refusal is the job's answer
		}
	}
	if o.account.Seq == o.first {
		b.order = append(b.order, owner)
	}
	own := o.account.Own
	o.account = j.Plan.Account
	o.account.Own = own
	for _, c := range j.Plan.Changes {
		at := place{owner, c.Entry.Store, c.Entry.Key}
		if c.Entry.Op == vault.OpDelete {
			delete(b.held, at)
			continue
		}
		b.held[at] = vault.Held{Version: c.Entry.Version, Size: c.Entry.Size, Seq: c.Entry.Seq, Created: c.Created}
	}
	return nil
}

// write stores what was decided. Every statement changes one row, or the
// transaction fails: a log with two entries of one number would be a fork of our
// own making.
func (b *batch) write(ctx context.Context, pipe *store.Pipe, jobs []*Job) error {
	q := backupsdb.New(pipe)
	var errs []error
	for _, owner := range b.order {
		if o := b.owners[owner]; !o.known {
			genesis := vault.NewAccount(b.s.server, o.account.Identity)
			errs = append(errs, q.InsertIdentity(ctx, backupsdb.InsertIdentityParams{
				Owner: owner[:], Identity: string(o.account.Identity), Head: genesis.Head[:], CreatedMs: b.now.UnixMilli(),
			}))
		}
	}
	for _, j := range jobs {
		owner := j.Identity.Owner()
		for _, c := range j.Plan.Changes {
			errs = append(errs, change(ctx, q, owner, c))
		}
	}
	for _, owner := range b.order {
		o := b.owners[owner]
		acc := o.account
		errs = append(errs, q.AdvanceIdentity(ctx, backupsdb.AdvanceIdentityParams{
			Owner: owner[:], Seq: num(o.first), Seq_2: num(acc.Seq), Head: acc.Head[:], Objects: acc.Objects, StoredBytes: acc.Bytes,
			HistoryBytes: acc.HistoryBytes, Day: acc.Day, DayWrites: acc.DayWrites, DayBytes: acc.DayBytes, WrittenMs: b.now.UnixMilli(),
		}))
	}
	if err := errors.Join(append(errs, pipe.Run(ctx))...); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// change writes one change: the log first, then what is now.
func change(ctx context.Context, q *backupsdb.Queries, owner vault.OwnerID, c vault.Change) error {
	e := c.Entry
	row := backupsdb.AppendLogParams{
		Owner: owner[:], Seq: num(e.Seq), Op: string(e.Op), StoreID: text(e.Store), ObjectKey: text(e.Key), Version: e.Version,
		Content: e.Content[:], Size: e.Size, AtMs: e.AtMs,
	}
	if e.Op == vault.OpDelete {
		return errors.Join(q.AppendLog(ctx, row), q.DeleteObject(ctx, backupsdb.DeleteObjectParams{
			Owner: owner[:], StoreID: text(e.Store), ObjectKey: text(e.Key),
		}))
	}
	row.Value = c.Value
	if row.Value == nil {
		row.Value = []byte{} // NULL is a value that was let go
	}
	return errors.Join(q.AppendLog(ctx, row), q.PutObject(ctx, backupsdb.PutObjectParams{
		Owner: owner[:], StoreID: text(e.Store), ObjectKey: text(e.Key), Version: e.Version, Size: e.Size, Seq: num(e.Seq), Created: num(c.Created),
	}))
}
