package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/store/towerdb"
)

// TopicTenants is what store.Notifier's listeners of changed tenants listen to.
const TopicTenants = "tower/tenants"

func tenantOf(row towerdb.TowerTenant) (watchtower.Tenant, error) {
	key, err := ln.PubKeyFromBytes(row.TowerKey)
	if err != nil {
		return watchtower.Tenant{}, fmt.Errorf("the tower key of %s: %w", row.Identity, err)
	}
	return watchtower.Tenant{
		ID: row.ID, Identity: row.Identity, TowerKey: key,
		Own:        watchtower.Limits{Sessions: row.OwnSessions, Updates: row.OwnUpdates, Bytes: row.OwnBytes, Free: row.OwnFree},
		CreditMsat: row.CreditMsat, DrawnMsat: row.DrawnMsat,
		Usage:     watchtower.Usage{Sessions: row.Sessions, Updates: row.Updates, Bytes: row.StoredBytes},
		Suspended: row.Suspended, Reason: row.Reason, Created: time.UnixMilli(row.CreatedMs), Expires: time.UnixMilli(row.ExpiresMs),
	}, nil
}

func errUnregistered() error {
	return errkind.New(errkind.NotFound, "This identity is not registered at the tower.")
}

// Register makes a tenant, or prolongs one. newcomer, if set, is asked before an
// identity that is not registered is let in; its error is what that identity
// hears.
func (s *Store) Register(ctx context.Context, identity string, key ln.PubKey, terms watchtower.Terms, newcomer func(watched int64) error) (out watchtower.Tenant, err error) {
	err = s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q, now := towerdb.New(tx), tx.Now()
		expires := now.Add(terms.For)
		row, err := q.TenantByIdentity(ctx, identity)
		switch err = store.MapError(err); {
		case errors.Is(err, store.ErrNotFound):
			watched, err := q.TenantKeys(ctx, now.Add(-terms.Grace).UnixMilli())
			if err != nil {
				return fmt.Errorf("count tenants: %w", err)
			}
			if err := newcomer(int64(len(watched))); err != nil {
				return err
			}
			if err := q.InsertTenant(ctx, towerdb.InsertTenantParams{
				Identity: identity, TowerKey: key[:], CreatedMs: now.UnixMilli(), ExpiresMs: expires.UnixMilli(),
			}); err != nil {
				return fmt.Errorf("insert tenant: %w", err)
			}
			tx.Notify(TopicTenants)
		case err != nil:
			return fmt.Errorf("read tenant: %w", err)
		case row.Suspended:
			return errkind.New(errkind.Denied, "The tower's operator suspended this registration: ask why.")
		case row.ExpiresMs < expires.UnixMilli():
			// The operator may have given more: that is never shortened.
			if _, err := q.SetExpiry(ctx, towerdb.SetExpiryParams{ID: row.ID, ExpiresMs: expires.UnixMilli()}); err != nil {
				return fmt.Errorf("prolong registration: %w", err)
			}
			tx.Notify(TopicTenants)
		}
		if row, err = q.TenantByIdentity(ctx, identity); err != nil {
			return fmt.Errorf("read tenant: %w", err)
		}
		out, err = tenantOf(row)
		return err
	})
	return out, err
}

// Tenant finds a tenant by its identity.
func (s *Store) Tenant(ctx context.Context, identity string) (out watchtower.Tenant, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		row, err := towerdb.New(tx).TenantByIdentity(ctx, identity)
		if err = store.MapError(err); errors.Is(err, store.ErrNotFound) {
			return errUnregistered()
		}
		if err != nil {
			return fmt.Errorf("read tenant: %w", err)
		}
		out, err = tenantOf(row)
		return err
	})
	return out, err
}

// TenantByID finds a tenant by the database's number.
func (s *Store) TenantByID(ctx context.Context, id int64) (out watchtower.Tenant, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		row, err := towerdb.New(tx).GetTenant(ctx, id)
		if err != nil {
			return fmt.Errorf("read tenant %d: %w", id, err)
		}
		out, err = tenantOf(row)
		return err
	})
	return out, err
}

// Tenants lists tenants by identity, after one.
func (s *Store) Tenants(ctx context.Context, after string, limit int) (out []watchtower.Tenant, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		rows, err := towerdb.New(tx).ListTenants(ctx, towerdb.ListTenantsParams{Identity: after, Limit: page(limit)})
		if err != nil {
			return fmt.Errorf("list tenants: %w", err)
		}
		for _, r := range rows {
			t, err := tenantOf(r)
			if err != nil {
				return err
			}
			out = append(out, t)
		}
		return nil
	})
	return out, err
}

