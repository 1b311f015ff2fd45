package vault

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// ServerKey is the x-only public key (BIP 340) that receipts are signed with.
type ServerKey [32]byte

// Epoch names a stretch of the server's history in which its database did not
// go back. A server that was restored from an older copy begins another, at
// random, and so admits it in everything that it signs from then on.
type Epoch [16]byte

// Signature is a BIP 340 signature.
type Signature [64]byte

// BindingText is what a gateway's node signs, as lnd's SignMessage does, so that
// what its receipt key signed is its own word, and it cannot take another key.
func BindingText(key ServerKey) string {
	return "sluice backup receipts, version 1\nreceipt-key: " + hex.EncodeToString(key[:])
}

// NonceSize is the size of a client's nonce.
const NonceSize = 32

// Head says where an identity's log stands.
type Head struct {
	Server   ServerKey
	Identity Identity
	Epoch    Epoch
	Seq      uint64
	Hash     Hash
	// AtMs is the server's clock. It orders what one server says, and is no
	// proof of the time.
	AtMs int64
}

// digest is what is signed: with a nonce a fresh head, without one a receipt.
// The tags keep one from passing for the other.
func (h Head) digest(nonce []byte) Hash {
	b := make([]byte, 0, 32+2+len(h.Identity)+16+8+32+8+NonceSize)
	b = append(b, h.Server[:]...)
	b = appendText(b, string(h.Identity))
	b = append(b, h.Epoch[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Seq)
	b = append(b, h.Hash[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.AtMs)) //nolint:gosec // two's complement, as the format says
	if nonce == nil {
		return tagged(tagReceipt, b)
	}
	return tagged(tagHead, append(b, nonce...))
}

// SignedHead is a head with its signature. Nonce is nil in receipts.
type SignedHead struct {
	Head
	Nonce     []byte
	Signature Signature
}

// Receipt is the server's word that a write is durable. The entries, hashed one
// after the other onto Prev, give the signed running hash.
type Receipt struct {
	Prev    Hash
	Entries []Entry
	Head    SignedHead
}

// Signer signs for one server.
type Signer struct {
	key    *btcec.PrivateKey
	public ServerKey
}

// NewSigner takes a secret key of 32 bytes.
func NewSigner(secret []byte) (*Signer, error) {
	var n btcec.ModNScalar
	if len(secret) != 32 {
		return nil, fmt.Errorf("the receipt key has %d bytes, not 32", len(secret))
	}
	if overflow := n.SetByteSlice(secret); overflow || n.IsZero() {
		return nil, errors.New("the receipt key is no secret key of secp256k1")
	}
	key, public := btcec.PrivKeyFromBytes(secret)
	return &Signer{key: key, public: ServerKey(schnorr.SerializePubKey(public))}, nil
}

// Key is the public key.
func (s *Signer) Key() ServerKey { return s.public }

// Receipt signs what a plan did. It must not be given out before the plan is
// durable.
func (s *Signer) Receipt(p Plan, epoch Epoch, now time.Time) (Receipt, error) {
	head, err := s.sign(p.Account, epoch, now, nil)
	if err != nil {
		return Receipt{}, err
	}
	return Receipt{Prev: p.Prev, Entries: p.Entries(), Head: head}, nil
}

// Head signs where a log stands over a client's nonce.
func (s *Signer) Head(acc Account, epoch Epoch, now time.Time, nonce []byte) (SignedHead, error) {
	if len(nonce) != NonceSize {
		return SignedHead{}, errkind.Newf(errkind.Invalid, "The nonce has %d bytes: give %d random ones, new for each call.", len(nonce), NonceSize)
	}
	return s.sign(acc, epoch, now, append([]byte{}, nonce...))
}

func (s *Signer) sign(acc Account, epoch Epoch, now time.Time, nonce []byte) (SignedHead, error) {
	out := SignedHead{Nonce: nonce, Head: Head{
		Server: s.public, Identity: acc.Identity, Epoch: epoch, Seq: acc.Seq, Hash: acc.Head, AtMs: now.UnixMilli(),
	}}
	digest := out.digest(nonce)
	// Signing verifies what it signed unless told not to, which is two thirds of a
	// receipt's cost. It guards against a faulty computation that, beside a
	// sound one over the same message, gives the key away: no message is signed
	// twice here, for each has its entry, time or nonce. A client that gets a
	// faulty signature takes it for none.
	sig, err := schnorr.Sign(s.key, digest[:], schnorr.FastSign())
	if err != nil {
		return SignedHead{}, fmt.Errorf("sign the head of %s: %w", acc.Identity, err)
	}
	out.Signature = Signature(sig.Serialize())
	return out, nil
}

// ErrForged says that something was not signed by the server it names, or does
// not hold together.
var ErrForged = errors.New("the signature or the running hash does not fit")

// Verify checks the signature under the key that the head itself names: the
// caller compares that key with the one it knows.
func (h SignedHead) Verify() error {
	public, err := schnorr.ParsePubKey(h.Server[:])
	if err != nil {
		return fmt.Errorf("%w: server key: %w", ErrForged, err)
	}
	sig, err := schnorr.ParseSignature(h.Signature[:])
	if err != nil {
		return fmt.Errorf("%w: signature: %w", ErrForged, err)
	}
	digest := h.digest(h.Nonce)
	if !sig.Verify(digest[:], public) {
		return fmt.Errorf("%w: signature", ErrForged)
	}
	return nil
}

// Verify checks a receipt: its signature, and that its entries lead from Prev
// to the signed running hash.
func (r Receipt) Verify() error {
	if r.Head.Nonce != nil {
		return fmt.Errorf("%w: a head in the place of a receipt", ErrForged)
	}
	if err := r.Head.Verify(); err != nil {
		return err
	}
	if uint64(len(r.Entries)) > r.Head.Seq {
		return fmt.Errorf("%w: more entries than the log has", ErrForged)
	}
	at, err := follow(r.Prev, r.Head.Seq-uint64(len(r.Entries)), r.Entries)
	if err != nil {
		return err
	}
	if at != r.Head.Hash {
		return fmt.Errorf("%w: the entries lead to another running hash", ErrForged)
	}
	return nil
}

// follow extends a running hash by entries that must come after seq without a
// gap.
func follow(at Hash, seq uint64, entries []Entry) (Hash, error) {
	for _, e := range entries {
		if seq++; e.Seq != seq {
			return Hash{}, fmt.Errorf("%w: entry %d where %d belongs", ErrForged, e.Seq, seq)
		}
		at = Extend(at, e)
	}
	return at, nil
}
