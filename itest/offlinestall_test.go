//go:build itest

package itest

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// TestOfflineNearExpiry: an HTLC that was resumed does not leave an active channel. Its wallet
// is connected anew before anybody closes the channel, and no earlier; the payment arrives.
// The wallet's own hold invoice stands for a link that stands still, which no test can bring
// about.
func TestOfflineNearExpiry(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	config := holding()
	config.Settings["lsp.reconnect_after"] = "4s"
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), config)
	require.NoError(t, err)
	books := newOperator(t, s)
	books.reconcile(ctx)
	w := newSleeper(ctx, t, net, s, newHoldOperator(t, s))
	flaps := func() int32 {
		peers, err := net.Gateway.LN.ListPeers(ctx, &lnrpc.ListPeersRequest{})
		require.NoError(t, err)
		for _, p := range peers.Peers {
			if p.PubKey == net.Wallet.PubKey {
				return p.FlapCount
			}
		}
		return -1
	}
	before := channelMsat(ctx, t, net.Wallet)
	preimage := ln.Preimage{}
	_, err = rand.Read(preimage[:])
	require.NoError(t, err)
	hash := preimage.Hash()
	inv, err := net.Wallet.Invoices.AddHoldInvoice(ctx, &invoicesrpc.AddHoldInvoiceRequest{Hash: hash[:], ValueMsat: 20_000_007, CltvExpiry: 60, Private: true})
	require.NoError(t, err)
	payment := sendPayment(ctx, t, net, inv.PaymentRequest, hash[:])
	accepted := func() bool {
		i, err := net.Wallet.LN.LookupInvoice(ctx, &lnrpc.PaymentHash{RHash: hash[:]})
		require.NoError(t, err)
		return i.State == lnrpc.Invoice_ACCEPTED
	}
	require.NoError(t, devnet.WaitFor(ctx, "the wallet's node to have it", func(context.Context) (bool, error) { return accepted(), nil }))

	expiry := func() (at, height uint32) {
		c, err := net.Gateway.FindChannel(ctx, w.point.Point)
		require.NoError(t, err)
		require.Len(t, c.PendingHtlcs, 1)
		info, err := net.Gateway.LN.GetInfo(ctx, &lnrpc.GetInfoRequest{})
		require.NoError(t, err)
		return c.PendingHtlcs[0].ExpirationHeight, info.BlockHeight
	}
	at, height := expiry()
	require.Greater(t, at, height+37)
	require.NoError(t, net.Mine(ctx, int(at-height-37)))
	was := flaps()
	require.GreaterOrEqual(t, was, int32(0))
	// One block more than near: two waits and a look may pass without a new connection.
	select {
	case <-time.After(9 * time.Second):
	case <-ctx.Done():
	}
	require.Equal(t, was, flaps(), "37 blocks before the expiry nothing is wrong yet")
	require.NoError(t, net.Mine(ctx, 1))
	require.NoError(t, devnet.WaitFor(ctx, "the wallet to be connected anew", func(context.Context) (bool, error) { return flaps() > was, nil }))
	_, err = net.Gateway.WaitChannelActive(ctx, w.point.Point)
	require.NoError(t, err)
	at, height = expiry()
	require.Equal(t, at, height+36)
	require.True(t, accepted())

	_, err = net.Wallet.Invoices.SettleInvoice(ctx, &invoicesrpc.SettleInvoiceMsg{Preimage: preimage[:]})
	require.NoError(t, err)
	payment.ends(lnrpc.Payment_SUCCEEDED)
	require.NoError(t, net.Wallet.WaitNoHTLCs(ctx))
	require.Equal(t, before+20_000_007, channelMsat(ctx, t, net.Wallet))
	require.NoError(t, net.Payer.WaitNoHTLCs(ctx))
	books.waitBalanced(ctx)
}
