package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQuantile(t *testing.T) {
	require.Zero(t, quantile(nil, 0.5))
	require.Equal(t, 7.0, quantile([]float64{7}, 0.99))
	require.Equal(t, 2.5, median([]float64{4, 1, 3, 2}))
	require.InDelta(t, 95.05, quantile(seq(1, 100), 0.95), 1e-9)
	require.Equal(t, 100.0, quantile(seq(1, 100), 1))
}

func TestMidmean(t *testing.T) {
	require.Equal(t, 7.0, midmean([]float64{7}))
	require.Equal(t, 2.5, midmean([]float64{4, 1, 3, 2}), "too few to leave any out")
	require.Equal(t, 3.0, midmean([]float64{1000, 4, 2, 3, -50}), "bursts do not count")
}

// The interval of a mean is known: it must cover it about as it says.
func TestBootstrapCoversAKnownMean(t *testing.T) {
	sample := seq(1, 100) // mean 50.5, standard error 2.9
	low, high := bootstrap(1, len(sample), func(draw []int) float64 {
		return total(pick(sample, draw)) / float64(len(draw))
	})
	require.InDelta(t, 50.5-1.96*2.9, low, 0.5)
	require.InDelta(t, 50.5+1.96*2.9, high, 0.5)
	again, _ := bootstrap(1, len(sample), func(draw []int) float64 {
		return total(pick(sample, draw)) / float64(len(draw))
	})
	require.Equal(t, low, again, "the same seed gives the same interval")
}

func TestCommandLineIsChecked(t *testing.T) {
	for _, args := range [][]string{nil, {"nonsense"}, {"jit", "forward"}, {"-payments", "1", "jit"}} {
		var out, complaint bytes.Buffer
		require.Equal(t, 2, run(t.Context(), args, &out, &complaint), "%v", args)
		require.Empty(t, out.String())
		require.Contains(t, complaint.String(), "jit|forward|forward-proxied|memory")
	}
}

func TestLastLine(t *testing.T) {
	var r result
	r.add("ratio_p50", "%.3f", 1.1)
	r.add("p50_ms", "%.1f", 221.04)
	require.Equal(t, "ratio_p50=1.100 p50_ms=221.0", r.String())
}

func seq(from, to int) []float64 {
	var out []float64
	for i := from; i <= to; i++ {
		out = append(out, float64(i))
	}
	return out
}
