package app

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
	interceptorstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
)

// offlineJob is a wallet that has a channel, and a payer with so many.
func offlineJob(parts int) job {
	return job{name: "offline", amountSat: 300_000 * int64(parts), parts: parts, channelSat: 1_500_000}
}

// register asks for holds until sluiced takes it.
func (r *rig) register(h *lwsv1.Hold) {
	r.t.Helper()
	var last error
	for range 500 {
		if s := r.service.Load(); s != nil {
			if _, last = s.holds.SetHold(r.asWallet(), &lwsv1.SetHoldRequest{Hold: h}); last == nil {
				return
			}
		}
		r.pause(r.step)
	}
	r.t.Fatalf("the wallet cannot register: %v", last)
}

func ordinaryHold() *lwsv1.Hold {
	return &lwsv1.Hold{HoldForSeconds: 3600, MaxHtlcs: 10, MaxSat: 1_000_000, FinalCltvDeltaBlocks: 80}
}

// invoice is one of the wallet's own, over its channel, as a stock lnd makes it.
func (r *rig) invoice(finalCltv uint64) string {
	r.t.Helper()
	channels, err := r.ln(r.wallet).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(r.t, err)
	require.Len(r.t, channels.Channels, 1)
	gateway, err := r.ln(r.gateway).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(r.t, err)
	scid := uint64(0)
	for _, c := range gateway.Channels {
		if c.RemotePubkey == r.wallet.PubKey() {
			scid = c.ChanId
		}
	}
	require.NotZero(r.t, scid)
	inv, err := r.ln(r.wallet).AddInvoice(r.ctx, &lnrpc.Invoice{
		ValueMsat: r.job.amountSat * 1000, Expiry: 7200, CltvExpiry: finalCltv,
		RouteHints: []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
			NodeId: r.gateway.PubKey(), ChanId: scid, FeeBaseMsat: 1000, FeeProportionalMillionths: 1, CltvExpiryDelta: 80,
		}}}},
	})
	require.NoError(r.t, err)
	return inv.PaymentRequest
}

// waitWaiting waits until so many HTLCs wait for the wallet, and are claimed.
func (r *rig) waitWaiting(htlcs uint32) []*lwsv1.WaitingPayment {
	r.t.Helper()
	return r.waitHold(fmt.Sprintf("%d HTLCs do not wait", htlcs), func(waiting []*lwsv1.WaitingPayment) bool {
		n := uint32(0)
		for _, w := range waiting {
			n += w.GetHtlcs()
		}
		return n == htlcs
	})
}

// waitFailing waits until a payment is on its way back. How many HTLCs it has by
// then is the payer's choice: lnd tries anew, in other parts, what went back.
func (r *rig) waitFailing(id string) {
	r.t.Helper()
	r.waitHold(fmt.Sprintf("payment %s does not go back", id), func(waiting []*lwsv1.WaitingPayment) bool {
		return slices.ContainsFunc(waiting, func(w *lwsv1.WaitingPayment) bool { return w.GetId() == id && w.GetState() == "failing" })
	})
}

// waitHold waits until what waits for the wallet is as wanted, over restarts.
func (r *rig) waitHold(complaint string, wanted func([]*lwsv1.WaitingPayment) bool) []*lwsv1.WaitingPayment {
	r.t.Helper()
	var last string
	for range 500 {
		if s := r.service.Load(); s != nil {
			got, err := s.holds.GetHold(r.asWallet(), &lwsv1.GetHoldRequest{})
			if err == nil && wanted(got.GetWaiting()) {
				return got.GetWaiting()
			}
			last = fmt.Sprint(got, err)
		}
		r.pause(r.step)
	}
	r.t.Fatalf("%s: %s", complaint, last)
	return nil
}

// waitBack waits until a payment does not wait any more, within a time.
func (r *rig) waitBack(id string, within time.Duration) {
	r.t.Helper()
	for began := time.Now(); time.Since(began) < within; r.pause(r.step) {
		got, err := r.service.Load().holds.GetHold(r.asWallet(), &lwsv1.GetHoldRequest{})
		require.NoError(r.t, err)
		here := false
		for _, w := range got.Waiting {
			here = here || w.Id == id
		}
		if !here {
			return
		}
	}
	r.t.Fatalf("payment %s still waits", id)
}

