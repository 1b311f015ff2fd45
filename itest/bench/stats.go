package main

import (
	"math/rand/v2"
	"slices"
	"time"
)

// quantile of a sample by linear interpolation between its order statistics
// (0 for an empty one).
func quantile(sample []float64, q float64) float64 {
	if len(sample) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(sample))
	at := q * float64(len(s)-1)
	i := int(at)
	if i+1 >= len(s) {
		return s[len(s)-1]
	}
	return s[i] + (at-float64(i))*(s[i+1]-s[i])
}

func median(sample []float64) float64 { return quantile(sample, 0.5) }

// midmean is the mean of a sample without its lowest and highest fifth: like the
// median it is not moved by a burst of other work, and it wastes less.
func midmean(sample []float64) float64 {
	s := slices.Sorted(slices.Values(sample))
	cut := len(s) / 5
	s = s[cut : len(s)-cut]
	return total(s) / float64(len(s))
}

// resamples is enough for the ends of a 95 % interval to be steady in the
// third digit.
const resamples = 10_000

// bootstrap is the 95 % percentile interval of a statistic over n units drawn
// with replacement; of gets the indices of one draw.
func bootstrap(seed uint64, n int, of func(draw []int) float64) (low, high float64) {
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a statistic, and repeatable
	draw, seen := make([]int, n), make([]float64, resamples)
	for i := range seen {
		for j := range draw {
			draw[j] = random.IntN(n)
		}
		seen[i] = of(draw)
	}
	return quantile(seen, 0.025), quantile(seen, 0.975)
}

// pick is the sample at the drawn indices.
func pick(sample []float64, draw []int) []float64 {
	out := make([]float64, len(draw))
	for i, j := range draw {
		out[i] = sample[j]
	}
	return out
}

func total(sample []float64) float64 {
	var sum float64
	for _, v := range sample {
		sum += v
	}
	return sum
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
