// Package api serves the watchtower over gRPC and REST: it turns messages into
// calls of the engine and back.
//
// It promises that a node acts only for the key it proved at login, and that a
// tower key is shown to its tenant and to operators only.
package api

import (
	"context"
	"sync/atomic"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
	"github.com/sluice-lsp/sluice/watchtower/engine"
)

// Name is the service's word in macaroons and health checks.
const Name = "watchtower"

// Service plugs into rpcserver.
type Service struct{ running atomic.Pointer[running] }

// running is what calls need once the service runs.
type running struct {
	engine *engine.Engine
	// through is the node that the tower watches the chain with.
	through ln.PubKey
}

// New makes the service; calls are refused until Ready.
func New() *Service { return &Service{} }

// Ready hands over the running engine, and says through which node it watches.
func (s *Service) Ready(e *engine.Engine, through ln.PubKey) {
	s.running.Store(&running{engine: e, through: through})
}

// Name implements rpcserver.Service.
func (s *Service) Name() string { return Name }

// Permissions implements rpcserver.Service.
func (s *Service) Permissions() auth.Permissions {
	table := auth.Permissions{}
	for desc, who := range map[*grpc.ServiceDesc]auth.Audience{
		&towerv1.TowerService_ServiceDesc: auth.Wallets, &towerv1.TowerOperatorService_ServiceDesc: auth.Operators,
	} {
		for _, m := range desc.Methods {
			table["/"+desc.ServiceName+"/"+m.MethodName] = auth.Permission{Service: Name, For: who}
		}
	}
	return table
}

// RegisterGRPC implements rpcserver.Service.
func (s *Service) RegisterGRPC(r grpc.ServiceRegistrar) {
	towerv1.RegisterTowerServiceServer(r, &wallets{s: s})
	towerv1.RegisterTowerOperatorServiceServer(r, &operator{s: s})
}

// RegisterREST implements rpcserver.Service.
func (s *Service) RegisterREST(ctx context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error {
	if err := towerv1.RegisterTowerServiceHandler(ctx, mux, conn); err != nil {
		return err
	}
	return towerv1.RegisterTowerOperatorServiceHandler(ctx, mux, conn)
}

func (s *Service) get() (*running, error) {
	r := s.running.Load()
	if r == nil {
		return nil, errkind.New(errkind.Unavailable, "The tower is starting: try again in a few seconds.")
	}
	return r, nil
}

// caller is the node that the caller proved.
func (s *Service) caller(ctx context.Context) (*running, ln.PubKey, error) {
	r, err := s.get()
	if err != nil {
		return nil, ln.PubKey{}, err
	}
	node, err := auth.NodeOf(ctx)
	return r, node, err
}

// tenant is the caller's registration.
func (s *Service) tenant(ctx context.Context) (*running, watchtower.Tenant, error) {
	r, node, err := s.caller(ctx)
	if err != nil {
		return nil, watchtower.Tenant{}, err
	}
	t, err := r.engine.Tenant(ctx, engine.Identity(node))
	return r, t, err
}

// defaultPage is what a limit of 0 means.
const defaultPage = 100

func orDefault(limit int32) int {
	if limit == 0 {
		return defaultPage
	}
	return int(limit)
}
