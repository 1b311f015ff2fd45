package app

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// badDay is a day on which something goes wrong. What the payer ends with is
// stated here, before it is played; what must be true after every day (nobody's
// sats lost, one channel at most, books that equal lnd's, reasons) is held by
// rig.check.
type badDay struct {
	name string
	job  job
	// ends is how each of the payer's attempts ends, in order.
	ends []ending
	// within is how long an attempt may take.
	within time.Duration
	// forgets: see rigConfig.
	forgets bool
	play    func(d *day)
}

// ending is what the payer gets, and what the client reads of it.
type ending struct {
	paid bool
	says string
}

var paid = ending{paid: true}

func refunded(says string) ending { return ending{says: says} }

// soon is how long an attempt takes that nothing waits for.
const soon = 20 * time.Second

// busyMachine is what others on the machine may cost where the clock is the machine's.
const busyMachine = time.Minute

// payerTries is how long the payer's node begins new attempts.
const payerTries = 120 * time.Second

func badDays() []badDay {
	payer, receiver, twoParts := jobs()[0], jobs()[1], jobs()[2]
	confirmed := jobs()[8]
	// A payer who may try again does so until its own time is over.
	collected := payerTries + DefaultConfig().LSP.CollectFor.Std() + 15*time.Second
	opened := DefaultConfig().LSP.OpenFor.Std() + 15*time.Second
	hold := func(d *day) { d.agree(order{hold: true}) }
	database := func(f storetest.Fault) func(d *day) {
		return func(d *day) {
			d.agree(order{})
			d.pay()
			d.until("part_arrived", "set_accepted")
			d.r.faults.Set(f)
			d.r.pause(d.r.spell(25 * time.Second))
			d.r.faults.Set(storetest.Healthy)
			d.outcome()
		}
	}
	var days []badDay
	both := func(name string, within time.Duration, play func(*day), ends ...ending) {
		for _, j := range []job{payer, receiver} {
			days = append(days, badDay{name: name + "/" + j.name, job: j, ends: ends, within: within, play: play})
		}
	}
	one := func(name string, j job, within time.Duration, play func(*day), ends ...ending) {
		days = append(days, badDay{name: name + "/" + j.name, job: j, ends: ends, within: within, play: play})
	}

	both("the wallet is offline, then paid when tried again", collected, func(d *day) {
		d.agree(order{})
		d.r.w.Disconnect(d.r.gateway, d.r.wallet)
		d.pay()
		d.outcome()
		d.r.w.Connect(d.r.gateway, d.r.wallet)
		if d.r.job.receiverPays {
			d.agree(order{}) // a hold invoice that was given back is over
		}
		d.pay()
		d.outcome()
	}, refunded("did not come online in time"), paid)
	both("the wallet comes online in time", collected, func(d *day) {
		d.agree(order{})
		d.r.w.Disconnect(d.r.gateway, d.r.wallet)
		d.pay()
		d.r.pause(20 * time.Second)
		d.r.w.Connect(d.r.gateway, d.r.wallet)
		d.outcome()
	}, paid)
	for _, c := range [][2]string{{"OpenChannel", "is asked for a channel"}, {"FundingStateStep", "signs the channel"}} {
		method, when := c[0], c[1]
		both("the wallet disconnects for good when it "+when, collected+opened, func(d *day) {
			d.agree(order{})
			d.on(method, func() { d.r.w.Disconnect(d.r.gateway, d.r.wallet) })
			d.pay()
			d.outcome()
		}, refunded(""))
		both("the wallet disconnects for a while when it "+when, collected+opened, func(d *day) {
			d.agree(order{})
			d.on(method, func() {
				d.r.w.Disconnect(d.r.gateway, d.r.wallet)
				d.r.running.Go(func() {
					d.r.pause(5 * time.Second)
					d.r.w.Connect(d.r.gateway, d.r.wallet)
				})
			})
			d.pay()
			// Nothing was spent when it had not accepted: the payer may be told to
			// pay again; at the second time it is paid.
			if !d.outcomeOr() {
				d.r.pause(6 * time.Second)
				if d.r.job.receiverPays {
					d.agree(order{})
				}
				d.pay()
				d.outcome()
			}
		}, paid)
	}
	both("the wallet rejects the channel", soon, func(d *day) {
		d.agree(order{})
		d.r.refuseChannels("no room here")
		d.pay()
		d.outcome()
	}, refunded("no room here"))
	both("the wallet never claims", time.Hour, func(d *day) {
		hold(d)
		d.blocks(time.Second)
		d.pay()
		d.outcome()
	}, refunded("did not take the payment"))
	both("the wallet keeps the payment and is silent until it expires", 2*time.Hour, func(d *day) {
		hold(d)
		d.pay()
		d.until("parts_resumed", "opening_usable")
		d.r.pause(2 * time.Second)
		d.r.w.Disconnect(d.r.gateway, d.r.wallet)
		d.blocks(2 * time.Second)
		d.outcome()
		d.wentOnChain()
	}, refunded(""))
	both("the gateway has no coins", soon, func(d *day) {
		d.agree(order{})
		free := d.r.hideCoins()
		d.pay()
		d.outcome()
		free()
	}, refunded("too few free coins"))
	one("the offer has expired", payer, soon, func(d *day) {
		d.agree(order{offer: 10 * time.Second})
		d.r.pause(15 * time.Second)
		d.pay()
		d.outcome()
	}, refunded("before the offer expired"))
	one("the hint promises less than the fee", payer, soon, func(d *day) {
		d.agree(order{hint: func(h *lnrpc.HopHint) { h.FeeProportionalMillionths /= 2 }})
		d.pay()
		d.outcome()
	}, refunded("promises too little"))
	one("the hint leaves too few blocks", payer, soon, func(d *day) {
		d.agree(order{hint: func(h *lnrpc.HopHint) { h.CltvExpiryDelta-- }})
		d.pay()
		d.outcome()
	}, refunded("fewer than its"))
	one("the payer pays less than was agreed", payer, collected, func(d *day) {
		d.agree(order{anyAmount: true})
		d.payAmount(50_000_000)
		d.outcome()
	}, refunded("arrived in time"))
	one("the payer pays far more than was agreed", payer, soon, func(d *day) {
		d.agree(order{anyAmount: true})
		d.payAmount(d.a.walletMsat * 3)
		d.outcome()
	}, refunded("more than"))
	one("one part of two never comes, then paid", twoParts, collected, func(d *day) {
		d.agree(order{})
		d.send(d.a.hash, d.a.walletMsat/2)
		d.pay()
		d.outcome()
	}, refunded("arrived in time"), paid)
	one("a probe comes first", payer, soon, func(d *day) {
		d.agree(order{})
		d.send(ln.Preimage{9, 9}.Hash(), d.a.walletMsat)
		d.pay()
		d.outcome()
	}, refunded(""), paid)
	for _, f := range []struct {
		name  string
		fault storetest.Fault
	}{{"full", storetest.Full}, {"locked", storetest.Locked}, {"gone", storetest.Gone}} {
		both("the database is "+f.name+" for a while", collected, database(f.fault), paid)
	}
	both("the database stays full until lnd takes the payment back", time.Hour, func(d *day) {
		d.agree(order{})
		d.r.w.Disconnect(d.r.gateway, d.r.wallet)
		d.pay()
		d.until("part_arrived", "set_accepted")
		d.r.faults.Set(storetest.Full)
		d.blocks(time.Second)
		d.after = func() { d.r.faults.Set(storetest.Healthy) }
		d.outcome()
	}, refunded(""))
	for _, trusted := range []job{trustedJobs()[0], trustedJobs()[2]} {
		one("trusted, the wallet never claims", trusted, time.Hour, func(d *day) {
			hold(d)
			d.blocks(time.Second)
			d.pay()
			d.outcome()
		}, refunded("did not take the payment"))
		one("trusted, the wallet keeps the payment and is silent until it expires", trusted, 2*time.Hour, func(d *day) {
			hold(d)
			d.pay()
			d.until("parts_resumed", "opening_usable")
			d.r.pause(2 * time.Second)
			d.r.w.Disconnect(d.r.gateway, d.r.wallet)
			d.blocks(2 * time.Second)
			d.outcome()
			d.wentOnChain() // funded in time
		}, refunded(""))
		one("trusted, the wallet rejects the channel", trusted, soon, func(d *day) {
			d.agree(order{})
			d.r.refuseChannels("no room here")
			d.pay()
			d.outcome()
		}, refunded("no room here"))
		one("trusted, the wallet disconnects for good when it signs the channel", trusted, collected+opened, func(d *day) {
			d.agree(order{})
			d.on("FundingStateStep", func() { d.r.w.Disconnect(d.r.gateway, d.r.wallet) })
			d.pay()
			d.outcome()
		}, refunded(""))
		one("trusted, the database is gone for a while", trusted, collected, database(storetest.Gone), paid)
	}
	one("the wallet is offline and wants confirmations", confirmed, collected, func(d *day) {
		d.agree(order{})
		d.r.w.Disconnect(d.r.gateway, d.r.wallet)
		d.pay()
		d.outcome()
	}, refunded("did not come online in time"))
	return append(append(days, standingDays()...), refusedDays(collected+opened)...)
}

