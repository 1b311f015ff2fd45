package main

import (
	"fmt"
	"text/tabwriter"
)

// forwardReport compares each arm with the last, whose gateway has no
// interceptor; the gate is for the first.
func forwardReport(b *bench, arms []*arm, gate float64) (result, error) {
	without := arms[len(arms)-1]
	fmt.Fprintf(b.out, "\nforwards in blocks of %d with %d in flight, then %d one at a time\n\n", blockSize, inFlight, quietPayments)
	table := tabwriter.NewWriter(b.out, 2, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tforwards\teach s\tblock p50\tp50 ms\tp95 ms\tp99 ms\talone p50 ms\talone p99 ms\tcpu ms each\tretries\t")
	for _, a := range arms {
		seconds, latencies := a.seconds(), a.latencies()
		fmt.Fprintf(table, "%s\t%d\t%.1f\t%.1f\t%.0f\t%.0f\t%.0f\t%.1f\t%.1f\t%.2f\t%d\t\n", a.name, len(latencies),
			float64(len(latencies))/total(seconds), blockSize/median(seconds), median(latencies), quantile(latencies, 0.95),
			quantile(latencies, 0.99), median(a.quiet), quantile(a.quiet, 0.99), ms(a.cpu)/float64(len(latencies)), a.retries.Load())
	}
	if err := table.Flush(); err != nil {
		return nil, err
	}
	fmt.Fprintln(b.out, "\ncpu: of the gateway's lnd, and of sluiced where it is attached")
	compared := make([]comparison, len(arms)-1)
	for i, a := range arms[:len(arms)-1] {
		compared[i] = compare(b.seed, a, without)
		fmt.Fprintf(b.out, "\n%s: throughput ratio %.3f (mean of the middle of %d pairs of blocks), 95 %% interval %.3f to %.3f (seed %d); over all blocks %.3f; added p99 %.1f ms (median of the pairs; aim: %d ms)\n",
			a.name, compared[i].ratio, compared[i].pairs, compared[i].low, compared[i].high, b.seed, compared[i].overall, compared[i].addedMs, aimAddedMs)
	}
	with, first := arms[0], compared[0]
	fmt.Fprintf(b.out, "\nthe gate is %.2f for the lower end %s, here %.3f\n\n", gate, with.name, first.low)
	var r result
	r.add("throughput_ratio", "%.3f", first.ratio)
	r.add("p99_added_ms", "%.1f", first.addedMs)
	r.add("ratio_low", "%.3f", first.low)
	r.add("ratio_high", "%.3f", first.high)
	r.add("ratio_overall", "%.3f", first.overall)
	if len(compared) > 1 {
		r.add("bare_ratio", "%.3f", compared[1].ratio)
		r.add("bare_low", "%.3f", compared[1].low)
		r.add("bare_high", "%.3f", compared[1].high)
		r.add("bare_p99_added_ms", "%.1f", compared[1].addedMs)
	}
	r.add("alone_p50_added_ms", "%.1f", median(with.quiet)-median(without.quiet))
	r.add("alone_p99_added_ms", "%.1f", quantile(with.quiet, 0.99)-quantile(without.quiet, 0.99))
	r.add("forwards", "%d", len(with.latencies()))
	if first.low < gate {
		return r, fmt.Errorf("%w: the throughput ratio's lower end is %.3f, at least %.2f is wanted%s", errMissed, first.low, gate, excuse(compared, gate))
	}
	return r, nil
}

// excuse says whether lnd's interceptor alone would have missed the gate.
func excuse(compared []comparison, gate float64) string {
	if len(compared) < 2 || compared[1].low >= gate {
		return ""
	}
	return fmt.Sprintf("; on this machine lnd's interceptor misses it by itself: a program that only resumes has %.3f", compared[1].low)
}

// comparison is an arm against the one without interceptor.
type comparison struct {
	pairs                     int
	ratio, low, high, overall float64 // of forwards per second
	addedMs                   float64 // at p99
}

// compare pairs the blocks of the same round. As many forwards in each block, so
// a pair's throughput ratio is that of the times. The mean of the middle pairs is
// told, and pairs are drawn for its interval: what slows the machine for a while
// slows both of a pair, and a burst of other work during one block cannot decide.
func compare(seed uint64, a, without *arm) comparison {
	var pairs, slower []float64
	var with, other float64
	for i, served := range a.blocks {
		plain := without.blocks[i]
		pairs = append(pairs, plain.seconds/served.seconds)
		slower = append(slower, quantile(served.latencies, 0.99)-quantile(plain.latencies, 0.99))
		with, other = with+served.seconds, other+plain.seconds
	}
	c := comparison{pairs: len(pairs), ratio: midmean(pairs), overall: other / with, addedMs: median(slower)}
	c.low, c.high = bootstrap(seed, len(pairs), func(draw []int) float64 { return midmean(pick(pairs, draw)) })
	return c
}

// seconds are those of each block.
func (a *arm) seconds() (out []float64) {
	for _, each := range a.blocks {
		out = append(out, each.seconds)
	}
	return out
}

// latencies are those of every payment in a block, in ms.
func (a *arm) latencies() (out []float64) {
	for _, each := range a.blocks {
		out = append(out, each.latencies...)
	}
	return out
}
