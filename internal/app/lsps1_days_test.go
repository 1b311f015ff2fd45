package app

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/signrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
	ordering "github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/peerrpc/peerrpctest"
)

// What a client gets for what it may not ask, over the wire: the code, and which
// option or parameter it is about.
func TestLSPS1Refusals(t *testing.T) {
	virtual(t, func(t *testing.T) {
		b := newBuyer(t, 1, nil)
		raw, err := b.lsps.Call(b.ctx, lsps1.MethodGetInfo, struct{}{})
		require.NoError(t, err)
		info, err := lsps1.ReadInfo(raw)
		require.NoError(t, err)
		good := lsps1.CreateOrderRequest{Wish: b.wish, RefundAddress: b.refund}
		refused := func(method string, params any) (int, string) {
			t.Helper()
			b.pause(time.Second)
			_, err := b.lsps.Call(b.ctx, method, params)
			remote := &lsps0.RemoteError{}
			require.ErrorAs(t, err, &remote)
			var data struct {
				Property string `json:"property"`
			}
			if len(remote.Data) > 0 {
				require.NoError(t, json.Unmarshal(remote.Data, &data))
			}
			return remote.Code, data.Property
		}
		for property, change := range map[string]func(*lsps1.CreateOrderRequest){
			"min_initial_lsp_balance_sat":        func(r *lsps1.CreateOrderRequest) { r.LspBalanceSat = ln.Sat(info.MinLspSat) - 1 },
			"max_initial_lsp_balance_sat":        func(r *lsps1.CreateOrderRequest) { r.LspBalanceSat = ln.Sat(info.MaxLspSat) + 1 },
			"max_initial_client_balance_sat":     func(r *lsps1.CreateOrderRequest) { r.ClientBalanceSat = ln.Sat(info.MaxClientSat) + 1 },
			"min_funding_confirms_within_blocks": func(r *lsps1.CreateOrderRequest) { r.ConfirmWithin = info.MinConfirmWithin - 1 },
			"max_channel_expiry_blocks":          func(r *lsps1.CreateOrderRequest) { r.ExpiryBlocks = info.MaxExpiryBlocks + 1 },
			"max_channel_balance_sat": func(r *lsps1.CreateOrderRequest) {
				r.LspBalanceSat, r.ClientBalanceSat = ln.Sat(info.MaxLspSat), ln.Sat(info.MaxClientSat)
			},
		} {
			bad := good
			change(&bad)
			code, got := refused(lsps1.MethodCreateOrder, bad)
			require.Equal(t, lsps1.CodeOptionMismatch, code, property)
			require.Equal(t, property, got)
		}
		for property, change := range map[string]func(*lsps1.CreateOrderRequest){
			"lsp_balance_sat":       func(r *lsps1.CreateOrderRequest) { r.LspBalanceSat = 0 },
			"channel_expiry_blocks": func(r *lsps1.CreateOrderRequest) { r.ExpiryBlocks = 0 },
			// A main network's address, and one that is no SegWit.
			"refund_onchain_address": func(r *lsps1.CreateOrderRequest) { r.RefundAddress = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4" },
		} {
			bad := good
			change(&bad)
			code, got := refused(lsps1.MethodCreateOrder, bad)
			require.Equal(t, lsps0.CodeInvalidParams, code, property)
			require.Equal(t, property, got)
		}
		bad := good
		bad.Token = "x"
		code, _ := refused(lsps1.MethodCreateOrder, bad)
		require.Equal(t, lsps1.CodeUnrecognizedToken, code)
		code, _ = refused(lsps1.MethodGetOrder, lsps1.GetOrderRequest{OrderID: "bb4b5d0a-8334-49d8-9463-90a6d413af7c"})
		require.Equal(t, lsps1.CodeNotFound, code)
		code, _ = refused(lsps1.MethodGetInfo, map[string]int{"x": 1})
		require.Equal(t, lsps0.CodeInvalidParams, code)

		// Another peer's order does not exist.
		o := b.order()
		gateway, err := ln.ParsePubKey(b.gateway.PubKey())
		require.NoError(t, err)
		node := b.dial(b.payer)
		stranger := peerrpctest.New(node, gateway)
		ctx, cancel := context.WithCancel(b.ctx)
		done := make(chan struct{})
		go func() { defer close(done); stranger.Run(ctx) }()
		defer func() { cancel(); <-done; _ = node.Close() }()
		b.pause(time.Second)
		_, err = stranger.Call(b.ctx, lsps1.MethodGetOrder, lsps1.GetOrderRequest{OrderID: o.OrderID})
		remote := &lsps0.RemoteError{}
		require.ErrorAs(t, err, &remote)
		require.Equal(t, lsps1.CodeNotFound, remote.Code)
		// Over gRPC it is the same order, of the same client.
		shop := b.service.Load().shop
		got, err := shop.GetOrder(b.asWallet(), &lspv1.GetOrderRequest{OrderId: o.OrderID})
		require.NoError(t, err)
		require.Equal(t, o.Payment.Bolt11.Invoice, got.Payment.Bolt11.Invoice)
		require.Equal(t, "EXPECT_PAYMENT", got.Payment.Onchain.State)
		made, err := shop.CreateOrder(b.asWallet(), &lspv1.CreateOrderRequest{
			LspBalanceSat: uint64(b.wish.LspBalanceSat), FundingConfirmsWithinBlocks: 6, ChannelExpiryBlocks: 144,
		})
		require.NoError(t, err)
		require.Equal(t, ordering.WireCreated, b.get(made.OrderId).State)
		require.Empty(t, b.lsps.Odd())
	})
}

// One transaction pays two orders: each gets its channel.
func TestLSPS1TwoOrdersOneTransaction(t *testing.T) {
	t.Parallel()
	virtual(t, func(t *testing.T) {
		b := newBuyer(t, 4, nil)
		first, second := b.order(), b.order()
		var outs []*signrpc.TxOut
		for _, o := range []lsps1.Order{first, second} {
			script, err := funding.ScriptOf(o.Payment.OnChain.Address, "regtest")
			require.NoError(t, err)
			outs = append(outs, &signrpc.TxOut{Value: int64(o.Payment.OnChain.TotalSat), PkScript: script})
		}
		_, err := b.walletKit(b.payer).SendOutputs(b.ctx, &walletrpc.SendOutputsRequest{SatPerKw: 1000, Outputs: outs})
		require.NoError(t, err)
		b.pause(b.step)
		b.w.Mine(3)
		one, two := b.completed(first.OrderID), b.completed(second.OrderID)
		require.NotEqual(t, one.Channel.Outpoint, two.Channel.Outpoint)
		b.w.Mine(200)
		require.Equal(t, "ended", b.over(first.OrderID).State)
		require.Equal(t, "ended", b.over(second.OrderID).State)
		require.Equal(t, 2*int64(b.wish.ClientBalanceSat)*1000, b.gained(b.wallet))
	})
}

// Small orders may be paid unconfirmed, as far as the limits go; a payment that
// says that it may be replaced is waited for.
func TestLSPS1ZeroConf(t *testing.T) {
	t.Parallel()
	virtual(t, func(t *testing.T) {
		b := newBuyer(t, 5, func(c *Config) {
			c.LSP.Orders.ZeroConf, c.LSP.Orders.ZeroConfAll = config.Sat(100_000), config.Sat(100_000)
		})
		first, second := b.order(), b.order()
		require.Zero(t, first.Payment.OnChain.MinConfs)
		require.NotZero(t, first.Payment.OnChain.MinFee)
		pay := func(o lsps1.Order) {
			t.Helper()
			b.payFinal(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat))
		}
		pay(first)
		b.completed(first.OrderID)
		// The second would take more unconfirmed money than is allowed in all.
		pay(second)
		b.pause(5 * time.Second)
		require.Equal(t, ordering.WireCreated, b.get(second.OrderID).State)
		b.w.Mine(1)
		b.completed(second.OrderID)
		third := b.order()
		b.payOnChain(third.Payment.OnChain.Address, ln.Sat(third.Payment.OnChain.TotalSat))
		b.pause(5 * time.Second)
		require.Equal(t, ordering.WireCreated, b.get(third.OrderID).State, "it may be replaced")
		b.w.Mine(1)
		b.completed(third.OrderID)
		b.w.Mine(200)
		for _, o := range []lsps1.Order{first, second, third} {
			require.Equal(t, "ended", b.over(o.OrderID).State)
		}
	})
}

