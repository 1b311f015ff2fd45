package auth

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"gopkg.in/macaroon.v2"

	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Root key ids. An operator may bake macaroons under further ids, to revoke
// them one by one.
const (
	RootKeyOperator uint64 = 0
	RootKeyWallets  uint64 = 1
)

const (
	rootKeyLen = 32
	// maxMacaroonLen bounds what is parsed for callers that are not known yet.
	maxMacaroonLen = 4096
	macaroonIDLen  = 1 + 8 + 16
	macaroonIDv1   = 1
	// rootKeyCacheLife bounds how long another replica's revocation may go
	// unseen.
	rootKeyCacheLife = 5 * time.Second
)

// RootKeys stores the keys that macaroons are made with. Implementations keep
// them where only the daemon reads.
type RootKeys interface {
	// RootKey gives the key of an id, or an error of kind errkind.NotFound.
	RootKey(ctx context.Context, id uint64) ([]byte, error)
	// PutRootKey stores a key unless the id has one, in one step, and gives
	// the key that is stored afterwards.
	PutRootKey(ctx context.Context, id uint64, key []byte) ([]byte, error)
	// DeleteRootKey forgets a key; every macaroon made with it is dead. An
	// unknown id is no error.
	DeleteRootKey(ctx context.Context, id uint64) error
}

// Bakery makes and verifies macaroons. It is safe for concurrent use.
type Bakery struct {
	keys RootKeys
	rand io.Reader
	now  func() time.Time

	mu    sync.Mutex
	cache map[uint64]cachedKey
}

type cachedKey struct {
	key   []byte
	until time.Time
}

// NewBakery makes sure that the operator's and the wallets' root keys exist.
// random must be a cryptographic source.
func NewBakery(ctx context.Context, keys RootKeys, random io.Reader, now func() time.Time) (*Bakery, error) {
	b := &Bakery{keys: keys, rand: random, now: now, cache: map[uint64]cachedKey{}}
	for _, id := range []uint64{RootKeyOperator, RootKeyWallets} {
		if err := b.AddRootKey(ctx, id); err != nil {
			return nil, err
		}
		b.cache[id] = cachedKey{} // it exists, so that looking it up is free
	}
	return b, nil
}

// AddRootKey makes a root key under an id unless there is one.
func (b *Bakery) AddRootKey(ctx context.Context, id uint64) error {
	fresh := make([]byte, rootKeyLen)
	if _, err := io.ReadFull(b.rand, fresh); err != nil {
		return fmt.Errorf("make root key %d: %w", id, err)
	}
	if _, err := b.keys.PutRootKey(ctx, id, fresh); err != nil {
		return fmt.Errorf("store root key %d: %w", id, err)
	}
	return nil
}