// TestBadDays plays each bad day, then again with a crash of sluiced at commits
// of it. A part of the commits is drawn; SLUICE_RUNS plays them all.
func TestBadDays(t *testing.T) {
	base := drawnSeed(t)
	for i, b := range badDays() {
		t.Run(strings.ReplaceAll(b.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			var commits int64
			virtual(t, func(t *testing.T) { commits = b.run(t, virtualDay(base), 0, 0) })
			rng := rand.New(rand.NewPCG(base, uint64(i)))
			for n := int64(1); n <= commits; n++ {
				for _, point := range []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit} {
					if runs(0) == 0 && rng.Int64N(2*commits) >= 3 {
						continue
					}
					t.Run(fmt.Sprintf("%s-%d", point, n), func(t *testing.T) {
						virtual(t, func(t *testing.T) { b.run(t, virtualDay(base), n, point) })
					})
				}
			}
		})
	}
}

// day is a bad day being played.
type day struct {
	badDay
	r *rig
	// a is the agreement that is paid now.
	a agreement
	// crashes: what the client reads may be of the crash.
	crashes bool
	// unlucky: an attempt came while sluiced was away.
	unlucky  bool
	began    time.Time
	paying   <-chan *lnrpc.Payment
	attempts int
	over     atomic.Int64
	// after runs when the payer has a result.
	after func()
	last  *lnrpc.Payment
}

