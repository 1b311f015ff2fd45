//go:build itest

package itest

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// needLDK skips a case on a machine without Rust, and fails it where nothing
// may be left out.
func needLDK(t *testing.T) {
	t.Helper()
	_, err := devnet.FindLDK()
	switch {
	case err == nil:
	case errors.Is(err, devnet.ErrNoLDK) && os.Getenv("CI") != "true":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

// ldkWallet is an LDK Node that buys from the gateway.
type ldkWallet struct {
	*devnet.LDK
	t *testing.T
}

func newLDKWallet(ctx context.Context, t *testing.T, net *devnet.Standard, name string) *ldkWallet {
	t.Helper()
	node, err := net.StartLDK(ctx, name, net.Gateway, net.Gateway.P2PAddr)
	require.NoError(t, err)
	return &ldkWallet{LDK: node, t: t}
}

func (w *ldkWallet) invoice(ctx context.Context, request map[string]any) string {
	w.t.Helper()
	var bolt11 string
	require.NoError(w.t, w.Do(ctx, &bolt11, request))
	return bolt11
}

// sized buys a channel for one payment, for at most fee.
func (w *ldkWallet) sized(ctx context.Context, amount, fee uint64) string {
	w.t.Helper()
	return w.invoice(ctx, map[string]any{"do": "receive", "amount_msat": amount, "max_fee_msat": fee})
}

// received waits until LDK's user is told of the payment, and returns what LDK
// says that it got and what its LSP withheld.
func (w *ldkWallet) received(ctx context.Context, hash string) (got, withheld uint64) {
	w.t.Helper()
	event, err := w.Wait(ctx, "the payment "+hash, func(e devnet.LDKEvent) bool {
		return e.Event == "payment_received" && e.Hash == hash
	})
	require.NoError(w.t, err)
	var payments []struct {
		Hash    string  `json:"hash"`
		Status  string  `json:"status"`
		Skimmed *uint64 `json:"skimmed_msat"`
	}
	require.NoError(w.t, w.Do(ctx, &payments, map[string]any{"do": "payments"}))
	for _, p := range payments {
		if p.Hash != hash {
			continue
		}
		require.Equal(w.t, "Succeeded", p.Status)
		if p.Skimmed != nil {
			withheld = *p.Skimmed
		}
		return event.AmountMsat, withheld
	}
	w.t.Fatalf("LDK does not list the payment %s", hash)
	return 0, 0
}

type ldkChannel struct {
	Usable       bool   `json:"usable"`
	Announced    bool   `json:"announced"`
	CapacitySat  uint64 `json:"capacity_sat"`
	OutboundMsat uint64 `json:"outbound_msat"`
}

func (w *ldkWallet) channels(ctx context.Context) []ldkChannel {
	w.t.Helper()
	var out []ldkChannel
	require.NoError(w.t, w.Do(ctx, &out, map[string]any{"do": "channels"}))
	return out
}

// TestLDKNode is bLIP-52 with a client that nobody here wrote: LDK Node buys
// channels, is paid less than its onions ask, and pays out again.
func TestLDKNode(t *testing.T) {
	together(t)
	needLDK(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{})
	require.NoError(t, err)
	op := newOperator(t, s)
	op.reconcile(ctx)
	w := newLDKWallet(ctx, t, net, "ldk")

	// send sends the amount to an invoice, in parts of at most shard.
	send := func(bolt11 string, amount, shard uint64) *lnrpc.Payment {
		t.Helper()
		request := &routerrpc.SendPaymentRequest{
			PaymentRequest: bolt11, TimeoutSeconds: 60, FeeLimitMsat: 1_000_000, MaxParts: 16, MaxShardSizeMsat: shard,
		}
		decoded, err := lnd.DecodeBolt11("regtest", bolt11)
		require.NoError(t, err)
		if decoded.AmountMsat == 0 {
			request.AmtMsat, request.MaxParts = int64(amount), 1
		}
		payment, err := net.Payer.Send(ctx, request)
		require.NoError(t, err)
		return payment
	}
	pay := func(bolt11 string, amount, shard uint64) *lnrpc.Payment {
		t.Helper()
		payment := send(bolt11, amount, shard)
		require.Equal(t, lnrpc.Payment_SUCCEEDED, payment.Status, payment.FailureReason)
		require.EqualValues(t, amount, payment.ValueMsat)
		require.Zero(t, payment.FeeMsat, "the payer pays no fee: LDK does")
		return payment
	}
	settled := func(p *lnrpc.Payment) (parts int) {
		for _, h := range p.Htlcs {
			if h.Status == lnrpc.HTLCAttempt_SUCCEEDED {
				parts++
			}
		}
		return parts
	}

	// A fixed size: the fee is withheld, and the channel serves at once.
	const first = 100_000_000
	payment := pay(w.sized(ctx, first, 10_000_000), first, 0)
	got, withheld := w.received(ctx, payment.PaymentHash)
	require.Positive(t, withheld)
	require.EqualValues(t, first, got+withheld)
	t.Logf("LDK got %d msat of %d: %d were withheld", got, first, withheld)
	channels := w.channels(ctx)
	require.Len(t, channels, 1)
	require.True(t, channels[0].Usable)
	require.False(t, channels[0].Announced)
	pool, err := net.Miner().Mempool(ctx)
	require.NoError(t, err)
	require.NotEmpty(t, pool, "the funding transaction is published")

	// Several parts, for a second channel: each of them forwardable, their sum
	// what LDK agreed to.
	const second = 400_000_000
	payment = pay(w.sized(ctx, second, 40_000_000), second, 60_000_000)
	require.Greater(t, settled(payment), 3)
	got, withheld = w.received(ctx, payment.PaymentHash)
	require.Positive(t, withheld)
	require.EqualValues(t, second, got+withheld)
	require.Len(t, w.channels(ctx), 2)

	// A payment of any size, on a node of its own. LDK Node 0.7.0 holds what is
	// withheld against the proportional fee alone, of what arrived: it declines
	// every payment of this kind that a channel is opened for. Its payer has the
	// money back, and the channel serves the next payment, without a fee.
	other := newLDKWallet(ctx, t, net, "ldk-any")
	anySize := map[string]any{"do": "receive_any", "max_fee_ppm_msat": 1_000_000_000}
	const third = 77_777_777
	declined := send(other.invoice(ctx, anySize), third, 0)
	require.Equal(t, lnrpc.Payment_FAILED, declined.Status)
	require.Equal(t, lnrpc.PaymentFailureReason_FAILURE_REASON_INCORRECT_PAYMENT_DETAILS, declined.FailureReason)
	require.Len(t, other.channels(ctx), 1)
	payment = pay(other.invoice(ctx, anySize), third, 0)
	got, withheld = other.received(ctx, payment.PaymentHash)
	require.Zero(t, withheld)
	require.EqualValues(t, third, got)
	require.Len(t, other.channels(ctx), 1)

	// It pays out over the channel that the payment opened.
	// The invoice says how: LDK has no gossip of this young network.
	require.NoError(t, net.Mine(ctx, 6))
	back, err := net.Payer.LN.AddInvoice(ctx, &lnrpc.Invoice{
		ValueMsat: 20_000_000, RouteHints: []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
			NodeId: net.Gateway.PubKey, ChanId: net.PayerChannel.ChanID, CltvExpiryDelta: 80,
		}}}},
	})
	require.NoError(t, err)
	require.NoError(t, other.Do(ctx, nil, map[string]any{"do": "pay", "invoice": back.PaymentRequest}))
	_, err = other.Wait(ctx, "LDK's own payment", func(e devnet.LDKEvent) bool { return e.Event == "payment_successful" })
	require.NoError(t, err)

	// Closed and opened again it is the same wallet, and is paid again.
	require.NoError(t, other.Stop(ctx))
	other = newLDKWallet(ctx, t, net, "ldk-any")
	require.Eventually(t, func() bool {
		c := other.channels(ctx)
		return len(c) == 1 && c[0].Usable
	}, 60*time.Second, 100*time.Millisecond)
	const fourth = 12_000_000
	payment = pay(other.sized(ctx, fourth, 10_000_000), fourth, 0)
	got, withheld = other.received(ctx, payment.PaymentHash)
	require.Zero(t, withheld)
	require.EqualValues(t, fourth, got)
	require.Len(t, other.channels(ctx), 1)

	op.waitBalanced(ctx)
}

