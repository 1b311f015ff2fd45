package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"

	"filippo.io/age"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// A file is: the magic, the length of the ciphertext (4 bytes, big endian), the
// ciphertext (age, version 1), and the SHA-256 of all before. age alone would notice any
// change; the length and the sum tell a transfer that went wrong from a key that is
// not the right one, without the key.
const (
	magic     = "sluice-bundle-1\n"
	headerLen = len(magic) + 4
	sumLen    = sha256.Size
	maxSealed = 2 << 20
)

// Seal encrypts a bundle to an operator's key.
func Seal(b Bundle, to age.Recipient) ([]byte, error) {
	plain, err := b.Marshal()
	if err != nil {
		return nil, err
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, to)
	if err != nil {
		return nil, errkind.Wrap(errkind.Invalid, err, "The operator's key cannot be used: have the operator print it again (sluicectl tenant key).")
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	out := append([]byte(magic), 0, 0, 0, 0)
	binary.BigEndian.PutUint32(out[len(magic):], uint32(sealed.Len()))
	out = append(out, sealed.Bytes()...)
	sum := sha256.Sum256(out)
	return append(out, sum[:]...), nil
}

// Expect is whom a bundle must be for.
type Expect struct{ Tenant, Network string }

// Open reads a bundle, for one tenant on one network.
func Open(file []byte, key age.Identity, want Expect) (Bundle, error) {
	sealed, err := frame(file)
	if err != nil {
		return Bundle{}, err
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), key)
	if _, other := errors.AsType[*age.NoIdentityMatchError](err); other {
		return Bundle{}, errkind.Wrap(errkind.Invalid, err, "The bundle is encrypted to another operator's key: have the tenant make it again with the key that sluicectl tenant key prints here.")
	}
	var plain []byte
	if err == nil {
		plain, err = io.ReadAll(io.LimitReader(r, maxPlain+1))
	}
	if err != nil {
		return Bundle{}, errkind.Wrap(errkind.Invalid, err, altered)
	}
	b, err := Parse(plain)
	if err != nil {
		return Bundle{}, err
	}
	switch {
	case b.Tenant != want.Tenant:
		return Bundle{}, errkind.Newf(errkind.Conflict, "The bundle was made for the tenant %q, not for %q: a signer serves one tenant. Have %q make one of its own.", b.Tenant, want.Tenant, want.Tenant)
	case b.Network != want.Network:
		return Bundle{}, errkind.Newf(errkind.Invalid, "The bundle is for a signer on %s, and this gateway is on %s: have the tenant make it on the right one.", b.Network, want.Network)
	}
	return b, nil
}

const altered = "The bundle was altered after it was made: have the tenant send it again, and compare its fingerprint."

// frame checks the file around the ciphertext.
func frame(file []byte) ([]byte, error) {
	switch {
	case !bytes.HasPrefix(file, []byte(magic)) && !bytes.HasPrefix([]byte(magic), file):
		return nil, errkind.New(errkind.Invalid, "This file is no onboarding bundle: name the one that sluicectl signer init wrote.")
	case len(file) < headerLen+sumLen:
		return nil, errkind.Newf(errkind.Invalid, "The bundle is cut short after %d bytes: have the tenant send it again.", len(file))
	case len(file) > maxSealed:
		return nil, errkind.Newf(errkind.Invalid, "The bundle is larger than %d bytes: it was not made by this program.", maxSealed)
	}
	n := uint64(binary.BigEndian.Uint32(file[len(magic):headerLen]))
	whole := uint64(headerLen) + n + uint64(sumLen)
	switch have := uint64(len(file)); {
	case have < whole:
		return nil, errkind.Newf(errkind.Invalid, "The bundle is cut short: %d of %d bytes. Have the tenant send it again.", have, whole)
	case have > whole:
		return nil, errkind.Newf(errkind.Invalid, "Something was added to the bundle: it should have %d bytes and has %d. Have the tenant send it again.", whole, have)
	}
	body := file[:len(file)-sumLen]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], file[len(body):]) {
		return nil, errkind.New(errkind.Invalid, altered)
	}
	return body[headerLen:], nil
}
