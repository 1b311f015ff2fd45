package api

import (
	"context"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
	"github.com/sluice-lsp/sluice/lws/tenant/engine"
)

func (o *operator) DrainTenantNode(ctx context.Context, r *tenantv1.DrainTenantNodeRequest) (*tenantv1.DrainTenantNodeResponse, error) {
	t, err := o.apply(ctx, r.GetTenant(), tenant.SetDrain{Drain: r.GetDrain(), Reason: r.GetReason()})
	return &tenantv1.DrainTenantNodeResponse{Tenant: t}, err
}

// maxReport is more than a supervisor says of a node.
const maxReport = 16 << 10

func (o *operator) ReportHosting(ctx context.Context, r *tenantv1.ReportHostingRequest) (*tenantv1.ReportHostingResponse, error) {
	e, err := o.s.get()
	if err != nil {
		return nil, err
	}
	if r.GetHosting() == nil {
		return nil, errkind.New(errkind.Invalid, "Say how the node stands.")
	}
	text, err := protojson.Marshal(r.GetHosting())
	if err != nil || len(text) > maxReport {
		return nil, errkind.Newf(errkind.Invalid, "A report has at most %d bytes.", maxReport)
	}
	key, err := nodeOf(r.GetNodeKey())
	if err != nil {
		return nil, err
	}
	t, _, err := e.Tenant(ctx, r.GetTenant())
	if err != nil {
		return nil, err
	}
	if at := t.Elsewhere(key, tenant.Place{ID: r.GetPlaceId(), Words: r.GetPlace()}); at != "" {
		// What counts is what is said of the node of the other place.
		return &tenantv1.ReportHostingResponse{Drain: true, Elsewhere: at}, nil
	}
	if t, err = e.PutReport(ctx, r.GetTenant(), string(text)); err != nil {
		return nil, err
	}
	return &tenantv1.ReportHostingResponse{Drain: t.Drain}, nil
}

// hosting is what a supervisor said last, with the server's time. What an older or newer
// program wrote is shown as far as it is understood.
func hosting(ctx context.Context, e *engine.Engine, id string) (*tenantv1.Hosting, error) {
	text, at, err := e.Report(ctx, id)
	if err != nil || text == "" {
		return nil, err
	}
	var out tenantv1.Hosting
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(text), &out); err != nil {
		return nil, errkind.Wrap(errkind.Internal, err, "The supervisor's last report cannot be read.")
	}
	out.AtMs = at.UnixMilli()
	return &out, nil
}
