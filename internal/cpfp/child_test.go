package cpfp

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// All together, not the child, reach the target, and no limit is exceeded.
func TestChildOf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parentWU := rapid.Uint64Range(400, 5000).Draw(t, "weight")
		rate := ln.FeeRateSatPerKW(rapid.Uint64Range(253, 5000).Draw(t, "rate"))
		target := ln.FeeRateSatPerKW(rapid.Uint64Range(253, 50_000).Draw(t, "target"))
		ceiling := ln.FeeRateSatPerKW(rapid.Uint64Range(253, 50_000).Draw(t, "ceiling"))
		change := ln.Sat(rapid.Uint64Range(0, 200_000).Draw(t, "change"))
		most := rapid.OneOf(rapid.Just(AllOfTheChange), rapid.Map(rapid.Uint64Range(0, 100_000), func(n uint64) ln.Sat { return ln.Sat(n) })).Draw(t, "most")
		script := rapid.SampledFrom([][]byte{p2tr(1), p2wpkh(1)}).Draw(t, "script")
		parentFee, err := rate.Fee(parentWU)
		require.NoError(t, err)
		c, err := ChildOf(Lift{ChangeSat: change, ChangeScript: script, FeeSat: parentFee, WeightWU: parentWU}, target, Limits{Ceiling: ceiling, MostSat: most})
		if errors.Is(err, ErrNoBump) {
			require.True(t, rate+1 >= min(target, ceiling)*9/10 || min(change, most) < 1000 || parentWU*uint64(rate) > (parentWU+500)*uint64(min(target, ceiling))-1_000_000)
			return
		}
		require.NoError(t, err)
		require.LessOrEqual(t, c.FeeSat+330, change)
		require.LessOrEqual(t, c.FeeSat, most)
		// What lnd is told to spend covers the rate it is told, for a child one
		// weight unit larger than ours (seen), and leaves dust.
		require.LessOrEqual(t, c.BudgetSat+330, change)
		require.LessOrEqual(t, c.BudgetSat, most)
		require.LessOrEqual(t, c.RateSatPerVByte*250*(c.WeightWU+1)/1000, uint64(c.BudgetSat))
		// Its sweeper wants a rate that can rise to what the budget buys.
		require.Less(t, c.RateSatPerVByte*250, uint64(c.BudgetSat)*1000/(c.WeightWU+1))
		relay, err := ln.MinFeeRate.Fee(c.WeightWU)
		require.NoError(t, err)
		require.GreaterOrEqual(t, c.FeeSat, relay)
		if !c.Capped {
			require.GreaterOrEqual(t, c.PackageRate, target)
		}
		if c.FeeSat > relay {
			// Rounding up to a whole sat is all that may exceed the ceiling.
			require.LessOrEqual(t, uint64(parentFee+c.FeeSat-1)*1000, uint64(min(target, ceiling))*(parentWU+c.WeightWU))
		}
	})
}

// A child that need add little pays what nodes relay by itself, or is none.
func TestAChildThatNodesRelay(t *testing.T) {
	l := Lift{ChangeSat: 20_000, ChangeScript: p2tr(1), FeeSat: 1_440, WeightWU: 1_000}
	c, err := ChildOf(l, 1_000, Limits{Ceiling: 5_000, MostSat: 5_000})
	require.NoError(t, err)
	require.Equal(t, ln.Sat(113), c.FeeSat)
	require.Equal(t, uint64(2), c.RateSatPerVByte)
	_, err = ChildOf(l, 1_000, Limits{Ceiling: 5_000, MostSat: 112})
	require.ErrorIs(t, err, ErrNoBump, "the service allows less than nodes relay")
	l.ChangeSat = 330 + 112
	_, err = ChildOf(l, 1_000, Limits{Ceiling: 5_000, MostSat: 5_000})
	require.ErrorIs(t, err, ErrNoBump, "the change has less than nodes relay")
	l.ChangeSat = 3
	_, err = ChildOf(l, 1_000, Limits{Ceiling: 5_000, MostSat: 5_000})
	require.ErrorIs(t, err, ErrNoBump)
}

// A budget of the service's own lowers the rate; the ceiling does, too.
func TestLimits(t *testing.T) {
	l := Lift{ChangeSat: 500_000, ChangeScript: p2tr(1), FeeSat: 250, WeightWU: 1_000}
	free, err := ChildOf(l, 20_000, Limits{Ceiling: 50_000, MostSat: AllOfTheChange})
	require.NoError(t, err)
	require.False(t, free.Capped)
	require.Equal(t, ln.Sat(20*(1_000+444)-250), free.FeeSat)
	// A quarter more than the fee: what lnd may raise the child to by itself.
	require.Equal(t, free.FeeSat+free.FeeSat/4+111, free.BudgetSat)
	for _, limits := range []Limits{{Ceiling: 10_000, MostSat: AllOfTheChange}, {Ceiling: 50_000, MostSat: 9_000}} {
		c, err := ChildOf(l, 20_000, limits)
		require.NoError(t, err)
		require.True(t, c.Capped)
		require.Less(t, c.RateSatPerVByte, free.RateSatPerVByte)
		require.LessOrEqual(t, c.BudgetSat, limits.MostSat)
		require.LessOrEqual(t, c.PackageRate, limits.Ceiling)
	}
	_, err = ChildOf(l, 20_000, Limits{Ceiling: 252, MostSat: AllOfTheChange})
	require.ErrorContains(t, err, "ceiling")
	l.ChangeScript = make([]byte, 34)
	_, err = ChildOf(l, 20_000, Limits{Ceiling: 50_000, MostSat: AllOfTheChange})
	require.ErrorContains(t, err, "change script")
}

// The child weighs no more than a transaction of such an input and output can.
func TestChildWeight(t *testing.T) {
	for want, script := range map[uint64][]byte{444: p2tr(1), 486: p2wpkh(1)} {
		got, ok := childWU(script)
		require.True(t, ok)
		require.Equal(t, want, got)
	}
}
