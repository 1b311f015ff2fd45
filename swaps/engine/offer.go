package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/groupcommit"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/in"
	"github.com/sluice-lsp/sluice/swaps/out"
	"github.com/sluice-lsp/sluice/swaps/quote"
)

// OutTerms is what swaps out can be had.
type OutTerms struct {
	MinSat, MaxSat             ln.Sat
	MinCltvDelta, MaxCltvDelta uint32
}

// OutWish is what a client wants.
type OutWish struct {
	Hash         ln.Hash
	Receiver     ln.PubKey
	AmountSat    ln.Sat
	PublishBy    time.Time
	ExpiryHeight uint32
	// Client is what it calls itself, Caller what it is capped by.
	Client, Caller string
	Token          string
}

// OutOffer is what it gets.
type OutOffer struct {
	SwapInvoice, PrepayInvoice string
	Sender                     ln.PubKey
}

// heightSlack is how many blocks a client's view of the chain may be from ours.
const heightSlack = 3

// Self is the gateway's node key, the payee of both invoices.
func (e *Engine) Self() ln.PubKey { return e.cfg.Self }

// OutTerms tells the limits as they are now: never more than what the gateway
// could fund and be paid.
func (e *Engine) OutTerms(ctx context.Context) (OutTerms, error) {
	most, err := e.outMost(ctx)
	if err != nil {
		return OutTerms{}, err
	}
	t := OutTerms{MinSat: e.cfg.MinSat, MaxSat: min(e.cfg.MaxSat, most), MinCltvDelta: e.cfg.MinCltvDelta, MaxCltvDelta: e.cfg.MaxCltvDelta}
	if t.MaxSat < t.MinSat {
		return OutTerms{}, noRoom()
	}
	return t, nil
}

func noRoom() error {
	return errkind.New(errkind.Exhausted, "the gateway has no room for a swap out now: try again later")
}

// later says whether the client lets the publication wait. A deadline in the
// past is how stock clients ask for a fast swap. A quote holds for as long as it is
// firm: so it takes a deadline for a late one only if it will still be one then.
func (e *Engine) later(publishBy time.Time, quoted time.Duration) bool {
	return publishBy.After(e.opt.Now().Add(e.cfg.SoonWithin + quoted))
}

// QuoteOut prices a swap out from the latest rates.
func (e *Engine) QuoteOut(ctx context.Context, amount ln.Sat, publishBy time.Time) (quote.Price, error) {
	terms, err := e.OutTerms(ctx)
	if err != nil {
		return quote.Price{}, err
	}
	if amount == 0 {
		amount = terms.MaxSat
	}
	if err := checkAmount(amount, terms); err != nil {
		return quote.Price{}, err
	}
	rates, err := e.window().Latest(e.opt.Now(), e.cfg.StaleAfter)
	if err != nil {
		return quote.Price{}, err
	}
	return e.cfg.Price.Out(amount, rates.Of(e.later(publishBy, e.cfg.FirmFor)))
}

func checkAmount(amount ln.Sat, t OutTerms) error {
	if amount < t.MinSat || amount > t.MaxSat {
		return errkind.Newf(errkind.Invalid, "a swap out is %s to %s now: choose an amount between", t.MinSat, t.MaxSat)
	}
	return nil
}

// room is what the node has for swaps out, before what is promised.
type room struct {
	coins   ln.Sat
	inbound ln.Sat
}

func (e *Engine) outRoom(ctx context.Context) (room, error) {
	balances, err := e.node.Wallet.WalletBalance(ctx)
	if err != nil {
		return room{}, err
	}
	channels, err := e.node.Events.ListChannels(ctx)
	if err != nil {
		return room{}, err
	}
	// What is leased is no part of lnd's balances; its locked balance goes on counting
	// coins that are spent, for as long as their leases last.
	var r room
	if kept := e.cfg.ReserveSat + balances.ReservedSat; balances.ConfirmedSat > kept {
		r.coins = balances.ConfirmedSat - kept
	}
	for _, c := range channels {
		if c.Active && c.RemoteSat > c.RemoteReserveSat {
			r.inbound += c.RemoteSat - c.RemoteReserveSat
		}
	}
	return r, nil
}

