package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

const (
	tenantLimit   = 3 * time.Minute
	tenantSat     = 1_500_000
	tenantPushSat = 500_000
	tenantPaySat  = 25_000
)

// tenantSteps add a business whose keys stay with it.
func (s *story) tenantSteps() []step {
	var (
		desk   *devnet.Tenancy
		signer *devnet.TenantSigner
		node   *devnet.Node
	)
	return []step{
		{"A tenant, acme, sets up a signer at home, behind a guard: sluicectl signer init", tenantLimit, func(ctx context.Context) (_ string, err error) {
			if desk, err = s.net.NewTenancy(ctx, s.net.Gateway, s.services.sluiced); err != nil {
				return "", err
			}
			if signer, err = desk.SignUp(ctx, devnet.SignUp{Name: "acme", Guarded: true}); err != nil {
				return "", err
			}
			return "a sealed bundle with public keys and a macaroon for eleven calls", nil
		}},
		{"The operator onboards it: sluicectl tenant add", tenantLimit, func(ctx context.Context) (_ string, err error) {
			var said string
			if node, said, err = desk.Host(ctx, signer); err != nil {
				return "", err
			}
			if node.PubKey != signer.Signer.PubKey {
				return "", fmt.Errorf("the node is %s, and the signer's key is %s", node.PubKey, signer.Signer.PubKey)
			}
			return fmt.Sprintf("%d checks passed; a watch-only lnd runs, and has no private key", strings.Count(said, " passed ")), nil
		}},
		{"It opens a channel, pays 25,000 sat and is paid them back; its signer signs for each", tenantLimit, func(ctx context.Context) (string, error) {
			return s.tenantPays(ctx, node)
		}},
	}
}

func (s *story) tenantPays(ctx context.Context, node *devnet.Node) (string, error) {
	if err := s.net.Fund(ctx, devnet.Funding{Node: node, CoinSat: tenantSat + 100_000, Coins: 1}); err != nil {
		return "", err
	}
	if _, err := s.net.OpenChannel(ctx, node, s.net.Gateway, devnet.ChannelParams{CapacitySat: tenantSat, PushSat: tenantPushSat}); err != nil {
		return "", err
	}
	for _, way := range []struct{ from, to *devnet.Node }{{node, s.net.Payer}, {s.net.Payer, node}} {
		invoice, err := way.to.Invoice(ctx, tenantPaySat*1000)
		if err != nil {
			return "", err
		}
		// A fresh channel is known to others a moment later.
		if err := devnet.WaitFor(ctx, way.from.Name+" to pay "+way.to.Name, func(ctx context.Context) (bool, error) {
			p, err := way.from.Send(ctx, &routerrpc.SendPaymentRequest{PaymentRequest: invoice.PaymentRequest, TimeoutSeconds: 20, FeeLimitMsat: 1_000_000})
			return err == nil && p.Status == lnrpc.Payment_SUCCEEDED, err
		}); err != nil {
			return "", err
		}
	}
	return "paid in both directions", nil
}
