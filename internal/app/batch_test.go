package app

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	ordering "github.com/sluice-lsp/sluice/lsp/order"
)

// As many orders as a batch takes, paid over Lightning and on chain: one transaction
// funds all of their channels, and each order is what it would have been alone.
func TestBatch(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCrowd(t, 21, false, 3, batchesOf(3))
		for i, g := range c.guests {
			c.buy(g, i == 1)
			if i < 2 {
				c.inState(g.order.OrderID, "queued")
			}
		}
		for _, g := range c.guests {
			c.await(g, false, ordering.WireCompleted)
		}
		require.Len(t, c.w.Mempool(), 1)
		require.Len(t, c.w.Mempool()[0].TxOut, 4, "three channels and the change")
		c.shared(c.guests...)
		c.rest(c.guests...)
	})
}

// An order that can wait is opened when its time has come, with those that wait as
// well; alone if nobody does, or if the operator wants no batches any more.
func TestBatchWaits(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCrowd(t, 22, false, 3, batchesOf(10))
		first, second, third := c.guests[0], c.guests[1], c.guests[2]
		c.buy(first, false)
		c.inState(first.order.OrderID, "queued")
		until := c.w.Height() + 12
		c.w.Mine(4)
		c.buy(second, false)
		c.inState(second.order.OrderID, "queued")
		for c.w.Height() < until-1 {
			c.w.Mine(1)
			c.pause(c.step)
			c.inState(first.order.OrderID, "queued")
			c.inState(second.order.OrderID, "queued")
		}
		c.w.Mine(1)
		c.await(first, false, ordering.WireCompleted)
		c.await(second, false, ordering.WireCompleted)
		c.shared(first, second)

		c.buy(third, false)
		c.inState(third.order.OrderID, "queued")
		for range 12 {
			c.w.Mine(1)
			c.pause(c.step)
		}
		c.await(third, false, ordering.WireCompleted)
		require.NotEqual(t, first.funded(t), third.funded(t))
		c.rest(c.guests...)
	})
	t.Run("turned off", func(t *testing.T) {
		virtual(t, func(t *testing.T) {
			var off atomic.Bool
			c := newCrowd(t, 23, false, 2, func(cfg *Config) {
				if !off.Load() {
					cfg.LSP.Orders.BatchOrders = 10
				}
			})
			for _, g := range c.guests {
				c.buy(g, false)
				c.inState(g.order.OrderID, "queued")
			}
			off.Store(true)
			c.killProcess()
			for _, g := range c.guests {
				c.await(g, false, ordering.WireCompleted)
			}
			require.NotEqual(t, c.guests[0].funded(t), c.guests[1].funded(t))
			c.rest(c.guests...)
		})
	})
	t.Run("turned off while one is under way", func(t *testing.T) {
		for name, at := range map[string]string{
			"gathering": "/lnrpc.Lightning/OpenChannel", "handing": "/lnrpc.Lightning/FundingStateStep", "signing": "/walletrpc.WalletKit/FinalizePsbt",
		} {
			t.Run(name, func(t *testing.T) {
				virtual(t, func(t *testing.T) {
					var off atomic.Bool
					c := newCrowd(t, 26, false, 3, func(cfg *Config) {
						if !off.Load() {
							cfg.LSP.Orders.BatchOrders = 3
						}
					})
					c.onCall(lndfake.AfterCall, at, func() {
						off.Store(true)
						c.running.Go(c.killProcess)
					})
					for _, g := range c.guests {
						c.buy(g, false)
					}
					for _, g := range c.guests {
						c.await(g, true, ordering.WireCompleted)
					}
					require.True(t, off.Load())
					c.rest(c.guests...)
				})
			})
		}
	})
	t.Run("none of those who cannot wait", func(t *testing.T) {
		for name, wish := range map[string]func(*ordering.Wish){
			"zero-conf": func(w *ordering.Wish) { w.RequiredConfs = 0 },
			"soon":      func(w *ordering.Wish) { w.ConfirmWithin = 12 },
		} {
			virtual(t, func(t *testing.T) {
				c := newCrowd(t, 24, false, 1, batchesOf(10))
				wish(&c.wish)
				c.buy(c.guests[0], false)
				c.await(c.guests[0], false, ordering.WireCompleted)
				require.NotContains(t, c.story(c.guests[0].order.OrderID), "queued", name)
			})
		}
	})
}

