package ledger

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/sluice-lsp/sluice/internal/ledger/ledgerdb"
	"github.com/sluice-lsp/sluice/internal/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the ledger's tables up to date.
func Migrate(ctx context.Context, db *store.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("ledger migrations: %w", err)
	}
	return store.Migrate(ctx, db, "ledger", files)
}

// Post writes an entry in the caller's transaction. Posting the same entry again
// changes nothing; a different one with the same key is ErrKeyReused. An entry
// that breaks a rule is ErrInvalid, ErrUnbalanced or ErrOverflow.
//
// Nothing is ever changed or deleted: a mistake is corrected by another entry.
func Post(ctx context.Context, tx *store.Tx, e Entry) error {
	if err := e.Validate(); err != nil {
		return err
	}
	q := ledgerdb.New(tx)
	digest := e.digest()
	n, err := q.InsertEntry(ctx, ledgerdb.InsertEntryParams{
		EntryKey: e.Key, Digest: digest, AtMs: e.At.UnixMilli(), Reason: e.Reason, Reference: e.Reference,
	})
	if err != nil {
		return fmt.Errorf("post %q: %w", e.Key, err)
	}
	if n == 0 {
		old, err := q.EntryDigest(ctx, e.Key)
		if err != nil {
			return fmt.Errorf("post %q: %w", e.Key, err)
		}
		if !bytes.Equal(old, digest) {
			return fmt.Errorf("post %q: %w", e.Key, ErrKeyReused)
		}
		return nil
	}
	for i, line := range e.Lines {
		err := q.InsertLine(ctx, ledgerdb.InsertLineParams{
			EntryKey: e.Key, Pos: int64(i), Account: string(line.Account), AmountMsat: line.AmountMsat,
		})
		if err != nil {
			return fmt.Errorf("post %q: %w", e.Key, err)
		}
	}
	return nil
}

// PostLater is Post for an entry whose key is that of a state change stored in the
// same transaction, so that no earlier one can have it: nothing waits for the
// database's answers (store.Tx.Later). A key that exists is ErrKeyReused, whatever it
// says, when the transaction ends at the latest.
func PostLater(ctx context.Context, tx *store.Tx, e Entry) error {
	if err := e.Validate(); err != nil {
		return err
	}
	reused := fmt.Errorf("post %q: %w", e.Key, ErrKeyReused)
	if _, err := ledgerdb.New(tx.Later(store.OneRow(reused))).InsertEntry(ctx, ledgerdb.InsertEntryParams{
		EntryKey: e.Key, Digest: e.digest(), AtMs: e.At.UnixMilli(), Reason: e.Reason, Reference: e.Reference,
	}); err != nil {
		return fmt.Errorf("post %q: %w", e.Key, err)
	}
	q := ledgerdb.New(tx.Later(nil))
	for i, line := range e.Lines {
		if err := q.InsertLine(ctx, ledgerdb.InsertLineParams{
			EntryKey: e.Key, Pos: int64(i), Account: string(line.Account), AmountMsat: line.AmountMsat,
		}); err != nil {
			return fmt.Errorf("post %q: %w", e.Key, err)
		}
	}
	return nil
}

// Exists reports whether an entry with this key was posted.
func Exists(ctx context.Context, tx *store.Tx, key string) (bool, error) {
	_, err := ledgerdb.New(tx).EntryDigest(ctx, key)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(store.MapError(err), store.ErrNotFound):
		return false, nil
	}
	return false, fmt.Errorf("look for entry %q: %w", key, err)
}

// Lookup finds the entry with this key.
func Lookup(ctx context.Context, tx *store.Tx, key string) (e Entry, found bool, err error) {
	rows, err := ledgerdb.New(tx).LinesOfEntry(ctx, key)
	if err != nil {
		return e, false, fmt.Errorf("look for entry %q: %w", key, err)
	}
	for _, row := range rows {
		e.Key, e.At, e.Reason, e.Reference = row.EntryKey, time.UnixMilli(row.AtMs), row.Reason, row.Reference
		e.Lines = append(e.Lines, Line{Account: Account(row.Account), AmountMsat: row.AmountMsat})
	}
	return e, len(rows) > 0, nil
}

// Balance is one account's balance in msat (zero for an unknown account).
func Balance(ctx context.Context, tx *store.Tx, a Account) (int64, error) {
	msat, err := ledgerdb.New(tx).Balance(ctx, string(a))
	if err != nil {
		return 0, fmt.Errorf("balance of %q: %w", a, err)
	}
	return msat, nil
}

// Balances gives every account's balance in msat, zero balances included.
func Balances(ctx context.Context, tx *store.Tx) (map[Account]int64, error) {
	rows, err := ledgerdb.New(tx).Balances(ctx)
	if err != nil {
		return nil, fmt.Errorf("balances: %w", err)
	}
	balances := make(map[Account]int64, len(rows))
	for _, row := range rows {
		balances[Account(row.Account)] = row.BalanceMsat
	}
	return balances, nil
}

// TrialBalance sums everything. Anything but zero means that the tables were
// changed by other hands.
func TrialBalance(ctx context.Context, tx *store.Tx) (int64, error) {
	msat, err := ledgerdb.New(tx).TrialBalance(ctx)
	if err != nil {
		return 0, fmt.Errorf("trial balance: %w", err)
	}
	return msat, nil
}

// Posting is one line in an account's history, with the balance after it.
type Posting struct {
	Key         string
	At          time.Time
	Reason      string
	Reference   string
	AmountMsat  int64
	BalanceMsat int64
}

// History gives an account's lines, oldest first.
func History(ctx context.Context, tx *store.Tx, a Account) ([]Posting, error) {
	rows, err := ledgerdb.New(tx).History(ctx, string(a))
	if err != nil {
		return nil, fmt.Errorf("history of %q: %w", a, err)
	}
	history := make([]Posting, 0, len(rows))
	var balance int64
	for _, row := range rows {
		if balance, err = add(balance, row.AmountMsat); err != nil {
			return nil, fmt.Errorf("history of %q: %w", a, err)
		}
		history = append(history, Posting{
			Key: row.EntryKey, At: time.UnixMilli(row.AtMs), Reason: row.Reason, Reference: row.Reference,
			AmountMsat: row.AmountMsat, BalanceMsat: balance,
		})
	}
	return history, nil
}

// Entries gives the entries with a reference, oldest first.
func Entries(ctx context.Context, tx *store.Tx, reference string) ([]Entry, error) {
	rows, err := ledgerdb.New(tx).LinesOfReference(ctx, reference)
	if err != nil {
		return nil, fmt.Errorf("entries of %q: %w", reference, err)
	}
	var entries []Entry
	for _, row := range rows {
		if len(entries) == 0 || entries[len(entries)-1].Key != row.EntryKey {
			entries = append(entries, Entry{
				Key: row.EntryKey, At: time.UnixMilli(row.AtMs), Reason: row.Reason, Reference: row.Reference,
			})
		}
		e := &entries[len(entries)-1]
		e.Lines = append(e.Lines, Line{Account: Account(row.Account), AmountMsat: row.AmountMsat})
	}
	return entries, nil
}
