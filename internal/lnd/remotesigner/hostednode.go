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

// ChannelsWith counts the node's channels with a peer, those that are opening included.
func (c *Client) ChannelsWith(ctx context.Context, peer ln.PubKey) (int, error) {
	open, err := c.node.ListChannels(ctx, &lnrpc.ListChannelsRequest{Peer: peer[:]})
	if err != nil {
		return 0, fmt.Errorf("list the node's channels: %w", err)
	}
	pending, err := c.node.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
	if err != nil {
		return 0, fmt.Errorf("list the node's channels that are opening: %w", err)
	}
	n := len(open.Channels)
	for _, p := range pending.PendingOpenChannels {
		if p.Channel.GetRemoteNodePub() == peer.String() {
			n++
		}
	}
	return n, nil
}

// ConfirmedSat is what the node's wallet has in confirmed coins.
func (c *Client) ConfirmedSat(ctx context.Context) (int64, error) {
	got, err := c.node.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
	if err != nil {
		return 0, fmt.Errorf("ask for the wallet's balance: %w", err)
	}
	return got.ConfirmedBalance, nil
}

// Address is where the node's wallet takes coins; one that was not used is given again.
func (c *Client) Address(ctx context.Context) (string, error) {
	got, err := c.node.NewAddress(ctx, &lnrpc.NewAddressRequest{Type: lnrpc.AddressType_UNUSED_TAPROOT_PUBKEY})
	if err != nil {
		return "", fmt.Errorf("ask for an address: %w", err)
	}
	return got.Address, nil
}

// Open opens a channel with a connected peer, from the node's own coins.
func (c *Client) Open(ctx context.Context, peer ln.PubKey, sat int64, private bool) (string, error) {
	got, err := c.node.OpenChannelSync(ctx, &lnrpc.OpenChannelRequest{NodePubkey: peer[:], LocalFundingAmount: sat, Private: private, Memo: "first channel, by sluicectl tenant add"})
	if err != nil {
		return "", fmt.Errorf("open a channel with %s: %w", peer.Short(), err)
	}
	hash, err := chainhash.NewHash(got.GetFundingTxidBytes())
	if err != nil {
		return "", fmt.Errorf("lnd names no funding transaction: %w", err)
	}
	return fmt.Sprintf("%s:%d", hash, got.OutputIndex), nil
}
