//go:build itest

package itest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// TestLiquidity: a gateway with one large coin cuts it, so that there is one for
// each channel, with the rights that it has anyway; the books follow to the sat.
func TestLiquidity(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{GatewayCoins: 1, GatewayCoinSat: 60_000_000})
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{Settings: map[string]string{
		"lsp.pool_coins": "40", "lsp.pool_coin_sat": "1000000",
	}})
	require.NoError(t, err)
	op := newOperator(t, s)
	op.reconcile(ctx)
	pool := func() *lspv1.CoinPool {
		t.Helper()
		status, err := op.api.GetStatus(ctx, &lspv1.GetStatusRequest{})
		require.NoError(t, err)
		return status.GetCoinPool()
	}
	require.EqualValues(t, 1, pool().GetOpensLeft(), "a large coin is one open before its change confirms")
	require.NoError(t, net.Mine(ctx, 1))
	cut, err := net.Miner().WaitMempool(ctx, 1)
	require.NoError(t, err)
	tx, _, err := net.Miner().Tx(ctx, cut[0])
	require.NoError(t, err)
	require.Len(t, tx.TxOut, 40)
	// sluiced dies while it waits: nothing is cut again.
	require.NoError(t, s.Kill())
	require.NoError(t, s.Start(ctx))
	require.NoError(t, net.Mine(ctx, 1))
	require.NoError(t, devnet.WaitFor(ctx, "the pool to be ready", func(context.Context) (bool, error) {
		p := pool()
		return p.GetReady() == 40 && p.GetComing() == 0 && p.GetOpensLeft() >= 38, nil
	}))
	require.NoError(t, net.Mine(ctx, 1))
	left, err := net.Miner().Mempool(ctx)
	require.NoError(t, err)
	require.Empty(t, left, "nothing more to do")
	op.waitBalanced(ctx)

	// An open takes one of them.
	w := newRawWallet(ctx, t, s, net.Gateway, net.Wallet, true)
	agreed, invoice := w.receivePayerPays(ctx, 100_000_000, false)
	_, err = net.Payer.Pay(ctx, invoice)
	require.NoError(t, err)
	w.waitState(ctx, agreed.PaymentId, "paid")
	require.NoError(t, devnet.WaitFor(ctx, "one coin to be taken", func(context.Context) (bool, error) {
		return pool().GetReady() == 39, nil
	}))
	require.NoError(t, net.Mine(ctx, 6))
	op.waitBalanced(ctx)
}
