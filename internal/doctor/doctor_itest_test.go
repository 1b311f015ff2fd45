//go:build itest

package doctor_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/doctor"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// examine asks a real lnd with sluiced's macaroon, and for its settings with
// lnd's own read-only one.
func examine(t *testing.T, n *devnet.Net, node *devnet.Node, rights []string) map[string]doctor.Finding {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	file := filepath.Join(n.Dir(), "doctor.macaroon")
	require.NoError(t, node.Bake(ctx, file, rights))
	macaroon, err := os.ReadFile(file)
	require.NoError(t, err)
	dial := func(macaroonFile string) *lnd.Client {
		c, err := lnd.Dial(lnd.Config{Address: node.RPCAddr, TLSCertFile: node.TLSCertPath, MacaroonFile: macaroonFile})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	c := dial(file)
	facts := doctor.Gather(ctx, doctor.Sources{
		Address: node.RPCAddr, Node: c, Peers: c, Wallet: c, Settings: dial(filepath.Join(node.MacaroonDir, "readonly.macaroon")),
		Macaroon: macaroon, MacaroonFile: file, Now: time.Now,
		Sluiced: func(context.Context) (doctor.Sluiced, error) {
			return doctor.Sluiced{}, errors.New("none runs in this test")
		},
	})
	out := map[string]doctor.Finding{}
	for _, f := range doctor.Examine(facts, doctor.DefaultWant()) {
		t.Logf("%-4s %s: %s", f.Level, f.Check, f.Found)
		out[f.Check] = f
	}
	return out
}

// TestDoctorOnRealNodes examines a gateway as it should be and a stock lnd.
func TestDoctorOnRealNodes(t *testing.T) {
	n := devnet.StartTest(t, devnet.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	nodes, err := n.NewNodes(ctx,
		devnet.NodeSpec{Name: "gateway", Config: devnet.NodeConfig{ExtraArgs: append(devnet.GatewayArgs(), "--num-restricted-slots=1000")}},
		devnet.NodeSpec{Name: "stock", Config: devnet.NodeConfig{}},
	)
	require.NoError(t, err)
	require.NoError(t, n.Fund(ctx, devnet.Funding{Node: nodes[0], CoinSat: 1_000_000, Coins: 5}))
	require.NoError(t, n.Mine(ctx, 1))
	require.NoError(t, n.WaitSynced(ctx))

	for check, f := range examine(t, n, nodes[0], lnd.GatewayRights()) {
		switch check {
		case "acceptor", "sluiced", "database", "settings", "offers", "graph_sync":
		default:
			require.Equal(t, doctor.OK, f.Level, "%s: %s", check, f.Found)
		}
	}

	// The gateway's macaroon with one right taken away, at an lnd with default
	// settings and no coins.
	const withdrawn = "uri:/routerrpc.Router/HtlcInterceptor"
	less := slices.DeleteFunc(lnd.GatewayRights(), func(uri string) bool { return uri == withdrawn })
	got := examine(t, n, nodes[1], less)
	for _, check := range []string{"require_interceptor", "coins", "rights", "reserve"} {
		require.Equal(t, doctor.Fail, got[check].Level, "%s: %s", check, got[check].Found)
	}
	require.Contains(t, got["rights"].Found, "may not call /routerrpc.Router/HtlcInterceptor")
	require.NotContains(t, got["rights"].Found, ",", "only that one")
	require.Equal(t, []string{"sluiced macaroon -c sluiced.toml"}, got["rights"].Lines)
	for _, check := range []string{"default_fees", "grpc_pings", "restricted_slots"} {
		require.Equal(t, doctor.Warn, got[check].Level, "%s: %s", check, got[check].Found)
	}
}