// maxPage bounds lists.
const maxPage = 1000

func page(limit int) int32 { return int32(min(max(limit, 1), maxPage)) } //nolint:gosec // bounded

// Key is a tenant's tower key.
type Key struct {
	Tenant   int64
	Identity string
	Key      ln.PubKey
}

// Keys are the keys of all whose time of grace is not over.
func (s *Store) Keys(ctx context.Context, terms watchtower.Terms) (out []Key, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		rows, err := towerdb.New(tx).TenantKeys(ctx, tx.Now().Add(-terms.Grace).UnixMilli())
		if err != nil {
			return fmt.Errorf("list tower keys: %w", err)
		}
		for _, r := range rows {
			key, err := ln.PubKeyFromBytes(r.TowerKey)
			if err != nil {
				return fmt.Errorf("the tower key of %s: %w", r.Identity, err)
			}
			out = append(out, Key{Tenant: r.ID, Identity: r.Identity, Key: key})
		}
		return nil
	})
	return out, err
}

// Settings are what an operator sets of a tenant.
type Settings struct {
	Own       watchtower.Limits
	Suspended bool
	Reason    string
	Expires   time.Time
}

// SetTenant stores an operator's settings.
func (s *Store) SetTenant(ctx context.Context, identity string, set Settings) (out watchtower.Tenant, err error) {
	if err := set.Own.CheckOwn(); err != nil {
		return out, err
	}
	err = s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := towerdb.New(tx)
		row, err := q.TenantByIdentity(ctx, identity)
		if err = store.MapError(err); errors.Is(err, store.ErrNotFound) {
			return errUnregistered()
		}
		if err != nil {
			return fmt.Errorf("read tenant: %w", err)
		}
		if _, err := q.SetTenant(ctx, towerdb.SetTenantParams{
			ID: row.ID, OwnSessions: set.Own.Sessions, OwnUpdates: set.Own.Updates, OwnBytes: set.Own.Bytes,
			Suspended: set.Suspended, Reason: set.Reason, ExpiresMs: set.Expires.UnixMilli(), OwnFree: set.Own.Free,
		}); err != nil {
			return fmt.Errorf("set tenant: %w", err)
		}
		tx.Notify(TopicTenants)
		if row, err = q.TenantByIdentity(ctx, identity); err != nil {
			return err
		}
		out, err = tenantOf(row)
		return err
	})
	return out, err
}

// Session is a session as its owner and the operator see it.
type Session struct {
	Num          int64
	ID           [33]byte
	BlobType     uint16
	MaxUpdates   uint16
	LastApplied  uint16
	SweepFeeRate ln.FeeRateSatPerKW
	Usage        watchtower.Usage
	Created      time.Time
	Updated      time.Time
}

// Sessions lists a tenant's sessions, after a number.
func (s *Store) Sessions(ctx context.Context, tenant, after int64, limit int) (out []Session, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		rows, err := towerdb.New(tx).ListSessions(ctx, towerdb.ListSessionsParams{Tenant: tenant, Num: after, Limit: page(limit)})
		if err != nil {
			return fmt.Errorf("list sessions: %w", err)
		}
		for _, r := range rows {
			out = append(out, listed(r))
		}
		return nil
	})
	return out, err
}

// AllSessions are all of a tenant's sessions at one moment.
func (s *Store) AllSessions(ctx context.Context, tenant int64) (out []Session, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		out, err = allSessions(ctx, towerdb.New(tx), tenant)
		return err
	})
	return out, err
}

// Held are all of a tenant's sessions at one moment, with how many updates of each
// are there: counted, and not as the counters have it.
func (s *Store) Held(ctx context.Context, tenant int64) (out []watchtower.StatedSession, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		q := towerdb.New(tx)
		sessions, err := allSessions(ctx, q, tenant)
		if err != nil {
			return err
		}
		counts, err := q.CountHeld(ctx, tenant)
		if err != nil {
			return fmt.Errorf("count updates: %w", err)
		}
		held := make(map[int64]int64, len(counts))
		for _, c := range counts {
			held[c.Num] = c.Held
		}
		for _, s := range sessions {
			out = append(out, watchtower.StatedSession{ID: s.ID, BlobType: s.BlobType, LastApplied: s.LastApplied, Updates: held[s.Num]})
		}
		return nil
	})
	return out, err
}

