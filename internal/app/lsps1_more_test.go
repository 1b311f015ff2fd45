package app

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/books"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	ordering "github.com/sluice-lsp/sluice/lsp/order"
)

// A refund that no block takes is replaced within six hours by one that pays more,
// also when sluiced dies meanwhile; the client bears the fee, and nothing is
// returned twice.
func TestLSPS1RefundIsReplaced(t *testing.T) {
	for name, dies := range map[string]bool{"in one life": false, "sluiced dies": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(t *testing.T) {
				b := newBuyer(t, 11, nil)
				o := b.order()
				total := ln.Sat(o.Payment.OnChain.TotalSat)
				b.pause(11 * time.Minute)
				b.failed(o.OrderID)
				b.payOnChain(o.Payment.OnChain.Address, total)
				b.pause(b.step)
				b.w.Mine(1)
				refund := func() *wire.MsgTx {
					t.Helper()
					for range 200 {
						if pool := b.w.Mempool(); len(pool) == 1 {
							return pool[0]
						}
						b.pause(b.step)
					}
					t.Fatalf("no refund is on its way\n%s", b.story(o.OrderID))
					return nil
				}
				first := refund()
				require.Len(t, first.TxOut, 1)
				firstFee := int64(total) - first.TxOut[0].Value
				b.w.SetFeeRate(3_000)
				if dies {
					b.killProcess()
				}
				b.pause(7 * time.Hour)
				second := refund()
				require.NotEqual(t, first.TxHash(), second.TxHash(), b.story(o.OrderID))
				require.Equal(t, first.TxIn[0].PreviousOutPoint, second.TxIn[0].PreviousOutPoint, "it spends the very coin that it returns")
				require.Equal(t, first.TxOut[0].PkScript, second.TxOut[0].PkScript)
				secondFee := int64(total) - second.TxOut[0].Value
				require.GreaterOrEqual(t, secondFee, firstFee*5/4)
				b.w.Mine(1)
				b.w.SetFeeRate(500)
				b.pause(b.step)
				b.w.Mine(150)
				require.Equal(t, "failed", b.over(o.OrderID).State, b.story(o.OrderID))
				require.Equal(t, (int64(total)-secondFee)*1000, b.gained(b.wallet), b.story(o.OrderID))
				detail, err := b.service.Load().orders.ShowOrder(b.ctx, &lspv1.ShowOrderRequest{OrderId: o.OrderID})
				require.NoError(t, err)
				require.Len(t, detail.Refunds, 1)
				require.EqualValues(t, secondFee, detail.Refunds[0].FeeSat)
			})
		})
	}
}

// A lease that ends while payments are under way over its channel: the order is over
// when the channel is, and not when lnd was asked.
func TestLSPS1LeaseEndsWithHTLCs(t *testing.T) {
	t.Parallel()
	virtual(t, func(t *testing.T) {
		b := newBuyer(t, 17, func(c *Config) { c.LSP.Orders.CloseAtEnd = true })
		o := b.order()
		require.Equal(t, lnrpc.Payment_SUCCEEDED, b.outcome(b.pay(o.Payment.Bolt11.Invoice)).Status)
		o = b.completed(o.OrderID)
		b.w.Mine(1)
		b.pause(b.step)
		b.w.Mine(120)
		b.pause(b.step)
		preimage := ln.Preimage{7}
		hash := preimage.Hash()
		held, err := invoicesrpc.NewInvoicesClient(b.conns[b.wallet]).AddHoldInvoice(b.ctx, &invoicesrpc.AddHoldInvoiceRequest{
			Hash: hash[:], Value: 20_000, Expiry: 86_400 * 7, CltvExpiry: 200, Private: true,
		})
		require.NoError(t, err)
		paid := b.pay(held.PaymentRequest)
		b.pause(5 * time.Second)
		invoice, err := b.ln(b.wallet).LookupInvoice(b.ctx, &lnrpc.PaymentHash{RHash: hash[:]})
		require.NoError(t, err)
		require.Equal(t, lnrpc.Invoice_ACCEPTED, invoice.State)
		b.pause(time.Until(time.Time(o.Channel.ExpiresAt)))
		b.w.Mine(40)
		b.inState(o.OrderID, "closing")
		b.w.Mine(2)
		b.pause(time.Minute)
		require.Equal(t, 1, b.channels())
		b.inState(o.OrderID, "closing")
		_, err = invoicesrpc.NewInvoicesClient(b.conns[b.wallet]).SettleInvoice(b.ctx, &invoicesrpc.SettleInvoiceMsg{Preimage: preimage[:]})
		require.NoError(t, err)
		require.Equal(t, lnrpc.Payment_SUCCEEDED, b.outcome(paid).Status)
		b.closed = true
		require.Equal(t, "ended", b.over(o.OrderID).State, b.story(o.OrderID))
		require.Zero(t, b.channels(), b.story(o.OrderID))
	})
}

