package cli

import (
	"encoding/hex"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Group writes a number with its thousands apart: 1234567 as "1,234,567".
func Group(n uint64) string {
	s := strconv.FormatUint(n, 10)
	var b strings.Builder
	for i, d := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// Sat writes satoshis.
func Sat(n uint64) string { return Group(n) + " sat" }

// MsatAsSat writes millisatoshis in satoshis, with what is below one where
// there is any.
func MsatAsSat(msat uint64) string {
	if rest := msat % 1000; rest != 0 {
		return fmt.Sprintf("%s.%03d sat", Group(msat/1000), rest)
	}
	return Sat(msat / 1000)
}

// SignedMsatAsSat is MsatAsSat for differences.
func SignedMsatAsSat(msat int64) string {
	if msat >= 0 {
		return MsatAsSat(uint64(msat))
	}
	// The negation of the least int64 does not fit one; as uint64 it does.
	return "-" + MsatAsSat(-uint64(msat))
}

// Percent is used of limit in whole percent, rounded up, so that only nothing
// is 0 %; ok is false without a limit.
func Percent(used, limit uint64) (percent uint64, ok bool) {
	if limit == 0 {
		return 0, false
	}
	hi, lo := bits.Mul64(used, 100)
	if hi >= limit {
		return 999, true
	}
	quotient, rest := bits.Div64(hi, lo, limit)
	if rest > 0 {
		quotient++
	}
	return min(quotient, 999), true
}

// Bar draws used of limit in so many cells; empty without a limit.
func Bar(used, limit uint64, cells int) string {
	percent, ok := Percent(used, limit)
	if !ok {
		return ""
	}
	full := min(int(percent)*cells/100, cells) //nolint:gosec // at most 999
	if used > 0 && full == 0 {
		full = 1
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", cells-full) + "]"
}

// Time writes a moment of unix milliseconds in UTC to the millisecond; "-" for
// none.
func Time(ms int64) string {
	if ms == 0 {
		return "-"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05.000")
}

// Duration writes a span with the precision that people need: milliseconds
// below a second, then two units.
func Duration(d time.Duration) string {
	if d < 0 {
		return "-" + Duration(-d)
	}
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%d.%02d s", d/time.Second, d%time.Second/(10*time.Millisecond))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%d d %d h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
}

// Ago writes how long before now a moment of unix milliseconds was, in whole
// seconds.
func Ago(ms int64, now time.Time) string {
	if ms == 0 {
		return "-"
	}
	d := max(0, now.Sub(time.UnixMilli(ms)))
	if d < time.Minute {
		return fmt.Sprintf("%d s ago", d/time.Second)
	}
	return Duration(d) + " ago"
}

// Hex writes bytes whole; "-" for none.
func Hex(b []byte) string {
	if len(b) == 0 {
		return "-"
	}
	return hex.EncodeToString(b)
}

// ShortHex writes the first eight digits, for tables.
func ShortHex(b []byte) string { return Hex(b[:min(len(b), 4)]) }

// YesNo writes a truth.
func YesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// Words writes a stable name for people: "waiting_close" as "waiting close".
func Words(name string) string { return strings.ReplaceAll(name, "_", " ") }
