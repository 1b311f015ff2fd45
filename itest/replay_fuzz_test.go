//go:build itest

package itest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// replayTime is how long the fuzz makes trouble: 30 s, SLUICE_REPLAY_SECONDS,
// or ten minutes with SLUICE_TEST_FULL=1.
func replayTime(t *testing.T) time.Duration {
	t.Helper()
	if text := os.Getenv("SLUICE_REPLAY_SECONDS"); text != "" {
		n, err := strconv.Atoi(text)
		require.NoError(t, err, "SLUICE_REPLAY_SECONDS")
		return time.Duration(n) * time.Second
	}
	if os.Getenv("SLUICE_TEST_FULL") == "1" {
		return 10 * time.Minute
	}
	return 30 * time.Second
}

// replaySeed is SLUICE_SEED, or a fresh one.
func replaySeed(t *testing.T) uint64 {
	t.Helper()
	if text := os.Getenv("SLUICE_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "SLUICE_SEED")
		return n
	}
	return rand.Uint64()
}

// record is one payment of the fuzz.
type record struct {
	kind     string
	hash     ln.Hash
	paidMsat int64 // what left the sender, 0 if it got it back
	gotMsat  int64 // what the receiver's invoice asks for
	receiver *devnet.Node
	status   lnrpc.Payment_PaymentStatus
}

// fuzz is the load and the trouble, and what became of the payments.
type fuzz struct {
	*scene
	wallets []*person
	// turns admits one payment at a time to each wallet, and single pays wrapped
	// invoices, one at a time and each in one part: where an HTLC ends, stock lnd
	// does not survive the bug that makes phantoms, and no sidecar helps
	// (TestReplayDeadLink). A phantom needs two HTLCs of one commitment that end
	// at different times. At the gateway, where HTLCs are forwarded, they stay as
	// frequent as ever.
	turns      map[*person]*sync.Mutex
	single     *devnet.Node
	singleTurn sync.Mutex

	mu      sync.Mutex
	records []record
	counts  map[string]int
}

func (f *fuzz) count(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[what]++
}

func (f *fuzz) done(r record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.records = append(f.records, r)
	f.counts[fmt.Sprintf("%s %s", r.kind, r.status)]++
}

// TestReplayFuzz pays both ways, over channels that are there and channels that
// the payments open, while links flap, wallets go away, and the gateway's lnd
// and sluiced are killed. At the end every payment has ended the same way at
// both ends, and not a millisatoshi is missing, whatever lnd offers again later.
func TestReplayFuzz(t *testing.T) {
	together(t)
	trouble, seed := replayTime(t), replaySeed(t)
	t.Logf("%s of trouble; SLUICE_SEED=%d repeats its plan", trouble, seed)
	ctx, cancel := context.WithTimeout(context.Background(), trouble+8*time.Minute)
	defer cancel()
	rng := rand.New(rand.NewPCG(seed, 1))

	settings := unlimited(map[string]string{
		"lsp.collect_for": "10s", "lsp.max_channel_sat": "1500000", "lsp.headroom_sat": "200000",
	})
	sc := newScene(ctx, t, devnet.StandardConfig{
		// Commitments with several HTLCs, which is what makes phantoms.
		Payer:        devnet.NodeConfig{ExtraArgs: []string{"--channel-commit-interval=200ms"}},
		GatewayCoins: 120,
	}, devnet.SluicedConfig{Settings: settings})
	f := &fuzz{scene: sc, turns: map[*person]*sync.Mutex{}, counts: map[string]int{}}
	f.single = f.addSingle(ctx)
	f.wallets = append([]*person{sc.first(ctx)}, sc.persons(ctx, "second", "third", "fourth")...)
	for _, w := range f.wallets {
		o := w.negotiate(ctx, 400_000_000, offerWish{})
		sc.paid(sc.pay(ctx, w.invoice(ctx, o)), paidWithin)
		sc.waitEnd(ctx, o.PaymentId, "paid")
		f.turns[w] = new(sync.Mutex)
	}
	require.NoError(t, sc.Payer.WaitNoHTLCs(ctx))
	sc.op.waitBalancedInAll(ctx)
	before := f.owned(ctx)

	until := time.Now().Add(trouble)
	var load sync.WaitGroup
	for n := range 6 {
		worker := rand.New(rand.NewPCG(seed, uint64(n)+100))
		load.Go(func() {
			for time.Now().Before(until) && ctx.Err() == nil {
				f.pay(ctx, worker)
			}
		})
	}
	f.trouble(ctx, rng, until)
	f.heal(ctx)
	ended := make(chan struct{})
	go func() { load.Wait(); close(ended) }()
	f.waitEnded(ctx, ended, seed)
	f.check(ctx, before)
	byChance := f.phantoms()
	f.makePhantom(ctx)

	// Phantoms come later: at every reconnection and restart.
	for range 2 {
		for _, link := range f.links() {
			link.Flap()
		}
		f.crashGateway(ctx, f.nodes()...)
		require.NoError(t, sc.s.Kill())
		f.PayerLink.Flap()
		require.NoError(t, sc.s.Start(ctx))
		f.waitActive(ctx, f.nodes()...)
	}
	f.check(ctx, before)
	phantoms := f.phantoms()
	require.Greater(t, phantoms, byChance, "a run without a phantom proves nothing about them")
	t.Logf("seed %d: %d payments %v; %d phantoms, %d of them in the time of trouble", seed, len(f.records), f.counts, phantoms, byChance)
}

