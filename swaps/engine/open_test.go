package engine

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/in"
)

const openFee = ln.Msat(2_000_500)

// fakeChannels opens channels when it is told to.
type fakeChannels struct {
	mu      sync.Mutex
	changed chan struct{}
	begun   map[string]ChannelRequest
	usable  map[string]ln.SCID
	refuse  *NotOpenedError
	paid    []string
	dropped []string
}

func newFakeChannels() *fakeChannels {
	return &fakeChannels{changed: make(chan struct{}), begun: map[string]ChannelRequest{}, usable: map[string]ln.SCID{}}
}

func (c *fakeChannels) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *fakeChannels) PriceChannel(_ context.Context, _ ln.PubKey, size ln.Msat) (ln.Msat, ln.Sat, error) {
	return openFee, size.ToSatFloor() + 50_000, nil
}

func (c *fakeChannels) OpenChannel(ctx context.Context, r ChannelRequest) (ln.SCID, error) {
	for {
		c.mu.Lock()
		changed := c.changed
		if c.refuse != nil {
			defer c.mu.Unlock()
			return 0, c.refuse
		}
		c.begun[r.OpeningID] = r
		id := c.usable[r.OpeningID]
		c.mu.Unlock()
		if id != 0 {
			return id, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (c *fakeChannels) AbandonChannel(_ context.Context, id, _ string) error {
	c.change(func() { c.dropped = append(c.dropped, id) })
	return nil
}

func (c *fakeChannels) ChannelPaid(_ context.Context, id string, _ ln.PubKey) error {
	c.change(func() { c.paid = append(c.paid, id) })
	return nil
}

// opens has one open end well.
func (r *rig) opens(id string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		r.channels.mu.Lock()
		defer r.channels.mu.Unlock()
		_, ok := r.channels.begun[id]
		return ok
	}, 20*time.Second, time.Millisecond)
	r.channels.change(func() { r.channels.usable[id] = 77 })
}

// wishOpen is that of a wallet without channels; it takes its payment.
func (r *rig) wishOpen(p ln.Preimage, amount ln.Sat) OpenWish {
	r.t.Helper()
	hash, wallet := p.Hash(), ln.PubKey{2, 5}
	q, err := r.QuoteOpen(r.ctx, wallet, amount)
	require.NoError(r.t, err)
	msat, err := q.InvoiceSat.Msat()
	require.NoError(r.t, err)
	_, sender := secretKey(21)
	_, internal := secretKey(22)
	r.node.change(func() {
		r.node.foreign["open"+hash.Short()] = ln.Bolt11{
			Hash: hash, AmountMsat: msat, CreatedAt: time.Now(), Expiry: 20 * 24 * time.Hour, FinalCltvDelta: 80, Payee: wallet, HasPaymentAddr: true, PaymentAddr: [32]byte{8},
		}
		r.node.outcome = func(_ ln.InvoicePayment, h ln.Hash) (ln.Payment, error) {
			return ln.Payment{Hash: h, State: ln.PaymentSucceeded, Preimage: p, ValueMsat: msat}, nil
		}
	})
	return OpenWish{Hash: hash, Node: wallet, Sender: sender, SenderInternal: internal, AmountSat: amount, Invoice: "open" + hash.Short()}
}

func (r *rig) sentSoFar() int { r.node.mu.Lock(); defer r.node.mu.Unlock(); return r.node.sent }

// A wallet without a channel: deposit, channel, payment over it, claim; with a
// restart while the channel opens. Who has which sats, to the sat.
func TestSwapInThatOpensAChannel(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		r := newRig(t, cfg)
		p := ln.Preimage{1}
		const amount = 500_000
		w := r.wishOpen(p, amount)
		offer, err := r.OfferOpen(r.ctx, w)
		require.NoError(t, err)
		require.Zero(t, r.sentSoFar(), "there is nothing to probe")
		_, err = r.OfferOpen(r.ctx, w)
		require.ErrorIs(t, err, errkind.Conflict)
		_, err = r.OfferOut(r.ctx, r.wish(p))
		require.ErrorIs(t, err, errkind.Conflict)
		_, err = r.ShowOpen(r.ctx, ln.PubKey{2, 6}, p.Hash())
		require.ErrorIs(t, err, errkind.NotFound, "another wallet sees nothing")

		r.lock(p, amount)
		r.inReaches(p, located)
		r.node.mine(1, false)
		r.inReaches(p, named("opening"))
		id := in.PlanOf(r.inState(p)).Open.OpeningID(1)
		r.stop()
		r.start()
		require.Zero(t, r.sentSoFar(), "no channel, no payment")
		r.opens(id)
		s := r.inReaches(p, named("paid")).(in.Paid)
		require.Equal(t, 1, r.sentSoFar())
		direct := r.node.direct[0]
		require.EqualValues(t, 77, direct.ChanID)
		require.Equal(t, w.Node, direct.Peer)
		require.Equal(t, [32]byte{8}, direct.PaymentAddr)
		require.Equal(t, r.node.foreign[w.Invoice].AmountMsat, direct.AmountMsat)
		require.LessOrEqual(t, direct.ExpiryHeight+s.PayMarginBlocks, offer.ExpiryHeight)

		key, _ := secretKey(22)
		require.ErrorIs(t, r.GiveKey(r.ctx, ln.PubKey{2, 6}, p.Hash(), key), errkind.NotFound)
		require.NoError(t, r.GiveKey(r.ctx, w.Node, p.Hash(), key))
		claiming := r.inReaches(p, named("claiming")).(in.Claiming)
		require.Eventually(t, func() bool { r.node.mu.Lock(); defer r.node.mu.Unlock(); return len(r.node.published) == 1 }, 20*time.Second, time.Millisecond)
		r.node.mine(1, true)
		r.inReaches(p, func(s in.State) bool { c, ok := s.(in.Claiming); return ok && c.Spent == htlc.SpendKey })
		r.node.mine(5, false)
		r.inReaches(p, named("claimed"))
		require.Eventually(t, func() bool { r.channels.mu.Lock(); defer r.channels.mu.Unlock(); return len(r.channels.paid) == 1 }, 20*time.Second, time.Millisecond)

		require.EqualValues(t, -int64(offer.Quote.SwapFeeSat)*1000, r.balance(swapFee))
		require.EqualValues(t, -int64(offer.Quote.OpeningFeeMsat), r.balance(openingFee))
		require.EqualValues(t, amount, offer.Quote.InvoiceSat+offer.Quote.SwapFeeSat+offer.Quote.OpeningFeeMsat.ToSatCeil())
		require.GreaterOrEqual(t, offer.Quote.OpeningFeeMsat, openFee)
		require.EqualValues(t, int64(claiming.ClaimFeeSat)*1000, r.balance(chainFee))
	})
}