func virtualDay(seed uint64) rigConfig { return rigConfig{seed: seed, latency: lndfake.Observed()} }

// spell is how long something is away: less where nobody's clock jumps.
func (r *rig) spell(d time.Duration) time.Duration {
	if r.realTime {
		return d / 10
	}
	return d
}

// run plays the day with a crash at the n-th commit after the agreement, 0
// none, and tells how many commits there were.
func (b badDay) run(t *testing.T, c rigConfig, n int64, point storetest.Point) int64 {
	t.Helper()
	c.job, c.forgets = b.job, b.forgets
	r := newRig(t, c)
	r.openBooks()
	from := r.faults.Commits()
	if n > 0 {
		r.crashAt(n, point)
	}
	d := &day{badDay: b, r: r, crashes: n > 0}
	b.play(d)
	require.Equal(t, len(b.ends), d.attempts, "attempts of the payer")
	commits := r.faults.Commits() - from
	r.w.OnRPC(nil)
	r.refuseChannels("")
	r.w.Connect(r.gateway, r.wallet)
	if !r.realTime {
		r.await(d.a.id)
	}
	r.settle()
	r.calm()
	r.check(d.a, d.last)
	return commits
}

// wentOnChain says that the gateway's node closed the channel by force. A sluiced that died
// doubts the payer's money for some seconds: it may have paid nobody for it.
func (d *day) wentOnChain() {
	d.r.t.Helper()
	closed, err := d.r.ln(d.r.gateway).ClosedChannels(d.r.ctx, &lnrpc.ClosedChannelsRequest{})
	require.NoError(d.r.t, err)
	closing, err := d.r.ln(d.r.gateway).PendingChannels(d.r.ctx, &lnrpc.PendingChannelsRequest{})
	require.NoError(d.r.t, err)
	d.r.closed = len(closing.WaitingCloseChannels)+len(closing.PendingForceClosingChannels) > 0 || slices.ContainsFunc(closed.Channels, func(c *lnrpc.ChannelCloseSummary) bool {
		return c.CloseType == lnrpc.ChannelCloseSummary_LOCAL_FORCE_CLOSE
	})
	require.True(d.r.t, d.r.closed || d.crashes, "it is on chain")
}

