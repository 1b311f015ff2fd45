package app

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lws"
	"github.com/sluice-lsp/sluice/lws/agent"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
)

// direct calls the gateway's service as a wallet, without a wire in between.
type direct struct {
	r   *rig
	key ln.PubKey
}

func through[Q, R any](d direct, call func(lwsv1.HoldsServiceServer, context.Context, Q) (R, error), q Q) (R, error) {
	s := d.r.service.Load()
	if s == nil {
		var none R
		return none, errAway
	}
	return call(s.holds, asWallet(d.r, d.key), q)
}

func (d direct) SetHold(_ context.Context, q *lwsv1.SetHoldRequest, _ ...grpc.CallOption) (*lwsv1.SetHoldResponse, error) {
	return through(d, lwsv1.HoldsServiceServer.SetHold, q)
}

func (d direct) GetHold(_ context.Context, q *lwsv1.GetHoldRequest, _ ...grpc.CallOption) (*lwsv1.GetHoldResponse, error) {
	return through(d, lwsv1.HoldsServiceServer.GetHold, q)
}

func (d direct) RemoveHold(_ context.Context, q *lwsv1.RemoveHoldRequest, _ ...grpc.CallOption) (*lwsv1.RemoveHoldResponse, error) {
	return through(d, lwsv1.HoldsServiceServer.RemoveHold, q)
}

func (d direct) ExpectPayment(_ context.Context, q *lwsv1.ExpectPaymentRequest, _ ...grpc.CallOption) (*lwsv1.ExpectPaymentResponse, error) {
	return through(d, lwsv1.HoldsServiceServer.ExpectPayment, q)
}

func (d direct) ReturnPayment(_ context.Context, q *lwsv1.ReturnPaymentRequest, _ ...grpc.CallOption) (*lwsv1.ReturnPaymentResponse, error) {
	return through(d, lwsv1.HoldsServiceServer.ReturnPayment, q)
}

// walletAgent is what runs beside the wallet's lnd.
func (r *rig) walletAgent(wish lws.Wish) *agent.Agent {
	r.t.Helper()
	a := r.agentOn(r.t.TempDir(), wish, true)
	for range 500 {
		all, err := a.Refresh(r.ctx)
		if err == nil && len(all) == 1 && all[0].Registered {
			return a
		}
		r.pause(r.step)
	}
	r.t.Fatal("the agent cannot register")
	return nil
}

// agentOn is a machine's agent.
func (r *rig) agentOn(dir string, wish lws.Wish, enabled bool) *agent.Agent {
	r.t.Helper()
	gateway, err := ln.ParsePubKey(r.gateway.PubKey())
	require.NoError(r.t, err)
	a, err := agent.New(agent.Config{DataDir: dir, Wish: wish, Enabled: enabled}, agent.Ports{
		Node: r.walletClient, Reissue: r.walletClient.ReissueInvoice, Decode: lnd.DecodeBolt11, Now: time.Now, Log: r.log,
		Gateways: func() []agent.Gateway { return []agent.Gateway{{Name: "g", NodeKey: gateway}} },
		Connect: func(_ agent.Gateway, self ln.PubKey) (lwsv1.HoldsServiceClient, func() error, error) {
			return direct{r, self}, func() error { return nil }, nil
		},
	})
	require.NoError(r.t, err)
	return a
}

// longInvoice waits until the wallet's lnd knows the gateway's side of the channel.
func (r *rig) longInvoice(a *agent.Agent, wait time.Duration) agent.Invoice {
	r.t.Helper()
	var last error
	for range 100 {
		inv, err := a.MakeInvoice(r.ctx, agent.InvoiceRequest{AmountMsat: ln.Msat(r.job.amountSat * 1000), Wait: wait, Expiry: time.Hour})
		if err == nil {
			return inv
		}
		last = err
		r.pause(r.step)
	}
	r.t.Fatalf("no invoice: %v", last)
	return agent.Invoice{}
}

