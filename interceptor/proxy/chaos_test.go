package proxy_test

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/proxy"
)

// wild is a program that answers as chance has it: it resumes, fails, holds for a
// while, changes, answers twice, settles without a right, speaks of others' HTLCs.
type wild struct {
	r   *rig
	rng *rand.Rand
	mu  sync.Mutex
}

func (w *wild) draw(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

// run attaches again and again until stop is closed.
func (w *wild) run(name string, stop <-chan struct{}, failing bool) {
	var answers sync.WaitGroup
	defer answers.Wait()
	for {
		select {
		case <-stop:
			return
		default:
		}
		conn, ctx := w.r.dial(name)
		stream, err := routerrpc.NewRouterClient(conn).HtlcInterceptor(ctx)
		if err == nil {
			var send sync.Mutex
			reply := func(m *routerrpc.ForwardHtlcInterceptResponse) {
				send.Lock()
				defer send.Unlock()
				_ = stream.Send(m)
			}
			for {
				o, err := stream.Recv()
				if err != nil {
					break
				}
				if w.draw(40) == 0 {
					break // it dies
				}
				answers.Go(func() { w.reply(o, reply, failing) })
			}
		}
		_ = conn.Close()
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(w.draw(20)) * time.Millisecond):
		}
	}
}

func (w *wild) reply(o *routerrpc.ForwardHtlcInterceptRequest, send func(*routerrpc.ForwardHtlcInterceptResponse), failing bool) {
	m := &routerrpc.ForwardHtlcInterceptResponse{IncomingCircuitKey: o.IncomingCircuitKey, Action: resume}
	switch w.draw(16) {
	case 0:
		if failing {
			m.Action = fail
		}
	case 1, 2:
		time.Sleep(time.Duration(w.draw(300)) * time.Millisecond)
	case 3:
		return // it forgets
	case 4:
		m.Action, m.OutAmountMsat = modify, o.OutgoingAmountMsat
	case 5:
		defer send(&routerrpc.ForwardHtlcInterceptResponse{IncomingCircuitKey: o.IncomingCircuitKey, Action: fail})
	case 6:
		if w.draw(4) == 0 {
			m.Action = settle
		}
	case 7:
		send(&routerrpc.ForwardHtlcInterceptResponse{
			IncomingCircuitKey: &routerrpc.CircuitKey{ChanId: o.IncomingCircuitKey.ChanId, HtlcId: o.IncomingCircuitKey.HtlcId + 1}, Action: fail,
		})
	}
	send(m)
}

// TestProgramsLoseNobodyMoney: programs that misbehave in every way, over flaps, kills
// of lnd and restarts of the sidecar. The gateway is not a millisatoshi poorer, and
// nothing is stuck.
func TestProgramsLoseNobodyMoney(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	r := newRig(t, seed)
	quick := func(p *proxy.Program) { p.AnswerWithin = 400 * time.Millisecond }
	r.register("fails", interceptor.AbsentFail, slow, quick)
	r.register("holds", hold, interceptor.AbsentFail, quick)
	r.register("passes", away, slow, quick)
	before := r.w.Wealth(r.g).TotalMsat()
	walletBefore := r.w.Wealth(r.c).TotalMsat()
	r.start()

	stop := make(chan struct{})
	var programs sync.WaitGroup
	begin := func() {
		w := &wild{r: r, rng: rand.New(rand.NewPCG(seed, rng.Uint64()))}
		for _, name := range []string{"fails", "holds", "passes", "a stranger"} {
			programs.Go(func() { w.run(name, stop, name != "passes") })
		}
	}
	end := func() {
		close(stop)
		r.stop()
		programs.Wait()
		stop = make(chan struct{})
	}
	begin()
	var (
		payments sync.WaitGroup
		mu       sync.Mutex
		states   = make(map[lnrpc.Payment_PaymentStatus]int)
	)
	for range 200 {
		switch rng.IntN(40) {
		case 0:
			r.w.Flap(r.p, r.g)
		case 1:
			r.w.Flap(r.g, r.c)
		case 2:
			require.Eventually(t, func() bool { return r.g.Restart() == nil }, 10*time.Second, 5*time.Millisecond)
		case 3:
			end()
			r.start()
			begin()
		default:
			p := r.pay()
			payments.Go(func() {
				if m := <-p.done; m != nil {
					mu.Lock()
					defer mu.Unlock()
					states[m.Status]++
				}
			})
		}
		time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond)
	}
	payments.Wait()
	require.Eventually(t, func() bool {
		channels, err := r.client.ListChannels(r.ctx)
		if err != nil {
			return false
		}
		for _, ch := range channels {
			if len(ch.Htlcs) > 0 {
				return false
			}
		}
		return true
	}, patience, 20*time.Millisecond, "HTLCs are stuck")
	require.Eventually(t, func() bool { return r.eng.Status().Asked == 0 }, patience, 20*time.Millisecond)
	// That what was held on record is gone is told after the channels show it.
	require.Eventually(t, func() bool {
		return !slices.ContainsFunc(r.hub.Status(), func(p interceptor.ProgramStatus) bool { return p.Waiting != 0 })
	}, patience, 20*time.Millisecond)
	end()
	require.NoError(t, r.w.Err())
	require.GreaterOrEqual(t, r.w.Wealth(r.g).TotalMsat(), before, "the gateway lost money")
	invoices, err := lnrpc.NewLightningClient(r.wallet).ListInvoices(r.ctx, &lnrpc.ListInvoiceRequest{NumMaxInvoices: 1000})
	require.NoError(t, err)
	settled := 0
	for _, inv := range invoices.Invoices {
		if inv.State == lnrpc.Invoice_SETTLED {
			settled++
		}
	}
	require.Equal(t, int64(settled)*1_000_000, r.w.Wealth(r.c).TotalMsat()-walletBefore)
	t.Logf("payments %v; earned %d msat", states, r.w.Wealth(r.g).TotalMsat()-before)
	require.Positive(t, states[lnrpc.Payment_SUCCEEDED])
	require.Positive(t, states[lnrpc.Payment_FAILED])
}
