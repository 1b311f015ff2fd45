package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/in"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// OpenQuote is what a swap in costs that opens a channel.
type OpenQuote struct {
	// AmountSat is deposited, InvoiceSat arrives: the rest is both fees.
	AmountSat, InvoiceSat ln.Sat
	SwapFeeSat            ln.Sat
	OpeningFeeMsat        ln.Msat
	CapacitySat           ln.Sat
	// Confs are the deposit's, ChannelConfs the channel's.
	Confs, ChannelConfs        uint32
	ExpiryDelta, DepositBlocks uint32
}

// OpenWish is what a client without a channel wants. Node is its wallet's, which
// it proved to be.
type OpenWish struct {
	Hash                   ln.Hash
	Node                   ln.PubKey
	Sender, SenderInternal ln.PubKey
	AmountSat              ln.Sat
	Invoice                string
	Client                 string
}

// OpenOffer is what it gets.
type OpenOffer struct {
	InOffer
	Quote           OpenQuote
	DepositByHeight uint32
	// LastPayHeight is the last at which the gateway pays.
	LastPayHeight uint32
}

// errNoOpens answers where channels are not opened.
var errNoOpens = errkind.New(errkind.Unavailable, "this gateway opens no channels for swaps now: use another, or try again in a few minutes")

// depositBlocks is how long a client has, so that a deposit of the last moment can
// still be paid for over a channel that takes a few blocks to confirm.
func (c InConfig) depositBlocks(finalCltv uint32) uint32 {
	all := c.PayMarginBlocks + payBlocks(finalCltv) + c.DeepConfs + 2*c.Open.Confs + 6
	return min(c.Open.DepositBlocks, c.ExpiryDelta-min(c.ExpiryDelta, all))
}

// payBlocks must be left for a payment over the client's own channel.
func payBlocks(finalCltv uint32) uint32 { return finalCltv + 10 }

// usualFinalCltv is lnd's, for quotes; the invoice's own counts afterwards.
const usualFinalCltv = 80

// QuoteOpen prices one for this client.
func (e *Engine) QuoteOpen(ctx context.Context, node ln.PubKey, amount ln.Sat) (OpenQuote, error) {
	if e.opt.Channels == nil {
		return OpenQuote{}, errNoOpens
	}
	c := e.cfg.In
	if amount < c.MinSat || amount > c.MaxSat {
		return OpenQuote{}, errkind.Newf(errkind.Invalid, "a swap in is %s to %s: choose an amount between", c.MinSat, c.MaxSat)
	}
	rates, err := e.window().Latest(e.opt.Now(), e.cfg.StaleAfter)
	if err != nil {
		return OpenQuote{}, err
	}
	fee, err := c.Price.Direct(amount, rates.Of(false))
	if err != nil {
		return OpenQuote{}, err
	}
	size, err := (amount - min(fee, amount)).Msat()
	if err != nil {
		return OpenQuote{}, err
	}
	opening, capacity, err := e.opt.Channels.PriceChannel(ctx, node, size)
	if err != nil {
		return OpenQuote{}, err
	}
	if opening >= size {
		return OpenQuote{}, errkind.New(errkind.Invalid, "the fees would take the whole amount: choose a larger one")
	}
	q := OpenQuote{
		AmountSat: amount, InvoiceSat: (size - opening).ToSatFloor(), SwapFeeSat: fee, OpeningFeeMsat: opening, CapacitySat: capacity,
		Confs: c.confs(amount), ChannelConfs: c.Open.Confs, ExpiryDelta: c.ExpiryDelta, DepositBlocks: c.depositBlocks(usualFinalCltv),
	}
	// A fraction of a satoshi that the invoice cannot have goes with the opening fee.
	invoice, err := q.InvoiceSat.Msat()
	if err != nil {
		return OpenQuote{}, err
	}
	q.OpeningFeeMsat = size - invoice
	return q, nil
}

