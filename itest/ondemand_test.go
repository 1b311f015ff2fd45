//go:build itest

package itest

import (
	"context"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// TestOnDemandFirstLight is the main job, step by step: a wallet without a
// channel is paid over a channel that the payment itself opened.
func TestOnDemandFirstLight(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{})
	require.NoError(t, err)
	w := newRawWallet(ctx, t, s, net.Gateway, net.Wallet, true)

	agreed, bolt11 := w.receivePayerPays(ctx, 100_000_000, false)
	require.True(t, agreed.OpensChannel)
	began := time.Now()
	payment, err := net.Payer.Pay(ctx, bolt11)
	require.NoError(t, err)
	require.Equal(t, lnrpc.Payment_SUCCEEDED, payment.Status, payment.FailureReason)
	t.Logf("first payment succeeded after %s", time.Since(began))
	final := w.waitState(ctx, agreed.PaymentId, "paid")
	require.NotEmpty(t, final.FundingOutpoint)
}