// A reorg takes the payment away before the channel is funded: it is waited for
// again. One that takes the funding away leaves the order as it is: the
// transaction is sent again.
func TestLSPS1Reorgs(t *testing.T) {
	t.Parallel()
	virtual(t, func(t *testing.T) {
		b := newBuyer(t, 6, nil)
		b.w.Disconnect(b.gateway, b.wallet)
		b.w.Connect(b.gateway, b.wallet)
		o := b.order()
		b.w.Disconnect(b.gateway, b.wallet)
		b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat))
		b.pause(b.step)
		b.w.Mine(3)
		b.inState(o.OrderID, "paid")
		b.w.Reorg(3, false)
		b.inState(o.OrderID, "awaiting_payment")
		b.w.Mine(3)
		b.inState(o.OrderID, "paid")
		b.w.Connect(b.gateway, b.wallet)
		b.completed(o.OrderID)
		b.w.Mine(1)
		b.pause(b.step)
		b.w.Reorg(1, false)
		b.pause(b.step)
		require.Equal(t, ordering.WireCompleted, b.get(o.OrderID).State)
		b.w.Mine(200)
		require.Equal(t, "ended", b.over(o.OrderID).State, b.story(o.OrderID))
		require.Equal(t, int64(b.wish.ClientBalanceSat)*1000, b.gained(b.wallet))
	})
}

