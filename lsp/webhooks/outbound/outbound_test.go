package outbound_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/lsp/lsps5"
	"github.com/sluice-lsp/sluice/lsp/webhooks/outbound"
)

// names answers look-ups, and counts them.
type names struct {
	answers map[string][]netip.Addr
	asked   atomic.Int64
	// next, if set, is what every look-up after the first gets.
	next []netip.Addr
}

func (n *names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if n.asked.Add(1) > 1 && n.next != nil {
		return n.next, nil
	}
	if a, ok := n.answers[host]; ok {
		return a, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, Server: "10.0.0.53"}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// hook is a webhook on this machine, under a name that its certificate has.
func hook(t *testing.T, h http.HandlerFunc) (*httptest.Server, *x509.CertPool, lsps5.Target) {
	t.Helper()
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return server, roots, target(t, "https://example.com:"+port(server)+"/push?token=secret")
}

func port(s *httptest.Server) string {
	return strconv.Itoa(s.Listener.Addr().(*net.TCPAddr).Port)
}

func target(t *testing.T, url string) lsps5.Target {
	t.Helper()
	got, refused := lsps5.ParseTarget(url)
	require.Nil(t, refused, url)
	return got
}

func TestPost(t *testing.T) {
	var got *http.Request
	var body []byte
	server, roots, to := hook(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusOK)
	})
	dns := &names{answers: map[string][]netip.Addr{"example.com": {addr("127.0.0.1")}}, next: []netip.Addr{addr("10.0.0.1")}}
	// A proxy from the environment would see, and choose, where things go.
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	s := outbound.New(outbound.Config{Networks: loopback, Roots: roots, Timeout: 10 * time.Second, Resolver: dns})
	status, err := s.Post(t.Context(), to, http.Header{"X-Lsps5-Timestamp": {"now"}}, []byte(`{"a":1}`))
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.Equal(t, http.MethodPost, got.Method)
	require.Equal(t, "/push?token=secret", got.URL.String())
	require.Equal(t, "example.com:"+port(server), got.Host)
	require.Equal(t, "now", got.Header.Get("x-lsps5-timestamp"))
	require.Equal(t, "application/json", got.Header.Get("Content-Type"))
	require.JSONEq(t, `{"a":1}`, string(body))
	require.EqualValues(t, 1, dns.asked.Load(), "resolved once: what the name says a moment later leads nowhere")
}

// Where a webhook may not lead, however it gets there.
func TestForbidden(t *testing.T) {
	called := atomic.Int64{}
	server, roots, _ := hook(t, func(http.ResponseWriter, *http.Request) { called.Add(1) })
	dns := &names{answers: map[string][]netip.Addr{
		"private.example": {addr("127.0.0.1")}, "mixed.example": {addr("1.1.1.1"), addr("127.0.0.1")}, "mapped.example": {addr("::ffff:127.0.0.1")},
		"metadata.example": {addr("169.254.169.254")}, "nat64.example": {addr("64:ff9b::7f00:1")}, "none.example": {},
		"many.example": make([]netip.Addr, 33),
	}}
	s := outbound.New(outbound.Config{Roots: roots, Timeout: 5 * time.Second, Resolver: dns})
	for _, host := range []string{
		"private.example", "mixed.example", "mapped.example", "metadata.example", "nat64.example", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "10.1.2.3",
	} {
		_, err := s.Post(t.Context(), target(t, "https://"+host+":"+port(server)+"/"), nil, nil)
		require.ErrorIs(t, err, outbound.ErrForbidden, host)
	}
	for _, host := range []string{"none.example", "many.example", "unknown.example"} {
		_, err := s.Post(t.Context(), target(t, "https://"+host+":"+port(server)+"/"), nil, nil)
		require.Error(t, err, host)
		require.NotContains(t, err.Error(), "10.0.0.53")
	}
	low := outbound.New(outbound.Config{Networks: loopback, Timeout: 5 * time.Second, Resolver: dns})
	_, err := low.Post(t.Context(), target(t, "https://127.0.0.1:22/"), nil, nil)
	require.ErrorIs(t, err, outbound.ErrForbidden)
	require.Zero(t, called.Load())
	require.True(t, low.Allowed(addr("127.9.9.9")))
	require.True(t, low.Allowed(addr("::ffff:127.9.9.9")))
	require.False(t, low.Allowed(addr("10.0.0.1")), "one network does not open another")
}