func allSessions(ctx context.Context, q *towerdb.Queries, tenant int64) (out []Session, err error) {
	for after := int64(0); ; {
		rows, err := q.ListSessions(ctx, towerdb.ListSessionsParams{Tenant: tenant, Num: after, Limit: maxPage})
		if err != nil {
			return nil, fmt.Errorf("list sessions: %w", err)
		}
		for _, r := range rows {
			out, after = append(out, listed(r)), r.Num
		}
		if len(rows) < maxPage {
			return out, nil
		}
	}
}

func listed(r towerdb.TowerSession) Session {
	//nolint:gosec // every column was written from these types
	out := Session{
		Num: r.Num, BlobType: uint16(r.BlobType), MaxUpdates: uint16(r.MaxUpdates), LastApplied: uint16(r.LastApplied),
		SweepFeeRate: ln.FeeRateSatPerKW(r.SweepFeeRate), Usage: watchtower.Usage{Sessions: 1, Updates: r.Updates, Bytes: r.StoredBytes},
		Created: time.UnixMilli(r.CreatedMs), Updated: time.UnixMilli(r.UpdatedMs),
	}
	copy(out.ID[:], r.SessionID)
	return out
}

// Sweep deletes sessions of a tenant whose time of grace is over, a few at a
// time, and says how many. The tenant's row stays: its breaches refer to it.
func (s *Store) Sweep(ctx context.Context, terms watchtower.Terms) (deleted int, err error) {
	err = s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		deleted = 0
		q, now := towerdb.New(tx), tx.Now()
		tenants, err := q.ExpiredTenants(ctx, towerdb.ExpiredTenantsParams{ExpiresMs: now.Add(-terms.Grace).UnixMilli(), Limit: 1})
		if err != nil {
			return fmt.Errorf("list expired tenants: %w", err)
		}
		for _, row := range tenants {
			t, err := tenantOf(row)
			if err != nil {
				return err
			}
			if !t.Forgotten(terms, now) {
				continue
			}
			sessions, err := q.ListSessions(ctx, towerdb.ListSessionsParams{Tenant: t.ID, Num: 0, Limit: sweepSessions})
			if err != nil {
				return fmt.Errorf("list sessions: %w", err)
			}
			for _, r := range sessions {
				if err := deleteSession(ctx, q, r.Num); err != nil {
					return err
				}
				if err := q.AddUsage(ctx, towerdb.AddUsageParams{ID: t.ID, Sessions: -1, Updates: -r.Updates, StoredBytes: -r.StoredBytes}); err != nil {
					return fmt.Errorf("take from usage: %w", err)
				}
				deleted++
			}
		}
		return nil
	})
	return deleted, err
}

// sweepSessions keeps the transaction short: a session has thousands of updates.
const sweepSessions = 4

// Totals are sums over all tenants.
type Totals struct {
	Tenants int64
	watchtower.Usage
	// CreditMsat is owed to tenants in updates, DrawnMsat was earned so far.
	CreditMsat int64
	DrawnMsat  int64
}

// Totals sums up. It reads every tenant's row.
func (s *Store) Totals(ctx context.Context) (out Totals, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		row, err := towerdb.New(tx).Totals(ctx)
		out = Totals{
			Tenants: row.Tenants, Usage: watchtower.Usage{Sessions: row.Sessions, Updates: row.Updates, Bytes: row.StoredBytes},
			CreditMsat: row.CreditMsat, DrawnMsat: row.DrawnMsat,
		}
		return err
	})
	return out, err
}

// keyName names the one key.
const keyName = "tower"

// SharedKey gives the secret that tower keys come from, from the database that
// replicas share, making it at first. A replica that makes one at the same
// moment gets the same.
func SharedKey(ctx context.Context, db *store.DB, random io.Reader) (secret []byte, err error) {
	fresh := make([]byte, 32)
	if _, err := io.ReadFull(random, fresh); err != nil {
		return nil, fmt.Errorf("tower key: %w", err)
	}
	err = db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := towerdb.New(tx)
		if _, err := q.InsertKey(ctx, towerdb.InsertKeyParams{Name: keyName, Secret: fresh}); err != nil {
			return fmt.Errorf("tower key: %w", err)
		}
		var err error
		secret, err = q.GetKey(ctx, keyName)
		return err
	})
	return secret, err
}