// One of three does not come into the transaction: the others are funded by one, at
// once; its own order goes its way.
func TestBatchWithoutOne(t *testing.T) {
	for name, day := range map[string]struct {
		// bad is done to the gateway's world before the third order completes the batch.
		bad func(c *crowd, g *guest)
		// refunded: its money goes back; otherwise it has its channel in the end.
		refunded bool
		// spoils: its peer had the transaction already, so that one more is made.
		spoils bool
	}{
		"it refuses": {refunded: true, bad: func(_ *crowd, g *guest) {
			words := "not today"
			g.refusal.Store(&words)
		}},
		"it is away": {bad: func(c *crowd, g *guest) { c.w.Disconnect(c.gateway, g.node) }},
		"it goes when it is asked": {bad: func(c *crowd, g *guest) {
			c.onCall(lndfake.AfterCall, "/lnrpc.Lightning/OpenChannel", func() { c.w.Disconnect(c.gateway, g.node) })
		}},
		"it goes when coins are chosen": {bad: func(c *crowd, g *guest) {
			c.onCall(lndfake.BeforeCall, "/walletrpc.WalletKit/LeaseOutput", func() { c.w.Disconnect(c.gateway, g.node) })
		}},
		"it goes when it has the transaction": {spoils: true, bad: func(c *crowd, g *guest) {
			c.onCall(lndfake.AfterCall, "/lnrpc.Lightning/FundingStateStep", func() { c.w.Disconnect(c.gateway, g.node) })
		}},
		"it goes when the wallet signs": {bad: func(c *crowd, g *guest) {
			c.onCall(lndfake.BeforeCall, "/walletrpc.WalletKit/FinalizePsbt", func() { c.w.Disconnect(c.gateway, g.node) })
		}},
		"its order is withdrawn before": {refunded: true, bad: func(c *crowd, g *guest) { c.withdraw(g) }},
		"its order is withdrawn while it is negotiated": {refunded: true, bad: func(c *crowd, g *guest) {
			c.onCall(lndfake.AfterCall, "/lnrpc.Lightning/OpenChannel", func() { c.running.Go(func() { c.withdraw(g) }) })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				c := newCrowd(t, 25, false, 4, batchesOf(3))
				// The odd one is the first to be asked for its signature.
				odd, others := c.guests[0], c.guests[1:3]
				c.buy(odd, false)
				c.inState(odd.order.OrderID, "queued")
				c.buy(others[0], false)
				c.inState(others[0].order.OrderID, "queued")
				day.bad(c, odd)
				c.buy(others[1], false)
				// Who is away does not complete the batch: a fourth order does.
				served := others
				if name == "it is away" || name == "its order is withdrawn before" {
					c.buy(c.guests[3], false)
					served = c.guests[1:]
				}
				for _, g := range served {
					c.await(g, day.spoils, ordering.WireCompleted)
				}
				c.shared(served...)
				if day.refunded {
					c.await(odd, false, ordering.WireFailed)
				} else {
					c.pause(3 * time.Second)
					c.w.Connect(c.gateway, odd.node)
					c.await(odd, true, ordering.WireCompleted)
					served = append([]*guest{odd}, served...)
				}
				c.rest(served...)
			})
		})
	}
}

// batchCrashRun plays a batch of three with sluiced dying at a commit, and gives the
// number of commits from the order that completes it to the end.
func batchCrashRun(t *testing.T, postgres bool, n int64, p storetest.Point) int64 {
	c := newCrowd(t, 26, postgres, 3, batchesOf(3))
	for _, g := range c.guests[:2] {
		c.buy(g, g == c.guests[1])
		c.inState(g.order.OrderID, "queued")
	}
	began := c.faults.Commits()
	if n > 0 {
		c.crashAt(n, p)
	}
	c.buy(c.guests[2], false)
	for _, g := range c.guests {
		c.await(g, true, ordering.WireCompleted)
	}
	commits := c.faults.Commits() - began
	c.calm()
	c.rest(c.guests...)
	return commits
}