// addSingle gives the network a second payer.
func (f *fuzz) addSingle(ctx context.Context) *devnet.Node {
	n, err := f.NewNode(ctx, "single", devnet.NodeConfig{})
	require.NoError(f.t, err)
	require.NoError(f.t, f.Fund(ctx, devnet.Funding{Node: n, CoinSat: 16_500_000, Coins: 1}))
	link, err := f.NewLink(f.Gateway)
	require.NoError(f.t, err)
	require.NoError(f.t, f.ConnectVia(ctx, n, f.Gateway, link))
	_, err = f.OpenChannel(ctx, n, f.Gateway, devnet.ChannelParams{CapacitySat: 16_000_000})
	require.NoError(f.t, err)
	return n
}

func (f *fuzz) nodes() []*devnet.Node {
	out := []*devnet.Node{f.Payer, f.single}
	for _, w := range f.wallets {
		out = append(out, w.node)
	}
	return out
}

func (f *fuzz) links() []*devnet.Link {
	out := []*devnet.Link{f.PayerLink}
	for _, w := range f.wallets {
		out = append(out, w.link)
	}
	return out
}

// owned is what everybody but the gateway owns in channels.
func (f *fuzz) owned(ctx context.Context) (sum int64) {
	for _, n := range f.nodes() {
		sum += wealth(ctx, f.t, n)
	}
	return sum
}

// pay makes one payment of a random kind and follows it to its end. Calls to
// sluiced may fail: then there is no payment.
func (f *fuzz) pay(ctx context.Context, rng *rand.Rand) {
	w := f.wallets[rng.IntN(len(f.wallets))]
	small := ln.Msat(1000 * (1_000 + rng.Int64N(20_000)))
	big := ln.Msat(1000 * (150_000 + rng.Int64N(250_000)))
	var r record
	var bolt11 string
	var err error
	sender, hold := f.Payer, ln.Preimage{}
	kind := rng.IntN(10)
	if kind < 8 {
		if !f.turns[w].TryLock() {
			kind = 8
		} else {
			defer f.turns[w].Unlock()
		}
	}
	switch {
	case kind < 3:
		r, bolt11, _, err = f.agree(ctx, w, small, false)
		r.kind = "small"
	case kind < 5:
		r, bolt11, _, err = f.agree(ctx, w, big, false)
		r.kind = "big"
	case kind < 7:
		r, bolt11, hold, err = f.agree(ctx, w, small, true)
		r.kind = "slow"
	case kind < 8:
		if !f.singleTurn.TryLock() {
			return
		}
		defer f.singleTurn.Unlock()
		r, bolt11, err = f.wrap(ctx, w, big)
		r.kind, sender = "wrapped", f.single
	default:
		r, bolt11, err = f.back(ctx, small/2)
		r.kind, sender = "back", w.node
	}
	if err != nil {
		f.count("no agreement")
		pauseFor(ctx, 100*time.Millisecond)
		return
	}
	if hold != (ln.Preimage{}) {
		delay, claim := time.Duration(rng.Int64N(int64(4*time.Second))), rng.IntN(3) > 0
		go f.claimLater(ctx, r, hold, delay, claim)
	}
	parts := uint32(1 + rng.IntN(3)) //nolint:gosec // small
	if sender == f.single {
		parts = 1
	}
	payment, err := sender.Send(ctx, &routerrpc.SendPaymentRequest{
		PaymentRequest: bolt11, TimeoutSeconds: 20, FeeLimitMsat: 20_000_000, MaxParts: parts,
	})
	if err != nil {
		f.t.Errorf("a payment's outcome is unknown: %v", err)
		return
	}
	r.status = payment.Status
	if payment.Status == lnrpc.Payment_SUCCEEDED {
		r.paidMsat = payment.ValueMsat + payment.FeeMsat
	}
	f.done(r)
}