// The client's node goes away at each step of the way from the open to the settled
// payment, before lnd is asked and after it has answered, and comes back: it has its one
// channel, and the payment is taken once.
func TestLSPS1PeerGoneAtEachStep(t *testing.T) {
	for _, method := range []string{
		"/lnrpc.Lightning/OpenChannel", "/lnrpc.Lightning/FundingStateStep", "/walletrpc.WalletKit/FinalizePsbt",
		"/walletrpc.WalletKit/PublishTransaction", "/invoicesrpc.Invoices/SettleInvoice",
	} {
		for name, phase := range map[string]lndfake.Phase{"before": lndfake.BeforeCall, "after": lndfake.AfterCall} {
			t.Run(name+method, func(t *testing.T) {
				virtual(t, func(t *testing.T) {
					b := newBuyer(t, 16, nil)
					b.up()
					var gone atomic.Bool
					b.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
						if c.Node == b.gateway.Name() && c.Method == method && c.Phase == phase && gone.CompareAndSwap(false, true) {
							b.w.Disconnect(b.gateway, b.wallet)
						}
						return lndfake.Pass
					})
					o := b.order()
					paid := b.pay(o.Payment.Bolt11.Invoice)
					for range 200 {
						if gone.Load() {
							break
						}
						b.pause(b.step)
					}
					require.True(t, gone.Load(), "lnd is never asked")
					b.pause(3 * time.Second)
					b.w.Connect(b.gateway, b.wallet)
					// What was cut off is tried again with the next block.
					b.until(o.OrderID, true, "completed", func(o lsps1.Order) bool { return o.State == ordering.WireCompleted })
					require.Equal(t, lnrpc.Payment_SUCCEEDED, b.outcome(paid).Status, b.story(o.OrderID))
					b.buried(o.OrderID, 0)
					require.Equal(t, 1, b.channels(), b.story(o.OrderID))
					require.Equal(t, int64(b.wish.ClientBalanceSat)*1000, b.gained(b.wallet), b.story(o.OrderID))
					b.balanced(o.OrderID)
				})
			})
		}
	}
}

// A reorg takes the payment away, and lnd tells of its blocks before its wallet knows:
// what sluiced reads then is the old chain. It reads again once the wallet is there, and
// not with the next block, before which it could open a channel for nothing.
func TestLSPS1ReorgBeforeTheWallet(t *testing.T) {
	virtual(t, func(t *testing.T) {
		b := newBuyer(t, 19, nil)
		o := b.order()
		b.w.Disconnect(b.gateway, b.wallet)
		paid, err := chainhash.NewHashFromStr(b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat)))
		require.NoError(t, err)
		b.pause(b.step)
		b.w.Mine(3)
		b.inState(o.OrderID, "paid")
		b.gateway.HoldWallet(true)
		b.w.Reorg(3, false)
		_, err = b.w.ReplaceTx(b.payer, *paid, 5_000, true)
		require.NoError(t, err)
		b.w.Mine(1)
		b.pause(time.Second)
		b.inState(o.OrderID, "paid")
		b.gateway.HoldWallet(false)
		b.inState(o.OrderID, "awaiting_payment")
		b.w.Connect(b.gateway, b.wallet)
		b.pause(time.Minute)
		require.Zero(t, b.channels(), b.story(o.OrderID))
		require.Equal(t, ordering.WireCreated, b.get(o.OrderID).State)
	})
}

// A reorg takes the payment away once its channel is funded, and its payer spends it
// otherwise: the client keeps its channel, nothing of it comes back, and the books call
// the whole of it a loss.
func TestLSPS1PaymentGoneAfterFunding(t *testing.T) {
	t.Parallel()
	virtual(t, func(t *testing.T) {
		b := newBuyer(t, 14, nil)
		o := b.order()
		total := ln.Sat(o.Payment.OnChain.TotalSat)
		paid, err := chainhash.NewHashFromStr(b.payOnChain(o.Payment.OnChain.Address, total))
		require.NoError(t, err)
		b.pause(b.step)
		b.w.Mine(3)
		o = b.completed(o.OrderID)
		b.w.Reorg(3, false)
		_, err = b.w.ReplaceTx(b.payer, *paid, 5_000, true)
		require.NoError(t, err)
		b.pause(b.step)
		b.w.Mine(1)
		b.pause(b.step)
		require.Equal(t, ordering.WireCompleted, b.get(o.OrderID).State)
		require.Equal(t, 1, b.channels())
		// Only a start has lnd forget what it lists for nothing.
		b.gateway.Kill()
		require.NoError(t, b.gateway.Start())
		b.w.Mine(200)
		require.Equal(t, "ended", b.over(o.OrderID).State, b.story(o.OrderID))
		require.Equal(t, 1, b.channels())
		require.Equal(t, int64(b.wish.ClientBalanceSat)*1000, b.gained(b.wallet))
		require.Equal(t, int64(total)*1000, b.balance(books.DoubleSpent))
		require.Zero(t, b.balance(books.OrderAccount(o.OrderID)), "nothing is owed")
	})
}

