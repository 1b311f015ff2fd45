package lnd

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/chainrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// receive hands every message to handle until either fails. lnd ending the
// stream in good order is ln.ErrUnavailable as well: a subscription that is
// over is over, whatever the reason.
func receive[T any](what string, recv func() (T, error), handle func(T) error) error {
	for {
		msg, err := recv()
		if errors.Is(err, io.EOF) {
			return mapError(what, errStreamEnded)
		}
		if err != nil {
			return mapError(what, err)
		}
		if err := handle(msg); err != nil {
			return err
		}
	}
}

var errStreamEnded = errors.New("lnd ended the stream")

// SubscribeBlocks gives the present tip first, then every new one.
func (c *Client) SubscribeBlocks(ctx context.Context, handle func(ln.Block)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.chain.RegisterBlockEpochNtfn(ctx, &chainrpc.BlockEpoch{})
	if err != nil {
		return mapError("subscribe to blocks", err)
	}
	return receive("block subscription", stream.Recv, func(b *chainrpc.BlockEpoch) error {
		block := ln.Block{Height: b.Height}
		copy(block.Hash[:], b.Hash)
		handle(block)
		return nil
	})
}

// SubscribeChannelEvents gives what happens to channels from now on.
func (c *Client) SubscribeChannelEvents(ctx context.Context, handle func(ln.ChannelEvent)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.lightning.SubscribeChannelEvents(ctx, &lnrpc.ChannelEventSubscription{})
	if err != nil {
		return mapError("subscribe to channel events", err)
	}
	return receive("channel events", stream.Recv, func(u *lnrpc.ChannelEventUpdate) error {
		ev, known, err := channelEventFromRPC(u)
		if err == nil && known {
			handle(ev)
		}
		return err
	})
}

func channelEventFromRPC(u *lnrpc.ChannelEventUpdate) (ev ln.ChannelEvent, known bool, err error) {
	switch u.Type {
	case lnrpc.ChannelEventUpdate_PENDING_OPEN_CHANNEL:
		p := u.GetPendingOpenChannel()
		ev.Kind = ln.ChannelPending
		ev.Outpoint, err = outpointFromBytes(p.GetTxid(), p.GetOutputIndex())
	case lnrpc.ChannelEventUpdate_OPEN_CHANNEL:
		ev.Kind = ln.ChannelOpened
		var ch ln.Channel
		if ch, err = channelFromRPC(u.GetOpenChannel()); err == nil {
			ev.Channel, ev.Outpoint = &ch, ch.Outpoint
		}
	case lnrpc.ChannelEventUpdate_ACTIVE_CHANNEL:
		ev.Kind = ln.ChannelActive
		ev.Outpoint, err = outpointFromRPC(u.GetActiveChannel())
	case lnrpc.ChannelEventUpdate_INACTIVE_CHANNEL:
		ev.Kind = ln.ChannelInactive
		ev.Outpoint, err = outpointFromRPC(u.GetInactiveChannel())
	case lnrpc.ChannelEventUpdate_CLOSED_CHANNEL:
		ev.Kind = ln.ChannelClosed
		ev.Outpoint, err = ln.ParseOutpoint(u.GetClosedChannel().GetChannelPoint())
	case lnrpc.ChannelEventUpdate_FULLY_RESOLVED_CHANNEL:
		ev.Kind = ln.ChannelResolved
		ev.Outpoint, err = outpointFromRPC(u.GetFullyResolvedChannel())
	default:
		return ev, false, nil
	}
	return ev, true, err
}

// SubscribePeers gives peers that come and go from now on. The caller lists
// the connected ones itself, after this has begun.
func (c *Client) SubscribePeers(ctx context.Context, handle func(ln.PeerEvent)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.lightning.SubscribePeerEvents(ctx, &lnrpc.PeerEventSubscription{})
	if err != nil {
		return mapError("subscribe to peers", err)
	}
	return receive("peer events", stream.Recv, func(e *lnrpc.PeerEvent) error {
		peer, err := ln.ParsePubKey(e.PubKey)
		if err == nil {
			handle(ln.PeerEvent{Peer: peer, Online: e.Type == lnrpc.PeerEvent_PEER_ONLINE})
		}
		return err
	})
}

// Peers lists the peers that are connected now.
func (c *Client) Peers(ctx context.Context) ([]ln.Peer, error) {
	resp, err := c.lightning.ListPeers(ctx, &lnrpc.ListPeersRequest{})
	if err != nil {
		return nil, mapError("list peers", err)
	}
	out := make([]ln.Peer, 0, len(resp.Peers))
	for _, p := range resp.Peers {
		k, err := ln.ParsePubKey(p.PubKey)
		if err != nil {
			return nil, err
		}
		out = append(out, ln.Peer{Key: k, Address: p.Address, Inbound: p.Inbound})
	}
	return out, nil
}

// ConnectedPeers lists the keys of the peers that are connected now.
func (c *Client) ConnectedPeers(ctx context.Context) ([]ln.PubKey, error) {
	peers, err := c.Peers(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]ln.PubKey, 0, len(peers))
	for _, p := range peers {
		out = append(out, p.Key)
	}
	return out, nil
}

// DisconnectPeer ends the connection to a peer, which lnd then does not dial
// again by itself. Not being connected is success.
func (c *Client) DisconnectPeer(ctx context.Context, key ln.PubKey) error {
	_, err := c.lightning.DisconnectPeer(ctx, &lnrpc.DisconnectPeerRequest{PubKey: key.String()})
	if err == nil || strings.Contains(err.Error(), "is not connected") {
		return nil
	}
	return mapError("disconnect from a peer", err)
}

