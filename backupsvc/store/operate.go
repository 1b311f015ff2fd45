package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sluice-lsp/sluice/backupsvc/store/backupsdb"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/store"
)

// Tenancy is an identity as operators see it.
type Tenancy struct {
	vault.Account
	// LogFrom is the first entry that the log can still show.
	LogFrom uint64
	Created time.Time
	Written time.Time
}

func tenancyOf(row backupsdb.BackupsIdentity) (Tenancy, error) {
	acc, err := accountOf(row)
	return Tenancy{
		Account: acc, LogFrom: seq(row.LogFrom), Created: time.UnixMilli(row.CreatedMs), Written: time.UnixMilli(row.WrittenMs),
	}, err
}

// Identities lists identities by name, after one.
func (s *Store) Identities(ctx context.Context, after string, limit int) (out []Tenancy, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		rows, err := backupsdb.New(tx).ListIdentities(ctx, backupsdb.ListIdentitiesParams{Identity: after, Limit: int32(min(max(limit, 1), maxEntries))}) //nolint:gosec // bounded
		if err != nil {
			return fmt.Errorf("list identities: %w", err)
		}
		for _, r := range rows {
			t, err := tenancyOf(r)
			if err != nil {
				return err
			}
			out = append(out, t)
		}
		return nil
	})
	return out, err
}

// StoreUsage is what one store of an identity holds.
type StoreUsage struct {
	Store   string
	Objects int64
	Bytes   int64
}

// Tenancy shows one identity and its first stores.
func (s *Store) Tenancy(ctx context.Context, id vault.Identity) (out Tenancy, stores []StoreUsage, err error) {
	owner := id.Owner()
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := backupsdb.New(tx)
		row, err := q.GetIdentity(ctx, owner[:])
		if err = store.MapError(err); errors.Is(err, store.ErrNotFound) {
			return errkind.Wrap(errkind.NotFound, err, "This identity has stored nothing: list the identities.")
		}
		if err != nil {
			return fmt.Errorf("read identity: %w", err)
		}
		if out, err = tenancyOf(row); err != nil {
			return err
		}
		stores = nil
		rows, err := q.ListStores(ctx, backupsdb.ListStoresParams{Owner: owner[:], Limit: vault.MaxPage})
		if err != nil {
			return fmt.Errorf("list stores: %w", err)
		}
		for _, r := range rows {
			stores = append(stores, StoreUsage{Store: string(r.StoreID), Objects: r.Objects, Bytes: r.StoredBytes})
		}
		return nil
	})
	return out, stores, err
}

// Totals are sums over all identities.
type Totals struct{ Identities, Objects, Bytes, HistoryBytes int64 }

// Totals sums up. It reads every identity's row.
func (s *Store) Totals(ctx context.Context) (out Totals, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		row, err := backupsdb.New(tx).Totals(ctx)
		out = Totals{Identities: row.Identities, Objects: row.Objects, Bytes: row.StoredBytes, HistoryBytes: row.HistoryBytes}
		return err
	})
	return out, err
}

// SetLimits sets an identity's own limits, zero for the service's, and whether
// it may write.
func (s *Store) SetLimits(ctx context.Context, id vault.Identity, own vault.Quota, blocked bool) error {
	owner := id.Owner()
	return s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		n, err := backupsdb.New(tx).SetLimits(ctx, backupsdb.SetLimitsParams{
			Owner: owner[:], OwnBytes: own.Bytes, OwnObjects: own.Objects, OwnObjectBytes: own.ObjectBytes,
			OwnDayWrites: own.DayWrites, OwnDayBytes: own.DayBytes, OwnHistoryBytes: own.HistoryBytes, Blocked: blocked,
		})
		if err == nil && n == 0 {
			return errkind.New(errkind.NotFound, "This identity has stored nothing: list the identities.")
		}
		return err
	})
}

// Epoch gives the present epoch, beginning the first one.
func Epoch(ctx context.Context, db *store.DB, random io.Reader) (vault.Epoch, error) {
	return epoch(ctx, db, random, false)
}

// BeginEpoch begins another epoch, because the database is an older copy of
// itself. What was given receipts for since that copy is lost, and everything
// signed from now on admits it.
func BeginEpoch(ctx context.Context, db *store.DB, random io.Reader) (vault.Epoch, error) {
	return epoch(ctx, db, random, true)
}

func epoch(ctx context.Context, db *store.DB, random io.Reader, another bool) (out vault.Epoch, err error) {
	var fresh vault.Epoch
	if _, err := io.ReadFull(random, fresh[:]); err != nil {
		return out, fmt.Errorf("epoch: %w", err)
	}
	err = db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := backupsdb.New(tx)
		made, err := q.InsertMeta(ctx, backupsdb.InsertMetaParams{Epoch: fresh[:], BeganMs: tx.Now().UnixMilli()})
		if err != nil {
			return fmt.Errorf("epoch: %w", err)
		}
		if another && made == 0 {
			if _, err := q.BeginEpoch(ctx, backupsdb.BeginEpochParams{Epoch: fresh[:], BeganMs: tx.Now().UnixMilli()}); err != nil {
				return fmt.Errorf("begin epoch: %w", err)
			}
		}
		row, err := q.GetMeta(ctx)
		if err != nil {
			return fmt.Errorf("epoch: %w", err)
		}
		if len(row.Epoch) != len(out) {
			return fmt.Errorf("the stored epoch has %d bytes", len(row.Epoch))
		}
		out = vault.Epoch(row.Epoch)
		return nil
	})
	return out, err
}

// receiptKey names the one key.
const receiptKey = "receipts"

// SharedKey gives the secret that receipts are signed with, from the database
// that replicas share, making it at first. A replica that makes one at the same
// moment gets the same.
func SharedKey(ctx context.Context, db *store.DB, random io.Reader) (secret []byte, err error) {
	fresh := make([]byte, 32)
	if _, err := io.ReadFull(random, fresh); err != nil {
		return nil, fmt.Errorf("receipt key: %w", err)
	}
	err = db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := backupsdb.New(tx)
		if _, err := q.InsertKey(ctx, backupsdb.InsertKeyParams{Name: receiptKey, Secret: fresh}); err != nil {
			return fmt.Errorf("receipt key: %w", err)
		}
		var err error
		secret, err = q.GetKey(ctx, receiptKey)
		return err
	})
	return secret, err
}