// OfferOpen agrees on a swap in that opens a channel. There is nothing to probe,
// and nobody is told an address before the swap is stored.
func (e *Engine) OfferOpen(ctx context.Context, w OpenWish) (OpenOffer, error) {
	quote, err := e.QuoteOpen(ctx, w.Node, w.AmountSat)
	if err != nil {
		return OpenOffer{}, err
	}
	plan, err := e.planOpen(ctx, w, quote)
	if err != nil {
		return OpenOffer{}, err
	}
	node, err := e.outRoom(ctx)
	if err != nil {
		return OpenOffer{}, err
	}
	err = e.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := unused(e.outs.GetTx(ctx, tx, plan.ID())); err != nil {
			return err
		}
		if err := e.admitOpen(ctx, tx, plan, node); err != nil {
			return err
		}
		if err := payhash.Claim(ctx, tx, plan.Terms.Hash, "swap_in/"+plan.ID()); err != nil {
			return err
		}
		_, err := e.ins.CreateTx(ctx, tx, plan.ID(), in.Waiting{Plan: plan}, in.Start{Moment: e.moment()})
		return err
	})
	if errors.Is(err, store.ErrUnique) {
		return OpenOffer{}, errUsedHash
	}
	if err != nil {
		return OpenOffer{}, err
	}
	return OpenOffer{
		InOffer: InOffer{Receiver: plan.Terms.Receiver, ReceiverInternal: plan.Terms.ReceiverInternal, ExpiryHeight: plan.Terms.ExpiryHeight},
		Quote:   quote, DepositByHeight: plan.Open.DepositByHeight, LastPayHeight: plan.LastPayHeight(),
	}, nil
}

// admitOpen holds the limits in the transaction that stores the swap. What a
// client may never deposit for takes its place only; coins are promised to
// nobody else meanwhile.
func (e *Engine) admitOpen(ctx context.Context, tx *store.Tx, plan in.Plan, node room) error {
	live, err := e.liveInsTx(ctx, tx)
	if err != nil {
		return err
	}
	outs, err := e.allLiveTx(ctx, tx)
	if err != nil {
		return err
	}
	var open, coins ln.Sat
	waiting, own := 0, 0
	tip := e.moment().Height
	for _, inst := range live {
		if in.Lapsed(inst.State, tip) {
			continue
		}
		p := in.PlanOf(inst.State)
		open += p.AmountSat
		coins += in.Coins(inst.State)
		if s, waits := inst.State.(in.Waiting); waits && p.Open != nil && s.Outpoint.IsZero() {
			waiting++
			if p.Open.Node == plan.Open.Node {
				own++
			}
		}
	}
	for _, inst := range outs {
		coins += out.Promised(inst.State)
	}
	switch {
	case own >= e.cfg.In.Open.MaxPerClient:
		return errkind.Newf(errkind.Exhausted, "%d swaps of this wallet wait for their deposits already: deposit to one of them, or let them lapse", own)
	case waiting >= e.cfg.In.Open.MaxWaiting:
		return errkind.New(errkind.Exhausted, "too many swaps wait for their deposits: try again later")
	case open+plan.AmountSat > e.cfg.MaxOpenSat:
		return errkind.New(errkind.Exhausted, "the gateway has no room for a swap in of this amount now: try again later, or with less")
	case coins+plan.Open.CapacitySat > node.coins:
		return errkind.New(errkind.Exhausted, "the gateway has too few free coins for such a channel now: try again later, or with less")
	}
	return nil
}

