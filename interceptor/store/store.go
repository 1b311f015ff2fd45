// Package store keeps the interceptor's ledger: the rows of held HTLCs, the
// handlers and the routes they claim, on both databases.
//
// It promises that every write is one transaction, durable when it returns
// nil, and fenced by the lease's epoch: an owner that has lost its lease
// changes nothing. Updates compare the row's version first, so that of two
// different decisions one is an error. A row is deleted only long after lnd
// has forgotten its HTLC and its handler has taken note.
package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"time"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/store/storedb"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the interceptor's tables up to date.
func Migrate(ctx context.Context, db *store.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("interceptor migrations: %w", err)
	}
	return store.Migrate(ctx, db, "interceptor", files)
}

// Store is the ledger in one database.
type Store struct {
	db    *store.DB
	lease string
}

// New uses a migrated database. lease names the lease that fences writes.
func New(db *store.DB, lease string) *Store { return &Store{db: db, lease: lease} }

// Acquire waits for the lease that fences this store's writes.
func (s *Store) Acquire(ctx context.Context, cfg store.LeaseConfig) (*store.Lease, error) {
	cfg.Name = s.lease
	l, err := s.db.AcquireLease(ctx, cfg)
	if err != nil {
		return nil, mapError("acquire", err)
	}
	return l, nil
}

// Live loads every row that something may still have to be done about.
func (s *Store) Live(ctx context.Context) ([]interceptor.Row, error) {
	var out []interceptor.Row
	err := s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		rows, err := storedb.New(tx).ListLiveRows(ctx)
		if err != nil {
			return err
		}
		out, err = toRows(rows)
		return err
	})
	return out, mapError("load live rows", err)
}

// Write inserts and updates rows in one transaction, all or none. An insert
// whose key exists already leaves that row as it is. An update must have a
// version one above the stored one, or the error is interceptor.ErrConflict.
func (s *Store) Write(ctx context.Context, epoch int64, insert, update []interceptor.Row) error {
	return s.share(ctx, "record HTLCs", epoch, func(ctx context.Context, tx *store.Tx) error {
		for _, r := range insert {
			p, err := insertParams(r)
			if err != nil {
				return err
			}
			if _, err := storedb.New(tx.Later(rowOf(r, nil))).InsertRow(ctx, p); err != nil {
				return err
			}
		}
		for _, r := range update {
			conflict := fmt.Errorf("at version %d: %w", r.Version-1, interceptor.ErrConflict)
			if _, err := storedb.New(tx.Later(rowOf(r, store.OneRow(conflict)))).UpdateRow(ctx, updateParams(r)); err != nil {
				return err
			}
		}
		return nil
	})
}

// rowOf names the row in an error of its statement, which may have run later.
func rowOf(r interceptor.Row, check func(int64, error) error) func(int64, error) error {
	return func(rows int64, err error) error {
		if check != nil {
			err = check(rows, err)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.Key, err)
		}
		return nil
	}
}

// Get reads single rows; those that do not exist are left out.
func (s *Store) Get(ctx context.Context, keys []ln.CircuitKey) ([]interceptor.Row, error) {
	var out []interceptor.Row
	err := s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = out[:0]
		q := storedb.New(tx)
		for _, key := range keys {
			id, err := toInt64(key.HtlcID)
			if err != nil {
				return err
			}
			r, err := q.GetRow(ctx, storedb.GetRowParams{ChanID: key.ChanID.Bytes(), HtlcID: id})
			if errors.Is(store.MapError(err), store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			row, err := toRow(r)
			if err != nil {
				return err
			}
			out = append(out, row)
		}
		return nil
	})
	return out, mapError("read HTLCs", err)
}

// List selects rows for people and programs.
func (s *Store) List(ctx context.Context, f interceptor.RowFilter) ([]interceptor.Row, error) {
	limit := int32(min(max(f.Limit, 0), 1000)) //nolint:gosec // bounded here
	if limit == 0 {
		limit = 100
	}
	goneUntil := int64(math.MaxInt64)
	if f.OpenOnly {
		goneUntil = 0
	}
	var out []interceptor.Row
	err := s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := storedb.New(tx)
		var (
			rows []storedb.InterceptorRow
			err  error
		)
		if f.Hash != nil {
			rows, err = q.ListRowsByHash(ctx, storedb.ListRowsByHashParams{
				PaymentHash: f.Hash[:], After: f.After, Handler: f.Handler, State: string(f.State),
				GoneUntilMs: goneUntil, MaxRows: limit,
			})
		} else {
			rows, err = q.ListRows(ctx, storedb.ListRowsParams{
				After: f.After, Handler: f.Handler, State: string(f.State), GoneUntilMs: goneUntil, MaxRows: limit,
			})
		}
		if err != nil {
			return err
		}
		out, err = toRows(rows)
		return err
	})
	return out, mapError("list HTLCs", err)
}

// Prune deletes at most so many rows that were finished before one time, the
// oldest first, and routes that had lapsed by the other, and counts the rows. A
// row that is finished can be missed: its HTLC was absent from a listing of
// lnd's, so that another offer of it is a phantom and is failed without one.
func (s *Store) Prune(ctx context.Context, epoch int64, finished, lapsed time.Time, most int) (rows int64, err error) {
	err = s.write(ctx, "prune HTLCs", epoch, func(ctx context.Context, q *storedb.Queries) (err error) {
		if rows, err = q.DeleteOldRows(ctx, storedb.DeleteOldRowsParams{BeforeMs: finished.UnixMilli(), Most: int32(most)}); err != nil { //nolint:gosec // a page
			return err
		}
		_, err = q.DeleteLapsedRoutes(ctx, lapsed.UnixMilli())
		return err
	})
	return rows, err
}

