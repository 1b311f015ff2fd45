package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"
	"text/tabwriter"
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
	channel uint64

	seconds   []float64 // of each block
	work      []*devnet.Proc
	cpu       time.Duration // of work, in the blocks
	latencies []float64     // of each payment in a block, in ms
	quiet     []float64     // of payments one at a time, in ms

	// retries are attempts that failed on the way: work that is not counted.
	retries atomic.Int64
}

// runForwardProxied is the same with two programs of others attached to sluiced.
func runForwardProxied(ctx context.Context, b *bench) (result, error) {
	programs := &proxied{names: []string{"one", "two"}}
	r, err := forwards(ctx, b, programs, minProxied)
	if asked := programs.answered.Load(); err == nil && asked < int64(2*b.blocks*blockSize) {
		return r, fmt.Errorf("the programs were asked %d times only", asked)
	}
	return r, err
}

func runForward(ctx context.Context, b *bench) (result, error) {
	return forwards(ctx, b, nil, minThroughput)
}

func forwards(ctx context.Context, b *bench, programs *proxied, gate float64) (_ result, err error) {
	ctx, cancel := context.WithTimeout(ctx, 14*time.Minute)
	defer cancel()
	n, err := b.startNodes(ctx, devnet.GatewayArgs(), withoutInterceptor())
	if err != nil {
		return nil, err
	}
	defer func() { err = b.finish(n, err) }()
	arms, err := forwardChannels(ctx, b, n)
	if err != nil {
		return nil, err
	}
	s, err := startSluiceWith(ctx, n.Net, n.first, n.receiver, programs)
	if err != nil {
		return nil, err
	}
	defer s.hangUp()
	arms[0].work = []*devnet.Proc{n.first.Proc(), s.daemon.Proc}
	arms[1].work = []*devnet.Proc{n.second.Proc()}
	b.say("sluiced is attached to the first gateway; the second runs without interceptor")

	// Mission control, caches and connections are warm before anything counts.
	for _, a := range arms {
		if err := a.warmUp(ctx, n); err != nil {
			return nil, err
		}
	}
	for i := range b.blocks {
		for j := range arms {
			a := arms[(i+j)%2]
			if err := a.block(ctx, n); err != nil {
				return nil, fmt.Errorf("block %d through the gateway %s: %w", i+1, a.name, err)
			}
		}
		b.say("pair of blocks %d of %d: %.1f forwards/s with Sluice, %.1f without", i+1, b.blocks,
			blockSize/arms[0].seconds[i], blockSize/arms[1].seconds[i])
	}
	b.say("%d payments each, one at a time", quietPayments)
	for i := range quietPayments {
		for j := range arms {
			a := arms[(i+j)%2]
			took, err := a.pay(ctx, n)
			if err != nil {
				return nil, fmt.Errorf("a payment through the gateway %s: %w", a.name, err)
			}
			a.quiet = append(a.quiet, ms(took))
		}
	}
	return forwardReport(b, arms, gate)
}

