package app

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	backupsapi "github.com/sluice-lsp/sluice/backupsvc/api"
	interceptorapi "github.com/sluice-lsp/sluice/interceptor/api"
	"github.com/sluice-lsp/sluice/interceptor/api/interceptorv1"
	interceptorengine "github.com/sluice-lsp/sluice/interceptor/engine"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/auth/sqlkeys"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/internal/store"
	lspapi "github.com/sluice-lsp/sluice/lsp/api"
	lwsapi "github.com/sluice-lsp/sluice/lws/api"
	swapsapi "github.com/sluice-lsp/sluice/swaps/api"
	towerapi "github.com/sluice-lsp/sluice/watchtower/api"
)

func (d *Daemon) listen(ctx context.Context) (*rpcserver.Server, *tls.Config, error) {
	certificate, err := selfcert.Open(selfcert.Config{
		CertPath: d.path(fileCert), KeyPath: d.path(fileKey), Hosts: d.cfg.RPC.TLSHosts, Now: d.now, Rand: rand.Reader,
		Report: func(event string, err error) {
			d.log.Info("TLS certificate", zap.String("event", event), zap.Error(err))
		},
	})
	if err != nil {
		return nil, nil, err
	}
	keys, err := d.rootKeys()
	if err != nil {
		return nil, nil, err
	}
	bakery, err := auth.NewBakery(ctx, keys, rand.Reader, d.now)
	if err != nil {
		return nil, nil, err
	}
	if _, err := bakery.OperatorFile(ctx, d.path(fileOperator)); err != nil {
		return nil, nil, err
	}
	login, err := auth.NewLogin(auth.LoginConfig{
		Server: auth.Server{NodeKey: d.info.PubKey, ID: "sluiced"}, Bakery: bakery, Services: d.walletServices(),
		MacaroonLife: d.cfg.RPC.LoginFor.Std(), Rand: rand.Reader, Now: d.now,
	})
	if err != nil {
		return nil, nil, err
	}
	if err := d.newTenants(ctx, bakery); err != nil {
		return nil, nil, err
	}
	services := []rpcserver.Service{login, d.tenants}
	if d.roles.Interceptor {
		services = append(services, holdService{d.hold, holdStatus{d}})
	}
	if d.roles.LSP {
		services = append(services, d.lsp, d.lws)
		if d.cfg.Joint.Enabled {
			services = append(services, d.joint)
		}
	}
	if d.roles.Backups {
		services = append(services, d.backups)
	}
	if d.roles.Swaps {
		services = append(services, d.swaps)
	}
	if d.roles.Watchtower {
		services = append(services, d.watch)
	}
	server, err := rpcserver.Listen(ctx, rpcserver.Config{
		GRPCAddress: d.cfg.RPC.Listen, RESTAddress: d.cfg.RPC.REST, TLS: certificate.TLS(), Verifier: bakery, Tenants: d.registryOfTenants,
		Limits: d.cfg.Limits, Log: d.log, Now: d.now, Rand: rand.Reader, Registry: d.registry,
	}, services...)
	if err == nil {
		d.registryOfTenants.OnChange(server.Recheck)
	}
	return server, certificate.TLS(), err
}

// walletServices are what wallets may log in for. Whoever runs services in
// several processes has wallets log in at each: a macaroon of one is good at
// another that shares its database, so all are offered at all.
func (d *Daemon) walletServices() []string {
	return []string{lspapi.Name, backupsapi.Name, towerapi.Name, lwsapi.Name, swapsapi.Name}
}

func (d *Daemon) admin(ctx context.Context) (*rpcserver.Admin, error) {
	return rpcserver.ListenAdmin(ctx, rpcserver.AdminConfig{
		Address: d.cfg.RPC.Admin, Metrics: d.registry, Profiling: d.cfg.RPC.Profile,
		Ready: func(context.Context) error {
			if s := *d.ready.Load(); s != "" {
				return errors.New(s)
			}
			return nil
		},
	})
}

// rootKeys are where macaroons come from: files of this machine, or for replicas
// their shared database, so that each takes what another one gave.
func (d *Daemon) rootKeys() (auth.RootKeys, error) {
	if d.db.Engine() == store.Postgres {
		return sqlkeys.New(d.db), nil
	}
	return auth.NewFileRootKeys(d.path(dirRootKeys))
}

// holdService plugs the interceptor into the server. All of it is for the
// operator: services of other processes attach with the operator's macaroon.
type holdService struct {
	engine *interceptorengine.Engine
	status interceptorapi.StatusSource
}

func (h holdService) Name() string { return serviceInterceptor }

func (h holdService) Permissions() auth.Permissions {
	operators := auth.Permission{Service: serviceInterceptor, For: auth.Operators}
	table := auth.Permissions{}
	for _, m := range interceptorv1.Interceptor_ServiceDesc.Methods {
		table["/"+interceptorv1.Interceptor_ServiceDesc.ServiceName+"/"+m.MethodName] = operators
	}
	for _, s := range interceptorv1.Interceptor_ServiceDesc.Streams {
		table["/"+interceptorv1.Interceptor_ServiceDesc.ServiceName+"/"+s.StreamName] = operators
	}
	return table
}

func (h holdService) RegisterGRPC(r grpc.ServiceRegistrar) {
	interceptorv1.RegisterInterceptorServer(r, interceptorapi.NewServer(h.engine, h.engine, h.status))
}

func (h holdService) RegisterREST(ctx context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error {
	return interceptorv1.RegisterInterceptorHandler(ctx, mux, conn)
}