// Begin records the owner of an epoch. Unless the ledger is trusted, and the
// owner of the epoch before is on record as well, every guard ends. A ledger without
// any owner is new, and lnd need not be: it is in doubt as well.
func (s *Store) Begin(ctx context.Context, epoch int64, trusted bool, now time.Time) (doubt time.Time, err error) {
	err = s.write(ctx, "begin a tenure", epoch, func(ctx context.Context, q *storedb.Queries) error {
		last, err := q.GetTenure(ctx, s.lease)
		fresh := errors.Is(store.MapError(err), store.ErrNotFound)
		if err != nil && !fresh {
			return err
		}
		if !trusted || last.Epoch < epoch-1 {
			if _, err := q.EndGuards(ctx); err != nil {
				return err
			}
			fresh = true
		}
		if fresh {
			last.DoubtMs = now.UnixMilli()
		}
		doubt = time.UnixMilli(last.DoubtMs)
		return q.PutTenure(ctx, storedb.PutTenureParams{Lease: s.lease, Epoch: epoch, DoubtMs: last.DoubtMs})
	})
	return doubt, err
}

// Handlers loads every registration, and the routes by handler.
func (s *Store) Handlers(ctx context.Context) ([]interceptor.HandlerConfig, map[string][]interceptor.Route, error) {
	var (
		handlers []interceptor.HandlerConfig
		routes   map[string][]interceptor.Route
	)
	err := s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		handlers, routes = nil, make(map[string][]interceptor.Route)
		q := storedb.New(tx)
		hs, err := q.ListHandlers(ctx)
		if err != nil {
			return err
		}
		for _, h := range hs {
			handlers = append(handlers, interceptor.HandlerConfig{
				Name: h.Name, Priority: int(h.Priority), OnAbsent: interceptor.Absent(h.OnAbsent),
			})
		}
		rs, err := q.ListRoutes(ctx)
		if err != nil {
			return err
		}
		for _, r := range rs {
			scid, err := ln.SCIDFromBytes(r.Scid)
			if err != nil {
				return fmt.Errorf("route of %s: %w", r.Handler, err)
			}
			routes[r.Handler] = append(routes[r.Handler], interceptor.Route{SCID: scid, Until: fromMs(r.UntilMs), Guarded: r.Guarded})
		}
		return nil
	})
	return handlers, routes, mapError("load handlers", err)
}

// PutHandler registers a handler or changes its registration.
func (s *Store) PutHandler(ctx context.Context, epoch int64, h interceptor.HandlerConfig) error {
	return s.write(ctx, "register a handler", epoch, func(ctx context.Context, q *storedb.Queries) error {
		return q.PutHandler(ctx, storedb.PutHandlerParams{
			Name: h.Name, Priority: int64(h.Priority), OnAbsent: string(h.OnAbsent),
		})
	})
}

// PutRoutes adds a handler's claims, or moves their ends, which ends a guard.
func (s *Store) PutRoutes(ctx context.Context, epoch int64, handler string, routes []interceptor.Route) error {
	return s.share(ctx, "claim routes", epoch, func(ctx context.Context, tx *store.Tx) error {
		q := storedb.New(tx.Later(nil))
		for _, r := range routes {
			err := q.PutRoute(ctx, storedb.PutRouteParams{
				Handler: handler, Scid: r.SCID.Bytes(), UntilMs: toMs(r.Until), Guarded: r.Guarded,
			})
			if err != nil {
				return fmt.Errorf("%s: %w", r.SCID, err)
			}
		}
		return nil
	})
}

// DeleteRoutes drops a handler's claims.
func (s *Store) DeleteRoutes(ctx context.Context, epoch int64, handler string, scids []ln.SCID) error {
	return s.share(ctx, "release routes", epoch, func(ctx context.Context, tx *store.Tx) error {
		q := storedb.New(tx.Later(nil))
		for _, scid := range scids {
			if err := q.DeleteRoute(ctx, storedb.DeleteRouteParams{Handler: handler, Scid: scid.Bytes()}); err != nil {
				return fmt.Errorf("%s: %w", scid, err)
			}
		}
		return nil
	})
}

// share is write for what many ask at the same time: they share transactions.
func (s *Store) share(ctx context.Context, doing string, epoch int64, f func(context.Context, *store.Tx) error) error {
	return mapError(doing, s.db.WriteTogether(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := tx.CheckLease(ctx, s.lease, epoch); err != nil {
			return err
		}
		return f(ctx, tx)
	}))
}

func (s *Store) write(
	ctx context.Context, doing string, epoch int64, f func(context.Context, *storedb.Queries) error,
) error {
	return mapError(doing, s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := tx.CheckLease(ctx, s.lease, epoch); err != nil {
			return err
		}
		return f(ctx, storedb.New(tx))
	}))
}

// mapError gives the plumbing's errors the names that the engine acts on. All
// that is not known to have changed nothing is ErrUnavailable.
func mapError(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrLeaseLost):
		return fmt.Errorf("%s: %w: %w", doing, interceptor.ErrLeaseLost, err)
	case errors.Is(err, interceptor.ErrConflict), errors.Is(err, interceptor.ErrInvalid):
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w: %w", doing, interceptor.ErrUnavailable, err)
}
