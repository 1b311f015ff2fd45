package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

const (
	// minThroughput is the gate: the lower end of the 95 % interval of forwards
	// per second with Sluice against without.
	minThroughput = 0.93
	// minProxied is the gate with two programs attached.
	minProxied = 0.9
	blockSize  = 200
	inFlight   = 50
	// forwardMsat is above every dust limit, so that each HTLC is signed for.
	forwardMsat = 1_000_000
	// receiverChannels are several, as a gateway has.
	receiverChannels = 4
	quietPayments    = 100
	keysendRecord    = 5482373484
	aimAddedMs       = 5
)

// arm is one gateway and the payer's channel to it.
type arm struct {
	name    string
	gateway *devnet.Node
	channel uint64

	blocks []block // one of each round: all gateways have as many forwards behind them
	work   []*devnet.Proc
	cpu    time.Duration // of work, in the blocks
	quiet  []float64     // of payments one at a time, in ms

	// retries are attempts that failed on the way: work that is not counted.
	retries atomic.Int64
}

// block is blockSize forwards through one gateway.
type block struct {
	seconds   float64
	latencies []float64 // of each payment, in ms
}

// served is what attaches to a gateway's interceptor.
type served struct {
	name string
	// attach gives its processes, if it has any of its own.
	attach func(ctx context.Context, n *nodes, gateway *devnet.Node) (work []*devnet.Proc, hangUp func(), err error)
}

// withSluice is sluiced, with the programs behind it if there are any.
func withSluice(programs *proxied) served {
	return served{
		name: "with Sluice",
		attach: func(ctx context.Context, n *nodes, gateway *devnet.Node) ([]*devnet.Proc, func(), error) {
			s, err := startSluiceWith(ctx, n.Net, gateway, n.receiver, programs)
			if err != nil {
				return nil, nil, err
			}
			return []*devnet.Proc{s.daemon.Proc}, s.hangUp, nil
		},
	}
}

// withBare is a program that resumes whatever it is offered at once: what is
// lost with it is what lnd's interceptor costs by itself, whoever is attached.
// lnd writes each HTLC that is resumed to its database alone, where those of one
// commitment otherwise share a write, so they reach the next channels apart and
// take more commitments.
func withBare() served {
	return served{
		name: "bare program",
		attach: func(ctx context.Context, _ *nodes, gateway *devnet.Node) ([]*devnet.Proc, func(), error) {
			_, err := startBare(ctx, gateway)
			return nil, func() {}, err
		},
	}
}

// runForwardProxied is the same with two programs of others attached to sluiced.
func runForwardProxied(ctx context.Context, b *bench) (result, error) {
	programs := &proxied{names: []string{"one", "two"}}
	r, err := forwards(ctx, b, minProxied, withSluice(programs))
	if asked := programs.answered.Load(); err == nil && asked < int64(2*b.blocks*blockSize) {
		return r, fmt.Errorf("the programs were asked %d times only", asked)
	}
	return r, err
}

func runForward(ctx context.Context, b *bench) (result, error) {
	return forwards(ctx, b, minThroughput, withSluice(nil), withBare())
}

// forwards measures gateways that are served beside one that is not; the gate is
// for the first.
func forwards(ctx context.Context, b *bench, gate float64, serve ...served) (_ result, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	n, err := b.startNodes(ctx, devnet.GatewayArgs(), withoutInterceptor())
	if err != nil {
		return nil, err
	}
	defer func() { err = b.finish(n, err) }()
	arms, err := forwardArms(ctx, b, n, serve)
	if err != nil {
		return nil, err
	}
	for i, s := range serve {
		work, hangUp, err := s.attach(ctx, n, arms[i].gateway)
		if err != nil {
			return nil, err
		}
		defer hangUp()
		arms[i].work = append(arms[i].work, work...)
		b.say("the gateway %s is served: %s", arms[i].gateway.Name, s.name)
	}

	// Mission control, caches and connections are warm before anything counts.
	for _, a := range arms {
		if err := a.block(ctx, n); err != nil {
			return nil, fmt.Errorf("warm up %s: %w", a.name, err)
		}
		a.blocks, a.cpu = nil, 0
	}
	for round := range b.blocks {
		var told []string
		for j := range arms {
			// Every second round goes the other way.
			if round%2 == 1 {
				j = len(arms) - 1 - j
			}
			a := arms[j]
			if err := a.block(ctx, n); err != nil {
				return nil, fmt.Errorf("round %d, %s: %w", round+1, a.name, err)
			}
			told = append(told, fmt.Sprintf("%.1f %s", blockSize/a.blocks[len(a.blocks)-1].seconds, a.name))
		}
		b.say("round %d of %d, forwards/s: %s", round+1, b.blocks, strings.Join(told, ", "))
	}
	b.say("%d payments each, one at a time", quietPayments)
	for i := range quietPayments {
		for j := range arms {
			a := arms[(i+j)%len(arms)]
			took, err := a.pay(ctx, n)
			if err != nil {
				return nil, fmt.Errorf("a payment, %s: %w", a.name, err)
			}
			a.quiet = append(a.quiet, ms(took))
		}
	}
	return forwardReport(b, arms, gate)
}

