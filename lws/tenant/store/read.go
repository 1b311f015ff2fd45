package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/store/tenantdb"
)

func getTenant(ctx context.Context, q *tenantdb.Queries, id string) (tenant.Tenant, error) {
	row, err := q.GetTenant(ctx, id)
	if errors.Is(store.MapError(err), store.ErrNotFound) {
		return tenant.Tenant{}, noTenant()
	}
	if err != nil {
		return tenant.Tenant{}, err
	}
	t := tenantOf(row)
	nodes, err := q.NodesOf(ctx, id)
	if err != nil {
		return tenant.Tenant{}, err
	}
	users, err := q.UsersOf(ctx, id)
	if err != nil {
		return tenant.Tenant{}, err
	}
	macaroons, err := q.MacaroonsOf(ctx, id)
	if err != nil {
		return tenant.Tenant{}, err
	}
	all := map[string]tenant.Tenant{id: t}
	if err := attach(all, nodes, users, macaroons); err != nil {
		return tenant.Tenant{}, err
	}
	return all[id], nil
}

func tenantOf(r tenantdb.Tenant) tenant.Tenant {
	return tenant.Tenant{
		ID: r.ID, Kind: tenant.Kind(r.Kind), Status: tenant.Status(r.Status), Reason: r.Reason, Plan: r.Plan, NodeLogin: r.NodeLogin,
		Declined: split(r.Declined), Drain: r.Drain, Created: moment(r.CreatedMs), Changed: moment(r.ChangedMs),
	}
}

// attach puts what is below tenants where it belongs.
func attach(all map[string]tenant.Tenant, nodes []tenantdb.TenantNode, users []tenantdb.TenantUser, macaroons []tenantdb.TenantMacaroon) error {
	for _, n := range nodes {
		key, err := nodeKey(n.Node)
		if err != nil || key.IsZero() {
			return fmt.Errorf("a node of tenant %s cannot be read: %w", n.Tenant, err)
		}
		t := all[n.Tenant]
		if n.Added {
			t.Nodes = append(t.Nodes, tenant.Node{Key: key, Added: moment(n.AddedMs)})
		}
		if n.PlaceID != "" {
			t.Claims = append(t.Claims, tenant.Claim{Node: key, Place: tenant.Place{ID: n.PlaceID, Words: n.Place}, Since: moment(n.ClaimedMs)})
		}
		all[n.Tenant] = t
	}
	for _, u := range users {
		t := all[u.Tenant]
		t.Users = append(t.Users, tenant.User{Name: u.Name, Role: tenant.Role(u.Role), Added: moment(u.AddedMs)})
		all[u.Tenant] = t
	}
	for _, m := range macaroons {
		key, err := nodeKey(m.Node)
		if err != nil || m.ID <= 0 {
			return fmt.Errorf("a macaroon of tenant %s cannot be read: %w", m.Tenant, err)
		}
		t := all[m.Tenant]
		t.Macaroons = append(t.Macaroons, tenant.Macaroon{
			ID: uint64(m.ID), User: m.Username, Node: key, Services: split(m.Services), Made: moment(m.MadeMs), Expires: moment(m.ExpiresMs),
		})
		all[m.Tenant] = t
	}
	return nil
}

func readAll(ctx context.Context, q *tenantdb.Queries) (Registry, error) {
	out := Registry{Tenants: map[string]tenant.Tenant{}, Plans: map[string]tenant.Plan{}}
	var err error
	if out.Head, err = head(ctx, q); err != nil {
		return out, err
	}
	plans, err := q.ListPlans(ctx)
	if err != nil {
		return out, err
	}
	for _, p := range plans {
		out.Plans[p.Name] = planOf(p)
	}
	rows, err := q.ListTenants(ctx)
	if err != nil {
		return out, err
	}
	for _, r := range rows {
		out.Tenants[r.ID] = tenantOf(r)
	}
	nodes, err := q.ListNodes(ctx)
	if err != nil {
		return out, err
	}
	users, err := q.ListUsers(ctx)
	if err != nil {
		return out, err
	}
	macaroons, err := q.ListMacaroons(ctx)
	if err != nil {
		return out, err
	}
	return out, attach(out.Tenants, nodes, users, macaroons)
}

