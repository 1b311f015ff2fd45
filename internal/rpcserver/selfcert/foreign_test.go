package selfcert_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
)

// makeForeign writes a certificate signed by another authority and gives its
// DER form.
func makeForeign(t *testing.T, authority, into selfcert.Config, now time.Time) []byte {
	t.Helper()
	ca, err := tls.LoadX509KeyPair(authority.CertPath, authority.KeyPath)
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(now.Unix()), Subject: pkix.Name{CommonName: "lsp.example.org"},
		NotBefore: now, NotAfter: now.Add(90 * 24 * time.Hour), DNSNames: []string{"lsp.example.org"},
	}, ca.Leaf, &key.PublicKey, ca.PrivateKey)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(into.KeyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	require.NoError(t, os.WriteFile(into.CertPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return der
}
