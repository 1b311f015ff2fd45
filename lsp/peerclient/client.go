package peerclient

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
)

// Messages carries custom messages; the wallet's lnd does.
type Messages interface {
	SubscribeMessages(ctx context.Context, handle func(ln.PeerMessage)) error
	SendMessage(ctx context.Context, m ln.PeerMessage) error
}

const (
	// answerWithin is how long an LSP may take.
	answerWithin = 20 * time.Second
	// mostAsked bounds the requests to one LSP at a time: ours is no client that
	// asks for more.
	mostAsked = 8
	// subscribedWithin is how long a request waits for lnd's stream to stand.
	subscribedWithin = 5 * time.Second
	// settleFor is how long a subscription takes to stand.
	settleFor = 300 * time.Millisecond
)

// Errors that callers tell apart.
var (
	// ErrNoAnswer says that the LSP was silent, or went away before it answered:
	// what was asked may have been done.
	ErrNoAnswer = errkind.New(errkind.Unavailable, "the LSP did not answer: does it speak LSPS, and is its node connected?")
	// ErrBadMessage says that the LSP broke bLIP-50 on this connection.
	ErrBadMessage = errkind.New(errkind.Unavailable, "the LSP sent a message that LSPS does not allow: nothing more is asked of it until it connects again")
	errTooMany    = errkind.New(errkind.Exhausted, "too many requests to this LSP are waiting for answers")
)

// Client asks LSPs. Run must be running.
type Client struct {
	node   Messages
	log    *zap.Logger
	settle time.Duration

	mu sync.Mutex
	// asked are the requests of each LSP that wait; an LSP stays in it for as long
	// as it has any.
	asked map[ln.PubKey]map[lsps0.ID]chan answer
	// bad are those that sent a bad message since they connected.
	bad   map[ln.PubKey]bool
	stood chan struct{} // closed while lnd's stream stands
}

type answer struct {
	lsps0.Message
	err error
}

// New makes a client; log may be nil.
func New(node Messages, log *zap.Logger) *Client {
	if log == nil {
		log = zap.NewNop()
	}
	return &Client{
		node: node, log: log, settle: settleFor, asked: make(map[ln.PubKey]map[lsps0.ID]chan answer), bad: make(map[ln.PubKey]bool), stood: make(chan struct{}),
	}
}

// Run reads what LSPs answer until lnd's stream ends; run it again then.
func (c *Client) Run(ctx context.Context) error {
	c.mu.Lock()
	stood := c.stood
	c.mu.Unlock()
	// lnd gives no sign that a subscription stands, and an answer that comes before
	// is lost.
	begun := time.AfterFunc(c.settle, func() { close(stood) })
	err := c.node.SubscribeMessages(ctx, c.take)
	if begun.Stop() {
		close(stood) // whoever waits finds a new one
	}
	c.mu.Lock()
	c.stood = make(chan struct{})
	for _, waiting := range c.asked {
		for _, ch := range waiting {
			ch <- answer{err: ErrNoAnswer}
		}
	}
	clear(c.asked)
	c.mu.Unlock()
	return err
}

// PeerChanged takes note that a node has connected or disconnected: answers do not
// cross that, and whoever sent a bad message may be asked again.
func (c *Client) PeerChanged(peer ln.PubKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.asked[peer] {
		ch <- answer{err: ErrNoAnswer}
	}
	delete(c.asked, peer)
	delete(c.bad, peer)
}

