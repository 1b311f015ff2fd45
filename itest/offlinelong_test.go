//go:build itest

package itest

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
)

// longWait is how long the payments of TestOfflineOnDemand may wait: 120 blocks.
const longWait = 20 * time.Hour

// waitable is an invoice whose payment can wait for longWait without a registration.
type waitable struct {
	id, bolt11, kind string
	hash             []byte
	sat              uint64
}

// wrapped is the gateway's own invoice, which lnd holds; it pays the wallet with a fresh
// onion.
func (w *sleeper) wrapped(ctx context.Context, sat uint64) waitable {
	w.t.Helper()
	var out waitable
	require.NoError(w.t, devnet.WaitFor(ctx, "a wrapped invoice", func(ctx context.Context) (bool, error) {
		menu, err := w.words.GetMenu(ctx, &lspv1.GetMenuRequest{})
		if err != nil || len(menu.OpeningFeeParamsMenu) == 0 {
			return false, err
		}
		own, err := w.net.Wallet.LN.AddInvoice(ctx, &lnrpc.Invoice{ValueMsat: int64(sat) * 1000, Expiry: int64((longWait + time.Hour) / time.Second), CltvExpiry: 80}) //nolint:gosec // small
		if err != nil {
			return false, err
		}
		got, err := w.words.Wrap(ctx, &lspv1.WrapRequest{
			Bolt11: own.PaymentRequest, AmountMsat: sat * 1000, OpeningFeeParams: menu.OpeningFeeParamsMenu[0],
			Channel: &lspv1.ChannelWish{ZeroConf: true, HoldForSeconds: uint32(longWait / time.Second)},
		})
		if err != nil {
			return false, err
		}
		require.False(w.t, got.OpensChannel, "there is room")
		out = waitable{id: got.PaymentId, bolt11: got.Bolt11, kind: "wrapped", hash: own.RHash, sat: sat}
		return true, nil
	}))
	return out
}

// onDemand is the wallet's invoice over a short channel id of the gateway's, signed anew
// so that payers leave the blocks to wait.
func (w *sleeper) onDemand(ctx context.Context, client *lnd.Client, sat uint64) waitable {
	w.t.Helper()
	menu, err := w.words.GetMenu(ctx, &lspv1.GetMenuRequest{})
	require.NoError(w.t, err)
	var preimage ln.Preimage
	_, err = rand.Read(preimage[:])
	require.NoError(w.t, err)
	hash := preimage.Hash()
	agreed, err := w.words.Negotiate(ctx, &lspv1.NegotiateRequest{
		PaymentHash: hash[:], AmountMsat: sat * 1000, OpeningFeeParams: menu.OpeningFeeParamsMenu[0],
		Channel:              &lspv1.ChannelWish{ZeroConf: true, HoldForSeconds: uint32(longWait / time.Second)},
		FinalCltvDeltaBlocks: 80, InvoiceExpiresMs: time.Now().Add(10 * time.Minute).UnixMilli(),
	})
	require.NoError(w.t, err)
	require.False(w.t, agreed.OpensChannel, "there is room")
	scid, err := ln.ParseSCID(agreed.JitScid)
	require.NoError(w.t, err)
	own, err := w.net.Wallet.LN.AddInvoice(ctx, &lnrpc.Invoice{
		RPreimage: preimage.Bytes(), ValueMsat: int64(sat) * 1000, Expiry: int64((longWait + time.Hour) / time.Second), CltvExpiry: 80, //nolint:gosec // small
		RouteHints: []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
			NodeId: w.net.Gateway.PubKey, ChanId: uint64(scid), FeeBaseMsat: agreed.HintBaseFeeMsat,
			FeeProportionalMillionths: agreed.HintFeePpm, CltvExpiryDelta: agreed.HintCltvDeltaBlocks,
		}}}},
	})
	require.NoError(w.t, err)
	shown, err := client.ReissueInvoice(ctx, "regtest", own.PaymentRequest, ln.Reissue{FinalCltvDelta: 80 + uint32(longWait/(10*time.Minute)), Expiry: 10 * time.Minute})
	require.NoError(w.t, err)
	return waitable{id: agreed.PaymentId, bolt11: shown, kind: "on_demand", hash: hash[:], sat: sat}
}

