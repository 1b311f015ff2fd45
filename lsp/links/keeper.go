package links

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Node is what the keeper does at lnd.
type Node interface {
	ListChannels(ctx context.Context) ([]ln.Channel, error)
	Info(ctx context.Context) (ln.NodeInfo, error)
	Peers(ctx context.Context) ([]ln.Peer, error)
	// DisconnectPeer takes a peer that is not connected as success. lnd does not
	// dial it again by itself.
	DisconnectPeer(ctx context.Context, key ln.PubKey) error
	// ConnectPeer takes being connected already as success.
	ConnectPeer(ctx context.Context, key ln.PubKey, hostPort string) error
}

// Keeper connects peers anew whose links are down, and makes those sign that stand still.
// The process that owns the gateway's lease runs it.
type Keeper struct {
	node     Node
	payer    Payer
	payments func() []OnItsWay
	after    time.Duration
	now      func() time.Time
	log      *zap.Logger

	mu   sync.Mutex
	dead []Dead
}

// Options are what a keeper works with.
type Options struct {
	Node  Node
	Payer Payer
	// Payments are those to wallets that are under way, or over lately.
	Payments func() []OnItsWay
	// After is how long a peer's channels may be down before it is connected anew. What
	// stands still is made to sign after an eighth of it.
	After time.Duration
	Now   func() time.Time
	Log   *zap.Logger
}

// NewKeeper makes a keeper, which does nothing until Run.
func NewKeeper(o Options) *Keeper {
	return &Keeper{node: o.Node, payer: o.Payer, payments: o.Payments, after: o.After, now: o.Now, log: o.Log}
}

const (
	callFor = 20 * time.Second
	// goneFor is how long lnd may take to end a connection.
	goneFor = 10 * time.Second
)

// Run watches until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	watch := NewWatch(k.after)
	// owed are peers that were disconnected, with the address to dial them at.
	owed := make(map[ln.PubKey]string)
	standing := NewStanding(k.after / signsWithin)
	var both sync.WaitGroup
	defer both.Wait()
	both.Go(func() {
		k.every(ctx, max(k.after/signsWithin, time.Second/4), func(ctx context.Context) error { return k.nudgeAll(ctx, standing) })
	})
	k.every(ctx, max(k.after/4, time.Second), func(ctx context.Context) error { return k.look(ctx, watch, owed) })
}

// signsWithin: what should sign has this fraction of the wait for a link that is down.
const signsWithin = 8

func (k *Keeper) every(ctx context.Context, d time.Duration, do func(context.Context) error) {
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for {
		if err := do(ctx); err != nil && ctx.Err() == nil {
			k.log.Debug("channels and peers could not be looked at", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (k *Keeper) look(ctx context.Context, watch *Watch, owed map[ln.PubKey]string) error {
	ctx, cancel := context.WithTimeout(ctx, callFor+goneFor)
	defer cancel()
	channels, err := k.node.ListChannels(ctx)
	if err != nil {
		return err
	}
	info, err := k.node.Info(ctx)
	if err != nil {
		return err
	}
	peers, err := k.node.Peers(ctx)
	if err != nil {
		return err
	}
	online := make([]ln.PubKey, 0, len(peers))
	address := make(map[ln.PubKey]string, len(peers))
	for _, p := range peers {
		online = append(online, p.Key)
		delete(owed, p.Key)
		if !p.Inbound {
			address[p.Key] = p.Address
		}
	}
	var all []error
	for peer, at := range owed {
		all = append(all, k.node.ConnectPeer(ctx, peer, at))
	}
	due := watch.Look(k.now(), channels, online, info.BlockHeight)
	k.report(watch.Dead())
	for _, peer := range due {
		k.log.Warn("a connected peer's channels are inactive, or an HTLC in one nears its expiry and does not go: connecting it anew", zap.Stringer("peer", peer))
		if err := k.node.DisconnectPeer(ctx, peer); err != nil {
			all = append(all, err)
			continue
		}
		// Who dialled us dials again.
		if at := address[peer]; at != "" {
			owed[peer] = at
			all = append(all, k.connect(ctx, peer, at))
		}
	}
	return errors.Join(all...)
}

// connect dials once lnd has let go of the old connection: until then it would
// take the peer for connected.
func (k *Keeper) connect(ctx context.Context, peer ln.PubKey, at string) error {
	ctx, cancel := context.WithTimeout(ctx, goneFor)
	defer cancel()
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for {
		peers, err := k.node.Peers(ctx)
		if err != nil {
			return err
		}
		if !holds(peers, peer) {
			return k.node.ConnectPeer(ctx, peer, at)
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func holds(peers []ln.Peer, key ln.PubKey) bool {
	for _, p := range peers {
		if p.Key == key {
			return true
		}
	}
	return false
}

// report keeps the dead channels for Dead, and says each once.
func (k *Keeper) report(dead []Dead) {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := make(map[ln.Outpoint]bool, len(k.dead))
	for _, d := range k.dead {
		known[d.Outpoint] = true
	}
	k.dead = dead
	for _, d := range dead {
		switch {
		case known[d.Outpoint]:
		case d.Stalled:
			k.log.Error("an HTLC nears its expiry in an active channel and does not go though its peer was connected anew: if it stays, the channel will be closed by force; see the runbook, \"An HTLC nears its expiry\"",
				zap.Stringer("peer", d.Peer), zap.Stringer("channel", d.Outpoint), zap.Uint32("expiry", d.Expiry), zap.Int("attempts", d.Attempts))
		default:
			k.log.Error("a channel stays inactive though its peer was connected anew: lnd may have lost it for good; see the runbook, \"A channel stays inactive\"",
				zap.Stringer("peer", d.Peer), zap.Stringer("channel", d.Outpoint), zap.Int("attempts", d.Attempts))
		}
	}
}

// Dead lists the channels that reconnecting did not bring back.
func (k *Keeper) Dead() []Dead {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]Dead(nil), k.dead...)
}
