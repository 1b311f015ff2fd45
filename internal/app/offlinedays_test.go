package app

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
	"github.com/sluice-lsp/sluice/lws"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
	"github.com/sluice-lsp/sluice/lws/hold"
)

// held is a rig whose wallet is away and whose payments wait.
func heldRig(t *testing.T, seed uint64, payments int, long bool) (*rig, []<-chan *lnrpc.Payment) {
	t.Helper()
	j := offlineJob(1)
	j.amountSat = 300_000 / int64(payments)
	r := newRig(t, rigConfig{seed: seed, job: j, latency: lndfake.Observed(), configure: func(c *Config) { c.Holds.Htlcs = 200 }})
	r.up()
	h := ordinaryHold()
	h.MaxHtlcs = 200
	var invoices []string
	if long {
		a := r.walletAgent(lws.Wish{HoldFor: 24 * time.Hour, MaxHtlcs: 200, MaxSat: 1_000_000, FinalCltvDelta: 80})
		for range payments {
			invoices = append(invoices, r.longInvoice(a, 20*time.Hour).Bolt11)
		}
	} else {
		r.register(h)
		for range payments {
			invoices = append(invoices, r.invoice(80))
		}
	}
	r.away()
	var paid []<-chan *lnrpc.Payment
	for _, bolt11 := range invoices {
		paid = append(paid, r.pay(bolt11))
	}
	r.waitWaiting(uint32(payments))
	return r, paid
}

// honest checks the sums of a day on which some were paid.
func (r *rig) honest(sent []<-chan *lnrpc.Payment) int64 {
	r.t.Helper()
	paid := int64(0)
	for _, p := range sent {
		if r.outcome(p).Status == lnrpc.Payment_SUCCEEDED {
			paid++
		}
	}
	r.up()
	r.settle()
	require.NoError(r.t, r.w.Err())
	spent := r.before[r.payer] - r.w.Wealth(r.payer).TotalMsat()
	got := r.w.Wealth(r.wallet).TotalMsat() - r.before[r.wallet]
	earned := r.w.Wealth(r.gateway).TotalMsat() - r.before[r.gateway]
	require.GreaterOrEqual(r.t, earned, int64(0), "the gateway lost money")
	require.Equal(r.t, paid*r.job.amountSat*1000, got, "who was told of success paid, and nobody else")
	if !r.closed {
		require.Equal(r.t, spent, got+earned)
	}
	r.waitWaiting(0)
	return paid
}

// TestHundredHeldOverKills: sluiced killed, lnd killed, and both, the payer's link flapping
// before and after the payments are resumed. All are paid.
func TestHundredHeldOverKills(t *testing.T) {
	for name, kill := range map[string]func(*rig){
		"sluiced": func(r *rig) { r.killProcess() },
		"lnd":     func(r *rig) { require.NoError(r.t, r.gateway.Restart()) },
		"both": func(r *rig) {
			r.killProcess()
			require.NoError(r.t, r.gateway.Restart())
		},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r, sent := heldRig(t, 1, 100, false)
				r.w.Flap(r.payer, r.gateway)
				kill(r)
				r.w.Connect(r.payer, r.gateway)
				r.up()
				r.waitWaiting(100)
				r.w.Connect(r.gateway, r.wallet)
				r.pause(450 * time.Millisecond)
				r.w.Flap(r.payer, r.gateway)
				r.w.Connect(r.payer, r.gateway)
				require.EqualValues(t, 100, r.honest(sent))
			})
		})
	}
}

// fates are the ends of what waited, in the order in which it came (ids follow the clock,
// which may jump): resumed or failed. What went back comes again as the payer's next attempt, and waits anew or not.
func (r *rig) fates() (out []string) {
	r.t.Helper()
	db, err := store.Open(r.ctx, store.Config{Engine: store.SQLite, Path: r.store.Path, Log: r.log})
	require.NoError(r.t, err)
	defer func() { _ = db.Close() }()
	require.NoError(r.t, db.Read(r.ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		rows, err := tx.QueryContext(ctx, "SELECT state FROM fsm_instances WHERE machine = $1 ORDER BY rowid", hold.Name)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var state string
			if err := rows.Scan(&state); err != nil {
				return err
			}
			out = append(out, state)
		}
		return rows.Err()
	}))
	return out
}

