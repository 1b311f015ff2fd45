package selfcert_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
)

type setup struct {
	cfg selfcert.Config
	now atomic.Int64
}

func newSetup(t *testing.T, hosts ...string) *setup {
	dir := t.TempDir()
	s := &setup{}
	s.now.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Unix())
	s.cfg = selfcert.Config{
		CertPath: filepath.Join(dir, "tls.cert"), KeyPath: filepath.Join(dir, "tls.key"), Hosts: hosts,
		Now: func() time.Time { return time.Unix(s.now.Load(), 0) },
	}
	return s
}

func (s *setup) add(d time.Duration) { s.now.Add(int64(d / time.Second)) }

// served is the certificate that a handshake would get.
func served(t *testing.T, k *selfcert.Keeper) *x509.Certificate {
	c, err := k.TLS().GetCertificate(nil)
	require.NoError(t, err)
	return c.Leaf
}

func TestFirstStart(t *testing.T) {
	s := newSetup(t, "lsp.example.org", "192.0.2.7")
	k, err := selfcert.Open(s.cfg)
	require.NoError(t, err)
	info, err := os.Stat(s.cfg.KeyPath)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	leaf := served(t, k)
	for _, host := range []string{"lsp.example.org", "192.0.2.7", "localhost", "127.0.0.1", "::1"} {
		require.NoError(t, leaf.VerifyHostname(host))
	}
	require.Equal(t, x509.ECDSA, leaf.PublicKeyAlgorithm)

	again, err := selfcert.Open(s.cfg)
	require.NoError(t, err)
	require.Equal(t, leaf.Raw, served(t, again).Raw, "a restart keeps the certificate")
}

func TestRenewsWhileRunningWithTheSameKey(t *testing.T) {
	s := newSetup(t)
	k, err := selfcert.Open(s.cfg)
	require.NoError(t, err)
	first := served(t, k)
	s.add(360 * 24 * time.Hour)
	require.Equal(t, first.Raw, served(t, k).Raw, "not yet")
	s.add(10 * 24 * time.Hour)
	second := served(t, k)
	require.NotEqual(t, first.Raw, second.Raw)
	require.Equal(t, first.RawSubjectPublicKeyInfo, second.RawSubjectPublicKeyInfo)
	require.True(t, second.NotAfter.After(first.NotAfter))
	onDisk, err := os.ReadFile(s.cfg.CertPath)
	require.NoError(t, err)
	block, _ := pem.Decode(onDisk)
	require.Equal(t, second.Raw, block.Bytes)
}

func TestNewHostsNeedANewCertificateNotANewKey(t *testing.T) {
	s := newSetup(t)
	k, err := selfcert.Open(s.cfg)
	require.NoError(t, err)
	s.cfg.Hosts = []string{"new.example.org"}
	again, err := selfcert.Open(s.cfg)
	require.NoError(t, err)
	require.NoError(t, served(t, again).VerifyHostname("new.example.org"))
	require.Equal(t, served(t, k).RawSubjectPublicKeyInfo, served(t, again).RawSubjectPublicKeyInfo)
}

func TestLostFiles(t *testing.T) {
	s := newSetup(t)
	k, err := selfcert.Open(s.cfg)
	require.NoError(t, err)
	key := served(t, k).RawSubjectPublicKeyInfo
	require.NoError(t, os.Remove(s.cfg.CertPath))
	k, err = selfcert.Open(s.cfg)
	require.NoError(t, err)
	require.Equal(t, key, served(t, k).RawSubjectPublicKeyInfo)

	require.NoError(t, os.Remove(s.cfg.KeyPath))
	_, err = selfcert.Open(s.cfg)
	require.ErrorContains(t, err, "has no key")

	require.NoError(t, os.WriteFile(s.cfg.KeyPath, []byte("garbage"), 0o600))
	_, err = selfcert.Open(s.cfg)
	require.Error(t, err)
}

// A broken file found while running must not take the good certificate away.
func TestBadRenewalKeepsServing(t *testing.T) {
	s := newSetup(t)
	var failures atomic.Int64
	s.cfg.Report = func(_ string, err error) {
		if err != nil {
			failures.Add(1)
		}
	}
	k, err := selfcert.Open(s.cfg)
	require.NoError(t, err)
	first := served(t, k)
	require.NoError(t, os.WriteFile(s.cfg.CertPath, []byte("garbage"), 0o600))
	s.add(2 * time.Minute)
	require.Equal(t, first.Raw, served(t, k).Raw)
	require.EqualValues(t, 1, failures.Load())
}

// An operator's certificate is used as it is, expired or not, and its
// replacement is picked up.
func TestForeignCertificateIsNeverOverwritten(t *testing.T) {
	authority, s := newSetup(t), newSetup(t)
	_, err := selfcert.Open(authority.cfg)
	require.NoError(t, err)
	foreign := makeForeign(t, authority.cfg, s.cfg, time.Unix(authority.now.Load(), 0))
	k, err := selfcert.Open(s.cfg)
	require.NoError(t, err)
	s.add(500 * 24 * time.Hour)
	require.Equal(t, foreign, served(t, k).Raw)
	replacement := makeForeign(t, authority.cfg, s.cfg, time.Unix(s.now.Load(), 0))
	later := time.Now().Add(time.Hour)
	require.NoError(t, os.Chtimes(s.cfg.CertPath, later, later))
	s.add(2 * time.Minute)
	require.Equal(t, replacement, served(t, k).Raw)
}

func TestClientTrustsThePinnedKeyOnly(t *testing.T) {
	s, other := newSetup(t), newSetup(t)
	k, err := selfcert.Open(s.cfg)
	require.NoError(t, err)
	_, err = selfcert.Open(other.cfg)
	require.NoError(t, err)
	right, err := selfcert.ClientTLS(s.cfg.CertPath)
	require.NoError(t, err)
	wrong, err := selfcert.ClientTLS(other.cfg.CertPath)
	require.NoError(t, err)
	require.NoError(t, handshake(t, k, right))
	require.ErrorContains(t, handshake(t, k, wrong), "is not that of")
	// Two years on, renewed: the old pin still holds.
	s.add(2 * 365 * 24 * time.Hour)
	require.NoError(t, handshake(t, k, right))

	_, err = selfcert.ClientTLS(s.cfg.KeyPath)
	require.ErrorContains(t, err, "not a PEM certificate")
}

func handshake(t *testing.T, k *selfcert.Keeper, client *tls.Config) error {
	l, err := tls.Listen("tcp", "127.0.0.1:0", k.TLS())
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		// The client's verdict is what counts; the server's follows from it.
		_ = conn.(*tls.Conn).HandshakeContext(t.Context())
		_ = conn.Close()
	}()
	dialer := tls.Dialer{Config: client, NetDialer: &net.Dialer{Timeout: 10 * time.Second}}
	conn, err := dialer.DialContext(t.Context(), "tcp", l.Addr().String())
	if err == nil {
		_ = conn.Close()
	}
	_ = l.Close()
	<-done
	return err
}
