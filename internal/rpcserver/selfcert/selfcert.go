// Package selfcert keeps a server's TLS certificate: it makes a self-signed
// one at the first start and renews it while the server runs.
//
// It promises that the private key never leaves a file of mode 0600 and stays
// the same across renewals, so that clients that pin the key keep working
// (ClientTLS does); that a certificate the operator supplies is never
// overwritten, and picked up when its file changes; and that a handshake never
// waits for a disk when a good certificate is at hand.
package selfcert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/internal/durable"
)

const (
	life        = 397 * 24 * time.Hour
	renewBefore = 30 * 24 * time.Hour
	// recheck is how often a running server looks at clock and files.
	recheck = time.Minute
	// subject marks certificates that we made and may replace.
	subject = "sluice self-signed"
)

// Config says where the certificate is and what it is for.
type Config struct {
	CertPath, KeyPath string
	// Hosts are DNS names and IP addresses for the certificate, besides
	// localhost and the loopback addresses.
	Hosts []string
	Now   func() time.Time
	Rand  io.Reader
	// Report is told of renewals and of failures to renew; nil drops them.
	Report func(event string, err error)
}

// Keeper serves the current certificate.
type Keeper struct {
	cfg Config

	mu       sync.Mutex
	current  *tls.Certificate
	loadedAt fileStamps
	checkAt  time.Time
}

type fileStamps struct{ cert, key time.Time }

// Open loads the certificate, or makes key and certificate where there are
// none.
func Open(cfg Config) (*Keeper, error) {
	if cfg.Report == nil {
		cfg.Report = func(string, error) {}
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	k := &Keeper{cfg: cfg}
	if err := k.refresh(cfg.Now()); err != nil {
		return nil, err
	}
	return k, nil
}

// TLS is the server's configuration: TLS 1.2 or later.
func (k *Keeper) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return k.certificate(), nil },
	}
}

func (k *Keeper) certificate() *tls.Certificate {
	now := k.cfg.Now()
	k.mu.Lock()
	due := !now.Before(k.checkAt)
	if due {
		// Whoever comes first does the work; the others go on with the present
		// certificate.
		k.checkAt = now.Add(recheck)
	}
	current := k.current
	k.mu.Unlock()
	if !due {
		return current
	}
	if err := k.refresh(now); err != nil {
		k.cfg.Report("TLS certificate could not be renewed; the old one stays", err)
		return current
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current
}

// refresh brings files and memory to a certificate that is good now.
func (k *Keeper) refresh(now time.Time) error {
	stamps, err := k.stamps()
	if err != nil {
		return err
	}
	k.mu.Lock()
	current, same := k.current, stamps == k.loadedAt && stamps != fileStamps{}
	k.checkAt = now.Add(recheck)
	k.mu.Unlock()
	if current == nil || !same {
		if current, err = k.loadOrMake(now); err != nil {
			return err
		}
	}
	if ours(current.Leaf) && k.mustRenew(current.Leaf, now) {
		key, ok := current.PrivateKey.(*ecdsa.PrivateKey)
		if !ok {
			return fmt.Errorf("TLS key %s is not ECDSA: remove key and certificate to have new ones made", k.cfg.KeyPath)
		}
		if current, err = k.issue(key, now); err != nil {
			return err
		}
		k.cfg.Report("TLS certificate renewed, key unchanged", nil)
	}
	if stamps, err = k.stamps(); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current, k.loadedAt = current, stamps
	return nil
}

func ours(leaf *x509.Certificate) bool {
	return leaf.Subject.CommonName == subject && leaf.Issuer.CommonName == subject
}

func (k *Keeper) mustRenew(leaf *x509.Certificate, now time.Time) bool {
	dns, ips := k.names()
	return now.Add(renewBefore).After(leaf.NotAfter) || now.Before(leaf.NotBefore) ||
		!slices.Equal(dns, leaf.DNSNames) || !slices.EqualFunc(ips, leaf.IPAddresses, net.IP.Equal)
}

func (k *Keeper) stamps() (fileStamps, error) {
	var s fileStamps
	for path, into := range map[string]*time.Time{k.cfg.CertPath: &s.cert, k.cfg.KeyPath: &s.key} {
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return s, fmt.Errorf("TLS: %w", err)
		}
		*into = info.ModTime()
	}
	return s, nil
}

