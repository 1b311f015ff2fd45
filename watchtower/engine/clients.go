package engine

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/lightningnetwork/lnd/watchtower/wtserver"
	"github.com/lightningnetwork/lnd/watchtower/wtwire"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/transport"
)

// clientTimeout is how long a client may be silent; lnd's own.
const clientTimeout = 15 * time.Second

// handle gives a connection to its tenant's server.
func (e *Engine) handle(conn *transport.Conn) {
	s, err := e.server(conn.Tenant())
	if err != nil {
		e.o.Log.Warn("a client could not be served", zap.Int64("tenant", conn.Tenant()), zap.Error(err))
		_ = conn.Close()
		return
	}
	s.InboundPeerConnected(&client{Conn: conn, e: e})
}

// server is lnd's tower server of a tenant. It is made when a client first comes:
// most tenants' clients are silent most of the time.
func (e *Engine) server(tenant int64) (*wtserver.Server, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return nil, errors.New("the tower is stopping")
	}
	if s := e.servers[tenant]; s != nil {
		return s, nil
	}
	s, err := wtserver.New(&wtserver.Config{
		DB: e.DB(tenant), ReadTimeout: clientTimeout, WriteTimeout: clientTimeout, ChainHash: e.o.ChainHash, DisableReward: true,
	})
	if err != nil {
		return nil, fmt.Errorf("lnd's tower server: %w", err)
	}
	if err := s.Start(); err != nil {
		return nil, fmt.Errorf("lnd's tower server: %w", err)
	}
	e.servers[tenant] = s
	return s, nil
}

func (e *Engine) stopServers() {
	e.mu.Lock()
	e.ended = true
	servers := e.servers
	e.servers = nil
	e.mu.Unlock()
	for _, s := range servers {
		if err := s.Stop(); err != nil {
			e.o.Log.Warn("lnd's tower server did not stop in order", zap.Error(err))
		}
	}
}

// client judges what lnd's server has no setting for: the terms of a session. A
// refusal is answered here, with the code that the protocol has for it, and never
// reaches the server.
type client struct {
	*transport.Conn
	e *Engine
}

var errRefused = errors.New("the session's terms were refused")

// ReadNextMessage implements wtserver.Peer.
func (c *client) ReadNextMessage() ([]byte, error) {
	raw, err := c.Conn.ReadNextMessage()
	if err != nil {
		return nil, err
	}
	refused := refusal(c.e.o.Config.Terms, raw)
	if refused == watchtower.NotRefused {
		return raw, nil
	}
	c.e.metrics.count("session", errRefused)
	c.e.o.Log.Debug("a session's terms were refused", zap.Int64("tenant", c.Tenant()), zap.Uint16("code", uint16(refused)))
	var reply bytes.Buffer
	if _, err := wtwire.WriteMessage(&reply, &wtwire.CreateSessionReply{Code: wtwire.ErrorCode(refused)}, 0); err != nil {
		return nil, err
	}
	if err := c.SetWriteDeadline(time.Now().Add(clientTimeout)); err != nil {
		return nil, err
	}
	if _, err := c.Write(reply.Bytes()); err != nil {
		return nil, err
	}
	return nil, errRefused
}

// refusal judges a message; only one that asks for a session can be refused.
func refusal(terms watchtower.Terms, raw []byte) watchtower.Refusal {
	if len(raw) < 2 || wtwire.MessageType(uint16(raw[0])<<8|uint16(raw[1])) != wtwire.MsgCreateSession {
		return watchtower.NotRefused
	}
	msg, err := wtwire.ReadMessage(bytes.NewReader(raw), 0)
	if err != nil {
		return watchtower.NotRefused // lnd's server says so itself
	}
	ask, ok := msg.(*wtwire.CreateSession)
	if !ok {
		return watchtower.NotRefused
	}
	return terms.Judge(watchtower.SessionPolicy{
		MaxUpdates: ask.MaxUpdates, RewardBase: ask.RewardBase, RewardRate: ask.RewardRate, SweepFeeRate: ln.FeeRateSatPerKW(ask.SweepFeeRate),
	})
}
