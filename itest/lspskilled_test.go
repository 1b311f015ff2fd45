//go:build itest

package itest

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/peerrpc/peerrpctest"
)

// dies kills sluiced and starts it again.
func dies(ctx context.Context, t *testing.T, s *devnet.Sluiced) {
	t.Helper()
	require.NoError(t, s.Kill())
	require.NoError(t, s.Start(ctx))
}

// pushServer is a notification delivery service behind TLS: it checks what bLIP-55 has
// it check, and keeps the methods that it was told.
type pushServer struct {
	url, caFile string
	told        chan string
}

func startPush(t *testing.T) *pushServer {
	t.Helper()
	p := &pushServer{told: make(chan string, 100), caFile: filepath.Join(t.TempDir(), "push.pem")}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		stamp := r.Header.Get(lsps5.HeaderTimestamp)
		signer, signErr := auth.RecoverSigner(string(lsps5.SigningText(stamp, body)), r.Header.Get(lsps5.HeaderSignature))
		var said struct {
			Method string `json:"method"`
		}
		if err != nil || signErr != nil || json.Unmarshal(body, &said) != nil || r.URL.Query().Get("gateway") != signer.String() {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		p.told <- said.Method
	}))
	t.Cleanup(server.Close)
	p.url = server.URL + "/push?gateway="
	require.NoError(t, os.WriteFile(p.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	return p
}

func (p *pushServer) hears(ctx context.Context, t *testing.T, method string) {
	t.Helper()
	select {
	case got := <-p.told:
		require.Equal(t, method, got)
	case <-time.After(60 * time.Second):
		require.Fail(t, "the webhook is not called", method)
	case <-ctx.Done():
		require.Fail(t, "the webhook is not called", method)
	}
}

// TestLSPSKilled kills sluiced around the states of orders, and while a payment waits
// for a wallet whose webhook was called: each order ends with one channel and the right
// balances, and the payment arrives.
func TestLSPSKilled(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	push := startPush(t)
	sc := newScene(ctx, t, devnet.StandardConfig{}, devnet.SluicedConfig{Settings: map[string]string{
		"lsps.webhooks.ca_file": push.caFile, "lsps.webhooks.allow_networks": "127.0.0.0/8", "lsp.collect_for": "90s",
	}})
	p := sc.first(ctx)
	client := peerrpctest.New(p.lnd, mustKey(t, sc.Gateway.PubKey))
	listening, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); client.Run(listening) }()
	defer func() { stop(); <-done }()
	call := func(method string, params any) (raw json.RawMessage) {
		t.Helper()
		var err error
		require.Eventually(t, func() bool {
			raw, err = client.Call(ctx, method, params)
			return err == nil
		}, 60*time.Second, 200*time.Millisecond, "%s: %v", method, &err)
		return raw
	}
	buy := func(r lsps1.CreateOrderRequest) lsps1.Order {
		t.Helper()
		o, err := lsps1.ReadOrder(call(lsps1.MethodCreateOrder, r))
		require.NoError(t, err)
		return o
	}
	until := func(id string, ok func(lsps1.Order) bool) (o lsps1.Order) {
		t.Helper()
		require.Eventually(t, func() bool {
			var err error
			o, err = lsps1.ReadOrder(call(lsps1.MethodGetOrder, lsps1.GetOrderRequest{OrderID: id}))
			return err == nil && ok(o)
		}, 90*time.Second, 200*time.Millisecond, "the order %s: %+v", id, &o)
		return o
	}
	wish := order.Wish{LspBalanceSat: 400_000, ClientBalanceSat: 50_000, ConfirmWithin: 6, ExpiryBlocks: 144}

	// Over Lightning: ordered; held while the client's node is away; while the channel
	// opens or is about to.
	o := buy(lsps1.CreateOrderRequest{Wish: wish})
	dies(ctx, t, sc.s)
	p.goOffline(ctx)
	paid := sc.pay(ctx, o.Payment.Bolt11.Invoice)
	decoded, err := lnd.DecodeBolt11("regtest", o.Payment.Bolt11.Invoice)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		inv, err := sc.Gateway.LN.LookupInvoice(ctx, &lnrpc.PaymentHash{RHash: decoded.Hash[:]})
		return err == nil && inv.State == lnrpc.Invoice_ACCEPTED
	}, 60*time.Second, 100*time.Millisecond)
	dies(ctx, t, sc.s)
	p.comeOnline(ctx)
	dies(ctx, t, sc.s)
	o = until(o.OrderID, func(o lsps1.Order) bool { return o.State == order.WireCompleted })
	dies(ctx, t, sc.s)
	until(o.OrderID, func(o lsps1.Order) bool { return o.Payment.Bolt11.State == order.PaymentPaid })
	sc.paid(paid, 60*time.Second)
	require.Equal(t, 1, p.channels(ctx), "one channel for one order")
	channels, err := sc.Wallet.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(t, err)
	require.Len(t, channels.Channels, 1)
	require.Equal(t, o.Channel.Outpoint, channels.Channels[0].ChannelPoint)
	require.EqualValues(t, 50_000, channels.Channels[0].LocalBalance)

	// A payment waits for the wallet; its webhook is told, and sluiced dies.
	call(lsps5.MethodSetWebhook, lsps5.SetRequest{AppName: "app", Webhook: push.url + sc.Gateway.PubKey})
	push.hears(ctx, t, lsps5.WebhookRegistered)
	agreed := p.negotiate(ctx, 60_000_000, offerWish{})
	bolt11 := p.invoice(ctx, agreed)
	p.goOffline(ctx)
	paid = sc.pay(ctx, bolt11)
	push.hears(ctx, t, lsps5.PaymentIncoming)
	dies(ctx, t, sc.s)
	p.comeOnline(ctx)
	sc.paid(paid, 60*time.Second)
	for len(push.told) > 0 {
		// Who dies before it has written down that the webhook answered tells it again.
		push.hears(ctx, t, lsps5.PaymentIncoming)
	}

	// On chain, with too much paid: seen, confirmed, funded, and while the rest goes
	// back.
	address, err := sc.Wallet.LN.NewAddress(ctx, &lnrpc.NewAddressRequest{Type: lnrpc.AddressType_TAPROOT_PUBKEY})
	require.NoError(t, err)
	wish.RequiredConfs, wish.ClientBalanceSat = 1, 0
	o = buy(lsps1.CreateOrderRequest{Wish: wish, RefundAddress: address.Address})
	const tooMuch = 30_000
	_, err = sc.Payer.LN.SendCoins(ctx, &lnrpc.SendCoinsRequest{
		Addr: o.Payment.OnChain.Address, Amount: int64(o.Payment.OnChain.TotalSat) + tooMuch, SatPerVbyte: 3, SpendUnconfirmed: true,
	})
	require.NoError(t, err)
	dies(ctx, t, sc.s)
	require.NoError(t, sc.Mine(ctx, 3))
	dies(ctx, t, sc.s)
	until(o.OrderID, func(o lsps1.Order) bool { return o.State == order.WireCompleted })
	dies(ctx, t, sc.s)
	require.NoError(t, sc.Mine(ctx, 8))
	require.Eventually(t, func() bool { return p.channels(ctx) == 2 }, 60*time.Second, 200*time.Millisecond)
	// The burial is counted from the block in which sluiced learned of the confirmation.
	until(o.OrderID, func(o lsps1.Order) bool { return o.Payment.OnChain.State == order.PaymentPaid })
	require.NoError(t, sc.Mine(ctx, 8))
	dies(ctx, t, sc.s)
	require.Eventually(t, func() bool {
		require.NoError(t, sc.Mine(ctx, 1))
		balance, err := sc.Wallet.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
		return err == nil && balance.TotalBalance > tooMuch-5_000 && balance.TotalBalance < tooMuch
	}, 90*time.Second, 2*time.Second, "what was paid too much comes back")
	require.Equal(t, 2, p.channels(ctx))
	require.Empty(t, client.Odd())
	sc.op.waitBalanced(ctx)
}

