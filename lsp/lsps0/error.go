package lsps0

import (
	"fmt"
	"slices"
)

// The codes of JSON-RPC 2.0, and the one that all LSPS share. LSPS N owns
// N*100 to N*100+99.
const (
	CodeParseError     = -32700
	CodeMethodNotFound = -32601
	CodeInvalidParams  = -32602
	CodeInternal       = -32603
	CodeClientRejected = 1
)

// Error is an error answered to a client. Its texts leave the process.
type Error struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	// Data is an object or absent.
	Data map[string]any `json:"data,omitempty"`
}

func (e *Error) Error() string { return fmt.Sprintf("LSPS error %d (%s)", e.Code, e.Message) }

// ParseError answers a bad message format; its id is null.
func ParseError() *Error { return &Error{Code: CodeParseError, Message: "Parse error"} }

// MethodNotFound answers a method that is not served.
func MethodNotFound() *Error { return &Error{Code: CodeMethodNotFound, Message: "Method not found"} }

// Internal answers what is our own fault, or a moment's: it says nothing else.
func Internal() *Error { return &Error{Code: CodeInternal, Message: "Internal error"} }

// ClientRejected refuses a client, or its request for now, with the reason.
func ClientRejected(reason string) *Error {
	return &Error{Code: CodeClientRejected, Message: "Client rejected", Data: map[string]any{"message": reason}}
}

// Unrecognized answers parameters that the method does not have.
func Unrecognized(names []string) *Error {
	names = slices.Clone(names)
	slices.Sort(names)
	return &Error{Code: CodeInvalidParams, Message: "Invalid params", Data: map[string]any{"unrecognized": names}}
}

// InvalidParam answers a parameter that is missing or cannot be. bLIP-50 wants
// `unrecognized` with every -32602, bLIP-51 `property` and `message`: all are
// sent. In property "." leads into an object.
func InvalidParam(property, message string) *Error {
	return &Error{Code: CodeInvalidParams, Message: "Invalid params", Data: map[string]any{
		"unrecognized": []string{}, "property": property, "message": message,
	}}
}
