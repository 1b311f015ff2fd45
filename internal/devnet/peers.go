package devnet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lightningnetwork/lnd/lnrpc"
	"golang.org/x/sync/errgroup"
)

// NewLink adds a relay in front of a node's Lightning port; Connect through it
// with [Net.ConnectVia]. Close ends it.
func (n *Net) NewLink(to *Node) (*Link, error) {
	link, err := NewLink(to.P2PAddr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links = append(n.links, link)
	return link, nil
}

// Connect makes from dial to, and waits until both know each other as peers.
func (n *Net) Connect(ctx context.Context, from, to *Node) error {
	return n.connect(ctx, from, to, to.P2PAddr)
}

// ConnectVia is Connect through a link to the same node. from remembers the
// link's address and redials it whenever the connection breaks. No node
// announces an address, so nothing bypasses the link.
func (n *Net) ConnectVia(ctx context.Context, from, to *Node, link *Link) error {
	return n.connect(ctx, from, to, link.Addr())
}

func (n *Net) connect(ctx context.Context, from, to *Node, addr string) error {
	_, err := from.LN.ConnectPeer(ctx, &lnrpc.ConnectPeerRequest{
		Addr: &lnrpc.LightningAddress{Pubkey: to.PubKey, Host: addr}, Perm: true,
	})
	if err != nil && !strings.Contains(err.Error(), "already connected") {
		return fmt.Errorf("connect %s to %s: %w", from.Name, to.Name, err)
	}
	return n.WaitConnected(ctx, from, to)
}

// Connected tells whether a lists b as a peer.
func Connected(ctx context.Context, a, b *Node) (bool, error) {
	peers, err := a.LN.ListPeers(ctx, &lnrpc.ListPeersRequest{})
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(peers.Peers, func(p *lnrpc.Peer) bool { return p.PubKey == b.PubKey }), nil
}

// WaitConnected waits until both nodes list each other.
func (n *Net) WaitConnected(ctx context.Context, a, b *Node) error {
	return n.waitPeers(ctx, a, b, true)
}

// WaitDisconnected waits until neither node lists the other.
func (n *Net) WaitDisconnected(ctx context.Context, a, b *Node) error {
	return n.waitPeers(ctx, a, b, false)
}

func (n *Net) waitPeers(ctx context.Context, a, b *Node, want bool) error {
	what := fmt.Sprintf("%s and %s to have connected=%t", a.Name, b.Name, want)
	return WaitFor(ctx, what, func(ctx context.Context) (bool, error) {
		ab, errA := Connected(ctx, a, b)
		ba, errB := Connected(ctx, b, a)
		return ab == want && ba == want, errors.Join(errA, errB)
	})
}

// Disconnect ends the connection by request, after which lnd does not redial:
// to see a link come back by itself use [Link.Flap].
func (n *Net) Disconnect(ctx context.Context, from, to *Node) error {
	if _, err := from.LN.DisconnectPeer(ctx, &lnrpc.DisconnectPeerRequest{PubKey: to.PubKey}); err != nil {
		return fmt.Errorf("disconnect %s from %s: %w", from.Name, to.Name, err)
	}
	return nil
}

// WaitSynced waits until every running node is at btcd's height.
func (n *Net) WaitSynced(ctx context.Context) error {
	height, err := n.miner.Height(ctx)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range n.Nodes() {
		if node.proc.Running() && !node.proc.Frozen() {
			group.Go(func() error { return node.WaitHeight(ctx, height) })
		}
	}
	return group.Wait()
}

// WaitHeight waits until the node has seen the block at height and says that
// it is synced. A node that goes down meanwhile is not waited for.
func (n *Node) WaitHeight(ctx context.Context, height int64) error {
	return WaitFor(ctx, fmt.Sprintf("%s to reach height %d", n.Name, height),
		func(ctx context.Context) (bool, error) {
			info, err := n.LN.GetInfo(ctx, &lnrpc.GetInfoRequest{})
			if err != nil {
				if !n.proc.Running() {
					return true, nil
				}
				return false, err
			}
			return int64(info.BlockHeight) >= height && info.SyncedToChain, nil
		})
}