// kill -9 before and after each commit of a batch: each order has its one channel, and
// no coin is spent twice or kept.
func TestBatchCrashAtEveryCommit(t *testing.T) {
	t.Parallel()
	var commits int64
	virtual(t, func(t *testing.T) { commits = batchCrashRun(t, false, 0, 0) })
	require.Greater(t, commits, int64(20))
	drawn := drawnSeed(t)
	for n := int64(1); n <= commits; n++ {
		points := []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit}
		if runs(0) == 0 {
			side := (uint64(n) + drawn) % 2 //nolint:gosec // a count
			points = points[side : side+1]
		}
		for _, point := range points {
			t.Run(fmt.Sprintf("%s-%d", point, n), func(t *testing.T) {
				virtual(t, func(t *testing.T) { batchCrashRun(t, false, n, point) })
			})
		}
	}
}

// The same on PostgreSQL, at some of the commits.
func TestBatchOnPostgres(t *testing.T) {
	t.Parallel()
	commits := batchCrashRun(t, true, 0, 0)
	require.Greater(t, commits, int64(20))
	most := min(int64(runs(2)), commits) //nolint:gosec // a count
	drawn := int64(drawnSeed(t) >> 1)    //nolint:gosec // a seed
	for i := range most {
		n := 1 + (i*commits/most+drawn)%commits
		point := []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit}[(i+drawn)%2]
		t.Run(fmt.Sprintf("%s-%d", point, n), func(t *testing.T) { batchCrashRun(t, true, n, point) })
	}
}

// batchNodeRun plays a batch with a blow to the gateway's node at the n-th of its calls
// from the order that completes the batch on, 0 none, and counts the calls.
func batchNodeRun(t *testing.T, n int, b blow) int {
	c := newCrowd(t, 27, false, 3, batchesOf(3))
	c.payAgain = true
	for _, g := range c.guests[:2] {
		c.buy(g, false)
		c.inState(g.order.OrderID, "queued")
	}
	var mu sync.Mutex
	calls, struck := 0, false
	c.w.OnRPC(func(call lndfake.Call) lndfake.Verdict {
		if call.Node != c.gateway.Name() {
			return lndfake.Pass
		}
		mu.Lock()
		defer mu.Unlock()
		after := call.Phase == lndfake.AfterCall
		if !after {
			calls++
		}
		if n == 0 || struck || calls != n || after != (b != killBefore) && (call.Phase == lndfake.BeforeCall || after) {
			return lndfake.Pass
		}
		struck = true
		if b == loseAnswer {
			return lndfake.Lose
		}
		c.gateway.Kill()
		c.running.Go(func() {
			c.pause(700 * time.Millisecond)
			_ = c.gateway.Start()
		})
		return lndfake.Pass
	})
	c.buy(c.guests[2], false)
	for i, g := range c.guests {
		c.await(g, i > 0 || n > 0, ordering.WireCompleted)
	}
	mu.Lock()
	total := calls
	mu.Unlock()
	c.rest(c.guests...)
	return total
}

// The gateway's lnd dies, or its answer is lost, at each call of a batch: each order has
// its one channel.
func TestBatchNodeDiesAtEveryCall(t *testing.T) {
	calls := 0
	virtual(t, func(t *testing.T) { calls = batchNodeRun(t, 0, 0) })
	require.Greater(t, calls, 20)
	rng := rand.New(rand.NewPCG(drawnSeed(t), 1))
	for n := 1; n <= calls; n++ {
		for b := range blows {
			if runs(0) == 0 && rng.IntN(3*calls) >= 30 {
				continue
			}
			t.Run(fmt.Sprintf("%s-%d", b, n), func(t *testing.T) {
				virtual(t, func(t *testing.T) { batchNodeRun(t, n, b) })
			})
		}
	}
}

