// Package errkind gives an error one kind and one sentence for the person who
// reads it.
//
// It promises to import only the standard library, so that domain code can
// use it; the kind is mapped to gRPC and HTTP codes in one place
// (internal/rpcserver) and to LSPS codes in another. The sentence tells the
// person what to do next and holds nothing that may not leave the process;
// causes stay in the wrapped error, for the log.
package errkind

import (
	"errors"
	"fmt"
	"strings"
)

// Kind is the class of an error, as stable text. It is itself an error, so
// that errors.Is(err, errkind.NotFound) reads as it sounds.
type Kind string

// The kinds. Whatever has none is Internal.
const (
	// Invalid: the request can never succeed as it stands.
	Invalid Kind = "invalid"
	// NotFound: what was named does not exist, or not for this caller.
	NotFound Kind = "not_found"
	// Conflict: the thing's present state forbids it; read it again first.
	Conflict Kind = "conflict"
	// Exhausted: a limit or quota is used up; later or less may succeed.
	Exhausted Kind = "exhausted"
	// Unavailable: something that is needed is away; the same call may
	// succeed soon.
	Unavailable Kind = "unavailable"
	// Unauthenticated: nobody, or nobody any more; log in and call again.
	Unauthenticated Kind = "unauthenticated"
	// Denied: the caller is known and may not.
	Denied Kind = "denied"
	// Unimplemented: this server does not offer it; no retry helps.
	Unimplemented Kind = "unimplemented"
	// Internal: our fault. Its text is never shown to callers.
	Internal Kind = "internal"
)

// Kinds lists every kind, for tables that must cover them all.
func Kinds() []Kind {
	return []Kind{Invalid, NotFound, Conflict, Exhausted, Unavailable, Unauthenticated, Denied, Unimplemented, Internal}
}

func (k Kind) Error() string { return string(k) }

// Error is an error with a kind and a sentence for the caller. Make it with
// New, Newf or Wrap.
type Error struct {
	kind     Kind
	sentence string
	cause    error
}

// New makes an error of a kind; the sentence tells the caller what to do next.
func New(kind Kind, sentence string) error {
	return &Error{kind: kind, sentence: sentence}
}

// Newf is New with formatting. What the arguments print is shown to the
// caller; a %w among them becomes the cause, which is printed too: use Wrap
// for causes that are nobody else's business.
func Newf(kind Kind, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{kind: kind, sentence: err.Error(), cause: errors.Unwrap(err)}
}

// Wrap gives a cause a kind and a sentence. Callers see the sentence, the log
// sees both. A nil cause gives nil.
func Wrap(kind Kind, cause error, sentence string) error {
	if cause == nil {
		return nil
	}
	return &Error{kind: kind, sentence: sentence, cause: cause}
}

func (e *Error) Error() string {
	if e.cause == nil || e.sentence == "" {
		return e.bare()
	}
	if cause := e.cause.Error(); !strings.Contains(e.sentence, cause) {
		return e.sentence + ": " + cause
	}
	return e.sentence
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.cause }

// Is matches the error's own kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.kind
}

// Kind is the error's class.
func (e *Error) Kind() Kind { return e.kind }

// Sentence is what the caller may read.
func (e *Error) Sentence() string { return e.sentence }

// Of gives the kind of the outermost error in the chain that has one: the
// layer nearest the caller decides. Internal when none has, "" for nil.
func Of(err error) Kind {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.kind
	}
	if k, ok := errors.AsType[Kind](err); ok {
		return k
	}
	return Internal
}

// Sentence gives what the caller may read: the sentence of the error that
// decides the kind. It is empty for nil, for Internal, and for an error
// without kind, since their text may hold what nobody else may see.
func Sentence(err error) string {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.kind == Internal {
		return ""
	}
	return e.sentence
}

// Told is what the owner of the program that met err may read: the sentence,
// or all of the error where there is none. It is never for a caller.
func Told(err error) string {
	if s := Sentence(err); s != "" {
		return s
	}
	return err.Error()
}

func (e *Error) bare() string {
	switch {
	case e.sentence != "":
		return e.sentence
	case e.cause != nil:
		return e.cause.Error()
	default:
		return string(e.kind)
	}
}