// ConnectPeer dials a peer and keeps trying in the background. Being connected
// already is success.
func (c *Client) ConnectPeer(ctx context.Context, key ln.PubKey, hostPort string) error {
	_, err := c.lightning.ConnectPeer(ctx, &lnrpc.ConnectPeerRequest{
		Addr: &lnrpc.LightningAddress{Pubkey: key.String(), Host: hostPort}, Perm: true,
	})
	if err == nil {
		return nil
	}
	mapped := mapError("connect to "+hostPort, err)
	online, listErr := c.ConnectedPeers(ctx)
	if listErr == nil {
		for _, p := range online {
			if p == key {
				return nil
			}
		}
	}
	return mapped
}

// SubscribeHtlcEvents gives forwarding events from the moment ready is called;
// the stream has no replay.
func (c *Client) SubscribeHtlcEvents(ctx context.Context, ready func(), handle func(ln.HtlcEvent)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.router.SubscribeHtlcEvents(ctx, &routerrpc.SubscribeHtlcEventsRequest{})
	if err != nil {
		return mapError("subscribe to HTLC events", err)
	}
	return receive("HTLC events", stream.Recv, func(e *routerrpc.HtlcEvent) error {
		if e.GetSubscribedEvent() != nil {
			if ready != nil {
				ready()
			}
			return nil
		}
		if ev, known := htlcEventFromRPC(e); known {
			handle(ev)
		}
		return nil
	})
}

func htlcEventFromRPC(e *routerrpc.HtlcEvent) (ln.HtlcEvent, bool) {
	ev := ln.HtlcEvent{
		Incoming: ln.CircuitKey{ChanID: ln.SCID(e.IncomingChannelId), HtlcID: e.IncomingHtlcId},
		Outgoing: ln.CircuitKey{ChanID: ln.SCID(e.OutgoingChannelId), HtlcID: e.OutgoingHtlcId},
		At:       time.Unix(0, int64(e.TimestampNs)),
	}
	switch detail := e.Event.(type) {
	case *routerrpc.HtlcEvent_ForwardEvent:
		ev.Kind = ln.HtlcForwarded
	case *routerrpc.HtlcEvent_ForwardFailEvent:
		ev.Kind = ln.HtlcForwardFail
	case *routerrpc.HtlcEvent_SettleEvent:
		ev.Kind = ln.HtlcSettled
	case *routerrpc.HtlcEvent_LinkFailEvent:
		ev.Kind, ev.Failure = ln.HtlcLinkFail, detail.LinkFailEvent.FailureString
		if ev.Failure == "" {
			ev.Failure = detail.LinkFailEvent.WireFailure.String()
		}
	case *routerrpc.HtlcEvent_FinalHtlcEvent:
		ev.Kind, ev.Settled, ev.OffChain = ln.HtlcFinal, detail.FinalHtlcEvent.Settled, detail.FinalHtlcEvent.Offchain
	default:
		return ev, false
	}
	return ev, true
}

// LookupResolution is how an incoming HTLC ended, where lnd was started with
// store-final-htlc-resolutions; not Known when it has no record.
func (c *Client) LookupResolution(ctx context.Context, key ln.CircuitKey) (ln.Resolution, error) {
	resp, err := c.lightning.LookupHtlcResolution(ctx, &lnrpc.LookupHtlcResolutionRequest{
		ChanId: uint64(key.ChanID), HtlcIndex: key.HtlcID,
	})
	if err != nil {
		mapped := mapError("look up how an HTLC ended", err)
		if errors.Is(mapped, ln.ErrNotFound) {
			return ln.Resolution{}, nil
		}
		return ln.Resolution{}, mapped
	}
	return ln.Resolution{Known: true, Settled: resp.Settled, OffChain: resp.Offchain}, nil
}

// ForwardingHistory lists settled forwards from an offset on. lnd writes them
// in batches, up to 15 s late, and an unclean stop may lose the last batch.
func (c *Client) ForwardingHistory(ctx context.Context, since time.Time, offset uint32, limit uint32) ([]ln.Forward, error) {
	start := uint64(1)
	if s := since.Unix(); s > 0 {
		start = uint64(s)
	}
	resp, err := c.lightning.ForwardingHistory(ctx, &lnrpc.ForwardingHistoryRequest{
		StartTime: start, IndexOffset: offset, NumMaxEvents: limit,
	})
	if err != nil {
		return nil, mapError("forwarding history", err)
	}
	out := make([]ln.Forward, 0, len(resp.ForwardingEvents))
	for i, e := range resp.ForwardingEvents {
		f := ln.Forward{
			At:           time.Unix(0, int64(e.TimestampNs)),
			Incoming:     ln.CircuitKey{ChanID: ln.SCID(e.ChanIdIn)},
			Outgoing:     ln.CircuitKey{ChanID: ln.SCID(e.ChanIdOut)},
			IncomingMsat: ln.Msat(e.AmtInMsat), OutgoingMsat: ln.Msat(e.AmtOutMsat),
			Offset: uint64(offset) + uint64(i) + 1,
		}
		if e.IncomingHtlcId != nil && e.OutgoingHtlcId != nil {
			f.HasIndexes = true
			f.Incoming.HtlcID, f.Outgoing.HtlcID = *e.IncomingHtlcId, *e.OutgoingHtlcId
		}
		out = append(out, f)
	}
	return out, nil
}
