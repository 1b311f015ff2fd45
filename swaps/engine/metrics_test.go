package engine

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// What operators watch: the figures are those of the swaps, and none are shown while
// swaps run elsewhere.
func TestMetrics(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	l := r.published(ln.Preimage{1})
	r.offer(ln.Preimage{2})
	_, err := r.OfferIn(r.ctx, r.wishIn(ln.Preimage{3}, 300_000))
	require.NoError(t, err)
	r.node.mine(99, false)
	r.reaches(ln.Preimage{1}, "refunding")
	got := gather(t, NewCollector(func() (*Engine, error) { return r.Engine, nil }, zap.NewNop()))
	for name, want := range map[string]float64{
		"up": 1, "swaps in waiting": 1, "swaps out invoiced": 1, "swaps out refunding": 1, "open_sat in": 300_000, "open_sat out": 1_000_000,
		"liquidity_sat coins": 19_900_000, "liquidity_sat inbound": 10_000_000, "liquidity_sat outbound": 10_000_000,
		"deadline_blocks_left refund": float64(l.FinalBy()) - 600, "troubled": 0, "exposed_sat": 0, "exposed_limit_sat": 5_000_000, "loss_msat": 0,
	} {
		value, ok := got[name]
		require.True(t, ok, name)
		require.InDelta(t, want, value, 0, name)
	}
	require.NotContains(t, got, "deadline_blocks_left claim")
	require.Equal(t, map[string]float64{"up": 0}, gather(t, NewCollector(func() (*Engine, error) { return nil, errStopping }, zap.NewNop())))

	// A swap's transactions are shown with what they cost it.
	v, _, err := r.Show(r.ctx, l.Terms.Hash)
	require.NoError(t, err)
	require.Len(t, v.Transactions, 2)
	require.Equal(t, "funding", v.Transactions[0].What)
	require.Equal(t, l.MinerSat, v.Transactions[0].FeeSat)
	now, _ := out.LiveOf(r.state(ln.Preimage{1}))
	require.Equal(t, Transaction{What: "refund", TxID: now.Refund.TxID, FeeSat: now.Refund.FeeSat}, v.Transactions[1])
}

// gather reads metrics by what is behind sluice_swaps_ and their labels' values.
func gather(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	require.NoError(t, reg.Register(c))
	families, err := reg.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "sluice_swaps_")
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name] = m.GetGauge().GetValue()
		}
	}
	return out
}
