package vault

import (
	"crypto/sha256"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Scheme is the way in which an identity was proved. It is part of the
// identity: a token whose subject reads like somebody's key must not open what
// that key opens, and a signature that can be replayed for a day must not
// open what needs a login.
type Scheme string

// The schemes.
const (
	// SchemeNode is a Lightning node that logged in.
	SchemeNode Scheme = "node"
	// SchemeSignature is a key that signed VSS's constant and the time.
	SchemeSignature Scheme = "sig"
	// SchemeToken is the subject of a signed token (JWT).
	SchemeToken Scheme = "jwt"
)

// MaxSubjectChars bounds the subject of an identity, as VSS's reference does.
const MaxSubjectChars = 120

// Identity is whom stored data belongs to, as stable text: the scheme, a colon
// and the subject.
type Identity string

// NewIdentity makes an identity of a subject that was proved under a scheme.
func NewIdentity(scheme Scheme, subject string) (Identity, error) {
	if scheme != SchemeNode && scheme != SchemeSignature && scheme != SchemeToken {
		return "", errkind.Newf(errkind.Invalid, "There is no identity scheme %q.", string(scheme))
	}
	if subject == "" || !utf8.ValidString(subject) || utf8.RuneCountInString(subject) > MaxSubjectChars {
		return "", errkind.Newf(errkind.Invalid, "An identity's subject has 1 to %d characters.", MaxSubjectChars)
	}
	// Subjects stand in operators' tables and logs.
	if strings.ContainsFunc(subject, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", errkind.New(errkind.Invalid, "An identity's subject has printable characters only.")
	}
	return Identity(string(scheme) + ":" + subject), nil
}

// ParseIdentity reads an identity's text.
func ParseIdentity(text string) (Identity, error) {
	scheme, subject, ok := strings.Cut(text, ":")
	if !ok {
		return "", errkind.New(errkind.Invalid, "Give an identity as SCHEME:SUBJECT, as the list of identities shows it.")
	}
	return NewIdentity(Scheme(scheme), subject)
}

// OwnerID is the short form of an identity in tables.
type OwnerID [16]byte

// Owner gives the short form: 128 bits of a hash, so that nobody can find an
// identity whose rows are another's.
func (i Identity) Owner() OwnerID {
	sum := sha256.Sum256([]byte(i))
	return OwnerID(sum[:16])
}