// TestBackAtTheDeadlineBlock: the wallet comes shortly before the block that ends the wait.
// What waited goes back when the block is first, and is handed on when the wallet is: the
// sweep goes over that moment. Either way nobody loses.
func TestBackAtTheDeadlineBlock(t *testing.T) {
	fate := map[string]int{}
	for n := range 20 {
		virtual(t, func(t *testing.T) {
			r, sent := heldRig(t, uint64(n), 1, false)
			r.w.Connect(r.gateway, r.wallet)
			r.pause(time.Duration(n) * 40 * time.Millisecond)
			r.w.Mine(4)
			paid := r.honest(sent)
			first := r.fates()[0]
			fate[first]++
			// In between the wallet may refuse what was handed on in the block's moment.
			switch n {
			case 0:
				require.Equal(t, "failed", first, "the wallet's channel was not up yet")
			case 19:
				require.Equal(t, "resumed", first, "it had been up for long enough")
				require.EqualValues(t, 1, paid)
			}
		})
	}
	require.Len(t, fate, 2, "%v", fate)
	t.Logf("%v", fate)
}

// TestManyBlocksAtOnce: within the wait, beyond it, and beyond lnd's own auto-fail, in one
// burst. (Beyond the expiry itself any node closes the channel, whatever we do.)
func TestManyBlocksAtOnce(t *testing.T) {
	for _, blocks := range []int{5, 130, 270} {
		for _, down := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d %v", blocks, down), func(t *testing.T) {
				virtual(t, func(t *testing.T) {
					r, sent := heldRig(t, 1, 3, true)
					if down {
						r.killProcess()
					}
					r.w.Mine(blocks)
					r.pause(10 * time.Second)
					r.up()
					r.w.Connect(r.gateway, r.wallet)
					// The payer's next attempts may find the wallet there: what those that
					// waited came to is what this is about.
					paid := r.honest(sent)
					want := "failed"
					if blocks == 5 {
						want = "resumed"
						require.EqualValues(t, 3, paid)
					}
					require.Equal(t, []string{want, want, want}, r.fates()[:3])
				})
			})
		}
	}
}

// TestBackWithNoChannel: the wallet's channel is closed by force while payments wait. They
// go back at once: their onions name it.
func TestBackWithNoChannel(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r, sent := heldRig(t, 1, 2, true)
		list, err := r.ln(r.gateway).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{Peer: r.walletKey[:]})
		require.NoError(t, err)
		require.Len(t, list.Channels, 1)
		require.NoError(t, r.w.ForceClose(r.gateway, list.Channels[0].ChannelPoint))
		r.w.Mine(1)
		for _, p := range sent {
			require.Equal(t, lnrpc.Payment_FAILED, r.outcome(p).Status)
		}
		r.waitWaiting(0)
		require.Zero(t, r.w.Wealth(r.payer).InFlightMsat)
	})
}

// TestIncomingChannelClosedDuringAHold: the payer's channel goes on chain while its payment
// waits. The wallet comes, and is not paid from it; the payer has its money back.
func TestIncomingChannelClosedDuringAHold(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r, sent := heldRig(t, 1, 2, true)
		r.closePayersFirst()
		r.w.Mine(2)
		r.pause(5 * time.Second)
		r.w.Connect(r.gateway, r.wallet)
		r.closed = true
		for range 40 {
			r.w.Mine(10)
			r.pause(2 * time.Second)
		}
		require.Zero(t, r.honest(sent))
	})
}

