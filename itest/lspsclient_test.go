//go:build itest

package itest

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// TestLSPSWalletAgent has sluice-wallet deal with an LSP of which it knows the node
// and nothing else: every request goes over the peer connection between two
// unpatched lnds.
func TestLSPSWalletAgent(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{})
	require.NoError(t, err)
	op := newOperator(t, s)
	op.reconcile(ctx)
	a, err := net.StartWalletAgent(ctx, net.Wallet, net.Gateway, nil, lnd.WalletRights())
	require.NoError(t, err)
	run := func(into any, args ...string) {
		t.Helper()
		out, err := a.Command(ctx, append([]string{"--json"}, args...)...)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(out, into), "%s", out)
	}

	// LSPS0: what it serves.
	var lsps struct {
		Lsps []struct {
			Name string
			Lsps []int
		}
	}
	run(&lsps, "lsps", "list")
	require.Equal(t, []int{1, 2, 5}, lsps.Lsps[0].Lsps)

	// LSPS2 and LSPS1 compared; what an lnd cannot take says so.
	var offers struct {
		Offers []struct {
			Kind    string
			FeeMsat string `json:"fee_msat"`
			Unfit   string
		}
	}
	run(&offers, "offers", "100000", "--orders")
	kinds := map[string]string{}
	for _, o := range offers.Offers {
		kinds[o.Kind] = o.Unfit
		require.NotEmpty(t, o.FeeMsat, o.Kind)
	}
	require.Contains(t, kinds["lsps2"], "LSPS2 only")
	require.Contains(t, kinds, "order")
	require.Empty(t, kinds["order"])
	_, err = a.Command(ctx, "receive", "100000")
	require.ErrorContains(t, err, "sluice-wallet order")

	// LSPS1 over Lightning: used at once, with a balance.
	type order struct {
		OrderID       string `json:"order_id"`
		Bolt11        string
		State         string
		PaymentState  string `json:"payment_state"`
		Address       string
		ChainTotalSat string `json:"chain_total_sat"`
		RefundPromise string `json:"refund_promise"`
		Funding       string `json:"funding_outpoint"`
	}
	var o order
	run(&o, "order", "400000", "--balance", "50000")
	payment, err := net.Payer.Pay(ctx, o.Bolt11)
	require.NoError(t, err)
	require.Equal(t, lnrpc.Payment_SUCCEEDED, payment.Status, payment.FailureReason)
	_, err = a.Command(ctx, "order", "show", o.OrderID[:8], "--wait")
	require.NoError(t, err)
	run(&o, "order", "show", o.OrderID)
	require.Equal(t, "COMPLETED", o.State)
	require.Equal(t, "PAID", o.PaymentState)
	channels, err := net.Wallet.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(t, err)
	require.Len(t, channels.Channels, 1)
	require.Equal(t, o.Funding, channels.Channels[0].ChannelPoint)
	require.EqualValues(t, 50_000, channels.Channels[0].LocalBalance)

	// With a channel, receive needs nobody's service.
	var received struct {
		Bolt11       string
		OpensChannel bool `json:"opens_channel"`
	}
	require.Eventually(t, func() bool {
		out, err := a.Command(ctx, "--json", "receive", "100000")
		return err == nil && json.Unmarshal(out, &received) == nil
	}, 60*time.Second, 500*time.Millisecond, "lnd has a hint for the channel once the gateway's update has come")
	require.False(t, received.OpensChannel)
	payment, err = net.Payer.Pay(ctx, received.Bolt11)
	require.NoError(t, err)
	require.Equal(t, lnrpc.Payment_SUCCEEDED, payment.Status, payment.FailureReason)

	// LSPS1 on chain, with confirmations.
	address, err := net.Wallet.LN.NewAddress(ctx, &lnrpc.NewAddressRequest{Type: lnrpc.AddressType_TAPROOT_PUBKEY})
	require.NoError(t, err)
	o = order{}
	run(&o, "order", "300000", "--confs", "1", "--refund", address.Address)
	require.NotEmpty(t, o.RefundPromise, "its signature was checked before it was shown")
	var total json.Number
	require.NoError(t, json.Unmarshal([]byte(o.ChainTotalSat), &total))
	amount, err := total.Int64()
	require.NoError(t, err)
	_, err = net.Payer.LN.SendCoins(ctx, &lnrpc.SendCoinsRequest{Addr: o.Address, Amount: amount, SatPerVbyte: 3, SpendUnconfirmed: true})
	require.NoError(t, err)
	require.NoError(t, net.Mine(ctx, 3))
	_, err = a.Command(ctx, "order", "show", o.OrderID, "--wait")
	require.NoError(t, err)
	require.NoError(t, net.Mine(ctx, 6))
	require.Eventually(t, func() bool {
		channels, err := net.Wallet.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
		return err == nil && len(channels.Channels) == 2
	}, 60*time.Second, 200*time.Millisecond)

	// LSPS5.
	_, err = a.Command(ctx, "webhooks", "set", "phone", "https://push.invalid/x")
	require.NoError(t, err)
	out, err := a.Command(ctx, "webhooks")
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(out), "phone\n"), "%s", out)
	_, err = a.Command(ctx, "webhooks", "remove", "phone")
	require.NoError(t, err)
	_, err = a.Command(ctx, "webhooks", "remove", "phone")
	require.ErrorContains(t, err, "no webhook of that name")
	_, err = a.Command(ctx, "webhooks", "set", "phone", "http://push.invalid/x")
	require.ErrorContains(t, err, "https")
	require.NoError(t, net.Mine(ctx, 6))
	op.waitBalanced(ctx)
}
