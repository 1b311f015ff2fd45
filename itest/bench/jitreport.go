package main

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// readRecords completes Sluice's samples from what sluiced wrote down: the
// interceptor's row, whose times are those of lnd's offer as it came off the
// stream and of the decision to resume, and the payment's story. Both are cut
// to the millisecond, so that Sluice seems to begin up to 1 ms too early.
func readRecords(ctx context.Context, s *sluice, samples []sample) error {
	for i := range samples {
		shown, err := s.operator.ShowPayment(ctx, &lspv1.ShowPaymentRequest{IdOrHash: samples[i].paymentID})
		if err != nil {
			return fmt.Errorf("the story of payment %s: %w", samples[i].paymentID, err)
		}
		one := &samples[i]
		one.story = shown.Story
		for _, e := range shown.Story {
			at := time.UnixMilli(e.AtMs)
			switch e.Event {
			case "funding_pending":
				one.pending = at
			case "channel_active":
				one.active = at
			case "mapped":
				one.aliased = at
			}
		}
	}
	if err := s.daemon.Stop(ctx); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", filepath.Join(s.daemon.Dir, "sluice.db"))
	if err != nil {
		return fmt.Errorf("sluiced's database: %w", err)
	}
	defer func() { _ = db.Close() }()
	for i := range samples {
		var offered, decided int64
		err := db.QueryRowContext(ctx, "SELECT offered_ms, decided_ms FROM interceptor_rows WHERE payment_hash = ? ORDER BY id DESC",
			samples[i].hash[:]).Scan(&offered, &decided)
		if err != nil {
			return fmt.Errorf("the interceptor's row of payment %s: %w", samples[i].paymentID, err)
		}
		samples[i].intercepted, samples[i].resumed = time.UnixMilli(offered), time.UnixMilli(decided)
	}
	return nil
}

func each(samples []sample, of func(sample) time.Duration) []float64 {
	out := make([]float64, 0, len(samples))
	for _, s := range samples {
		out = append(out, ms(of(s)))
	}
	return out
}

func interceptToSuccess(s sample) time.Duration { return s.success.Sub(s.intercepted) }

func jitReport(b *bench, ours, theirs []sample) (result, error) {
	fmt.Fprintf(b.out, "\n%d payments each, each over a channel that it opened itself; milliseconds\n\n", len(ours))
	table := tabwriter.NewWriter(b.out, 2, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "step\tsluice p50\tp95\tbare p50\tp95\tmore p50\t")
	steps := []struct {
		name string
		of   func(sample) time.Duration
	}{
		{"payer sends → intercepted", func(s sample) time.Duration { return s.intercepted.Sub(s.sent) }},
		{"→ channel pending", func(s sample) time.Duration { return s.pending.Sub(s.intercepted) }},
		{"→ channel active", func(s sample) time.Duration { return s.active.Sub(s.pending) }},
		{"→ alias added", func(s sample) time.Duration { return s.aliased.Sub(s.active) }},
		{"→ resumed", func(s sample) time.Duration { return s.resumed.Sub(s.aliased) }},
		{"→ payer's success", func(s sample) time.Duration { return s.success.Sub(s.resumed) }},
		{"intercepted → success", interceptToSuccess},
		{"payer sends → success", func(s sample) time.Duration { return s.success.Sub(s.sent) }},
	}
	for _, step := range steps {
		x, y := each(ours, step.of), each(theirs, step.of)
		fmt.Fprintf(table, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%+.1f\t\n", step.name,
			median(x), quantile(x, 0.95), median(y), quantile(y, 0.95), median(x)-median(y))
	}
	if err := table.Flush(); err != nil {
		return nil, err
	}
	storyTable(b, ours)

	x, y := each(ours, interceptToSuccess), each(theirs, interceptToSuccess)
	ratio := median(x) / median(y)
	low, high := bootstrap(b.seed, len(x), func(draw []int) float64 { return median(pick(x, draw)) / median(pick(y, draw)) })
	openToActive := median(each(theirs, func(s sample) time.Duration { return s.active.Sub(s.intercepted) }))
	fmt.Fprintf(b.out, "\nthe bare program's open → ACTIVE: %.0f ms here; observed elsewhere: %d ms\n", openToActive, seenOpenToActiveMs)
	fmt.Fprintf(b.out, "ratio of the medians %.3f (95 %% interval %.3f to %.3f, seed %d); the gate is %.2f\n\n", ratio, low, high, b.seed, maxRatio)

	var r result
	r.add("ratio_p50", "%.3f", ratio)
	r.add("p50_ms", "%.1f", median(x))
	r.add("p95_ms", "%.1f", quantile(x, 0.95))
	r.add("bare_p50_ms", "%.1f", median(y))
	r.add("bare_p95_ms", "%.1f", quantile(y, 0.95))
	r.add("bare_open_active_ms", "%.1f", openToActive)
	r.add("payments", "%d", len(x))
	if ratio > maxRatio {
		return r, fmt.Errorf("%w: the median is %.3f × the bare program's, at most %.2f is allowed", errMissed, ratio, maxRatio)
	}
	return r, nil
}

// storyTable shows when each event of Sluice's machines came, as medians.
func storyTable(b *bench, ours []sample) {
	var order []string
	at := map[string][]float64{}
	for _, s := range ours {
		for _, e := range s.story {
			if e.AtMs < s.intercepted.UnixMilli() {
				continue // the agreement
			}
			// An open goes by its id there.
			machine := "payment"
			if e.Machine != "payment" {
				machine = "channel"
			}
			name := machine + "\t" + e.Event
			if _, known := at[name]; !known {
				order = append(order, name)
			}
			at[name] = append(at[name], ms(time.UnixMilli(e.AtMs).Sub(s.intercepted)))
		}
	}
	fmt.Fprintf(b.out, "\nSluice's story, milliseconds after the intercept (p50)\n\n")
	table := tabwriter.NewWriter(b.out, 2, 4, 2, ' ', 0)
	for _, name := range order {
		fmt.Fprintf(table, "  %s\t%.0f\n", name, median(at[name]))
	}
	_ = table.Flush()
}
