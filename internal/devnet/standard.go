package devnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// StandardConfig changes details of the standard network; its zero value is
// what the demo, the tests and the benchmarks use.
type StandardConfig struct {
	Net Config

	// A Stock gateway has none of [GatewayArgs].
	Gateway, Payer, Wallet NodeConfig

	// NoInterceptor leaves out --requireinterceptor: a gateway that forwards
	// with nobody attached, the baseline of benchmarks.
	NoInterceptor bool

	// GatewayCoins and GatewayCoinSat are the gateway's confirmed coins, one
	// per open at the same time (default 60 of 2,000,000 sat).
	GatewayCoins   int
	GatewayCoinSat int64

	// ChannelSat is the payer's public channel to the gateway, of which PushSat
	// starts on the gateway's side, so that wallets can pay back out
	// (default 16,000,000 and 4,000,000).
	ChannelSat, PushSat int64
}

// Standard is the network of the demo: a payer with a large channel to the
// gateway, and a wallet that is connected to the gateway and has no channel.
type Standard struct {
	*Net
	Gateway, Payer, Wallet *Node

	// PayerLink and WalletLink carry the connections to the gateway.
	PayerLink, WalletLink *Link
	PayerChannel          Channel
}

// GatewayArgs are the flags that make an lnd a gateway for Sluice. Held HTLCs
// survive without a client; forwarding costs nothing unless a channel says so
// (lnd's defaults apply for a second to every fresh channel); and a frozen
// client loses its stream within six seconds, so that a standby can attach.
func GatewayArgs() []string {
	return []string{
		"--requireinterceptor",
		"--bitcoin.basefee=0",
		"--bitcoin.feerate=0",
		"--grpc.server-ping-time=2s",
		"--grpc.server-ping-timeout=4s",
		"--grpc.client-ping-min-wait=1s",
		"--grpc.client-allow-ping-without-stream",
		// option_supports_lsps (bLIP-50).
		"--protocol.custom-init=729",
		"--protocol.custom-nodeann=729",
	}
}

// StartStandardNet starts the standard network.
func StartStandardNet(ctx context.Context, config StandardConfig) (_ *Standard, err error) {
	if config.GatewayCoins == 0 {
		config.GatewayCoins = 60
	}
	if config.GatewayCoinSat == 0 {
		config.GatewayCoinSat = 2_000_000
	}
	if config.ChannelSat == 0 {
		config.ChannelSat, config.PushSat = 16_000_000, 4_000_000
	}
	gatewayArgs := GatewayArgs()
	if config.Gateway.Stock {
		gatewayArgs = nil
	}
	if config.NoInterceptor {
		gatewayArgs = slices.DeleteFunc(gatewayArgs, func(arg string) bool { return arg == "--requireinterceptor" })
	}
	config.Gateway.ExtraArgs = mergeArgs(gatewayArgs, config.Gateway.ExtraArgs)

	net, err := Start(ctx, config.Net)
	if err != nil {
		return nil, err
	}
	s := &Standard{Net: net}
	defer func() {
		if err != nil {
			err = errors.Join(err, net.Close())
		}
	}()
	nodes, err := net.NewNodes(ctx,
		NodeSpec{"gateway", config.Gateway}, NodeSpec{"payer", config.Payer}, NodeSpec{"wallet", config.Wallet})
	if err != nil {
		return nil, err
	}
	s.Gateway, s.Payer, s.Wallet = nodes[0], nodes[1], nodes[2]

	if s.PayerLink, err = net.NewLink(s.Gateway); err != nil {
		return nil, err
	}
	if s.WalletLink, err = net.NewLink(s.Gateway); err != nil {
		return nil, err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return net.ConnectVia(groupCtx, s.Payer, s.Gateway, s.PayerLink) })
	group.Go(func() error { return net.ConnectVia(groupCtx, s.Wallet, s.Gateway, s.WalletLink) })
	group.Go(func() error {
		return net.Fund(groupCtx,
			Funding{s.Gateway, config.GatewayCoinSat, config.GatewayCoins},
			Funding{s.Payer, config.ChannelSat + 1_000_000, 2})
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	s.PayerChannel, err = net.OpenChannel(ctx, s.Payer, s.Gateway,
		ChannelParams{CapacitySat: config.ChannelSat, PushSat: config.PushSat})
	if err != nil {
		return nil, err
	}
	_, err = net.WriteDescription()
	return s, err
}

// TB is the part of testing.TB that the harness uses; programs can bring their own.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(func())
	Failed() bool
}

// startLimit is far above the ten seconds that a network needs, for machines
// that run other builds beside it.
const startLimit = 3 * time.Minute

// StartStandard starts the standard network for a test and closes it at the
// test's end; what it leaves running fails the test. A failed test keeps the
// logs and says where, and so does SLUICE_DEVNET_KEEP=1.
func StartStandard(t TB, config StandardConfig) *Standard {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	begin := time.Now()
	s, err := StartStandardNet(ctx, config)
	if err != nil {
		t.Fatalf("start the standard network: %v", err)
		return nil
	}
	t.Logf("standard network ready after %s in %s", time.Since(begin).Round(time.Millisecond), s.Dir())
	CloseWith(t, s.Net)
	return s
}

// StartTest is StartStandard without nodes: btcd and the fee source.
func StartTest(t TB, config Config) *Net {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	net, err := Start(ctx, config)
	if err != nil {
		t.Fatalf("start the network: %v", err)
		return nil
	}
	CloseWith(t, net)
	return net
}

// CloseWith closes a network at the end of a test.
func CloseWith(t TB, net *Net) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() || os.Getenv("SLUICE_DEVNET_KEEP") != "" {
			net.Keep()
			t.Logf("logs are kept in %s", fmt.Sprintf("%s/logs", net.Dir()))
		}
		if t.Failed() {
			if err := net.Trace(); err != nil {
				t.Logf("where the programs stood: %v", err)
			}
		}
		if err := net.Close(); err != nil {
			t.Errorf("close the network: %v", err)
		}
	})
}
