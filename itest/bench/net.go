package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/btcsuite/btcd/wire"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// nodes are two identical gateways between one payer and one receiver: what
// grows with every payment (the payer's database, the receiver's channels)
// grows for both arms alike.
type nodes struct {
	*devnet.Net
	first, second   *devnet.Node
	payer, receiver *devnet.Node
}

// startNodes starts them; args are the gateways' flags, in order.
func (b *bench) startNodes(ctx context.Context, first, second []string) (_ *nodes, err error) {
	b.say("starting btcd and four lnds")
	net, err := devnet.Start(ctx, devnet.Config{KeepDir: b.keep})
	if err != nil {
		return nil, err
	}
	n := &nodes{Net: net}
	defer func() {
		if err != nil {
			err = errors.Join(err, net.Close())
		}
	}()
	list, err := net.NewNodes(ctx,
		devnet.NodeSpec{Name: "first", Config: devnet.NodeConfig{ExtraArgs: first}},
		devnet.NodeSpec{Name: "second", Config: devnet.NodeConfig{ExtraArgs: second}},
		devnet.NodeSpec{Name: "payer"}, devnet.NodeSpec{Name: "receiver"})
	if err != nil {
		return nil, err
	}
	n.first, n.second, n.payer, n.receiver = list[0], list[1], list[2], list[3]
	return n, n.between(ctx, n.first, n.second)
}

// between connects gateways with the payer and the receiver.
func (n *nodes) between(ctx context.Context, gateways ...*devnet.Node) error {
	group, groupCtx := errgroup.WithContext(ctx)
	for _, gateway := range gateways {
		for _, peer := range []*devnet.Node{n.payer, n.receiver} {
			group.Go(func() error { return n.Connect(groupCtx, peer, gateway) })
		}
	}
	return group.Wait()
}

// another is one more gateway between the same two.
func (n *nodes) another(ctx context.Context, name string) (*devnet.Node, error) {
	gateway, err := n.NewNode(ctx, name, devnet.NodeConfig{ExtraArgs: devnet.GatewayArgs()})
	if err != nil {
		return nil, err
	}
	return gateway, n.between(ctx, gateway)
}

// finish closes the network and joins what that says to what happened.
func (b *bench) finish(n *nodes, err error) error {
	if b.keep {
		b.say("logs are kept in %s/logs", n.Dir())
	}
	return errors.Join(err, n.Close())
}

// wish is a channel to open.
type wish struct {
	from, to    *devnet.Node
	capacitySat int64
}

// openAll opens channels all at once, in few blocks, and returns them in order
// once both ends can route over each.
func (n *nodes) openAll(ctx context.Context, wishes ...wish) ([]devnet.Channel, error) {
	points := make([]wire.OutPoint, len(wishes))
	for i, w := range wishes {
		var err error
		if points[i], err = w.from.StartOpen(ctx, w.to, devnet.ChannelParams{CapacitySat: w.capacitySat}); err != nil {
			return nil, fmt.Errorf("open a channel from %s to %s: %w", w.from.Name, w.to.Name, err)
		}
		if err := n.Miner().WaitTxInMempool(ctx, points[i].Hash); err != nil {
			return nil, err
		}
	}
	// Three blocks open them; only once both ends know both policies may the
	// blocks come that announce them (see devnet.OpenChannel).
	if err := n.Mine(ctx, 3); err != nil {
		return nil, err
	}
	channels := make([]devnet.Channel, len(wishes))
	for i, w := range wishes {
		channels[i].Point = points[i]
		for _, end := range []*devnet.Node{w.to, w.from} {
			var err error
			if channels[i].ChanID, err = end.WaitChannelActive(ctx, points[i]); err != nil {
				return nil, err
			}
			if err := end.WaitPolicies(ctx, channels[i].ChanID); err != nil {
				return nil, err
			}
		}
	}
	if err := n.Mine(ctx, 3); err != nil {
		return nil, err
	}
	// A payer must know them all.
	for _, c := range channels {
		if err := n.payer.WaitPolicies(ctx, c.ChanID); err != nil {
			return nil, err
		}
	}
	return channels, nil
}

// withoutInterceptor are a gateway's flags less the one that makes it fail
// every forward while nobody is attached.
func withoutInterceptor() []string {
	return slices.DeleteFunc(devnet.GatewayArgs(), func(arg string) bool { return arg == "--requireinterceptor" })
}
