//go:build itest

package itest

import (
	"context"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lws/agent"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
)

// holding is a gateway that holds a hundred payments for one wallet.
func holding() devnet.SluicedConfig {
	c := patient()
	c.Settings["holds.htlcs_per_wallet"] = "120"
	return c
}

// sleeper is a wallet with a channel whose node comes and goes. Its program is logged
// in while the node was there.
type sleeper struct {
	t     *testing.T
	net   *devnet.Standard
	holds lwsv1.HoldsServiceClient
	words lspv1.ChannelsServiceClient
	point devnet.Channel
	op    *holdOperator
	agent *agent.Agent
}

func newSleeper(ctx context.Context, t *testing.T, net *devnet.Standard, s *devnet.Sluiced, op *holdOperator) *sleeper {
	t.Helper()
	channel, err := net.OpenChannel(ctx, net.Gateway, net.Wallet, devnet.ChannelParams{CapacitySat: 1_900_000, Private: true})
	require.NoError(t, err)
	tlsConfig, err := selfcert.ClientTLS(s.TLSCert)
	require.NoError(t, err)
	client := dialNode(t, net.Wallet)
	conn, _, err := auth.Dial(s.GRPC, credentials.NewTLS(tlsConfig), auth.ClientConfig{
		Server: auth.Server{NodeKey: mustKey(t, net.Gateway.PubKey)}, Node: mustKey(t, net.Wallet.PubKey), Services: []string{"lsp", "lws"}, Now: time.Now,
		Sign: func(ctx context.Context, msg string) (string, error) { return client.SignMessage(ctx, []byte(msg)) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	w := &sleeper{t: t, net: net, holds: lwsv1.NewHoldsServiceClient(conn), words: lspv1.NewChannelsServiceClient(conn), point: channel, op: op}
	gateway := agent.Gateway{Name: "gateway", NodeKey: mustKey(t, net.Gateway.PubKey), GRPC: s.GRPC, Certificate: s.TLSCert}
	w.agent, err = agent.New(agent.Config{DataDir: t.TempDir(), Wish: agent.DefaultWish()}, agent.Ports{
		Node: client, Reissue: client.ReissueInvoice, Decode: lnd.DecodeBolt11, Now: time.Now,
		Gateways: func() []agent.Gateway { return []agent.Gateway{gateway} },
		Connect:  agent.Dial(func(ctx context.Context, msg string) (string, error) { return client.SignMessage(ctx, []byte(msg)) }, time.Now),
	})
	require.NoError(t, err)
	w.register(ctx)
	return w
}

// longInvoice is one of the agent's whose payment can wait so long.
func (w *sleeper) longInvoice(ctx context.Context, msat ln.Msat, wait time.Duration) agent.Invoice {
	w.t.Helper()
	var inv agent.Invoice
	require.NoError(w.t, devnet.WaitFor(ctx, "an invoice that can wait", func(ctx context.Context) (bool, error) {
		var err error
		inv, err = w.agent.MakeInvoice(ctx, agent.InvoiceRequest{AmountMsat: msat, Wait: wait})
		return err == nil, nil
	}))
	return inv
}

func (w *sleeper) register(ctx context.Context) {
	w.t.Helper()
	require.NoError(w.t, devnet.WaitFor(ctx, "the registration", func(ctx context.Context) (bool, error) {
		_, err := w.holds.SetHold(ctx, &lwsv1.SetHoldRequest{Hold: &lwsv1.Hold{
			HoldForSeconds: 3600, MaxHtlcs: 120, MaxSat: 1_000_000, FinalCltvDeltaBlocks: 80,
		}})
		return err == nil, nil
	}))
}

// invoice is an ordinary one of a stock lnd's, with the hint that lnd makes for its
// private channel: by the alias that the gateway gave it.
func (w *sleeper) invoice(ctx context.Context, msat int64) *lnrpc.AddInvoiceResponse {
	w.t.Helper()
	var inv *lnrpc.AddInvoiceResponse
	require.NoError(w.t, devnet.WaitFor(ctx, "an invoice with a hint", func(ctx context.Context) (bool, error) {
		var err error
		if inv, err = w.net.Wallet.LN.AddInvoice(ctx, &lnrpc.Invoice{ValueMsat: msat, Expiry: 3600, Private: true}); err != nil {
			return false, err
		}
		decoded, err := w.net.Wallet.LN.DecodePayReq(ctx, &lnrpc.PayReqString{PayReq: inv.PaymentRequest})
		return err == nil && len(decoded.RouteHints) == 1, err
	}))
	return inv
}

func (w *sleeper) invoices(ctx context.Context, n int) (out []*lnrpc.AddInvoiceResponse) {
	for range n {
		out = append(out, w.invoice(ctx, 2_000_000))
	}
	return out
}

// sleep stops the wallet's node and waits until the gateway knows.
func (w *sleeper) sleep(ctx context.Context) {
	w.t.Helper()
	require.NoError(w.t, w.net.Wallet.Stop(ctx))
	_, err := w.net.Gateway.WaitChannelInactive(ctx, w.point.Point)
	require.NoError(w.t, err)
	// The claim is a commit after lnd's word.
	require.NoError(w.t, devnet.WaitFor(ctx, "the wallet's channel to be claimed", func(ctx context.Context) (bool, error) {
		n, err := w.op.routes(ctx)
		return err == nil && n > 0, nil
	}))
}

// wakeUp starts the wallet's node, which dials the gateway by itself.
func (w *sleeper) wakeUp(ctx context.Context) {
	w.t.Helper()
	require.NoError(w.t, w.net.Wallet.Start(ctx))
}

func (w *sleeper) pay(ctx context.Context, invoices []*lnrpc.AddInvoiceResponse) (out []*paying) {
	w.t.Helper()
	for _, inv := range invoices {
		out = append(out, sendPayment(ctx, w.t, w.net, inv.PaymentRequest, inv.RHash))
	}
	return out
}

// waitWaiting waits until so many HTLCs wait.
func (w *sleeper) waitWaiting(ctx context.Context, n int) []*lwsv1.WaitingPayment {
	w.t.Helper()
	var got *lwsv1.GetHoldResponse
	require.NoError(w.t, devnet.WaitFor(ctx, "payments to wait", func(ctx context.Context) (bool, error) {
		var err error
		got, err = w.holds.GetHold(ctx, &lwsv1.GetHoldRequest{})
		return err == nil && len(got.Waiting) == n, nil
	}))
	return got.Waiting
}

// sendInParts pays in HTLCs of at most so much.
func sendInParts(ctx context.Context, t *testing.T, net *devnet.Standard, bolt11 string, hash []byte, mostMsat uint64) *paying {
	t.Helper()
	return sendRequest(ctx, t, net, hash, &routerrpc.SendPaymentRequest{
		PaymentRequest: bolt11, TimeoutSeconds: 240, FeeLimitMsat: 10_000_000, MaxParts: 16, MaxShardSizeMsat: mostMsat,
	})
}

// TestOffline: payments for a wallet whose node is away wait for it.
func TestOffline(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), holding())
	require.NoError(t, err)
	books := newOperator(t, s)
	books.reconcile(ctx)
	op := newHoldOperator(t, s)
	w := newSleeper(ctx, t, net, s, op)

	t.Run("paid when it comes", func(t *testing.T) {
		invoices := w.invoices(ctx, 3)
		ear, err := w.words.WatchWaiting(ctx, &lspv1.WatchWaitingRequest{}, grpc.WaitForReady(true))
		require.NoError(t, err)
		_, err = ear.Header()
		require.NoError(t, err)
		w.sleep(ctx)
		payments := w.pay(ctx, invoices)
		told := map[string]bool{}
		for len(told) < len(invoices) {
			m, err := ear.Recv()
			require.NoError(t, err)
			told[string(m.PaymentHash)] = true
		}
		for _, waiting := range w.waitWaiting(ctx, len(invoices)) {
			require.EqualValues(t, 1, waiting.Htlcs)
			require.Positive(t, waiting.BlocksLeft)
		}
		w.wakeUp(ctx)
		for _, p := range payments {
			p.ends(lnrpc.Payment_SUCCEEDED)
		}
		w.waitWaiting(ctx, 0)
	})

	t.Run("for more than a hundred blocks, to the sat", func(t *testing.T) {
		_, err := w.agent.Say(ctx, agent.Said{Enabled: true, HoldFor: "24h"})
		require.NoError(t, err)
		require.NoError(t, net.Wallet.WaitNoHTLCs(ctx))
		before, err := net.Wallet.LN.ChannelBalance(ctx, &lnrpc.ChannelBalanceRequest{})
		require.NoError(t, err)
		// The second has two parts at least: none of the payer's HTLCs may be larger.
		one, two := w.longInvoice(ctx, 123_456_789, 20*time.Hour), w.longInvoice(ctx, 60_000_000, 20*time.Hour)
		w.sleep(ctx)
		first := sendPayment(ctx, t, net, one.Bolt11, one.Hash[:])
		second := sendInParts(ctx, t, net, two.Bolt11, two.Hash[:], 30_000_000)
		require.NoError(t, devnet.WaitFor(ctx, "both to wait", func(ctx context.Context) (bool, error) {
			got, err := w.holds.GetHold(ctx, &lwsv1.GetHoldRequest{})
			htlcs := 0
			for _, p := range got.GetWaiting() {
				htlcs += int(p.Htlcs)
			}
			return err == nil && len(got.Waiting) == 2 && htlcs >= 3, nil
		}))
		for _, waiting := range w.waitWaiting(ctx, 2) {
			require.GreaterOrEqual(t, waiting.BlocksLeft, int32(120))
		}
		for range 11 {
			require.NoError(t, net.Mine(ctx, 10))
		}
		w.waitWaiting(ctx, 2)
		w.wakeUp(ctx)
		first.ends(lnrpc.Payment_SUCCEEDED)
		second.ends(lnrpc.Payment_SUCCEEDED)
		require.NoError(t, net.Payer.WaitNoHTLCs(ctx))
		require.NoError(t, net.Wallet.WaitNoHTLCs(ctx))
		after, err := net.Wallet.LN.ChannelBalance(ctx, &lnrpc.ChannelBalanceRequest{})
		require.NoError(t, err)
		require.Equal(t, before.LocalBalance.Msat+183_456_789, after.LocalBalance.Msat)
		// Ordinary ones again.
		w.register(ctx)
	})

	t.Run("a hundred, over kills of both and a flapping payer", func(t *testing.T) {
		invoices := w.invoices(ctx, 100)
		w.sleep(ctx)
		payments := w.pay(ctx, invoices)
		w.waitWaiting(ctx, len(invoices))
		// lnd loses what it has not written of its forwards yet. Of these it has none.
		books.waitBalanced(ctx)
		net.PayerLink.Flap()
		require.NoError(t, s.Kill())
		require.NoError(t, net.Gateway.Kill())
		require.NoError(t, net.Gateway.Start(ctx))
		require.NoError(t, s.Start(ctx))
		w.waitWaiting(ctx, len(invoices))
		net.PayerLink.Flap()
		require.NoError(t, net.Mine(ctx, 2))
		w.wakeUp(ctx)
		_, err := net.Gateway.WaitChannelActive(ctx, w.point.Point)
		require.NoError(t, err)
		net.PayerLink.Flap() // while they are resumed
		for _, p := range payments {
			p.ends(lnrpc.Payment_SUCCEEDED)
		}
	})

	t.Run("back for a moment", func(t *testing.T) {
		invoices := w.invoices(ctx, 5)
		w.sleep(ctx)
		payments := w.pay(ctx, invoices)
		w.waitWaiting(ctx, len(invoices))
		w.wakeUp(ctx)
		_, err := net.Gateway.WaitChannelActive(ctx, w.point.Point)
		require.NoError(t, err)
		require.NoError(t, net.Wallet.Kill())
		w.wakeUp(ctx)
		for _, p := range payments {
			// Each ends, one way or the other.
			select {
			case m := <-p.done:
				require.Contains(t, []lnrpc.Payment_PaymentStatus{lnrpc.Payment_SUCCEEDED, lnrpc.Payment_FAILED}, m.Status)
			case <-ctx.Done():
				require.NoError(t, ctx.Err())
			}
		}
		require.NoError(t, net.Payer.WaitNoHTLCs(ctx))
	})

	t.Run("never", func(t *testing.T) {
		_, err := net.Gateway.WaitChannelActive(ctx, w.point.Point)
		require.NoError(t, err)
		invoices := w.invoices(ctx, 3)
		w.sleep(ctx)
		payments := w.pay(ctx, invoices)
		w.waitWaiting(ctx, len(invoices))
		// So that the payer's further attempts are not held as well.
		_, err = w.holds.RemoveHold(ctx, &lwsv1.RemoveHoldRequest{})
		require.NoError(t, err)
		require.NoError(t, devnet.WaitFor(ctx, "the claims to end", func(ctx context.Context) (bool, error) {
			n, err := op.routes(ctx)
			return err == nil && n == 0, nil
		}))
		require.NoError(t, net.Mine(ctx, 4))
		for _, p := range payments {
			p.ends(lnrpc.Payment_FAILED)
		}
		w.waitWaiting(ctx, 0)
		w.wakeUp(ctx)
		_, err = net.Gateway.WaitChannelActive(ctx, w.point.Point)
		require.NoError(t, err)
		_, err = net.Payer.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{})
		require.NoError(t, err)
		w.pay(ctx, w.invoices(ctx, 1))[0].ends(lnrpc.Payment_SUCCEEDED)
	})

	require.NoError(t, net.Payer.WaitNoHTLCs(ctx))
	for _, n := range []*devnet.Node{net.Payer, net.Wallet, net.Gateway} {
		pending, err := n.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
		require.NoError(t, err)
		require.Empty(t, pending.PendingForceClosingChannels, n.Name)
		require.Empty(t, pending.WaitingCloseChannels, n.Name)
	}
	books.waitBalanced(ctx)
}