// TestLongHold: a payment of an invoice that was signed anew waits for more than a hundred
// blocks, over restarts of both, in one part and in two; and one that waits longer than
// that goes back before the wallet would refuse it.
func TestLongHold(t *testing.T) {
	for _, parts := range []int{1, 2} {
		for _, blocks := range []int{110, 138} {
			t.Run(fmt.Sprintf("%d parts %d blocks", parts, blocks), func(t *testing.T) {
				virtual(t, func(t *testing.T) {
					r := newRig(t, rigConfig{seed: 1, job: offlineJob(parts), latency: lndfake.Observed()})
					r.up()
					a := r.walletAgent(lws.Wish{HoldFor: 24 * time.Hour, MaxHtlcs: 10, MaxSat: 1_000_000, FinalCltvDelta: 80})
					inv := r.longInvoice(a, 20*time.Hour)
					require.EqualValues(t, 120, inv.Plan.WaitBlocks)
					r.away()
					paid := r.pay(inv.Bolt11)
					waiting := r.waitWaiting(uint32(parts))[0]
					require.GreaterOrEqual(t, waiting.BlocksLeft, int32(120))
					require.NotZero(t, waiting.SatBlocks)
					require.NotEmpty(t, waiting.LastWake)
					for n := blocks; n > 0; n -= 10 {
						r.w.Mine(min(n, 10))
						if n == 50 {
							r.killProcess()
							require.NoError(t, r.gateway.Restart())
							r.w.Connect(r.payer, r.gateway)
							r.up()
						}
						r.pause(time.Second)
					}
					if blocks > 130 {
						r.waitBack(waiting.Id, 20*time.Second)
						// The payer's next attempts would wait anew.
						_, err := r.service.Load().holds.RemoveHold(r.asWallet(), &lwsv1.RemoveHoldRequest{})
						require.NoError(t, err)
						r.pause(10 * time.Second)
						r.returnAll()
						require.Equal(t, lnrpc.Payment_FAILED, r.outcome(paid).Status)
						r.fair(false)
						return
					}
					r.w.Connect(r.gateway, r.wallet)
					require.Equal(t, lnrpc.Payment_SUCCEEDED, r.outcome(paid).Status)
					r.fair(true)
				})
			})
		}
	}
}

// returnAll sends back what waits.
func (r *rig) returnAll() {
	r.t.Helper()
	s := r.service.Load()
	got, err := s.holds.GetHold(r.asWallet(), &lwsv1.GetHoldRequest{})
	require.NoError(r.t, err)
	for _, w := range got.Waiting {
		_, err := s.holds.ReturnPayment(r.asWallet(), &lwsv1.ReturnPaymentRequest{Id: w.Id})
		require.NoError(r.t, err)
	}
}

// TestHoldIsPriced: a gateway with a price holds what pays it, and nothing else.
func TestHoldIsPriced(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: offlineJob(1), latency: lndfake.Observed(), configure: func(c *Config) { c.Holds.Price = 1000 }})
		r.up()
		a := r.walletAgent(lws.Wish{HoldFor: 24 * time.Hour, MaxHtlcs: 10, MaxSat: 1_000_000, FinalCltvDelta: 80})
		inv := r.longInvoice(a, 20*time.Hour)
		require.NotZero(t, inv.Plan.PriceMsat)
		free, err := r.walletClient.ReissueInvoice(r.ctx, "regtest", r.invoice(80), ln.Reissue{FinalCltvDelta: 200, Expiry: time.Hour})
		require.NoError(t, err)
		r.away()
		paid := r.pay(inv.Bolt11)
		r.waitWaiting(1)
		require.Equal(t, lnrpc.Payment_FAILED, r.outcome(r.pay(free)).Status)
		r.w.Connect(r.gateway, r.wallet)
		require.Equal(t, lnrpc.Payment_SUCCEEDED, r.outcome(paid).Status)
		r.fair(true)
		earned := r.w.Wealth(r.gateway).TotalMsat() - r.before[r.gateway]
		require.GreaterOrEqual(t, earned, int64(inv.Plan.PriceMsat))
	})
}

