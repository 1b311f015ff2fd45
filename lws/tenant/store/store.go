// Package store keeps the registry of tenants on both databases.
//
// It promises that a change is decided on what its own serializable transaction
// read, and durable together with its entry in the log of changes, or not made at
// all; and that entries are only ever added.
package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/store/tenantdb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the registry's tables up to date.
func Migrate(ctx context.Context, db *store.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("tenant migrations: %w", err)
	}
	return store.Migrate(ctx, db, "tenant", files)
}

// Topic wakes whoever keeps a copy of the registry.
const Topic = "tenants"

// Store is the registry in one database.
type Store struct{ db *store.DB }

// New uses a migrated database.
func New(db *store.DB) *Store { return &Store{db: db} }

// Done is a change that was made.
type Done struct {
	Tenant tenant.Tenant
	Plan   tenant.Plan
	// Ended are the macaroons that the change ended.
	Ended []uint64
	// Head is the log's end with the change.
	Head tenant.Head
}

// Register makes a new tenant.
func (s *Store) Register(ctx context.Context, actor, id string, kind tenant.Kind, plan string, at time.Time) (out Done, err error) {
	err = s.write(ctx, func(ctx context.Context, tx *store.Tx, q *tenantdb.Queries) error {
		out = Done{}
		t, note, err := tenant.Register(id, kind, plan, at)
		if err != nil {
			return err
		}
		if out.Plan, err = getPlan(ctx, q, plan); err != nil {
			return err
		}
		switch _, err := q.GetTenant(ctx, id); {
		case err == nil:
			return errkind.New(errkind.Conflict, "There is, or was, a tenant of this name: choose another.")
		case !errors.Is(store.MapError(err), store.ErrNotFound):
			return err
		}
		if err := q.InsertTenant(ctx, tenantdb.InsertTenantParams{
			ID: t.ID, Kind: string(t.Kind), Status: string(t.Status), Reason: t.Reason, Plan: t.Plan, NodeLogin: t.NodeLogin,
			Declined: "", CreatedMs: t.Created.UnixMilli(), ChangedMs: t.Changed.UnixMilli(),
		}); err != nil {
			return err
		}
		out.Tenant = t
		out.Head, err = appendAudit(ctx, q, at, actor, id, note)
		return err
	})
	return out, err
}

// Apply decides and makes a change of a tenant.
func (s *Store) Apply(ctx context.Context, actor, id string, c tenant.Command, at time.Time) (Done, error) {
	return s.apply(ctx, actor, id, "", c, at)
}

// ChangePlan puts a tenant under another plan.
func (s *Store) ChangePlan(ctx context.Context, actor, id, plan string, at time.Time) (Done, error) {
	return s.apply(ctx, actor, id, plan, tenant.ChangePlan{}, at)
}

func (s *Store) apply(ctx context.Context, actor, id, plan string, c tenant.Command, at time.Time) (out Done, err error) {
	err = s.write(ctx, func(ctx context.Context, tx *store.Tx, q *tenantdb.Queries) error {
		out = Done{}
		before, err := getTenant(ctx, q, id)
		if err != nil {
			return err
		}
		name := before.Plan
		if plan != "" {
			name = plan
		}
		if out.Plan, err = getPlan(ctx, q, name); err != nil {
			return err
		}
		t, note, err := tenant.Apply(before, out.Plan, c, at)
		if err != nil {
			return err
		}
		if note.Unchanged() {
			out.Tenant = before
			out.Head, err = head(ctx, q)
			return err
		}
		if err := save(ctx, q, t); err != nil {
			return err
		}
		for _, m := range before.Macaroons {
			if _, left := t.Macaroon(m.ID); !left {
				out.Ended = append(out.Ended, m.ID)
			}
		}
		out.Tenant = t
		out.Head, err = appendAudit(ctx, q, at, actor, id, note)
		return err
	})
	if errors.Is(err, store.ErrUnique) {
		// The only key that is not within the tenant is that of a node.
		return Done{}, errkind.Wrap(errkind.Conflict, err, "The node is another tenant's, or is being made for one: each tenant needs a seed of its own.")
	}
	return out, err
}

// write runs a change and wakes those who keep a copy.
func (s *Store) write(ctx context.Context, f func(context.Context, *store.Tx, *tenantdb.Queries) error) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		tx.Notify(Topic)
		return f(ctx, tx, tenantdb.New(tx))
	})
}

// save writes a tenant with everything below it. Registrations are small: writing
// them anew leaves no difference between what was decided and what is stored.
func save(ctx context.Context, q *tenantdb.Queries, t tenant.Tenant) error {
	if err := q.UpdateTenant(ctx, tenantdb.UpdateTenantParams{
		ID: t.ID, Status: string(t.Status), Reason: t.Reason, Plan: t.Plan, NodeLogin: t.NodeLogin,
		Declined: join(t.Declined), ChangedMs: t.Changed.UnixMilli(), Drain: t.Drain,
	}); err != nil {
		return err
	}
	for _, empty := range []func(context.Context, string) error{q.DeleteNodesOf, q.DeleteUsersOf, q.DeleteMacaroonsOf} {
		if err := empty(ctx, t.ID); err != nil {
			return err
		}
	}
	for _, n := range nodeRows(t) {
		if err := q.InsertNode(ctx, n); err != nil {
			return err
		}
	}
	for _, u := range t.Users {
		if err := q.InsertUser(ctx, tenantdb.InsertUserParams{Tenant: t.ID, Name: u.Name, Role: string(u.Role), AddedMs: u.Added.UnixMilli()}); err != nil {
			return err
		}
	}
	for _, m := range t.Macaroons {
		node := []byte{}
		if !m.Node.IsZero() {
			node = m.Node[:]
		}
		if m.ID > math.MaxInt64 {
			return fmt.Errorf("the macaroon id %x has 64 bits", m.ID)
		}
		if err := q.InsertMacaroon(ctx, tenantdb.InsertMacaroonParams{
			ID: int64(m.ID), Tenant: t.ID, Username: m.User, Node: node, Services: join(m.Services),
			MadeMs: m.Made.UnixMilli(), ExpiresMs: m.Expires.UnixMilli(),
		}); err != nil {
			return err
		}
	}
	return nil
}

