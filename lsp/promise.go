package lsp

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// MaxPromiseLen is bLIP-52's bound of a promise, in bytes of printable ASCII.
const MaxPromiseLen = 512

// PromiseKey is one secret under which promises are made, from SignsFrom until
// the next one's. Versions are never used twice.
type PromiseKey struct {
	Version   uint32
	Secret    [32]byte
	Made      time.Time
	SignsFrom time.Time
}

var errNoKeys = errors.New("there is no promise key")

// String keeps the secret out of logs.
func (k PromiseKey) String() string { return fmt.Sprintf("promise key %d", k.Version) }

// GoString keeps the secret out of %#v.
func (k PromiseKey) GoString() string { return k.String() }

// Promiser makes and verifies the promise of opening_fee_params: an
// HMAC-SHA256 over every field, the client's node id and the key's version, so
// that nothing needs to be stored for an offer that nobody takes up.
type Promiser struct {
	current PromiseKey
	keys    map[uint32]PromiseKey
}

// NewPromiser signs with current and still honours the older keys: keep a key
// for as long as what it promised is valid.
func NewPromiser(current PromiseKey, older ...PromiseKey) (*Promiser, error) {
	p := &Promiser{current: current, keys: map[uint32]PromiseKey{}}
	for _, k := range append([]PromiseKey{current}, older...) {
		if k.Secret == ([32]byte{}) {
			return nil, fmt.Errorf("%s is empty: make it from 32 random bytes", k)
		}
		if _, twice := p.keys[k.Version]; twice {
			return nil, errors.New("two promise keys have one version: give each its own")
		}
		p.keys[k.Version] = k
	}
	return p, nil
}

// Version is that of the key that signs.
func (p *Promiser) Version() uint32 { return p.current.Version }

// Promise gives the parameters with their promise for this client. ValidUntil
// is cut to whole seconds in UTC, so that every client's way of writing it
// names the same instant.
func (p *Promiser) Promise(client ln.PubKey, params OpeningFeeParams) OpeningFeeParams {
	params.ValidUntil = params.ValidUntil.UTC().Truncate(1e9)
	params.Promise = "v" + strconv.FormatUint(uint64(p.current.Version), 10) + "." +
		base64.RawURLEncoding.EncodeToString(p.current.mac(client, params))
	return params
}

// Verify says whether we promised exactly these parameters to this client:
// ErrPromiseBad or ErrPromiseOldKey if not. It says nothing about time.
func (p *Promiser) Verify(client ln.PubKey, params OpeningFeeParams) error {
	if len(params.Promise) > MaxPromiseLen {
		return ErrPromiseBad
	}
	version, text, ok := strings.Cut(strings.TrimPrefix(params.Promise, "v"), ".")
	if !ok || !strings.HasPrefix(params.Promise, "v") {
		return ErrPromiseBad
	}
	n, err := strconv.ParseUint(version, 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != version {
		return ErrPromiseBad
	}
	mac, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return ErrPromiseBad
	}
	key, ok := p.keys[uint32(n)]
	if !ok {
		return ErrPromiseOldKey
	}
	if !hmac.Equal(mac, key.mac(client, params)) {
		return ErrPromiseBad
	}
	return nil
}

// mac commits to values of fixed width in a fixed order: no two parameter sets
// give the same bytes. valid_until goes in as an instant, since clients write
// the same one in different ways.
func (k PromiseKey) mac(client ln.PubKey, p OpeningFeeParams) []byte {
	b := []byte("sluice/opening_fee_params/1\x00")
	b = binary.BigEndian.AppendUint32(b, k.Version)
	b = append(b, client[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(p.MinFeeMsat))
	b = binary.BigEndian.AppendUint32(b, p.ProportionalPPM)
	b = binary.BigEndian.AppendUint64(b, uint64(p.ValidUntil.Unix())) //nolint:gosec // the bits of the instant, whatever its sign
	b = binary.BigEndian.AppendUint32(b, uint32(p.ValidUntil.Nanosecond()))
	b = binary.BigEndian.AppendUint32(b, p.MinLifetimeBlocks)
	b = binary.BigEndian.AppendUint32(b, p.MaxClientToSelfDelay)
	b = binary.BigEndian.AppendUint64(b, uint64(p.MinPaymentSizeMsat))
	b = binary.BigEndian.AppendUint64(b, uint64(p.MaxPaymentSizeMsat))
	h := hmac.New(sha256.New, k.Secret[:])
	h.Write(b)
	return h.Sum(nil)
}
