package rpcserver

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
)

func inMemory(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	_, ok = p.Addr.(memoryAddr)
	return ok
}

// memoryListener hands connections from one goroutine to another.
type memoryListener struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory" }

// memoryConn is a pipe whose ends say that they are in memory.
type memoryConn struct{ net.Conn }

func (memoryConn) LocalAddr() net.Addr  { return memoryAddr{} }
func (memoryConn) RemoteAddr() net.Addr { return memoryAddr{} }

func newMemoryListener() *memoryListener {
	closed := make(chan struct{})
	var once sync.Once
	return &memoryListener{
		conns: make(chan net.Conn), closed: closed,
		close: func() { once.Do(func() { close(closed) }) },
	}
}

func (l *memoryListener) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- memoryConn{theirs}:
		return memoryConn{ours}, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.close()
	return nil
}

func (l *memoryListener) Addr() net.Addr { return memoryAddr{} }

// transport puts TLS on every connection but those made in memory by the REST
// side, which nobody else can make.
type transport struct {
	credentials.TransportCredentials
}

func (t transport) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if _, ok := conn.(memoryConn); ok {
		return insecure.NewCredentials().ServerHandshake(conn)
	}
	return t.TransportCredentials.ServerHandshake(conn)
}

func (t transport) Clone() credentials.TransportCredentials {
	return transport{t.TransportCredentials.Clone()}
}
