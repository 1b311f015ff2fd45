package devnet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

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

// ConnectVia is Connect through a link to the same node, and keeps them
// connected: whenever the link is usable, both nodes run and no connection is
// there, from dials again within half a second. lnd alone waits 5, 10, 15 s
// after dials that failed, and gives up for good when the peer's announcement,
// which has no address here, arrives while it is disconnected. No node
// announces an address, so nothing bypasses the link.
func (n *Net) ConnectVia(ctx context.Context, from, to *Node, link *Link) error {
	if err := n.connect(ctx, from, to, link.Addr()); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return errors.New("the network is closed")
	}
	if kept, ok := n.redials[link]; ok {
		kept.paused.Store(false)
		return nil
	}
	kept := &redial{from: from, to: to, quit: make(chan struct{}), ended: make(chan struct{})}
	n.redials[link] = kept
	go kept.run(link)
	return nil
}

// Retire kills a node for good, and ends the link that it dialled through.
func (n *Net) Retire(node *Node, link *Link) error {
	n.mu.Lock()
	kept := n.redials[link]
	delete(n.redials, link)
	n.mu.Unlock()
	if kept != nil {
		kept.stop()
	}
	return errors.Join(link.Close(), node.Kill())
}

// redial keeps a link in use.
type redial struct {
	from, to    *Node
	paused      atomic.Bool
	quit, ended chan struct{}
}

func (r *redial) run(link *Link) {
	defer close(r.ended)
	const every = 250 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-r.quit:
			return
		case <-tick.C:
		}
		if r.paused.Load() || !link.Idle() || !r.from.proc.Usable() || !r.to.proc.Usable() {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		stop := make(chan struct{})
		go func() {
			select {
			case <-r.quit:
				cancel()
			case <-stop:
			}
		}()
		// Not permanent: lnd then ignores it when it has connected by itself.
		_, _ = r.from.LN.ConnectPeer(ctx, &lnrpc.ConnectPeerRequest{
			Addr: &lnrpc.LightningAddress{Pubkey: r.to.PubKey, Host: link.Addr()},
		})
		close(stop)
		cancel()
	}
}

func (r *redial) stop() {
	close(r.quit)
	<-r.ended
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

// Disconnect ends the connection by request, after which nobody redials until
// the next Connect: to see a link come back by itself use [Link.Flap].
func (n *Net) Disconnect(ctx context.Context, from, to *Node) error {
	n.mu.Lock()
	for _, r := range n.redials {
		if (r.from == from && r.to == to) || (r.from == to && r.to == from) {
			r.paused.Store(true)
		}
	}
	n.mu.Unlock()
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
		if node.proc.Usable() {
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