// Revoke deletes a root key: its macaroons are refused from now on, here at
// once and by other replicas within five seconds.
func (b *Bakery) Revoke(ctx context.Context, id uint64) error {
	if err := b.keys.DeleteRootKey(ctx, id); err != nil {
		return fmt.Errorf("revoke root key %d: %w", id, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.cache, id)
	return nil
}

// Mint makes a macaroon for an identity under a root key, in hex.
func (b *Bakery) Mint(ctx context.Context, rootKeyID uint64, id Identity) (string, error) {
	if err := checkServices(id.Services); err != nil {
		return "", err
	}
	conditions := renderCaveats(id)
	if _, err := parseCaveats(conditions); err != nil {
		return "", fmt.Errorf("mint macaroon: %w", err)
	}
	key, err := b.rootKey(ctx, rootKeyID)
	if err != nil {
		return "", fmt.Errorf("mint macaroon: %w", err)
	}
	macID := binary.BigEndian.AppendUint64([]byte{macaroonIDv1}, rootKeyID)
	nonce := make([]byte, 16)
	if _, err := io.ReadFull(b.rand, nonce); err != nil {
		return "", fmt.Errorf("mint macaroon: %w", err)
	}
	m, err := macaroon.New(key, append(macID, nonce...), "sluice", macaroon.V2)
	if err != nil {
		return "", fmt.Errorf("mint macaroon: %w", err)
	}
	for _, c := range conditions {
		if err := m.AddFirstPartyCaveat([]byte(c)); err != nil {
			return "", fmt.Errorf("mint macaroon: %w", err)
		}
	}
	raw, err := m.MarshalBinary()
	if err != nil {
		return "", fmt.Errorf("mint macaroon: %w", err)
	}
	return hex.EncodeToString(raw), nil
}

// Verify gives the identity that a macaroon in hex proves for a call of a full
// method. Its errors are of kind errkind.Unauthenticated, or Unavailable when
// the root keys cannot be read.
func (b *Bakery) Verify(ctx context.Context, macaroonHex, method string) (Identity, error) {
	m, rootKeyID, err := decodeMacaroon(macaroonHex)
	if err != nil {
		return Identity{}, refuse(err)
	}
	key, err := b.rootKey(ctx, rootKeyID)
	switch {
	case errors.Is(err, errkind.Exhausted):
		return Identity{}, err
	case errors.Is(err, errkind.NotFound):
		return Identity{}, errkind.Wrap(errkind.Unauthenticated, err, "This macaroon was revoked or is from another server: log in again, or ask the operator for a new one.")
	case err != nil:
		return Identity{}, errkind.Wrap(errkind.Unavailable, err, "The server cannot check macaroons now: try again in a moment.")
	}
	// Conditions are read only after the MAC chain stood.
	conditions, err := m.VerifySignature(key, nil)
	if err != nil {
		return Identity{}, refuse(err)
	}
	c, err := parseCaveats(conditions)
	if err != nil {
		return Identity{}, refuse(err)
	}
	if !c.identity.Expires.IsZero() && !b.now().Before(c.identity.Expires) {
		return Identity{}, errkind.New(errkind.Unauthenticated, "This macaroon has expired: log in again.")
	}
	if c.methods != nil && !slices.Contains(c.methods, method) {
		return Identity{}, errkind.New(errkind.Denied, "This macaroon was restricted to other calls: use one that allows this call.")
	}
	c.identity.RootKey = rootKeyID
	return c.identity, nil
}

func refuse(cause error) error {
	return errkind.Wrap(errkind.Unauthenticated, cause, "This macaroon is not valid here: log in again, or check which server's macaroon file is used.")
}

func decodeMacaroon(text string) (*macaroon.Macaroon, uint64, error) {
	if len(text) > 2*maxMacaroonLen {
		return nil, 0, fmt.Errorf("macaroon longer than %d bytes", maxMacaroonLen)
	}
	raw, err := hex.DecodeString(text)
	if err != nil {
		return nil, 0, fmt.Errorf("macaroon is not hex: %w", err)
	}
	// The library also reads JSON and base64 forms; only the binary version 2
	// form is ours, and its first byte says so.
	if len(raw) == 0 || raw[0] != byte(macaroon.V2) {
		return nil, 0, errors.New("not a binary macaroon of version 2")
	}
	var m macaroon.Macaroon
	if err := m.UnmarshalBinary(raw); err != nil {
		return nil, 0, fmt.Errorf("macaroon: %w", err)
	}
	// The library takes bytes after the end; one macaroon has one form here.
	if canonical, err := m.MarshalBinary(); err != nil || !bytes.Equal(canonical, raw) {
		return nil, 0, errors.New("macaroon is not in canonical form")
	}
	id := m.Id()
	if len(id) != macaroonIDLen || id[0] != macaroonIDv1 {
		return nil, 0, errors.New("macaroon of another issuer")
	}
	return &m, binary.BigEndian.Uint64(id[1:9]), nil
}

// rootKey reads through a short cache. Only ids that exist are kept, so that
// made-up ids cannot fill it.
func (b *Bakery) rootKey(ctx context.Context, id uint64) ([]byte, error) {
	now := b.now()
	b.mu.Lock()
	cached, ok := b.cache[id]
	b.mu.Unlock()
	if ok && now.Before(cached.until) {
		return cached.key, nil
	}
	if !ok {
		if err := chargeLookup(ctx); err != nil {
			return nil, err
		}
	}
	key, err := b.keys.RootKey(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("root key %d: %w", id, err)
	}
	if len(key) != rootKeyLen {
		return nil, fmt.Errorf("root key %d has %d bytes, not %d", id, len(key), rootKeyLen)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cache[id] = cachedKey{key: key, until: now.Add(rootKeyCacheLife)}
	return key, nil
}

// OperatorFile makes sure that a file holds a working operator's macaroon, in
// binary like lnd's, with mode 0600, and reports whether it wrote one. A file
// whose macaroon no longer works (its root key was revoked) is replaced: so
// revoking root key 0 and starting again is how an operator rotates it.
func (b *Bakery) OperatorFile(ctx context.Context, path string) (bool, error) {
	if existing, err := ReadMacaroonFile(path); err == nil {
		_, err := b.Verify(ctx, existing, "")
		if err == nil || !errors.Is(err, errkind.Unauthenticated) {
			return false, err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	text, err := b.Mint(ctx, RootKeyOperator, Identity{Kind: KindOperator})
	if err != nil {
		return false, err
	}
	raw, err := hex.DecodeString(text)
	if err != nil {
		return false, err
	}
	return true, WriteFileAtomic(path, raw)
}

// ReadMacaroonFile reads a binary macaroon file and gives it in hex.
func ReadMacaroonFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("macaroon file: %w", err)
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxMacaroonLen+1))
	if err != nil {
		return "", fmt.Errorf("macaroon file %s: %w", path, err)
	}
	if len(raw) == 0 || len(raw) > maxMacaroonLen {
		return "", fmt.Errorf("macaroon file %s: want 1 to %d bytes; is it the right file?", path, maxMacaroonLen)
	}
	return hex.EncodeToString(raw), nil
}

// WriteFileAtomic writes a file readable to its owner alone, as a whole or not at all,
// and makes its directory.
func WriteFileAtomic(path string, content []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := durable.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// WriteMacaroonFile writes a macaroon in hex as a binary file like lnd's, readable to
// its owner alone. A file that is there is replaced as a whole.
func WriteMacaroonFile(path, macaroonHex string) error {
	raw, err := hex.DecodeString(macaroonHex)
	if err != nil || len(raw) == 0 {
		return fmt.Errorf("macaroon file %s: what was to be written is no macaroon", path)
	}
	return WriteFileAtomic(path, raw)
}