// forwardChannels gives both gateways one channel from the payer and several
// to the receiver.
func forwardChannels(ctx context.Context, b *bench, n *nodes) ([]*arm, error) {
	perArm := int64(b.blocks+2)*blockSize + quietPayments
	needSat := perArm*forwardMsat/1000 + 500_000
	eachSat := 2*needSat/receiverChannels + 500_000
	if err := n.Fund(ctx, devnet.Funding{Node: n.payer, CoinSat: needSat + 100_000, Coins: 2},
		devnet.Funding{Node: n.first, CoinSat: eachSat + 100_000, Coins: receiverChannels + 1},
		devnet.Funding{Node: n.second, CoinSat: eachSat + 100_000, Coins: receiverChannels + 1}); err != nil {
		return nil, err
	}
	wishes := []wish{{n.payer, n.first, needSat}, {n.payer, n.second, needSat}}
	for range receiverChannels {
		wishes = append(wishes, wish{n.first, n.receiver, eachSat}, wish{n.second, n.receiver, eachSat})
	}
	channels, err := n.openAll(ctx, wishes...)
	if err != nil {
		return nil, err
	}
	return []*arm{{name: "with Sluice", channel: channels[0].ChanID}, {name: "without interceptor", channel: channels[1].ChanID}}, nil
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

func (a *arm) warmUp(ctx context.Context, n *nodes) error {
	if err := a.block(ctx, n); err != nil {
		return fmt.Errorf("warm up %s: %w", a.name, err)
	}
	a.seconds, a.latencies, a.cpu = nil, nil, 0
	return nil
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
	a.seconds = append(a.seconds, time.Since(began).Seconds())
	a.latencies = append(a.latencies, took...)
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

func forwardReport(b *bench, arms []*arm, gate float64) (result, error) {
	with, without := arms[0], arms[1]
	fmt.Fprintf(b.out, "\n%d forwards per arm in blocks of %d with %d in flight, then %d one at a time\n\n",
		len(with.latencies), blockSize, inFlight, quietPayments)
	table := tabwriter.NewWriter(b.out, 2, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tforwards/s\tblock p50\tp50 ms\tp95 ms\tp99 ms\talone p50 ms\talone p99 ms\tcpu ms each\tretries\t")
	for _, a := range arms {
		fmt.Fprintf(table, "%s\t%.1f\t%.1f\t%.0f\t%.0f\t%.0f\t%.1f\t%.1f\t%.2f\t%d\t\n", a.name, float64(len(a.latencies))/total(a.seconds),
			blockSize/median(a.seconds), median(a.latencies), quantile(a.latencies, 0.95), quantile(a.latencies, 0.99),
			median(a.quiet), quantile(a.quiet, 0.99), ms(a.cpu)/float64(len(a.latencies)), a.retries.Load())
	}
	if err := table.Flush(); err != nil {
		return nil, err
	}
	fmt.Fprintln(b.out, "\ncpu: of the gateway's lnd, and of sluiced where it is attached")
	// As many forwards in each block, so a pair's throughput ratio is that of the
	// times. The mean of the middle pairs is told, and pairs are drawn for its
	// interval: what slows the machine for a while slows both of a pair, and a
	// burst of other work during one block cannot decide.
	pairs := make([]float64, len(with.seconds))
	for i := range pairs {
		pairs[i] = without.seconds[i] / with.seconds[i]
	}
	ratio, overall := midmean(pairs), total(without.seconds)/total(with.seconds)
	low, high := bootstrap(b.seed, len(pairs), func(draw []int) float64 { return midmean(pick(pairs, draw)) })
	// The same for what the slowest wait longer.
	slowest := make([]float64, len(pairs))
	for i := range slowest {
		from, to := i*blockSize, (i+1)*blockSize
		slowest[i] = quantile(with.latencies[from:to], 0.99) - quantile(without.latencies[from:to], 0.99)
	}
	added := median(slowest)
	fmt.Fprintf(b.out, "\nadded p99 %.1f ms (median of the pairs of blocks; aim: %d ms)\n", added, aimAddedMs)
	fmt.Fprintf(b.out, "\nthroughput ratio %.3f (mean of the middle of %d pairs of blocks), 95 %% interval %.3f to %.3f (seed %d); the gate is %.2f for its lower end; over all blocks %.3f\n\n",
		ratio, len(pairs), low, high, b.seed, gate, overall)
	var r result
	r.add("throughput_ratio", "%.3f", ratio)
	r.add("p99_added_ms", "%.1f", added)
	r.add("ratio_low", "%.3f", low)
	r.add("ratio_high", "%.3f", high)
	r.add("ratio_overall", "%.3f", overall)
	r.add("alone_p50_added_ms", "%.1f", median(with.quiet)-median(without.quiet))
	r.add("alone_p99_added_ms", "%.1f", quantile(with.quiet, 0.99)-quantile(without.quiet, 0.99))
	r.add("forwards", "%d", len(with.latencies))
	if low < gate {
		return r, fmt.Errorf("%w: the throughput ratio's lower end is %.3f, at least %.2f is wanted", errMissed, low, gate)
	}
	return r, nil
}
