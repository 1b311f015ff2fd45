package quote

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
)

func policy() Policy {
	return Policy{BaseSat: 500, PPM: 2_000, FundingWU: 900, StressPercent: 400, MinPrepaySat: 1_000}
}

func TestPriceToTheSat(t *testing.T) {
	p, err := policy().Out(500_000, 1_000)
	require.NoError(t, err)
	// 500 + 0.2 % of 500,000 + 900 WU at 1,000 sat/kw; the prepay covers that and
	// a refund of 552 WU at four times the rate.
	require.Equal(t, Price{FeeSat: 500 + 1_000 + 900, PrepaySat: 3_108, MinerSat: 900}, p)
	require.Equal(t, 500_000+p.FeeSat-p.PrepaySat, p.SwapInvoiceSat(500_000))
}

func TestPriceProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := ln.Sat(rapid.Uint64Range(1, 1<<40).Draw(t, "amount"))
		rate := ln.FeeRateSatPerKW(rapid.Uint64Range(253, 100_000).Draw(t, "rate"))
		p, err := policy().Out(amount, rate)
		require.NoError(t, err)
		require.GreaterOrEqual(t, p.FeeSat, p.MinerSat)
		require.LessOrEqual(t, p.PrepaySat, max(amount/2, 1), "the prepay is no swap")
		require.Equal(t, amount+p.FeeSat, p.SwapInvoiceSat(amount)+p.PrepaySat, "the prepay is part of the price")
		more, err := policy().Out(amount, rate+1)
		require.NoError(t, err)
		require.GreaterOrEqual(t, more.FeeSat, p.FeeSat)
		require.GreaterOrEqual(t, more.PrepaySat, p.PrepaySat)
	})
	_, err := policy().Out(ln.MaxMsat.ToSatFloor()+1, 253)
	require.ErrorIs(t, err, ln.ErrOverflow)
}

// Whatever the rates do, a swap is never dearer than a quote of the firm time
// before it, and waiting is never dearer than not waiting.
func TestQuotesAreFirm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const firm, stale = 10 * time.Minute, 10 * time.Minute
		start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		now := start
		var w Window
		type quoted struct {
			at    time.Time
			later bool
			rate  ln.FeeRateSatPerKW
		}
		var given []quoted
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(3*time.Minute)).Draw(t, "pause")))
			later := rapid.Bool().Draw(t, "later")
			if rapid.Bool().Draw(t, "sample") {
				w = append(w, Rates{
					At: now, Soon: ln.FeeRateSatPerKW(rapid.Uint64Range(253, 5_000).Draw(t, "soon")),
					Later: ln.FeeRateSatPerKW(rapid.Uint64Range(253, 5_000).Draw(t, "later rate")),
				})
			}
			r, err := w.Latest(now, stale)
			if err != nil {
				require.ErrorIs(t, err, ErrNoRates)
				continue
			}
			require.LessOrEqual(t, r.Of(true), r.Of(false))
			given = append(given, quoted{now, later, r.Of(later)})
			for _, q := range given {
				if now.Sub(q.at) > firm {
					continue
				}
				have, err := w.Firm(now, stale, firm, q.later)
				require.NoError(t, err)
				require.LessOrEqual(t, have, q.rate, "quoted %s ago", now.Sub(q.at))
			}
		}
	})
}