func planOf(r tenantdb.TenantPlan) tenant.Plan {
	return tenant.Plan{Name: r.Name, Services: split(r.Services), Nodes: int(r.Nodes), Users: int(r.Users), Macaroons: int(r.Macaroons)}
}

func getPlan(ctx context.Context, q *tenantdb.Queries, name string) (tenant.Plan, error) {
	row, err := q.GetPlan(ctx, name)
	if errors.Is(store.MapError(err), store.ErrNotFound) {
		return tenant.Plan{}, errkind.New(errkind.NotFound, "There is no such plan: list them, or set it first.")
	}
	return planOf(row), err
}

func head(ctx context.Context, q *tenantdb.Queries) (tenant.Head, error) {
	row, err := q.AuditHead(ctx)
	if errors.Is(store.MapError(err), store.ErrNotFound) {
		return tenant.Head{}, nil
	}
	if err != nil {
		return tenant.Head{}, err
	}
	h := tenant.Head{Seq: row.Seq}
	h.Hash = hashOf(row.Hash)
	return h, nil
}

// hashOf gives a hash that fits nothing for what has another length: we did not
// write that, and the check of the log says so.
func hashOf(raw []byte) (out [32]byte) {
	if len(raw) != len(out) {
		for i := range out {
			out[i] = 0xff
		}
		return out
	}
	return [32]byte(raw)
}

func appendAudit(ctx context.Context, q *tenantdb.Queries, at time.Time, actor, id string, note tenant.Note) (tenant.Head, error) {
	last, err := head(ctx, q)
	if err != nil {
		return tenant.Head{}, err
	}
	e, err := last.Append(at, actor, id, note)
	if err != nil {
		return tenant.Head{}, err
	}
	return tenant.Head{Seq: e.Seq, Hash: e.Hash}, q.AppendAudit(ctx, tenantdb.AppendAuditParams{
		Seq: e.Seq, AtMs: e.At.UnixMilli(), Actor: e.Actor, Tenant: e.Tenant, Action: e.Action, Detail: e.Detail, Prev: e.Prev[:], Hash: e.Hash[:],
	})
}

// auditPage is how many entries a check reads in one transaction.
const auditPage = 1000

// Verify checks the log from its first entry on. An entry is never changed, so
// that reading it page by page sees one log.
func (s *Store) Verify(ctx context.Context, anchors []tenant.Head) (*tenant.Chain, error) {
	chain := tenant.NewChain(anchors)
	for {
		var page []tenant.Entry
		err := s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
			rows, err := tenantdb.New(tx).AuditFrom(ctx, tenantdb.AuditFromParams{Seq: chain.Head().Seq, Limit: auditPage})
			page = entriesOf(rows)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			chain.Next(e)
		}
		if len(page) < auditPage {
			return chain, nil
		}
	}
}

// Audit is a page of the log, newest first; id is empty for everybody's.
func (s *Store) Audit(ctx context.Context, id string, before int64, limit int32) (out []tenant.Entry, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := tenantdb.New(tx)
		var rows []tenantdb.TenantAudit
		if id == "" {
			rows, err = q.AuditBefore(ctx, tenantdb.AuditBeforeParams{Seq: before, Limit: limit})
		} else {
			rows, err = q.AuditOfBefore(ctx, tenantdb.AuditOfBeforeParams{Tenant: id, Seq: before, Limit: limit})
		}
		out = entriesOf(rows)
		return err
	})
	return out, err
}

func entriesOf(rows []tenantdb.TenantAudit) []tenant.Entry {
	out := make([]tenant.Entry, 0, len(rows))
	for _, r := range rows {
		e := tenant.Entry{Seq: r.Seq, At: moment(r.AtMs), Actor: r.Actor, Tenant: r.Tenant, Action: r.Action, Detail: r.Detail}
		e.Prev, e.Hash = hashOf(r.Prev), hashOf(r.Hash)
		out = append(out, e)
	}
	return out
}
