package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// sluice is a sluiced as its wallet and its operator reach it.
type sluice struct {
	*customer
	daemon   *devnet.Sluiced
	gateway  *devnet.Node
	operator lspv1.OperatorServiceClient
	// atOperator is the connection, for other services.
	atOperator *grpc.ClientConn
	close      []func() error
}

// customer is a wallet that is logged in at a sluiced.
type customer struct {
	node     *devnet.Node
	wallet   *lnd.Client
	channels lspv1.ChannelsServiceClient
	// atWallet is the connection, for other services.
	atWallet *grpc.ClientConn
}

// noCaps lifts what a gateway limits per hour and per client: a benchmark is
// one client in a hurry.
func noCaps() map[string]string {
	caps := map[string]string{"log.level": "info", "limits.wallet.per_second": "10000", "limits.wallet.burst": "10000"}
	for _, key := range []string{
		"open_requests_per_client", "open_requests", "unpaid_per_client_sat", "unpaid_sat", "unconfirmed_sat", "held_per_client_sat", "held_sat",
		"held_sat_blocks_per_client", "held_sat_blocks", "held_htlcs_per_client", "held_htlcs", "held_htlcs_per_channel",
		"opens_per_hour_per_client", "opens_per_hour",
	} {
		caps["lsp."+key] = "0"
	}
	return caps
}

// startSluice runs sluiced beside the gateway and logs in as the wallet.
func startSluice(ctx context.Context, net *devnet.Net, gateway, wallet *devnet.Node, settings ...map[string]string) (*sluice, error) {
	return startSluiceWith(ctx, net, gateway, wallet, nil, settings...)
}

// startSluiceWith attaches programs to its interceptor, if there are any.
func startSluiceWith(ctx context.Context, net *devnet.Net, gateway, wallet *devnet.Node, programs *proxied, settings ...map[string]string) (_ *sluice, err error) {
	s := &sluice{}
	config := devnet.SluicedConfig{Name: "sluiced-" + gateway.Name, Settings: noCaps()}
	for _, more := range settings {
		maps.Copy(config.Settings, more)
	}
	if programs != nil {
		if err := programs.prepare(ctx, net, gateway); err != nil {
			return nil, err
		}
		config.File = programs.file
		maps.Copy(config.Settings, programs.settings)
	}
	if s.daemon, err = net.StartSluiced(ctx, gateway, lnd.GatewayRights(), config); err != nil {
		return nil, err
	}
	if programs != nil {
		if err := programs.attach(ctx, s.daemon.TLSCert); err != nil {
			return nil, err
		}
	}
	s.gateway = gateway
	if s.customer, err = s.login(wallet); err != nil {
		return nil, err
	}
	tlsConfig, err := selfcert.ClientTLS(s.daemon.TLSCert)
	if err != nil {
		return nil, err
	}
	macaroon, err := auth.NewFileCredentials(s.daemon.Macaroon)
	if err != nil {
		return nil, err
	}
	operator, err := grpc.NewClient(s.daemon.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)), grpc.WithPerRPCCredentials(macaroon))
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, operator.Close)
	s.operator, s.atOperator = lspv1.NewOperatorServiceClient(operator), operator
	return s, nil
}

// login connects a wallet.
func (s *sluice) login(wallet *devnet.Node) (*customer, error) {
	c := &customer{node: wallet}
	tlsConfig, err := selfcert.ClientTLS(s.daemon.TLSCert)
	if err != nil {
		return nil, err
	}
	c.wallet, err = lnd.Dial(lnd.Config{
		Address: wallet.RPCAddr, TLSCertFile: wallet.TLSCertPath, MacaroonFile: wallet.AdminMacaroonPath(), Network: "regtest",
	})
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, c.wallet.Close)
	gatewayKey, err := ln.ParsePubKey(s.gateway.PubKey)
	if err != nil {
		return nil, err
	}
	walletKey, err := ln.ParsePubKey(wallet.PubKey)
	if err != nil {
		return nil, err
	}
	conn, _, err := auth.Dial(s.daemon.GRPC, credentials.NewTLS(tlsConfig), auth.ClientConfig{
		Server: auth.Server{NodeKey: gatewayKey}, Node: walletKey, Services: []string{"lsp", "lws"}, Now: time.Now,
		Sign: func(ctx context.Context, msg string) (string, error) { return c.wallet.SignMessage(ctx, []byte(msg)) },
	})
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, conn.Close)
	c.channels, c.atWallet = lspv1.NewChannelsServiceClient(conn), conn
	return c, nil
}

func (s *sluice) hangUp() {
	for _, c := range s.close {
		_ = c()
	}
}

// secret is a payment's preimage and hash.
type secret struct {
	preimage ln.Preimage
	hash     ln.Hash
}

func newSecret() (secret, error) {
	var s secret
	if _, err := rand.Read(s.preimage[:]); err != nil {
		return s, fmt.Errorf("draw a preimage: %w", err)
	}
	s.hash = s.preimage.Hash()
	return s, nil
}

// negotiate agrees with sluiced on a payment whose payer pays the fee.
func (c *customer) negotiate(ctx context.Context, hash ln.Hash, amountMsat int64) (*lspv1.NegotiateResponse, error) {
	menu, err := c.channels.GetMenu(ctx, &lspv1.GetMenuRequest{})
	if err != nil {
		return nil, fmt.Errorf("menu: %w", err)
	}
	agreed, err := c.channels.Negotiate(ctx, &lspv1.NegotiateRequest{
		PaymentHash: hash[:], AmountMsat: uint64(amountMsat), OpeningFeeParams: menu.OpeningFeeParamsMenu[0], //nolint:gosec // positive
		Channel:              &lspv1.ChannelWish{ZeroConf: true, AllowAnotherChannel: true},
		FinalCltvDeltaBlocks: 80, InvoiceExpiresMs: time.Now().Add(20 * time.Minute).UnixMilli(),
	})
	if err != nil {
		return nil, fmt.Errorf("negotiate: %w", err)
	}
	if !agreed.OpensChannel {
		return nil, fmt.Errorf("sluiced would open no channel for %d msat: the wallet still has room", amountMsat)
	}
	return agreed, nil
}

// hint is the last hop of an invoice.
type hint struct {
	gateway   string
	scid      uint64
	baseMsat  uint32
	ppm       uint32
	cltvDelta uint32
}

// invoice makes the wallet's invoice with a hint of ours.
func invoice(ctx context.Context, wallet *devnet.Node, s secret, amountMsat int64, h hint) (string, error) {
	inv, err := wallet.LN.AddInvoice(ctx, &lnrpc.Invoice{
		RPreimage: s.preimage.Bytes(), ValueMsat: amountMsat, Expiry: 1200, CltvExpiry: 80,
		RouteHints: []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
			NodeId: h.gateway, ChanId: h.scid, FeeBaseMsat: h.baseMsat, FeeProportionalMillionths: h.ppm, CltvExpiryDelta: h.cltvDelta,
		}}}},
	})
	if err != nil {
		return "", fmt.Errorf("invoice: %w", err)
	}
	return inv.PaymentRequest, nil
}

// acceptZeroConf makes the wallet accept every zero-conf channel until ctx ends.
func acceptZeroConf(ctx context.Context, wallet *lnd.Client) {
	go func() {
		_ = wallet.RunAcceptor(ctx, func(p ln.OpenProposal) ln.AcceptVerdict {
			return ln.AcceptVerdict{Accept: true, ZeroConf: p.WantsZeroConf}
		})
	}()
}
