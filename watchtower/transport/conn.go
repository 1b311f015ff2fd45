package transport

import (
	"bytes"
	"net"
	"sync"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/lightningnetwork/lnd/brontide"
	"github.com/lightningnetwork/lnd/watchtower/wtserver"
)

// Conn is a connection whose caller proved a session key, to a tower key of one
// tenant. It is what lnd's tower server takes for a peer.
type Conn struct {
	net.Conn
	tenant  int64
	machine *brontide.Machine
	remote  *btcec.PublicKey
	unread  bytes.Buffer
	close   sync.Once
	closed  func()
}

var _ wtserver.Peer = (*Conn)(nil)

// Tenant is whose tower key the caller knew.
func (c *Conn) Tenant() int64 { return c.tenant }

// RemotePub is the caller's session key.
func (c *Conn) RemotePub() *btcec.PublicKey { return c.remote }

// ReadNextMessage reads one message, of at most 65,535 bytes.
func (c *Conn) ReadNextMessage() ([]byte, error) { return c.machine.ReadMessage(c.Conn) }

// Read is for what reads a stream; messages are read whole by ReadNextMessage.
func (c *Conn) Read(p []byte) (int, error) {
	if c.unread.Len() == 0 {
		msg, err := c.ReadNextMessage()
		if err != nil {
			return 0, err
		}
		c.unread.Write(msg)
	}
	return c.unread.Read(p)
}

// Write sends one message.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.machine.WriteMessage(p); err != nil {
		return 0, err
	}
	return c.machine.Flush(c.Conn)
}

// Close ends the connection and gives its place to another.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	c.close.Do(c.closed)
	return err
}

// deadline bounds what is yet to come of the handshake.
func deadline(conn net.Conn, d time.Duration) error { return conn.SetDeadline(time.Now().Add(d)) }
