package lnd

import (
	"context"
	"math"

	"github.com/lightningnetwork/lnd/lnrpc"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// SubscribeMessages gives the custom messages of all peers from now on. lnd
// keeps what is not read in memory without bound: handle must not block.
func (c *Client) SubscribeMessages(ctx context.Context, handle func(ln.PeerMessage)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.lightning.SubscribeCustomMessages(ctx, &lnrpc.SubscribeCustomMessagesRequest{})
	if err != nil {
		return mapError("subscribe to custom messages", err)
	}
	return receive("custom messages", stream.Recv, func(m *lnrpc.CustomMessage) error {
		peer, err := ln.PubKeyFromBytes(m.Peer)
		if err == nil && m.Type <= math.MaxUint16 {
			handle(ln.PeerMessage{Peer: peer, Type: m.Type, Data: m.Data})
		}
		return err
	})
}

// SendMessage sends a custom message to a connected peer and waits until it is
// written to the connection; ln.ErrPeerOffline when there is none. lnd drops
// the connection on more than 65,533 bytes.
func (c *Client) SendMessage(ctx context.Context, m ln.PeerMessage) error {
	_, err := c.lightning.SendCustomMessage(ctx, &lnrpc.SendCustomMessageRequest{Peer: m.Peer[:], Type: m.Type, Data: m.Data})
	return mapError("send a custom message to a peer", err)
}
