// Package gateways is how a wallet's agents reach the gateways that the user
// configured.
//
// It promises that a connection goes to the node that was named and to no other,
// with TLS and the node's login, and that a gateway whose place changed is not
// reached through the connection of before.
package gateways

import (
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
)

// Gateway is one that runs Sluice.
type Gateway struct {
	Name    string
	NodeKey ln.PubKey
	// GRPC is its service, HOST:PORT; Certificate a file, or empty for the system's roots.
	GRPC, Certificate string
}

// Connect makes a client of a gateway for the wallet's node, and what closes it.
type Connect[C any] func(g Gateway, self ln.PubKey) (C, func() error, error)

// Dial reaches gateways over gRPC with TLS, the certificate's key pinned where there is a
// file, and logs in with the node's key for the rights of one service. It connects at the
// first call.
func Dial[C any](service string, client func(grpc.ClientConnInterface) C, sign auth.Sign, now func() time.Time, opts ...grpc.DialOption) Connect[C] {
	return func(g Gateway, self ln.PubKey) (none C, _ func() error, _ error) {
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if g.Certificate != "" {
			var err error
			if config, err = selfcert.ClientTLS(g.Certificate); err != nil {
				return none, nil, errkind.Wrap(errkind.Invalid, err, g.Name+": its certificate cannot be used")
			}
		}
		conn, _, err := auth.Dial(g.GRPC, credentials.NewTLS(config), auth.ClientConfig{
			Server: auth.Server{NodeKey: g.NodeKey}, Node: self, Services: []string{service}, Sign: sign, Now: now,
		}, opts...)
		if err != nil {
			return none, nil, fmt.Errorf("%s: %w", g.Name, err)
		}
		return client(conn), conn.Close, nil
	}
}

// Links keeps one connection to each gateway. The zero value has none.
type Links[C any] struct {
	mu    sync.Mutex
	links map[string]link[C]
}

type link[C any] struct {
	gateway Gateway
	client  C
	close   func() error
}

// Client is the connection to a gateway; it is made if there is none, and made anew
// if the gateway is elsewhere now.
func (l *Links[C]) Client(g Gateway, self ln.PubKey, connect Connect[C]) (C, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if have, ok := l.links[g.Name]; ok {
		if have.gateway == g {
			return have.client, nil
		}
		l.drop(g.Name)
	}
	client, end, err := connect(g, self)
	if err != nil {
		return client, err
	}
	if l.links == nil {
		l.links = map[string]link[C]{}
	}
	l.links[g.Name] = link[C]{g, client, end}
	return client, nil
}

// Keep closes the connections to all but these gateways; none closes all.
func (l *Links[C]) Keep(gateways ...Gateway) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range slices.Collect(maps.Keys(l.links)) {
		if !slices.Contains(gateways, l.links[name].gateway) {
			l.drop(name)
		}
	}
}

// drop closes one (under mu).
func (l *Links[C]) drop(name string) {
	_ = l.links[name].close()
	delete(l.links, name)
}
