// Package l402 mints and verifies L402 tokens: macaroons that count once their
// preimage, which a payment of their invoice brings, stands in them.
//
// It promises:
//   - everything of a token follows from one secret and the token's own random id,
//     so that nothing is stored for one, paid or not;
//   - nothing is read of a macaroon before its signature stood, and a condition that
//     is not known refuses it;
//   - secrets are compared in constant time, and never printed.
package l402

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"gopkg.in/macaroon.v2"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// ID names a token. It is no secret.
type ID [32]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Minter makes tokens under one secret.
type Minter struct{ secret [32]byte }

// New takes a secret that nobody else has.
func New(secret [32]byte) *Minter { return &Minter{secret: secret} }

// String keeps the secret out of logs.
func (*Minter) String() string { return "l402 minter" }

// GoString is String.
func (m *Minter) GoString() string { return m.String() }

func (m *Minter) derive(what string, id ID) []byte {
	h := hmac.New(sha256.New, m.secret[:])
	_, _ = h.Write([]byte("sluice/l402/" + what + "/"))
	_, _ = h.Write(id[:])
	return h.Sum(nil)
}

// Preimage is what a payment of the token's invoice brings.
func (m *Minter) Preimage(id ID) ln.Preimage { return ln.Preimage(m.derive("preimage", id)) }

// The macaroon's id: a version of two bytes (0), the payment hash, the token's id.
const (
	idLen   = 2 + 32 + 32
	maxLen  = 1024
	service = "sluice"
	// conditionPreimage is what the client adds when it has paid.
	conditionPreimage = "preimage="
)

// Mint makes a token that nobody has paid for.
func (m *Minter) Mint(id ID) ([]byte, error) {
	hash := m.Preimage(id).Hash()
	name := append(append(make([]byte, 2, idLen), hash[:]...), id[:]...)
	mac, err := macaroon.New(m.derive("key", id), name, service, macaroon.V2)
	if err != nil {
		return nil, fmt.Errorf("mint a token: %w", err)
	}
	return mac.MarshalBinary()
}

// Challenge is the header that asks for a payment.
func Challenge(mac []byte, bolt11 string) string {
	return fmt.Sprintf("L402 macaroon=%q, invoice=%q", base64.StdEncoding.EncodeToString(mac), bolt11)
}

// ErrToken refuses a token; the cause is for logs.
var ErrToken = errors.New("this is no token of this server, or nobody paid for it")

// Verify gives the id of a token, in hex as clients send it, that was paid for.
func (m *Minter) Verify(text string) (ID, error) {
	refuse := func(why string) (ID, error) { return ID{}, fmt.Errorf("%w (%s)", ErrToken, why) }
	if len(text) > 2*maxLen {
		return refuse("too long")
	}
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) == 0 {
		return refuse("not hexadecimal")
	}
	var mac macaroon.Macaroon
	if err := mac.UnmarshalBinary(raw); err != nil {
		return refuse("not a macaroon")
	}
	// The library takes bytes after the end; one token has one form here.
	if canonical, err := mac.MarshalBinary(); err != nil || !bytes.Equal(canonical, raw) {
		return refuse("not in canonical form")
	}
	name := mac.Id()
	if mac.Location() != service {
		return refuse("of another server") // no signature covers this
	}
	if len(name) != idLen || name[0] != 0 || name[1] != 0 {
		return refuse("of another version")
	}
	id := ID(name[34:])
	conditions, err := mac.VerifySignature(m.derive("key", id), nil)
	if err != nil {
		return refuse("signature")
	}
	preimage := m.Preimage(id)
	paid := false
	for _, c := range conditions {
		value, ok := strings.CutPrefix(c, conditionPreimage)
		if !ok {
			return refuse("a condition that is not known")
		}
		got, err := hex.DecodeString(value)
		if err != nil || subtle.ConstantTimeCompare(got, preimage.Bytes()) != 1 {
			return refuse("another preimage")
		}
		paid = true
	}
	if !paid {
		return refuse("not paid")
	}
	return id, nil
}