type ldkOrder struct {
	ID       string `json:"order_id"`
	Invoice  string `json:"invoice"`
	FeeSat   uint64 `json:"fee_sat"`
	TotalSat uint64 `json:"total_sat"`
	Bolt11   string `json:"bolt11"`
	Address  string `json:"address"`
	ChainSat int64  `json:"chain_total_sat"`
	OnChain  string `json:"onchain"`
	Funding  string `json:"funding"`
}

func (w *ldkWallet) order(ctx context.Context, lspSat, clientSat uint64) (o ldkOrder) {
	w.t.Helper()
	require.NoError(w.t, w.Do(ctx, &o, map[string]any{
		"do": "order", "lsp_balance_sat": lspSat, "client_balance_sat": clientSat, "expiry_blocks": 144,
	}))
	return o
}

// completed asks until the order has its channel. LDK reads nothing more of an LSP
// that answers once in a way that it does not know, so that each answer counts.
func (w *ldkWallet) completed(ctx context.Context, id string) (o ldkOrder) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		o = ldkOrder{}
		require.NoError(w.t, w.Do(ctx, &o, map[string]any{"do": "order_status", "order_id": id}))
		return o.Funding != ""
	}, 60*time.Second, 200*time.Millisecond)
	return o
}

// TestLDKNodeOrders is bLIP-51 with a client that nobody here wrote: LDK Node orders
// channels, one that is paid over Lightning while its node is away, and one on chain.
func TestLDKNodeOrders(t *testing.T) {
	together(t)
	needLDK(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{})
	require.NoError(t, err)
	op := newOperator(t, s)
	op.reconcile(ctx)
	w := newLDKWallet(ctx, t, net, "ldk-order")

	first := w.order(ctx, 400_000, 30_000)
	require.Equal(t, first.FeeSat+30_000, first.TotalSat)
	require.Equal(t, "ExpectPayment", first.Bolt11)
	decoded, err := lnd.DecodeBolt11("regtest", first.Invoice)
	require.NoError(t, err)
	require.EqualValues(t, first.TotalSat*1000, decoded.AmountMsat)

	// The payment is held while LDK is away, and LDK can read that.
	require.NoError(t, w.Do(ctx, nil, map[string]any{"do": "disconnect"}))
	paid := make(chan error, 1)
	go func() {
		payment, err := net.Payer.Pay(ctx, first.Invoice)
		if err == nil && payment.Status != lnrpc.Payment_SUCCEEDED {
			err = errors.New(payment.FailureReason.String())
		}
		paid <- err
	}()
	hash := decoded.Hash
	require.Eventually(t, func() bool {
		inv, err := net.Gateway.LN.LookupInvoice(ctx, &lnrpc.PaymentHash{RHash: hash[:]})
		return err == nil && inv.State == lnrpc.Invoice_ACCEPTED
	}, 60*time.Second, 100*time.Millisecond)
	require.NoError(t, w.Do(ctx, nil, map[string]any{"do": "connect"}))
	done := w.completed(ctx, first.ID)
	require.NoError(t, <-paid)
	require.Eventually(t, func() bool {
		done = w.completed(ctx, first.ID)
		return done.Bolt11 == "Paid"
	}, 60*time.Second, 200*time.Millisecond)
	require.Equal(t, "Refunded", done.OnChain, "what came on chain now would go back")
	require.Eventually(t, func() bool {
		c := w.channels(ctx)
		return len(c) == 1 && c[0].Usable && c[0].CapacitySat == 430_000
	}, 60*time.Second, 200*time.Millisecond)
	channels := w.channels(ctx)
	require.False(t, channels[0].Announced)
	require.Positive(t, channels[0].OutboundMsat, "what was pushed can be spent")

	// On chain.
	second := w.order(ctx, 300_000, 0)
	_, err = net.Payer.LN.SendCoins(ctx, &lnrpc.SendCoinsRequest{Addr: second.Address, Amount: second.ChainSat, SatPerVbyte: 3, SpendUnconfirmed: true})
	require.NoError(t, err)
	require.NoError(t, net.Mine(ctx, 3))
	done = w.completed(ctx, second.ID)
	require.Equal(t, "Paid", done.OnChain)
	require.Eventually(t, func() bool { return len(w.channels(ctx)) == 2 }, 60*time.Second, 200*time.Millisecond)
	require.NoError(t, net.Mine(ctx, 6))

	// What it cannot have is an error, and LDK goes on asking.
	require.Error(t, w.Do(ctx, nil, map[string]any{"do": "order", "lsp_balance_sat": 10, "client_balance_sat": 0, "expiry_blocks": 144}))
	require.Equal(t, done.Funding, w.completed(ctx, second.ID).Funding)
	op.waitBalanced(ctx)
}
