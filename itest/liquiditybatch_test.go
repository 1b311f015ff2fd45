//go:build itest

package itest

import (
	"context"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/order"
)

// TestLiquidityBatch: three clients on stock lnds whose orders can wait, paid over
// Lightning and on chain, have their channels from one transaction, over a kill -9 of
// sluiced while they wait. Of three more one goes away when it is asked: the others
// share one at once, and it has its channel once it is back. Everybody's money is right
// to the satoshi.
func TestLiquidityBatch(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{GatewayCoins: 4, GatewayCoinSat: 5_000_000})
	more, err := net.NewNodes(ctx, devnet.NodeSpec{Name: "second"}, devnet.NodeSpec{Name: "third"})
	require.NoError(t, err)
	for _, n := range more {
		require.NoError(t, net.Connect(ctx, n, net.Gateway))
	}
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{Settings: map[string]string{"lsp.orders.batch_orders": "3"}})
	require.NoError(t, err)
	op := newOperator(t, s)
	op.reconcile(ctx)
	var clients []*batchClient
	for _, n := range append([]*devnet.Node{net.Wallet}, more...) {
		w := newRawWallet(ctx, t, s, net.Gateway, n, true)
		address, err := n.LN.NewAddress(ctx, &lnrpc.NewAddressRequest{Type: lnrpc.AddressType_TAPROOT_PUBKEY})
		require.NoError(t, err)
		clients = append(clients, &batchClient{rawWallet: w, net: net, op: op, refund: address.Address, shop: lspv1.NewOrdersServiceClient(dialGateway(t, s, net.Gateway, w.key, w.lnd))})
	}

	onChain := walletTotal(ctx, t, net.Gateway)
	clients[0].buy(ctx, false)
	clients[1].buy(ctx, true)
	require.NoError(t, net.Mine(ctx, 3))
	for _, c := range clients[:2] {
		c.inState(ctx, "queued")
	}
	list, err := op.orders.ListBatches(ctx, &lspv1.ListBatchesRequest{})
	require.NoError(t, err)
	require.Len(t, list.Waiting, 2)
	require.Greater(t, list.Waiting[0].WaitsUntilHeight, list.Height)
	require.NoError(t, s.Kill())
	require.NoError(t, s.Start(ctx))
	clients[2].buy(ctx, false)
	for _, c := range clients {
		c.completed(ctx)
	}
	feeSat := sharedFunding(ctx, t, net, clients...)
	require.NoError(t, net.Mine(ctx, 8))
	for _, c := range clients {
		c.hasChannels(ctx, 1)
	}
	op.waitBalanced(ctx)
	// The gateway's coins went into three channels and the fee; the client that paid on
	// chain paid into its wallet, and the coin is the gateway's once the channel is buried.
	require.NoError(t, net.Mine(ctx, 8))
	want := onChain - 3*batchCapacity - feeSat + int64(clients[1].order.Payment.Onchain.OrderTotalSat) //nolint:gosec // a test's amount
	require.Eventually(t, func() bool { return walletTotal(ctx, t, net.Gateway) == want }, 30*time.Second, 200*time.Millisecond, "the gateway's wallet holds %d sat", want)

	// The third leaves when its node is asked for the channel.
	third := clients[2]
	away := func(*ln.AcceptVerdict) { _ = net.Disconnect(ctx, third.node, net.Gateway) }
	third.proposal.Store(&away)
	for _, c := range clients {
		c.buy(ctx, false)
	}
	for _, c := range clients[:2] {
		c.completed(ctx)
	}
	require.Equal(t, "CREATED", third.get(ctx).OrderState)
	sharedFunding(ctx, t, net, clients[:2]...)
	here := func(*ln.AcceptVerdict) {}
	third.proposal.Store(&here)
	require.NoError(t, net.Connect(ctx, third.node, net.Gateway))
	require.NoError(t, net.Mine(ctx, 6))
	third.completed(ctx)
	require.NotEqual(t, clients[0].fundedBy(), third.fundedBy())
	require.NoError(t, net.Mine(ctx, 6))
	for _, c := range clients {
		c.hasChannels(ctx, 2)
	}
	op.waitBalanced(ctx)
	list, err = op.orders.ListBatches(ctx, &lspv1.ListBatchesRequest{})
	require.NoError(t, err)
	require.Empty(t, list.Waiting)
	require.Len(t, list.Batches, 2)
	require.EqualValues(t, 2, list.Batches[0].Channels)
	require.Len(t, list.Batches[0].Openings, 3, "and the one that left")
	require.EqualValues(t, 3, list.Batches[1].Channels)
}

const (
	batchOwnSat   = 400_000
	batchPushSat  = 50_000
	batchCapacity = batchOwnSat + batchPushSat
)

// batchClient buys channels for its node.
type batchClient struct {
	*rawWallet
	net    *devnet.Standard
	op     *operator
	shop   lspv1.OrdersServiceClient
	refund string
	order  *lspv1.GetOrderResponse
}

