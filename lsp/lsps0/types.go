package lsps0

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Msat is an amount on the wire: a decimal string of millisatoshis (LSPS0.msat).
type Msat ln.Msat

// Sat is an amount on the wire: a decimal string of satoshis (LSPS0.sat).
type Sat ln.Sat

// MarshalJSON gives a decimal string.
func (m Msat) MarshalJSON() ([]byte, error) { return quoted(uint64(m)), nil }

// UnmarshalJSON reads a decimal string of 64 bits.
func (m *Msat) UnmarshalJSON(b []byte) error {
	n, err := readAmount(b)
	*m = Msat(n)
	return err
}

// MarshalJSON gives a decimal string.
func (s Sat) MarshalJSON() ([]byte, error) { return quoted(uint64(s)), nil }

// UnmarshalJSON reads a decimal string of 64 bits.
func (s *Sat) UnmarshalJSON(b []byte) error {
	n, err := readAmount(b)
	*s = Sat(n)
	return err
}

func quoted(n uint64) []byte {
	return append(strconv.AppendUint([]byte{'"'}, n, 10), '"')
}

// readAmount takes exactly what MarshalJSON writes: one amount has one text.
func readAmount(b []byte) (uint64, error) {
	if len(b) < 3 || len(b) > 22 || b[0] != '"' || b[len(b)-1] != '"' {
		return 0, errors.New("an amount is a string of decimal digits, at most 64 bits")
	}
	digits := string(b[1 : len(b)-1])
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != digits {
		return 0, errors.New("an amount is a string of decimal digits, at most 64 bits")
	}
	return n, nil
}

// readUint takes a JSON integer that fits: no fraction, no exponent, no sign.
func readUint(b []byte, bits int) (uint64, error) {
	n, err := strconv.ParseUint(string(b), 10, bits)
	if err != nil {
		return 0, fmt.Errorf("it must be an integer of at most %d bits", bits)
	}
	return n, nil
}

// Datetime is an instant on the wire (LSPS0.datetime).
type Datetime time.Time

const datetimeLayout = "2006-01-02T15:04:05.000Z"

// String is the one text that the spec has for an instant, in UTC with
// milliseconds.
func (d Datetime) String() string { return time.Time(d).UTC().Format(datetimeLayout) }

// MarshalJSON refuses years that the format has no room for.
func (d Datetime) MarshalJSON() ([]byte, error) {
	if y := time.Time(d).UTC().Year(); y < 0 || y > 9999 {
		return nil, fmt.Errorf("the year %d cannot be written", y)
	}
	return []byte(`"` + d.String() + `"`), nil
}

// UnmarshalJSON also reads what clients make of a datetime that they parsed:
// without milliseconds or with more digits (LDK, bLIP-51's examples), with
// +00:00 in place of Z.
func (d *Datetime) UnmarshalJSON(b []byte) error {
	const want = `a datetime is written YYYY-MM-DDThh:mm:ss.uuuZ`
	s, ok := readString(b)
	s, utc := cutUTC(s)
	// Package time also takes an hour of one digit, a comma before the fraction,
	// and any number of digits behind it.
	if !ok || !utc || len(s) < len("2006-01-02T15:04:05") || s[13] != ':' ||
		len(s) > len("2006-01-02T15:04:05.999999999") || strings.Contains(s, ",") {
		return errors.New(want)
	}
	t, err := time.Parse("2006-01-02T15:04:05", s)
	if err != nil {
		return errors.New(want)
	}
	*d = Datetime(t)
	return nil
}

func cutUTC(s string) (string, bool) {
	if rest, ok := strings.CutSuffix(s, "Z"); ok {
		return rest, true
	}
	return strings.CutSuffix(s, "+00:00")
}

// ListProtocols is the result of lsps0.list_protocols.
type ListProtocols struct {
	Protocols []int `json:"protocols"`
}

// MethodListProtocols tells which LSPS are served.
const MethodListProtocols = "lsps0.list_protocols"

// NewListProtocols lists LSPS by number; 0 is never listed.
func NewListProtocols(numbers ...int) ListProtocols {
	out := ListProtocols{Protocols: []int{}}
	for _, n := range numbers {
		if n > 0 {
			out.Protocols = append(out.Protocols, n)
		}
	}
	return out
}

// ParseListProtocols reads the result as the client.
func ParseListProtocols(result json.RawMessage) (ListProtocols, error) {
	var out ListProtocols
	members, err := readObject(result)
	if err != nil {
		return out, badFormat("%v", err)
	}
	raw, _ := find(members, "protocols")
	if err := json.Unmarshal(raw, &out.Protocols); err != nil || out.Protocols == nil {
		return ListProtocols{}, badFormat("protocols is not a list of numbers")
	}
	return out, nil
}
