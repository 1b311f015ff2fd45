package app

import (
	"strings"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	ordering "github.com/sluice-lsp/sluice/lsp/order"
)

// buyer is an LSPS1 client: the rig's wallet.
type buyer struct {
	*rig
	// wish is what it orders; refund is its address, or empty.
	wish   ordering.Wish
	refund string
}

func newBuyer(t *testing.T, seed uint64, configure func(*Config)) *buyer {
	t.Helper()
	return newBuyerOn(t, seed, false, configure)
}

func newBuyerOn(t *testing.T, seed uint64, postgres bool, configure func(*Config)) *buyer {
	t.Helper()
	r := newRig(t, rigConfig{seed: seed, postgres: postgres, job: job{name: "lsps1", parts: 1, amountSat: 100_000}, configure: func(c *Config) {
		// So that an order comes to its end within a test.
		o := &c.LSP.Orders
		o.PayWithin, o.ConfirmFor, o.WatchFor = config.Duration(10*time.Minute), config.Duration(time.Hour), config.Duration(2*time.Hour)
		o.WaitFor = config.Duration(5 * time.Minute)
		// An order lives for days, in which renewals would be most of what is computed.
		c.Interceptor.LeaseFor = config.Duration(time.Minute)
		if configure != nil {
			configure(c)
		}
	}})
	r.openBooks()
	b := &buyer{rig: r, wish: ordering.Wish{LspBalanceSat: 500_000, ClientBalanceSat: 50_000, ConfirmWithin: 6, ExpiryBlocks: 144}}
	addr, err := r.ln(r.wallet).NewAddress(r.ctx, &lnrpc.NewAddressRequest{Type: lnrpc.AddressType_TAPROOT_PUBKEY})
	require.NoError(t, err)
	b.refund = addr.Address
	return b
}

// order makes an order, however often sluiced dies meanwhile.
func (b *buyer) order() lsps1.Order {
	b.t.Helper()
	var last error
	for range 200 {
		raw, err := b.lsps.Call(b.ctx, lsps1.MethodCreateOrder, lsps1.CreateOrderRequest{Wish: b.wish, RefundAddress: b.refund})
		if err == nil {
			o, err := lsps1.ReadOrder(raw)
			require.NoError(b.t, err, string(raw))
			return o
		}
		last = err
		b.pause(b.step)
	}
	b.t.Fatalf("no order: %v", last)
	return lsps1.Order{}
}

// get asks for the order until sluiced answers.
func (b *buyer) get(id string) lsps1.Order {
	b.t.Helper()
	var last error
	for range 200 {
		raw, err := b.lsps.Call(b.ctx, lsps1.MethodGetOrder, lsps1.GetOrderRequest{OrderID: id})
		if err == nil {
			o, err := lsps1.ReadOrder(raw)
			require.NoError(b.t, err)
			return o
		}
		last = err
		b.pause(b.step)
	}
	b.t.Fatalf("no answer: %v", last)
	return lsps1.Order{}
}

// until waits until the order is as wanted, mining now and then if asked to.
func (b *buyer) until(id string, mine bool, what string, ok func(lsps1.Order) bool) lsps1.Order {
	b.t.Helper()
	var o lsps1.Order
	for i := range 600 {
		if o = b.get(id); ok(o) {
			return o
		}
		b.pause(b.step)
		if mine && i%10 == 9 {
			b.w.Mine(1)
		}
	}
	b.t.Fatalf("the order is not %s: %+v\n%s", what, o, b.story(id))
	return o
}

func (b *buyer) completed(id string) lsps1.Order {
	b.t.Helper()
	return b.until(id, false, "completed", func(o lsps1.Order) bool { return o.State == ordering.WireCompleted })
}

func (b *buyer) failed(id string) lsps1.Order {
	b.t.Helper()
	return b.until(id, false, "failed", func(o lsps1.Order) bool { return o.State == ordering.WireFailed })
}

// story is everything that happened to an order, for people.
func (b *buyer) story(id string) string {
	s := b.service.Load()
	if s == nil {
		return "sluiced is away"
	}
	shown, err := s.orders.ShowOrder(b.ctx, &lspv1.ShowOrderRequest{OrderId: id})
	if err != nil {
		return err.Error()
	}
	var out strings.Builder
	for _, e := range shown.Story {
		out.WriteString(e.String() + "\n")
	}
	return out.String()
}

