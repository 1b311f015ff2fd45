package vault

import (
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// ErrQuota is in the chain of a refusal that no retry helps against: space must
// be freed, the day must pass, or the operator must allow more.
var ErrQuota = errkind.New(errkind.Exhausted, "The quota is used up.")

// Quota bounds one identity.
type Quota struct {
	// Bytes and Objects bound what is stored now, without history.
	Bytes   int64
	Objects int64
	// ObjectBytes bounds one value.
	ObjectBytes int64
	// DayWrites and DayBytes bound what is written in one day (UTC): items, and
	// bytes of values.
	DayWrites int64
	DayBytes  int64
	// HistoryBytes bounds past values. They never stop a write: the oldest go.
	HistoryBytes int64
}

// maxQuota keeps sums of a quota and one more write within int64.
const maxQuota = int64(1) << 52

// Check names the first limit that cannot work.
func (q Quota) Check() error {
	for name, v := range q.fields() {
		if *v < 1 || *v > maxQuota {
			return fmt.Errorf("quota %s is %d: want 1 to %d", name, *v, maxQuota)
		}
	}
	return nil
}

// CheckOwn is Check for limits of one identity, of which zero sets none.
func (q Quota) CheckOwn() error {
	for name, v := range q.fields() {
		if *v < 0 || *v > maxQuota {
			return fmt.Errorf("quota %s is %d: want 0 to %d", name, *v, maxQuota)
		}
	}
	return nil
}

func (q *Quota) fields() map[string]*int64 {
	return map[string]*int64{
		"bytes": &q.Bytes, "objects": &q.Objects, "object_bytes": &q.ObjectBytes,
		"day_writes": &q.DayWrites, "day_bytes": &q.DayBytes, "history_bytes": &q.HistoryBytes,
	}
}

// With gives the quota with an identity's own limits in the place of those that
// it sets; zero sets none.
func (q Quota) With(own Quota) Quota {
	mine := own.fields()
	for name, v := range q.fields() {
		if *mine[name] > 0 {
			*v = *mine[name]
		}
	}
	return q
}

// Usage is what an identity uses of its quota.
type Usage struct {
	Bytes        int64
	Objects      int64
	HistoryBytes int64
	// Day is the day (days since 1970, UTC) that the next two count for.
	Day       int64
	DayWrites int64
	DayBytes  int64
}

// On gives the usage as of a time: the counts of an earlier day are over. A
// clock that goes back does not open a day anew.
func (u Usage) On(now time.Time) Usage {
	if day := DayOf(now); day > u.Day {
		u.Day, u.DayWrites, u.DayBytes = day, 0, 0
	}
	return u
}

// DayOf is the day of a time, counted from 1970 in UTC.
func DayOf(t time.Time) int64 {
	ms := t.UnixMilli()
	day := ms / dayMs
	if ms%dayMs < 0 {
		day--
	}
	return day
}

const dayMs = int64(24 * time.Hour / time.Millisecond)

// admits compares the usage after a write with the quota. What an operator's
// lowered quota no longer covers may still be replaced and shrunk: only growth
// is refused.
func (q Quota) admits(before, after Usage) error {
	for _, c := range []struct {
		what           string
		before, now, q int64
		help           string
	}{
		{"bytes stored", before.Bytes, after.Bytes, q.Bytes, "delete what is no longer needed"},
		{"objects stored", before.Objects, after.Objects, q.Objects, "delete what is no longer needed"},
		{"items written today", before.DayWrites, after.DayWrites, q.DayWrites, "write less often, or wait until midnight UTC"},
		{"bytes written today", before.DayBytes, after.DayBytes, q.DayBytes, "write less, or wait until midnight UTC"},
	} {
		if c.now > c.q && c.now > c.before {
			return errkind.Wrap(errkind.Exhausted, ErrQuota,
				fmt.Sprintf("The quota of %d %s is used up (this write would make it %d): %s, or ask the operator for more.", c.q, c.what, c.now, c.help))
		}
	}
	return nil
}