// order is what a wallet does differently from a good one.
type order struct {
	// hold makes an invoice that the wallet never claims.
	hold bool
	// anyAmount leaves the amount to the payer.
	anyAmount bool
	// offer ends the agreement earlier than the invoice.
	offer time.Duration
	hint  func(*lnrpc.HopHint)
}

func (d *day) agree(o order) {
	d.r.t.Helper()
	var last error
	for range 200 {
		if d.a, last = d.r.order(o); last == nil {
			return
		}
		d.r.pause(d.r.step)
	}
	d.r.t.Fatalf("no agreement: %v", last)
}

// order is ask, with what is different.
func (r *rig) order(o order) (agreement, error) {
	s := r.service.Load()
	if s == nil {
		return agreement{}, errAway
	}
	ctx := r.asWallet()
	menu, err := s.channels.GetMenu(ctx, &lspv1.GetMenuRequest{})
	if err != nil {
		return agreement{}, err
	}
	params := menu.OpeningFeeParamsMenu[0]
	wish := &lspv1.ChannelWish{ZeroConf: r.job.confs == 0, MinConfirmations: r.job.confs, AllowAnotherChannel: true}
	amount := r.job.amountSat * 1000
	if r.job.trust {
		wish.TrustMsat = uint64(amount)
	}
	var preimage ln.Preimage
	for i := range 4 {
		binary.BigEndian.PutUint64(preimage[8*i:], r.rng.Uint64())
	}
	a := agreement{preimage: preimage, hash: preimage.Hash(), walletMsat: amount, payerMsat: amount, opens: true}
	invoice := func(value, expiry int64, hints ...*lnrpc.RouteHint) (string, error) {
		if o.hold {
			held, err := invoicesrpc.NewInvoicesClient(r.conns[r.wallet]).AddHoldInvoice(ctx, &invoicesrpc.AddHoldInvoiceRequest{
				Hash: a.hash[:], ValueMsat: value, Expiry: expiry, CltvExpiry: 80, RouteHints: hints,
			})
			return held.GetPaymentRequest(), err
		}
		own, err := r.ln(r.wallet).AddInvoice(ctx, &lnrpc.Invoice{
			RPreimage: preimage.Bytes(), ValueMsat: value, Expiry: expiry, CltvExpiry: 80, RouteHints: hints,
		})
		return own.GetPaymentRequest(), err
	}
	if r.job.receiverPays {
		fee := max(int64(params.MinFeeMsat), (amount*int64(params.ProportionalPpm)+999_999)/1_000_000)
		a.walletMsat -= fee
		own, err := invoice(a.walletMsat, 1200+3600*int64(r.job.confs))
		if err != nil {
			return agreement{}, err
		}
		w, err := s.channels.Wrap(ctx, &lspv1.WrapRequest{Bolt11: own, AmountMsat: uint64(amount), OpeningFeeParams: params, Channel: wish})
		if err != nil {
			return agreement{}, err
		}
		a.id, a.bolt11 = w.PaymentId, w.Bolt11
		return a, nil
	}
	if o.offer == 0 {
		o.offer = 10 * time.Minute
	}
	n, err := s.channels.Negotiate(ctx, &lspv1.NegotiateRequest{
		PaymentHash: a.hash[:], AmountMsat: uint64(amount), OpeningFeeParams: params, Channel: wish,
		FinalCltvDeltaBlocks: 80, InvoiceExpiresMs: time.Now().Add(o.offer).UnixMilli(),
	})
	if err != nil {
		return agreement{}, err
	}
	scid, err := ln.ParseSCID(n.JitScid)
	if err != nil {
		return agreement{}, err
	}
	hint := &lnrpc.HopHint{
		NodeId: r.gateway.PubKey(), ChanId: uint64(scid), FeeBaseMsat: n.HintBaseFeeMsat,
		FeeProportionalMillionths: n.HintFeePpm, CltvExpiryDelta: n.HintCltvDeltaBlocks,
	}
	if o.hint != nil {
		o.hint(hint)
	}
	value := amount
	if o.anyAmount {
		value = 0
	}
	a.id, a.payerMsat = n.PaymentId, amount+int64(n.FeeMsat)
	a.bolt11, err = invoice(value, 3600, &lnrpc.RouteHint{HopHints: []*lnrpc.HopHint{hint}})
	return a, err
}

