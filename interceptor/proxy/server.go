package proxy

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"gopkg.in/macaroon.v2"
)

const (
	methodHtlcs    = "/routerrpc.Router/HtlcInterceptor"
	methodChannels = "/lnrpc.Lightning/ChannelAcceptor"
	// maxToLnd bounds a message on its way to lnd: it is read before lnd has seen the
	// macaroon. The largest that lnd's own clients send are backups of all channels.
	maxToLnd = 32 << 20
	// maxStreams bounds the calls of one connection at a time.
	maxStreams = 1000
)

// ServerConfig says how to listen, and to whom to pass things on.
type ServerConfig struct {
	Address string
	TLS     *tls.Config
	Hub     *Hub
	// Lnd is a connection to lnd without credentials: each call brings its caller's.
	Lnd grpc.ClientConnInterface
	// Allowed asks lnd whether a macaroon (binary) may call a method.
	Allowed func(ctx context.Context, macaroon []byte, method string) (bool, error)
	Log     *zap.Logger
}

// Server is the listener.
type Server struct {
	cfg      ServerConfig
	hub      *Hub
	listener net.Listener
	grpc     *grpc.Server
}

// Listen binds the address; Run serves.
func Listen(ctx context.Context, cfg ServerConfig) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("the interceptor for programs: %w", err)
	}
	s := &Server{cfg: cfg, hub: cfg.Hub, listener: listener}
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(frames{}), grpc.UnknownServiceHandler(s.handle),
		grpc.MaxRecvMsgSize(maxToLnd), grpc.MaxConcurrentStreams(maxStreams),
		// A program whose machine is gone is away within half a minute.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 15 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
	if cfg.TLS != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(cfg.TLS)))
	}
	s.grpc = grpc.NewServer(opts...)
	return s, nil
}

// Addr is where it listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Run serves until ctx ends. Programs' streams end with it: nothing that they hold is
// decided by that.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.grpc.Stop)
	defer stop()
	err := s.grpc.Serve(s.listener)
	if ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return fmt.Errorf("the interceptor for programs: %w", err)
}

func (s *Server) handle(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	switch method {
	case methodHtlcs:
		name, err := s.admit(stream.Context(), method)
		if err != nil {
			return err
		}
		return s.serveHtlcs(name, stream)
	case methodChannels:
		name, err := s.admit(stream.Context(), method)
		if err != nil {
			return err
		}
		return s.serveChannels(name, stream)
	}
	return s.pass(method, stream)
}

// admit asks lnd whether the caller may attach, and gives the program's name.
func (s *Server) admit(ctx context.Context, method string) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("macaroon")
	if len(values) != 1 {
		return "", status.Errorf(codes.Unauthenticated, "expected 1 macaroon, got %d", len(values))
	}
	raw, err := hex.DecodeString(values[0])
	if err != nil {
		return "", status.Error(codes.Unauthenticated, "the macaroon is not hex")
	}
	var mac macaroon.Macaroon
	if err := mac.UnmarshalBinary(raw); err != nil {
		return "", status.Error(codes.Unauthenticated, "the macaroon cannot be read")
	}
	allowed, err := s.cfg.Allowed(ctx, raw, method)
	if err != nil {
		return "", status.Errorf(codes.Unavailable, "lnd does not say whether the macaroon is good: %v", err)
	}
	if !allowed {
		return "", status.Error(codes.PermissionDenied, "permission denied")
	}
	return s.hub.name(string(mac.Id())), nil
}

// name finds a macaroon's program. Each stream of a stranger's is a program of its
// own: strangers may share a macaroon.
func (h *Hub) name(macaroonID string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.programs {
		if p.registered && p.MacaroonID == macaroonID {
			return p.Name
		}
	}
	h.strangers++
	return "unnamed-" + strconv.Itoa(h.strangers)
}

// MacaroonID is what tells a program's macaroon from others.
func MacaroonID(raw []byte) (string, error) {
	var mac macaroon.Macaroon
	if err := mac.UnmarshalBinary(raw); err != nil {
		return "", fmt.Errorf("not a macaroon of lnd: %w", err)
	}
	return string(mac.Id()), nil
}
