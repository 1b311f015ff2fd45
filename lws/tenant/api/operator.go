package api

import (
	"context"
	"maps"
	"slices"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
	"github.com/sluice-lsp/sluice/lws/tenant/engine"
)

// byOperator is how the log names operators: they share one macaroon.
const byOperator = "operator"

// operator serves the operator's tools.
type operator struct {
	tenantv1.UnimplementedTenantOperatorServiceServer
	s *Service
}

// apply makes a change and shows the tenant as it is then.
func (o *operator) apply(ctx context.Context, id string, c tenant.Command) (*tenantv1.Tenant, error) {
	return o.change(ctx, id, func(e *engine.Engine) error {
		_, err := e.Apply(ctx, byOperator, id, c)
		return err
	})
}

func (o *operator) change(ctx context.Context, id string, f func(*engine.Engine) error) (*tenantv1.Tenant, error) {
	e, err := o.s.get()
	if err != nil {
		return nil, err
	}
	if err := f(e); err != nil {
		return nil, err
	}
	return show(ctx, e, id)
}

func (o *operator) GetGateway(context.Context, *tenantv1.GetGatewayRequest) (*tenantv1.GetGatewayResponse, error) {
	e, err := o.s.get()
	if err != nil {
		return nil, err
	}
	key := e.Gateway()
	return &tenantv1.GetGatewayResponse{NodeKey: key[:]}, nil
}

func (o *operator) RegisterTenant(ctx context.Context, r *tenantv1.RegisterTenantRequest) (*tenantv1.RegisterTenantResponse, error) {
	t, err := o.change(ctx, r.GetTenant(), func(e *engine.Engine) error {
		_, err := e.Register(ctx, byOperator, r.GetTenant(), kindFromWire(r.GetKind()), r.GetPlan())
		return err
	})
	return &tenantv1.RegisterTenantResponse{Tenant: t}, err
}

func (o *operator) ListTenants(ctx context.Context, r *tenantv1.ListTenantsRequest) (*tenantv1.ListTenantsResponse, error) {
	e, err := o.s.get()
	if err != nil {
		return nil, err
	}
	limit, err := page(r.GetLimit())
	if err != nil {
		return nil, err
	}
	all, plans, err := e.All(ctx)
	if err != nil {
		return nil, err
	}
	out := &tenantv1.ListTenantsResponse{}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if id > r.GetAfter() && len(out.Tenants) < int(limit) {
			out.Tenants = append(out.Tenants, tenantToWire(all[id], plans[all[id].Plan]))
		}
	}
	return out, nil
}

func (o *operator) ShowTenant(ctx context.Context, r *tenantv1.ShowTenantRequest) (*tenantv1.ShowTenantResponse, error) {
	e, err := o.s.get()
	if err != nil {
		return nil, err
	}
	t, err := show(ctx, e, r.GetTenant())
	return &tenantv1.ShowTenantResponse{Tenant: t}, err
}

func (o *operator) SetTenantStatus(ctx context.Context, r *tenantv1.SetTenantStatusRequest) (*tenantv1.SetTenantStatusResponse, error) {
	t, err := o.apply(ctx, r.GetTenant(), tenant.SetStatus{To: statusFromWire(r.GetStatus()), Reason: r.GetReason()})
	return &tenantv1.SetTenantStatusResponse{Tenant: t}, err
}

func (o *operator) SetTenantPlan(ctx context.Context, r *tenantv1.SetTenantPlanRequest) (*tenantv1.SetTenantPlanResponse, error) {
	if r.GetPlan() == "" {
		return nil, errkind.New(errkind.Invalid, "Name the plan.")
	}
	t, err := o.change(ctx, r.GetTenant(), func(e *engine.Engine) error {
		_, err := e.ChangePlan(ctx, byOperator, r.GetTenant(), r.GetPlan())
		return err
	})
	return &tenantv1.SetTenantPlanResponse{Tenant: t}, err
}

func (o *operator) SetNodeLogin(ctx context.Context, r *tenantv1.SetNodeLoginRequest) (*tenantv1.SetNodeLoginResponse, error) {
	t, err := o.apply(ctx, r.GetTenant(), tenant.SetNodeLogin{Allowed: r.GetAllowed()})
	return &tenantv1.SetNodeLoginResponse{Tenant: t}, err
}

func (o *operator) SetTenantService(ctx context.Context, r *tenantv1.SetTenantServiceRequest) (*tenantv1.SetTenantServiceResponse, error) {
	t, err := o.apply(ctx, r.GetTenant(), tenant.SetService{Service: r.GetService(), Accepted: r.GetAccepted()})
	return &tenantv1.SetTenantServiceResponse{Tenant: t}, err
}

func (o *operator) AddTenantNode(ctx context.Context, r *tenantv1.AddTenantNodeRequest) (*tenantv1.AddTenantNodeResponse, error) {
	key, err := neededNode(r.GetNodeKey())
	if err != nil {
		return nil, err
	}
	t, err := o.change(ctx, r.GetTenant(), func(e *engine.Engine) error {
		_, err := e.AddNode(ctx, byOperator, r.GetTenant(), key, r.GetSignature())
		return err
	})
	return &tenantv1.AddTenantNodeResponse{Tenant: t}, err
}

