package main

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// slowLine is a connection to a program that is further away than loopback: what goes
// there arrives later by a delay, in its order. What comes back does not, so that the
// delay is that of a round trip.
type slowLine struct {
	listener net.Listener
	target   atomic.Pointer[string]
	later    atomic.Int64
}

func newSlowLine() (*slowLine, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &slowLine{listener: l}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.carry(conn)
		}
	}()
	return s, nil
}

func (s *slowLine) address() string       { return s.listener.Addr().String() }
func (s *slowLine) to(address string)     { s.target.Store(&address) }
func (s *slowLine) delay(d time.Duration) { s.later.Store(int64(d)) }
func (s *slowLine) close()                { _ = s.listener.Close() }

// piece is something that was sent, and when it arrives.
type piece struct {
	data []byte
	due  time.Time
}

func (s *slowLine) carry(near net.Conn) {
	defer func() { _ = near.Close() }()
	far, err := net.Dial("tcp", *s.target.Load())
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	go func() {
		_, _ = io.Copy(near, far)
		_ = near.Close()
	}()
	pieces := make(chan piece, 1024)
	go func() {
		defer func() { _ = far.Close() }()
		for p := range pieces {
			if wait := time.Until(p.due); wait > 0 {
				timer := time.NewTimer(wait)
				<-timer.C
			}
			if _, err := far.Write(p.data); err != nil {
				for range pieces {
				}
				return
			}
		}
	}()
	defer close(pieces)
	for {
		buf := make([]byte, 32<<10)
		n, err := near.Read(buf)
		if n > 0 {
			pieces <- piece{data: buf[:n], due: time.Now().Add(time.Duration(s.later.Load()))}
		}
		if err != nil {
			return
		}
	}
}

// reachable says whether somebody listens.
func reachable(ctx context.Context, address string) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	return err == nil && conn.Close() == nil
}