// TestRestoredWallet: after a restore from its seed the node does not know the invoices that
// are being paid. The wallet hears what waits as soon as it listens; its agent, on a
// machine that remembers nothing, says of each payment whether the node can take it;
// one is sent back. If the node comes first, it refuses what it cannot take, and the
// payer has its money back: nothing is lost either way.
func TestRestoredWallet(t *testing.T) {
	for _, comes := range []bool{false, true} {
		t.Run(fmt.Sprint(comes), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: offlineJob(1), latency: lndfake.Observed()})
				r.up()
				r.register(ordinaryHold())
				lost := r.invoice(80)
				r.away()
				paid := r.pay(lost)
				waiting := r.waitWaiting(1)[0]
				r.wallet.ForgetInvoices()
				ear, _ := r.listen(r.walletKey)
				require.Equal(t, waiting.Id, r.hears(ear).PaymentId)
				// It is a machine that was told nothing: it leaves the registration alone.
				a := r.agentOn(t.TempDir(), lws.Wish{}, false)
				all, err := a.Refresh(r.ctx)
				require.NoError(t, err)
				require.True(t, all[0].Registered)
				require.Len(t, all[0].Waiting, 1)
				require.Equal(t, agent.InvoiceUnknown, all[0].Waiting[0].Invoice)
				if comes {
					r.w.Connect(r.gateway, r.wallet)
				} else {
					require.NoError(t, a.Return(r.ctx, all[0].Waiting[0].Hash.String()))
					r.waitBack(waiting.Id, 10*time.Second)
					// The payer's next attempts would wait anew.
					_, err = r.service.Load().holds.RemoveHold(r.asWallet(), &lwsv1.RemoveHoldRequest{})
					require.NoError(t, err)
				}
				require.Equal(t, lnrpc.Payment_FAILED, r.outcome(paid).Status)
				r.fair(false)
			})
		})
	}
}

// TestReturnAndTwoMachines: another machine of the same node hears what waits at once; and
// the wallet can send it back, and nobody else.
func TestReturnAndTwoMachines(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: offlineJob(1), latency: lndfake.Observed()})
		r.up()
		r.register(ordinaryHold())
		bolt11 := r.invoice(80)
		r.away()
		paid := r.pay(bolt11)
		waiting := r.waitWaiting(1)[0]
		// Another machine of the same node begins to listen.
		ear, _ := r.listen(r.walletKey)
		told := r.hears(ear)
		require.Equal(t, waiting.Id, told.PaymentId)
		_, err := r.service.Load().holds.ReturnPayment(asWallet(r, ln.PubKey{3, 9}), &lwsv1.ReturnPaymentRequest{Id: waiting.Id})
		require.Error(t, err, "somebody else's")
		_, err = r.service.Load().holds.ReturnPayment(r.asWallet(), &lwsv1.ReturnPaymentRequest{Id: waiting.Id})
		require.NoError(t, err)
		r.waitBack(waiting.Id, 10*time.Second)
		_, err = r.service.Load().holds.RemoveHold(r.asWallet(), &lwsv1.RemoveHoldRequest{})
		require.NoError(t, err)
		require.Equal(t, lnrpc.Payment_FAILED, r.outcome(paid).Status)
		r.fair(false)
	})
}

// TestPaymentsOnDemandWaitLong: a payment that is to open its own channel, or that the
// gateway's own invoice holds, waits for more than a hundred blocks too, over restarts of
// both; the wallet is told of it again and again.
func TestPaymentsOnDemandWaitLong(t *testing.T) {
	for _, j := range jobs()[:6] {
		j.holdFor = 20 * time.Hour
		t.Run(j.name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: j, latency: lndfake.Observed()})
				r.openBooks()
				a := r.agree()
				r.away()
				paid := r.pay(a.bolt11)
				ear, _ := r.listen(r.walletKey)
				told := r.hears(ear)
				require.Equal(t, a.id, told.PaymentId)
				require.Greater(t, time.Until(time.UnixMilli(told.UntilMs)), 19*time.Hour)
				for n := range 11 {
					r.w.Mine(10)
					if n == 5 {
						r.killProcess()
						require.NoError(t, r.gateway.Restart())
						r.w.Connect(r.payer, r.gateway)
						r.up()
					}
					r.pause(time.Minute)
				}
				again, _ := r.listen(r.walletKey)
				require.Equal(t, a.id, r.hears(again).PaymentId)
				r.showsOnDemand(j, a)
				r.w.Connect(r.gateway, r.wallet)
				m := r.outcome(paid)
				require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, r.stories())
				r.await(a.id)
				r.settle()
				r.check(a, m)
			})
		})
	}
}

