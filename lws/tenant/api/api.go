// Package api serves the registry of tenants over gRPC and REST.
//
// It promises that a tenant's caller acts for the tenant of its macaroon alone, since
// no request of its names one; that only admins of a tenant change it; that a
// macaroon is shown once, when it is made; and that an operator is told what a
// tenant did in its own name.
package api

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
	"github.com/sluice-lsp/sluice/lws/tenant/engine"
)

// Name is the service's word in macaroons and health checks.
const Name = tenant.ServiceSelf

// Service plugs into rpcserver.
type Service struct{ engine atomic.Pointer[engine.Engine] }

// New makes the service; calls are refused until Ready.
func New() *Service { return &Service{} }

// Ready hands over the registry.
func (s *Service) Ready(e *engine.Engine) { s.engine.Store(e) }

// Name implements rpcserver.Service.
func (s *Service) Name() string { return Name }

// Permissions implements rpcserver.Service.
func (s *Service) Permissions() auth.Permissions {
	table := auth.Permissions{}
	for desc, who := range map[*grpc.ServiceDesc]auth.Audience{
		&tenantv1.TenantService_ServiceDesc: auth.Tenants, &tenantv1.TenantOperatorService_ServiceDesc: auth.Operators,
	} {
		for _, m := range desc.Methods {
			table["/"+desc.ServiceName+"/"+m.MethodName] = auth.Permission{Service: Name, For: who}
		}
	}
	return table
}

// RegisterGRPC implements rpcserver.Service.
func (s *Service) RegisterGRPC(r grpc.ServiceRegistrar) {
	tenantv1.RegisterTenantServiceServer(r, &own{s: s})
	tenantv1.RegisterTenantOperatorServiceServer(r, &operator{s: s})
}

// RegisterREST implements rpcserver.Service.
func (s *Service) RegisterREST(ctx context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error {
	if err := tenantv1.RegisterTenantServiceHandler(ctx, mux, conn); err != nil {
		return err
	}
	return tenantv1.RegisterTenantOperatorServiceHandler(ctx, mux, conn)
}

func (s *Service) get() (*engine.Engine, error) {
	e := s.engine.Load()
	if e == nil {
		return nil, errkind.New(errkind.Unavailable, "The gateway is starting: try again in a few seconds.")
	}
	return e, nil
}

// show is a tenant on the wire.
func show(ctx context.Context, e *engine.Engine, id string) (*tenantv1.Tenant, error) {
	t, p, err := e.Tenant(ctx, id)
	if err != nil {
		return nil, err
	}
	out := tenantToWire(t, p)
	if out.Hosting, err = hosting(ctx, e, id); err != nil {
		return nil, err
	}
	return out, nil
}

// nodeOf reads an optional node key.
func nodeOf(raw []byte) (ln.PubKey, error) {
	if len(raw) == 0 {
		return ln.PubKey{}, nil
	}
	key, err := ln.PubKeyFromBytes(raw)
	if err != nil {
		return ln.PubKey{}, errkind.Wrap(errkind.Invalid, err, "A node's key has 33 bytes, 66 hex digits.")
	}
	return key, nil
}

// neededNode reads a node key that must be there.
func neededNode(raw []byte) (ln.PubKey, error) {
	key, err := nodeOf(raw)
	if err == nil && key.IsZero() {
		err = errkind.New(errkind.Invalid, "Name the node: its key has 33 bytes, 66 hex digits.")
	}
	return key, err
}

// maxDays keeps a wish within what a duration can hold; the registry has the limit
// that counts.
const maxDays = 10_000

func days(n uint32) time.Duration { return time.Duration(min(n, maxDays)) * 24 * time.Hour }

// Pages of lists.
const defaultPage, maxPage = 100, 1000

func page(limit int32) (int32, error) {
	switch {
	case limit == 0:
		return defaultPage, nil
	case limit < 0 || limit > maxPage:
		return 0, errkind.Newf(errkind.Invalid, "Ask for 1 to %d at a time.", maxPage)
	}
	return limit, nil
}

// newest is a number that no entry of the log reaches.
const newest = 1<<63 - 1

func audit(ctx context.Context, e *engine.Engine, id string, before int64, limit int32) ([]*tenantv1.AuditEntry, error) {
	n, err := page(limit)
	if err != nil {
		return nil, err
	}
	if before <= 0 {
		before = newest
	}
	list, err := e.Audit(ctx, id, before, n)
	if err != nil {
		return nil, err
	}
	return entriesToWire(list), nil
}

// setUser adds a user, or changes its role.
func setUser(ctx context.Context, e *engine.Engine, actor, id, name string, role tenantv1.UserRole) error {
	t, _, err := e.Tenant(ctx, id)
	if err != nil {
		return err
	}
	c := tenant.Command(tenant.AddUser{Name: name, Role: roleFromWire(role)})
	if _, there := t.User(name); there {
		c = tenant.SetRole{Name: name, Role: roleFromWire(role)}
	}
	_, err = e.Apply(ctx, actor, id, c)
	return err
}