// outFree is what a new swap may take of the room, once what unfinished swaps
// were promised is taken off, and within the cap of all; and what the caller's own
// take.
func (e *Engine) outFree(b *book, r room, caller string) (ln.Sat, ofCaller, error) {
	var own ofCaller
	var open, coins, inbound ln.Sat
	unpaid := 0
	for _, s := range b.outs {
		p := out.PlanOf(s)
		before := unpaid
		open += p.AmountSat
		coins += out.Promised(s)
		switch s := s.(type) {
		case out.Offered:
			inbound += p.AmountSat + p.FeeSat
			unpaid++
		case out.Invoiced:
			if !s.SwapHeld {
				inbound += p.AmountSat + p.FeeSat
			}
			unpaid++
		}
		if caller != "" && p.Caller == caller {
			own.open += p.AmountSat
			own.unpaid += unpaid - before
		}
	}
	if unpaid >= e.cfg.MaxUnpaid {
		return 0, own, errkind.New(errkind.Exhausted, "too many swaps wait for their payments: try again in a few minutes")
	}
	// Channels that swaps in will open take coins as well.
	for _, s := range b.ins {
		coins += in.Coins(s)
	}
	less := func(a, b ln.Sat) ln.Sat { return a - min(a, b) }
	// What its transaction takes besides the amount: the change that can hurry it, and its
	// fee.
	change, err := e.cfg.leastChange(e.cfg.MaxSat)
	if err != nil {
		return 0, own, err
	}
	free := min(less(r.coins, coins+change), less(r.inbound, inbound), less(e.cfg.MaxOpenSat, open))
	miner, err := e.maxMiner(e.cfg.Ceiling)
	if err != nil {
		return 0, own, err
	}
	if rates, err := e.window().Latest(e.opt.Now(), e.cfg.StaleAfter); err == nil {
		if miner, err = e.maxMiner(rates.Soon); err != nil {
			return 0, own, err
		}
	}
	return less(free, miner), own, nil
}

// maxMiner is the most that a funding transaction may pay that was priced at a
// rate.
func (e *Engine) maxMiner(rate ln.FeeRateSatPerKW) (ln.Sat, error) {
	share, err := rate.Fee(e.cfg.Price.FundingWU)
	if err != nil {
		return 0, err
	}
	return share * ln.Sat(e.cfg.TolerancePercent) / 100, nil
}

// OfferOut agrees on a swap out: the row is durable before any invoice exists,
// the invoices before the client is told.
func (e *Engine) OfferOut(ctx context.Context, w OutWish) (OutOffer, error) {
	plan, err := e.planOut(ctx, w)
	if err != nil {
		return OutOffer{}, err
	}
	node, err := e.outRoom(ctx)
	if err != nil {
		return OutOffer{}, err
	}
	o := &offering{plan: plan, node: node}
	if err = e.offerings.Do(ctx, 0, 1, o); err == nil {
		err = o.refused
	}
	if errors.Is(err, groupcommit.ErrBusy) {
		return OutOffer{}, errkind.New(errkind.Exhausted, "too many swaps are being begun: try again in a minute")
	}
	if errors.Is(err, store.ErrUnique) {
		return OutOffer{}, errUsedHash
	}
	if err != nil {
		return OutOffer{}, err
	}
	invoices, err := e.awaitInvoices(ctx, plan.ID())
	if err != nil {
		return OutOffer{}, err
	}
	return OutOffer{SwapInvoice: invoices.SwapInvoice, PrepayInvoice: invoices.PrepayInvoice, Sender: plan.Terms.Sender}, nil
}

