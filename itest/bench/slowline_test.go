package main

import (
	"bufio"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSlowLine: everything arrives, in order, one way not before its time.
func TestSlowLine(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				for in := bufio.NewScanner(conn); in.Scan(); {
					_, _ = conn.Write(append(in.Bytes(), '\n'))
				}
				_ = conn.Close()
			}()
		}
	}()
	line, err := newSlowLine()
	require.NoError(t, err)
	defer line.close()
	line.to(l.Addr().String())
	require.True(t, reachable(t.Context(), line.address()))
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", line.address())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	for _, d := range []time.Duration{0, 30 * time.Millisecond} {
		line.delay(d)
		for _, word := range []string{"one\n", "two\n"} {
			began := time.Now()
			_, err := conn.Write([]byte(word))
			require.NoError(t, err)
			got, err := in.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, word, got)
			require.GreaterOrEqual(t, time.Since(began), d)
		}
	}
}
