package api

import (
	"slices"

	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
)

func tenantToWire(t tenant.Tenant, p tenant.Plan) *tenantv1.Tenant {
	out := &tenantv1.Tenant{
		Tenant: t.ID, Kind: kindToWire(t.Kind), Status: statusToWire(t.Status), Reason: t.Reason, Plan: t.Plan, NodeLogin: t.NodeLogin, Drain: t.Drain,
		CreatedMs: t.Created.UnixMilli(), ChangedMs: t.Changed.UnixMilli(),
	}
	for _, n := range t.Nodes {
		out.Nodes = append(out.Nodes, &tenantv1.TenantNode{NodeKey: slices.Clone(n.Key[:]), AddedMs: n.Added.UnixMilli()})
	}
	for _, c := range t.Claims {
		out.Claims = append(out.Claims, &tenantv1.NodeClaim{NodeKey: slices.Clone(c.Node[:]), Place: c.Place.Words, SinceMs: c.Since.UnixMilli()})
	}
	for _, u := range t.Users {
		out.Users = append(out.Users, &tenantv1.TenantUser{Name: u.Name, Role: roleToWire(u.Role), AddedMs: u.Added.UnixMilli()})
	}
	for _, s := range p.Services {
		out.Services = append(out.Services, &tenantv1.TenantServiceTerm{Service: s, Accepted: !slices.Contains(t.Declined, s)})
	}
	for _, m := range t.Macaroons {
		w := &tenantv1.TenantMacaroon{MacaroonId: tenant.FormatID(m.ID), User: m.User, Services: m.Services, MadeMs: m.Made.UnixMilli(), ExpiresMs: m.Expires.UnixMilli()}
		if !m.Node.IsZero() {
			w.NodeKey = slices.Clone(m.Node[:])
		}
		out.Macaroons = append(out.Macaroons, w)
	}
	return out
}

func entriesToWire(list []tenant.Entry) []*tenantv1.AuditEntry {
	out := make([]*tenantv1.AuditEntry, 0, len(list))
	for _, e := range list {
		out = append(out, &tenantv1.AuditEntry{
			Seq: e.Seq, AtMs: e.At.UnixMilli(), Actor: e.Actor, Tenant: e.Tenant, Action: e.Action, Detail: e.Detail,
			Prev: slices.Clone(e.Prev[:]), Hash: slices.Clone(e.Hash[:]),
		})
	}
	return out
}

// The words and the wire's numbers; what is not there is refused by the domain.
func kinds() map[tenantv1.TenantKind]tenant.Kind {
	return map[tenantv1.TenantKind]tenant.Kind{
		tenantv1.TenantKind_TENANT_KIND_HOSTED: tenant.Hosted, tenantv1.TenantKind_TENANT_KIND_OWN: tenant.Own,
		tenantv1.TenantKind_TENANT_KIND_SELF_HOSTED: tenant.SelfHosted,
	}
}

func statuses() map[tenantv1.TenantStatus]tenant.Status {
	return map[tenantv1.TenantStatus]tenant.Status{
		tenantv1.TenantStatus_TENANT_STATUS_ONBOARDING: tenant.Onboarding, tenantv1.TenantStatus_TENANT_STATUS_ACTIVE: tenant.Active,
		tenantv1.TenantStatus_TENANT_STATUS_SUSPENDED: tenant.Suspended, tenantv1.TenantStatus_TENANT_STATUS_CLOSED: tenant.Closed,
	}
}

func roles() map[tenantv1.UserRole]tenant.Role {
	return map[tenantv1.UserRole]tenant.Role{
		tenantv1.UserRole_USER_ROLE_ADMIN: tenant.Admin, tenantv1.UserRole_USER_ROLE_MEMBER: tenant.Member, tenantv1.UserRole_USER_ROLE_VIEWER: tenant.Viewer,
	}
}

// wireOf is the wire's number of a word, 0 for none.
func wireOf[N, W comparable](table map[N]W, word W) (out N) {
	for n, w := range table {
		if w == word {
			return n
		}
	}
	return out
}

func kindFromWire(k tenantv1.TenantKind) tenant.Kind       { return kinds()[k] }
func kindToWire(k tenant.Kind) tenantv1.TenantKind         { return wireOf(kinds(), k) }
func statusFromWire(s tenantv1.TenantStatus) tenant.Status { return statuses()[s] }
func statusToWire(s tenant.Status) tenantv1.TenantStatus   { return wireOf(statuses(), s) }
func roleFromWire(r tenantv1.UserRole) tenant.Role         { return roles()[r] }
func roleToWire(r tenant.Role) tenantv1.UserRole           { return wireOf(roles(), r) }
