package rpcserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alphapb "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	"github.com/sluice-lsp/sluice/internal/auth"
)

// Service plugs a service's API into the server.
type Service interface {
	// Name is the word for the service in health checks, logs and macaroons.
	Name() string
	// Permissions has an entry for every method that RegisterGRPC registers,
	// and no other.
	Permissions() auth.Permissions
	// RegisterGRPC registers the generated servers.
	RegisterGRPC(grpc.ServiceRegistrar)
	// RegisterREST registers the generated handlers; a service without REST
	// does nothing.
	RegisterREST(ctx context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error
}

// Config is what the server needs. Addresses are host:port.
type Config struct {
	GRPCAddress string
	// RESTAddress empty means no REST.
	RESTAddress string
	// TLS has the certificate (selfcert.Keeper.TLS).
	TLS      *tls.Config
	Verifier auth.Verifier
	// Tenants nil refuses tenants' macaroons.
	Tenants auth.Registry
	Limits  auth.Limits
	// MaxMessageBytes bounds each message and each REST body.
	MaxMessageBytes int
	// StopTimeout is how long calls may take to end when stopping.
	StopTimeout time.Duration
	Log         *zap.Logger
	Now         func() time.Time
	// Rand names calls; it need not be secret, only unlikely to repeat.
	Rand     io.Reader
	Registry prometheus.Registerer
	// Tracer nil means no tracing.
	Tracer trace.TracerProvider
}

// Defaults of Config.
const (
	DefaultMaxMessageBytes = 4 << 20
	DefaultStopTimeout     = 10 * time.Second
)

// Server is a server whose ports are open. Calls wait until Run.
type Server struct {
	cfg      Config
	guard    *auth.Guard
	grpc     *grpc.Server
	health   *health.Server
	listener net.Listener
	rest     *restServer
}

// Listen checks the services' permissions and opens the ports. It accepts
// nothing yet: Run does.
func Listen(ctx context.Context, cfg Config, services ...Service) (*Server, error) {
	if cfg.MaxMessageBytes == 0 {
		cfg.MaxMessageBytes = DefaultMaxMessageBytes
	}
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = DefaultStopTimeout
	}
	if cfg.TLS == nil {
		return nil, errors.New("rpc server: TLS is not optional")
	}
	tables := []auth.Permissions{builtinPermissions()}
	for _, s := range services {
		tables = append(tables, s.Permissions())
	}
	table, err := auth.Merge(tables...)
	if err != nil {
		return nil, fmt.Errorf("rpc server: %w", err)
	}
	guard, err := auth.NewGuard(cfg.Verifier, table, cfg.Limits, cfg.Now, callerAddress)
	if err != nil {
		return nil, fmt.Errorf("rpc server: %w", err)
	}
	if cfg.Tenants != nil {
		guard.UseTenants(cfg.Tenants)
	}
	obs, err := newObserver(cfg.Log, cfg.Now, cfg.Rand, cfg.Registry)
	if err != nil {
		return nil, fmt.Errorf("rpc server: %w", err)
	}
	s := &Server{cfg: cfg, guard: guard, health: health.NewServer()}
	s.grpc = grpc.NewServer(s.options(obs, guard)...)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	for _, svc := range services {
		svc.RegisterGRPC(s.grpc)
		s.health.SetServingStatus(svc.Name(), healthpb.HealthCheckResponse_SERVING)
	}
	if err := auth.CheckComplete(table, s.grpc.GetServiceInfo()); err != nil {
		return nil, fmt.Errorf("rpc server: %w", err)
	}
	if s.listener, err = listen(ctx, cfg.GRPCAddress); err != nil {
		return nil, fmt.Errorf("gRPC: %w", err)
	}
	if cfg.RESTAddress != "" {
		if s.rest, err = newREST(ctx, cfg, services); err != nil {
			return nil, errors.Join(fmt.Errorf("REST: %w", err), s.listener.Close())
		}
	}
	return s, nil
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s (is another process using the port?): %w", address, err)
	}
	return l, nil
}

