//go:build itest

package itest

import (
	"context"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	sphinx "github.com/lightningnetwork/lightning-onion"
	"github.com/lightningnetwork/lnd/fn/v2"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnwire"
	"github.com/lightningnetwork/lnd/onionmessage"
	lndrecord "github.com/lightningnetwork/lnd/record"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// onionMessageOver has the payer send an onion message that the gateway is to
// hand on to what next names; tag comes with it.
func onionMessageOver(ctx context.Context, t *testing.T, net *devnet.Standard, next fn.Either[*btcec.PublicKey, lnwire.ShortChannelID], tag byte) {
	t.Helper()
	gateway, wallet := onionKey(t, net.Gateway), onionKey(t, net.Wallet)
	path := onionmessage.BuildBlindedPath(t, []*sphinx.HopInfo{
		{NodePub: gateway, PlainText: onionmessage.EncodeBlindedRouteData(t, lndrecord.NewNonFinalBlindedRouteDataOnionMessage(next, nil, nil))},
		{NodePub: wallet, PlainText: onionmessage.EncodeBlindedRouteData(t, &lndrecord.BlindedRouteData{})},
	})
	message, _ := onionmessage.BuildOnionMessage(t, path, []*lnwire.FinalHopTLV{{TLVType: lnwire.InvoiceRequestNamespaceType, Value: []byte{tag}}})
	_, err := net.Payer.LN.SendOnionMessage(ctx, &lnrpc.SendOnionMessageRequest{
		Peer: gateway.SerializeCompressed(), PathKey: message.PathKey.SerializeCompressed(), Onion: message.OnionBlob,
	})
	require.NoError(t, err)
}

func onionKey(t *testing.T, n *devnet.Node) *btcec.PublicKey {
	t.Helper()
	raw := mustKey(t, n.PubKey)
	key, err := btcec.ParsePubKey(raw[:])
	require.NoError(t, err)
	return key
}

// checkOnionMessages shows what a stock lnd does with an onion message for a
// wallet that has a channel: it hands on what names the wallet's node or the
// channel's own id, and drops what names the short channel id that was sold,
// although HTLCs over that are forwarded.
func checkOnionMessages(ctx context.Context, t *testing.T, net *devnet.Standard, sold ln.SCID) {
	t.Helper()
	list, err := net.Gateway.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{Peer: onionKey(t, net.Wallet).SerializeCompressed()})
	require.NoError(t, err)
	require.Len(t, list.Channels, 1)
	channel := list.Channels[0]
	require.Contains(t, channel.AliasScids, uint64(sold), "what was sold is an alias of the wallet's channel")
	own := channel.ChanId
	require.NotEqual(t, uint64(sold), own)
	require.NoError(t, net.Gateway.WaitPolicies(ctx, own))
	stream, err := net.Wallet.LN.SubscribeOnionMessages(ctx, &lnrpc.SubscribeOnionMessagesRequest{})
	require.NoError(t, err)
	arrived := make(chan byte, 100)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			if v := m.CustomRecords[uint64(lnwire.InvoiceRequestNamespaceType)]; len(v) == 1 {
				arrived <- v[0]
			}
		}
	}()
	byNode := fn.NewLeft[*btcec.PublicKey, lnwire.ShortChannelID](onionKey(t, net.Wallet))
	bySCID := func(id uint64) fn.Either[*btcec.PublicKey, lnwire.ShortChannelID] {
		return fn.NewRight[*btcec.PublicKey](lnwire.NewShortChanIDFromInt(id))
	}
	next := func() (byte, bool) {
		select {
		case tag := <-arrived:
			return tag, true
		case <-time.After(2 * time.Second):
			return 0, false
		}
	}
	// The wallet's subscription has begun once a message arrives.
	const first, bySold, byOwn, last = 1, 2, 3, 4
	require.Eventually(t, func() bool {
		onionMessageOver(ctx, t, net, byNode, first)
		tag, ok := next()
		return ok && tag == first
	}, time.Minute, time.Millisecond)
	// The gateway takes one peer's messages in their order.
	onionMessageOver(ctx, t, net, bySCID(uint64(sold)), bySold)
	onionMessageOver(ctx, t, net, bySCID(own), byOwn)
	onionMessageOver(ctx, t, net, byNode, last)
	seen := map[byte]bool{}
	for deadline := time.Now().Add(time.Minute); !seen[last]; {
		require.True(t, time.Now().Before(deadline), "arrived: %v", seen)
		if tag, ok := next(); ok {
			seen[tag] = true
		}
	}
	require.True(t, seen[byOwn], "a channel's own id leads to its peer")
	require.False(t, seen[bySold], "lnd hands onion messages on by added aliases now: docs/lsps.md says that it does not")
}
