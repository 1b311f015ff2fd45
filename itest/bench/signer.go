package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

const (
	// aimOnboardS is from the bundle to the first payment.
	aimOnboardS = 60
	// signerPayments of a round are made with signerFlight at a time; signerAlone one after
	// the other, for the latency.
	signerPayments = 60
	signerFlight   = 10
	signerAlone    = 15
	signerMsat     = 10_000
)

// signerArm is a node as it pays.
type signerArm struct {
	name  string
	node  *devnet.Node
	delay time.Duration
	line  *slowLine
	// perSecond are payments a second of each round, alone the milliseconds of each
	// payment that was made by itself.
	perSecond, alone []float64
}

// signerNet is a gateway with sluiced, a node with its own keys, and hosted nodes.
type signerNet struct {
	*devnet.Net
	gateway, own *devnet.Node
	tenancy      *devnet.Tenancy
}

func runSigner(ctx context.Context, b *bench) (_ result, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	n, err := b.signerNet(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	// Every hosted node reaches its signer by such a line, also where that adds nothing: what
	// it costs is then the same for all.
	line, err := newSlowLine()
	if err != nil {
		return nil, err
	}
	defer line.close()
	guardLine, err := newSlowLine()
	if err != nil {
		return nil, err
	}
	defer guardLine.close()
	plain, onboard, err := n.host(ctx, b, "plain", line, false)
	if err != nil {
		return nil, fmt.Errorf("the node with a bare signer: %w", err)
	}
	guarded, _, err := n.host(ctx, b, "guarded", guardLine, true)
	if err != nil {
		return nil, fmt.Errorf("the node with a guarded signer: %w", err)
	}
	if err := n.Connect(ctx, n.own, n.gateway); err != nil {
		return nil, err
	}
	if err := n.ready(ctx, n.own); err != nil {
		return nil, err
	}
	arms := []*signerArm{
		{name: "own keys", node: n.own},
		{name: "signer on loopback", node: plain, line: line},
		{name: "1 ms away", node: plain, line: line, delay: time.Millisecond},
		{name: "10 ms away", node: plain, line: line, delay: 10 * time.Millisecond},
		{name: "behind a guard", node: guarded, line: guardLine},
		{name: "guard, 1 ms away", node: guarded, line: guardLine, delay: time.Millisecond},
		{name: "guard, 10 ms away", node: guarded, line: guardLine, delay: 10 * time.Millisecond},
	}
	for i := range b.rounds {
		for j := range arms {
			if err := arms[(i+j)%len(arms)].round(ctx, n.gateway); err != nil {
				return nil, fmt.Errorf("round %d: %w", i+1, err)
			}
		}
		b.say("round %d of %d", i+1, b.rounds)
	}
	return signerReport(b, arms, onboard), nil
}

func signerReport(b *bench, arms []*signerArm, onboard time.Duration) result {
	own, loopback := median(arms[0].perSecond), median(arms[1].perSecond)
	for _, a := range arms {
		b.say("%-18s  %6.1f payments/s with %d at a time; alone p50 %6.1f ms, p95 %6.1f ms", a.name, median(a.perSecond), signerFlight, median(a.alone), quantile(a.alone, 0.95))
	}
	b.say("a watch-only node waits for its signer at each signature, one after the other: the onion's and the commitment's of every payment")
	b.say("from the bundle to the first payment: %.1f s (aim: %d s)", onboard.Seconds(), aimOnboardS)
	ratio := func(a *signerArm, to float64) string { return fmt.Sprintf("%.3f", median(a.perSecond)/to) }
	return result{
		{"ratio_loopback", ratio(arms[1], own)},
		{"ratio_1ms", ratio(arms[2], own)},
		{"ratio_10ms", ratio(arms[3], own)},
		{"guard_ratio", ratio(arms[4], loopback)},
		{"onboard_s", fmt.Sprintf("%.1f", onboard.Seconds())},
	}
}

func (b *bench) signerNet(ctx context.Context) (_ *signerNet, err error) {
	b.say("starting btcd, two lnds and sluiced")
	net, err := devnet.Start(ctx, devnet.Config{KeepDir: b.keep})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, net.Close())
		}
	}()
	list, err := net.NewNodes(ctx, devnet.NodeSpec{Name: "gateway", Config: devnet.NodeConfig{ExtraArgs: devnet.GatewayArgs()}}, devnet.NodeSpec{
		// The kind of database that hosted nodes have.
		Name: "own", Config: devnet.NodeConfig{ExtraArgs: []string{"--db.backend=sqlite"}},
	})
	if err != nil {
		return nil, err
	}
	n := &signerNet{Net: net, gateway: list[0], own: list[1]}
	s, err := net.StartSluiced(ctx, n.gateway, lnd.GatewayRights(), devnet.SluicedConfig{})
	if err != nil {
		return nil, err
	}
	n.tenancy, err = net.NewTenancy(ctx, n.gateway, s)
	return n, err
}

// host onboards a tenant, and says how long it took from the bundle to the first payment.
func (n *signerNet) host(ctx context.Context, b *bench, name string, line *slowLine, guard bool) (*devnet.Node, time.Duration, error) {
	up := devnet.SignUp{Name: name, Guarded: guard, Via: func(listen string) string {
		line.to(listen)
		return line.address()
	}}
	signer, err := n.tenancy.SignUp(ctx, up)
	if err != nil {
		return nil, 0, err
	}
	began := time.Now()
	node, _, err := n.tenancy.Host(ctx, signer)
	if err != nil {
		return nil, 0, err
	}
	err = n.ready(ctx, node)
	took := time.Since(began)
	b.say("%s was onboarded and has paid after %.1f s", name, took.Seconds())
	return node, took, err
}

// ready gives a node a channel with the gateway, and lets it pay once.
func (n *signerNet) ready(ctx context.Context, node *devnet.Node) error {
	if err := n.Fund(ctx, devnet.Funding{Node: node, CoinSat: 12_000_000, Coins: 1}); err != nil {
		return err
	}
	if _, err := n.OpenChannel(ctx, node, n.gateway, devnet.ChannelParams{CapacitySat: 10_000_000}); err != nil {
		return err
	}
	return payGateway(ctx, node, n.gateway)
}

// payGateway pays the gateway directly.
func payGateway(ctx context.Context, node, gateway *devnet.Node) error {
	invoice, err := gateway.Invoice(ctx, signerMsat)
	if err != nil {
		return err
	}
	p, err := node.Send(ctx, &routerrpc.SendPaymentRequest{PaymentRequest: invoice.PaymentRequest, TimeoutSeconds: 60, FeeLimitMsat: 1000})
	if err == nil && p.Status != lnrpc.Payment_SUCCEEDED {
		err = fmt.Errorf("a payment of %s failed: %s", node.Name, p.FailureReason)
	}
	return err
}

// round makes the payments of one round.
func (a *signerArm) round(ctx context.Context, gateway *devnet.Node) error {
	if a.line != nil {
		a.line.delay(a.delay)
		defer a.line.delay(0)
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(signerFlight)
	began := time.Now()
	for range signerPayments {
		group.Go(func() error { return payGateway(groupCtx, a.node, gateway) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("%s: %w", a.name, err)
	}
	a.perSecond = append(a.perSecond, signerPayments/time.Since(began).Seconds())
	for range signerAlone {
		began := time.Now()
		if err := payGateway(ctx, a.node, gateway); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		a.alone = append(a.alone, ms(time.Since(began)))
	}
	return nil
}