func (c *batchClient) buy(ctx context.Context, onChain bool) {
	t := c.t
	t.Helper()
	made, err := c.shop.CreateOrder(ctx, &lspv1.CreateOrderRequest{
		LspBalanceSat: batchOwnSat, ClientBalanceSat: batchPushSat, RequiredChannelConfirmations: 1, FundingConfirmsWithinBlocks: 24,
		ChannelExpiryBlocks: 1000, RefundOnchainAddress: c.refund,
	})
	require.NoError(t, err)
	c.order = &lspv1.GetOrderResponse{OrderId: made.OrderId, Payment: made.Payment}
	if onChain {
		_, err := c.net.Payer.LN.SendCoins(ctx, &lnrpc.SendCoinsRequest{
			Addr: made.Payment.Onchain.Address, Amount: int64(made.Payment.Onchain.OrderTotalSat), SatPerVbyte: 3, SpendUnconfirmed: true, //nolint:gosec // a test's amount
		})
		require.NoError(t, err)
		return
	}
	paid := make(chan *lnrpc.Payment, 1)
	go func() {
		defer close(paid)
		if p, err := c.net.Payer.Pay(ctx, made.Payment.Bolt11.Invoice); err == nil {
			paid <- p
		}
	}()
	t.Cleanup(func() {
		if p := <-paid; p == nil || p.Status != lnrpc.Payment_SUCCEEDED {
			t.Errorf("the payment of order %s: %v", made.OrderId, p)
		}
	})
}

func (c *batchClient) get(ctx context.Context) *lspv1.GetOrderResponse {
	c.t.Helper()
	got, err := c.shop.GetOrder(ctx, &lspv1.GetOrderRequest{OrderId: c.order.OrderId})
	require.NoError(c.t, err)
	return got
}

func (c *batchClient) inState(ctx context.Context, state string) {
	c.t.Helper()
	var last *lspv1.Order
	require.Eventually(c.t, func() bool {
		shown, err := c.op.orders.ShowOrder(ctx, &lspv1.ShowOrderRequest{OrderId: c.order.OrderId})
		if err != nil {
			return false
		}
		last = shown.Order
		return last.State == state
	}, 60*time.Second, 100*time.Millisecond, "%s's order: %v", c.node.Name, &last)
}

// completed waits until the channel is funded and the payment taken.
func (c *batchClient) completed(ctx context.Context) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		got, err := c.shop.GetOrder(ctx, &lspv1.GetOrderRequest{OrderId: c.order.OrderId})
		if err != nil {
			return false
		}
		c.order = got
		return got.OrderState == string(order.WireCompleted) && got.Payment.Bolt11.State != string(order.Hold)
	}, 90*time.Second, 200*time.Millisecond, "%s's order: %v", c.node.Name, &c.order)
}

func (c *batchClient) fundedBy() ln.TxID {
	c.t.Helper()
	op, err := ln.ParseOutpoint(c.order.Channel.FundingOutpoint)
	require.NoError(c.t, err)
	return op.TxID
}

// hasChannels waits until the client's own node has so many channels in use, each with
// its balance.
func (c *batchClient) hasChannels(ctx context.Context, n int) {
	c.t.Helper()
	require.NoError(c.t, devnet.WaitFor(ctx, c.node.Name+" to have its channels", func(ctx context.Context) (bool, error) {
		list, err := c.node.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{ActiveOnly: true})
		if err != nil || len(list.Channels) != n {
			return false, err
		}
		for _, ch := range list.Channels {
			require.EqualValues(c.t, batchCapacity, ch.Capacity)
			require.EqualValues(c.t, batchPushSat, ch.LocalBalance)
		}
		return true, nil
	}))
}

// sharedFunding says that one transaction, in the mempool, funds these clients' channels
// and nobody else's, each with the output that its own node knows, and gives its fee.
func sharedFunding(ctx context.Context, t *testing.T, net *devnet.Standard, clients ...*batchClient) (feeSat int64) {
	t.Helper()
	id := clients[0].fundedBy()
	for _, c := range clients {
		require.Equal(t, id, c.fundedBy(), c.node.Name)
		pending, err := c.node.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
		require.NoError(t, err)
		require.Len(t, pending.PendingOpenChannels, 1)
		require.Equal(t, c.order.Channel.FundingOutpoint, pending.PendingOpenChannels[0].Channel.ChannelPoint)
	}
	require.NoError(t, net.Miner().WaitTxInMempool(ctx, chainhash.Hash(id)))
	tx, _, err := net.Miner().Tx(ctx, chainhash.Hash(id))
	require.NoError(t, err)
	require.Len(t, tx.TxOut, len(clients)+1, "their channels and the change")
	for _, o := range tx.TxOut {
		feeSat -= o.Value
	}
	for _, in := range tx.TxIn {
		from, _, err := net.Miner().Tx(ctx, in.PreviousOutPoint.Hash)
		require.NoError(t, err)
		feeSat += from.TxOut[in.PreviousOutPoint.Index].Value
	}
	list, err := clients[0].op.orders.ListBatches(ctx, &lspv1.ListBatchesRequest{})
	require.NoError(t, err)
	require.EqualValues(t, feeSat, list.Batches[0].FeeSat)
	require.EqualValues(t, len(clients)*batchCapacity, list.Batches[0].FundingSat)
	var parts uint64
	for _, o := range list.Batches[0].Openings {
		parts += o.ChainFeeSat
	}
	require.EqualValues(t, feeSat, parts, "the channels' parts make the fee")
	return feeSat
}

// walletTotal is what a node's wallet holds without what is leased.
func walletTotal(ctx context.Context, t *testing.T, n *devnet.Node) int64 {
	t.Helper()
	balance, err := n.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
	require.NoError(t, err)
	return balance.TotalBalance
}
