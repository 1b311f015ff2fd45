//go:build itest

package itest

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// orderMoment waits until an order, an open of its, or a refund of its has been stored in
// the state: what is killed afterwards has come that far. It gives the order's story.
func (sc *scene) orderMoment(ctx context.Context, id string, m moment) string {
	sc.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, afterOutage)
	defer cancel()
	marks := map[string]string{"opening": "-open-", "refund": "-refund-"}
	var story string
	for {
		// One call after the other: some of these moments last for milliseconds.
		seen, err := sc.op.orders.ShowOrder(ctx, &lspv1.ShowOrderRequest{OrderId: id})
		if err == nil {
			var b strings.Builder
			reached := false
			for _, e := range seen.Story {
				fmt.Fprintf(&b, "  %s: %s -> %s (%s) %s\n", e.Machine, e.From, e.To, e.Event, e.Reason)
				mark := marks[m.machine]
				own := mark == "" && !strings.Contains(e.Machine, "-open-") && !strings.Contains(e.Machine, "-refund-")
				// A channel that is active before its funding is published is usable at once.
				at := e.To == m.state || m.state == "published" && e.To == "usable"
				reached = reached || at && (own || mark != "" && strings.Contains(e.Machine, mark))
			}
			story = b.String()
			if reached {
				return story
			}
		}
		require.NoError(sc.t, ctx.Err(), "order %s never reached %s; its story:\n%s", id, m, story)
	}
}

// orderer buys channels as an LSPS1 client on a stock lnd.
type orderer struct {
	*scene
	p      *person
	client *peerrpctest.Client
}

// newOrderer has the wallet that every standard network has buy.
func newOrderer(ctx context.Context, t *testing.T, sc *scene) *orderer {
	t.Helper()
	p := sc.first(ctx)
	client := peerrpctest.New(p.lnd, mustKey(t, sc.Gateway.PubKey))
	listening, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); client.Run(listening) }()
	t.Cleanup(func() { stop(); <-done })
	return &orderer{scene: sc, p: p, client: client}
}

// on gives a subtest its own view of the buyer.
func (b *orderer) on(ctx context.Context, t *testing.T) *orderer {
	t.Helper()
	sc := b.scene.on(ctx, t)
	return &orderer{scene: sc, p: b.p.in(sc), client: b.client}
}

func (b *orderer) call(ctx context.Context, method string, params any) (raw json.RawMessage) {
	b.t.Helper()
	var err error
	require.Eventually(b.t, func() bool {
		raw, err = b.client.Call(ctx, method, params)
		return err == nil
	}, 60*time.Second, 200*time.Millisecond, "%s: %v", method, &err)
	return raw
}

func (b *orderer) buy(ctx context.Context, r lsps1.CreateOrderRequest) lsps1.Order {
	b.t.Helper()
	o, err := lsps1.ReadOrder(b.call(ctx, lsps1.MethodCreateOrder, r))
	require.NoError(b.t, err)
	return o
}

// until waits until the client is shown the order as wanted. What was cut off is tried
// again with the next block.
func (b *orderer) until(ctx context.Context, id string, ok func(lsps1.Order) bool) (o lsps1.Order) {
	b.t.Helper()
	tries := 0
	require.Eventually(b.t, func() bool {
		if tries++; tries%10 == 0 {
			require.NoError(b.t, b.Mine(ctx, 1))
		}
		var err error
		o, err = lsps1.ReadOrder(b.call(ctx, lsps1.MethodGetOrder, lsps1.GetOrderRequest{OrderID: id}))
		return err == nil && ok(o)
	}, 90*time.Second, 200*time.Millisecond, "the order %s: %+v", id, &o)
	return o
}

// owns demands that the order's channel is the only one that the wallet has more than
// before, with the balance that was bought.
func (b *orderer) owns(ctx context.Context, o lsps1.Order, before int, balance ln.Sat) {
	b.t.Helper()
	require.Eventually(b.t, func() bool { return b.p.channels(ctx) == before+1 }, 60*time.Second, 200*time.Millisecond)
	found := false
	require.Eventually(b.t, func() bool {
		channels, err := b.Wallet.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
		require.NoError(b.t, err)
		for _, c := range channels.Channels {
			if c.ChannelPoint == o.Channel.Outpoint {
				require.EqualValues(b.t, balance, c.LocalBalance)
				found = true
			}
		}
		return found
	}, 60*time.Second, 200*time.Millisecond, "the wallet does not list the channel that it bought")
	require.Equal(b.t, before+1, b.p.channels(ctx), "one channel for one order")
}