// agree makes an agreement with the gateway and an invoice; of a hold invoice
// it returns the preimage.
func (f *fuzz) agree(ctx context.Context, w *person, amount ln.Msat, hold bool) (record, string, ln.Preimage, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	menu, err := w.api.GetMenu(ctx, &lspv1.GetMenuRequest{})
	if err != nil {
		return record{}, "", ln.Preimage{}, err
	}
	o := offer{amount: amount, gateway: menu.GatewayNodeKey}
	fillPreimage(&o.preimage)
	hash := o.preimage.Hash()
	o.NegotiateResponse, err = w.api.Negotiate(ctx, &lspv1.NegotiateRequest{
		PaymentHash: hash[:], AmountMsat: uint64(amount), OpeningFeeParams: menu.OpeningFeeParamsMenu[0],
		Channel:              &lspv1.ChannelWish{ZeroConf: true, AllowAnotherChannel: true},
		FinalCltvDeltaBlocks: 80, InvoiceExpiresMs: time.Now().Add(10 * time.Minute).UnixMilli(),
	})
	if err != nil {
		return record{}, "", ln.Preimage{}, err
	}
	r := record{hash: hash, gotMsat: int64(amount), receiver: w.node}
	if !hold {
		inv, err := w.node.LN.AddInvoice(ctx, &lnrpc.Invoice{
			RPreimage: o.preimage.Bytes(), ValueMsat: int64(amount), Expiry: 600, CltvExpiry: 80, RouteHints: o.hints(f.t),
		})
		return r, inv.GetPaymentRequest(), ln.Preimage{}, err
	}
	inv, err := w.node.Invoices.AddHoldInvoice(ctx, &invoicesrpc.AddHoldInvoiceRequest{
		Hash: hash[:], ValueMsat: int64(amount), Expiry: 600, CltvExpiry: 80, RouteHints: o.hints(f.t),
	})
	return r, inv.GetPaymentRequest(), o.preimage, err
}

func (f *fuzz) wrap(ctx context.Context, w *person, amount ln.Msat) (record, string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	menu, err := w.api.GetMenu(ctx, &lspv1.GetMenuRequest{})
	if err != nil {
		return record{}, "", err
	}
	params := menu.OpeningFeeParamsMenu[0]
	fee := max(ln.Msat(params.MinFeeMsat), (amount*ln.Msat(params.ProportionalPpm)+999_999)/1_000_000)
	own, _, err := w.lnd.AddInvoice(ctx, ln.InvoiceRequest{AmountMsat: amount - fee, Expiry: 20 * time.Minute, FinalCltvDelta: 80})
	if err != nil {
		return record{}, "", err
	}
	wrapped, err := w.api.Wrap(ctx, &lspv1.WrapRequest{
		Bolt11: own, AmountMsat: uint64(amount), OpeningFeeParams: params,
		Channel: &lspv1.ChannelWish{ZeroConf: true, AllowAnotherChannel: true},
	})
	if err != nil {
		return record{}, "", err
	}
	decoded, err := lnd.DecodeBolt11("regtest", own)
	return record{hash: decoded.Hash, gotMsat: int64(amount - fee), receiver: w.node}, wrapped.Bolt11, err
}

// back is an invoice of the payer for a wallet to pay: an ordinary forward.
func (f *fuzz) back(ctx context.Context, amount ln.Msat) (record, string, error) {
	inv, err := f.Payer.Invoice(ctx, int64(amount))
	if err != nil {
		return record{}, "", err
	}
	r := record{gotMsat: int64(amount), receiver: f.Payer}
	copy(r.hash[:], inv.RHash)
	return r, inv.PaymentRequest, nil
}

// claimLater settles or cancels a hold invoice some time after it was accepted.
func (f *fuzz) claimLater(ctx context.Context, r record, preimage ln.Preimage, delay time.Duration, claim bool) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	stream, err := r.receiver.Invoices.SubscribeSingleInvoice(ctx, &invoicesrpc.SubscribeSingleInvoiceRequest{RHash: r.hash[:]})
	for err == nil {
		var inv *lnrpc.Invoice
		if inv, err = stream.Recv(); err != nil || inv.State == lnrpc.Invoice_CANCELED || inv.State == lnrpc.Invoice_SETTLED {
			return
		}
		if inv.State != lnrpc.Invoice_ACCEPTED {
			continue
		}
		pauseFor(ctx, delay)
		if claim {
			_, err = r.receiver.Invoices.SettleInvoice(ctx, &invoicesrpc.SettleInvoiceMsg{Preimage: preimage.Bytes()})
		} else {
			_, err = r.receiver.Invoices.CancelInvoice(ctx, &invoicesrpc.CancelInvoiceMsg{PaymentHash: r.hash[:]})
		}
		if err == nil {
			return
		}
	}
}

