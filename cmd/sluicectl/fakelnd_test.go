package main

import (
	"crypto/tls"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
)

// startFakeLnd serves the fake lnd behind TLS, as a real one is reached, and
// writes its certificate into dir.
func startFakeLnd(t testing.TB, dir string) (addr string, stop func()) {
	t.Helper()
	fake := lndfake.New(lndfake.Config{Seed: 1})
	node, err := fake.AddNode("gateway", lndfake.NodeConfig{TCP: true})
	require.NoError(t, err)
	cert, err := selfcert.Open(selfcert.Config{CertPath: filepath.Join(dir, "tls.cert"), KeyPath: filepath.Join(dir, "tls.key"), Now: time.Now})
	require.NoError(t, err)
	config := cert.TLS().Clone()
	config.NextProtos = []string{"h2"}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	require.NoError(t, err)
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			go join(in, node.Addr())
		}
	}()
	return listener.Addr().String(), func() {
		_ = listener.Close()
		fake.Close()
	}
}

// join carries bytes both ways until either side ends.
func join(in net.Conn, target string) {
	out, err := net.Dial("tcp", target)
	if err != nil {
		_ = in.Close()
		return
	}
	go func() {
		_, _ = io.Copy(out, in)
		_ = out.Close()
	}()
	_, _ = io.Copy(in, out)
	_ = in.Close()
}