// showsOnDemand: what waits without a registration is listed with what does, for the
// wallet and for the operator, with what was done to wake the wallet before and after
// the restart.
func (r *rig) showsOnDemand(j job, a agreement) {
	r.t.Helper()
	mine, err := r.service.Load().holds.GetHold(r.asWallet(), &lwsv1.GetHoldRequest{})
	require.NoError(r.t, err)
	require.Nil(r.t, mine.Hold, "it is not registered")
	all, err := r.service.Load().waiting.ListHolds(r.ctx, &lwsv1.ListHoldsRequest{})
	require.NoError(r.t, err)
	for _, list := range [][]*lwsv1.WaitingPayment{mine.Waiting, all.Waiting} {
		require.Len(r.t, list, 1)
		w := list[0]
		require.Equal(r.t, a.id, w.Id)
		require.Equal(r.t, map[bool]string{true: "wrapped", false: "on_demand"}[j.receiverPays], w.Kind)
		require.Positive(r.t, w.Htlcs)
		require.Positive(r.t, w.AmountMsat)
		require.Positive(r.t, w.SatBlocks)
		require.Positive(r.t, w.BlocksLeft)
		require.Equal(r.t, r.w.Height()+uint32(w.BlocksLeft), w.FailHeight)
		require.Less(r.t, w.SinceMs, time.Now().Add(-10*time.Minute).UnixMilli(), "since it came, not since the last block")
		require.GreaterOrEqual(r.t, w.Wakes, uint32(3), "at every block, over the restart")
		require.Contains(r.t, w.LastWake, "its program")
		require.Greater(r.t, w.LastWakeMs, w.SinceMs)
	}
	other, err := r.service.Load().holds.GetHold(asWallet(r, ln.PubKey{3, 9}), &lwsv1.GetHoldRequest{})
	require.NoError(r.t, err)
	require.Empty(r.t, other.Waiting, "nobody else's")
}

// TestReturnOnDemand: a wallet sends back what waits by a wrapped invoice or for a
// channel of its own, as it does what it registered for.
func TestReturnOnDemand(t *testing.T) {
	for _, j := range jobs()[:6] {
		j.holdFor = 20 * time.Hour
		t.Run(j.name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: j, latency: lndfake.Observed()})
				r.openBooks()
				a := r.agree()
				r.away()
				paid := r.pay(a.bolt11)
				r.waitWaiting(uint32(max(1, j.parts)))
				_, err := r.service.Load().holds.ReturnPayment(asWallet(r, ln.PubKey{3, 9}), &lwsv1.ReturnPaymentRequest{Id: a.id})
				require.Equal(t, errkind.NotFound, errkind.Of(err), "somebody else's")
				_, err = r.service.Load().holds.ReturnPayment(r.asWallet(), &lwsv1.ReturnPaymentRequest{Id: a.id})
				require.NoError(t, err)
				m := r.outcome(paid)
				require.Equal(t, lnrpc.Payment_FAILED, m.Status, r.stories())
				r.await(a.id)
				r.settle()
				r.check(a, m)
			})
		})
	}
}

// TestWrappedHoldCrashAtEveryCommit: law 4, over deaths of sluiced before and after each
// commit while the payment waits and the wallet comes.
func TestWrappedHoldCrashAtEveryCommit(t *testing.T) {
	t.Parallel()
	j := jobs()[3]
	j.holdFor = 20 * time.Hour
	run := func(t *testing.T, n int64, point storetest.Point) (commits int64) {
		r := newRig(t, rigConfig{seed: uint64(n), job: j, latency: lndfake.Observed()}) //nolint:gosec // a count
		r.openBooks()
		a := r.agree()
		r.away()
		began := r.faults.Commits()
		crash := r.crashes(n, point)
		paid := r.pay(a.bolt11)
		r.pause(10 * time.Second)
		// Each block is some commits.
		r.w.Mine(2)
		r.pause(time.Minute)
		r.w.Connect(r.gateway, r.wallet)
		m := r.outcome(paid)
		commits = r.faults.Commits() - began
		crash()
		r.await(a.id)
		r.settle()
		r.check(a, m)
		return commits
	}
	var commits int64
	virtual(t, func(t *testing.T) { commits = run(t, 0, storetest.BeforeCommit) })
	require.Greater(t, commits, int64(12))
	t.Logf("%d commits", commits)
	for n := int64(1); n <= commits; n++ {
		points := []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit}
		if runs(0) == 0 {
			// Each commit once; both with SLUICE_RUNS.
			points = points[n%2 : n%2+1]
		}
		for _, point := range points {
			t.Run(fmt.Sprintf("%s/%d", point, n), func(t *testing.T) {
				virtual(t, func(t *testing.T) { run(t, n, point) })
			})
		}
	}
}
