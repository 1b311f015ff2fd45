package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Duration is a span of time, written "90s", "1h30m" or "30d"; never negative.
type Duration time.Duration

// Std gives the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

func (d Duration) String() string {
	if day := 24 * time.Hour; d > 0 && d.Std()%day == 0 {
		return strconv.FormatInt(int64(d.Std()/day), 10) + "d"
	}
	s := d.Std().String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func (Duration) example() string { return "90s" }

// MarshalText gives String's form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a duration with its unit.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	bad := fmt.Errorf("%q: want a duration with its unit, like 90s, 1h30m or 30d", clip(s))
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 32)
		if err != nil || n > math.MaxInt64/uint64(24*time.Hour) {
			return bad
		}
		*d = Duration(n) * Duration(24*time.Hour)
		return nil
	}
	parsed, err := time.ParseDuration(s)
	if err != nil || parsed < 0 {
		return bad
	}
	*d = Duration(parsed)
	return nil
}

// ByteSize is a number of bytes, written "512B", "64KiB", "10MiB" or "1GiB".
type ByteSize int64

const kibi = 1024

func (b ByteSize) String() string {
	for _, u := range []struct {
		name string
		size ByteSize
	}{{"GiB", kibi * kibi * kibi}, {"MiB", kibi * kibi}, {"KiB", kibi}} {
		if b >= u.size && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

func (ByteSize) example() string { return "10MiB" }

// MarshalText gives String's form.
func (b ByteSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads a whole number with its unit.
func (b *ByteSize) UnmarshalText(text []byte) error {
	s := string(text)
	bad := fmt.Errorf("%q: want a size with its unit, like 512B, 64KiB, 10MiB or 1GiB", clip(s))
	for _, u := range []struct {
		name string
		size uint64
	}{{"GiB", kibi * kibi * kibi}, {"MiB", kibi * kibi}, {"KiB", kibi}, {"B", 1}} {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 63)
		if err != nil || n > math.MaxInt64/u.size {
			return bad
		}
		*b = ByteSize(n * u.size) //nolint:gosec // bounded just above
		return nil
	}
	return bad
}

// Sat is an amount in satoshis, a whole number up to 21 million bitcoin. Keys
// of this type end in _sat.
type Sat ln.Sat

// Amount gives the domain's type.
func (s Sat) Amount() ln.Sat { return ln.Sat(s) }

func (s Sat) inRange() error { return checkAmount(uint64(s), uint64(ln.MaxMsat/1000), "satoshis") }

func (s Sat) String() string { return strconv.FormatUint(uint64(s), 10) }

// UnmarshalText reads digits, with underscores between them if you like.
func (s *Sat) UnmarshalText(text []byte) error {
	n, err := parseAmount(text, uint64(ln.MaxMsat/1000), "satoshis")
	*s = Sat(n)
	return err
}

// Msat is an amount in millisatoshis, a whole number up to 21 million bitcoin.
// Keys of this type end in _msat.
type Msat ln.Msat

// Amount gives the domain's type.
func (m Msat) Amount() ln.Msat { return ln.Msat(m) }

func (m Msat) inRange() error { return checkAmount(uint64(m), uint64(ln.MaxMsat), "millisatoshis") }

func (m Msat) String() string { return strconv.FormatUint(uint64(m), 10) }

// UnmarshalText reads digits, with underscores between them if you like.
func (m *Msat) UnmarshalText(text []byte) error {
	n, err := parseAmount(text, uint64(ln.MaxMsat), "millisatoshis")
	*m = Msat(n)
	return err
}

func parseAmount(text []byte, limit uint64, unit string) (uint64, error) {
	n, err := strconv.ParseUint(digits(string(text)), 10, 64)
	if err != nil || n > limit {
		return 0, fmt.Errorf("%q: want a whole number of %s, at most %d", clip(string(text)), unit, limit)
	}
	return n, nil
}

func checkAmount(n, limit uint64, unit string) error {
	if n > limit {
		return fmt.Errorf("%d %s: more than will ever exist (%d)", n, unit, limit)
	}
	return nil
}

// maxSecretBytes bounds what is read as a secret.
const maxSecretBytes = 1 << 16

// SecretFile is the path of a file with a secret; secrets themselves never
// stand in a configuration, an environment or on a command line.
type SecretFile string

// Read gives the file's bytes as they are. It refuses a file that others than
// its owner may read, since then it is no secret.
func (s SecretFile) Read() ([]byte, error) {
	if s == "" {
		return nil, errors.New("no secret file is configured")
	}
	f, err := os.Open(string(s))
	if err != nil {
		return nil, fmt.Errorf("secret file: %w", err)
	}
	defer func() { _ = f.Close() }()
	// The open file is what is checked, so that it cannot be swapped between.
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("secret file: %w", err)
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("secret file %s is not a regular file", s)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("secret file %s can be read by others (mode %04o): chmod 600 %s", s, info.Mode().Perm(), s)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	if err != nil {
		return nil, fmt.Errorf("secret file %s: %w", s, err)
	}
	if len(content) == 0 || len(content) > maxSecretBytes {
		return nil, fmt.Errorf("secret file %s: want 1 to %d bytes", s, maxSecretBytes)
	}
	return content, nil
}

// ReadLine gives a one-line secret, without the newline at its end.
func (s SecretFile) ReadLine() (string, error) {
	content, err := s.Read()
	if err != nil {
		return "", err
	}
	line := bytes.TrimRight(content, "\r\n")
	if len(line) == 0 || bytes.ContainsAny(line, "\r\n") {
		return "", fmt.Errorf("secret file %s: want one line", s)
	}
	return string(line), nil
}

// clip bounds what an error repeats of somebody's input.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
