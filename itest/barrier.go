//go:build itest

package itest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// barrier stands between a sluiced and its lnd and passes on what both say, byte for
// byte. It can be told of a call at which it falls: before it, and lnd is never asked;
// or after it, and lnd is asked, and nothing that lnd says from then on, by whatever
// call, reaches sluiced. So what lnd has done and what sluiced knows of it is certain
// when sluiced is killed, and does not depend on who is faster.
type barrier struct {
	addr string
	lnd  *grpc.ClientConn

	mu   sync.Mutex
	life *life
	fall *fall
}

// life is the time from one lifting of the barrier to the next. Calls of one that is
// over never go on: their sluiced is dead.
type life struct{ down, over chan struct{} }

func newLife() *life { return &life{down: make(chan struct{}), over: make(chan struct{})} }

// fall is a call at which the barrier falls.
type fall struct {
	method string
	match  func(message []byte) bool
	after  bool
	// fallen is closed once it has; answered once lnd has answered the call since.
	fallen, answered chan struct{}
}

// newBarrier serves with lnd's own certificate, so that sluiced needs nothing but
// another address.
func newBarrier(t *testing.T, node *devnet.Node) *barrier {
	t.Helper()
	toLnd, err := credentials.NewClientTLSFromFile(node.TLSCertPath, "")
	require.NoError(t, err)
	b := &barrier{life: newLife()}
	b.lnd, err = grpc.NewClient(node.RPCAddr,
		grpc.WithTransportCredentials(toLnd), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(200<<20)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: 2 * time.Second,
		}))
	require.NoError(t, err)
	asLnd, err := credentials.NewServerTLSFromFile(node.TLSCertPath, filepath.Join(node.Dir, "tls.key"))
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b.addr = listener.Addr().String()
	server := grpc.NewServer(
		grpc.Creds(asLnd), grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(b.relay), grpc.MaxRecvMsgSize(200<<20),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		<-served
		_ = b.lnd.Close()
	})
	return b
}

// fallAt has the barrier fall at the next call of a method that has such a message from
// sluiced; nil is any.
func (b *barrier) fallAt(method string, match func([]byte) bool, after bool) *fall {
	f := &fall{method: method, match: match, after: after, fallen: make(chan struct{}), answered: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fall = f
	return f
}

// lift opens the barrier for a sluiced that is started from now on.
func (b *barrier) lift() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.life.over)
	b.life, b.fall = newLife(), nil
}

// reached decides about a message of sluiced's in the moment that it comes: the fall
// that it brought about, or nil.
func (b *barrier) reached(l *life, method string, message []byte) *fall {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fall
	if f == nil || l != b.life || f.method != method || f.match != nil && !f.match(message) {
		return nil
	}
	b.fall = nil
	close(l.down)
	return f
}

// pass blocks a message of a life whose barrier is down. A message by which lnd tells of
// what it was asked after that comes after that, and is blocked.
func (l *life) pass(ctx context.Context) error {
	select {
	case <-l.down:
	default:
		return nil
	}
	select {
	case <-ctx.Done():
	case <-l.over:
	}
	return status.Error(codes.Unavailable, "the barrier is down")
}

// message is one as it is on the wire.
type message struct{ data []byte }

type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) {
	m, ok := v.(*message)
	if !ok {
		return nil, errors.New("not a raw message")
	}
	return m.data, nil
}

func (rawCodec) Unmarshal(data []byte, v any) error {
	m, ok := v.(*message)
	if !ok {
		return errors.New("not a raw message")
	}
	m.data = bytes.Clone(data)
	return nil
}

// relayed is one call.
type relayed struct {
	b      *barrier
	life   *life
	method string
	down   grpc.ServerStream
	up     grpc.ClientStream

	mu sync.Mutex
	// fall is the one that this call brought about.
	fall *fall
}

func (b *barrier) relay(_ any, down grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(down)
	b.mu.Lock()
	c := &relayed{b: b, life: b.life, method: method, down: down}
	b.mu.Unlock()
	md, _ := metadata.FromIncomingContext(down.Context())
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(down.Context(), metadata.MD{"macaroon": md["macaroon"]}))
	defer cancel()
	if err := c.life.pass(ctx); err != nil {
		return err
	}
	var err error
	c.up, err = b.lnd.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return err
	}
	sent, received := make(chan error, 1), make(chan error, 1)
	go func() { sent <- c.upward(ctx) }()
	go func() { received <- c.downward(ctx) }()
	for {
		select {
		case err := <-sent:
			if err != nil {
				return err
			}
			sent = nil
		case err := <-received:
			return err
		}
	}
}

// upward carries what sluiced says; nil once it has said all.
func (c *relayed) upward(ctx context.Context) error {
	for {
		m := &message{}
		if err := c.down.RecvMsg(m); err != nil {
			if errors.Is(err, io.EOF) {
				return c.up.CloseSend()
			}
			return err
		}
		f := c.b.reached(c.life, c.method, m.data)
		if f == nil || !f.after {
			if f != nil {
				close(f.fallen)
			}
			if err := c.life.pass(ctx); err != nil {
				return err
			}
		} else {
			c.mu.Lock()
			c.fall = f
			c.mu.Unlock()
		}
		if err := c.up.SendMsg(m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil // lnd's status says why, in downward
			}
			return err
		}
		if f != nil {
			close(f.fallen)
		}
	}
}

// downward carries what lnd says, its status included.
func (c *relayed) downward(ctx context.Context) error {
	for {
		m := &message{}
		err := c.up.RecvMsg(m)
		c.answered()
		if blocked := c.life.pass(ctx); blocked != nil {
			return blocked
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := c.down.SendMsg(m); err != nil {
			return err
		}
	}
}

// answered notes lnd's first answer to the call at which the barrier fell.
func (c *relayed) answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fall != nil {
		close(c.fall.answered)
		c.fall = nil
	}
}
