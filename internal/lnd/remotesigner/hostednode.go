package remotesigner

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/signrpc"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// SharedKey is the secret that a key shares with a public key.
func (c *Client) SharedKey(ctx context.Context, key ln.KeyLocator, with ln.PubKey) error {
	_, err := c.signer.DeriveSharedKey(ctx, &signrpc.SharedKeyRequest{EphemeralPubkey: with[:], KeyDesc: &signrpc.KeyDescriptor{KeyLoc: locator(key)}})
	if err != nil {
		return fmt.Errorf("derive a shared key: %w", err)
	}
	return nil
}

// HTLCs counts those that are in the node's channels, on either side.
func (c *Client) HTLCs(ctx context.Context) (int, error) {
	got, err := c.node.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	if err != nil {
		return 0, fmt.Errorf("list the node's channels: %w", err)
	}
	n := 0
	for _, ch := range got.Channels {
		n += len(ch.PendingHtlcs)
	}
	return n, nil
}

// SetDisabled has the node tell its peers that its channels take nothing, or leaves that
// to lnd again.
func (c *Client) SetDisabled(ctx context.Context, disabled bool) error {
	got, err := c.node.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	if err != nil {
		return fmt.Errorf("list the node's channels: %w", err)
	}
	action := routerrpc.ChanStatusAction_AUTO
	if disabled {
		action = routerrpc.ChanStatusAction_DISABLE
	}
	router := routerrpc.NewRouterClient(c.conn)
	for _, ch := range got.Channels {
		point, err := channelPoint(ch.ChannelPoint)
		if err != nil {
			return err
		}
		if _, err := router.UpdateChanStatus(ctx, &routerrpc.UpdateChanStatusRequest{ChanPoint: point, Action: action}); err != nil {
			return fmt.Errorf("set the channel %s: %w", ch.ChannelPoint, err)
		}
	}
	return nil
}

func channelPoint(text string) (*lnrpc.ChannelPoint, error) {
	txid, index, _ := strings.Cut(text, ":")
	hash, err := chainhash.NewHashFromStr(txid)
	if err != nil {
		return nil, fmt.Errorf("the channel point %q: %w", text, err)
	}
	n, err := strconv.ParseUint(index, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("the channel point %q: %w", text, err)
	}
	return &lnrpc.ChannelPoint{FundingTxid: &lnrpc.ChannelPoint_FundingTxidBytes{FundingTxidBytes: hash[:]}, OutputIndex: uint32(n)}, nil
}

// StopNode ends the node's lnd in order.
func (c *Client) StopNode(ctx context.Context) error {
	if _, err := c.node.StopDaemon(ctx, &lnrpc.StopRequest{}); err != nil {
		return fmt.Errorf("stop the node: %w", err)
	}
	return nil
}
