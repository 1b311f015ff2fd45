package vault

import (
	"slices"
	"time"
)

// Retention says which past values are kept. They are for export only: an old
// channel state that is taken for the present one can cost a user everything.
type Retention struct {
	// Versions is how many past values of a key are kept.
	Versions int
	// Days is for how many days the last value of each day (UTC) is kept as well.
	Days int
}

// Past is a value that is not the present one any more.
type Past struct {
	Seq  uint64
	AtMs int64
	Size int64
}

// Drop chooses, among the past values of one key, those to let go, by their
// sequence numbers. gone says that the key was deleted: then nothing is kept for
// longer than Days, so that what a user deleted does not stay for ever.
func (r Retention) Drop(past []Past, gone bool, now time.Time) []uint64 {
	past = slices.Clone(past)
	slices.SortFunc(past, func(a, b Past) int { return compareSeq(b.Seq, a.Seq) })
	first := DayOf(now) - int64(r.Days)
	lastDay := int64(-1 << 62)
	var out []uint64
	for i, p := range past {
		day := DayOf(time.UnixMilli(p.AtMs))
		young := day > first
		newest := young && day != lastDay
		if young {
			lastDay = day
		}
		if newest || i < r.Versions && (young || !gone) {
			continue
		}
		out = append(out, p.Seq)
	}
	return out
}

// DropOver chooses the oldest past values of an identity, over all its keys,
// to let go until the rest is within budget.
func DropOver(past []Past, budget int64) []uint64 {
	past = slices.Clone(past)
	slices.SortFunc(past, func(a, b Past) int { return compareSeq(a.Seq, b.Seq) })
	var total int64
	for _, p := range past {
		total += p.Size
	}
	var out []uint64
	for _, p := range past {
		if total <= budget {
			break
		}
		total -= p.Size
		out = append(out, p.Seq)
	}
	return out
}

func compareSeq(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
