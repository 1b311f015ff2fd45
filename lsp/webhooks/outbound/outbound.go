// Package outbound calls webhooks: it sends one POST to a URL that a stranger
// chose.
//
// It promises:
//   - the name is resolved, every address that it has is checked, and one of
//     those checked is connected to: a name that answers with something else a
//     moment later leads nowhere else. One address that may not be called is
//     enough to call none;
//   - only public addresses are called, and networks that the operator named;
//   - HTTPS with the name's certificate checked, no proxy from the environment,
//     no redirection, no cookies, no connection kept;
//   - a call is bounded in time, and of the answer only the status is read.
package outbound

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/sluice-lsp/sluice/lsp/lsps5"
)

// ErrForbidden says that a webhook leads where nothing may be sent.
var ErrForbidden = errors.New("it leads to an address that may not be called")

// Resolver finds a name's addresses.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Config says whom may be called, and for how long.
type Config struct {
	// Networks may be called beside the public ones.
	Networks []netip.Prefix
	// Roots are trusted beside the system's; nil for none.
	Roots *x509.CertPool
	// Timeout bounds a call from the resolution to the status.
	Timeout time.Duration
	// Resolver nil is the system's.
	Resolver Resolver
}

// Sender calls webhooks.
type Sender struct{ cfg Config }

// New makes a sender.
func New(cfg Config) *Sender {
	if cfg.Resolver == nil {
		cfg.Resolver = net.DefaultResolver
	}
	return &Sender{cfg: cfg}
}

// Bounds of an answer and of what a name may resolve to.
const (
	maxHeaderBytes = 16 << 10
	maxAddresses   = 32
)

// Post sends the body and returns the answer's status.
func (s *Sender) Post(ctx context.Context, target lsps5.Target, header http.Header, body []byte) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	addresses, err := s.resolve(ctx, target)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.URL, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("make the request: %w", err)
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "sluice")
	transport := &http.Transport{
		Proxy:             nil,
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeaderBytes,
		TLSClientConfig: &tls.Config{ServerName: serverName(target), RootCAs: s.cfg.Roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx, addresses, target.Port)
		},
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	answer, err := client.Do(req)
	if err != nil {
		return 0, withoutURL(err)
	}
	_ = answer.Body.Close()
	return answer.StatusCode, nil
}

// withoutURL takes off what net/http puts before an error: the URL may hold a
// secret of the client's.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// serverName is what the certificate must be for.
func serverName(t lsps5.Target) string {
	if _, is := t.Address(); is {
		return t.Host
	}
	return trimDot(t.Host)
}

func trimDot(host string) string {
	if n := len(host); n > 0 && host[n-1] == '.' {
		return host[:n-1]
	}
	return host
}

// resolve gives the addresses to connect to, all of them allowed.
func (s *Sender) resolve(ctx context.Context, t lsps5.Target) ([]netip.Addr, error) {
	if !t.IsWebPort() {
		return nil, ErrForbidden
	}
	addresses := []netip.Addr{}
	if a, is := t.Address(); is {
		addresses = append(addresses, a)
	} else {
		var err error
		if addresses, err = s.cfg.Resolver.LookupNetIP(ctx, "ip", t.Host); err != nil {
			return nil, fmt.Errorf("resolve the name: %w", withoutName(err))
		}
	}
	if len(addresses) == 0 {
		return nil, errors.New("the name has no address")
	}
	if len(addresses) > maxAddresses {
		return nil, fmt.Errorf("the name has %d addresses, more than %d", len(addresses), maxAddresses)
	}
	for _, a := range addresses {
		if !s.Allowed(a) {
			return nil, ErrForbidden
		}
	}
	return addresses, nil
}

// withoutName leaves the resolver's reason: which servers it asked is nobody's
// business but the operator's, and the ledger has the name.
func withoutName(err error) error {
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		return errors.New(d.Err)
	}
	return err
}

// Allowed reports an address that may be called.
func (s *Sender) Allowed(a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range s.cfg.Networks {
		if p.Contains(a) {
			return true
		}
	}
	return lsps5.IsPublic(a)
}

// dial connects to the first address that answers.
func dial(ctx context.Context, addresses []netip.Addr, port uint16) (net.Conn, error) {
	var d net.Dialer
	var errs []error
	for _, a := range addresses {
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(a.Unmap().String(), strconv.Itoa(int(port))))
		if err == nil {
			return conn, nil
		}
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}
