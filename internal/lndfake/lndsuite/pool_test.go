//go:build itest

package lndsuite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// The bounds of sharing. Idle networks cost memory and some CPU; the dead wallets' channels of a network slow it down.
const (
	mostIdle  = 3
	mostCases = 25
	drainFor  = 30 * time.Second
)

// pool keeps networks between cases. What goes back into it was looked at: no HTLC is in flight, no payment goes on, and
// a reconnection of the payer offers nothing. A network of which this cannot be had is closed, and so is that of a case
// which failed.
type pool struct {
	t *testing.T

	mu   sync.Mutex
	idle []*shared
}

type shared struct {
	s     *devnet.Standard
	opts  Options
	cases int
}

func (p *pool) take(t *testing.T, opts Options) Network {
	t.Helper()
	kind := opts
	kind.Ruins = false
	r := &real{shared: p.fromIdle(kind)}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	begin := time.Now()
	if r.shared == nil {
		r.shared = p.start(ctx, t, kind)
		r.wallet, r.walletLink = r.s.Wallet, r.s.WalletLink
		t.Logf("a network of its own after %s in %s", time.Since(begin).Round(time.Millisecond), r.s.Dir())
	} else if err := r.welcome(ctx); err != nil {
		t.Fatalf("a wallet on a shared network: %v", errors.Join(err, r.s.Close()))
	} else {
		t.Logf("a shared network's case %d after %s in %s", r.cases+1, time.Since(begin).Round(time.Millisecond), r.s.Dir())
	}
	r.cases++
	t.Cleanup(func() { p.giveBack(t, r, opts.Ruins) })
	return r
}

func (p *pool) fromIdle(kind Options) *shared {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.idle, func(s *shared) bool { return s.opts == kind })
	if i < 0 {
		return nil
	}
	s := p.idle[i]
	p.idle = slices.Delete(p.idle, i, i+1)
	return s
}

func (p *pool) start(ctx context.Context, t *testing.T, opts Options) *shared {
	t.Helper()
	cfg := devnet.StandardConfig{
		NoInterceptor: !opts.RequireInterceptor, GatewayCoins: 40, ChannelSat: 16_000_000, PushSat: 4_000_000,
	}
	if !opts.ZeroFees {
		cfg.Gateway.ExtraArgs = append(cfg.Gateway.ExtraArgs, "--bitcoin.basefee=1000", "--bitcoin.feerate=1")
	}
	if opts.CommitInterval > 0 {
		cfg.Gateway.ExtraArgs = append(cfg.Gateway.ExtraArgs, "--channel-commit-interval="+opts.CommitInterval.String())
	}
	if opts.PayerBatch {
		cfg.Payer.ExtraArgs = append(cfg.Payer.ExtraArgs, "--channel-commit-interval=500ms")
	}
	s, err := devnet.StartStandardNet(ctx, cfg)
	require.NoError(t, err)
	if opts.FeeRateSatPerKW > 0 {
		s.Fees().SetSatPerVByte(uint32(opts.FeeRateSatPerKW / 250)) //nolint:gosec // a small rate
		time.Sleep(3 * time.Second)                                 // lnd asks every one to two seconds
	}
	s.PayerLink.SetDelay(opts.PayerDelay)
	return &shared{s: s, opts: opts}
}

// welcome gives a network that served other cases a wallet that nobody knows, and has the nodes forget routes.
func (r *real) welcome(ctx context.Context) (err error) {
	if r.wallet, err = r.s.NewNode(ctx, fmt.Sprintf("wallet%d", r.cases), devnet.NodeConfig{}); err != nil {
		return err
	}
	if r.walletLink, err = r.s.NewLink(r.s.Gateway); err != nil {
		return err
	}
	if err := r.s.ConnectVia(ctx, r.wallet, r.s.Gateway, r.walletLink); err != nil {
		return err
	}
	for _, n := range []*devnet.Node{r.s.Payer, r.s.Gateway} {
		if _, err := routerrpc.NewRouterClient(n.Conn).ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{}); err != nil {
			return err
		}
	}
	// What earlier cases left unconfirmed would be spent again and again.
	return r.s.Mine(ctx, 1)
}

func (p *pool) giveBack(t *testing.T, r *real, ruined bool) {
	t.Helper()
	if t.Failed() {
		r.s.Keep()
		t.Logf("logs are kept in %s/logs", r.s.Dir())
	}
	if !t.Failed() && !ruined && r.cases < mostCases {
		begin := time.Now()
		err := r.drain()
		if err == nil {
			t.Logf("the network is as it was after %s", time.Since(begin).Round(time.Millisecond))
			p.keep(t, r.shared)
			return
		}
		t.Logf("not used again: %v", err)
	}
	if err := r.s.Close(); err != nil {
		t.Errorf("close the network: %v", err)
	}
}

