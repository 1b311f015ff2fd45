// Package store keeps what wallets asked to have held, on both databases. It promises
// that a change is durable when it returns nil, and fenced: who has lost the lease
// changes nothing. Payments that wait are the state machine's (lws/hold).
package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lws"
	"github.com/sluice-lsp/sluice/lws/store/lwsdb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the service's tables up to date.
func Migrate(ctx context.Context, db *store.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("lws migrations: %w", err)
	}
	return store.Migrate(ctx, db, "lws", files)
}

// Store is the table in one database.
type Store struct {
	db    *store.DB
	fence func(context.Context, *store.Tx) error
}

// New uses a migrated database. fence runs first in every change.
func New(db *store.DB, fence func(context.Context, *store.Tx) error) *Store {
	return &Store{db: db, fence: fence}
}

// Wishes are all registrations.
func (s *Store) Wishes(ctx context.Context) (map[ln.PubKey]lws.Wish, error) {
	var out map[ln.PubKey]lws.Wish
	err := s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = make(map[ln.PubKey]lws.Wish)
		rows, err := lwsdb.New(tx).ListWishes(ctx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			client, err := ln.PubKeyFromBytes(r.Client)
			if err != nil {
				return fmt.Errorf("a wallet's registration: %w", err)
			}
			if r.HoldForMs < 0 || r.MaxHtlcs < 0 || r.MaxHtlcs > math.MaxInt32 || r.MaxSat < 0 || r.FinalCltv < 0 || r.FinalCltv > math.MaxUint32 {
				return fmt.Errorf("the registration of %s cannot be read", client)
			}
			out[client] = lws.Wish{
				HoldFor: time.Duration(r.HoldForMs) * time.Millisecond, MaxHtlcs: int(r.MaxHtlcs),
				MaxSat: ln.Sat(r.MaxSat), FinalCltvDelta: uint32(r.FinalCltv),
			}
		}
		return nil
	})
	return out, err
}

// Put registers a wallet, or changes its registration. Of new ones there are at most
// so many: false when there is no room.
func (s *Store) Put(ctx context.Context, client ln.PubKey, w lws.Wish, known bool, most int64, at time.Time) (taken bool, err error) {
	sat := min(uint64(w.MaxSat), math.MaxInt64)
	err = s.db.WriteFenced(ctx, s.fence, func(ctx context.Context, tx *store.Tx) error {
		taken = false
		q := lwsdb.New(tx)
		if !known {
			n, err := q.CountWishes(ctx)
			if err != nil {
				return err
			}
			if n >= most {
				return nil
			}
		}
		taken = true
		return q.PutWish(ctx, lwsdb.PutWishParams{
			Client: client[:], HoldForMs: w.HoldFor.Milliseconds(), MaxHtlcs: int64(w.MaxHtlcs), MaxSat: int64(sat),
			FinalCltv: int64(w.FinalCltvDelta), ChangedMs: at.UnixMilli(),
		})
	})
	return taken, err
}

// keepExpected is how much longer an invoice is remembered than it can be paid: parts of a
// payment come one after the other.
const keepExpected = time.Hour

// PutExpected remembers an invoice. Of one wallet there are at most so many: false when
// there is no room.
func (s *Store) PutExpected(ctx context.Context, client ln.PubKey, x lws.Expected, most int, now time.Time) (taken bool, err error) {
	err = s.db.WriteFenced(ctx, s.fence, func(ctx context.Context, tx *store.Tx) error {
		taken = false
		q := lwsdb.New(tx)
		if err := q.DeleteExpectedBefore(ctx, now.Add(-keepExpected).UnixMilli()); err != nil {
			return err
		}
		n, err := q.CountExpected(ctx, lwsdb.CountExpectedParams{Client: client[:], UntilMs: now.UnixMilli()})
		if err != nil || n >= int64(most) {
			return err
		}
		taken = true
		return q.PutExpected(ctx, lwsdb.PutExpectedParams{
			Client: client[:], PaymentHash: x.Hash[:], FinalCltv: int64(x.FinalCltvDelta), UntilMs: x.Until.UnixMilli(),
		})
	})
	return taken, err
}

// Expected is the final CLTV delta that a wallet's own node keeps for an invoice, or 0.
func (s *Store) Expected(ctx context.Context, client ln.PubKey, hash ln.Hash) (finalCltv uint32, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		n, err := lwsdb.New(tx).GetExpected(ctx, lwsdb.GetExpectedParams{Client: client[:], PaymentHash: hash[:]})
		switch {
		case errors.Is(store.MapError(err), store.ErrNotFound):
			finalCltv = 0
			return nil
		case err != nil:
			return err
		case n < 0 || n > math.MaxUint32:
			return fmt.Errorf("what %s announced cannot be read", client)
		}
		finalCltv = uint32(n)
		return nil
	})
	return finalCltv, err
}

// Delete ends a registration; none is success.
func (s *Store) Delete(ctx context.Context, client ln.PubKey) error {
	return s.db.WriteFenced(ctx, s.fence, func(ctx context.Context, tx *store.Tx) error {
		return lwsdb.New(tx).DeleteWish(ctx, client[:])
	})
}
