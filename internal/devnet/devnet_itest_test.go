//go:build itest

package devnet

import (
	"context"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"
)

// One network serves all cases: they are ordered, and each leaves it usable.
func TestRealNetwork(t *testing.T) {
	s := StartStandard(t, StandardConfig{
		Net: Config{Log: zaptest.NewLogger(t)},
		// No interceptor attaches here, and forwards have to pass.
		Gateway: NodeConfig{ExtraArgs: []string{"--bitcoin.basefee=0"}},
	})
	for _, c := range []struct {
		name string
		run  func(context.Context, *testing.T, *Standard)
	}{
		{"Payment", casePayment},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c.run(ctx, t, s)
		})
	}
}

func casePayment(ctx context.Context, t *testing.T, s *Standard) {
	before, err := s.Gateway.Balances(ctx)
	require.NoError(t, err)
	invoice, err := s.Gateway.Invoice(ctx, 1_000_001)
	require.NoError(t, err)
	payment, err := s.Payer.Pay(ctx, invoice.PaymentRequest)
	require.NoError(t, err)
	require.Equal(t, lnrpc.Payment_SUCCEEDED, payment.Status, payment.FailureReason)
	require.NoError(t, s.Gateway.WaitNoHTLCs(ctx))

	after, err := s.Gateway.Balances(ctx)
	require.NoError(t, err)
	require.Equal(t, before.LocalMsat+1_000_001, after.LocalMsat, "the last millisatoshi counts")
	_ = routerrpc.SendPaymentRequest{}
}