// TestOfflineOnDemand: payments that nobody registered for wait as well, by wrapped
// invoices (held by lnd, paid on with a fresh onion under law 4) and over a short channel id
// of the gateway's, for more than a hundred blocks, over kills of sluiced and lnd; and
// arrive to the millisatoshi.
func TestOfflineOnDemand(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), holding())
	require.NoError(t, err)
	books := newOperator(t, s)
	books.reconcile(ctx)
	w := newSleeper(ctx, t, net, s, newHoldOperator(t, s))
	_, err = w.holds.RemoveHold(ctx, &lwsv1.RemoveHoldRequest{})
	require.NoError(t, err)
	require.NoError(t, net.Wallet.WaitNoHTLCs(ctx))
	before, err := net.Wallet.LN.ChannelBalance(ctx, &lnrpc.ChannelBalanceRequest{})
	require.NoError(t, err)

	// The second has two parts at least.
	all := []waitable{w.wrapped(ctx, 70_001), w.wrapped(ctx, 60_000), w.onDemand(ctx, dialNode(t, net.Wallet), 50_003)}
	// Nothing is claimed for its channel: it is not registered.
	require.NoError(t, net.Wallet.Stop(ctx))
	_, err = net.Gateway.WaitChannelInactive(ctx, w.point.Point)
	require.NoError(t, err)
	var payments []*paying
	for i, inv := range all {
		if i == 1 {
			payments = append(payments, sendInParts(ctx, t, net, inv.bolt11, inv.hash, 30_000_000))
		} else {
			payments = append(payments, sendPayment(ctx, t, net, inv.bolt11, inv.hash))
		}
	}
	// waits gives how often the wallet was woken for all of them.
	waits := func(least int32) (wakes uint32) {
		t.Helper()
		byID := map[string]*lwsv1.WaitingPayment{}
		require.NoError(t, devnet.WaitFor(ctx, "all to wait, with what was done", func(ctx context.Context) (bool, error) {
			clear(byID)
			got, err := w.holds.GetHold(ctx, &lwsv1.GetHoldRequest{})
			for _, p := range got.GetWaiting() {
				byID[p.Id] = p
			}
			for _, inv := range all {
				if byID[inv.id].GetLastWake() == "" {
					return false, err
				}
			}
			return byID[all[1].id].GetHtlcs() >= 2, err
		}))
		require.Len(t, byID, len(all))
		for _, inv := range all {
			p := byID[inv.id]
			require.Equal(t, inv.kind, p.Kind)
			require.GreaterOrEqual(t, p.BlocksLeft, least)
			wakes += p.Wakes
		}
		return wakes
	}
	first := waits(110)
	for range 6 {
		require.NoError(t, net.Mine(ctx, 10))
	}
	require.NoError(t, s.Kill())
	require.NoError(t, net.Gateway.Kill())
	require.NoError(t, net.Gateway.Start(ctx))
	require.NoError(t, s.Start(ctx))
	for range 5 {
		require.NoError(t, net.Mine(ctx, 10))
	}
	require.Greater(t, waits(1), first, "it was woken again, and that is not forgotten")

	w.wakeUp(ctx)
	sum := uint64(0)
	for i, p := range payments {
		p.ends(lnrpc.Payment_SUCCEEDED)
		sum += all[i].sat * 1000
	}
	w.waitWaiting(ctx, 0)
	for _, n := range []*devnet.Node{net.Payer, net.Gateway, net.Wallet} {
		require.NoError(t, n.WaitNoHTLCs(ctx))
		pending, err := n.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
		require.NoError(t, err)
		require.Empty(t, pending.PendingForceClosingChannels, n.Name)
		require.Empty(t, pending.WaitingCloseChannels, n.Name)
	}
	after, err := net.Wallet.LN.ChannelBalance(ctx, &lnrpc.ChannelBalanceRequest{})
	require.NoError(t, err)
	require.Equal(t, before.LocalBalance.Msat+sum, after.LocalBalance.Msat)
	// lnd was killed before it had forwarded anything, so it has lost no forward.
	books.waitBalanced(ctx)
}