// The wallet's node says no, for as often as it is asked: nothing is paid, and it
// takes its deposit back.
func TestChannelsThatCannotBeOpened(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	p := ln.Preimage{1}
	_, err := r.OfferOpen(r.ctx, r.wishOpen(p, 500_000))
	require.NoError(t, err)
	r.channels.change(func() { r.channels.refuse = &NotOpenedError{Text: "the wallet is away"} })
	r.lock(p, 500_000)
	r.inReaches(p, located)
	// Being away counts for nothing.
	for range 10 {
		r.node.mine(1, false)
		r.inReaches(p, named("waiting"))
	}
	r.channels.change(func() { r.channels.refuse = &NotOpenedError{Text: "rejected", Begun: true} })
	require.Eventually(t, func() bool { r.node.mine(1, false); return in.Final(r.inState(p)) }, 30*time.Second, 10*time.Millisecond)
	require.Equal(t, swaps.ReasonNoChannel, in.ReasonOf(r.inState(p)).Code)
	require.Zero(t, r.sentSoFar())
}

func TestSwapsThatOpenAChannelAreRefused(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	change := func(w OpenWish, f func(*ln.Bolt11)) {
		b := r.node.foreign[w.Invoice]
		f(&b)
		r.node.foreign[w.Invoice] = b
	}
	for name, alter := range map[string]func(*OpenWish){
		"another hash":           func(w *OpenWish) { w.Hash = ln.Preimage{99}.Hash() },
		"somebody's invoice":     func(w *OpenWish) { change(*w, func(b *ln.Bolt11) { b.Payee = ln.PubKey{2, 6} }) },
		"more than quoted":       func(w *OpenWish) { change(*w, func(b *ln.Bolt11) { b.AmountMsat++ }) },
		"no payment address":     func(w *OpenWish) { change(*w, func(b *ln.Bolt11) { b.HasPaymentAddr = false }) },
		"an invoice for an hour": func(w *OpenWish) { change(*w, func(b *ln.Bolt11) { b.Expiry = time.Hour }) },
		"locked too long":        func(w *OpenWish) { change(*w, func(b *ln.Bolt11) { b.FinalCltvDelta = 201 }) },
		"too small":              func(w *OpenWish) { w.AmountSat = 249_999 },
		"no internal key":        func(w *OpenWish) { w.SenderInternal = ln.PubKey{2, 32: 5} },
	} {
		w := r.wishOpen(ln.Preimage{1}, 500_000)
		alter(&w)
		_, err := r.OfferOpen(r.ctx, w)
		require.ErrorIs(t, err, errkind.Invalid, name)
	}
	// One wallet cannot fill the place of all.
	for i := range 3 {
		_, err := r.OfferOpen(r.ctx, r.wishOpen(ln.Preimage{byte(i + 10)}, 500_000))
		require.NoError(t, err)
	}
	_, err := r.OfferOpen(r.ctx, r.wishOpen(ln.Preimage{20}, 500_000))
	require.ErrorIs(t, err, errkind.Exhausted)
	// What waits for a deposit is not promised to swaps out.
	terms, err := r.OutTerms(r.ctx)
	require.NoError(t, err)
	r.node.change(func() { r.node.coins = 2_100_000 })
	less, err := r.OutTerms(r.ctx)
	require.NoError(t, err)
	require.Less(t, less.MaxSat, min(terms.MaxSat, 2_100_000-3*500_000))
	// Who never deposits keeps no place.
	r.node.mine(145, false)
	require.Eventually(t, func() bool { return in.Final(r.inState(ln.Preimage{10})) }, 20*time.Second, 5*time.Millisecond)
	require.Equal(t, swaps.ReasonNoDeposit, in.ReasonOf(r.inState(ln.Preimage{10})).Code)
}