// TestClockJumps: sluiced's clock goes ahead or back by a day while a payment waits. Ahead
// its time is over, and it goes back; behind, blocks end the wait all the same.
func TestClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{-25 * time.Hour, 25 * time.Hour} {
		t.Run(jump.String(), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r, sent := heldRig(t, 1, 2, false)
				r.skew.Store(int64(jump))
				r.pause(10 * time.Second)
				r.killProcess()
				r.up()
				if jump < 0 {
					id := r.waitWaiting(2)[0].Id
					r.w.Mine(5)
					r.waitBack(id, 20*time.Second)
				}
				r.w.Connect(r.gateway, r.wallet)
				r.honest(sent)
				require.Equal(t, []string{"failed", "failed"}, r.fates()[:2])
			})
		})
	}
}

// TestTwoDevices: both hear, see the same, and cannot resolve it twice.
func TestTwoDevices(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: offlineJob(1), latency: lndfake.Observed()})
		r.up()
		r.register(ordinaryHold())
		one, _ := r.listen(r.walletKey)
		two, _ := r.listen(r.walletKey)
		bolt11 := r.invoice(80)
		r.away()
		paid := r.pay(bolt11)
		require.Equal(t, r.hears(one).PaymentId, r.hears(two).PaymentId)
		id := r.waitWaiting(1)[0].Id
		_, err := r.service.Load().holds.RemoveHold(r.asWallet(), &lwsv1.RemoveHoldRequest{})
		require.NoError(t, err)
		r.waitWaiting(1)
		_, err = r.service.Load().holds.ReturnPayment(r.asWallet(), &lwsv1.ReturnPaymentRequest{Id: id})
		require.NoError(t, err)
		r.waitBack(id, 10*time.Second)
		_, err = r.service.Load().holds.ReturnPayment(r.asWallet(), &lwsv1.ReturnPaymentRequest{Id: id})
		require.Error(t, err)
		require.Equal(t, lnrpc.Payment_FAILED, r.outcome(paid).Status)
		r.fair(false)
	})
}

// TestBadWebhooks: a webhook that is dead, slow, redirects or fails holds nothing up: the
// payment waits, what became of the call is shown to the wallet and to the operator, and
// the wallet is paid when it comes by itself. In real time: the servers live outside of
// any bubble.
func TestBadWebhooks(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		dead   bool
		// shown is a pattern of what became of the call.
		shown string
	}{
		"good": {answer: func(http.ResponseWriter, *http.Request) {}, shown: `^app at 127\.0\.0\.1: told at \d\d:\d\d:\d\d$`},
		"dead": {answer: func(http.ResponseWriter, *http.Request) {}, dead: true, shown: `call \d failed: .*connection refused; again at`},
		"slow": {answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, shown: `call \d failed: .*(deadline exceeded|[Tt]imeout).*; again at`},
		"elsewhere": {answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1:1/", http.StatusFound)
		}, shown: `call \d failed: status 302; again at`},
		"failing": {answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, shown: `call \d failed: status 500; again at`},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				// A client's end is only seen once its request was read.
				_, _ = io.Copy(io.Discard, r.Body)
				c.answer(w, r)
			}))
			defer server.Close()
			caFile := filepath.Join(t.TempDir(), "ca.pem")
			require.NoError(t, os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
			r := newRig(t, rigConfig{seed: 1, job: offlineJob(1), latency: lndfake.Observed(), configure: func(c *Config) {
				c.LSPS.Webhooks.Networks, c.LSPS.Webhooks.CAFile = []string{"127.0.0.0/8"}, caFile
				c.LSPS.Webhooks.Timeout = config.Duration(2 * time.Second)
			}})
			r.step = 20 * time.Millisecond
			r.up()
			r.register(ordinaryHold())
			require.Eventually(t, func() bool {
				_, err := r.lsps.Call(r.ctx, lsps5.MethodSetWebhook, lsps5.SetRequest{AppName: "app", Webhook: server.URL + "/push"})
				return err == nil
			}, time.Minute, 100*time.Millisecond)
			if c.dead {
				server.Close()
			}
			bolt11 := r.invoice(80)
			r.away()
			paid := r.pay(bolt11)
			shown := regexp.MustCompile(c.shown)
			var waiting *lwsv1.WaitingPayment
			require.Eventually(t, func() bool {
				waiting = r.waitWaiting(1)[0]
				return len(waiting.Webhooks) == 1 && shown.MatchString(waiting.Webhooks[0]) &&
					waiting.LastWake == "its program does not listen; its webhooks are to be called"
			}, 2*time.Minute, 50*time.Millisecond, "%v", waiting)
			all, err := r.service.Load().waiting.ListHolds(r.ctx, &lwsv1.ListHoldsRequest{})
			require.NoError(t, err)
			require.Len(t, all.Waiting, 1)
			require.Len(t, all.Waiting[0].Webhooks, 1)
			r.w.Connect(r.gateway, r.wallet)
			select {
			case m := <-paid:
				require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status)
			case <-time.After(time.Minute):
				t.Fatal("the payment does not end")
			}
		})
	}
}