// A held payment goes back when the client's node refuses the channel, or stays
// away; and no channel is left.
func TestLSPS1HeldPaymentsGoBack(t *testing.T) {
	for name, day := range map[string]func(b *buyer){
		"refused": func(b *buyer) { words := "not today"; b.refusal.Store(&words) },
		"away":    func(b *buyer) { b.w.Disconnect(b.gateway, b.wallet) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(t *testing.T) {
				b := newBuyer(t, 7, nil)
				o := b.order()
				day(b)
				m := b.outcome(b.pay(o.Payment.Bolt11.Invoice))
				require.Equal(t, lnrpc.Payment_FAILED, m.Status)
				b.w.Connect(b.gateway, b.wallet)
				o = b.until(o.OrderID, false, "refunded", func(o lsps1.Order) bool {
					return o.State == ordering.WireFailed && o.Payment.Bolt11.State == ordering.Refunded
				})
				require.Nil(t, o.Channel)
				require.Equal(t, "failed", b.over(o.OrderID).State)
				require.Zero(t, b.gained(b.payer))
				require.Zero(t, b.channels())
			})
		})
	}
}

// ending are the orders that an operator sees as nearly over, in the list and in
// the metric.
func (b *buyer) ending() (ids []string) {
	b.t.Helper()
	got, err := b.service.Load().orders.FindOrders(b.ctx, &lspv1.FindOrdersRequest{LeaseEnding: true})
	require.NoError(b.t, err)
	for _, o := range got.Orders {
		ids = append(ids, o.OrderId)
	}
	return ids
}

