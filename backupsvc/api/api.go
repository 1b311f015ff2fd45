// Package api serves the vault over gRPC and REST: it turns messages into calls
// of the engine and back.
//
// It promises that a wallet acts only for the node key it proved at login, that
// every length is checked before memory is taken for it, and that what it puts
// on the wire of receipts and heads is read back into exactly what was signed.
package api

import (
	"context"
	"sync/atomic"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/backupsvc/api/backupsv1"
	"github.com/sluice-lsp/sluice/backupsvc/engine"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Name is the service's word in macaroons and health checks.
const Name = "backups"

// maxUploads bounds the bytes of uploads that are in memory at once.
const maxUploads = 256 << 20

// Service plugs into rpcserver.
type Service struct {
	engine  atomic.Pointer[engine.Engine]
	uploads *semaphore.Weighted
}

// New makes the service; calls are refused until Ready.
func New() *Service { return &Service{uploads: semaphore.NewWeighted(maxUploads)} }

// Ready hands over the running engine.
func (s *Service) Ready(e *engine.Engine) { s.engine.Store(e) }

// Name implements rpcserver.Service.
func (s *Service) Name() string { return Name }

// Permissions implements rpcserver.Service.
func (s *Service) Permissions() auth.Permissions {
	wallets := auth.Permission{Service: Name, For: auth.Wallets}
	operators := auth.Permission{Service: Name, For: auth.Operators}
	return auth.Permissions{
		backupsv1.VaultService_GetServer_FullMethodName:              wallets,
		backupsv1.VaultService_Put_FullMethodName:                    wallets,
		backupsv1.VaultService_Upload_FullMethodName:                 wallets,
		backupsv1.VaultService_Get_FullMethodName:                    wallets,
		backupsv1.VaultService_Download_FullMethodName:               wallets,
		backupsv1.VaultService_ListKeys_FullMethodName:               wallets,
		backupsv1.VaultService_GetHead_FullMethodName:                wallets,
		backupsv1.VaultService_ListEntries_FullMethodName:            wallets,
		backupsv1.VaultService_Watch_FullMethodName:                  wallets,
		backupsv1.VaultService_Export_FullMethodName:                 wallets,
		backupsv1.VaultOperatorService_GetTotals_FullMethodName:      operators,
		backupsv1.VaultOperatorService_ListIdentities_FullMethodName: operators,
		backupsv1.VaultOperatorService_ShowIdentity_FullMethodName:   operators,
		backupsv1.VaultOperatorService_SetQuota_FullMethodName:       operators,
	}
}

// RegisterGRPC implements rpcserver.Service.
func (s *Service) RegisterGRPC(r grpc.ServiceRegistrar) {
	backupsv1.RegisterVaultServiceServer(r, &wallets{s: s})
	backupsv1.RegisterVaultOperatorServiceServer(r, &operator{s: s})
}

// RegisterREST implements rpcserver.Service.
func (s *Service) RegisterREST(ctx context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error {
	if err := backupsv1.RegisterVaultServiceHandler(ctx, mux, conn); err != nil {
		return err
	}
	return backupsv1.RegisterVaultOperatorServiceHandler(ctx, mux, conn)
}

func (s *Service) running() (*engine.Engine, error) {
	e := s.engine.Load()
	if e == nil {
		return nil, errkind.New(errkind.Unavailable, "The service is starting: try again in a few seconds.")
	}
	return e, nil
}

// caller is the engine and the identity that the caller proved.
func (s *Service) caller(ctx context.Context) (context.Context, *engine.Engine, vault.Identity, error) {
	e, err := s.running()
	if err != nil {
		return nil, nil, "", err
	}
	node, err := auth.NodeOf(ctx)
	if err != nil {
		return nil, nil, "", err
	}
	id, err := vault.NewIdentity(vault.SchemeNode, node.String())
	return engine.From(ctx, auth.AddressKey(auth.PeerAddress(ctx))), e, id, err
}