// The payer bids more for the payment once its channel is funded, and the replacement pays
// the order as well: it is the payment, and no second one that would go back.
func TestLSPS1PaymentReplacedAfterFunding(t *testing.T) {
	for name, zero := range map[string]bool{"taken unconfirmed": true, "a reorg": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(t *testing.T) {
				b := newBuyer(t, 18, func(c *Config) {
					if zero {
						c.LSP.Orders.ZeroConf, c.LSP.Orders.ZeroConfAll = config.Sat(100_000), config.Sat(100_000)
					}
				})
				o := b.order()
				b.payFinal(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat))
				paid := b.w.Mempool()[0].TxHash()
				b.pause(b.step)
				if !zero {
					b.w.Mine(3)
				}
				o = b.completed(o.OrderID)
				if !zero {
					b.w.Reorg(3, false)
				}
				_, err := b.w.ReplaceTx(b.payer, paid, 5_000, false)
				require.NoError(t, err)
				b.pause(b.step)
				b.w.Mine(1)
				b.pause(b.step)
				b.w.Mine(200)
				require.Equal(t, "ended", b.over(o.OrderID).State, b.story(o.OrderID))
				require.Equal(t, 1, b.channels())
				require.Equal(t, int64(b.wish.ClientBalanceSat)*1000, b.gained(b.wallet), b.story(o.OrderID))
				require.Zero(t, b.balance(books.DoubleSpent))
				require.Zero(t, b.balance(books.OrderAccount(o.OrderID)), "nothing is owed")
				leases, err := b.walletKit(b.gateway).ListLeases(b.ctx, &walletrpc.ListLeasesRequest{})
				require.NoError(t, err)
				require.Empty(t, leases.LockedUtxos, b.story(o.OrderID))
			})
		})
	}
}

// balance reads the books.
func (b *buyer) balance(account string) (msat int64) {
	b.t.Helper()
	db, err := store.Open(b.ctx, b.store)
	require.NoError(b.t, err)
	defer func() { require.NoError(b.t, db.Close()) }()
	require.NoError(b.t, db.Read(b.ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		msat, err = ledger.Balance(ctx, tx, ledger.Account(account))
		return err
	}))
	return msat
}

// Two payments are to go back in one transaction, and a reorg lets the payer of one
// take it back: the other is returned without it, whatever lnd's wallet goes on
// listing, and what was never there is owed to nobody.
func TestLSPS1RefundLosesAPayment(t *testing.T) {
	for name, restarts := range map[string]bool{"lnd lists it on": false, "lnd starts again and forgets it": true} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				b := newBuyer(t, 13, nil)
				o := b.order()
				var ids []string
				for _, sat := range []ln.Sat{20_000, 9_000} {
					ids = append(ids, b.payOnChain(o.Payment.OnChain.Address, sat))
					b.pause(b.step)
					b.w.Mine(1)
				}
				b.pause(80 * time.Minute)
				b.failed(o.OrderID)
				refund := func(inputs int, mine bool) *wire.MsgTx {
					t.Helper()
					for i := range 200 {
						for _, tx := range b.w.Mempool() {
							if len(tx.TxIn) == inputs && len(tx.TxOut) == 1 && slices.ContainsFunc(tx.TxIn, func(in *wire.TxIn) bool { return in.PreviousOutPoint.Hash.String() == ids[0] }) {
								return tx
							}
						}
						b.pause(b.step)
						if mine && i%8 == 7 {
							b.w.Mine(1)
						}
					}
					t.Fatalf("no refund of %d payments is on its way\n%s", inputs, b.story(o.OrderID))
					return nil
				}
				height := b.w.Height()
				refund(2, false)
				b.w.Reorg(1, false)
				lost, err := chainhash.NewHashFromStr(ids[1])
				require.NoError(t, err)
				_, err = b.w.ReplaceTx(b.payer, *lost, 5_000, true)
				require.NoError(t, err)
				if restarts {
					b.gateway.Kill()
					require.NoError(t, b.gateway.Start())
				}
				second := refund(1, true)
				require.GreaterOrEqual(t, b.w.Height(), height+6, "a payment may be mined again: it is waited for")
				b.w.Mine(150)
				if !restarts {
					// Only a start has lnd forget what it lists for nothing.
					b.gateway.Kill()
					require.NoError(t, b.gateway.Start())
				}
				require.Equal(t, "failed", b.over(o.OrderID).State, b.story(o.OrderID))
				detail, err := b.service.Load().orders.ShowOrder(b.ctx, &lspv1.ShowOrderRequest{OrderId: o.OrderID})
				require.NoError(t, err)
				require.Len(t, detail.Refunds, 2)
				states := map[string]uint64{}
				for _, r := range detail.Refunds {
					states[r.State] = r.OwedSat
				}
				require.Equal(t, map[string]uint64{"void": 29_000, "returned": 20_000}, states, b.story(o.OrderID))
				require.Equal(t, second.TxOut[0].Value*1000, b.gained(b.wallet))
				leases, err := b.walletKit(b.gateway).ListLeases(b.ctx, &walletrpc.ListLeasesRequest{})
				require.NoError(t, err)
				require.Empty(t, leases.LockedUtxos, b.story(o.OrderID))
			})
		})
	}
}