// forwardArms gives each gateway one channel from the payer and several to the
// receiver. The last arm's gateway has nobody attached.
func forwardArms(ctx context.Context, b *bench, n *nodes, serve []served) ([]*arm, error) {
	perArm := int64(b.blocks+2)*blockSize + quietPayments
	needSat := perArm*forwardMsat/1000 + 500_000
	eachSat := 2*needSat/receiverChannels + 500_000
	var arms []*arm
	for i, s := range serve {
		a := &arm{name: s.name, gateway: n.first}
		if i > 0 {
			var err error
			if a.gateway, err = n.another(ctx, fmt.Sprintf("gateway%d", i+2)); err != nil {
				return nil, err
			}
		}
		arms = append(arms, a)
	}
	arms = append(arms, &arm{name: "without interceptor", gateway: n.second})

	funding := []devnet.Funding{{Node: n.payer, CoinSat: needSat + 100_000, Coins: len(arms)}}
	var wishes []wish
	for _, a := range arms {
		a.work = []*devnet.Proc{a.gateway.Proc()}
		funding = append(funding, devnet.Funding{Node: a.gateway, CoinSat: eachSat + 100_000, Coins: receiverChannels + 1})
		wishes = append(wishes, wish{n.payer, a.gateway, needSat})
	}
	for range receiverChannels {
		for _, a := range arms {
			wishes = append(wishes, wish{a.gateway, n.receiver, eachSat})
		}
	}
	if err := n.Fund(ctx, funding...); err != nil {
		return nil, err
	}
	channels, err := n.openAll(ctx, wishes...)
	if err != nil {
		return nil, err
	}
	for i, a := range arms {
		a.channel = channels[i].ChanID
	}
	return arms, nil
}

// pay forwards one keysend payment through the arm's gateway.
func (a *arm) pay(ctx context.Context, n *nodes) (time.Duration, error) {
	s, err := newSecret()
	if err != nil {
		return 0, err
	}
	dest, err := hex.DecodeString(n.receiver.PubKey)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	payment, err := n.payer.Send(ctx, &routerrpc.SendPaymentRequest{
		Dest: dest, AmtMsat: forwardMsat, PaymentHash: s.hash[:], FinalCltvDelta: 80, MaxParts: 1, TimeoutSeconds: 60,
		FeeLimitMsat: forwardMsat / 10, OutgoingChanIds: []uint64{a.channel},
		DestCustomRecords: map[uint64][]byte{keysendRecord: s.preimage.Bytes()},
	})
	took := time.Since(began)
	if err != nil {
		return took, err
	}
	if payment.Status != lnrpc.Payment_SUCCEEDED {
		return took, fmt.Errorf("the payment failed: %s", payment.FailureReason)
	}
	a.retries.Add(int64(len(payment.Htlcs) - 1))
	return took, nil
}

// block forwards blockSize payments, inFlight at a time, and waits until the
// channels are quiet again, so that no block pays for another's tail.
func (a *arm) block(ctx context.Context, n *nodes) error {
	took := make([]float64, blockSize)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(inFlight)
	used, err := cpuOf(a.work)
	if err != nil {
		return err
	}
	began := time.Now()
	for i := range took {
		group.Go(func() error {
			d, err := a.pay(groupCtx, n)
			took[i] = ms(d)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	a.blocks = append(a.blocks, block{seconds: time.Since(began).Seconds(), latencies: took})
	if err := errors.Join(n.payer.WaitNoHTLCs(ctx), n.receiver.WaitNoHTLCs(ctx)); err != nil {
		return err
	}
	after, err := cpuOf(a.work)
	a.cpu += after - used
	return err
}

// cpuOf is what processes have used so far.
func cpuOf(procs []*devnet.Proc) (sum time.Duration, err error) {
	for _, p := range procs {
		used, err := p.CPUTime()
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}
