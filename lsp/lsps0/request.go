package lsps0

import "encoding/json"

// ID is the id of a request, as its client wrote it: a string, or an integer,
// which JSON-RPC 2.0 allows and bLIP-50 asks clients not to use. The zero value
// is null.
type ID struct{ text string }

// StringID is the id that clients of ours use.
func StringID(s string) ID {
	b, err := encode(s)
	if err != nil {
		return ID{}
	}
	return ID{text: string(b)}
}

// IsNull reports the id of an answer to what could not be read.
func (i ID) IsNull() bool { return i.text == "" }

// MarshalJSON gives what UnmarshalJSON read, without needless escapes.
func (i ID) MarshalJSON() ([]byte, error) {
	if i.IsNull() {
		return []byte("null"), nil
	}
	return []byte(i.text), nil
}

// String is the id for logs.
func (i ID) String() string {
	if i.IsNull() {
		return "null"
	}
	return clip(i.text)
}

func readID(raw json.RawMessage) (ID, error) {
	if len(raw) > 6*MaxIDLen { // every character escaped
		return ID{}, badFormat("its id is longer than %d bytes", MaxIDLen)
	}
	if s, ok := readString(raw); ok {
		if len(s) > MaxIDLen {
			return ID{}, badFormat("its id is longer than %d bytes", MaxIDLen)
		}
		return StringID(s), nil
	}
	if len(raw) <= 20 && isInteger(raw) {
		return ID{text: string(raw)}, nil
	}
	return ID{}, badFormat("its id is neither a string nor an integer")
}

// isInteger: of valid JSON, only integers have no other bytes than these.
func isInteger(raw json.RawMessage) bool {
	for _, c := range raw {
		if c != '-' && (c < '0' || c > '9') {
			return false
		}
	}
	return len(raw) > 0
}

// Request is what a client sent.
type Request struct {
	ID     ID
	Method string
	// Params are by name. ByPosition says that the client sent an array, which
	// no LSPS method takes.
	Params     Params
	ByPosition bool
}

// ParseRequest reads a payload as the LSP. Every error is ErrBadFormat, to be
// answered with ParseError; see IsComplaint for the one that is not answered.
func ParseRequest(payload []byte) (Request, error) {
	members, err := readMessage(payload)
	if err != nil {
		return Request{}, err
	}
	var r Request
	raw, ok := find(members, "method")
	if !ok {
		return Request{}, badFormat("it is not a request: it has no method")
	}
	if r.Method, ok = readString(raw); !ok {
		return Request{}, badFormat("its method is not a string")
	}
	for _, name := range []string{"result", "error"} {
		if _, ok := find(members, name); ok {
			return Request{}, badFormat("it is a request and a response at once")
		}
	}
	raw, ok = find(members, "id")
	if !ok {
		return Request{}, badFormat("it has no id: clients send no notifications")
	}
	if r.ID, err = readID(raw); err != nil {
		return Request{}, err
	}
	raw, ok = find(members, "params")
	switch {
	case !ok:
	case len(raw) > 0 && raw[0] == '[':
		r.ByPosition = true
	default:
		params, err := readObject(raw)
		if err != nil {
			return Request{}, badFormat("its params: %v", err)
		}
		r.Params = Params{members: params}
	}
	return r, nil
}

// readMessage bounds a payload and reads its outermost object.
func readMessage(payload []byte) ([]member, error) {
	if err := checkPayload(payload); err != nil {
		return nil, err
	}
	members, err := readObject(payload)
	if err != nil {
		return nil, badFormat("%v", err)
	}
	raw, _ := find(members, "jsonrpc")
	if version, _ := readString(raw); version != "2.0" {
		return nil, badFormat("it is not JSON-RPC 2.0")
	}
	return members, nil
}

// IsComplaint reports a payload by which a peer says that it could not read
// what we sent (-32700 for the id null). It is no request, but it is never
// answered: two LSPs would go on telling each other so for ever.
func IsComplaint(payload []byte) bool {
	m, err := ParseMessage(payload)
	return err == nil && m.Kind == KindResponse && m.ID.IsNull() && m.Error != nil && m.Error.Code == CodeParseError
}

// EncodeRequest writes a request as the client. params is an object; nil is {}.
func EncodeRequest(id ID, method string, params any) ([]byte, error) {
	if params == nil {
		params = struct{}{}
	}
	return encodeMessage(struct {
		JSONRPC string `json:"jsonrpc"`
		ID      ID     `json:"id"`
		Method  string `json:"method"`
		Params  any    `json:"params"`
	}{"2.0", id, method, params})
}
