package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// services are our own programs on a network, supervised by it, so that they
// end with it and appear in its description.
type services struct {
	sluiced *devnet.Sluiced
	wallet  *devnet.WalletAgent
}

// startServices starts sluiced beside the gateway and sluice-wallet beside the
// wallet. dsn names a PostgreSQL database; empty means SQLite.
func startServices(ctx context.Context, s *devnet.Standard, dsn string) (*services, error) {
	sluiced, err := s.StartSluiced(ctx, s.Gateway, lnd.GatewayAndSwapsRights(), devnet.SluicedConfig{
		DSN: dsn, Settings: map[string]string{"swaps.enabled": "true"},
	})
	if err != nil {
		return nil, err
	}
	wallet, err := s.StartWalletAgent(ctx, s.Wallet, s.Gateway, sluiced, lnd.WalletRights())
	if err != nil {
		return nil, err
	}
	return &services{sluiced: sluiced, wallet: wallet}, nil
}

// printGuide says how to talk to our programs.
func (s *services) printGuide(out io.Writer) {
	bin, err := devnet.FindSluice()
	if err != nil {
		return
	}
	operator := fmt.Sprintf("%s --server %s --tls-cert %s --macaroon %s",
		filepath.Join(bin, "sluicectl"), s.sluiced.GRPC, s.sluiced.TLSCert, s.sluiced.Macaroon)
	wallet := fmt.Sprintf("%s --data-dir %s", filepath.Join(bin, "sluice-wallet"), s.wallet.Dir)
	fmt.Fprintf(out, "\nsluiced beside the gateway: gRPC %s, REST https://%s, metrics http://%s/metrics, log %s\n",
		s.sluiced.GRPC, s.sluiced.REST, s.sluiced.Admin, s.sluiced.LogFile())
	fmt.Fprintf(out, "  alias sluicectl='%s'\n", operator)
	fmt.Fprintf(out, "  alias sluice-wallet='%s'\n", wallet)
	fmt.Fprintf(out, "  a stock loopd swaps with --server.host=%s --server.tlspath=%s\n", s.sluiced.GRPC, s.sluiced.TLSCert)
	fmt.Fprintf(out, "\nthe main job, by hand:\n")
	fmt.Fprintf(out, "  sluice-wallet receive 100000       prints an invoice; the wallet has no channel yet\n")
	fmt.Fprintf(out, "  payer payinvoice INVOICE           opens the channel by paying\n")
	fmt.Fprintf(out, "  sluicectl payments                 what the operator sees\n")
}
