// Package peerrpctest is an LSPS client for tests: strict, so that whatever an
// LSP sends beside the answers to what it was asked is found.
package peerrpctest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps2"
	"github.com/sluice-lsp/sluice/lsp/peerrpc"
)

// ErrNoAnswer says that the LSP was silent for ten seconds.
var ErrNoAnswer = errors.New("the LSP does not answer")

// Client asks one LSP over a node's peer connection.
type Client struct {
	node peerrpc.Messages
	lsp  ln.PubKey

	mu   sync.Mutex
	wait map[lsps0.ID]chan lsps0.Message
	odd  []string
}

// New makes a client; Run reads its answers.
func New(node peerrpc.Messages, lsp ln.PubKey) *Client {
	return &Client{node: node, lsp: lsp, wait: make(map[lsps0.ID]chan lsps0.Message)}
}

// Run reads what comes until ctx ends.
func (c *Client) Run(ctx context.Context) {
	for ctx.Err() == nil {
		_ = c.node.SubscribeMessages(ctx, c.take)
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (c *Client) take(m ln.PeerMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answer, err := lsps0.ParseMessage(m.Data)
	waiting := c.wait[answer.ID]
	if m.Type != lsps0.MessageType || m.Peer != c.lsp || err != nil || waiting == nil {
		c.odd = append(c.odd, fmt.Sprintf("%d from %s: %s", m.Type, m.Peer, m.Data))
		return
	}
	delete(c.wait, answer.ID)
	waiting <- answer
}

// Odd are the messages that answer nothing.
func (c *Client) Odd() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.odd)
}

// Call asks and waits for the answer; an error of the LSP's is an
// *lsps0.RemoteError.
func (c *Client) Call(ctx context.Context, method string, params any) (json.RawMessage, error) {
	id := lsps0.StringID("test#" + rand.Text())
	payload, err := lsps0.EncodeRequest(id, method, params)
	if err != nil {
		return nil, err
	}
	answer := make(chan lsps0.Message, 1)
	c.mu.Lock()
	c.wait[id] = answer
	c.mu.Unlock()
	if err := c.node.SendMessage(ctx, ln.PeerMessage{Peer: c.lsp, Type: lsps0.MessageType, Data: payload}); err != nil {
		return nil, err
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			return nil, m.Error
		}
		return m.Result, nil
	case <-time.After(10 * time.Second):
		return nil, ErrNoAnswer
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Buy asks for the menu and buys its first item; size 0 leaves it open.
func (c *Client) Buy(ctx context.Context, size ln.Msat) (lsp.OpeningFeeParams, lsps2.BuyResult, error) {
	var none lsps2.BuyResult
	raw, err := c.Call(ctx, lsps2.MethodGetInfo, lsps2.GetInfoRequest{})
	if err != nil {
		return lsp.OpeningFeeParams{}, none, err
	}
	menu, err := lsps2.ReadMenu(raw)
	if err == nil && len(menu) == 0 {
		err = errors.New("the menu is empty")
	}
	if err != nil {
		return lsp.OpeningFeeParams{}, none, err
	}
	raw, err = c.Call(ctx, lsps2.MethodBuy, lsps2.BuyRequest{Params: menu[0], SizeMsat: size, HasSize: size > 0})
	if err != nil {
		return menu[0], none, err
	}
	result, err := lsps2.ReadBuyResult(raw)
	return menu[0], result, err
}