func (p *pool) keep(t *testing.T, s *shared) {
	t.Helper()
	p.mu.Lock()
	p.idle = append(p.idle, s)
	var old *shared
	if len(p.idle) > mostIdle {
		old = p.idle[0]
		p.idle = slices.Delete(p.idle, 0, 1)
	}
	p.mu.Unlock()
	if old != nil {
		if err := old.s.Close(); err != nil {
			t.Errorf("close a network: %v", err)
		}
	}
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.idle {
		if err := s.s.Close(); err != nil {
			p.t.Errorf("close a network: %v", err)
		}
	}
	p.idle = nil
}

// drain brings the network to rest, as cases expect it, and retires the wallet.
func (r *real) drain() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainFor)
	defer cancel()
	r.s.PayerLink.Restore()
	r.walletLink.Restore()
	nodes := []*devnet.Node{r.s.Gateway, r.s.Payer, r.wallet}
	for _, n := range nodes {
		_ = n.Thaw()
		if !n.Proc().Running() {
			if err := n.Start(ctx); err != nil {
				return err
			}
		}
	}
	for _, n := range nodes[1:] {
		if err := r.s.WaitConnected(ctx, n, r.s.Gateway); err != nil {
			return err
		}
	}
	offers := func() int { return 0 }
	if r.opts.RequireInterceptor {
		// Whatever is held, or sent again, meets invoices that are no more.
		var stop func()
		offers, stop = resumeAll(r.s.Gateway)
		defer stop()
	}
	for _, n := range []*devnet.Node{r.wallet, r.s.Gateway} {
		if err := cancelInvoices(ctx, n); err != nil {
			return err
		}
	}
	if err := devnet.WaitFor(ctx, "no HTLC and no payment", func(ctx context.Context) (bool, error) { return atRest(ctx, nodes) }); err != nil {
		return err
	}
	if err := r.s.Retire(r.wallet, r.walletLink); err != nil {
		return err
	}
	// A phantom would be offered to every case that comes.
	before := offers()
	r.s.PayerLink.Flap()
	// They may be back before this has looked.
	seen, done := context.WithTimeout(ctx, time.Second)
	_ = r.s.WaitDisconnected(seen, r.s.Payer, r.s.Gateway)
	done()
	if _, err := r.s.Payer.WaitChannelActive(ctx, r.s.PayerChannel.Point); err != nil {
		return err
	}
	if _, err := r.s.Gateway.WaitChannelActive(ctx, r.s.PayerChannel.Point); err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond)
	if n := offers() - before; n > 0 {
		return fmt.Errorf("%d HTLCs are offered at a reconnection", n)
	}
	return nil
}

// resumeAll attaches an interceptor's client that resumes all that it is offered, and counts.
func resumeAll(gateway *devnet.Node) (offers func() int, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	n := 0
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			stream, err := routerrpc.NewRouterClient(gateway.Conn).HtlcInterceptor(ctx)
			for err == nil {
				var q *routerrpc.ForwardHtlcInterceptRequest
				if q, err = stream.Recv(); err == nil {
					mu.Lock()
					n++
					mu.Unlock()
					err = stream.Send(&routerrpc.ForwardHtlcInterceptResponse{
						IncomingCircuitKey: q.IncomingCircuitKey, Action: routerrpc.ResolveHoldForwardAction_RESUME,
					})
				}
			}
			// The case's own client may be attached for a moment more.
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	return func() int {
			mu.Lock()
			defer mu.Unlock()
			return n
		}, func() {
			cancel()
			running.Wait()
		}
}

func cancelInvoices(ctx context.Context, n *devnet.Node) error {
	list, err := n.LN.ListInvoices(ctx, &lnrpc.ListInvoiceRequest{PendingOnly: true, NumMaxInvoices: 1000})
	if err != nil {
		return err
	}
	for _, inv := range list.Invoices {
		if _, err := invoicesrpc.NewInvoicesClient(n.Conn).CancelInvoice(ctx, &invoicesrpc.CancelInvoiceMsg{PaymentHash: inv.RHash}); err != nil {
			return err
		}
	}
	return nil
}

func atRest(ctx context.Context, nodes []*devnet.Node) (bool, error) {
	for _, n := range nodes {
		list, err := n.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
		if err != nil {
			return false, err
		}
		for _, c := range list.Channels {
			if len(c.PendingHtlcs) > 0 {
				return false, nil
			}
		}
		closing, err := n.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
		if err != nil {
			return false, err
		}
		if len(closing.PendingForceClosingChannels) > 0 {
			return false, errors.New("a channel is being closed by force")
		}
		sent, err := n.LN.ListPayments(ctx, &lnrpc.ListPaymentsRequest{IncludeIncomplete: true, Reversed: true, MaxPayments: 50})
		if err != nil {
			return false, err
		}
		for _, m := range sent.Payments {
			if m.Status == lnrpc.Payment_IN_FLIGHT || m.Status == lnrpc.Payment_INITIATED {
				return false, nil
			}
		}
	}
	return true, nil
}
