package lsps1

import (
	"errors"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
)

// The codes of LSPS1. Bad tokens have one since LSPS1's own specification;
// bLIP-51 names none.
const (
	CodeOptionMismatch    = 100
	CodeNotFound          = 101
	CodeUnrecognizedToken = 102
)

// ErrToken says that a token is unknown.
var ErrToken = errkind.New(errkind.Invalid, "the token is unknown or has expired: ask the LSP for another, or leave it out")

// ErrNotFound answers ids that do not exist, or not for this client.
var ErrNotFound = errkind.New(errkind.NotFound, "there is no such order: check the id (finished ones are deleted after a while)")

// Mismatch refuses an order that the options do not allow. Its property is one
// of theirs.
type Mismatch struct {
	Property string
	sentence string
}

func mismatch(property, format string, args ...any) error {
	return &Mismatch{Property: property, sentence: fmt.Sprintf(format, args...)}
}

func (e *Mismatch) Error() string { return e.sentence }

// Unwrap gives the refusal its kind, for callers over gRPC and REST.
func (e *Mismatch) Unwrap() error { return errkind.New(errkind.Invalid, e.sentence) }

// BadParam refuses a parameter of a request.
type BadParam struct {
	Property string
	sentence string
}

// Bad makes a BadParam.
func Bad(property, format string, args ...any) error {
	return &BadParam{Property: property, sentence: fmt.Sprintf(format, args...)}
}

func (e *BadParam) Error() string { return e.Property + ": " + e.sentence }

// Unwrap gives the refusal its kind, for callers over gRPC and REST.
func (e *BadParam) Unwrap() error { return errkind.New(errkind.Invalid, e.Error()) }

// Refusal is the spec's answer to a refusal of ours. What the spec has no code
// for, and is for the client to know, is client_rejected with the sentence.
// Anything else stays as it is, for the log.
func Refusal(err error) error {
	if m, ok := errors.AsType[*Mismatch](err); ok {
		return &lsps0.Error{Code: CodeOptionMismatch, Message: "Option mismatch", Data: map[string]any{"property": m.Property, "message": m.sentence}}
	}
	if b, ok := errors.AsType[*BadParam](err); ok {
		return lsps0.InvalidParam(b.Property, b.sentence)
	}
	switch {
	case errors.Is(err, ErrNotFound):
		return &lsps0.Error{Code: CodeNotFound, Message: "Not found", Data: map[string]any{}}
	case errors.Is(err, ErrToken):
		return &lsps0.Error{Code: CodeUnrecognizedToken, Message: "Unrecognized or stale token"}
	}
	if sentence := errkind.Sentence(err); sentence != "" {
		return lsps0.ClientRejected(sentence)
	}
	return err
}