func (e *Engine) planOut(ctx context.Context, w OutWish) (out.Plan, error) {
	tip := e.moment().Height
	if w.AmountSat < e.cfg.MinSat || w.AmountSat > e.cfg.MaxSat {
		return out.Plan{}, checkAmount(w.AmountSat, OutTerms{MinSat: e.cfg.MinSat, MaxSat: e.cfg.MaxSat})
	}
	if w.ExpiryHeight+heightSlack < tip+e.cfg.MinCltvDelta || w.ExpiryHeight > tip+e.cfg.MaxCltvDelta+heightSlack {
		return out.Plan{}, errkind.Newf(errkind.Invalid, "the expiry %d is not %d to %d blocks after the height %d: check that your node is in sync",
			w.ExpiryHeight, e.cfg.MinCltvDelta, e.cfg.MaxCltvDelta, tip)
	}
	now := e.opt.Now()
	later := e.later(w.PublishBy, 0)
	rate, err := e.window().Firm(now, e.cfg.StaleAfter, e.cfg.FirmFor, later)
	if err != nil {
		return out.Plan{}, err
	}
	price, err := e.cfg.Price.Out(w.AmountSat, rate)
	if err != nil {
		return out.Plan{}, err
	}
	maxMiner, err := e.maxMiner(rate)
	if err != nil {
		return out.Plan{}, err
	}
	change, err := e.cfg.leastChange(w.AmountSat)
	if err != nil {
		return out.Plan{}, err
	}
	if err := e.unknownHash(ctx, w.Hash); err != nil {
		return out.Plan{}, err
	}
	var prepay ln.Preimage
	if _, err := io.ReadFull(e.opt.Random, prepay[:]); err != nil {
		return out.Plan{}, fmt.Errorf("draw the prepay's preimage: %w", err)
	}
	key, err := e.outKey(ctx, w.Hash)
	if err != nil {
		return out.Plan{}, err
	}
	delta, err := e.holdExpiryDelta(ctx)
	if err != nil {
		return out.Plan{}, err
	}
	bumpAfter := e.cfg.BumpAfterBlocks
	if later && bumpAfter > 0 {
		// The client lets it wait, and pays less for that.
		bumpAfter = max(bumpAfter, uint32(e.cfg.LaterTarget)) //nolint:gosec // blocks
	}
	plan := out.Plan{
		Terms: htlc.Terms{
			Hash: w.Hash, ExpiryHeight: w.ExpiryHeight, Sender: key.PubKey(), Receiver: w.Receiver,
			SenderInternal: key.PubKey(), ReceiverInternal: w.Receiver,
		},
		AmountSat: w.AmountSat, FeeSat: price.FeeSat, PrepaySat: price.PrepaySat, MaxMinerSat: maxMiner, LeastChangeSat: change,
		PrepayPreimage: swaps.NewSecret(prepay), Later: later, AcceptBy: latest(w.PublishBy, now, e.cfg.InvoiceExpiry).Add(e.cfg.AcceptGrace).UTC(),
		InvoiceExpiry: e.cfg.InvoiceExpiry, FinalCltvDelta: w.ExpiryHeight - min(tip, w.ExpiryHeight) + e.cfg.MarginBlocks + delta + heightSlack,
		MarginBlocks: e.cfg.MarginBlocks, HoldExpiryDelta: delta, MinPublishBlocks: e.cfg.MinPublishBlocks,
		BuriedConfs: e.cfg.BuriedConfs, BumpAfterBlocks: bumpAfter, Client: ln.Clip(w.Client, 100), Caller: w.Caller, Token: w.Token,
	}
	if err := plan.Terms.Check(); err != nil {
		return out.Plan{}, errkind.Newf(errkind.Invalid, "the swap's keys make no contract: %v", err)
	}
	return plan, nil
}

// latest is the publication deadline, from now on and no later than the
// invoices live.
func latest(publishBy, now time.Time, expiry time.Duration) time.Time {
	if publishBy.Before(now) {
		return now
	}
	if most := now.Add(expiry); publishBy.After(most) {
		return most
	}
	return publishBy
}

// awaitInvoices waits until the machine has the invoices, or has given up.
func (e *Engine) awaitInvoices(ctx context.Context, id string) (out.Invoices, error) {
	s, err := e.await(ctx, id, func(s out.State) bool {
		_, waiting := s.(out.Offered)
		return !waiting
	})
	if err != nil {
		return out.Invoices{}, err
	}
	if invoices, ok := out.InvoicesOf(s); ok {
		return invoices, nil
	}
	return out.Invoices{}, errkind.Newf(errkind.Unavailable, "the swap was given up: %s", out.ReasonOf(s).Text)
}

// errStopping ends waits whose engine ends.
var errStopping = errkind.New(errkind.Unavailable, "the gateway is stopping: try again in a few seconds")

// await waits until a swap's state satisfies a condition.
func await[S fsm.State, V fsm.Event, F fsm.Effect](ctx context.Context, m *fsm.Engine[S, V, F], id string, enough func(S) bool) (S, error) {
	var none S
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	states, err := m.Watch(ctx, id)
	if err != nil {
		return none, err
	}
	for t := range states {
		if enough(t.To) {
			return t.To, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	return none, errStopping
}

func (e *Engine) await(ctx context.Context, id string, enough func(out.State) bool) (out.State, error) {
	return await(ctx, e.outs, id, enough)
}

func (e *Engine) outKey(ctx context.Context, hash ln.Hash) (htlc.Key, error) {
	return e.key(ctx, "out", hash)
}

// holdExpiryDelta is what lnd says, and no less than what is configured, which
// stands alone where the macaroon may not ask.
func (e *Engine) holdExpiryDelta(ctx context.Context) (uint32, error) {
	delta, err := e.node.Events.HoldExpiryDelta(ctx)
	if err != nil && !errors.Is(err, ln.ErrPermission) {
		return 0, err
	}
	return max(delta, e.cfg.HoldExpiryDelta), nil
}
