package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// A client hears of its own swaps only; that an output is stuck, only when its
// expiry comes near: before, its own sweep is cheaper.
func TestNotices(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	p := ln.Preimage{1}
	w := r.wish(p)
	w.Token = "mine"
	_, err := r.OfferOut(r.ctx, w)
	require.NoError(t, err)
	require.Equal(t, "mine", out.PlanOf(r.state(p)).Token)
	s := out.Published{}
	s.Plan = out.PlanOf(r.state(p))
	s.Outpoint, s.ConfirmedHeight = ln.Outpoint{TxID: ln.TxID{4}}, 501
	l, ok := out.LiveOf(s)
	require.True(t, ok)
	expiry := s.Terms.ExpiryHeight
	for name, c := range map[string]struct {
		tip    uint32
		first  bool
		change func(*out.Live)
		want   int
	}{
		"long before":        {expiry - stuckBlocks - 1, false, nil, 0},
		"near":               {expiry - stuckBlocks, false, nil, 1},
		"near, just joined":  {expiry - stuckBlocks, true, nil, 2},
		"expired":            {expiry, false, nil, 0},
		"taken":              {expiry - 1, false, func(l *out.Live) { l.Spent = "key" }, 0},
		"not confirmed":      {expiry - 1, false, func(l *out.Live) { l.ConfirmedHeight = 0 }, 0},
		"joined long before": {510, true, nil, 1},
	} {
		live := l
		if c.change != nil {
			c.change(&live)
		}
		got, err := r.noticesOf(s, s.Plan, live, c.tip, c.first)
		require.NoError(t, err)
		require.Len(t, got, c.want, name)
		for _, n := range got {
			require.Equal(t, p.Hash(), n.Hash)
			if n.Stuck != nil {
				require.Equal(t, l.Outpoint, n.Stuck.Outpoint)
				require.Contains(t, n.Stuck.Address, "bcrt1p")
				require.Positive(t, n.Stuck.Rate)
			}
		}
	}
	require.Greater(t, uint32(stuckBlocks), uint32(stockNoReveal), "a stock client still reveals then")
}