// payOnChain has the payer's wallet pay an address.
func (b *buyer) payOnChain(address string, sat ln.Sat) string {
	b.t.Helper()
	sent, err := b.ln(b.payer).SendCoins(b.ctx, &lnrpc.SendCoinsRequest{Addr: address, Amount: int64(sat), SatPerVbyte: 5})
	require.NoError(b.t, err)
	return sent.Txid
}

// over waits until nothing about the order moves any more, and holds the day
// against what must be true: nobody lost anything, the books say so, and no
// coin is kept.
func (b *buyer) over(id string) *lspv1.Order {
	t := b.t
	t.Helper()
	b.w.OnRPC(nil)
	var why string
	var shown *lspv1.ShowOrderResponse
	for i := range 400 {
		for _, n := range b.nodes() {
			require.NoError(t, n.Start())
		}
		b.w.Connect(b.payer, b.gateway)
		b.w.Connect(b.gateway, b.wallet)
		if why = b.moving(); why == "" {
			var err error
			if shown, err = b.service.Load().orders.ShowOrder(b.ctx, &lspv1.ShowOrderRequest{OrderId: id}); err == nil && shown.Order.Terminal {
				break
			}
			why = "the order is not over"
			b.pause(10 * time.Minute)
			b.w.Mine(3)
		}
		b.pause(b.step)
		if i%20 == 19 {
			b.w.Mine(1)
		}
		if i%100 == 99 {
			// An order that was paid too little keeps the coin until its time is over.
			b.pause(10 * time.Minute)
		}
	}
	require.Empty(t, why, b.story(id))
	require.NoError(t, b.w.Err())
	b.balanced(id)
	return shown.Order
}

func (b *buyer) balanced(id string) {
	t := b.t
	t.Helper()
	books, err := b.service.Load().operator.Reconcile(b.ctx, &lspv1.ReconcileRequest{})
	require.NoError(t, err)
	require.True(t, books.Balanced, "the books: %s\n%s", books, b.story(id))
	holdsNothing(t, books)
}

func (b *buyer) gained(n *lndfake.Node) int64 { return b.w.Wealth(n).TotalMsat() - b.before[n] }

// An order that is paid over Lightning: held until the funding transaction is
// published, then settled; the client has its balance, and the books say so.
func TestLSPS1OverLightning(t *testing.T) {
	t.Parallel()
	virtual(t, func(t *testing.T) {
		b := newBuyer(t, 1, nil)
		raw, err := b.lsps.Call(b.ctx, lsps0.MethodListProtocols, nil)
		require.NoError(t, err)
		require.JSONEq(t, `{"protocols":[1,2,5]}`, string(raw))
		b.refund = ""
		o := b.order()
		require.Equal(t, ordering.WireCreated, o.State)
		require.Nil(t, o.Payment.OnChain, "without an address to return money to")
		require.Equal(t, ordering.ExpectPayment, o.Payment.Bolt11.State)
		require.Nil(t, o.Channel)
		paid := b.pay(o.Payment.Bolt11.Invoice)
		m := b.outcome(paid)
		require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, b.story(o.OrderID))
		o = b.completed(o.OrderID)
		// lnd may tell the payer of the settlement before it tells sluiced.
		for range 50 {
			if o.Payment.Bolt11.State != ordering.Hold {
				break
			}
			b.pause(b.step)
			o = b.get(o.OrderID)
		}
		require.Equal(t, ordering.PaymentPaid, o.Payment.Bolt11.State, b.story(o.OrderID))
		require.NotEmpty(t, o.Channel.Outpoint)
		require.Equal(t, int64(b.wish.ClientBalanceSat)*1000, b.gained(b.wallet), b.story(o.OrderID))
		list, err := b.ln(b.wallet).ListChannels(b.ctx, &lnrpc.ListChannelsRequest{})
		require.NoError(t, err)
		require.Len(t, list.Channels, 1)
		require.EqualValues(t, 550_000, list.Channels[0].Capacity)
		require.EqualValues(t, 50_000, list.Channels[0].LocalBalance)
		require.True(t, list.Channels[0].Private)
		b.w.Mine(200)
		shown := b.over(o.OrderID)
		require.Equal(t, "ended", shown.State, b.story(o.OrderID))
		require.Equal(t, -(m.ValueMsat + m.FeeMsat), b.gained(b.payer))
		require.Empty(t, b.lsps.Odd())
	})
}

