//go:build itest

package itest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
	"github.com/sluice-lsp/sluice/lsp/order"
)

// fundedEarlier puts the funding of an order's channel, and with it the end of its lease,
// so much further into the past, in the database of a sluiced that is dead. A lease lasts
// ten minutes of real time for every block at the least, and the sluiced that is shipped
// takes its time from the machine and from nothing else: to the rules that compare with
// the clock a date that was moved back is a clock that was moved on.
func (sc *scene) fundedEarlier(ctx context.Context, id string, by time.Duration) {
	sc.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(sc.s.Dir, "sluice.db")+"?_pragma=busy_timeout(10000)")
	require.NoError(sc.t, err)
	const which = " WHERE machine = $1 AND id = $2"
	var data string
	require.NoError(sc.t, db.QueryRowContext(ctx, "SELECT data FROM fsm_instances"+which, order.Name, id).Scan(&data))
	var stored map[string]json.RawMessage
	require.NoError(sc.t, json.Unmarshal([]byte(data), &stored))
	var ch order.Channel
	require.NoError(sc.t, json.Unmarshal(stored["channel"], &ch))
	ch.FundedAt, ch.ExpiresAt = ch.FundedAt.Add(-by), ch.ExpiresAt.Add(-by)
	stored["channel"], err = json.Marshal(ch)
	require.NoError(sc.t, err)
	changed, err := json.Marshal(stored)
	require.NoError(sc.t, err)
	_, err = db.ExecContext(ctx, "UPDATE fsm_instances SET data = $3"+which, order.Name, id, string(changed))
	require.NoError(sc.t, err)
	require.NoError(sc.t, db.Close())
}

// soon waits until something is so, and no longer than after an outage.
func (sc *scene) soon(ctx context.Context, what string, cond func(context.Context) (bool, error)) {
	sc.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, afterOutage)
	defer cancel()
	require.NoError(sc.t, devnet.WaitFor(ctx, what, cond))
}

// order is an order as its operator sees it.
func (sc *scene) order(ctx context.Context, id string) *lspv1.Order {
	sc.t.Helper()
	got, err := sc.op.orders.ShowOrder(ctx, &lspv1.ShowOrderRequest{OrderId: id})
	require.NoError(sc.t, err)
	return got.Order
}

// orderIn waits until an order's machine is in a state.
func (sc *scene) orderIn(ctx context.Context, id, state string) {
	sc.t.Helper()
	var last *lspv1.ShowOrderResponse
	wait, cancel := context.WithTimeout(ctx, afterOutage)
	defer cancel()
	err := devnet.WaitFor(wait, "the order to be "+state, func(ctx context.Context) (bool, error) {
		got, err := sc.op.orders.ShowOrder(ctx, &lspv1.ShowOrderRequest{OrderId: id})
		if err != nil {
			return false, err
		}
		last = got
		return got.Order.State == state, nil
	})
	require.NoError(sc.t, err, "%v\n%s", last.GetOrder(), orderStory(last))
}

func orderStory(seen *lspv1.ShowOrderResponse) string {
	return storyText(&lspv1.ShowPaymentResponse{Payment: &lspv1.Payment{State: seen.GetOrder().GetState(), Reason: seen.GetOrder().GetReason()}, Story: seen.GetStory()})
}

// ending are the orders that an operator sees as nearly over.
func (sc *scene) ending(ctx context.Context) (ids []string) {
	sc.t.Helper()
	got, err := sc.op.orders.FindOrders(ctx, &lspv1.FindOrdersRequest{LeaseEnding: true})
	require.NoError(sc.t, err)
	for _, o := range got.Orders {
		ids = append(ids, o.OrderId)
	}
	return ids
}

// mineTo makes blocks up to a height.
func (sc *scene) mineTo(ctx context.Context, height int64) {
	sc.t.Helper()
	tip, err := sc.Miner().Height(ctx)
	require.NoError(sc.t, err)
	require.Less(sc.t, tip, height)
	require.NoError(sc.t, sc.Mine(ctx, int(height-tip)))
}

// channelOf is the channel at a funding outpoint as a node lists it, or nil.
func channelOf(ctx context.Context, t *testing.T, n *devnet.Node, outpoint string) *lnrpc.Channel {
	t.Helper()
	list, err := n.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(t, err)
	for _, c := range list.Channels {
		if c.ChannelPoint == outpoint {
			return c
		}
	}
	return nil
}

// spends demands that the wallet can pay somebody over a channel.
func (b *orderer) spends(ctx context.Context, outpoint string) {
	b.t.Helper()
	b.waitActive(ctx, b.Wallet)
	c := channelOf(ctx, b.t, b.Wallet, outpoint)
	require.NotNil(b.t, c)
	b.soon(ctx, "the wallet to pay over its channel", func(ctx context.Context) (bool, error) {
		// What failed a moment ago, while sluiced started, is tried again.
		forget(ctx, b.t, b.Wallet)
		inv, err := b.Payer.LN.AddInvoice(ctx, &lnrpc.Invoice{Value: 5_000})
		if err != nil {
			return false, err
		}
		p, err := b.Wallet.Send(ctx, sendOver(inv.PaymentRequest, c.ChanId))
		return err == nil && p.Status == lnrpc.Payment_SUCCEEDED, err
	})
}