// trouble kills, cuts and flaps by the seed's plan.
func (f *fuzz) trouble(ctx context.Context, rng *rand.Rand, until time.Time) {
	f.t.Helper()
	for time.Now().Before(until) && ctx.Err() == nil {
		pauseFor(ctx, time.Duration(300+rng.IntN(1700))*time.Millisecond)
		// Senders remember failures for longer than the trouble lasts.
		for _, n := range f.nodes() {
			forget(ctx, f.t, n)
		}
		switch n := rng.IntN(20); {
		case n < 5:
			f.count("trouble: payer's link flapped")
			f.PayerLink.Flap()
		case n < 9:
			f.count("trouble: wallet's link flapped")
			f.wallets[rng.IntN(len(f.wallets))].link.Flap()
		case n < 12:
			f.count("trouble: wallet away")
			link := f.wallets[rng.IntN(len(f.wallets))].link
			link.Cut()
			pauseFor(ctx, time.Duration(rng.IntN(4000))*time.Millisecond)
			link.Restore()
		case n < 16:
			f.count("trouble: sluiced killed")
			require.NoError(f.t, f.s.Kill())
			if rng.IntN(2) == 0 {
				f.PayerLink.Flap()
			}
			pauseFor(ctx, time.Duration(rng.IntN(1500))*time.Millisecond)
			require.NoError(f.t, f.s.Start(ctx))
		case n < 19:
			f.count("trouble: lnd killed")
			require.NoError(f.t, f.Gateway.Kill())
			require.NoError(f.t, f.Gateway.Start(ctx))
		default:
			f.count("trouble: lnd and sluiced killed")
			require.NoError(f.t, f.s.Kill())
			require.NoError(f.t, f.Gateway.Kill())
			require.NoError(f.t, f.Gateway.Start(ctx))
			require.NoError(f.t, f.s.Start(ctx))
		}
	}
}

func (f *fuzz) heal(ctx context.Context) {
	f.t.Helper()
	for _, link := range f.links() {
		link.Restore()
	}
	require.NoError(f.t, f.s.WaitReady(ctx))
	f.waitActive(ctx, f.nodes()...)
}

// waitEnded waits until every payment has ended. An lnd that is killed between the
// record of a payment of its own and its commitment calls it in flight for ever
// (wrap.Missing): the payer of a wrapped invoice has the money back when the
// payment to the wallet has expired, so that is when the blocks come.
func (f *fuzz) waitEnded(ctx context.Context, ended <-chan struct{}, seed uint64) {
	f.t.Helper()
	over := func(within time.Duration) bool {
		select {
		case <-ended:
			return true
		case <-time.After(within):
		case <-ctx.Done():
			require.FailNow(f.t, "payments did not end", "seed %d", seed)
		}
		return false
	}
	// A wallet keeps the parts of an incomplete set for two minutes.
	if over(150 * time.Second) {
		return
	}
	f.t.Log("a payment goes on: if the gateway's lnd lost the payment to a wallet, it ends after its expiry")
	for range 14 {
		require.NoError(f.t, f.Mine(ctx, 10))
		if over(time.Second) {
			return
		}
	}
	over(10 * time.Minute)
}

// check demands that nothing is in flight, that both ends of every payment
// agree, that the gateway earned exactly the fees, and that its books say so.
func (f *fuzz) check(ctx context.Context, before int64) {
	f.t.Helper()
	for _, n := range append(f.nodes(), f.Gateway) {
		require.NoError(f.t, n.WaitNoHTLCs(ctx))
	}
	var fees int64
	for _, r := range f.records {
		inv, err := r.receiver.LN.LookupInvoice(ctx, &lnrpc.PaymentHash{RHash: r.hash[:]})
		require.NoError(f.t, err)
		paid := r.status == lnrpc.Payment_SUCCEEDED
		require.Equal(f.t, paid, inv.State == lnrpc.Invoice_SETTLED, "%s %s: the sender says %s, the receiver %s", r.kind, r.hash.Short(), r.status, inv.State)
		if paid {
			require.Equal(f.t, r.gotMsat, inv.AmtPaidMsat)
			fees += r.paidMsat - r.gotMsat
		}
	}
	require.Equal(f.t, -fees, f.owned(ctx)-before, "the gateway must have exactly what it earned")
	f.t.Logf("the gateway earned %d msat of fees, and nothing else moved", fees)
	f.op.waitBalancedInAll(ctx)
}

func fillPreimage(p *ln.Preimage) {
	for i := range p {
		p[i] = byte(rand.UintN(256))
	}
}

// pauseFor lets time pass between troubles; nothing rests on its length.
func pauseFor(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