// away takes the wallet's node away and waits until sluiced has noticed.
func (r *rig) away() {
	r.t.Helper()
	r.w.Disconnect(r.gateway, r.wallet)
	r.pause(2 * time.Second)
}

// recorded counts the interceptor's rows.
func (r *rig) recorded() int {
	r.t.Helper()
	db, err := store.Open(r.ctx, store.Config{Engine: store.SQLite, Path: r.store.Path, Log: r.log})
	require.NoError(r.t, err)
	defer func() { _ = db.Close() }()
	rows, err := interceptorstore.New(db, leaseGateway).List(r.ctx, interceptor.RowFilter{Limit: 1000})
	require.NoError(r.t, err)
	return len(rows)
}

// fair checks that the payer spent what the wallet and the gateway got, and that
// nothing is left over.
func (r *rig) fair(paid bool) {
	r.t.Helper()
	r.settle()
	require.NoError(r.t, r.w.Err())
	spent := r.before[r.payer] - r.w.Wealth(r.payer).TotalMsat()
	got := r.w.Wealth(r.wallet).TotalMsat() - r.before[r.wallet]
	earned := r.w.Wealth(r.gateway).TotalMsat() - r.before[r.gateway]
	require.Equal(r.t, spent, got+earned)
	require.GreaterOrEqual(r.t, earned, int64(0), "the gateway lost money")
	if paid {
		require.Equal(r.t, r.job.amountSat*1000, got)
	} else {
		require.Zero(r.t, spent)
	}
	require.Empty(r.t, r.waitWaiting(0))
}

// TestOfflineWalletIsPaidWhenItComes: one part and two, with a restart between.
func TestOfflineWalletIsPaidWhenItComes(t *testing.T) {
	for _, parts := range []int{1, 2} {
		t.Run(fmt.Sprint(parts), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: offlineJob(parts), latency: lndfake.Observed()})
				r.up()
				r.register(ordinaryHold())
				ear, _ := r.listen(r.walletKey)
				bolt11 := r.invoice(80)
				r.away()
				paid := r.pay(bolt11)
				told := r.hears(ear)
				require.NotZero(t, told.AmountMsat)
				waiting := r.waitWaiting(uint32(parts))
				require.Len(t, waiting, 1, "parts of one payment")
				require.EqualValues(t, 4, waiting[0].BlocksLeft, "the onion of a default invoice of lnd's leaves so many")
				require.NotZero(t, waiting[0].Wakes)
				stranger, err := r.service.Load().holds.GetHold(asWallet(r, ln.PubKey{3, 9}), &lwsv1.GetHoldRequest{})
				require.NoError(t, err)
				require.Empty(t, stranger.Waiting)

				r.killProcess()
				r.pause(time.Second)
				r.up()
				r.waitWaiting(uint32(parts))
				r.w.Mine(3)
				r.w.Connect(r.gateway, r.wallet)
				require.Equal(t, lnrpc.Payment_SUCCEEDED, r.outcome(paid).Status)
				r.fair(true)
			})
		})
	}
}

// TestOnlineWalletIsNotHeldUp: nothing of it is recorded.
func TestOnlineWalletIsNotHeldUp(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: offlineJob(1), latency: lndfake.Observed()})
		r.up()
		r.register(ordinaryHold())
		r.away()
		r.w.Connect(r.gateway, r.wallet)
		r.pause(2 * time.Second)
		require.Equal(t, lnrpc.Payment_SUCCEEDED, r.outcome(r.pay(r.invoice(80))).Status)
		require.Zero(t, r.recorded())
		r.fair(true)
	})
}