// TestLimitsHoldWhenManyComeAtOnce: they are judged beside each other, and counted exactly.
func TestLimitsHoldWhenManyComeAtOnce(t *testing.T) {
	virtual(t, func(t *testing.T) {
		j := offlineJob(1)
		j.amountSat = 10_000
		r := newRig(t, rigConfig{seed: 1, job: j, latency: lndfake.Observed()})
		r.up()
		h := ordinaryHold()
		h.MaxHtlcs = 5
		r.register(h)
		var invoices []string
		for range 40 {
			invoices = append(invoices, r.invoice(80))
		}
		r.away()
		var sent []<-chan *lnrpc.Payment
		for _, bolt11 := range invoices {
			sent = append(sent, r.pay(bolt11))
		}
		for range 40 {
			r.pause(50 * time.Millisecond)
			got, err := r.service.Load().holds.GetHold(r.asWallet(), &lwsv1.GetHoldRequest{})
			require.NoError(t, err)
			held := 0
			for _, w := range got.Waiting {
				if w.State == "held" {
					held += int(w.Htlcs)
				}
			}
			require.LessOrEqual(t, held, 5)
		}
		r.waitWaiting(5)
		r.w.Connect(r.gateway, r.wallet)
		require.GreaterOrEqual(t, r.honest(sent), int64(5))
	})
}

// TestPayerAwayWhenTheWalletComes: the payer's link is down when the wallet comes. lnd would
// fail what is resumed then, so it waits for the payer as well, and arrives at the first
// attempt.
func TestPayerAwayWhenTheWalletComes(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r, sent := heldRig(t, 1, 3, true)
		r.w.Disconnect(r.payer, r.gateway)
		r.w.Connect(r.gateway, r.wallet)
		r.pause(10 * time.Second)
		for _, w := range r.waitWaiting(3) {
			require.Equal(t, "held", w.State)
		}
		r.w.Connect(r.payer, r.gateway)
		for _, p := range sent {
			m := r.outcome(p)
			require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status)
			require.Len(t, m.Htlcs, 1, "none of its HTLCs was failed")
		}
		r.settle()
		require.NoError(t, r.w.Err())
		require.Equal(t, 3*r.job.amountSat*1000, r.w.Wealth(r.wallet).TotalMsat()-r.before[r.wallet])
		r.waitWaiting(0)
	})
}