// TestLDKNodeGatewayDies kills sluiced after LDK has bought, while the payment is held
// for LDK, and as LDK connects and its channel opens: LDK is paid, over one channel.
func TestLDKNodeGatewayDies(t *testing.T) {
	together(t)
	needLDK(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{})
	require.NoError(t, err)
	op := newOperator(t, s)
	op.reconcile(ctx)
	w := newLDKWallet(ctx, t, net, "ldk-dies")
	const amount = 100_000_000
	bolt11 := w.sized(ctx, amount, 10_000_000)
	dies(ctx, t, s)
	require.NoError(t, w.Do(ctx, nil, map[string]any{"do": "disconnect"}))
	paid := make(chan *lnrpc.Payment, 1)
	send := func() {
		payment, err := net.Payer.Send(ctx, &routerrpc.SendPaymentRequest{PaymentRequest: bolt11, TimeoutSeconds: 60, FeeLimitMsat: 1_000_000, MaxParts: 1})
		if err != nil {
			t.Errorf("the payer's node: %v", err)
		}
		paid <- payment
	}
	go send()
	held := func() bool {
		got, err := op.api.FindPayments(ctx, &lspv1.FindPaymentsRequest{OpenOnly: true})
		return err == nil && len(got.Payments) == 1 && got.Payments[0].State == "collecting"
	}
	require.Eventually(t, held, 60*time.Second, 100*time.Millisecond, "the payment waits for LDK")
	dies(ctx, t, s)
	require.Eventually(t, held, 60*time.Second, 100*time.Millisecond, "it still does")
	require.NoError(t, w.Do(ctx, nil, map[string]any{"do": "connect"}))
	dies(ctx, t, s)
	payment := <-paid
	for tries := 1; payment.GetStatus() != lnrpc.Payment_SUCCEEDED; tries++ {
		// An open that was cut off may send it back once: bLIP-52 has the payer try again.
		require.Less(t, tries, 3, payment.GetFailureReason())
		_, err := net.Payer.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{})
		require.NoError(t, err)
		go send()
		payment = <-paid
	}
	got, withheld := w.received(ctx, payment.PaymentHash)
	require.Positive(t, withheld)
	require.EqualValues(t, amount, got+withheld)
	require.Len(t, w.channels(ctx), 1)
	op.waitBalanced(ctx)
	require.Equal(t, ln.Msat(amount), ln.Msat(payment.ValueMsat))
}