// A lease that ends: the operator sees it, and the client, which is away, is told
// by its webhook, and again a day later. The channel is closed with the client's node,
// if the operator wants it.
func TestLSPS1LeaseEnds(t *testing.T) {
	var gateway ln.PubKey
	push := startPushService(t, &gateway)
	virtual(t, func(t *testing.T) {
		b := newBuyer(t, 8, func(c *Config) {
			c.LSP.Orders.CloseAtEnd, c.LSP.Orders.WarnBlocks = true, 30
			push.configure(c)
		})
		b.wish.ExpiryBlocks = 288
		var err error
		gateway, err = ln.ParsePubKey(b.gateway.PubKey())
		require.NoError(t, err)
		o := b.order()
		require.Equal(t, lnrpc.Payment_SUCCEEDED, b.outcome(b.pay(o.Payment.Bolt11.Invoice)).Status)
		o = b.completed(o.OrderID)
		b.w.Mine(1)
		b.pause(b.step)
		_, err = b.lsps.Call(b.ctx, lsps5.MethodSetWebhook, lsps5.SetRequest{AppName: "app", Webhook: push.url})
		require.NoError(t, err)
		require.Equal(t, string(lsps5.Body(lsps5.WebhookRegistered)), push.hears(t))
		b.w.Mine(250)
		b.pause(b.step)
		require.Equal(t, 1, b.channels(), "the lease runs")
		require.Empty(t, b.ending())
		b.w.Disconnect(b.gateway, b.wallet)
		b.pause(time.Second)
		require.Empty(t, push.told)
		b.w.Mine(10)
		request := string(lsps5.Body(lsps5.LiquidityManagementRequest))
		require.Equal(t, request, push.hears(t))
		require.Equal(t, []string{o.OrderID}, b.ending())
		b.w.Mine(20)
		b.pause(10 * time.Minute)
		require.Empty(t, push.told, "it was told today")
		b.pause(time.Until(time.Time(o.Channel.ExpiresAt)))
		b.w.Mine(60)
		b.inState(o.OrderID, "closing")
		require.Equal(t, 1, b.channels(), "a client that is away is waited for, never forced")
		require.Empty(t, push.told)
		b.w.Mine(100)
		require.Equal(t, request, push.hears(t), "a day later")
		require.Equal(t, []string{o.OrderID}, b.ending())
		b.w.Connect(b.gateway, b.wallet)
		b.pause(b.step)
		b.w.Mine(1)
		b.closed = true
		require.Equal(t, "ended", b.over(o.OrderID).State, b.story(o.OrderID))
		require.Zero(t, b.channels())
		require.Empty(t, b.ending())
		require.Empty(t, push.told)
	})
}

// payFinal pays with a transaction that says that it will not be replaced.
func (b *buyer) payFinal(address string, sat ln.Sat) {
	b.t.Helper()
	require.NoError(b.t, b.w.SendFinal(b.payer, address, int64(sat)))
}

// inState waits until the order's machine is in a state.
func (b *buyer) inState(id, state string) {
	b.t.Helper()
	for range 200 {
		if s := b.service.Load(); s != nil {
			shown, err := s.orders.ShowOrder(b.ctx, &lspv1.ShowOrderRequest{OrderId: id})
			if err == nil && shown.Order.State == state {
				return
			}
		}
		b.pause(b.step)
	}
	b.t.Fatalf("the order is not %s\n%s", state, b.story(id))
}

// orderCrashRun plays an order that is paid in one way or the other, with sluiced
// dying at a commit, and gives the number of commits.
func orderCrashRun(t *testing.T, postgres, onChain bool, n int64, p storetest.Point) int64 {
	b := newBuyerOn(t, 9, postgres, nil)
	began := b.faults.Commits()
	if n > 0 {
		b.crashAt(n, p)
	}
	o := b.order()
	var paid <-chan *lnrpc.Payment
	refunds := 0
	if onChain {
		refunds = 1
		// Too much, so that a refund is part of it.
		b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat)+20_000)
		b.pause(b.step)
		b.w.Mine(3)
	} else {
		paid = b.pay(o.Payment.Bolt11.Invoice)
		require.Equal(t, lnrpc.Payment_SUCCEEDED, b.outcome(paid).Status, b.story(o.OrderID))
	}
	b.until(o.OrderID, true, "completed", func(o lsps1.Order) bool { return o.State == ordering.WireCompleted })
	b.buried(o.OrderID, refunds)
	commits := b.faults.Commits() - began
	b.calm()
	b.balanced(o.OrderID)
	require.LessOrEqual(t, b.channels(), 1, "one channel for one order")
	want := int64(b.wish.ClientBalanceSat) * 1000
	if onChain {
		got := b.gained(b.wallet) - want
		require.Less(t, got, int64(20_000_000))
		require.Greater(t, got, int64(15_000_000), b.story(o.OrderID))
	} else {
		require.Equal(t, want, b.gained(b.wallet), b.story(o.OrderID))
	}
	return commits
}