func (o *operator) ClaimTenantNode(ctx context.Context, r *tenantv1.ClaimTenantNodeRequest) (*tenantv1.ClaimTenantNodeResponse, error) {
	key, err := neededNode(r.GetNodeKey())
	if err != nil {
		return nil, err
	}
	place := tenant.Place{ID: r.GetPlaceId(), Words: r.GetPlace()}
	t, err := o.apply(ctx, r.GetTenant(), tenant.ClaimNode{Key: key, Place: place, Made: r.GetMade(), Moved: r.GetMoved()})
	return &tenantv1.ClaimTenantNodeResponse{Tenant: t}, err
}

func (o *operator) RemoveTenantNode(ctx context.Context, r *tenantv1.RemoveTenantNodeRequest) (*tenantv1.RemoveTenantNodeResponse, error) {
	key, err := neededNode(r.GetNodeKey())
	if err != nil {
		return nil, err
	}
	t, err := o.apply(ctx, r.GetTenant(), tenant.RemoveNode{Key: key})
	return &tenantv1.RemoveTenantNodeResponse{Tenant: t}, err
}

func (o *operator) SetTenantUser(ctx context.Context, r *tenantv1.SetTenantUserRequest) (*tenantv1.SetTenantUserResponse, error) {
	t, err := o.change(ctx, r.GetTenant(), func(e *engine.Engine) error {
		return setUser(ctx, e, byOperator, r.GetTenant(), r.GetName(), r.GetRole())
	})
	return &tenantv1.SetTenantUserResponse{Tenant: t}, err
}

func (o *operator) RemoveTenantUser(ctx context.Context, r *tenantv1.RemoveTenantUserRequest) (*tenantv1.RemoveTenantUserResponse, error) {
	t, err := o.apply(ctx, r.GetTenant(), tenant.RemoveUser{Name: r.GetName()})
	return &tenantv1.RemoveTenantUserResponse{Tenant: t}, err
}

func (o *operator) IssueTenantMacaroon(ctx context.Context, r *tenantv1.IssueTenantMacaroonRequest) (*tenantv1.IssueTenantMacaroonResponse, error) {
	e, err := o.s.get()
	if err != nil {
		return nil, err
	}
	w := engine.Wish{User: r.GetUser(), Services: r.GetServices(), For: days(r.GetDays())}
	if w.Node, err = nodeOf(r.GetNodeKey()); err != nil {
		return nil, err
	}
	if r.GetInstead() != "" {
		if w.Instead, err = tenant.ParseID(r.GetInstead()); err != nil {
			return nil, err
		}
	}
	got, err := e.Issue(ctx, byOperator, r.GetTenant(), w)
	if err != nil {
		return nil, err
	}
	return &tenantv1.IssueTenantMacaroonResponse{Macaroon: got.Macaroon, MacaroonId: tenant.FormatID(got.Of.ID), ExpiresMs: got.Of.Expires.UnixMilli()}, nil
}

func (o *operator) RevokeTenantMacaroon(ctx context.Context, r *tenantv1.RevokeTenantMacaroonRequest) (*tenantv1.RevokeTenantMacaroonResponse, error) {
	which, err := tenant.ParseID(r.GetMacaroonId())
	if err != nil {
		return nil, err
	}
	t, err := o.apply(ctx, r.GetTenant(), tenant.Revoke{ID: which})
	return &tenantv1.RevokeTenantMacaroonResponse{Tenant: t}, err
}

func (o *operator) ListPlans(ctx context.Context, _ *tenantv1.ListPlansRequest) (*tenantv1.ListPlansResponse, error) {
	e, err := o.s.get()
	if err != nil {
		return nil, err
	}
	_, plans, err := e.All(ctx)
	if err != nil {
		return nil, err
	}
	out := &tenantv1.ListPlansResponse{}
	for _, name := range slices.Sorted(maps.Keys(plans)) {
		p := plans[name]
		out.Plans = append(out.Plans, &tenantv1.Plan{Name: p.Name, Services: p.Services, Nodes: uint32(p.Nodes), Users: uint32(p.Users), Macaroons: uint32(p.Macaroons)})
	}
	return out, nil
}

func (o *operator) SetPlan(ctx context.Context, r *tenantv1.SetPlanRequest) (*tenantv1.SetPlanResponse, error) {
	e, err := o.s.get()
	if err != nil {
		return nil, err
	}
	p := r.GetPlan()
	return &tenantv1.SetPlanResponse{}, e.SetPlan(ctx, byOperator, tenant.Plan{
		Name: p.GetName(), Services: p.GetServices(), Nodes: int(p.GetNodes()), Users: int(p.GetUsers()), Macaroons: int(p.GetMacaroons()),
	})
}

func (o *operator) ListAudit(ctx context.Context, r *tenantv1.ListAuditRequest) (*tenantv1.ListAuditResponse, error) {
	e, err := o.s.get()
	if err != nil {
		return nil, err
	}
	list, err := audit(ctx, e, r.GetTenant(), r.GetBeforeSeq(), r.GetLimit())
	return &tenantv1.ListAuditResponse{Entries: list}, err
}

func (o *operator) VerifyAudit(ctx context.Context, _ *tenantv1.VerifyAuditRequest) (*tenantv1.VerifyAuditResponse, error) {
	e, err := o.s.get()
	if err != nil {
		return nil, err
	}
	c, err := e.Verify(ctx)
	if err != nil {
		return nil, err
	}
	return &tenantv1.VerifyAuditResponse{Entries: c.Head.Seq, Head: c.Head.Hash[:], Anchors: int64(c.Anchors), Problems: c.Problems}, nil
}
