package app

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	ordering "github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/peerrpc/peerrpctest"
)

// crowd are clients of one gateway whose orders can wait.
type crowd struct {
	*buyer
	guests []*guest
	// payAgain: a payment that failed because the gateway's node was away is made again.
	payAgain bool
}

// guest is one client with a node of its own.
type guest struct {
	name    string
	node    *lndfake.Node
	client  *lnd.Client
	lsps    *peerrpctest.Client
	before  int64
	refusal atomic.Pointer[string]
	// order is what it ordered, and paid is how the payer's payment for it goes.
	order lsps1.Order
	paid  <-chan *lnrpc.Payment
}

func newCrowd(t *testing.T, seed uint64, postgres bool, clients int, configure func(*Config)) *crowd {
	t.Helper()
	c := &crowd{buyer: newBuyerOn(t, seed, postgres, configure)}
	c.wish.RequiredConfs, c.wish.ConfirmWithin = 1, 24
	gateway, err := ln.ParsePubKey(c.gateway.PubKey())
	require.NoError(t, err)
	for i := range clients {
		g := &guest{name: fmt.Sprintf("client-%d", i)}
		g.node, err = c.w.AddNode(g.name, lndfake.NodeConfig{MaxPendingChannels: 2})
		require.NoError(t, err)
		c.conns[g.node], err = g.node.Dial()
		require.NoError(t, err)
		c.w.Connect(c.gateway, g.node)
		g.before = c.w.Wealth(g.node).TotalMsat()
		g.client = c.dial(g.node)
		var acting sync.WaitGroup
		acting.Go(func() {
			for c.ctx.Err() == nil {
				_ = g.client.RunAcceptor(c.ctx, func(p ln.OpenProposal) ln.AcceptVerdict {
					if words := g.refusal.Load(); words != nil {
						return ln.AcceptVerdict{Refusal: *words}
					}
					return ln.AcceptVerdict{Accept: true, ZeroConf: p.WantsZeroConf}
				})
				c.pause(20 * time.Millisecond)
			}
		})
		g.lsps = peerrpctest.New(g.client, gateway)
		acting.Go(func() { g.lsps.Run(c.ctx) })
		c.running.Go(func() {
			acting.Wait()
			_ = g.client.Close()
		})
		c.guests = append(c.guests, g)
	}
	return c
}

// ask makes a guest's call, however often sluiced dies meanwhile.
func (c *crowd) ask(g *guest, method string, params any) lsps1.Order {
	c.t.Helper()
	var last error
	for range 200 {
		raw, err := g.lsps.Call(c.ctx, method, params)
		if err == nil {
			o, err := lsps1.ReadOrder(raw)
			require.NoError(c.t, err, string(raw))
			return o
		}
		last = err
		c.pause(c.step)
	}
	c.t.Fatalf("%s: no answer: %v", g.name, last)
	return lsps1.Order{}
}

// buy has a guest order, and its order paid over Lightning or on chain.
func (c *crowd) buy(g *guest, onChain bool) {
	c.t.Helper()
	g.order = c.ask(g, lsps1.MethodCreateOrder, lsps1.CreateOrderRequest{Wish: c.wish, RefundAddress: c.refund})
	if onChain {
		c.payOnChain(g.order.Payment.OnChain.Address, ln.Sat(g.order.Payment.OnChain.TotalSat))
		c.pause(c.step)
		c.w.Mine(3)
		return
	}
	g.paid = c.pay(g.order.Payment.Bolt11.Invoice)
}

func (c *crowd) await(g *guest, mine bool, state ordering.OrderState) {
	c.t.Helper()
	for i := range 600 {
		g.order = c.ask(g, lsps1.MethodGetOrder, lsps1.GetOrderRequest{OrderID: g.order.OrderID})
		if g.order.State == state {
			return
		}
		if c.payAgain {
			select {
			case m := <-g.paid:
				if m.Status == lnrpc.Payment_FAILED {
					g.paid = c.pay(g.order.Payment.Bolt11.Invoice)
					continue
				}
				// It was completed since the order was asked for.
				known := make(chan *lnrpc.Payment, 1)
				known <- m
				g.paid = known
			default:
			}
		}
		c.pause(c.step)
		if mine && i%10 == 9 {
			c.w.Mine(1)
		}
	}
	c.t.Fatalf("%s's order is not %s: %+v\n%s", g.name, state, g.order, c.story(g.order.OrderID))
}

// funded is the transaction that funds a guest's channel.
func (g *guest) funded(t *testing.T) ln.TxID {
	t.Helper()
	require.NotNil(t, g.order.Channel, g.name)
	op, err := ln.ParseOutpoint(g.order.Channel.Outpoint)
	require.NoError(t, err)
	return op.TxID
}

// shared says that these guests' channels have one funding transaction.
func (c *crowd) shared(guests ...*guest) {
	c.t.Helper()
	for _, g := range guests {
		require.Equal(c.t, guests[0].funded(c.t), g.funded(c.t), "%s\n%s", g.name, c.story(g.order.OrderID))
	}
}