// An older copy of the database is put back at a later moment of an order: the
// client pays once and gets one channel, and what it paid too much once.
func TestLSPS1OlderCopyPutBack(t *testing.T) {
	for name, day := range map[string]struct {
		onChain bool
		// held: the copy knows that the order is paid for.
		held bool
		// settling: it is put back when the payment is about to be taken; otherwise
		// once the order is completed.
		settling bool
	}{
		"ordered, completed over Lightning": {},
		"ordered, completed on chain":       {onChain: true},
		"ordered, about to be settled":      {settling: true},
		"held, completed":                   {held: true},
		"held, about to be settled":         {held: true, settling: true},
		"paid on chain, completed":          {onChain: true, held: true},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				b := newBuyer(t, 12, nil)
				o := b.order()
				if !day.held {
					b.copyDatabase()
				}
				b.up()
				if day.held {
					b.w.Disconnect(b.gateway, b.wallet)
				}
				if day.settling {
					b.putBackAt(func(c lndfake.Call) bool {
						return c.Phase == lndfake.BeforeCall && c.Method == "/invoicesrpc.Invoices/SettleInvoice"
					})
				}
				var paid <-chan *lnrpc.Payment
				const tooMuch = 40_000
				refunds := 0
				if day.onChain {
					refunds = 1
					b.payOnChain(o.Payment.OnChain.Address, ln.Sat(o.Payment.OnChain.TotalSat)+tooMuch)
					b.pause(b.step)
					b.w.Mine(3)
				} else {
					paid = b.pay(o.Payment.Bolt11.Invoice)
				}
				if day.held {
					b.inState(o.OrderID, "paid")
					b.copyDatabase()
					b.w.Connect(b.gateway, b.wallet)
				}
				if paid != nil {
					require.Equal(t, lnrpc.Payment_SUCCEEDED, b.outcome(paid).Status, b.story(o.OrderID))
				}
				if !day.settling {
					b.completed(o.OrderID)
					b.putBack()
				}
				for range 200 {
					if b.puts.Load() == 1 && b.service.Load() != nil {
						break
					}
					b.pause(b.step)
				}
				require.EqualValues(t, 1, b.puts.Load(), "the copy was not put back")
				b.up()
				b.until(o.OrderID, true, "completed", func(o lsps1.Order) bool { return o.State == ordering.WireCompleted })
				b.buried(o.OrderID, refunds)
				b.releaseLeases()
				require.Equal(t, 1, b.channels(), "one channel for one order\n%s", b.story(o.OrderID))
				want := int64(b.wish.ClientBalanceSat) * 1000
				if day.onChain {
					got := b.gained(b.wallet) - want
					require.LessOrEqual(t, got, int64(tooMuch)*1000, "what was too much comes back once")
					require.Greater(t, got, int64(tooMuch)*1000-5_000_000, b.story(o.OrderID))
				} else {
					require.Equal(t, want, b.gained(b.wallet), b.story(o.OrderID))
					require.Equal(t, -int64(o.Payment.Bolt11.TotalSat)*1000, b.gained(b.payer), "paid once")
				}
				b.balanced(o.OrderID)
			})
		})
	}
}

// LSPS1 from the first request to the channel and the refund on PostgreSQL, with
// sluiced dying at commits on the way.
func TestLSPS1OnPostgres(t *testing.T) {
	drawn := int64(drawnSeed(t) >> 1) //nolint:gosec // a seed
	for name, onChain := range map[string]bool{"lightning": false, "onchain": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			commits := orderCrashRun(t, true, onChain, 0, 0)
			require.Greater(t, commits, int64(10))
			// Spread over all of them, and others with another seed; all with as many runs.
			most := min(int64(runs(6)), commits) //nolint:gosec // a count
			for i := range most {
				n := 1 + (i*commits/most+drawn)%commits
				point := []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit}[(i+drawn)%2]
				t.Run(fmt.Sprintf("%s-%d", point, n), func(t *testing.T) { orderCrashRun(t, true, onChain, n, point) })
			}
		})
	}
}
