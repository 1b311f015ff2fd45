package watchtower

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/btcsuite/btcd/btcec/v2/schnorr"
)

// NonceSize is what a caller's nonce has.
const NonceSize = 32

// Statement is the tower's signed word on what it holds for a tenant at a moment.
type Statement struct {
	ServerKey [32]byte
	Identity  string
	Nonce     []byte
	AtMs      int64
	Sessions  []StatedSession
	Signature [64]byte
}

// StatedSession is a session in a statement: the number of the last update that was
// applied, and how many updates there are.
type StatedSession struct {
	ID          [33]byte
	BlobType    uint16
	LastApplied uint16
	Updates     int64
}

// Text is what is signed: its SHA-256, by BIP 340.
func (s Statement) Text() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "sluice tower statement 1\n%s\n%s\n%s\n%d\n%d\n", hex.EncodeToString(s.ServerKey[:]), s.Identity, hex.EncodeToString(s.Nonce), s.AtMs, len(s.Sessions))
	for _, held := range s.Sessions {
		fmt.Fprintf(&b, "%s %d %d %d\n", hex.EncodeToString(held.ID[:]), held.BlobType, held.LastApplied, held.Updates)
	}
	return []byte(b.String())
}

// Verify checks the signature against the key that the statement names.
func (s Statement) Verify() error {
	key, err := schnorr.ParsePubKey(s.ServerKey[:])
	if err != nil {
		return fmt.Errorf("the statement's key: %w", err)
	}
	signature, err := schnorr.ParseSignature(s.Signature[:])
	if err != nil {
		return fmt.Errorf("the statement's signature: %w", err)
	}
	digest := sha256.Sum256(s.Text())
	if !signature.Verify(digest[:], key) {
		return errors.New("the statement was not signed by the tower's key")
	}
	return nil
}
