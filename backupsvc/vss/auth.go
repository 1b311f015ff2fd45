package vss

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"

	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// SigningSalt opens what VSS clients sign: 64 bytes.
const SigningSalt = "VSS Signature Authorizer Signing Salt Constant.................."

const (
	pubKeyHex = 2 * 33
	sigHex    = 2 * 64
	// maxTimeDigits is what 64 bits need.
	maxTimeDigits = 20
	// maxTokenBytes bounds what is decoded for callers that are not known yet.
	maxTokenBytes = 8 << 10
	// tokenLeeway is for clocks that differ.
	tokenLeeway = time.Minute
	minRSABits  = 2048
)

// Verifier proves who calls.
type Verifier struct {
	// Signatures admits callers by VSS's signature over the time.
	Signatures bool
	// Window is how far that time may be from ours. Within it whoever has seen
	// a header can use it again: the scheme binds it to no request.
	Window time.Duration
	// TokenKey admits callers by tokens signed with it (JWT, RS256); nil admits
	// none.
	TokenKey *rsa.PublicKey
	Now      func() time.Time
}

func unauthenticated(cause error) error {
	return errkind.Wrap(errkind.Unauthenticated, cause, "The Authorization header does not prove who you are: check the key, the token's expiry and this machine's clock.")
}

// Identify reads a request's Authorization header.
func (v Verifier) Identify(h http.Header) (vault.Identity, error) {
	values := h.Values("Authorization")
	if len(values) != 1 {
		return "", unauthenticated(fmt.Errorf("%d Authorization headers", len(values)))
	}
	var (
		id  vault.Identity
		err error
	)
	if token, ok := strings.CutPrefix(values[0], "Bearer "); ok {
		id, err = v.token(token)
	} else {
		id, err = v.signature(values[0])
	}
	if err != nil {
		return "", unauthenticated(err)
	}
	return id, nil
}

// signature reads 33 bytes of key and 64 bytes of signature in hex, then the
// time that was signed.
func (v Verifier) signature(text string) (vault.Identity, error) {
	if !v.Signatures {
		return "", errors.New("signatures are not admitted here")
	}
	if len(text) <= pubKeyHex+sigHex || len(text) > pubKeyHex+sigHex+maxTimeDigits {
		return "", fmt.Errorf("%d characters", len(text))
	}
	rawKey, err := hex.DecodeString(text[:pubKeyHex])
	if err != nil {
		return "", fmt.Errorf("key: %w", err)
	}
	rawSig, err := hex.DecodeString(text[pubKeyHex : pubKeyHex+sigHex])
	if err != nil {
		return "", fmt.Errorf("signature: %w", err)
	}
	clock := text[pubKeyHex+sigHex:]
	signed, err := strconv.ParseUint(clock, 10, 62)
	if err != nil {
		return "", fmt.Errorf("time: %w", err)
	}
	// Seconds are compared as numbers: times far away overflow durations.
	now, window := v.Now().Unix(), int64(v.Window/time.Second)
	if at := int64(signed); at < now-window || at > now+window {
		return "", fmt.Errorf("signed at %d, now is %d", at, now)
	}
	key, err := btcec.ParsePubKey(rawKey)
	if err != nil {
		return "", fmt.Errorf("key: %w", err)
	}
	var r, s btcec.ModNScalar
	if r.SetByteSlice(rawSig[:32]) || s.SetByteSlice(rawSig[32:]) || r.IsZero() || s.IsZero() || s.IsOverHalfOrder() {
		return "", errors.New("signature: out of range")
	}
	digest := sha256.New()
	digest.Write([]byte(SigningSalt))
	digest.Write(rawKey)
	digest.Write([]byte(clock))
	if !ecdsa.NewSignature(&r, &s).Verify(digest.Sum(nil), key) {
		return "", errors.New("signature: not by this key over this time")
	}
	// One key is one identity, however its hex was written.
	return vault.NewIdentity(vault.SchemeSignature, hex.EncodeToString(rawKey))
}

// token reads a JSON Web Token (RFC 7519) signed with RS256.
func (v Verifier) token(text string) (vault.Identity, error) {
	if v.TokenKey == nil {
		return "", errors.New("tokens are not admitted here")
	}
	parts := strings.Split(text, ".")
	if len(text) > maxTokenBytes || len(parts) != 3 {
		return "", errors.New("token: not three parts")
	}
	var header struct {
		Alg  string          `json:"alg"`
		Crit json.RawMessage `json:"crit"`
	}
	if err := decodePart(parts[0], &header); err != nil {
		return "", fmt.Errorf("token header: %w", err)
	}
	// Extensions that must be understood are not (RFC 7515, 4.1.11).
	if header.Alg != "RS256" || header.Crit != nil {
		return "", fmt.Errorf("token header: alg %q", header.Alg)
	}
	sig, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil {
		return "", fmt.Errorf("token signature: %w", err)
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(v.TokenKey, crypto.SHA256, digest[:], sig); err != nil {
		return "", fmt.Errorf("token signature: %w", err)
	}
	var claims struct {
		Subject string          `json:"sub"`
		Expires *uint64         `json:"exp"`
		Begins  *uint64         `json:"nbf"`
		Aud     json.RawMessage `json:"aud"`
	}
	if err := decodePart(parts[1], &claims); err != nil {
		return "", fmt.Errorf("token claims: %w", err)
	}
	if claims.Expires == nil {
		return "", errors.New("token: no expiry")
	}
	now, leeway := uint64(max(0, v.Now().Unix())), uint64(tokenLeeway/time.Second)
	if now > leeway && *claims.Expires < now-leeway {
		return "", errors.New("token: expired")
	}
	if claims.Begins != nil && *claims.Begins > now+leeway {
		return "", errors.New("token: not valid yet")
	}
	// A token for somebody else must not be good here, and this server has no
	// name that an issuer could know.
	if claims.Aud != nil && string(claims.Aud) != "null" {
		return "", errors.New("token: it names an audience")
	}
	return vault.NewIdentity(vault.SchemeToken, claims.Subject)
}

func decodePart(text string, into any) error {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

// ParseTokenKey reads the RSA public key that tokens are signed for, in PEM
// (PKIX or PKCS 1).
func ParseTokenKey(text []byte) (*rsa.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the token key is not PEM")
	}
	var (
		key any
		err error
	)
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		return nil, fmt.Errorf("the token key is a %q, not a public key", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("the token key: %w", err)
	}
	public, ok := key.(*rsa.PublicKey)
	if !ok || public.N.BitLen() < minRSABits {
		return nil, fmt.Errorf("the token key must be RSA with at least %d bits", minRSABits)
	}
	return public, nil
}