// An order that is paid on chain: it counts once it has its confirmations, the
// channel is opened, and the payment becomes the gateway's.
func TestLSPS1OnChain(t *testing.T) {
	t.Parallel()
	virtual(t, func(t *testing.T) {
		b := newBuyer(t, 2, nil)
		b.wish.Announce = true
		b.wish.RequiredConfs = 1
		o := b.order()
		c := o.Payment.OnChain
		require.NotNil(t, c)
		require.EqualValues(t, 3, c.MinConfs)
		require.Equal(t, b.refund, c.RefundAddress)
		require.Contains(t, c.RefundPromise.Message, b.refund)
		require.NotEmpty(t, c.RefundPromise.Signature)
		before := b.gained(b.payer)
		b.payOnChain(c.Address, ln.Sat(c.TotalSat))
		b.pause(b.step)
		b.w.Mine(2)
		b.pause(b.step)
		require.Equal(t, ordering.WireCreated, b.get(o.OrderID).State, "two confirmations are not three")
		b.w.Mine(1)
		o = b.completed(o.OrderID)
		require.Equal(t, ordering.PaymentPaid, o.Payment.OnChain.State)
		require.Equal(t, ordering.Refunded, o.Payment.Bolt11.State, "the other way to pay is closed")
		b.w.Mine(6)
		list, err := b.ln(b.wallet).ListChannels(b.ctx, &lnrpc.ListChannelsRequest{})
		require.NoError(t, err)
		require.Len(t, list.Channels, 1)
		require.False(t, list.Channels[0].Private)
		b.w.Mine(200)
		require.Equal(t, "ended", b.over(o.OrderID).State, b.story(o.OrderID))
		require.Equal(t, int64(b.wish.ClientBalanceSat)*1000, b.gained(b.wallet))
		require.Less(t, b.gained(b.payer), before-int64(c.TotalSat)*1000, "the total and the chain's fee")
	})
}