func (s *Server) options(obs *observer, guard *auth.Guard) []grpc.ServerOption {
	opts := []grpc.ServerOption{
		// TLS is put on per connection: in-memory ones, from REST, have none.
		grpc.Creds(transport{credentials.NewTLS(s.cfg.TLS)}),
		grpc.ChainUnaryInterceptor(obs.unary, guard.Unary(), textUnary),
		grpc.ChainStreamInterceptor(obs.stream, guard.Stream(), textStream),
		grpc.MaxRecvMsgSize(s.cfg.MaxMessageBytes),
		grpc.MaxSendMsgSize(s.cfg.MaxMessageBytes),
		grpc.MaxHeaderListSize(32 << 10),
		grpc.MaxConcurrentStreams(256),
		grpc.ConnectionTimeout(10 * time.Second),
		// Pings find dead wallets, whose streams would else stay for hours.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
	if s.cfg.Tracer != nil {
		opts = append(opts, grpc.StatsHandler(otelgrpc.NewServerHandler(otelgrpc.WithTracerProvider(s.cfg.Tracer))))
	}
	return opts
}

// builtinPermissions are for what the server itself offers. Reflection shows
// the protos, which are public anyway.
func builtinPermissions() auth.Permissions {
	public := auth.Permission{For: auth.Public}
	return auth.Permissions{
		healthpb.Health_Check_FullMethodName:                                     public,
		healthpb.Health_Watch_FullMethodName:                                     public,
		healthpb.Health_List_FullMethodName:                                      public,
		reflectionpb.ServerReflection_ServerReflectionInfo_FullMethodName:        public,
		reflectionv1alphapb.ServerReflection_ServerReflectionInfo_FullMethodName: public,
	}
}

// Recheck ends the open streams of callers that the registry of tenants refuses now.
func (s *Server) Recheck(ctx context.Context) { s.guard.Recheck(ctx) }

// GRPCAddr is the address that gRPC listens on; tests ask for port 0.
func (s *Server) GRPCAddr() net.Addr { return s.listener.Addr() }

// RESTAddr is the address that REST listens on, nil without REST.
func (s *Server) RESTAddr() net.Addr {
	if s.rest == nil {
		return nil
	}
	return s.rest.listener.Addr()
}

// Run serves until the context ends, then stops: health says so, new calls are
// refused, running ones may end, and what still runs after the stop timeout is
// cut off. It returns nil after an orderly stop.
func (s *Server) Run(ctx context.Context) error {
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return serveUntil(running, s.grpc.Serve(s.listener), "gRPC") })
	if s.rest != nil {
		group.Go(func() error { return serveUntil(running, s.grpc.Serve(s.rest.inner), "REST's inner gRPC") })
		group.Go(func() error { return serveUntil(running, s.rest.http.ServeTLS(s.rest.listener, "", ""), "REST") })
	}
	group.Go(func() error {
		<-running.Done()
		s.stop()
		return nil
	})
	return group.Wait()
}

// serveUntil tells a listener's end on purpose from its failure.
func serveUntil(running context.Context, err error, what string) error {
	if err == nil || running.Err() != nil || errors.Is(err, grpc.ErrServerStopped) || errors.Is(err, http.ErrServerClosed) {
		return nil //nolint:nilerr // stopped on purpose
	}
	return fmt.Errorf("serve %s: %w", what, err)
}

func (s *Server) stop() {
	s.health.Shutdown()
	// The context that ended is what brought us here: this one is for stopping.
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.StopTimeout)
	defer cancel()
	if s.rest != nil {
		s.rest.close(ctx)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.cfg.Log.Warn("calls still running after the stop timeout were cut off", zap.Duration("timeout", s.cfg.StopTimeout))
		s.grpc.Stop()
		<-done
	}
}