func TestNoRedirection(t *testing.T) {
	second := atomic.Int64{}
	server, roots, to := hook(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/second" {
			second.Add(1)
			return
		}
		http.Redirect(w, r, "/second", http.StatusTemporaryRedirect)
	})
	_ = server
	dns := &names{answers: map[string][]netip.Addr{"example.com": {addr("127.0.0.1")}}}
	s := outbound.New(outbound.Config{Networks: loopback, Roots: roots, Timeout: 5 * time.Second, Resolver: dns})
	status, err := s.Post(t.Context(), to, nil, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusTemporaryRedirect, status)
	require.Zero(t, second.Load())
}

// What a webhook does to whoever calls it is bounded.
func TestBounds(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	_, roots, to := hook(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("do") {
		case "hang":
			<-release
		case "header":
			w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
		case "body":
			w.WriteHeader(http.StatusOK)
			for range 1 << 20 {
				if _, err := w.Write(make([]byte, 1<<10)); err != nil {
					return
				}
			}
		}
	})
	dns := &names{answers: map[string][]netip.Addr{"example.com": {addr("127.0.0.1")}}}
	s := outbound.New(outbound.Config{Networks: loopback, Roots: roots, Timeout: 2 * time.Second, Resolver: dns})
	do := func(what string) (int, error) {
		t.Helper()
		began := time.Now()
		status, err := s.Post(t.Context(), target(t, strings.Replace(to.URL, "token=secret", "do="+what, 1)), nil, nil)
		require.Less(t, time.Since(began), 10*time.Second, what)
		return status, err
	}
	_, err := do("hang")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotContains(t, err.Error(), "do=hang", "the URL may hold a secret")
	_, err = do("header")
	require.Error(t, err)
	status, err := do("body")
	require.NoError(t, err, "a body without end is not read")
	require.Equal(t, 200, status)
}

// Nobody is told anything who cannot prove the name.
func TestCertificate(t *testing.T) {
	called := atomic.Int64{}
	server, roots, _ := hook(t, func(http.ResponseWriter, *http.Request) { called.Add(1) })
	dns := &names{answers: map[string][]netip.Addr{"example.com": {addr("127.0.0.1")}, "other.example": {addr("127.0.0.1")}}}
	s := outbound.New(outbound.Config{Networks: loopback, Roots: roots, Timeout: 5 * time.Second, Resolver: dns})
	_, err := s.Post(t.Context(), target(t, "https://other.example:"+port(server)+"/"), nil, nil)
	require.ErrorAs(t, err, &x509.HostnameError{})
	untrusted := outbound.New(outbound.Config{Networks: loopback, Timeout: 5 * time.Second, Resolver: dns})
	_, err = untrusted.Post(t.Context(), target(t, "https://example.com:"+port(server)+"/"), nil, nil)
	var unknown *tls.CertificateVerificationError
	require.True(t, errors.As(err, &unknown), err)
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called.Add(1) }))
	defer plain.Close()
	_, err = s.Post(t.Context(), target(t, "https://example.com:"+port(plain)+"/"), nil, nil)
	require.Error(t, err)
	require.Zero(t, called.Load())
	// The name's second address answers.
	dns.answers["example.com"] = []netip.Addr{addr("127.0.0.9"), addr("127.0.0.1")}
	status, err := s.Post(t.Context(), target(t, "https://example.com:"+port(server)+"/"), nil, nil)
	require.NoError(t, err)
	require.Equal(t, 200, status)
}