// Call asks an LSP and gives its result, an object. An error that it answered with
// is an *lsps0.RemoteError in the chain.
func (c *Client) Call(ctx context.Context, lsp ln.PubKey, method string, params any) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerWithin, ErrNoAnswer)
	defer cancel()
	if err := c.standing(ctx); err != nil {
		return nil, err
	}
	id := lsps0.StringID(rand.Text())
	payload, err := lsps0.EncodeRequest(id, method, params)
	if err != nil {
		return nil, errkind.Wrap(errkind.Invalid, err, "the request cannot be written as an LSPS message: "+err.Error())
	}
	ch := make(chan answer, 1)
	if err := c.expect(lsp, id, ch); err != nil {
		return nil, err
	}
	defer c.forget(lsp, id)
	if err := c.node.SendMessage(ctx, ln.PeerMessage{Peer: lsp, Type: lsps0.MessageType, Data: payload}); err != nil {
		if errors.Is(err, ln.ErrPeerOffline) {
			return nil, errkind.Wrap(errkind.Unavailable, err, "the LSP's node is not connected")
		}
		return nil, fmt.Errorf("ask the LSP: %w", err)
	}
	select {
	case a := <-ch:
		switch {
		case a.err != nil:
			return nil, a.err
		case a.Error != nil:
			return nil, a.Error
		}
		return a.Result, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (c *Client) standing(ctx context.Context) error {
	c.mu.Lock()
	stood := c.stood
	c.mu.Unlock()
	select {
	case <-stood:
		return nil
	case <-time.After(subscribedWithin):
		return errkind.New(errkind.Unavailable, "lnd does not deliver peer messages at the moment: is it running, and was its macaroon baked as `sluice-wallet macaroon` prints?")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Client) expect(lsp ln.PubKey, id lsps0.ID, ch chan answer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.bad[lsp]:
		return ErrBadMessage
	case len(c.asked[lsp]) >= mostAsked:
		return errTooMany
	case c.asked[lsp] == nil:
		c.asked[lsp] = make(map[lsps0.ID]chan answer)
	}
	c.asked[lsp][id] = ch
	return nil
}

func (c *Client) forget(lsp ln.PubKey, id lsps0.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.asked[lsp], id)
	if len(c.asked[lsp]) == 0 {
		delete(c.asked, lsp)
	}
}

// take reads one message. What no LSP sends that we asked is nobody's business
// here: lnd delivers the messages of all peers.
func (c *Client) take(m ln.PeerMessage) {
	if m.Type != lsps0.MessageType {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting, asked := c.asked[m.Peer]
	if !asked {
		return
	}
	got, err := lsps0.ParseMessage(m.Data)
	if err != nil || got.Kind == lsps0.KindResponse && got.ID.IsNull() {
		// An answer to the id null says that it could not read us: no answer to what
		// we asked will come.
		c.log.Warn("an LSP sent a message that LSPS does not allow", zap.Stringer("peer", m.Peer), zap.Error(err))
		c.bad[m.Peer] = true
		for _, ch := range waiting {
			ch <- answer{err: ErrBadMessage}
		}
		delete(c.asked, m.Peer)
		return
	}
	ch, mine := waiting[got.ID]
	if got.Kind != lsps0.KindResponse || !mine {
		// A notification, or an answer that came too late.
		return
	}
	if delete(waiting, got.ID); len(waiting) == 0 {
		delete(c.asked, m.Peer)
	}
	ch <- answer{Message: got}
}

// Peers tells when a node connects or disconnects.
type Peers interface {
	SubscribePeers(ctx context.Context, handle func(ln.PeerEvent)) error
}

// Serve runs the client until ctx ends, through lnd's restarts.
func (c *Client) Serve(ctx context.Context, peers Peers) {
	var both sync.WaitGroup
	both.Go(func() { c.again(ctx, c.Run) })
	both.Go(func() {
		c.again(ctx, func(ctx context.Context) error {
			return peers.SubscribePeers(ctx, func(e ln.PeerEvent) { c.PeerChanged(e.Peer) })
		})
	})
	both.Wait()
}

func (c *Client) again(ctx context.Context, run func(context.Context) error) {
	const least, most, good = 50 * time.Millisecond, 5 * time.Second, 10 * time.Second
	for wait := least; ctx.Err() == nil; wait = min(2*wait, most) {
		began := time.Now()
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > good {
			wait = least
		}
		c.log.Info("lnd's stream ended; subscribing again", zap.Duration("in", wait), zap.Error(err))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}