func (e *Engine) planOpen(ctx context.Context, w OpenWish, q OpenQuote) (in.Plan, error) {
	invalid := func(format string, args ...any) (in.Plan, error) {
		return in.Plan{}, errkind.Newf(errkind.Invalid, format, args...)
	}
	now, c := e.opt.Now(), e.cfg.In
	invoice, err := e.opt.DecodeBolt11(w.Invoice)
	if err != nil {
		return invalid("the invoice cannot be read: %v", err)
	}
	most, err := q.InvoiceSat.Msat()
	if err != nil {
		return in.Plan{}, err
	}
	lives := time.Duration(c.ExpiryDelta) * 10 * time.Minute
	switch {
	case invoice.Hash != w.Hash:
		return invalid("the invoice has another hash than the swap")
	case invoice.Payee != w.Node || w.Node == e.cfg.Self:
		return invalid("the invoice is not of the wallet that asks: a channel is opened to that one only")
	case !invoice.HasPaymentAddr:
		return invalid("the invoice has no payment address")
	case invoice.AmountMsat == 0 || invoice.AmountMsat > most:
		return invalid("the invoice asks for %s, the amount less both fees is %s now: ask for a new quote", invoice.AmountMsat, most)
	case invoice.FinalCltvDelta > maxFinalDelta || c.depositBlocks(invoice.FinalCltvDelta) == 0:
		return invalid("the invoice wants to be locked for %d blocks at its end, which is too long for this swap", invoice.FinalCltvDelta)
	case invoice.ExpiresAt().Before(now.Add(lives)):
		return invalid("the invoice must live until the swap expires, for %s and more: a deposit and its confirmations take time", lives)
	}
	if err := e.unknownHash(ctx, w.Hash); err != nil {
		return in.Plan{}, err
	}
	receiver, err := e.key(ctx, "in", w.Hash)
	if err != nil {
		return in.Plan{}, err
	}
	internal, err := e.key(ctx, "in/internal", w.Hash)
	if err != nil {
		return in.Plan{}, err
	}
	id, err := e.newID(now)
	if err != nil {
		return in.Plan{}, err
	}
	tip := e.moment().Height
	plan := in.Plan{
		Terms: htlc.Terms{
			Hash: w.Hash, ExpiryHeight: tip + c.ExpiryDelta, Sender: w.Sender, Receiver: receiver.PubKey(),
			SenderInternal: w.SenderInternal, ReceiverInternal: internal.PubKey(),
		},
		AmountSat: w.AmountSat, Invoice: w.Invoice, InvoiceMsat: invoice.AmountMsat, Confs: q.Confs, DeepConfs: c.DeepConfs,
		PayMarginBlocks: c.PayMarginBlocks, MinCltvBlocks: payBlocks(invoice.FinalCltvDelta),
		// One attempt for each block that is left: what fails for the wallet's being
		// away succeeds when it is back.
		MaxAttempts: int(c.ExpiryDelta), KeyFor: c.KeyFor, WaitBlocks: c.WaitBlocks, BeginHeight: tip, Client: ln.Clip(w.Client, 100),
		Open: &in.Open{
			ID: id, Node: w.Node, PaymentAddr: invoice.PaymentAddr, FinalCltv: invoice.FinalCltvDelta, FeeMsat: q.OpeningFeeMsat,
			CapacitySat: q.CapacitySat, Confs: c.Open.Confs, MaxOpens: c.Open.MaxOpens, DepositByHeight: tip + c.depositBlocks(invoice.FinalCltvDelta),
		},
	}
	if err := plan.Terms.Check(); err != nil {
		return invalid("the swap's keys make no contract: %v", err)
	}
	return plan, nil
}

// unknownHash refuses a hash that lnd knows an invoice or a payment of.
func (e *Engine) unknownHash(ctx context.Context, hashes ...ln.Hash) error {
	return payhash.Unknown(ctx, e.node.Invoices, e.node.Payments, hashes...)
}

func (e *Engine) newID(now time.Time) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id, err := ulid.New(ulid.Timestamp(now), e.ids)
	if err != nil {
		return "", fmt.Errorf("make an id: %w", err)
	}
	return id.String(), nil
}

// OpenView is a swap as its own wallet sees it.
type OpenView struct {
	View
	Confs           uint32
	ChanID          ln.SCID
	DepositByHeight uint32
	PaidOut         bool
}

// ownOpen finds a swap of this wallet.
func (e *Engine) ownOpen(ctx context.Context, node ln.PubKey, hash ln.Hash) (fsm.Instance[in.State], error) {
	inst, err := e.ins.Get(ctx, hash.String())
	if errors.Is(err, store.ErrNotFound) {
		return inst, errNoSwap
	}
	if err != nil {
		return inst, err
	}
	if o := in.PlanOf(inst.State).Open; o == nil || o.Node != node {
		return inst, errNoSwap
	}
	return inst, nil
}

// GiveKey is PushKey for the wallet whose swap it is.
func (e *Engine) GiveKey(ctx context.Context, node ln.PubKey, hash ln.Hash, raw [32]byte) error {
	if _, err := e.ownOpen(ctx, node, hash); err != nil {
		return err
	}
	return e.PushKey(ctx, hash, raw)
}

// ShowOpen is the swap of this wallet; there is none of anybody else's.
func (e *Engine) ShowOpen(ctx context.Context, node ln.PubKey, hash ln.Hash) (OpenView, error) {
	inst, err := e.ownOpen(ctx, node, hash)
	if err != nil {
		return OpenView{}, err
	}
	p := in.PlanOf(inst.State)
	v := OpenView{View: viewIn(inst), Confs: p.Confs, DepositByHeight: p.Open.DepositByHeight}
	switch s := inst.State.(type) {
	case in.Waiting:
		v.ChanID = s.ChanID
	case in.Paying:
		v.ChanID = s.ChanID
	case in.Paid, in.Claiming, in.Claimed, in.Lost:
		v.PaidOut = true
	}
	return v, nil
}
