package app

import (
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	ordering "github.com/sluice-lsp/sluice/lsp/order"
)

// opens are the opens that were begun for an order.
func (b *buyer) opens(id string) []*lspv1.Opening {
	b.t.Helper()
	shown, err := b.service.Load().orders.ShowOrder(b.ctx, &lspv1.ShowOrderRequest{OrderId: id})
	require.NoError(b.t, err)
	return shown.Openings
}

// free demands that no coin of the gateway's is leased.
func (b *buyer) free(id string) {
	b.t.Helper()
	leases, err := b.walletKit(b.gateway).ListLeases(b.ctx, &walletrpc.ListLeasesRequest{})
	require.NoError(b.t, err)
	require.Empty(b.t, leases.LockedUtxos, b.story(id))
}

// The client's lnd is behind with its chain when its channel is proposed, and refuses it
// in words that say nothing. It is asked again: after a moment within the same open, and
// after a block if it takes longer. It has its one channel. One that stays behind has its
// money back, and one that says no is not asked twice.
func TestLSPS1ClientBehind(t *testing.T) {
	for name, day := range map[string]struct {
		onChain, fails bool
		// opens is how many are begun.
		opens int
		play  func(b *buyer, id string)
	}{
		"for a moment": {opens: 1, play: func(b *buyer, id string) {
			b.pause(4 * time.Second)
			b.wallet.HoldWallet(false)
			b.completed(id)
		}},
		"for a moment, paid on chain": {onChain: true, opens: 1, play: func(b *buyer, id string) {
			b.pause(4 * time.Second)
			b.wallet.HoldWallet(false)
			b.completed(id)
		}},
		"for a minute": {opens: 2, play: func(b *buyer, id string) {
			b.pause(time.Minute)
			require.Equal(b.t, ordering.Hold, b.get(id).Payment.Bolt11.State, b.story(id))
			b.wallet.HoldWallet(false)
			b.pause(time.Minute)
			b.inState(id, "paid")
			b.free(id)
			b.w.Mine(1)
			b.completed(id)
		}},
		"for a minute, and connects anew": {onChain: true, opens: 2, play: func(b *buyer, id string) {
			b.pause(time.Minute)
			b.wallet.HoldWallet(false)
			b.w.Disconnect(b.gateway, b.wallet)
			b.pause(b.step)
			b.w.Connect(b.gateway, b.wallet)
			b.completed(id)
		}},
		"for good": {fails: true, opens: 3, play: func(b *buyer, id string) {
			b.pause(time.Minute)
			b.w.Mine(1)
			b.pause(time.Minute)
			b.inState(id, "paid")
			b.w.Mine(1)
			b.failed(id)
		}},
		"for good, paid on chain": {onChain: true, fails: true, opens: 3, play: func(b *buyer, id string) {
			b.pause(time.Minute)
			b.w.Mine(1)
			b.pause(time.Minute)
			b.w.Mine(1)
			b.failed(id)
		}},
		"until the order is over": {fails: true, opens: 1, play: func(b *buyer, id string) {
			b.pause(5 * time.Minute)
			b.failed(id)
		}},
		"until the operator ends it": {onChain: true, fails: true, opens: 1, play: func(b *buyer, id string) {
			b.pause(4 * time.Second)
			b.inState(id, "opening")
			_, err := b.service.Load().orders.WithdrawOrder(b.ctx, &lspv1.WithdrawOrderRequest{OrderId: id, Reason: "enough"})
			require.NoError(b.t, err)
			b.failed(id)
		}},
		"and says no": {fails: true, opens: 1, play: func(b *buyer, id string) {
			b.refuseChannels("not today")
			b.wallet.HoldWallet(false)
			b.failed(id)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(t *testing.T) {
				b := newBuyer(t, 23, nil)
				o := b.order()
				var paid <-chan *lnrpc.Payment
				if day.onChain {
					b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat))
					b.pause(b.step)
					b.w.Mine(2)
					b.pause(b.step)
					b.wallet.HoldWallet(true)
					b.w.Mine(1)
				} else {
					b.wallet.HoldWallet(true)
					paid = b.pay(o.Payment.Bolt11.Invoice)
				}
				b.inState(o.OrderID, "opening")
				day.play(b, o.OrderID)
				opens := b.opens(o.OrderID)
				require.Len(t, opens, day.opens, b.story(o.OrderID))
				if paid != nil {
					want := lnrpc.Payment_SUCCEEDED
					if day.fails {
						want = lnrpc.Payment_FAILED
					}
					require.Equal(t, want, b.outcome(paid).Status, b.story(o.OrderID))
				}
				b.wallet.HoldWallet(false)
				b.pause(b.step)
				if day.fails {
					require.Zero(t, b.channels(), b.story(o.OrderID))
					b.w.Mine(6)
					require.Equal(t, "failed", b.over(o.OrderID).State, b.story(o.OrderID))
				} else {
					require.Equal(t, 1, b.channels(), b.story(o.OrderID))
					require.Equal(t, int64(b.wish.ClientBalanceSat)*1000, b.gained(b.wallet), b.story(o.OrderID))
					b.w.Mine(200)
					require.Equal(t, "ended", b.over(o.OrderID).State, b.story(o.OrderID))
				}
				b.free(o.OrderID)
			})
		})
	}
}

// The client's node admits one pending channel at a time, as lnd does: a second order waits
// for the first one's funding.
func TestLSPS1ClientHasOnePending(t *testing.T) {
	t.Parallel()
	virtual(t, func(t *testing.T) {
		b := newBuyer(t, 24, nil)
		b.wish.RequiredConfs = 1
		var ids []string
		for range 2 {
			o := b.order()
			paid := b.pay(o.Payment.Bolt11.Invoice)
			ids = append(ids, o.OrderID)
			if len(ids) == 1 {
				require.Equal(t, lnrpc.Payment_SUCCEEDED, b.outcome(paid).Status, b.story(o.OrderID))
				b.completed(o.OrderID)
				continue
			}
			b.pause(time.Minute)
			require.Equal(t, ordering.Hold, b.get(o.OrderID).Payment.Bolt11.State, b.story(o.OrderID))
			b.until(o.OrderID, true, "completed", func(o lsps1.Order) bool { return o.State == ordering.WireCompleted })
			require.Equal(t, lnrpc.Payment_SUCCEEDED, b.outcome(paid).Status, b.story(o.OrderID))
		}
		b.w.Mine(6)
		b.pause(time.Minute)
		require.Equal(t, 2, b.channels())
		b.w.Mine(200)
		for _, id := range ids {
			require.Equal(t, "ended", b.over(id).State, b.story(id))
		}
	})
}