// pay lets the payer try. Without sluiced lnd refuses every forward: that is a
// payer's bad luck, and not this day's.
func (d *day) pay() { d.payAmount(0) }

func (d *day) payAmount(msat int64) {
	d.r.t.Helper()
	d.r.up()
	d.began = time.Now()
	if msat == 0 {
		d.paying = d.r.pay(d.a.bolt11)
		return
	}
	d.paying = d.r.send(&routerrpc.SendPaymentRequest{
		PaymentRequest: d.a.bolt11, AmtMsat: msat, TimeoutSeconds: int32(payerTries / time.Second), NoInflightUpdates: true, FeeLimitMsat: 100_000_000, MaxParts: 4,
	})
}

// outcome holds an attempt against what was stated.
func (d *day) outcome() {
	d.r.t.Helper()
	d.result(d.ends[d.attempts], d.await())
}

// await waits for the payer's result. Blocks come only where the day lets them,
// or where confirmations are wanted.
func (d *day) await() *lnrpc.Payment {
	d.r.t.Helper()
	for i := range 4 * 3600 {
		select {
		case m := <-d.paying:
			d.over.Add(1)
			if d.after != nil {
				d.after()
			}
			return m
		case <-time.After(d.r.step):
		}
		if d.r.job.confs > 0 && i%40 == 39 {
			d.r.w.Mine(1)
		}
	}
	d.r.t.Fatalf("the payer is neither paid nor refunded\n%s", d.r.stories())
	return nil
}

// outcomeOr is outcome where the payer may also be told to pay again.
func (d *day) outcomeOr() bool {
	d.r.t.Helper()
	m := d.await()
	if m.Status != lnrpc.Payment_SUCCEEDED {
		d.told("")
		return false
	}
	d.result(d.ends[d.attempts], m)
	return true
}

func (d *day) result(want ending, m *lnrpc.Payment) {
	t := d.r.t
	t.Helper()
	within := d.within
	if d.crashes {
		// Of a payment that was being sent again, parts may be refused unseen.
		within += DefaultConfig().LSP.CollectFor.Std()
	}
	if d.r.realTime {
		within += busyMachine
	}
	require.LessOrEqual(t, time.Since(d.began), within, "the payer waited too long")
	got := m.Status == lnrpc.Payment_SUCCEEDED
	if !got && want.paid && d.crashes && (d.attempts > 0 || d.forgets) && !d.unlucky {
		// Of the parts of a payer who was refused before, lnd refuses those that
		// come while sluiced is away. So it does with those that a node that died
		// offers again when it is back.
		d.unlucky = true
		_, err := routerrpc.NewRouterClient(d.r.conns[d.r.payer]).ResetMissionControl(d.r.ctx, &routerrpc.ResetMissionControlRequest{})
		require.NoError(t, err)
		d.pay()
		d.outcome()
		return
	}
	require.Equal(t, want.paid, got, "attempt %d: %s %s\n%s", d.attempts+1, m.Status, m.FailureReason, d.r.stories())
	if !got {
		d.told(want.says)
	}
	d.attempts++
	d.last = m
}

// told waits until the client reads why.
func (d *day) told(says string) {
	d.r.t.Helper()
	var p *lspv1.Payment
	for range 100 {
		if s := d.r.service.Load(); s != nil {
			if got, err := s.channels.GetPayment(d.r.asWallet(), &lspv1.GetPaymentRequest{PaymentId: d.a.id}); err == nil {
				p = got.Payment
				if d.crashes || strings.Contains(p.Reason, says) {
					return
				}
			}
		}
		d.r.pause(d.r.step)
	}
	d.r.t.Fatalf("the client reads %v instead of %q\n%s", p, says, d.r.stories())
}

func (d *day) saw(events ...string) bool {
	s := d.r.service.Load()
	if s == nil {
		return false
	}
	shown, err := s.operator.ShowPayment(d.r.ctx, &lspv1.ShowPaymentRequest{IdOrHash: d.a.id})
	if err != nil {
		return false
	}
	for _, e := range shown.Story {
		for _, name := range events {
			if e.Event == name {
				return true
			}
		}
	}
	return false
}

