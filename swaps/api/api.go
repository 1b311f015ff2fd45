// Package api serves stock Loop clients: it turns the messages of Loop's
// looprpc.SwapServer into calls of the engine and back.
//
// It promises that every length is checked before use, that an engine which is
// not ready answers "unavailable", that a client older than protocol version 11
// hears what to upgrade, and that a call which is not offered says so in a
// sentence. Loop's clients have no identity: what belongs to one swap is proved by the
// payment address of its invoice, and callers are limited by their address. Wallets
// whose swaps open channels log in with their node's key.
package api

import (
	"context"
	"strings"
	"sync/atomic"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	looprpc "github.com/lightninglabs/loop/swapserverrpc"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
	"github.com/sluice-lsp/sluice/swaps/engine"
)

// Name is the service's word in macaroons and health checks.
const Name = "swaps"

// Service plugs into rpcserver.
type Service struct {
	engine atomic.Pointer[engine.Engine]
}

// New makes the service; calls are refused until Ready.
func New() *Service { return &Service{} }

// Ready hands over the running engine, or nil when it has ended.
func (s *Service) Ready(e *engine.Engine) { s.engine.Store(e) }

// Name implements rpcserver.Service.
func (s *Service) Name() string { return Name }

// Permissions implements rpcserver.Service: Loop's clients log in nowhere.
func (s *Service) Permissions() auth.Permissions {
	operators := auth.Permission{Service: Name, For: auth.Operators}
	wallets := auth.Permission{Service: Name, For: auth.Wallets}
	table := auth.Permissions{
		swapsv1.SwapsOperatorService_GetStatus_FullMethodName: operators,
		swapsv1.SwapsOperatorService_ListSwaps_FullMethodName: operators,
		swapsv1.SwapsOperatorService_ShowSwap_FullMethodName:  operators,

		swapsv1.ChannelSwapsService_QuoteChannelSwap_FullMethodName:  wallets,
		swapsv1.ChannelSwapsService_CreateChannelSwap_FullMethodName: wallets,
		swapsv1.ChannelSwapsService_GetChannelSwap_FullMethodName:    wallets,
		swapsv1.ChannelSwapsService_GiveKey_FullMethodName:           wallets,
	}
	desc := looprpc.SwapServer_ServiceDesc
	for _, m := range desc.Methods {
		table["/"+desc.ServiceName+"/"+m.MethodName] = auth.Permission{For: auth.Public}
	}
	for _, m := range desc.Streams {
		table["/"+desc.ServiceName+"/"+m.StreamName] = auth.Permission{For: auth.Public}
	}
	return table
}

// RegisterGRPC implements rpcserver.Service.
func (s *Service) RegisterGRPC(r grpc.ServiceRegistrar) {
	looprpc.RegisterSwapServerServer(r, &loopServer{s: s})
	swapsv1.RegisterSwapsOperatorServiceServer(r, &operator{s: s})
	swapsv1.RegisterChannelSwapsServiceServer(r, &channelSwaps{s: s})
}

// RegisterREST implements rpcserver.Service: the Loop protocol has none, our own
// calls do.
func (s *Service) RegisterREST(ctx context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error {
	if err := swapsv1.RegisterChannelSwapsServiceHandler(ctx, mux, conn); err != nil {
		return err
	}
	return swapsv1.RegisterSwapsOperatorServiceHandler(ctx, mux, conn)
}

// Running is the engine while this process runs swaps.
func (s *Service) Running() (*engine.Engine, error) { return s.running() }

func (s *Service) running() (*engine.Engine, error) {
	e := s.engine.Load()
	if e == nil {
		return nil, errkind.New(errkind.Unavailable, "swaps are starting, or run elsewhere: try again in a few seconds")
	}
	return e, nil
}

// fresh is the engine for a client that speaks the protocol of today.
func (s *Service) fresh(v looprpc.ProtocolVersion) (*engine.Engine, error) {
	if v < looprpc.ProtocolVersion_MUSIG2 {
		return nil, errkind.Newf(errkind.Invalid,
			"this client speaks version %d of the Loop protocol and this server only %d and later: upgrade loopd to v0.34.0 or later", v, looprpc.ProtocolVersion_MUSIG2)
	}
	return s.running()
}

func notOffered(what string) error {
	return errkind.Newf(errkind.Unimplemented, "this server does not offer %s", what)
}

func fixed[T ~[32]byte | ~[33]byte | ~[66]byte](what string, b []byte) (out T, err error) {
	if len(b) != len(out) {
		return out, errkind.Newf(errkind.Invalid, "%s has %d bytes, not %d", what, len(b), len(out))
	}
	return T(b), nil
}

// agent bounds a client's name and keeps what cannot be printed out of it.
func agent(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s[:min(len(s), 100)])
}
