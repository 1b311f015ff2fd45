package seal

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr"
	"golang.org/x/crypto/argon2"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Kind says what a secret was made of. It stands in every sealed file, so that
// whoever restores knows what to look for.
type Kind byte

// The kinds.
const (
	// FromSeed: nothing but lnd's seed is needed.
	FromSeed Kind = 1
	// FromPassphrase: for nodes whose host can ask the signer for anything.
	FromPassphrase Kind = 2
)

func (k Kind) String() string {
	switch k {
	case FromSeed:
		return "seed"
	case FromPassphrase:
		return "passphrase"
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// Secret is what all keys of one node's backup come from.
type Secret struct {
	Kind    Kind
	Network string
	root    [32]byte
}

// SeedKey is the key of lnd's wallet that the secret comes from. The family is
// one that lnd does not use itself; it is below 256, so that watch-only nodes
// have it, too.
func SeedKey() ln.KeyLocator { return ln.KeyLocator{Family: 201, Index: 0} }

// SeedPoint is the point that this key is multiplied with. It is a hash, so
// that nobody knows its logarithm: with the generator in its place the product
// would be the public key, which every watch-only copy of the wallet has.
func SeedPoint() ln.PubKey {
	for i := uint32(0); ; i++ {
		x := sha256.Sum256(binary.BigEndian.AppendUint32([]byte("sluice/backup/point/1"), i))
		if _, err := schnorr.ParsePubKey(x[:]); err == nil {
			var out ln.PubKey
			out[0] = 2
			copy(out[1:], x[:])
			return out
		}
	}
}

// OfSeed makes the secret of the ECDH of SeedKey with SeedPoint.
func OfSeed(network string, shared [32]byte) (Secret, error) {
	if network == "" {
		return Secret{}, errors.New("the network is not known")
	}
	s := Secret{Kind: FromSeed, Network: network}
	return s, derive(s.root[:], shared[:], "sluice/backup/root/seed/1/"+network)
}

// Argon2id's costs (RFC 9106, second recommendation).
const (
	argonTime    = 3
	argonMemory  = 64 << 10 // KiB
	argonThreads = 4
	// MinPassphrase is how long a passphrase must be: whoever has the
	// ciphertext can guess for years.
	MinPassphrase = 16
)

// OfPassphrase makes the secret of a passphrase. The node's key is the salt:
// it is unique, and known again after everything else was lost.
func OfPassphrase(network string, node ln.PubKey, passphrase []byte) (Secret, error) {
	if len(passphrase) < MinPassphrase {
		return Secret{}, errkind.Newf(errkind.Invalid, "the passphrase has %d bytes: use at least %d, of random words", len(passphrase), MinPassphrase)
	}
	if network == "" || node.IsZero() {
		return Secret{}, errors.New("the network and the node's key are not known")
	}
	salt := sha256.Sum256(append([]byte("sluice/backup/salt/1/"+network+"/"), node[:]...))
	s := Secret{Kind: FromPassphrase, Network: network}
	stretched := argon2.IDKey(passphrase, salt[:16], argonTime, argonMemory, argonThreads, 32)
	return s, derive(s.root[:], stretched, "sluice/backup/root/passphrase/1/"+network)
}

// derive is HKDF-SHA256 without salt.
func derive(into, from []byte, info string) error {
	out, err := hkdf.Key(sha256.New, from, nil, info, len(into))
	if err != nil {
		return fmt.Errorf("derive %s: %w", info, err)
	}
	copy(into, out)
	return nil
}

func (s Secret) key(purpose string) (out [32]byte, err error) {
	if s.root == ([32]byte{}) {
		return out, errors.New("the backup's secret is missing")
	}
	return out, derive(out[:], s.root[:], "sluice/backup/"+purpose+"/1/"+s.Network)
}

// ID is the name that providers see of an object: they learn nothing of its own.
func (s Secret) ID(name string) (string, error) {
	key, err := s.key("name")
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte(name))
	return hex.EncodeToString(mac.Sum(nil)[:16]), nil
}

// Place is the folder of this node where several share a directory or a bucket.
func (s Secret) Place() (string, error) {
	key, err := s.key("place")
	return hex.EncodeToString(key[:16]), err
}

// AuthKey is the key that a VSS server knows this node by.
func (s Secret) AuthKey() (*btcec.PrivateKey, error) {
	raw, err := s.key("vss")
	if err != nil {
		return nil, err
	}
	var n btcec.ModNScalar
	// One hash in 2^128 is none; it would be somebody's whole backup.
	if overflow := n.SetByteSlice(raw[:]); overflow || n.IsZero() {
		return nil, errors.New("the derived VSS key is no secret key")
	}
	key, _ := btcec.PrivKeyFromBytes(raw[:])
	return key, nil
}

// Same says that two secrets are one.
func (s Secret) Same(o Secret) bool {
	return s.Kind == o.Kind && s.Network == o.Network && hmac.Equal(s.root[:], o.root[:])
}

// String keeps the secret out of logs.
func (s Secret) String() string { return "backup secret of a " + s.Kind.String() + " on " + s.Network }

// Encode is the text of a key file.
func (s Secret) Encode() string {
	return fmt.Sprintf("sluice-backup-key-1 %s %s %s\n", s.Kind, s.Network, hex.EncodeToString(s.root[:]))
}

// DecodeSecret reads a key file.
func DecodeSecret(text string) (Secret, error) {
	var kind, network, root string
	if n, err := fmt.Sscanf(text, "sluice-backup-key-1 %16s %16s %64s", &kind, &network, &root); err != nil || n != 3 {
		return Secret{}, errkind.New(errkind.Invalid, "this is not a backup key: `sluice-wallet backup key` makes one")
	}
	s := Secret{Network: network}
	raw, err := hex.DecodeString(root)
	if err != nil || len(raw) != len(s.root) {
		return Secret{}, errkind.New(errkind.Invalid, "the backup key is damaged: `sluice-wallet backup key` makes the same one again")
	}
	copy(s.root[:], raw)
	for _, k := range []Kind{FromSeed, FromPassphrase} {
		if k.String() == kind {
			s.Kind = k
		}
	}
	if s.Kind == 0 || s.root == ([32]byte{}) || s.Encode() != text {
		return Secret{}, errkind.New(errkind.Invalid, "the backup key is damaged: `sluice-wallet backup key` makes the same one again")
	}
	return s, nil
}