// TestPayerAwayOnDemand is the same for payments that open their own channel, or that were
// promised room: also where the payer's link goes only once the wallet is there.
func TestPayerAwayOnDemand(t *testing.T) {
	for _, n := range []int{0, 2, 4} {
		for _, late := range []bool{false, true} {
			j := jobs()[n]
			j.holdFor = 20 * time.Hour
			t.Run(fmt.Sprintf("%s late %v", j.name, late), func(t *testing.T) {
				virtual(t, func(t *testing.T) {
					r := newRig(t, rigConfig{seed: 1, job: j, latency: lndfake.Observed()})
					r.openBooks()
					a := r.agree()
					r.away()
					paid := r.pay(a.bolt11)
					r.waitWaiting(uint32(max(1, j.parts))) //nolint:gosec // small
					if !late {
						r.w.Disconnect(r.payer, r.gateway)
					}
					r.w.Connect(r.gateway, r.wallet)
					if late {
						r.pause(20 * time.Millisecond)
						r.w.Disconnect(r.payer, r.gateway)
					}
					r.pause(time.Minute)
					select {
					case m := <-paid:
						t.Fatalf("it ended while its payer was away: %v\n%s", m, r.stories())
					default:
					}
					r.w.Connect(r.payer, r.gateway)
					m := r.outcome(paid)
					require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, r.stories())
					require.Len(t, m.Htlcs, j.parts, "none of its HTLCs was failed")
					r.await(a.id)
					r.settle()
					r.check(a, m)
				})
			})
		}
	}
}

// TestOnePartGoesOnChain: of a payment in two parts that waits, the channel of one goes on
// chain. The other part goes back at once, and is not handed on when the wallet comes.
func TestOnePartGoesOnChain(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint(restart), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: offlineJob(2), latency: lndfake.Observed()})
				r.up()
				a := r.walletAgent(lws.Wish{HoldFor: 24 * time.Hour, MaxHtlcs: 10, MaxSat: 1_000_000, FinalCltvDelta: 80})
				inv := r.longInvoice(a, 20*time.Hour)
				r.away()
				sent := r.pay(inv.Bolt11)
				id := r.waitWaiting(2)[0].Id
				_, err := r.service.Load().holds.RemoveHold(r.asWallet(), &lwsv1.RemoveHoldRequest{})
				require.NoError(t, err)
				r.closePayersFirst()
				if restart {
					r.killProcess()
				}
				r.w.Mine(4)
				r.pause(5 * time.Second)
				r.up()
				r.waitFailing(id)
				r.pause(5 * time.Second)
				open, err := r.ln(r.payer).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{})
				require.NoError(t, err)
				for _, c := range open.Channels {
					require.Empty(t, c.PendingHtlcs, "the other part went back")
				}
				r.w.Connect(r.gateway, r.wallet)
				r.closed = true
				for range 40 {
					r.w.Mine(10)
					r.pause(2 * time.Second)
				}
				require.Zero(t, r.honest([]<-chan *lnrpc.Payment{sent}))
			})
		})
	}
}

// TestWrappedIncomingChannelClosed: the gateway's own invoice holds the payment, and the
// channel that it came over goes on chain. The wallet comes, and is not paid from what the
// gateway could only claim by a transaction of its own, or not at all: the payer has it back.
func TestWrappedIncomingChannelClosed(t *testing.T) {
	virtual(t, func(t *testing.T) {
		j := jobs()[5]
		j.holdFor = 20 * time.Hour
		r := newRig(t, rigConfig{seed: 1, job: j, latency: lndfake.Observed()})
		r.openBooks()
		a := r.agree()
		r.away()
		paid := r.pay(a.bolt11)
		ear, _ := r.listen(r.walletKey)
		require.Equal(t, a.id, r.hears(ear).PaymentId)
		r.closePayersFirst()
		r.w.Mine(4)
		r.pause(5 * time.Second)
		r.w.Connect(r.gateway, r.wallet)
		r.pause(time.Minute)
		require.Equal(t, r.before[r.wallet], r.w.Wealth(r.wallet).TotalMsat(), "the wallet was not paid")
		for range 60 {
			r.w.Mine(10)
			r.pause(2 * time.Second)
		}
		require.Equal(t, lnrpc.Payment_FAILED, r.outcome(paid).Status)
		require.GreaterOrEqual(t, r.w.Wealth(r.gateway).TotalMsat(), r.before[r.gateway], "the gateway lost money")
	})
}