// An older copy of the database is put back that does not know what became of a batch:
// of each order there is one channel all the same, and its payment is taken once.
func TestBatchOlderCopyPutBack(t *testing.T) {
	for name, at := range map[string]string{
		"queued": "", "negotiating": "/lnrpc.Lightning/OpenChannel", "choosing": "/walletrpc.WalletKit/LeaseOutput",
		"handing": "/lnrpc.Lightning/FundingStateStep", "signing": "/walletrpc.WalletKit/FinalizePsbt", "publishing": "/walletrpc.WalletKit/PublishTransaction",
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				c := newCrowd(t, 28, false, 2, batchesOf(2))
				c.buy(c.guests[0], true)
				c.inState(c.guests[0].order.OrderID, "queued")
				if at == "" {
					c.copyDatabase()
				} else {
					c.onCall(lndfake.BeforeCall, at, c.copyDatabase)
				}
				c.buy(c.guests[1], false)
				for _, g := range c.guests {
					c.await(g, false, ordering.WireCompleted)
				}
				c.shared(c.guests...)
				if at == "" {
					// The copy knows nothing of the second order, whose client has its channel.
					c.guests[1].order.OrderID = c.guests[0].order.OrderID
				}
				c.putBack()
				for range 200 {
					if c.puts.Load() == 1 && c.service.Load() != nil {
						break
					}
					c.pause(c.step)
				}
				require.EqualValues(t, 1, c.puts.Load(), "the copy was not put back")
				c.up()
				c.rest(c.guests...)
				c.releaseLeases()
			})
		})
	}
}

// A peer that has the transaction and keeps its signature back is waited for as long as
// a peer may take, and no longer: the others have one without it, and it has its own. What
// was undone so counts against nobody's limit of opens per hour.
func TestBatchStalls(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCrowd(t, 29, false, 3, func(cfg *Config) {
			batchesOf(3)(cfg)
			cfg.LSP.OpensPerHour, cfg.LSP.OpensPerHourEach = 6, 1
		})
		slow := c.guests[0]
		slow.node.KeepSignatures(true)
		c.running.Go(func() {
			// It signs when nobody waits any more: what comes of that is forgotten.
			c.pause(45 * time.Second)
			slow.node.KeepSignatures(false)
		})
		for _, g := range c.guests {
			c.buy(g, false)
		}
		began := time.Now()
		for _, g := range c.guests[1:] {
			c.await(g, false, ordering.WireCompleted)
		}
		require.Less(t, time.Since(began), time.Minute)
		c.pause(30 * time.Second)
		txs := make(map[ln.TxID]int)
		for _, g := range c.guests {
			c.await(g, true, ordering.WireCompleted)
			txs[g.funded(t)]++
		}
		require.Len(t, txs, 2, "two share one, and the third has its own")
		c.rest(c.guests...)
	})
}

// A transaction of several channels that lags is hurried by one child of its change, as
// every other; a reorg takes it out of the chain and puts it back.
func TestBatchIsHurried(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCrowd(t, 30, false, 3, batchesOf(3))
		for _, g := range c.guests {
			c.buy(g, false)
		}
		for _, g := range c.guests {
			c.await(g, false, ordering.WireCompleted)
		}
		c.shared(c.guests...)
		c.w.SetFeeRate(8_000)
		for range 10 {
			c.w.MineEmpty()
			c.pause(time.Minute)
		}
		pool := c.w.Mempool()
		require.Len(t, pool, 2, "the transaction and its child")
		var paid int64
		for _, tx := range pool {
			for _, in := range tx.TxIn {
				for _, parent := range pool {
					if parent.TxHash() == in.PreviousOutPoint.Hash {
						paid += parent.TxOut[in.PreviousOutPoint.Index].Value - tx.TxOut[0].Value
					}
				}
			}
		}
		require.Greater(t, paid, int64(8*1_000), "the child pays for both")
		c.w.Mine(2)
		c.pause(c.step)
		c.w.Reorg(2, true)
		c.pause(c.step)
		c.rest(c.guests...)
	})
}
