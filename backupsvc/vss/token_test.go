package vss_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/backupsvc/vss"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

func token(t testing.TB, key *rsa.PrivateKey, header, claims string) string {
	t.Helper()
	enc := base64.RawURLEncoding.EncodeToString
	text := enc([]byte(header)) + "." + enc([]byte(claims))
	digest := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	require.NoError(t, err)
	return text + "." + enc(sig)
}

const rs256 = `{"alg":"RS256","typ":"JWT"}`

func TestTokens(t *testing.T) {
	key, other := rsaKey(t, 2048), rsaKey(t, 2048)
	v := vss.Verifier{TokenKey: &key.PublicKey, Now: clock}
	now := clock().Unix()
	identify := func(text string) (vault.Identity, error) {
		return v.Identify(http.Header{"Authorization": {"Bearer " + text}})
	}
	claims := func(format string, args ...any) string { return fmt.Sprintf(format, args...) }
	for name, text := range map[string]string{
		"plain":          token(t, key, rs256, claims(`{"sub":"u","exp":%d}`, now+60)),
		"just expired":   token(t, key, rs256, claims(`{"sub":"u","exp":%d}`, now-60)),
		"for ever":       token(t, key, rs256, `{"sub":"u","exp":18446744073709551615}`),
		"more claims":    token(t, key, rs256, claims(`{"sub":"u","exp":%d,"iat":%d,"nbf":%d,"aud":null}`, now+1, now, now)),
		"unknown header": token(t, key, `{"alg":"RS256","kid":"1"}`, claims(`{"sub":"u","exp":%d}`, now+60)),
	} {
		id, err := identify(text)
		require.NoError(t, err, name)
		require.Equal(t, vault.Identity("jwt:u"), id)
	}
	good := token(t, key, rs256, claims(`{"sub":"u","exp":%d}`, now+60))
	parts := strings.Split(good, ".")
	for name, text := range map[string]string{
		"another issuer": token(t, other, rs256, claims(`{"sub":"u","exp":%d}`, now+60)),
		"expired":        token(t, key, rs256, claims(`{"sub":"u","exp":%d}`, now-61)),
		"no expiry":      token(t, key, rs256, `{"sub":"u"}`),
		"negative":       token(t, key, rs256, `{"sub":"u","exp":-1}`),
		"not yet":        token(t, key, rs256, claims(`{"sub":"u","exp":%d,"nbf":%d}`, now+600, now+61)),
		"an audience":    token(t, key, rs256, claims(`{"sub":"u","exp":%d,"aud":"you"}`, now+60)),
		"audiences":      token(t, key, rs256, claims(`{"sub":"u","exp":%d,"aud":[]}`, now+60)),
		"no subject":     token(t, key, rs256, claims(`{"exp":%d}`, now+60)),
		"long subject":   token(t, key, rs256, claims(`{"sub":%q,"exp":%d}`, strings.Repeat("u", 121), now+60)),
		"bad subject":    token(t, key, rs256, claims(`{"sub":"a\nb","exp":%d}`, now+60)),
		"alg none":       token(t, key, `{"alg":"none"}`, claims(`{"sub":"u","exp":%d}`, now+60)),
		"alg HS256":      token(t, key, `{"alg":"HS256"}`, claims(`{"sub":"u","exp":%d}`, now+60)),
		"critical":       token(t, key, `{"alg":"RS256","crit":["b64"],"b64":false}`, claims(`{"sub":"u","exp":%d}`, now+60)),
		"no signature":   parts[0] + "." + parts[1] + ".",
		"two parts":      parts[0] + "." + parts[1],
		"four parts":     good + ".",
		"other claims":   parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(claims(`{"sub":"v","exp":%d}`, now+60))) + "." + parts[2],
		"long":           strings.Repeat("a", 9000) + ".b.c",
		"empty":          "",
	} {
		_, err := identify(text)
		require.Error(t, err, name)
	}
	_, err := v.Identify(http.Header{"Authorization": {sign(keyOf(1), fmt.Sprint(now))}})
	require.Error(t, err, "signatures are off")
}

// TestSubjectsAreNotKeys: a token whose subject is somebody's key does not open
// what the key opens.
func TestSubjectsAreNotKeys(t *testing.T) {
	key := rsaKey(t, 2048)
	s := start(t, storetest.SQLite(t), options{tokenKey: &key.PublicKey})
	alice := s.client(1)
	require.Nil(t, alice.put(nil, one("k", "secret", 0), nil))
	thief := client{s: s, store: "store", auth: "Bearer " + token(t, key, rs256, fmt.Sprintf(`{"sub":%q,"exp":%d}`, alice.auth[:66], clock().Add(time.Hour).Unix()))}
	_, r := thief.get("k")
	require.Equal(t, missing(), r)
	require.Nil(t, thief.put(nil, one("k", "its own", 0), nil))
}

func TestTokenKeys(t *testing.T) {
	key := rsaKey(t, 2048)
	pkix, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	for _, block := range []*pem.Block{
		{Type: "PUBLIC KEY", Bytes: pkix}, {Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)},
	} {
		got, err := vss.ParseTokenKey(pem.EncodeToMemory(block))
		require.NoError(t, err)
		require.True(t, got.Equal(&key.PublicKey))
	}
	weak := rsaKey(t, 1024)
	for _, bad := range [][]byte{
		nil, []byte("no PEM"),
		pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&weak.PublicKey)}),
		pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}),
	} {
		_, err := vss.ParseTokenKey(bad)
		require.Error(t, err)
	}
}