// TestOfflineWalletThatDoesNotCome: by the clock, and by blocks, the payer has the money
// back in time, all parts of it.
func TestOfflineWalletThatDoesNotCome(t *testing.T) {
	t.Run("clock", func(t *testing.T) {
		virtual(t, func(t *testing.T) {
			r := newRig(t, rigConfig{seed: 1, job: offlineJob(2), latency: lndfake.Observed()})
			r.up()
			h := ordinaryHold()
			h.HoldForSeconds = 60
			r.register(h)
			bolt11 := r.invoice(80)
			r.away()
			paid := r.pay(bolt11)
			r.waitBack(r.waitWaiting(2)[0].Id, 70*time.Second)
			// lnd's payers try again, as with any temporary failure, until they are tired.
			require.Equal(t, lnrpc.Payment_FAILED, r.outcome(paid).Status)
			r.fair(false)
		})
	})
	t.Run("blocks", func(t *testing.T) {
		virtual(t, func(t *testing.T) {
			r := newRig(t, rigConfig{seed: 1, job: offlineJob(1), latency: lndfake.Observed()})
			r.up()
			r.register(ordinaryHold())
			bolt11 := r.invoice(80)
			r.away()
			paid := r.pay(bolt11)
			first := r.waitWaiting(1)[0].Id
			// The chain advances many blocks at once.
			r.w.Mine(10)
			r.waitBack(first, 10*time.Second)
			_, err := r.service.Load().holds.RemoveHold(r.asWallet(), &lwsv1.RemoveHoldRequest{})
			require.NoError(t, err)
			require.Equal(t, lnrpc.Payment_FAILED, r.outcome(paid).Status)
			r.fair(false)
		})
	})
}

// TestOfflineLimits: what does not fit goes back at once, and nothing that waits is
// touched.
func TestOfflineLimits(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: offlineJob(1), latency: lndfake.Observed()})
		r.up()
		_, err := r.service.Load().holds.SetHold(asWallet(r, ln.PubKey{3, 9}), &lwsv1.SetHoldRequest{Hold: ordinaryHold()})
		require.ErrorContains(t, err, "no channel with this gateway")
		h := ordinaryHold()
		h.MaxHtlcs = 1
		r.register(h)
		first, second := r.invoice(80), r.invoice(80)
		r.away()
		paid := r.pay(first)
		r.waitWaiting(1)
		refused := <-r.pay(second)
		require.Equal(t, lnrpc.Payment_FAILED, refused.Status)
		r.waitWaiting(1)
		r.w.Connect(r.gateway, r.wallet)
		require.Equal(t, lnrpc.Payment_SUCCEEDED, r.outcome(paid).Status)
		r.fair(true)
	})
}

// TestOfflinePartThatTheInterceptorRefuses: one part of two is beyond a limit of the
// interceptor's. The other does not wait for the wallet without it.
func TestOfflinePartThatTheInterceptorRefuses(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: offlineJob(2), latency: lndfake.Observed(), configure: func(c *Config) {
			c.Interceptor.MaxHeldSat = 400_000
		}})
		r.up()
		r.register(ordinaryHold())
		bolt11 := r.invoice(80)
		r.away()
		began := time.Now()
		// No blocks meanwhile: they would send it back for another reason.
		m := <-r.pay(bolt11)
		require.Equal(t, lnrpc.Payment_FAILED, m.Status)
		require.Less(t, time.Since(began), 10*time.Minute, "it waited for a part that does not come")
		r.fair(false)
	})
}

// TestOfflineCrashAtEveryCommit: sluiced dies before and after each commit in turn.
// The payment is paid or goes back, and nobody loses.
func TestOfflineCrashAtEveryCommit(t *testing.T) {
	run := func(t *testing.T, n int64, point storetest.Point) (commits int64, paid bool) {
		r := newRig(t, rigConfig{seed: uint64(n), job: offlineJob(2), latency: lndfake.Observed()}) //nolint:gosec // a count
		r.up()
		r.register(ordinaryHold())
		bolt11 := r.invoice(80)
		r.away()
		began := r.faults.Commits()
		crash := r.crashes(n, point)
		sent := r.pay(bolt11)
		r.pause(5 * time.Second)
		r.w.Connect(r.gateway, r.wallet)
		m := r.outcome(sent)
		commits = r.faults.Commits() - began
		crash()
		r.fair(m.Status == lnrpc.Payment_SUCCEEDED)
		return commits, m.Status == lnrpc.Payment_SUCCEEDED
	}
	var commits int64
	virtual(t, func(t *testing.T) {
		var paid bool
		commits, paid = run(t, 0, storetest.BeforeCommit)
		require.True(t, paid)
	})
	require.Greater(t, commits, int64(8))
	for _, point := range []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit} {
		paid, failed := 0, 0
		for n := int64(1); n <= commits; n++ {
			t.Run(fmt.Sprintf("%s/%d", point, n), func(t *testing.T) {
				virtual(t, func(t *testing.T) {
					if _, ok := run(t, n, point); ok {
						paid++
					} else {
						failed++
					}
				})
			})
		}
		t.Logf("%s: %d commits, %d paid, %d went back", point, commits, paid, failed)
	}
}

