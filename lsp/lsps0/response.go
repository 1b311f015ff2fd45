package lsps0

import (
	"encoding/json"
	"errors"
	"fmt"
)

// ErrTooLarge says that an answer does not fit into one message.
var ErrTooLarge = errors.New("the LSPS message is larger than one peer message carries")

type response struct {
	JSONRPC string `json:"jsonrpc"`
	ID      ID     `json:"id"`
	Result  any    `json:"result,omitempty"`
	Error   *Error `json:"error,omitempty"`
}

// EncodeResult answers a request; result is an object.
func EncodeResult(id ID, result any) ([]byte, error) {
	return encodeMessage(response{JSONRPC: "2.0", ID: id, Result: result})
}

// EncodeError answers a request that failed. plain leaves data out, for clients
// that take an object there for a bad message (LDK's type is a string) and then
// hear nothing more until they connect again.
func EncodeError(id ID, e *Error, plain bool) ([]byte, error) {
	shown := *e
	if plain {
		shown.Data = nil
	}
	return encodeMessage(response{JSONRPC: "2.0", ID: id, Error: &shown})
}

// EncodeNotification writes what an LSP tells a client by itself.
func EncodeNotification(method string, params any) ([]byte, error) {
	if params == nil {
		params = struct{}{}
	}
	return encodeMessage(struct {
		JSONRPC string `json:"jsonrpc"`
		Method  string `json:"method"`
		Params  any    `json:"params"`
	}{"2.0", method, params})
}

func encodeMessage(v any) ([]byte, error) {
	b, err := encode(v)
	if err == nil && len(b) > MaxPayload {
		return nil, fmt.Errorf("%w (%d bytes)", ErrTooLarge, len(b))
	}
	return b, err
}

// Kind is what an LSP sent to its client.
type Kind string

// The kinds.
const (
	KindResponse     Kind = "response"
	KindNotification Kind = "notification"
)

// Message is what an LSP sent to its client.
type Message struct {
	Kind Kind
	// ID, and Result or Error, belong to a response. Unknown names in Result are
	// the reader's to ignore.
	ID     ID
	Result json.RawMessage
	Error  *RemoteError
	// Method and Params belong to a notification.
	Method string
	Params Params
}

// RemoteError is an error that an LSP answered with. Message is for advanced
// users only, and filtered: the spec wants clients to write their own.
type RemoteError struct {
	Code    int
	Message string
	// Data is whatever the LSP sent, an object by the spec.
	Data json.RawMessage
}

func (e *RemoteError) Error() string { return fmt.Sprintf("LSPS error %d (%s)", e.Code, e.Message) }

// ParseMessage reads a payload as the client. Every error is ErrBadFormat: the
// message is ignored, and no more requests are sent on this connection.
func ParseMessage(payload []byte) (Message, error) {
	members, err := readMessage(payload)
	if err != nil {
		return Message{}, err
	}
	rawID, hasID := find(members, "id")
	if !hasID {
		return notification(members)
	}
	m := Message{Kind: KindResponse}
	if !isNull(rawID) {
		if m.ID, err = readID(rawID); err != nil {
			return Message{}, err
		}
	}
	var hasResult, hasError bool
	m.Result, hasResult = find(members, "result")
	rawError, hasError := find(members, "error")
	switch {
	case hasResult == hasError:
		return Message{}, badFormat("a response has either a result or an error")
	case hasError:
		m.Error, err = readError(rawError)
		return m, err
	case len(m.Result) == 0 || m.Result[0] != '{':
		return Message{}, badFormat("the result is not an object")
	}
	return m, nil
}

// ResultList reads a list of at most most objects out of a result, as the
// client.
func ResultList(result json.RawMessage, name string, most int) ([]Params, error) {
	members, err := readObject(result)
	if err != nil {
		return nil, badFormat("the result: %v", err)
	}
	raw, _ := find(members, name)
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil || items == nil {
		return nil, badFormat("the result has no list %s", name)
	}
	if len(items) > most {
		return nil, badFormat("%s has %d items, more than %d", name, len(items), most)
	}
	out := make([]Params, 0, len(items))
	for i, item := range items {
		members, err := readObject(item)
		if err != nil {
			return nil, badFormat("%s: item %d: %v", name, i+1, err)
		}
		out = append(out, Params{path: fmt.Sprintf("%s.%d.", name, i), members: members})
	}
	return out, nil
}

func notification(members []member) (Message, error) {
	raw, _ := find(members, "method")
	method, ok := readString(raw)
	if !ok {
		return Message{}, badFormat("it is neither a response nor a notification")
	}
	raw, _ = find(members, "params")
	params, err := readObject(raw)
	if err != nil {
		return Message{}, badFormat("the notification's params: %v", err)
	}
	return Message{Kind: KindNotification, Method: method, Params: Params{members: params}}, nil
}

func readError(raw json.RawMessage) (*RemoteError, error) {
	members, err := readObject(raw)
	if err != nil {
		return nil, badFormat("the error: %v", err)
	}
	e := &RemoteError{}
	code, _ := find(members, "code")
	if err := json.Unmarshal(code, &e.Code); err != nil {
		return nil, badFormat("the error's code is not an integer")
	}
	text, _ := find(members, "message")
	message, ok := readString(text)
	if !ok {
		return nil, badFormat("the error's message is not a string")
	}
	e.Message = Printable(message)
	e.Data, _ = find(members, "data")
	return e, nil
}

// Printable makes a foreign text fit for a terminal and a log: bounded, one
// line, no control characters, nothing that HTML would take for a tag.
func Printable(s string) string {
	const most = 500
	out := make([]rune, 0, min(len(s), most))
	for _, r := range s {
		if len(out) == most {
			break
		}
		switch {
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == '<' || r == '>' || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			r = ' '
		}
		out = append(out, r)
	}
	return string(out)
}