// nodeRows are the tenant's nodes and claims, a row for each key.
func nodeRows(t tenant.Tenant) []tenantdb.InsertNodeParams {
	var rows []tenantdb.InsertNodeParams
	row := func(c tenant.Claim) tenantdb.InsertNodeParams {
		out := tenantdb.InsertNodeParams{Node: c.Node[:], Tenant: t.ID, PlaceID: c.Place.ID, Place: c.Place.Words}
		if c.Place.ID != "" {
			out.ClaimedMs = c.Since.UnixMilli()
		}
		return out
	}
	for _, n := range t.Nodes {
		c, _ := t.Claim(n.Key)
		c.Node = n.Key
		r := row(c)
		r.Added, r.AddedMs = true, n.Added.UnixMilli()
		rows = append(rows, r)
	}
	for _, c := range t.Claims {
		if !t.HasNode(c.Node) {
			rows = append(rows, row(c))
		}
	}
	return rows
}

// Tenant reads one tenant and its plan.
func (s *Store) Tenant(ctx context.Context, id string) (t tenant.Tenant, p tenant.Plan, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := tenantdb.New(tx)
		if t, err = getTenant(ctx, q, id); err != nil {
			return err
		}
		p, err = getPlan(ctx, q, t.Plan)
		return err
	})
	return t, p, err
}

// PutReport keeps what a supervisor said of a tenant's node, in place of what it said
// before.
func (s *Store) PutReport(ctx context.Context, id, report string, at time.Time) (t tenant.Tenant, err error) {
	err = s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := tenantdb.New(tx)
		if t, err = getTenant(ctx, q, id); err != nil {
			return err
		}
		return q.PutReport(ctx, tenantdb.PutReportParams{Tenant: id, AtMs: at.UnixMilli(), Report: report})
	})
	return t, err
}

// Report gives what was said last; empty if nothing was.
func (s *Store) Report(ctx context.Context, id string) (report string, at time.Time, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		row, err := tenantdb.New(tx).GetReport(ctx, id)
		if errors.Is(store.MapError(err), store.ErrNotFound) {
			return nil
		}
		report, at = row.Report, moment(row.AtMs)
		return err
	})
	return report, at, err
}

// Registry is everything that is registered, as one transaction saw it.
type Registry struct {
	Tenants map[string]tenant.Tenant
	Plans   map[string]tenant.Plan
	Head    tenant.Head
}

// All reads the registry.
func (s *Store) All(ctx context.Context) (out Registry, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out, err = readAll(ctx, tenantdb.New(tx))
		return err
	})
	return out, err
}

// Head is the log's end: whoever has a copy that belongs to it is up to date.
func (s *Store) Head(ctx context.Context) (h tenant.Head, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		h, err = head(ctx, tenantdb.New(tx))
		return err
	})
	return h, err
}

// PutPlan makes or changes a plan.
func (s *Store) PutPlan(ctx context.Context, actor string, p tenant.Plan, at time.Time) (h tenant.Head, err error) {
	err = s.write(ctx, func(ctx context.Context, tx *store.Tx, q *tenantdb.Queries) error {
		if err := q.PutPlan(ctx, tenantdb.PutPlanParams{
			Name: p.Name, Services: join(p.Services), Nodes: int64(p.Nodes), Users: int64(p.Users), Macaroons: int64(p.Macaroons),
		}); err != nil {
			return err
		}
		h, err = appendAudit(ctx, q, at, actor, "", tenant.Note{Action: "plan.set", Detail: map[string]string{
			"plan": p.Name, "services": join(p.Services), "nodes": fmt.Sprint(p.Nodes), "users": fmt.Sprint(p.Users), "macaroons": fmt.Sprint(p.Macaroons),
		}})
		return err
	})
	return h, err
}

// FirstPlan makes a plan in a registry that never had one.
func (s *Store) FirstPlan(ctx context.Context, p tenant.Plan, at time.Time) error {
	plans, err := s.All(ctx)
	if err != nil || len(plans.Plans) > 0 {
		return err
	}
	// A second process that does the same sets the same.
	_, err = s.PutPlan(ctx, "sluiced", p, at)
	return err
}

// lists are stored as words with commas between; no word has one.
func join(words []string) string { return strings.Join(words, ",") }

func split(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

func noTenant() error { return errkind.New(errkind.NotFound, "There is no such tenant: list them.") }

func nodeKey(raw []byte) (ln.PubKey, error) {
	if len(raw) == 0 {
		return ln.PubKey{}, nil
	}
	return ln.PubKeyFromBytes(raw)
}

func moment(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
