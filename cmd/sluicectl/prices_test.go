package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// TestPriceLines: each state of the fee source and of the menu has its words.
func TestPriceLines(t *testing.T) {
	usual := func(change func(*lspv1.GetStatusResponse)) *lspv1.GetStatusResponse {
		s := &lspv1.GetStatusResponse{
			FeeRateSatPerKw: 1_253, FeeRateEstimateSatPerKw: 1_253, FeeRateAgeMs: 59_999, FeeRateFloorSatPerKw: 253, FeeRateCeilingSatPerKw: 50_000,
			OpeningCostCoveredSat: 1_238, Menu: []*lspv1.OpeningFeeParams{{}},
		}
		change(s)
		return s
	}
	none := func(s *lspv1.GetStatusResponse) { s.Menu, s.MenuRefusal = nil, "later\x1b[1m" }
	for _, c := range []struct {
		change       func(*lspv1.GetStatusResponse)
		rate, offers string
	}{
		{func(*lspv1.GetStatusResponse) {}, "1,253 sat/kw (5.01 sat/vB), estimated less than a minute ago; the ceiling is 50,000 sat/kw (200.00 sat/vB)", "the least fee covers 1,238 sat of chain fees"},
		{func(s *lspv1.GetStatusResponse) { s.FeeRateEstimateSatPerKw, s.FeeRateSatPerKw = 200, 253 }, "253 sat/kw (1.01 sat/vB), estimated less than a minute ago, the floor; the ceiling is 50,000 sat/kw (200.00 sat/vB)", "the least fee covers 1,238 sat of chain fees"},
		{func(s *lspv1.GetStatusResponse) { s.OpeningCostCoveredSat = 0 }, "1,253 sat/kw (5.01 sat/vB), estimated less than a minute ago; the ceiling is 50,000 sat/kw (200.00 sat/vB)", "at the prices configured, whatever the chain asks"},
		{func(s *lspv1.GetStatusResponse) {
			none(s)
			s.FeeRateStale, s.FeeRateAgeMs = true, 61*60_000
		}, "1,253 sat/kw (5.01 sat/vB), estimated 61 min ago, STALE: lnd gives no new estimate", "NONE: later"},
		{func(s *lspv1.GetStatusResponse) {
			none(s)
			s.FeeRateAboveCeiling, s.FeeRateSatPerKw, s.FeeRateEstimateSatPerKw = true, 50_000, 60_000
		}, "50,000 sat/kw (200.00 sat/vB), estimated less than a minute ago, the CEILING: the network asks 60,000 sat/kw (240.00 sat/vB)", "NONE: later"},
		{func(s *lspv1.GetStatusResponse) {
			none(s)
			s.FeeRateStale, s.FeeRateEstimateSatPerKw = true, 0
		}, "UNKNOWN: lnd has given no estimate yet", "NONE: later"},
	} {
		s := usual(c.change)
		require.Equal(t, c.rate, feeRate(s))
		require.Contains(t, offers(s), c.offers)
		require.NotContains(t, offers(s), "\x1b")
	}
	require.Equal(t, "2 h ago", age(2*time.Hour+59*time.Minute))
	require.Equal(t, "3 days ago", age(76*time.Hour+59*time.Minute))
	require.Empty(t, promiseKeys(nil, time.Now()))
}