// crashes plans the death of the process at a commit, 0 being none, and gives what waits
// until it has died there, and lives.
func (r *rig) crashes(n int64, point storetest.Point) (died func()) {
	r.t.Helper()
	if n == 0 {
		return func() {}
	}
	starts := r.starts.Load()
	r.crashAt(n, point)
	return func() {
		r.t.Helper()
		// Something is always written, were it the lease.
		for range 600 {
			if r.starts.Load() > starts {
				r.calm()
				return
			}
			r.pause(time.Second)
		}
		r.t.Fatalf("it did not die %s commit %d", point, n)
	}
}

// TestOfflineBadDays: a wallet that comes and goes, for a moment or for long, links that
// flap, blocks that come in bursts, lnd and sluiced killed, payments all the while. In
// the end everybody has what is theirs, and nothing is stuck.
func TestOfflineBadDays(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for i := range runs(12) {
		seed := seed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			virtual(t, func(t *testing.T) { r := newOfflineDay(t, seed); r.offlineDay() })
		})
	}
}

func newOfflineDay(t *testing.T, seed uint64) *rig {
	j := offlineJob(1)
	j.amountSat = 20_000
	r := newRig(t, rigConfig{seed: seed, job: j, latency: lndfake.Observed()})
	r.up()
	h := ordinaryHold()
	h.HoldForSeconds = uint32(60 + r.rng.IntN(600))
	r.register(h)
	return r
}

func (r *rig) offlineDay() {
	t := r.t
	t.Helper()
	var invoices []string
	for range 15 {
		invoices = append(invoices, r.invoice(uint64(24+56*r.rng.IntN(2))))
	}
	var sent []<-chan *lnrpc.Payment
	for _, bolt11 := range invoices {
		for range r.rng.IntN(4) {
			r.pause(time.Duration(r.rng.IntN(5000)) * time.Millisecond)
			switch r.rng.IntN(9) {
			case 0, 1:
				r.w.Disconnect(r.gateway, r.wallet)
			case 2, 3:
				r.w.Connect(r.gateway, r.wallet)
			case 4:
				r.w.Connect(r.gateway, r.wallet)
				r.pause(time.Duration(r.rng.IntN(1000)) * time.Millisecond)
				r.w.Disconnect(r.gateway, r.wallet)
			case 5:
				r.w.Flap(r.payer, r.gateway)
			case 6:
				r.w.Mine(1 + r.rng.IntN(6))
			case 7:
				r.killProcess()
			case 8:
				require.NoError(t, r.gateway.Restart())
				r.w.Connect(r.payer, r.gateway)
			}
		}
		// A payer who was told that the wallet is unknown would not try again.
		_, err := routerrpc.NewRouterClient(r.conns[r.payer]).ResetMissionControl(r.ctx, &routerrpc.ResetMissionControlRequest{})
		require.NoError(t, err)
		sent = append(sent, r.pay(bolt11))
	}
	r.w.Connect(r.gateway, r.wallet)
	paid := int64(0)
	for _, p := range sent {
		if r.outcome(p).Status == lnrpc.Payment_SUCCEEDED {
			paid++
		}
	}
	r.up()
	r.settle()
	require.NoError(t, r.w.Err())
	spent := r.before[r.payer] - r.w.Wealth(r.payer).TotalMsat()
	got := r.w.Wealth(r.wallet).TotalMsat() - r.before[r.wallet]
	earned := r.w.Wealth(r.gateway).TotalMsat() - r.before[r.gateway]
	require.Equal(t, spent, got+earned)
	require.GreaterOrEqual(t, earned, int64(0), "the gateway lost money")
	require.Equal(t, paid*r.job.amountSat*1000, got, "who was told of success paid, and nobody else")
	r.waitWaiting(0)
	t.Logf("%d of %d paid", paid, len(sent))
}
