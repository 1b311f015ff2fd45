package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/liquidity"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// deaf takes transactions and gives no answer.
type deaf struct {
	*lnd.Client
	silent bool
}

func (d *deaf) Publish(ctx context.Context, raw []byte, label string) error {
	err := d.Client.Publish(ctx, raw, label)
	if d.silent {
		return errors.Join(ln.ErrUnavailable, err)
	}
	return err
}

// oneCoin is a gateway whose wallet has one large coin.
func oneCoin(t *testing.T) (*lndfake.World, *lndfake.Node, *lnd.Client) {
	t.Helper()
	w := lndfake.New(lndfake.Config{Seed: 3})
	t.Cleanup(w.Close)
	node, err := w.AddNode("gateway", lndfake.NodeConfig{})
	require.NoError(t, err)
	client, err := lnd.Dial(lnd.Config{Address: "passthrough:///gateway", Network: "regtest", DialOptions: node.DialOptions()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	_, err = node.Fund(60_000_000)
	require.NoError(t, err)
	w.Mine(1)
	return w, node, client
}

// One large coin becomes one for each open, at the cost of one transaction; fifty
// opens at once then find coins, where the large one was good for one.
func TestThePoolIsCut(t *testing.T) {
	w, node, client := oneCoin(t)
	before := w.Wealth(node).TotalMsat()
	chain := &deaf{Client: client}
	now := time.Now()
	cfg := Config{Network: "regtest", Pool: liquidity.Policy{Coins: 50, CoinSat: 1_000_000, Low: 5, CheapRate: 1_000, JoinFrom: 3}}
	cfg.Fees = FeeConfig{Floor: 253, Ceiling: 10_000, StaleAfter: time.Hour}
	e := &Engine{
		cfg: cfg, opt: Options{Now: time.Now}, node: Node{Coins: client, Chain: chain}, log: zaptest.NewLogger(t), payable: map[string]watchedOrder{}, loads: newLoads(),
		world: newWorld(nil, nil, zaptest.NewLogger(t)), fees: newFeeSource(cfg.Fees, chain, func() time.Time { return now }, zaptest.NewLogger(t)),
	}
	at := func(rate ln.FeeRateSatPerKW) { e.fees.last = funding.Estimate{Rate: rate, At: now} }
	pool := func() PoolStatus {
		t.Helper()
		s, err := e.Pool(t.Context())
		require.NoError(t, err)
		return s
	}
	at(500)
	require.Equal(t, 1, pool().OpensLeft, "one large coin is one open, and waits for a block")

	// lnd dies as it publishes: the next look finds that it did.
	chain.silent = true
	e.tendPool(t.Context())
	require.Len(t, w.Mempool(), 1)
	chain.silent = false
	e.tendPool(t.Context())
	require.Len(t, w.Mempool(), 1, "what is coming is not made again")
	leases, err := client.ListLeases(t.Context())
	require.NoError(t, err)
	require.Empty(t, leases)
	tx := w.Mempool()[0]
	w.Mine(1)
	s := pool()
	require.Equal(t, liquidity.Stock{Ready: 50}, s.Stock)
	require.Equal(t, 50, s.OpensLeft)
	require.Equal(t, liquidity.RefillFull, s.Refill)
	paid := (before - w.Wealth(node).TotalMsat()) / 1000
	weight := int64(tx.SerializeSizeStripped()*3 + tx.SerializeSize())
	require.InDelta(t, 500*weight/1000, paid, 4, "one transaction, whose signature may be some bytes shorter than is paid for")
	e.tendPool(t.Context())
	require.Empty(t, w.Mempool(), "nothing to do")
	require.NoError(t, w.Err())
}

// Fifty opens at once take their coins from the pool: each gets one, none the coin of
// another, and while the pool waits for its block none gets any that is chained deeper
// than allowed. Those that got none leave nothing leased.
func TestFiftyAtOnceFromThePool(t *testing.T) {
	const many = 50
	for name, c := range map[string]struct {
		mined bool
		depth int
		get   int
	}{"confirmed": {true, 0, many}, "unconfirmed, and allowed": {false, 1, many}, "unconfirmed, and not allowed": {false, 0, 0}} {
		t.Run(name, func(t *testing.T) {
			w, _, client := oneCoin(t)
			chain := &deaf{Client: client}
			now := time.Now()
			cfg := Config{Network: "regtest", MaxUnconfirmed: c.depth, Pool: liquidity.Policy{Coins: many, CoinSat: 1_000_000, CheapRate: 1_000}}
			cfg.Fees = FeeConfig{Floor: 253, Ceiling: 10_000, StaleAfter: time.Hour}
			e := &Engine{
				cfg: cfg, opt: Options{Now: time.Now}, node: Node{Coins: client, Chain: chain}, log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
				payable: map[string]watchedOrder{}, loads: newLoads(), world: newWorld(nil, nil, zap.NewNop()),
				fees: newFeeSource(cfg.Fees, chain, func() time.Time { return now }, zap.NewNop()),
			}
			e.fees.last = funding.Estimate{Rate: 500, At: now}
			e.tendPool(t.Context())
			require.Len(t, w.Mempool(), 1)
			if c.mined {
				w.Mine(1)
			}
			db := storetest.Open(t, storetest.SQLite(t))
			require.NoError(t, fsm.Migrate(t.Context(), db))
			var err error
			e.openings, err = fsm.New(opening.Machine(), fsm.Options[opening.State, opening.Event, opening.Effect]{
				Context: t.Context(), DB: db, Log: e.log,
				Execute: func(ctx context.Context, task fsm.Task[opening.Effect]) ([]opening.Event, error) {
					switch task.Effect.(type) {
					case opening.LeaseCoins, opening.ReleaseCoins:
						return e.executeOpening(ctx, task)
					}
					return nil, nil
				},
			})
			require.NoError(t, err)
			defer e.openings.Close()
			_, err = e.openings.Recover(t.Context())
			require.NoError(t, err)
			var begun sync.WaitGroup
			for i := range byte(many) {
				begun.Go(func() {
					p := opening.Plan{
						ID: fmt.Sprintf("open-%02d", i), Client: ln.PubKey{2, i}, CapacitySat: 900_000, Type: ln.CommitmentAnchors, FeeRate: 500, ZeroConf: true,
						Seed: [32]byte{1, i}, Deadline: now.Add(time.Hour), MaxNegotiations: 1,
					}
					_, err := e.openings.Create(t.Context(), p.ID, opening.Planned{Plan: p}, opening.Start{Moment: e.moment()})
					require.NoError(t, err)
				})
			}
			begun.Wait()
			used := make(map[ln.Outpoint]string)
			for i := range many {
				id := fmt.Sprintf("open-%02d", i)
				var s opening.State
				require.Eventually(t, func() bool {
					inst, err := e.openings.Get(t.Context(), id)
					s = inst.State
					return err == nil && s.StateName() != (opening.Planned{}).StateName()
				}, 5*time.Minute, 10*time.Millisecond, id)
				selection, leased := opening.SelectionOf(s)
				if !leased {
					require.Equal(t, opening.Failed{}.StateName(), s.StateName())
					continue
				}
				require.Len(t, selection.Inputs, 1, "one coin is enough")
				for _, coin := range selection.Inputs {
					require.Empty(t, used[coin.Outpoint], "%s and %s have one coin", id, used[coin.Outpoint])
					used[coin.Outpoint] = id
					require.Equal(t, c.mined, coin.Confirmations > 0)
				}
			}
			require.Len(t, used, c.get)
			require.Eventually(t, func() bool {
				leases, err := client.ListLeases(t.Context())
				leases = slices.DeleteFunc(leases, func(l ln.Lease) bool { return !opening.IsLeaseID(l.ID) })
				return err == nil && len(leases) == c.get
			}, 5*time.Minute, 10*time.Millisecond, "who has a coin has its lease, and nobody else")
			require.NoError(t, w.Err())
		})
	}
}
