package towertest

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/lightningnetwork/lnd/brontide"
	"github.com/lightningnetwork/lnd/keychain"
	"github.com/lightningnetwork/lnd/lnwire"
	"github.com/lightningnetwork/lnd/watchtower/wtdb"
	"github.com/lightningnetwork/lnd/watchtower/wtpolicy"
	"github.com/lightningnetwork/lnd/watchtower/wtwire"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Client speaks the tower's protocol as lnd's client does, one message at a time.
type Client struct {
	Conn *brontide.Conn
	// Session is its key.
	Session *btcec.PrivateKey
}

// clientTimeout is far above what an answer takes on a loaded machine.
const clientTimeout = 30 * time.Second

// Dial connects to a tower's URI and proves the session's key.
func Dial(uri string, session *btcec.PrivateKey) (*Client, error) {
	key, address, _ := strings.Cut(uri, "@")
	parsed, err := ln.ParsePubKey(key)
	if err != nil {
		return nil, err
	}
	pub, err := btcec.ParsePubKey(parsed[:])
	if err != nil {
		return nil, err
	}
	at, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	conn, err := brontide.Dial(&keychain.PrivKeyECDH{PrivKey: session}, &lnwire.NetAddress{IdentityKey: pub, Address: at}, clientTimeout, net.DialTimeout)
	if err != nil {
		return nil, err
	}
	return &Client{Conn: conn, Session: session}, nil
}

// Greet exchanges Init messages.
func (c *Client) Greet(chain chainhash.Hash) error {
	hello := wtwire.NewInitMessage(lnwire.NewRawFeatureVector(wtwire.AltruistSessionsRequired), chain)
	if err := c.Send(hello); err != nil {
		return err
	}
	got, err := c.Receive()
	if err != nil {
		return err
	}
	init, ok := got.(*wtwire.Init)
	if !ok {
		return fmt.Errorf("the tower answered %T to Init", got)
	}
	return hello.CheckRemoteInit(init, wtwire.FeatureNames)
}

// Open connects and exchanges Init.
func Open(uri string, chain chainhash.Hash, session *btcec.PrivateKey) (*Client, error) {
	c, err := Dial(uri, session)
	if err != nil {
		return nil, err
	}
	if err := c.Greet(chain); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.Conn.Close() }

// ID is the session's.
func (c *Client) ID() wtdb.SessionID { return wtdb.NewSessionIDFromPubKey(c.Session.PubKey()) }

// Send sends one message.
func (c *Client) Send(msg wtwire.Message) error {
	var b bytes.Buffer
	if _, err := wtwire.WriteMessage(&b, msg, 0); err != nil {
		return err
	}
	return c.SendRaw(b.Bytes())
}

// SendRaw sends bytes as one message.
func (c *Client) SendRaw(raw []byte) error {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(clientTimeout)); err != nil {
		return err
	}
	if err := c.Conn.WriteMessage(raw); err != nil {
		return err
	}
	_, err := c.Conn.Flush()
	return err
}

// Receive reads one message.
func (c *Client) Receive() (wtwire.Message, error) {
	if err := c.Conn.SetReadDeadline(time.Now().Add(clientTimeout)); err != nil {
		return nil, err
	}
	raw, err := c.Conn.ReadNextMessage()
	if err != nil {
		return nil, err
	}
	return wtwire.ReadMessage(bytes.NewReader(raw), 0)
}

// Create asks for the session, and gives the tower's code.
func (c *Client) Create(p wtpolicy.Policy) (wtwire.ErrorCode, error) {
	if err := c.Send(&wtwire.CreateSession{
		BlobType: p.BlobType, MaxUpdates: p.MaxUpdates, RewardBase: p.RewardBase, RewardRate: p.RewardRate, SweepFeeRate: p.SweepFeeRate,
	}); err != nil {
		return 0, err
	}
	got, err := c.Receive()
	if err != nil {
		return 0, err
	}
	reply, ok := got.(*wtwire.CreateSessionReply)
	if !ok {
		return 0, fmt.Errorf("the tower answered %T to CreateSession", got)
	}
	return reply.Code, nil
}

// Update sends one update, and gives the tower's code and last applied number.
func (c *Client) Update(u *wtwire.StateUpdate) (wtwire.ErrorCode, uint16, error) {
	if err := c.Send(u); err != nil {
		return 0, 0, err
	}
	got, err := c.Receive()
	if err != nil {
		return 0, 0, err
	}
	reply, ok := got.(*wtwire.StateUpdateReply)
	if !ok {
		return 0, 0, fmt.Errorf("the tower answered %T to StateUpdate", got)
	}
	return reply.Code, reply.LastApplied, nil
}

// Delete asks for the session's end.
func (c *Client) Delete() (wtwire.ErrorCode, error) {
	if err := c.Send(&wtwire.DeleteSession{}); err != nil {
		return 0, err
	}
	got, err := c.Receive()
	if err != nil {
		return 0, err
	}
	reply, ok := got.(*wtwire.DeleteSessionReply)
	if !ok {
		return 0, fmt.Errorf("the tower answered %T to DeleteSession", got)
	}
	return reply.Code, nil
}
