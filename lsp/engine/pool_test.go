package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/liquidity"
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

// One large coin becomes one for each open, at the cost of one transaction; fifty
// opens at once then find coins, where the large one was good for one.
func TestThePoolIsCut(t *testing.T) {
	w := lndfake.New(lndfake.Config{Seed: 3})
	defer w.Close()
	node, err := w.AddNode("gateway", lndfake.NodeConfig{})
	require.NoError(t, err)
	client, err := lnd.Dial(lnd.Config{Address: "passthrough:///gateway", Network: "regtest", DialOptions: node.DialOptions()})
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	_, err = node.Fund(60_000_000)
	require.NoError(t, err)
	w.Mine(1)
	before := w.Wealth(node).TotalMsat()
	chain := &deaf{Client: client}
	now := time.Now()
	cfg := Config{Network: "regtest", Pool: liquidity.Policy{Coins: 50, CoinSat: 1_000_000, Low: 5, CheapRate: 1_000, JoinFrom: 3}}
	cfg.Fees = FeeConfig{Floor: 253, Ceiling: 10_000, StaleAfter: time.Hour}
	e := &Engine{
		cfg: cfg, node: Node{Coins: client, Chain: chain}, log: zaptest.NewLogger(t), payable: map[string]watchedOrder{}, loads: newLoads(),
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