// TestLSPSKilled kills sluiced once each of an order's states is stored, and while a
// payment waits for a wallet whose webhook was called: each order ends with one channel
// and the right balances, and the payment arrives.
func TestLSPSKilled(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	defer cancel()
	push := startPush(t)
	sc := newScene(ctx, t, devnet.StandardConfig{}, devnet.SluicedConfig{Settings: unlimited(map[string]string{
		"lsps.webhooks.ca_file": push.caFile, "lsps.webhooks.allow_networks": "127.0.0.0/8", "lsp.collect_for": "90s",
	})})
	buyer := newOrderer(ctx, t, sc)
	with := func(t *testing.T) *orderer { return buyer.on(ctx, t) }
	wish := order.Wish{LspBalanceSat: 400_000, ClientBalanceSat: 50_000, ConfirmWithin: 6, ExpiryBlocks: 144}

	for _, at := range []moment{
		{"order", "awaiting_payment"},
		{"order", "paid"},
		{"order", "opening"},
		{"opening", "pending"},
		{"opening", "signed"},
		{"opening", "published"},
		{"order", "active"},
	} {
		t.Run("over Lightning, killed at "+at.String(), func(t *testing.T) {
			b := with(t)
			before := b.p.channels(ctx)
			o := b.buy(ctx, lsps1.CreateOrderRequest{Wish: wish})
			dies := func() {
				t.Helper()
				t.Logf("killed after\n%s", b.orderMoment(ctx, o.OrderID, at))
				b.crash(ctx)
			}
			unpaid := at.state == "awaiting_payment"
			if unpaid {
				dies()
			}
			// Held until sluiced is dead: the client's node is away, or does not answer
			// the channel that it is offered.
			answer := make(chan struct{})
			switch at.state {
			case "paid":
				b.p.goOffline(ctx)
			case "opening":
				b.p.onProposal(func(*ln.AcceptVerdict) { <-answer })
			}
			paid := b.pay(ctx, o.Payment.Bolt11.Invoice)
			if !unpaid {
				dies()
			}
			close(answer)
			b.p.onProposal(nil)
			if at.state == "paid" {
				b.p.comeOnline(ctx)
			}
			o = b.until(ctx, o.OrderID, func(o lsps1.Order) bool {
				return o.State == order.WireCompleted && o.Payment.Bolt11.State == order.PaymentPaid
			})
			b.paid(paid, afterOutage)
			b.owns(ctx, o, before, 50_000)
			require.NoError(t, b.Mine(ctx, 1))
		})
	}

	t.Run("a payment waits for the wallet, whose webhook was called", func(t *testing.T) {
		b := with(t)
		b.call(ctx, lsps5.MethodSetWebhook, lsps5.SetRequest{AppName: "app", Webhook: push.url + sc.Gateway.PubKey})
		push.hears(ctx, t, lsps5.WebhookRegistered)
		agreed := b.p.negotiate(ctx, 60_000_000, offerWish{})
		bolt11 := b.p.invoice(ctx, agreed)
		b.p.goOffline(ctx)
		paid := b.pay(ctx, bolt11)
		push.hears(ctx, t, lsps5.PaymentIncoming)
		b.waitMoment(ctx, agreed.PaymentId, moment{"jit", "collecting"})
		b.crash(ctx)
		b.p.comeOnline(ctx)
		b.paid(paid, afterOutage)
		for len(push.told) > 0 {
			// Who dies before it has written down that the webhook answered tells it again.
			push.hears(ctx, t, lsps5.PaymentIncoming)
		}
	})

	t.Run("on chain, with too much paid", func(t *testing.T) {
		b := with(t)
		before := b.p.channels(ctx)
		address, err := sc.Wallet.LN.NewAddress(ctx, &lnrpc.NewAddressRequest{Type: lnrpc.AddressType_TAPROOT_PUBKEY})
		require.NoError(t, err)
		wish := wish
		wish.RequiredConfs, wish.ClientBalanceSat = 1, 0
		o := b.buy(ctx, lsps1.CreateOrderRequest{Wish: wish, RefundAddress: address.Address})
		dies := func(machine, state string) {
			t.Helper()
			t.Logf("killed after\n%s", b.orderMoment(ctx, o.OrderID, moment{machine, state}))
			b.crash(ctx)
		}
		const tooMuch = 30_000
		b.p.goOffline(ctx)
		_, err = sc.Payer.LN.SendCoins(ctx, &lnrpc.SendCoinsRequest{
			Addr: o.Payment.OnChain.Address, Amount: int64(o.Payment.OnChain.TotalSat) + tooMuch, SatPerVbyte: 3, SpendUnconfirmed: true,
		})
		require.NoError(t, err)
		dies("order", "awaiting_payment")
		require.NoError(t, b.Mine(ctx, 3))
		dies("order", "paid")
		b.p.comeOnline(ctx)
		dies("opening", "published")
		dies("order", "active")
		o = b.until(ctx, o.OrderID, func(o lsps1.Order) bool {
			return o.State == order.WireCompleted && o.Payment.OnChain.State == order.PaymentPaid
		})
		// The burial is counted from the block in which sluiced learned of the confirmation.
		require.NoError(t, b.Mine(ctx, 16))
		dies("refund", "sending")
		require.Eventually(t, func() bool {
			require.NoError(t, b.Mine(ctx, 1))
			balance, err := sc.Wallet.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
			return err == nil && balance.TotalBalance > tooMuch-5_000 && balance.TotalBalance < tooMuch
		}, 90*time.Second, 2*time.Second, "what was paid too much comes back")
		b.owns(ctx, o, before, 0)
	})
	require.Empty(t, buyer.client.Odd())
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
	// Whom the gateway still takes for connected, it opens a channel to.
	require.NoError(t, devnet.WaitFor(ctx, "LDK to be gone", func(ctx context.Context) (bool, error) {
		peers, err := net.Gateway.LN.ListPeers(ctx, &lnrpc.ListPeersRequest{})
		return err == nil && !slices.ContainsFunc(peers.Peers, func(p *lnrpc.Peer) bool { return p.PubKey == w.NodeID }), err
	}))
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