// until waits for an event of the payment, or for the payer's result.
func (d *day) until(events ...string) {
	d.r.t.Helper()
	for range 100 {
		if d.saw(events...) {
			return
		}
		d.r.pause(100 * time.Millisecond)
	}
}

// on runs f once, before the gateway's lnd gets that call.
func (d *day) on(method string, f func()) {
	var once sync.Once
	d.r.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
		if c.Node == d.r.gateway.Name() && c.Phase == lndfake.AfterCall && strings.HasSuffix(c.Method, "/"+method) {
			once.Do(f)
		}
		return lndfake.Pass
	})
}

// send is one HTLC of the payer's own making, of a payment of the agreed amount,
// and waits until it came back.
func (d *day) send(hash ln.Hash, msat int64) {
	t := d.r.t
	t.Helper()
	d.r.up()
	d.began = time.Now()
	decoded, err := d.r.ln(d.r.payer).DecodePayReq(d.r.ctx, &lnrpc.PayReqString{PayReq: d.a.bolt11})
	require.NoError(t, err)
	hint := decoded.RouteHints[0].HopHints[0]
	list, err := d.r.ln(d.r.payer).ListChannels(d.r.ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(t, err)
	fee := (msat*int64(hint.FeeProportionalMillionths) + 999_999) / 1_000_000
	final := d.r.w.Height() + uint32(decoded.CltvExpiry) + 3 //nolint:gosec // blocks
	sent := make(chan *lnrpc.HTLCAttempt, 1)
	d.r.running.Go(func() {
		attempt, err := routerrpc.NewRouterClient(d.r.conns[d.r.payer]).SendToRouteV2(d.r.ctx, &routerrpc.SendToRouteRequest{
			PaymentHash: hash[:],
			Route: &lnrpc.Route{
				TotalTimeLock: final + hint.CltvExpiryDelta, TotalAmtMsat: msat + fee, TotalFeesMsat: fee,
				Hops: []*lnrpc.Hop{
					{ChanId: list.Channels[0].ChanId, PubKey: d.r.gateway.PubKey(), AmtToForwardMsat: msat, FeeMsat: fee, Expiry: final},
					{
						ChanId: hint.ChanId, PubKey: decoded.Destination, AmtToForwardMsat: msat, Expiry: final,
						MppRecord: &lnrpc.MPPRecord{PaymentAddr: decoded.PaymentAddr, TotalAmtMsat: d.a.walletMsat},
					},
				},
			},
		})
		if err == nil {
			sent <- attempt
		}
	})
	select {
	case attempt := <-sent:
		require.Equal(t, lnrpc.HTLCAttempt_FAILED, attempt.Status, "%s", d.r.stories())
	case <-time.After(d.within):
		t.Fatalf("the HTLC does not come back\n%s", d.r.stories())
	}
	want := d.ends[d.attempts]
	require.False(t, want.paid)
	d.told(want.says)
	d.attempts++
}

// refuseChannels lets the wallet's node refuse every channel; without words it
// accepts again.
func (r *rig) refuseChannels(words string) {
	r.refusal.Store(&words)
}

// blocks come that often until the payer has its result.
func (d *day) blocks(every time.Duration) {
	n := d.over.Load()
	d.r.running.Go(func() {
		for d.r.ctx.Err() == nil && d.over.Load() == n {
			d.r.w.Mine(1)
			d.r.pause(every)
		}
	})
}

// hideCoins lets somebody else lease all of the gateway's coins.
func (r *rig) hideCoins() (free func()) {
	r.t.Helper()
	kit := walletrpc.NewWalletKitClient(r.conns[r.gateway])
	coins, err := kit.ListUnspent(r.ctx, &walletrpc.ListUnspentRequest{MaxConfs: 1 << 30})
	require.NoError(r.t, err)
	id := make([]byte, 32)
	id[0] = 0xcc
	for _, c := range coins.Utxos {
		_, err := kit.LeaseOutput(r.ctx, &walletrpc.LeaseOutputRequest{Id: id, Outpoint: c.Outpoint, ExpirationSeconds: 3600})
		require.NoError(r.t, err)
	}
	return func() {
		for _, c := range coins.Utxos {
			_, err := kit.ReleaseOutput(r.ctx, &walletrpc.ReleaseOutputRequest{Id: id, Outpoint: c.Outpoint})
			require.NoError(r.t, err)
		}
	}
}
