package store

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/sluice-lsp/sluice/backupsvc/store/backupsdb"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/store"
)

// Object is what is stored under a key now.
type Object struct {
	Key     string
	Version int64
	Value   []byte
	// Seq is the entry of the log that wrote it.
	Seq  uint64
	AtMs int64
}

// Get reads the present value of a key, and never an earlier one. The account is
// of the same moment.
func (s *Store) Get(ctx context.Context, id vault.Identity, storeID, key string) (obj Object, acc vault.Account, err error) {
	if err := errors.Join(vault.CheckStore(storeID), vault.CheckKey(key)); err != nil {
		return obj, acc, err
	}
	owner := id.Owner()
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := backupsdb.New(tx)
		var err error
		if acc, _, err = s.account(ctx, q, id); err != nil {
			return err
		}
		row, err := q.GetValue(ctx, backupsdb.GetValueParams{Owner: owner[:], StoreID: text(storeID), ObjectKey: text(key)})
		if err = store.MapError(err); errors.Is(err, store.ErrNotFound) && key == vault.GlobalVersionKey {
			obj = Object{Key: key}
			return nil
		}
		if errors.Is(err, store.ErrNotFound) {
			return errkind.Wrap(errkind.NotFound, err, "There is nothing under this key.")
		}
		if err != nil {
			return fmt.Errorf("read value: %w", err)
		}
		if vault.ContentHash(row.Value) != vault.Hash(row.Content) {
			return fmt.Errorf("entry %d of %s: the value is not the one that was written", row.Seq, id)
		}
		obj = Object{Key: key, Version: row.Version, Value: row.Value, Seq: seq(row.Seq), AtMs: row.AtMs}
		return nil
	})
	return obj, acc, err
}

// Key is an object without its value.
type Key struct {
	Key     string
	Version int64
	Size    int64
	Seq     uint64
}

// Page is a part of a list of keys, the last created first.
type Page struct {
	Keys []Key
	// Next continues the list; zero at its end.
	Next uint64
	// Global is the store's global version, in first pages only. It is not newer
	// than any of the keys.
	Global *int64
}

// List lists keys that begin with a prefix, which is taken literally. before is
// an earlier page's Next, or zero.
func (s *Store) List(ctx context.Context, id vault.Identity, storeID, prefix string, before uint64, limit int) (page Page, err error) {
	if err := errors.Join(vault.CheckStore(storeID), vault.CheckPrefix(prefix)); err != nil {
		return page, err
	}
	if limit < 0 || before > math.MaxInt64 {
		return page, errkind.New(errkind.Invalid, "The page's size or token is not one that this server gave.")
	}
	limit = min(limit, vault.MaxPage)
	owner := id.Owner()
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := backupsdb.New(tx)
		page = Page{}
		if before == 0 {
			var global int64
			row, err := q.GetObject(ctx, backupsdb.GetObjectParams{Owner: owner[:], StoreID: text(storeID), ObjectKey: text(vault.GlobalVersionKey)})
			if err = store.MapError(err); err != nil && !errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("read global version: %w", err)
			}
			global = row.Version
			page.Global = &global
		}
		if limit == 0 {
			return nil
		}
		from := int64(math.MaxInt64)
		if before != 0 {
			from = num(before)
		}
		rows, err := q.ListObjects(ctx, backupsdb.ListObjectsParams{
			Owner: owner[:], StoreID: text(storeID), Before: from, Hidden: text(vault.GlobalVersionKey),
			// Keys are UTF-8, in which 0xff does not occur: whatever begins with
			// the prefix lies below the prefix and 0xff.
			KeyFrom: text(prefix), KeyTo: append(text(prefix), 0xff), Most: int32(limit) + 1, //nolint:gosec // at most a page
		})
		if err != nil {
			return fmt.Errorf("list keys: %w", err)
		}
		for i, r := range rows {
			if i == limit {
				page.Next = seq(rows[i-1].Created)
				break
			}
			page.Keys = append(page.Keys, Key{Key: string(r.ObjectKey), Version: r.Version, Size: r.Size, Seq: seq(r.Seq)})
		}
		return nil
	})
	return page, err
}

// Account is where an identity stands; one that never wrote has an empty log.
func (s *Store) Account(ctx context.Context, id vault.Identity) (acc vault.Account, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		acc, _, err = s.account(ctx, backupsdb.New(tx), id)
		return err
	})
	return acc, err
}

// maxEntries bounds one reading of the log.
const maxEntries = 1000

// Entries are an identity's log entries after a number, in order and without
// gaps. An error of kind NotFound says that the log does not reach back so far.
func (s *Store) Entries(ctx context.Context, id vault.Identity, after uint64, limit int) (out []vault.Entry, err error) {
	if after > math.MaxInt64 || limit < 1 {
		return nil, errkind.New(errkind.Invalid, "The log is read after a number of an entry.")
	}
	owner := id.Owner()
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := backupsdb.New(tx)
		out = nil
		row, err := q.GetIdentity(ctx, owner[:])
		if err = store.MapError(err); errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read identity: %w", err)
		}
		if num(after)+1 < row.LogFrom {
			return errkind.Newf(errkind.NotFound, "The log is kept from entry %d on: earlier ones cannot be shown any more.", row.LogFrom)
		}
		rows, err := q.Entries(ctx, backupsdb.EntriesParams{Owner: owner[:], Seq: num(after), Limit: int32(min(limit, maxEntries))}) //nolint:gosec // bounded
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		for _, r := range rows {
			e, err := entryOf(r)
			if err != nil {
				return err
			}
			out = append(out, e)
		}
		return nil
	})
	return out, err
}

// Kept is a value that is stored, present or past.
type Kept struct {
	Entry vault.Entry
	Value []byte
	// Present says that it is the key's value now.
	Present bool
}

// NextKept is the first kept value after an entry; nil at the end. It is for
// export: the only way to read what is past.
func (s *Store) NextKept(ctx context.Context, id vault.Identity, after uint64) (kept *Kept, err error) {
	owner := id.Owner()
	if after > math.MaxInt64 {
		return nil, nil
	}
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := backupsdb.New(tx)
		kept = nil
		row, err := q.NextValue(ctx, backupsdb.NextValueParams{Owner: owner[:], Seq: num(after)})
		if err = store.MapError(err); errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read kept value: %w", err)
		}
		e, err := entryOf(backupsdb.EntriesRow{
			Seq: row.Seq, Op: row.Op, StoreID: row.StoreID, ObjectKey: row.ObjectKey, Version: row.Version, Content: row.Content, Size: row.Size, AtMs: row.AtMs,
		})
		if err != nil {
			return err
		}
		if vault.ContentHash(row.Value) != e.Content {
			return fmt.Errorf("entry %d of %s: the value is not the one that was written", row.Seq, id)
		}
		now, err := q.GetObject(ctx, backupsdb.GetObjectParams{Owner: owner[:], StoreID: row.StoreID, ObjectKey: row.ObjectKey})
		if err = store.MapError(err); err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("read object: %w", err)
		}
		kept = &Kept{Entry: e, Value: row.Value, Present: err == nil && now.Seq == row.Seq}
		return nil
	})
	return kept, err
}

func entryOf(r backupsdb.EntriesRow) (vault.Entry, error) {
	e := vault.Entry{
		Seq: seq(r.Seq), Op: vault.Op(r.Op), Store: string(r.StoreID), Key: string(r.ObjectKey), Version: r.Version, Size: r.Size, AtMs: r.AtMs,
	}
	var err error
	e.Content, err = hash(r.Content)
	return e, err
}
