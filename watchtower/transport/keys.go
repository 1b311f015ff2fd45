package transport

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/lightningnetwork/lnd/brontide"
	"github.com/lightningnetwork/lnd/keychain"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Key is a tower key and whose it is.
type Key struct {
	Tenant int64
	ecdh   keychain.SingleKeyECDH
	pub    []byte
}

// NewKey takes a private key.
func NewKey(tenant int64, private *btcec.PrivateKey) Key {
	return Key{Tenant: tenant, ecdh: &keychain.PrivKeyECDH{PrivKey: private}, pub: private.PubKey().SerializeCompressed()}
}

// PubKey is the public key, as it stands in the tower's URI.
func (k Key) PubKey() ln.PubKey { return ln.PubKey(k.pub) }

// Derive makes an identity's tower key from the tower's secret. It is the same
// whenever and wherever the identity registers, so that a database that went
// back gives nobody another one's key.
func Derive(secret []byte, identity string) (*btcec.PrivateKey, error) {
	if len(secret) < sha256.Size {
		return nil, errors.New("the tower's secret is too short")
	}
	for try := uint32(0); ; try++ {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte("sluice tower key"))
		mac.Write(binary.BigEndian.AppendUint32(nil, try))
		mac.Write([]byte(identity))
		var scalar btcec.ModNScalar
		// The odds of a number that is no key are 2^-128; the loop is for the type.
		if overflow := scalar.SetByteSlice(mac.Sum(nil)); overflow || scalar.IsZero() {
			continue
		}
		return btcec.PrivKeyFromScalar(&scalar), nil
	}
}

// symmetric is the handshake's running state, as BOLT 8 has it. The handshake
// itself is brontide's: this finds out what brontide does not tell, namely for
// which key an act was meant and who sent it.
type symmetric struct{ chain, digest [sha256.Size]byte }

const (
	protocolName = "Noise_XK_secp256k1_ChaChaPoly_SHA256"
	prologue     = "lightning"
)

func begin(responder []byte) symmetric {
	var s symmetric
	s.digest = sha256.Sum256([]byte(protocolName))
	s.chain = s.digest
	s.mixHash([]byte(prologue))
	s.mixHash(responder)
	return s
}

func (s *symmetric) mixHash(data []byte) {
	h := sha256.New()
	h.Write(s.digest[:])
	h.Write(data)
	h.Sum(s.digest[:0])
}

// mixKey gives the key for what is encrypted next.
func (s *symmetric) mixKey(secret []byte) ([]byte, error) {
	out, err := hkdf.Key(sha256.New, secret, s.chain[:], "", 2*sha256.Size)
	if err != nil {
		return nil, err
	}
	copy(s.chain[:], out)
	return out[sha256.Size:], nil
}

func open(key []byte, nonce uint64, digest, ciphertext []byte) ([]byte, error) {
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		return nil, err
	}
	var n [chacha20poly1305.NonceSize]byte
	binary.LittleEndian.PutUint64(n[4:], nonce)
	return aead.Open(nil, n[:], ciphertext, digest)
}

// errNotMeant says that an act was made for another key.
var errNotMeant = errors.New("the caller does not know this tower key")

// firstAct is a caller's first act: an ephemeral key and a tag that only fits the
// tower key it was made for.
type firstAct struct {
	raw       [brontide.ActOneSize]byte
	ephemeral *btcec.PublicKey
}

func parseFirstAct(raw [brontide.ActOneSize]byte) (firstAct, error) {
	if raw[0] != brontide.HandshakeVersion {
		return firstAct{}, fmt.Errorf("handshake version %d", raw[0])
	}
	e, err := btcec.ParsePubKey(raw[1:34])
	if err != nil {
		return firstAct{}, err
	}
	return firstAct{raw: raw, ephemeral: e}, nil
}

// meant checks whether the act was made for a key, and gives the handshake's
// state after it. It costs one multiplication on the curve.
func (a firstAct) meant(k Key) (symmetric, error) {
	s := begin(k.pub)
	s.mixHash(a.raw[1:34])
	secret, err := k.ecdh.ECDH(a.ephemeral)
	if err != nil {
		return s, err
	}
	key, err := s.mixKey(secret[:])
	if err != nil {
		return s, err
	}
	if _, err := open(key, 0, s.digest[:], a.raw[34:]); err != nil {
		return s, errNotMeant
	}
	s.mixHash(a.raw[34:])
	return s, nil
}

// caller reads from the third act who the caller is. What brontide makes of the
// same act decides whether it is true.
func (s symmetric) caller(a firstAct, ephemeral *btcec.PrivateKey, two [brontide.ActTwoSize]byte, three [brontide.ActThreeSize]byte) (*btcec.PublicKey, error) {
	s.mixHash(two[1:34])
	shared, err := (&keychain.PrivKeyECDH{PrivKey: ephemeral}).ECDH(a.ephemeral)
	if err != nil {
		return nil, err
	}
	key, err := s.mixKey(shared[:])
	if err != nil {
		return nil, err
	}
	s.mixHash(two[34:])
	static, err := open(key, 1, s.digest[:], three[1:50])
	if err != nil {
		return nil, err
	}
	return btcec.ParsePubKey(static)
}
