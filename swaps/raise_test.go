package swaps

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Whatever the chain asks: a replacement pays more than what it replaces, by as
// much as nodes want, and never more than the most.
func TestRaised(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		last := ln.FeeRateSatPerKW(rapid.Uint64Range(253, 500_000).Draw(t, "last"))
		target := ln.FeeRateSatPerKW(rapid.Uint64Range(0, 2_000_000).Draw(t, "target"))
		weight := rapid.Uint64Range(400, 20_000).Draw(t, "weight")
		most := ln.Sat(rapid.Uint64Range(0, 5_000_000).Draw(t, "most"))
		rate, ok := Raised(last, target, weight, most)
		if !ok {
			fee, err := (last + ReplaceStep).Fee(weight)
			require.NoError(t, err)
			require.Greater(t, fee, most, "there was room for a replacement")
			return
		}
		fee, err := rate.Fee(weight)
		require.NoError(t, err)
		require.LessOrEqual(t, fee, most)
		require.GreaterOrEqual(t, rate, last+ReplaceStep)
		if rate < Within(weight, most) {
			require.GreaterOrEqual(t, rate, target)
			require.GreaterOrEqual(t, rate, last+last/4)
		}
	})
	require.Equal(t, ln.FeeRateSatPerKW(750), must(Raised(500, 500, 600, 250_000)), "nodes want a sat per vbyte more")
	require.Equal(t, ln.FeeRateSatPerKW(2501), must(Raised(2000, 500, 600, 250_000)), "a quarter more, though the chain asks less")
}

func must(rate ln.FeeRateSatPerKW, _ bool) ln.FeeRateSatPerKW { return rate }

func TestFirst(t *testing.T) {
	require.Equal(t, ln.FeeRateSatPerKW(1000), First(1000, 500, 250_000))
	require.Equal(t, ln.FeeRateSatPerKW(2000), First(1_000_000, 500, 1000), "no more than the most")
	require.Equal(t, ln.MinFeeRate, First(0, 500, 250_000))
}