func (k *Keeper) loadOrMake(now time.Time) (*tls.Certificate, error) {
	certPEM, certErr := os.ReadFile(k.cfg.CertPath)
	keyPEM, keyErr := os.ReadFile(k.cfg.KeyPath)
	noCert, noKey := errors.Is(certErr, os.ErrNotExist), errors.Is(keyErr, os.ErrNotExist)
	switch {
	case noCert && noKey:
		key, err := ecdsa.GenerateKey(elliptic.P256(), k.cfg.Rand)
		if err != nil {
			return nil, fmt.Errorf("make TLS key: %w", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("make TLS key: %w", err)
		}
		if err := writeFile(k.cfg.KeyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			return nil, err
		}
		return k.issue(key, now)
	case noKey:
		return nil, fmt.Errorf("TLS certificate %s has no key at %s: restore the key, or remove the certificate to have both made anew", k.cfg.CertPath, k.cfg.KeyPath)
	case keyErr != nil:
		return nil, fmt.Errorf("TLS key: %w", keyErr)
	case noCert:
		// The certificate is lost or was removed: the key is what clients pin.
		key, err := parseKey(keyPEM)
		if err != nil {
			return nil, fmt.Errorf("TLS key %s: %w", k.cfg.KeyPath, err)
		}
		return k.issue(key, now)
	case certErr != nil:
		return nil, fmt.Errorf("TLS certificate: %w", certErr)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate %s with key %s: %w", k.cfg.CertPath, k.cfg.KeyPath, err)
	}
	return &pair, nil
}

func parseKey(keyPEM []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("not a PEM file")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("not an ECDSA key")
	}
	return key, nil
}

func (k *Keeper) names() ([]string, []net.IP) {
	dns := []string{"localhost"}
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for _, h := range k.cfg.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			ips = append(ips, ip)
		} else {
			dns = append(dns, h)
		}
	}
	return dns, ips
}

func (k *Keeper) issue(key *ecdsa.PrivateKey, now time.Time) (*tls.Certificate, error) {
	serial := make([]byte, 16)
	if _, err := io.ReadFull(k.cfg.Rand, serial); err != nil {
		return nil, fmt.Errorf("make TLS certificate: %w", err)
	}
	dns, ips := k.names()
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{CommonName: subject},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		DNSNames:              dns,
		IPAddresses:           ips,
	}
	der, err := x509.CreateCertificate(k.cfg.Rand, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make TLS certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make TLS certificate: %w", err)
	}
	if err := writeFile(k.cfg.CertPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// writeFile never shows a half-written file or a key with a wider mode.
func writeFile(path string, content []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	if err := durable.WriteFile(path, content, mode); err != nil {
		return fmt.Errorf("TLS: write %s: %w", path, err)
	}
	return nil
}

// ClientTLS trusts exactly the public key of a certificate file: renewals with
// the same key keep working, and no authority can vouch for another. The
// certificate's dates and names don't matter, because the key is the identity.
func ClientTLS(certPath string) (*tls.Config, error) {
	content, err := os.ReadFile(certPath)
	if err != nil {
		return nil, fmt.Errorf("server's TLS certificate: %w", err)
	}
	block, _ := pem.Decode(content)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("server's TLS certificate %s: not a PEM certificate", certPath)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("server's TLS certificate %s: %w", certPath, err)
	}
	pinned := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// The chain is not verified against authorities: VerifyConnection,
		// which runs in every handshake, resumed ones included, pins the key.
		InsecureSkipVerify: true, //nolint:gosec // replaced by the pin below
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errors.New("the server showed no TLS certificate")
			}
			if sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo) != pinned {
				return fmt.Errorf("the server's TLS key is not that of %s: fetch the certificate again from the server's operator, by a way you trust", certPath)
			}
			return nil
		},
	}, nil
}
