package gateways_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/gateways"
	"github.com/sluice-lsp/sluice/internal/ln"
)

func TestLinks(t *testing.T) {
	made, closed := 0, map[int]bool{}
	fail := false
	connect := func(gateways.Gateway, ln.PubKey) (int, func() error, error) {
		if fail {
			return 0, nil, errors.New("no certificate")
		}
		made++
		n := made
		return n, func() error { closed[n] = true; return nil }, nil
	}
	var l gateways.Links[int]
	get := func(g gateways.Gateway) int {
		t.Helper()
		n, err := l.Client(g, ln.PubKey{2}, connect)
		require.NoError(t, err)
		return n
	}
	one, two := gateways.Gateway{Name: "one", GRPC: "a:1"}, gateways.Gateway{Name: "two", GRPC: "b:1"}
	require.Equal(t, 1, get(one))
	require.Equal(t, 1, get(one), "one connection to each")
	require.Equal(t, 2, get(two))

	moved := one
	moved.GRPC = "a:2"
	require.Equal(t, 3, get(moved), "another place is another connection")
	require.Equal(t, map[int]bool{1: true}, closed)

	fail = true
	_, err := l.Client(one, ln.PubKey{2}, connect)
	require.Error(t, err)
	require.True(t, closed[3], "the one to the old place is gone all the same")
	fail = false
	require.Equal(t, 4, get(one))

	l.Keep(one)
	require.Equal(t, map[int]bool{1: true, 2: true, 3: true}, closed)
	require.Equal(t, 4, get(one))
	l.Keep()
	require.Len(t, closed, 4)
}

func TestDialRefusesABadCertificateByName(t *testing.T) {
	dial := gateways.Dial("lsp", func(grpc.ClientConnInterface) int { return 0 }, nil, nil)
	_, _, err := dial(gateways.Gateway{Name: "home", GRPC: "127.0.0.1:1", Certificate: "/nowhere/tls.cert"}, ln.PubKey{2})
	require.ErrorContains(t, err, "home: its certificate cannot be used")
}