// buried waits until the order's channel and its refunds, of which there are so many at
// least, are in blocks that stay. What was paid too much goes back once the order has seen
// its channel buried, which may be after the opening has, and several blocks later.
func (b *buyer) buried(id string, refunds int) {
	b.t.Helper()
	for range 200 {
		b.w.Mine(1)
		b.pause(b.step)
		s := b.service.Load()
		if s == nil || len(b.w.Mempool()) > 0 {
			continue
		}
		shown, err := s.orders.ShowOrder(b.ctx, &lspv1.ShowOrderRequest{OrderId: id})
		if err != nil || shown.Order.LeaseEndHeight == 0 {
			continue
		}
		over := len(shown.Refunds) >= refunds
		for _, o := range shown.Openings {
			over = over && o.Terminal
		}
		for _, r := range shown.Refunds {
			over = over && r.Terminal
		}
		if tip := b.w.Height(); over && tip >= shown.Order.LeaseEndHeight-b.wish.ExpiryBlocks+8 {
			return
		}
	}
	b.t.Fatalf("the order does not come to rest\n%s", b.story(id))
}

// TestLSPS1CrashAtEveryCommit kills sluiced before and after each commit of an
// order: the client gets its one channel, and what it paid too much. An order
// whose answer was lost is made again and is not paid.
func TestLSPS1CrashAtEveryCommit(t *testing.T) {
	drawn := drawnSeed(t)
	for name, onChain := range map[string]bool{"lightning": false, "onchain": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var commits int64
			virtual(t, func(t *testing.T) { commits = orderCrashRun(t, false, onChain, 0, 0) })
			require.Greater(t, commits, int64(10))
			for n := int64(1); n <= commits; n++ {
				points := []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit}
				if runs(0) == 0 {
					// Each commit at one side, which the seed chooses; at both with SLUICE_RUNS.
					side := (uint64(n) + drawn) % 2 //nolint:gosec // a count
					points = points[side : side+1]
				}
				for _, point := range points {
					t.Run(fmt.Sprintf("%s-%d", point, n), func(t *testing.T) {
						virtual(t, func(t *testing.T) { orderCrashRun(t, false, onChain, n, point) })
					})
				}
			}
		})
	}
}

// TestLSPS1RandomDays draws what goes wrong: sluiced dies at commits, the client's
// node goes and comes, its node refuses, blocks leave the chain, the payment is too
// small, too large or late. Whatever comes, the client ends with its balance in
// one channel, or with its money back less the fees of refunds, and the books agree.
func TestLSPS1RandomDays(t *testing.T) {
	drawn := drawnSeed(t)
	for n := range runs(8) {
		s := drawn + uint64(n) //nolint:gosec // a count
		t.Run(fmt.Sprintf("seed-%d", s), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(t *testing.T) { randomOrderDay(t, s) })
		})
	}
}