// buys has the wallet buy a channel that it can use at once, over Lightning, and waits
// until its lease has begun. It gives the order and the height at which the lease ends.
func (b *orderer) buys(ctx context.Context, wish order.Wish) (lsps1.Order, int64) {
	b.t.Helper()
	before := b.p.channels(ctx)
	o := b.buy(ctx, lsps1.CreateOrderRequest{Wish: wish})
	b.paid(b.pay(ctx, o.Payment.Bolt11.Invoice), afterOutage)
	o = b.until(ctx, o.OrderID, func(o lsps1.Order) bool {
		return o.State == order.WireCompleted && o.Payment.Bolt11.State == order.PaymentPaid
	})
	b.owns(ctx, o, before, wish.ClientBalanceSat)
	require.Equal(b.t, time.Duration(wish.ExpiryBlocks)*10*time.Minute, time.Time(o.Channel.ExpiresAt).Sub(time.Time(o.Channel.FundedAt)))
	require.NoError(b.t, b.Mine(ctx, 1))
	var ends uint32
	b.soon(ctx, "the lease to begin", func(ctx context.Context) (bool, error) {
		ends = b.order(ctx, o.OrderID).LeaseEndHeight
		return ends > 0, nil
	})
	return o, int64(ends)
}

// TestLSPS1LeaseOnStockLnd: leases end on real nodes, as sluiced's operator wants it. A
// channel stays and is used on; another is closed with its client's node, after a
// warning, not before expires_at, not with an HTLC under way and not while the client is
// away.
func TestLSPS1LeaseOnStockLnd(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	const lease, warn = 20, 8
	push := startPush(t)
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	sc := sceneWith(ctx, t, net, append(lnd.GatewayRights(), lnd.ClosingRights()...), devnet.SluicedConfig{Settings: unlimited(map[string]string{
		"lsp.orders.lease_warning_blocks": "8", "lsps.webhooks.ca_file": push.caFile, "lsps.webhooks.allow_networks": "127.0.0.0/8",
	})})
	b := newOrderer(ctx, t, sc)
	wish := order.Wish{LspBalanceSat: 400_000, ClientBalanceSat: 50_000, ConfirmWithin: 6, ExpiryBlocks: lease}
	const day = lease * 10 * time.Minute

	// The operator lets channels stay, which is the default.
	kept, ends := b.buys(ctx, wish)
	b.call(ctx, lsps5.MethodSetWebhook, lsps5.SetRequest{AppName: "app", Webhook: push.url + sc.Gateway.PubKey})
	push.hears(ctx, t, lsps5.WebhookRegistered)
	sc.mineTo(ctx, ends+2)
	sc.soon(ctx, "the operator to see the end", func(ctx context.Context) (bool, error) {
		return slices.Contains(sc.ending(ctx), kept.OrderID), nil
	})
	require.Equal(t, "active", sc.order(ctx, kept.OrderID).State, "expires_at has not come, however fast blocks do")
	require.NoError(t, sc.s.Kill())
	sc.fundedEarlier(ctx, kept.OrderID, day)
	require.NoError(t, sc.s.Start(ctx))
	require.NoError(t, sc.Mine(ctx, 1))
	sc.orderIn(ctx, kept.OrderID, "ended")
	require.Contains(t, sc.order(ctx, kept.OrderID).Reason, "stays open")
	require.Empty(t, sc.ending(ctx))
	b.spends(ctx, kept.Channel.Outpoint)

	// The operator has them closed.
	require.NoError(t, sc.s.Kill())
	sc.s.SetArgs(append(sc.s.Args(), "--set", "lsp.orders.close_at_lease_end=true")...)
	require.NoError(t, sc.s.Start(ctx))
	sc.waitActive(ctx, sc.Wallet)
	o, ends := b.buys(ctx, wish)
	sc.mineTo(ctx, ends-warn-1)
	require.Empty(t, sc.ending(ctx), "the lease runs")
	require.Empty(t, push.told)
	b.p.goOffline(ctx)
	sc.mineTo(ctx, ends-warn)
	push.hears(ctx, t, lsps5.LiquidityManagementRequest)
	require.Equal(t, []string{o.OrderID}, sc.ending(ctx))
	b.p.comeOnline(ctx)
	sc.waitActive(ctx, sc.Wallet)

	// The client pays somebody over the channel who takes his time.
	var preimage ln.Preimage
	_, err := rand.Read(preimage[:])
	require.NoError(t, err)
	hash := preimage.Hash()
	hold, err := sc.Payer.Invoices.AddHoldInvoice(ctx, &invoicesrpc.AddHoldInvoiceRequest{Hash: hash[:], Value: 10_000})
	require.NoError(t, err)
	sent := make(chan outcome, 1)
	bought := channelOf(ctx, t, sc.Wallet, o.Channel.Outpoint)
	require.NotNil(t, bought)
	go func() {
		for {
			payment, err := sc.Wallet.Send(ctx, sendOver(hold.PaymentRequest, bought.ChanId))
			// A link that has just come up has nothing to send with for a moment.
			if err != nil || payment.FailureReason != lnrpc.PaymentFailureReason_FAILURE_REASON_INSUFFICIENT_BALANCE {
				sent <- outcome{payment: payment, err: err}
				return
			}
		}
	}()
	sc.soon(ctx, "the payment to arrive", func(ctx context.Context) (bool, error) {
		got, err := sc.Payer.LN.LookupInvoice(ctx, &lnrpc.PaymentHash{RHash: hash[:]})
		return err == nil && got.State == lnrpc.Invoice_ACCEPTED, err
	})
	sc.mineTo(ctx, ends+2)
	require.Equal(t, "active", sc.order(ctx, o.OrderID).State, "expires_at has not come")
	require.NoError(t, sc.s.Kill())
	sc.fundedEarlier(ctx, o.OrderID, day)
	require.NoError(t, sc.s.Start(ctx))
	require.NoError(t, sc.Mine(ctx, 1))
	sc.orderIn(ctx, o.OrderID, "closing")
	for range 2 {
		require.NoError(t, sc.Mine(ctx, 1))
		sc.orderIn(ctx, o.OrderID, "closing")
	}
	require.NotNil(t, channelOf(ctx, t, sc.Gateway, o.Channel.Outpoint), "an HTLC is under way")

	// It is resolved while the client is away, who is waited for.
	b.p.goOffline(ctx)
	_, err = sc.Payer.Invoices.SettleInvoice(ctx, &invoicesrpc.SettleInvoiceMsg{Preimage: preimage[:]})
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, sc.Mine(ctx, 1))
		sc.orderIn(ctx, o.OrderID, "closing")
	}
	require.NotNil(t, channelOf(ctx, t, sc.Gateway, o.Channel.Outpoint), "a client that is away is waited for, never forced")
	require.Equal(t, []string{o.OrderID}, sc.ending(ctx))
	onchain := onChainSat(ctx, t, sc.Wallet)
	b.p.comeOnline(ctx)
	ended := sc.ended(sent, afterOutage)
	require.Equal(t, lnrpc.Payment_SUCCEEDED, ended.payment.Status, ended.payment.FailureReason)
	left := int64(wish.ClientBalanceSat) - 10_000 - (ended.payment.FeeMsat+999)/1000
	_, err = sc.Miner().MineUntil(ctx, "the order to end", 30, func(context.Context) (bool, error) {
		require.NoError(t, sc.WaitSynced(ctx))
		wait, stop := context.WithTimeout(ctx, 2*time.Second)
		defer stop()
		return devnet.WaitFor(wait, "the order to end", func(context.Context) (bool, error) {
			return sc.order(ctx, o.OrderID).State == "ended", nil
		}) == nil, nil
	})
	require.NoError(t, err)
	require.NoError(t, sc.Mine(ctx, 6))
	closed, err := sc.Gateway.LN.ClosedChannels(ctx, &lnrpc.ClosedChannelsRequest{})
	require.NoError(t, err)
	require.Len(t, closed.Channels, 1, "the other order's channel stays")
	require.Equal(t, o.Channel.Outpoint, closed.Channels[0].ChannelPoint)
	require.Equal(t, lnrpc.ChannelCloseSummary_COOPERATIVE_CLOSE, closed.Channels[0].CloseType)
	// Each side may propose the transaction that it pays for.
	require.NotEqual(t, lnrpc.Initiator_INITIATOR_REMOTE, closed.Channels[0].CloseInitiator)
	// Each proposes a transaction of which it pays the fee (BOLT 2, option_simple_close);
	// whichever is mined, the client has its balance.
	closing, err := chainhash.NewHashFromStr(closed.Channels[0].ClosingTxHash)
	require.NoError(t, err)
	tx, _, err := sc.Miner().Tx(ctx, *closing)
	require.NoError(t, err)
	fee := closed.Channels[0].Capacity
	for _, out := range tx.TxOut {
		fee -= out.Value
	}
	var back int64
	sc.soon(ctx, "the client to have its balance on chain", func(context.Context) (bool, error) {
		back = onChainSat(ctx, t, sc.Wallet) - onchain
		return back > 0, nil
	})
	t.Logf("of %d sat the client has %d on chain; the closing transaction paid %d", left, back, fee)
	require.Contains(t, []int64{left, left - fee}, back)
	require.NotNil(t, channelOf(ctx, t, sc.Gateway, kept.Channel.Outpoint))
	require.Empty(t, sc.ending(ctx))
	require.Empty(t, push.told, "it is told once a day")
	require.Empty(t, b.client.Odd())
	require.True(t, strings.HasPrefix(sc.order(ctx, o.OrderID).Reason, "the lease is over"), sc.order(ctx, o.OrderID).Reason)
	sc.op.waitBalanced(ctx)
}
