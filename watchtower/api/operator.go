package api

import (
	"context"
	"time"

	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
)

type operator struct {
	towerv1.UnimplementedTowerOperatorServiceServer
	s *Service
}

func (o *operator) GetTowerStatus(context.Context, *towerv1.GetTowerStatusRequest) (*towerv1.GetTowerStatusResponse, error) {
	r, err := o.s.get()
	if err != nil {
		return nil, err
	}
	e := r.engine
	view, searching := e.View()
	totals, cfg := e.Totals(), e.Config()
	out := &towerv1.GetTowerStatusResponse{
		Searching: searching, TipHeight: view.Tip.Height, BestHeight: view.Best, Problem: view.Problem,
		OpenBreaches: int64(view.Open), DueBreaches: int64(view.Due), Tenants: totals.Tenants, Usage: usageToWire(totals.Usage),
		Limits: limitsToWire(cfg.Terms.Limits), MaxTenants: cfg.MaxTenants, MaxBytes: cfg.MaxBytes, Connections: int64(e.Connections()), Addresses: cfg.Addresses,
		PriceMsat: int64(cfg.Terms.PriceMsat), CreditMsat: totals.CreditMsat, DrawnMsat: totals.DrawnMsat, //nolint:gosec // bounded
	}
	if !view.At.IsZero() {
		out.SyncedMs = view.At.UnixMilli()
	}
	for _, t := range e.Tally() {
		out.Breaches = append(out.Breaches, &towerv1.BreachCount{State: string(t.State), Breaches: t.Breaches, SweptSat: t.SweptSat})
	}
	return out, nil
}

func (o *operator) ListTenants(ctx context.Context, req *towerv1.ListTenantsRequest) (*towerv1.ListTenantsResponse, error) {
	r, err := o.s.get()
	if err != nil {
		return nil, err
	}
	list, err := r.engine.Tenants(ctx, req.GetAfter(), orDefault(req.GetLimit()))
	if err != nil {
		return nil, err
	}
	out := &towerv1.ListTenantsResponse{}
	for _, t := range list {
		out.Tenants = append(out.Tenants, r.tenantToWire(t))
	}
	return out, nil
}

func (o *operator) ShowTenant(ctx context.Context, req *towerv1.ShowTenantRequest) (*towerv1.ShowTenantResponse, error) {
	r, err := o.s.get()
	if err != nil {
		return nil, err
	}
	t, err := r.engine.Tenant(ctx, req.GetIdentity())
	if err != nil {
		return nil, err
	}
	sessions, err := r.engine.Sessions(ctx, t.ID, 0, defaultPage)
	if err != nil {
		return nil, err
	}
	return &towerv1.ShowTenantResponse{Tenant: r.tenantToWire(t), Sessions: sessionsToWire(sessions)}, nil
}

func (o *operator) SetTenant(ctx context.Context, req *towerv1.SetTenantRequest) (*towerv1.SetTenantResponse, error) {
	r, err := o.s.get()
	if err != nil {
		return nil, err
	}
	own := req.GetOwnLimits()
	t, err := r.engine.SetTenant(ctx, req.GetIdentity(), tower.Settings{
		Own:       watchtower.Limits{Sessions: own.GetSessions(), Updates: own.GetUpdates(), Bytes: own.GetBytes(), Free: own.GetFreeUpdates()},
		Suspended: req.GetSuspended(), Reason: req.GetReason(), Expires: time.UnixMilli(req.GetExpiresMs()),
	})
	if err != nil {
		return nil, err
	}
	return &towerv1.SetTenantResponse{Tenant: r.tenantToWire(t)}, nil
}

func (o *operator) ListAllBreaches(ctx context.Context, req *towerv1.ListAllBreachesRequest) (*towerv1.ListAllBreachesResponse, error) {
	r, err := o.s.get()
	if err != nil {
		return nil, err
	}
	list, err := r.breaches(ctx, 0, req.GetBeforeFoundMs(), req.GetBeforeId(), req.GetLimit())
	return &towerv1.ListAllBreachesResponse{Breaches: list}, err
}

func (o *operator) ShowAnyBreach(ctx context.Context, req *towerv1.ShowAnyBreachRequest) (*towerv1.ShowAnyBreachResponse, error) {
	r, err := o.s.get()
	if err != nil {
		return nil, err
	}
	b, story, err := r.breach(ctx, 0, req.GetId())
	return &towerv1.ShowAnyBreachResponse{Breach: b, Story: story}, err
}

func (o *operator) ListTenantPurchases(ctx context.Context, req *towerv1.ListTenantPurchasesRequest) (*towerv1.ListTenantPurchasesResponse, error) {
	r, err := o.s.get()
	if err != nil {
		return nil, err
	}
	t, err := r.engine.Tenant(ctx, req.GetIdentity())
	if err != nil {
		return nil, err
	}
	list, err := r.purchases(ctx, t.ID, req.GetLimit())
	return &towerv1.ListTenantPurchasesResponse{Purchases: list}, err
}
