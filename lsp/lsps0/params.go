package lsps0

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Params are a request's parameters by name. Its readers give an *Error for
// the client; null stands for an absent optional parameter, as LDK sends it.
type Params struct {
	// path leads to this object from the outermost one, with a dot at its end.
	path    string
	members []member
}

// ParseParams reads an object that did not come in a message (a request over
// HTTP), within the bounds of one that did.
func ParseParams(object []byte) (Params, *Error) {
	if err := checkPayload(object); err != nil {
		return Params{}, InvalidParam("", err.Error())
	}
	members, err := readObject(object)
	if err != nil {
		return Params{}, InvalidParam("", err.Error())
	}
	return Params{members: members}, nil
}

// Only refuses parameters that are not among these (-32602, unrecognized).
func (p Params) Only(names ...string) *Error {
	var unknown []string
	for _, m := range p.members {
		if !slices.Contains(names, m.name) {
			unknown = append(unknown, clip(p.path+m.name))
		}
	}
	if len(unknown) > 0 {
		return Unrecognized(unknown)
	}
	return nil
}

// Has reports that the parameter is there and not null.
func (p Params) Has(name string) bool {
	raw, ok := find(p.members, name)
	return ok && !isNull(raw)
}

// IsNull reports that the parameter is there and null.
func (p Params) IsNull(name string) bool {
	raw, ok := find(p.members, name)
	return ok && isNull(raw)
}

func (p Params) get(name string) (json.RawMessage, *Error) {
	if !p.Has(name) {
		return nil, p.invalid(name, "it is missing")
	}
	raw, _ := find(p.members, name)
	return raw, nil
}

func (p Params) invalid(name, message string) *Error {
	return InvalidParam(p.path+name, message)
}

// String reads a string of at most most bytes.
func (p Params) String(name string, most int) (string, *Error) {
	raw, refused := p.get(name)
	if refused != nil {
		return "", refused
	}
	s, ok := readString(raw)
	switch {
	case !ok:
		return "", p.invalid(name, "it must be a string")
	case len(s) > most:
		return "", p.invalid(name, "it is too long")
	}
	return s, nil
}

// Written is how many bytes a string has as its client wrote it, escapes
// included; 0 when it is no string.
func (p Params) Written(name string) int {
	raw, _ := find(p.members, name)
	if _, ok := readString(raw); !ok {
		return 0
	}
	return len(raw) - len(`""`)
}

// Msat reads an amount.
func (p Params) Msat(name string) (ln.Msat, *Error) {
	raw, refused := p.get(name)
	if refused != nil {
		return 0, refused
	}
	var m Msat
	if err := m.UnmarshalJSON(raw); err != nil {
		return 0, p.invalid(name, err.Error())
	}
	return ln.Msat(m), nil
}

// Sat reads an amount.
func (p Params) Sat(name string) (ln.Sat, *Error) {
	raw, refused := p.get(name)
	if refused != nil {
		return 0, refused
	}
	var s Sat
	if err := s.UnmarshalJSON(raw); err != nil {
		return 0, p.invalid(name, err.Error())
	}
	return ln.Sat(s), nil
}

// Datetime reads an instant.
func (p Params) Datetime(name string) (time.Time, *Error) {
	raw, refused := p.get(name)
	if refused != nil {
		return time.Time{}, refused
	}
	var d Datetime
	if err := d.UnmarshalJSON(raw); err != nil {
		return time.Time{}, p.invalid(name, err.Error())
	}
	return time.Time(d), nil
}

// Uint32 reads an integer.
func (p Params) Uint32(name string) (uint32, *Error) {
	n, refused := p.uint(name, 32)
	return uint32(n), refused //nolint:gosec // bounded by the parser
}

// Uint16 reads an integer.
func (p Params) Uint16(name string) (uint16, *Error) {
	n, refused := p.uint(name, 16)
	return uint16(n), refused //nolint:gosec // bounded by the parser
}

func (p Params) uint(name string, bits int) (uint64, *Error) {
	raw, refused := p.get(name)
	if refused != nil {
		return 0, refused
	}
	n, err := readUint(raw, bits)
	if err != nil {
		return 0, p.invalid(name, err.Error())
	}
	return n, nil
}

// Object reads an object.
func (p Params) Object(name string) (Params, *Error) {
	raw, refused := p.get(name)
	if refused != nil {
		return Params{}, refused
	}
	members, err := readObject(raw)
	if err != nil {
		return Params{}, p.invalid(name, err.Error())
	}
	return Params{path: p.path + name + ".", members: members}, nil
}

// Bool reads true or false.
func (p Params) Bool(name string) (bool, *Error) {
	raw, refused := p.get(name)
	if refused != nil {
		return false, refused
	}
	if s := string(raw); s != "true" && s != "false" {
		return false, p.invalid(name, "it must be true or false")
	}
	return string(raw) == "true", nil
}