// What arrives and does not buy the channel goes back, less the fee of the
// transaction that returns it.
func TestLSPS1Refunds(t *testing.T) {
	for name, day := range map[string]struct {
		// pay is what happens once the order is made; it says what the client is to
		// have back before the fees of the transactions, and in how many.
		pay  func(b *buyer, o lsps1.Order) (back ln.Sat)
		ends string
	}{
		"too little": {ends: "failed", pay: func(b *buyer, o lsps1.Order) ln.Sat {
			b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat)-1)
			b.pause(b.step)
			b.w.Mine(3)
			b.pause(9 * time.Minute)
			require.Equal(b.t, ordering.WireCreated, b.get(o.OrderID).State, "the rest may still come")
			// When the order has expired, and not when a payment could have confirmed.
			b.pause(time.Minute)
			b.failed(o.OrderID)
			b.until(o.OrderID, false, "refunded", func(o lsps1.Order) bool { return o.Payment.OnChain.State == ordering.Refunded })
			require.Len(b.t, b.w.Mempool(), 1, "it is on its way back")
			return ln.Sat(o.Payment.OnChain.TotalSat) - 1
		}},
		"the rest of it late": {ends: "failed", pay: func(b *buyer, o lsps1.Order) ln.Sat {
			total := ln.Sat(o.Payment.OnChain.TotalSat)
			b.payOnChain(o.Payment.OnChain.Address, 20_000)
			b.pause(b.step)
			b.w.Mine(3)
			b.pause(10 * time.Minute)
			b.failed(o.OrderID)
			b.payOnChain(o.Payment.OnChain.Address, total-20_000)
			return total
		}},
		"the rest of it in time, confirmed later": {ends: "ended", pay: func(b *buyer, o lsps1.Order) ln.Sat {
			b.payOnChain(o.Payment.OnChain.Address, 20_000)
			b.pause(b.step)
			b.w.Mine(3)
			b.pause(9 * time.Minute)
			b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat)-20_000)
			b.pause(30 * time.Minute)
			require.Equal(b.t, ordering.WireCreated, b.get(o.OrderID).State)
			b.w.Mine(3)
			b.completed(o.OrderID)
			return 0
		}},
		"too much": {ends: "ended", pay: func(b *buyer, o lsps1.Order) ln.Sat {
			b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat)+30_000)
			b.pause(b.step)
			b.w.Mine(3)
			b.completed(o.OrderID)
			return 30_000
		}},
		"in two payments": {ends: "ended", pay: func(b *buyer, o lsps1.Order) ln.Sat {
			b.payOnChain(o.Payment.OnChain.Address, 20_000)
			b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat)-20_000)
			b.pause(b.step)
			b.w.Mine(3)
			b.completed(o.OrderID)
			return 0
		}},
		"twice on chain": {ends: "ended", pay: func(b *buyer, o lsps1.Order) ln.Sat {
			b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat))
			b.pause(b.step)
			b.w.Mine(3)
			b.completed(o.OrderID)
			b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat))
			return ln.Sat(o.Payment.OnChain.TotalSat)
		}},
		"over Lightning and on chain": {ends: "ended", pay: func(b *buyer, o lsps1.Order) ln.Sat {
			m := b.outcome(b.pay(o.Payment.Bolt11.Invoice))
			require.Equal(b.t, lnrpc.Payment_SUCCEEDED, m.Status)
			b.completed(o.OrderID)
			b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat))
			return ln.Sat(o.Payment.OnChain.TotalSat)
		}},
		"too late": {ends: "failed", pay: func(b *buyer, o lsps1.Order) ln.Sat {
			b.pause(11 * time.Minute)
			b.failed(o.OrderID)
			b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat))
			return ln.Sat(o.Payment.OnChain.TotalSat)
		}},
		"seen in time and confirmed later": {ends: "ended", pay: func(b *buyer, o lsps1.Order) ln.Sat {
			b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat))
			b.pause(40 * time.Minute)
			require.Equal(b.t, ordering.WireCreated, b.get(o.OrderID).State)
			b.w.Mine(3)
			b.completed(o.OrderID)
			return 0
		}},
		"the client stays away": {ends: "failed", pay: func(b *buyer, o lsps1.Order) ln.Sat {
			b.w.Disconnect(b.gateway, b.wallet)
			b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat))
			b.pause(b.step)
			b.w.Mine(3)
			b.pause(6 * time.Minute)
			b.w.Connect(b.gateway, b.wallet)
			b.failed(o.OrderID)
			return ln.Sat(o.Payment.OnChain.TotalSat)
		}},
		"the client's node refuses": {ends: "failed", pay: func(b *buyer, o lsps1.Order) ln.Sat {
			words := "not today"
			b.refusal.Store(&words)
			b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat))
			b.pause(b.step)
			b.w.Mine(3)
			b.failed(o.OrderID)
			return ln.Sat(o.Payment.OnChain.TotalSat)
		}},
		"too little to send back": {ends: "failed", pay: func(b *buyer, o lsps1.Order) ln.Sat {
			b.payOnChain(o.Payment.OnChain.Address, 400)
			b.pause(10 * time.Minute)
			b.failed(o.OrderID)
			b.w.Mine(1)
			return 0
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(t *testing.T) {
				b := newBuyer(t, 3, nil)
				b.wish.ClientBalanceSat = 50_000
				o := b.order()
				back := day.pay(b, o)
				b.pause(b.step)
				b.w.Mine(1)
				b.pause(b.step)
				b.w.Mine(150)
				shown := b.over(o.OrderID)
				require.Equal(t, day.ends, shown.State, b.story(o.OrderID))
				detail, err := b.service.Load().orders.ShowOrder(b.ctx, &lspv1.ShowOrderRequest{OrderId: o.OrderID})
				require.NoError(t, err)
				var owed, fees uint64
				for _, r := range detail.Refunds {
					require.True(t, r.Terminal)
					if r.State == "returned" {
						owed += r.OwedSat
						fees += r.FeeSat
					}
				}
				require.EqualValues(t, back, owed, b.story(o.OrderID))
				want := int64(back) - int64(fees)
				if day.ends == "ended" {
					want += int64(b.wish.ClientBalanceSat)
				}
				require.Equal(t, want*1000, b.gained(b.wallet), b.story(o.OrderID))
				leases, err := b.walletKit(b.gateway).ListLeases(b.ctx, &walletrpc.ListLeasesRequest{})
				require.NoError(t, err)
				require.Empty(t, leases.LockedUtxos, b.story(o.OrderID))
			})
		})
	}
}

func (b *buyer) walletKit(n *lndfake.Node) walletrpc.WalletKitClient {
	return walletrpc.NewWalletKitClient(b.conns[n])
}
