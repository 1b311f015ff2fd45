package remotesigner

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/lightningnetwork/lnd/lnrpc"
)

// Channel is one of a node's.
type Channel struct {
	Point string
	// Active: its peer is connected and takes payments over it.
	Active bool
	// Updates is the number of the node's own state.
	Updates uint64
}

// Channels lists those that are open.
func (c *Client) Channels(ctx context.Context) ([]Channel, error) {
	got, err := c.node.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	if err != nil {
		return nil, fmt.Errorf("list the node's channels: %w", err)
	}
	var out []Channel
	for _, ch := range got.Channels {
		out = append(out, Channel{Point: ch.ChannelPoint, Active: ch.Active, Updates: ch.NumUpdates})
	}
	return out, nil
}

// ForceClose closes a channel without its peer, and gives the closing transaction. It
// returns when lnd has published it.
func (c *Client) ForceClose(ctx context.Context, point string) (string, error) {
	at, err := channelPoint(point)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	stream, err := c.node.CloseChannel(ctx, &lnrpc.CloseChannelRequest{ChannelPoint: at, Force: true})
	if err != nil {
		return "", fmt.Errorf("close the channel %s: %w", point, err)
	}
	for {
		update, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return "", fmt.Errorf("close the channel %s: lnd names no transaction", point)
		}
		if err != nil {
			return "", fmt.Errorf("close the channel %s: %w", point, err)
		}
		if pending := update.GetClosePending(); pending != nil {
			hash, err := chainhash.NewHash(pending.Txid)
			if err != nil {
				return "", fmt.Errorf("close the channel %s: %w", point, err)
			}
			return hash.String(), nil
		}
	}
}
