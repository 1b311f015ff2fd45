package auth

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/btcsuite/btcd/btcec/v2/ecdsa"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// signedMessagePrefix is what Lightning nodes put before every text they sign
// for people, so that it can never be a transaction.
const signedMessagePrefix = "Lightning Signed Message:"

// zbase32Alphabet orders the digits of z-base-32.
const zbase32Alphabet = "ybndrfg8ejkmcpqxot1uwisza345h769"

// compactSigLen is a recovery byte, r and s; in z-base-32 it has exactly 104
// digits and no padding bits.
const (
	compactSigLen     = 65
	compactSigTextLen = compactSigLen * 8 / 5
)

// RecoverSigner gives the node key that signed a text with lnd's SignMessage:
// z-base-32 of the compact recoverable signature over the double SHA-256 of
// the prefixed text. Any well-formed signature recovers to some key: the
// caller compares it with the one it expects.
func RecoverSigner(message, signature string) (ln.PubKey, error) {
	sig, err := decodeSignature(signature)
	if err != nil {
		return ln.PubKey{}, err
	}
	digest := messageDigest(message)
	key, _, err := ecdsa.RecoverCompact(sig, digest[:])
	if err != nil {
		return ln.PubKey{}, errkind.Wrap(errkind.Invalid, err, "The signature does not fit the text: sign the text exactly as it was given.")
	}
	return ln.PubKeyFromBytes(key.SerializeCompressed())
}

func messageDigest(message string) [32]byte {
	first := sha256.Sum256([]byte(signedMessagePrefix + message))
	return sha256.Sum256(first[:])
}

func decodeSignature(text string) ([]byte, error) {
	if len(text) != compactSigTextLen {
		return nil, errkind.Newf(errkind.Invalid, "A signature by lnd's SignMessage has %d characters, this one has %d.", compactSigTextLen, len(text))
	}
	out := make([]byte, 0, compactSigLen)
	var window uint32
	var bits int
	for _, r := range []byte(text) {
		digit := strings.IndexByte(zbase32Alphabet, r)
		if digit < 0 {
			return nil, errkind.New(errkind.Invalid, "The signature has a character that is not z-base-32: give it as lnd's SignMessage returns it.")
		}
		window = window<<5 | uint32(digit)
		bits += 5
		if bits >= 8 {
			bits -= 8
			out = append(out, byte(window>>bits))
			window &= 1<<bits - 1
		}
	}
	return out, nil
}

// EncodeSignature gives a compact recoverable signature as lnd's SignMessage
// does; signers without lnd and tests use it.
func EncodeSignature(compact []byte) (string, error) {
	if len(compact) != compactSigLen {
		return "", fmt.Errorf("a compact signature has %d bytes, not %d", compactSigLen, len(compact))
	}
	var out strings.Builder
	var window uint32
	var bits int
	for _, b := range compact {
		window = window<<8 | uint32(b)
		bits += 8
		for bits >= 5 {
			bits -= 5
			out.WriteByte(zbase32Alphabet[window>>bits&31])
			window &= 1<<bits - 1
		}
	}
	return out.String(), nil
}
