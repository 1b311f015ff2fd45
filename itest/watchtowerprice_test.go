//go:build itest

package itest

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
)

// TestWatchtowerPrice: updates beyond the free ones wait until the wallet has
// bought credit, which it pays to the tower's lnd by a hold invoice; the tower is
// killed while it takes the money; and every satoshi is accounted for.
func TestWatchtowerPrice(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	network := devnet.StartTest(t, devnet.Config{})
	client := devnet.NodeConfig{ExtraArgs: []string{"--wtclient.active", "--wtclient.max-updates=20"}}
	nodes, err := network.NewNodes(ctx, devnet.NodeSpec{Name: "watcher"}, devnet.NodeSpec{Name: "victim", Config: client})
	require.NoError(t, err)
	g := &guarded{Net: network, t: t, watcher: nodes[0], victim: nodes[1]}
	require.NoError(t, network.Fund(ctx, devnet.Funding{Node: g.victim, CoinSat: 3_000_000, Coins: 2}, devnet.Funding{Node: g.watcher, CoinSat: 1_000_000, Coins: 2}))
	listen, err := network.Port()
	require.NoError(t, err)
	g.s, err = network.StartSluiced(ctx, g.watcher, append(lnd.TowerRights(), lnd.TowerSalesRights()...), devnet.SluicedConfig{
		Name: "tower", Services: []string{"watchtower"},
		Settings: map[string]string{
			"watchtower.listen": listen, "watchtower.addresses": listen, "watchtower.price_msat_per_update": "1500", "watchtower.free_updates": "4",
			"watchtower.handshakes.burst": "100000",
		},
	})
	require.NoError(t, err)
	tlsConfig, err := selfcert.ClientTLS(g.s.TLSCert)
	require.NoError(t, err)
	macaroon, err := auth.NewFileCredentials(g.s.Macaroon)
	require.NoError(t, err)
	conn, err := grpc.NewClient(g.s.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)), grpc.WithPerRPCCredentials(macaroon), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	g.op = towerv1.NewTowerOperatorServiceClient(conn)

	bin, err := devnet.FindSluice()
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, g.victim.Bake(ctx, filepath.Join(dir, "sluice-wallet.macaroon"),
		append(append(lnd.WalletRights(), lnd.WalletTowerRights()...), "uri:/routerrpc.Router/SendPaymentV2")))
	towers := func(args ...string) (string, error) {
		args = append([]string{"--data-dir", dir, "towers"}, args...)
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "sluice-wallet"), append(args, "--lnd.address", g.victim.RPCAddr, "--lnd.tls", g.victim.TLSCertPath)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	require.NoError(t, g.Connect(ctx, g.victim, g.watcher))
	ch, err := g.OpenChannel(ctx, g.victim, g.watcher, devnet.ChannelParams{CapacitySat: 1_000_000, PushSat: 300_000, CommitmentType: lnrpc.CommitmentType_ANCHORS})
	require.NoError(t, err)
	out, err := towers("add", "guard", g.watcher.PubKey, "--grpc", g.s.GRPC, "--cert", g.s.TLSCert)
	require.NoError(t, err, out)
	require.Contains(t, out, "belongs to a node that you have channels with")

	// The free ones are used up; what follows waits.
	used := func() int64 { return g.tenant(ctx, g.victim).GetUsage().GetUpdates() }
	for range 4 {
		g.pay(ctx, g.watcher, g.victim, ch, 1_000)
	}
	require.NoError(t, devnet.WaitFor(ctx, "the free updates to be used", func(context.Context) (bool, error) { return used() == 4, nil }))
	require.NoError(t, devnet.WaitFor(ctx, "some to wait", func(ctx context.Context) (bool, error) {
		acknowledged, given := g.backups(ctx, g.victim)
		return acknowledged == 4 && given > 4, nil
	}))
	out, err = towers("list")
	require.Error(t, err)
	require.Contains(t, out, "stores nothing more for this wallet")
	require.Contains(t, out, "every watchtower belongs to a node that this wallet has channels with")

	// A wallet that would pay too much does not, and another gets its credit though
	// the tower is killed once the money is there.
	out, err = towers("credit", "guard", "--updates", "40", "--max-sat", "59", "--pay")
	require.Error(t, err)
	require.Contains(t, out, "nothing was paid")
	before, err := g.watcher.LN.ChannelBalance(ctx, &lnrpc.ChannelBalanceRequest{})
	require.NoError(t, err)
	paying := make(chan string, 1)
	go func() {
		out, err := towers("credit", "guard", "--updates", "40", "--max-sat", "60", "--pay")
		if err != nil {
			out += err.Error()
		}
		paying <- out
	}()
	require.NoError(t, devnet.WaitFor(ctx, "the payment to be held or credited", func(ctx context.Context) (bool, error) {
		list, err := g.watcher.LN.ListInvoices(ctx, &lnrpc.ListInvoiceRequest{})
		if err != nil {
			return false, err
		}
		for _, inv := range list.Invoices {
			if inv.State == lnrpc.Invoice_ACCEPTED || inv.State == lnrpc.Invoice_SETTLED {
				return true, nil
			}
		}
		return false, nil
	}))
	require.NoError(t, g.s.Kill())
	require.NoError(t, g.s.Start(ctx))
	require.NoError(t, devnet.WaitFor(ctx, "the payment to be taken", func(ctx context.Context) (bool, error) {
		got, err := g.op.ListTenantPurchases(ctx, &towerv1.ListTenantPurchasesRequest{Identity: "node:" + g.victim.PubKey})
		if err != nil {
			return false, err
		}
		for _, p := range got.GetPurchases() {
			if p.GetState() == "settled" {
				require.EqualValues(t, 60_000, p.GetPaidMsat())
				return true, nil
			}
		}
		return false, nil
	}))
	t.Logf("towers credit: %s", <-paying)
	require.NoError(t, devnet.WaitFor(ctx, "the tower's node to have exactly what was paid", func(ctx context.Context) (bool, error) {
		after, err := g.watcher.LN.ChannelBalance(ctx, &lnrpc.ChannelBalanceRequest{})
		return err == nil && after.LocalBalance.Msat == before.LocalBalance.Msat+60_000, err
	}))

	// What waited is uploaded, each for its price.
	require.NoError(t, devnet.WaitFor(ctx, "what waited to be uploaded", func(ctx context.Context) (bool, error) {
		acknowledged, given := g.backups(ctx, g.victim)
		return acknowledged == given && acknowledged > 4, nil
	}))
	now := g.tenant(ctx, g.victim)
	require.Equal(t, (now.GetUsage().GetUpdates()-4)*1500, now.GetDrawnMsat())
	require.Equal(t, int64(60_000), now.GetCreditMsat()+now.GetDrawnMsat())
	out, _ = towers("list")
	require.NotContains(t, out, "stores nothing more")
	out, err = towers("credit", "guard")
	require.NoError(t, err, out)
	require.Contains(t, out, "settled")
	t.Logf("sluice-wallet towers credit:\n%s", out)
}