func randomOrderDay(t *testing.T, seed uint64) {
	t.Logf("seed %d", seed)
	b := newBuyer(t, seed, func(c *Config) {
		if seed%3 == 0 {
			c.LSP.Orders.ZeroConf, c.LSP.Orders.ZeroConfAll = config.Sat(1_000_000), config.Sat(1_000_000)
		}
	})
	o := b.order()
	onChain := b.rng.IntN(2) == 0
	trouble := func() {
		switch b.rng.IntN(8) {
		case 0:
			b.crashAt(1+b.rng.Int64N(12), []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit}[b.rng.IntN(2)])
		case 1:
			b.w.Disconnect(b.gateway, b.wallet)
		case 2:
			b.w.Connect(b.gateway, b.wallet)
		case 3:
			words := []string{"", "", "not today"}[b.rng.IntN(3)]
			b.refusal.Store(&words)
		case 4:
			b.w.Reorg(1+b.rng.IntN(3), b.rng.IntN(2) == 0)
		case 5, 6:
			b.w.Mine(1 + b.rng.IntN(2))
		case 7:
			b.pause(time.Duration(b.rng.IntN(4)) * time.Minute)
		}
		b.pause(time.Duration(b.rng.IntN(2000)) * time.Millisecond)
	}
	var paid <-chan *lnrpc.Payment
	if onChain {
		sat := int64(o.Payment.OnChain.TotalSat) + []int64{0, 0, 0, -1_000, 40_000}[b.rng.IntN(5)]
		if b.rng.IntN(5) == 0 {
			b.pause(9 * time.Minute)
		}
		require.NoError(t, b.w.SendFinal(b.payer, o.Payment.OnChain.Address, sat))
	} else {
		paid = b.pay(o.Payment.Bolt11.Invoice)
	}
	for range 4 + b.rng.IntN(12) {
		trouble()
	}
	b.calm()
	words := ""
	b.refusal.Store(&words)
	b.w.Connect(b.gateway, b.wallet)
	if paid != nil {
		m := b.outcome(paid)
		state := b.until(o.OrderID, true, "decided", func(o lsps1.Order) bool { return o.State != ordering.WireCreated })
		require.Equal(t, m.Status == lnrpc.Payment_SUCCEEDED, state.State == ordering.WireCompleted, b.story(o.OrderID))
	}
	shown := b.over(o.OrderID)
	detail, err := b.service.Load().orders.ShowOrder(b.ctx, &lspv1.ShowOrderRequest{OrderId: o.OrderID})
	require.NoError(t, err)
	want := int64(0)
	for _, r := range detail.Refunds {
		if r.State == "void" {
			// Blocks left the chain for so long that it was taken up anew.
			continue
		}
		require.Equal(t, "returned", r.State, b.story(o.OrderID))
		want += int64(r.OwedSat) - int64(r.FeeSat)
	}
	channels := 0
	for _, x := range detail.Openings {
		if x.State == "buried" {
			channels++
		}
	}
	switch shown.State {
	case "ended":
		require.Equal(t, 1, channels, b.story(o.OrderID))
		want += int64(b.wish.ClientBalanceSat)
	case "failed":
		require.Zero(t, channels, b.story(o.OrderID))
		if onChain {
			require.NotEmpty(t, detail.Refunds, b.story(o.OrderID))
		}
	default:
		t.Fatalf("it ended as %s\n%s", shown.State, b.story(o.OrderID))
	}
	require.Equal(t, want*1000, b.gained(b.wallet), b.story(o.OrderID))
	leases, err := b.walletKit(b.gateway).ListLeases(b.ctx, &walletrpc.ListLeasesRequest{})
	require.NoError(t, err)
	require.Empty(t, leases.LockedUtxos, b.story(o.OrderID))
}

// The channel that brought an order's payment goes on chain while the client's node stays
// away, or while its channel is negotiated. Nothing is opened for it: on chain a claim
// costs a transaction, and parts too small for one are nobody's. The invoice is lnd's to
// call accepted all the same.
func TestLSPS1IncomingChannelClosed(t *testing.T) {
	for name, when := range map[string]func(b *buyer, o lsps1.Order) <-chan *lnrpc.Payment{
		"before the client comes": func(b *buyer, o lsps1.Order) <-chan *lnrpc.Payment {
			b.w.Disconnect(b.gateway, b.wallet)
			paid := b.payOverFirst(o.Payment.Bolt11.Invoice)
			b.pause(time.Second)
			b.closePayersFirst()
			b.pause(time.Second)
			b.w.Mine(4)
			b.pause(5 * time.Second)
			b.w.Connect(b.gateway, b.wallet)
			return paid
		},
		"before it is signed": func(b *buyer, o lsps1.Order) <-chan *lnrpc.Payment {
			var once sync.Once
			b.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
				if c.Node == b.gateway.Name() && c.Method == "/lnrpc.Lightning/FundingStateStep" && c.Phase == lndfake.BeforeCall {
					once.Do(func() {
						b.closePayersFirst()
						time.Sleep(time.Second)
						b.w.Mine(4)
						time.Sleep(5 * time.Second)
					})
				}
				return lndfake.Pass
			})
			return b.payOverFirst(o.Payment.Bolt11.Invoice)
		},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				b := newBuyer(t, 9, nil)
				o := b.order()
				paid := when(b, o)
				o = b.until(o.OrderID, true, "failed", func(o lsps1.Order) bool { return o.State == ordering.WireFailed })
				require.Nil(t, o.Channel)
				open, err := b.ln(b.gateway).ListChannels(b.ctx, &lnrpc.ListChannelsRequest{})
				require.NoError(t, err)
				require.Empty(t, open.Channels, "the gateway has forgotten what it did not sign")
				for range 60 {
					b.w.Mine(10)
					b.pause(2 * time.Second)
				}
				require.Equal(t, lnrpc.Payment_FAILED, b.outcome(paid).Status)
				require.GreaterOrEqual(t, b.w.Wealth(b.gateway).TotalMsat(), b.before[b.gateway], "the gateway lost money")
			})
		})
	}
}
