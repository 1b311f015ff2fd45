package lndfake

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/lightningnetwork/lnd/lnrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ListPeers implements lnrpc.LightningServer.
func (s *lightningServer) ListPeers(context.Context, *lnrpc.ListPeersRequest) (*lnrpc.ListPeersResponse, error) {
	out := &lnrpc.ListPeersResponse{}
	err := s.do(func() error {
		for _, c := range s.node.w.conns {
			if c.has(s.node) && c.up {
				out.Peers = append(out.Peers, &lnrpc.Peer{
					PubKey: c.other(s.node).pub, Address: c.other(s.node).name + ":9735", SyncType: lnrpc.Peer_ACTIVE_SYNC,
				})
			}
		}
		sort.Slice(out.Peers, func(i, j int) bool { return out.Peers[i].PubKey < out.Peers[j].PubKey })
		return nil
	})
	return out, err
}

// SubscribePeerEvents implements lnrpc.LightningServer. As in lnd there is no initial snapshot.
func (s *lightningServer) SubscribePeerEvents(_ *lnrpc.PeerEventSubscription, stream lnrpc.Lightning_SubscribePeerEventsServer) error {
	return pump(s.instance, stream.Context(), &s.mem.peerEvents, nil, stream.Send)
}

// ConnectPeer implements lnrpc.LightningServer; the host is not looked at.
func (s *lightningServer) ConnectPeer(_ context.Context, r *lnrpc.ConnectPeerRequest) (*lnrpc.ConnectPeerResponse, error) {
	err := s.do(func() error {
		if r.Addr == nil {
			return errors.New("need: lnc pubkeyhash@hostname")
		}
		peer := s.node.w.byPub[r.Addr.Pubkey]
		switch {
		case peer == s.node:
			return errors.New("cannot make connection to self")
		case peer == nil || !peer.up || peer.frozen:
			return fmt.Errorf("dial proxy failed: no node %s", r.Addr.Pubkey)
		case s.node.connected(peer):
			return fmt.Errorf("already connected to peer: %s@%s:9735", peer.pub, peer.name)
		}
		c := s.node.w.conn(s.node, peer)
		c.wanted = true
		c.establish()
		return nil
	})
	return &lnrpc.ConnectPeerResponse{}, err
}

// DisconnectPeer implements lnrpc.LightningServer.
func (s *lightningServer) DisconnectPeer(_ context.Context, r *lnrpc.DisconnectPeerRequest) (*lnrpc.DisconnectPeerResponse, error) {
	err := s.do(func() error {
		peer := s.node.w.byPub[r.PubKey]
		if peer == nil || !s.node.connected(peer) {
			return fmt.Errorf("peer %s is not connected", r.PubKey)
		}
		c := s.node.w.conn(s.node, peer)
		c.wanted = len(s.node.sides(func(x *side) bool { return x.other().node == peer && x.canUse() })) > 0
		c.drop()
		c.reconnect()
		return nil
	})
	return &lnrpc.DisconnectPeerResponse{}, err
}

// SendCustomMessage implements lnrpc.LightningServer.
func (s *lightningServer) SendCustomMessage(_ context.Context, r *lnrpc.SendCustomMessageRequest) (*lnrpc.SendCustomMessageResponse, error) {
	err := s.do(func() error {
		peer := s.node.w.byPub[hex.EncodeToString(r.Peer)]
		switch {
		case peer == nil || !s.node.connected(peer):
			return status.Error(codes.NotFound, "peer is not connected")
		case r.Type < 32768:
			return fmt.Errorf("custom type %d is below the custom range", r.Type)
		case len(r.Data) > 65533:
			s.node.w.conn(s.node, peer).drop()
			s.node.w.conn(s.node, peer).reconnect()
			return nil
		}
		conn := s.node.w.conn(s.node, peer)
		gen := conn.gen
		data := slices.Clone(r.Data)
		from := slices.Clone(s.node.key.PubKey().SerializeCompressed())
		s.node.w.after(s.node.w.cfg.Latency.Message, func() {
			if conn.up && conn.gen == gen {
				peer.mem.custom.publish(&lnrpc.CustomMessage{Peer: from, Type: r.Type, Data: data})
			}
		})
		return nil
	})
	return &lnrpc.SendCustomMessageResponse{Status: "message sent successfully"}, err
}

// SubscribeCustomMessages implements lnrpc.LightningServer.
func (s *lightningServer) SubscribeCustomMessages(_ *lnrpc.SubscribeCustomMessagesRequest, stream lnrpc.Lightning_SubscribeCustomMessagesServer) error {
	return pump(s.instance, stream.Context(), &s.mem.custom, nil, stream.Send)
}
