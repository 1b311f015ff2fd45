package api

import (
	"context"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
	"github.com/sluice-lsp/sluice/lws/tenant/engine"
)

// own serves tenants.
type own struct {
	tenantv1.UnimplementedTenantServiceServer
	s *Service
}

// caller is who calls, with the registry.
func (o *own) caller(ctx context.Context) (*engine.Engine, auth.Identity, error) {
	e, err := o.s.get()
	if err != nil {
		return nil, auth.Identity{}, err
	}
	id, ok := auth.FromContext(ctx)
	if !ok || id.Kind != auth.KindTenant || id.Tenant == "" {
		return nil, auth.Identity{}, errkind.New(errkind.Unauthenticated, "Call with a tenant's macaroon.")
	}
	return e, id, nil
}

// admin is caller for what changes the tenant.
func (o *own) admin(ctx context.Context) (*engine.Engine, auth.Identity, string, error) {
	e, id, err := o.caller(ctx)
	if err == nil && id.Role != string(tenant.Admin) {
		err = engine.NotAdmin()
	}
	return e, id, engine.Actor(id.Tenant, id.User), err
}

func (o *own) GetOwnTenant(ctx context.Context, _ *tenantv1.GetOwnTenantRequest) (*tenantv1.GetOwnTenantResponse, error) {
	e, id, err := o.caller(ctx)
	if err != nil {
		return nil, err
	}
	t, err := show(ctx, e, id.Tenant)
	return &tenantv1.GetOwnTenantResponse{Tenant: t, User: id.User, Role: roleToWire(tenant.Role(id.Role)), MacaroonId: tenant.FormatID(id.RootKey)}, err
}

func (o *own) SetOwnService(ctx context.Context, r *tenantv1.SetOwnServiceRequest) (*tenantv1.SetOwnServiceResponse, error) {
	t, err := o.apply(ctx, tenant.SetService{Service: r.GetService(), Accepted: r.GetAccepted()})
	return &tenantv1.SetOwnServiceResponse{Tenant: t}, err
}

func (o *own) DrainOwnNode(ctx context.Context, r *tenantv1.DrainOwnNodeRequest) (*tenantv1.DrainOwnNodeResponse, error) {
	t, err := o.apply(ctx, tenant.SetDrain{Drain: r.GetDrain(), Reason: r.GetReason()})
	return &tenantv1.DrainOwnNodeResponse{Tenant: t}, err
}

func (o *own) apply(ctx context.Context, c tenant.Command) (*tenantv1.Tenant, error) {
	e, id, actor, err := o.admin(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := e.Apply(ctx, actor, id.Tenant, c); err != nil {
		return nil, err
	}
	return show(ctx, e, id.Tenant)
}

func (o *own) SetOwnUser(ctx context.Context, r *tenantv1.SetOwnUserRequest) (*tenantv1.SetOwnUserResponse, error) {
	e, id, actor, err := o.admin(ctx)
	if err != nil {
		return nil, err
	}
	if r.GetName() == id.User && roleFromWire(r.GetRole()) != tenant.Admin {
		return nil, errSelf()
	}
	if err := setUser(ctx, e, actor, id.Tenant, r.GetName(), r.GetRole()); err != nil {
		return nil, err
	}
	t, err := show(ctx, e, id.Tenant)
	return &tenantv1.SetOwnUserResponse{Tenant: t}, err
}

// errSelf keeps an admin from locking itself out by a slip.
func errSelf() error {
	return errkind.New(errkind.Conflict, "An admin cannot take its own rights away: have another admin, or the operator, do it.")
}

func (o *own) RemoveOwnUser(ctx context.Context, r *tenantv1.RemoveOwnUserRequest) (*tenantv1.RemoveOwnUserResponse, error) {
	_, id, _, err := o.admin(ctx)
	if err != nil {
		return nil, err
	}
	if r.GetName() == id.User {
		return nil, errSelf()
	}
	t, err := o.apply(ctx, tenant.RemoveUser{Name: r.GetName()})
	return &tenantv1.RemoveOwnUserResponse{Tenant: t}, err
}

func (o *own) IssueOwnMacaroon(ctx context.Context, r *tenantv1.IssueOwnMacaroonRequest) (*tenantv1.IssueOwnMacaroonResponse, error) {
	e, id, actor, err := o.admin(ctx)
	if err != nil {
		return nil, err
	}
	node, err := nodeOf(r.GetNodeKey())
	if err != nil {
		return nil, err
	}
	got, err := e.Issue(ctx, actor, id.Tenant, engine.Wish{User: r.GetUser(), Node: node, Services: r.GetServices(), For: days(r.GetDays())})
	if err != nil {
		return nil, err
	}
	return &tenantv1.IssueOwnMacaroonResponse{Macaroon: got.Macaroon, MacaroonId: tenant.FormatID(got.Of.ID), ExpiresMs: got.Of.Expires.UnixMilli()}, nil
}

// RotateOwnMacaroon lets every user replace its own macaroon; those of others are an
// admin's to replace.
func (o *own) RotateOwnMacaroon(ctx context.Context, r *tenantv1.RotateOwnMacaroonRequest) (*tenantv1.RotateOwnMacaroonResponse, error) {
	e, id, err := o.caller(ctx)
	if err != nil {
		return nil, err
	}
	which := id.RootKey
	if r.GetMacaroonId() != "" {
		if which, err = tenant.ParseID(r.GetMacaroonId()); err != nil {
			return nil, err
		}
	}
	if which != id.RootKey && id.Role != string(tenant.Admin) {
		return nil, engine.NotAdmin()
	}
	got, err := e.Issue(ctx, engine.Actor(id.Tenant, id.User), id.Tenant, engine.Wish{Instead: which, For: days(r.GetDays())})
	if err != nil {
		return nil, err
	}
	return &tenantv1.RotateOwnMacaroonResponse{Macaroon: got.Macaroon, MacaroonId: tenant.FormatID(got.Of.ID), ExpiresMs: got.Of.Expires.UnixMilli()}, nil
}

func (o *own) RevokeOwnMacaroon(ctx context.Context, r *tenantv1.RevokeOwnMacaroonRequest) (*tenantv1.RevokeOwnMacaroonResponse, error) {
	which, err := tenant.ParseID(r.GetMacaroonId())
	if err != nil {
		return nil, err
	}
	t, err := o.apply(ctx, tenant.Revoke{ID: which})
	return &tenantv1.RevokeOwnMacaroonResponse{Tenant: t}, err
}

func (o *own) ListOwnAudit(ctx context.Context, r *tenantv1.ListOwnAuditRequest) (*tenantv1.ListOwnAuditResponse, error) {
	e, id, err := o.caller(ctx)
	if err != nil {
		return nil, err
	}
	list, err := audit(ctx, e, id.Tenant, r.GetBeforeSeq(), r.GetLimit())
	return &tenantv1.ListOwnAuditResponse{Entries: list}, err
}