// rest waits until nothing moves any more, and holds it against what must be: every
// guest of these has its one channel with its balance, to the satoshi, the books
// balance, and no coin is kept.
func (c *crowd) rest(served ...*guest) {
	t := c.t
	t.Helper()
	c.w.OnRPC(nil)
	var why string
	for i := range 400 {
		for _, n := range c.nodes() {
			require.NoError(t, n.Start())
		}
		c.w.Connect(c.payer, c.gateway)
		for _, g := range c.guests {
			require.NoError(t, g.node.Start())
			c.w.Connect(c.gateway, g.node)
		}
		if why = c.unsettled(served); why == "" {
			break
		}
		c.pause(c.step)
		if i%5 == 4 {
			c.w.Mine(1)
		}
	}
	require.Empty(t, why)
	require.NoError(t, c.w.Err())
	for _, g := range c.guests {
		list, err := c.ln(g.node).ListChannels(c.ctx, &lnrpc.ListChannelsRequest{ActiveOnly: true})
		require.NoError(t, err)
		want := 0
		for _, s := range served {
			if s == g {
				want = 1
			}
		}
		require.Len(t, list.Channels, want, "%s\n%s", g.name, c.story(g.order.OrderID))
		require.Equal(t, int64(want)*int64(c.wish.ClientBalanceSat)*1000, c.w.Wealth(g.node).TotalMsat()-g.before, g.name)
		if g.paid == nil {
			continue
		}
		status := lnrpc.Payment_FAILED
		if want == 1 {
			status = lnrpc.Payment_SUCCEEDED
		}
		require.Equal(t, status, c.outcome(g.paid).Status, "%s\n%s", g.name, c.story(g.order.OrderID))
	}
	c.balanced(served[0].order.OrderID)
	own, err := c.ln(c.gateway).ListChannels(c.ctx, &lnrpc.ListChannelsRequest{PrivateOnly: true})
	require.NoError(t, err)
	require.Len(t, own.Channels, len(served), "the gateway has no other channels of theirs")
	pending, err := c.ln(c.gateway).PendingChannels(c.ctx, &lnrpc.PendingChannelsRequest{})
	require.NoError(t, err)
	require.Empty(t, pending.PendingOpenChannels, "what was given up is forgotten")
}

// unsettled names something that is not at rest.
func (c *crowd) unsettled(served []*guest) string {
	if len(c.w.Mempool()) > 0 {
		return "transactions are unconfirmed"
	}
	s := c.service.Load()
	if s == nil {
		return "sluiced is away"
	}
	opens, err := s.operator.ListOpenings(c.ctx, &lspv1.ListOpeningsRequest{OpenOnly: true})
	if err != nil {
		return err.Error()
	}
	for _, o := range opens.Openings {
		return fmt.Sprintf("opening %s is %s (%s)", o.OpeningId, o.State, o.Reason)
	}
	for _, g := range served {
		shown, err := s.orders.ShowOrder(c.ctx, &lspv1.ShowOrderRequest{OrderId: g.order.OrderID})
		if err != nil {
			return err.Error()
		}
		if shown.Order.LeaseEndHeight == 0 {
			return fmt.Sprintf("%s's order is %s (%s)\n%s", g.name, shown.Order.State, shown.Order.Reason, c.story(g.order.OrderID))
		}
	}
	if c.restored.Load() {
		return ""
	}
	leases, err := walletrpc.NewWalletKitClient(c.conns[c.gateway]).ListLeases(c.ctx, &walletrpc.ListLeasesRequest{})
	if err != nil {
		return err.Error()
	}
	// The coins that paid for a channel are the order's until it is buried.
	for _, l := range leases.LockedUtxos {
		return fmt.Sprintf("coin %s is leased", l.Outpoint)
	}
	return ""
}

func batchesOf(n int) func(*Config) {
	return func(c *Config) { c.LSP.Orders.BatchOrders = n }
}

// onCall does something once, at the first call of this kind that the gateway's node
// is asked from then on.
// onCall does so once, at the first such call. Keeping the coins that pay an order is
// none: that may come at any time, before the order is batched.
func (c *crowd) onCall(phase lndfake.Phase, method string, do func()) {
	pays := make(map[[32]byte]bool)
	for _, g := range c.guests {
		pays[ordering.LeaseID(g.order.OrderID)] = true
	}
	var done atomic.Bool
	c.w.OnRPC(func(call lndfake.Call) lndfake.Verdict {
		if lease, ok := call.Message.(*walletrpc.LeaseOutputRequest); ok && pays[[32]byte(lease.Id)] {
			return lndfake.Pass
		}
		if call.Node == c.gateway.Name() && call.Method == method && call.Phase == phase && done.CompareAndSwap(false, true) {
			do()
		}
		return lndfake.Pass
	})
}

func (c *crowd) withdraw(g *guest) {
	for range 100 {
		if s := c.service.Load(); s != nil {
			if _, err := s.orders.WithdrawOrder(c.ctx, &lspv1.WithdrawOrderRequest{OrderId: g.order.OrderID, Reason: "enough"}); err == nil {
				return
			}
		}
		c.pause(c.step)
	}
}
