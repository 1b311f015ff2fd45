package lsps0

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// MessageType is lsps0_message_id, the BOLT 8 message that carries all LSPS.
const MessageType = 37913

// The bounds of a message. 65,533 bytes is what BOLT 8 leaves to a payload;
// lnd drops a peer to which more is sent.
const (
	MaxPayload = 65_533
	// MaxDepth is how deep objects and arrays may nest; LSPS need three.
	MaxDepth = 16
	// MaxIDLen is the longest request id, in bytes: it is kept while the request
	// is served and is sent back.
	MaxIDLen = 256
)

// ErrBadFormat is the spec's "bad message format": the payload is not one
// JSON-RPC 2.0 object of the kind that its reader expects.
var ErrBadFormat = errors.New("bad message format")

func badFormat(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBadFormat, fmt.Sprintf(format, args...))
}

// member is one name and value of an object.
type member struct {
	name string
	raw  json.RawMessage
}

// checkPayload bounds what a peer sent before anything parses it.
func checkPayload(b []byte) error {
	switch {
	case len(b) > MaxPayload:
		return badFormat("%d bytes, more than %d", len(b), MaxPayload)
	case bytes.IndexByte(b, 0) >= 0:
		return badFormat("it has a 0 byte")
	case !utf8.Valid(b):
		return badFormat("it is not UTF-8")
	}
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > MaxDepth {
				return badFormat("it nests deeper than %d", MaxDepth)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	if !json.Valid(b) {
		return badFormat("it is not one JSON value")
	}
	return nil
}

// readObject splits valid JSON into the members of an object. encoding/json's
// own way into structs is not strict enough: it ignores case and lets the last
// of two equal names win.
func readObject(b []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	open, err := dec.Token()
	if err != nil || open != json.Delim('{') {
		return nil, errors.New("it is not an object")
	}
	var out []member
	seen := make(map[string]bool)
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, errors.New("it is not an object")
		}
		m := member{}
		m.name, _ = token.(string)
		if seen[m.name] {
			return nil, fmt.Errorf("%q stands twice", clip(m.name))
		}
		seen[m.name] = true
		if err := dec.Decode(&m.raw); err != nil {
			return nil, errors.New("it is not an object")
		}
		out = append(out, m)
	}
	return out, nil
}

func find(members []member, name string) (json.RawMessage, bool) {
	for _, m := range members {
		if m.name == name {
			return m.raw, true
		}
	}
	return nil, false
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

func readString(raw json.RawMessage) (string, bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", false
	}
	return s, true
}

// encode writes v as the spec wants strings: no character is escaped that need
// not be. encoding/json escapes U+2028 and U+2029 in any case.
func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode an LSPS message: %w", err)
	}
	in := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if !bytes.Contains(in, []byte(`\u202`)) {
		return in, nil
	}
	out := make([]byte, 0, len(in))
	for i := 0; i < len(in); i++ {
		if in[i] != '\\' {
			out = append(out, in[i])
			continue
		}
		switch rest := in[i:]; {
		case bytes.HasPrefix(rest, []byte(`\u2028`)):
			out = append(out, "\u2028"...)
			i += 5
		case bytes.HasPrefix(rest, []byte(`\u2029`)):
			out = append(out, "\u2029"...)
			i += 5
		default:
			out = append(out, in[i], in[i+1]) // an escape has two bytes at least
			i++
		}
	}
	return out, nil
}

// clip bounds what an error repeats of a peer's input.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	n := most
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
