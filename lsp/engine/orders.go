package engine

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// OrderConfig is how channels are sold outright (bLIP-51).
type OrderConfig struct {
	Enabled bool
	Options lsps1.Options
	Prices  order.Prices
	// PayWithin is how long an order can be paid.
	PayWithin time.Duration
	// WaitFor is how long a paid order waits for its client's node.
	WaitFor time.Duration
	// InvoiceCltv is the final CLTV delta of the hold invoice.
	InvoiceCltv uint32

	// OnChain offers payment on chain. Between payment and opening the gateway
	// holds the client's money.
	OnChain bool
	// ConfirmFor is how long a payment that was seen in time may take to
	// confirm; WatchFor how long an order's address is watched.
	ConfirmFor, WatchFor time.Duration
	// PaymentConfs is how many confirmations a payment needs. Orders of up to
	// ZeroConfSat need none while no more than ZeroConfAllSat is unconfirmed.
	PaymentConfs   uint16
	ZeroConfSat    ln.Sat
	ZeroConfAllSat ln.Sat

	// BatchOrders is how many orders that can wait share a funding transaction at most
	// (below 2: none does), BatchWait how many blocks one waits for others at most. It
	// is opened in time for what it was promised: see batchWait.
	BatchOrders int
	BatchWait   uint32

	// Open lets callers that prove no key order over HTTP.
	Open OpenOrders

	// CloseAtEnd closes channels whose lease is over; WarnBlocks before the end
	// operator and client are told.
	CloseAtEnd bool
	WarnBlocks uint32
	// BaseFeeMsat and FeePPM are the policy of announced channels.
	BaseFeeMsat ln.Msat
	FeePPM      uint64
}

func defaultOrders() OrderConfig {
	return OrderConfig{
		Enabled: true, OnChain: true,
		Options: lsps1.Options{
			MinConfirmWithin: 6, MaxExpiryBlocks: 25_920, MaxClientSat: 10_000_000, MinLspSat: 100_000, MaxLspSat: 16_000_000,
			MinChannelSat: 100_000, MaxChannelSat: 16_000_000,
		},
		Prices:    order.Prices{BaseSat: 2_000, PPM: 5_000, LeasePPM: 1_000},
		PayWithin: time.Hour, WaitFor: time.Hour, InvoiceCltv: 144,
		ConfirmFor: 24 * time.Hour, WatchFor: 90 * 24 * time.Hour, PaymentConfs: 3,
		BatchOrders: 1, BatchWait: 12, WarnBlocks: 1_008, BaseFeeMsat: 1_000, FeePPM: 1, Open: OpenOrders{PerNode: 2, All: 50},
	}
}

// validateOrders refuses settings that contradict each other.
func (c Config) validateOrders() error {
	o := c.Orders
	if !o.Enabled {
		return nil
	}
	if err := o.Options.Validate(); err != nil {
		return fmt.Errorf("lsp configuration: orders: %w", err)
	}
	for _, p := range []struct {
		what string
		ok   bool
	}{
		{"max_channel_balance_sat is above max_channel_sat", o.Options.MaxChannelSat <= c.Capacity.MaxSat},
		{"min_channel_balance_sat is below 20,000 sat, lnd's minimum", o.Options.MinChannelSat >= 20_000},
		{"min_funding_confirms_within_blocks is below fee_target_blocks: no funding transaction aims at that", int64(o.Options.MinConfirmWithin) >= int64(c.Fees.TargetBlocks)},
		{"pay_within is not between 10 minutes and a week", o.PayWithin >= 10*time.Minute && o.PayWithin <= 7*24*time.Hour},
		{"wait_for is less than a minute", o.WaitFor >= time.Minute},
		{"invoice_cltv_blocks leaves no time before the payment must go back (at least hold_expiry_delta, hold_margin_blocks and 20 more, at most 2016)", o.InvoiceCltv >= c.HoldExpiryDelta+c.HoldMarginBlocks+20 && o.InvoiceCltv <= 2016},
		{"payment_confirmations is not between 1 and 6", o.PaymentConfs >= 1 && o.PaymentConfs <= 6},
		{fmt.Sprintf("batch_orders is not between 0 and %d", maxBatch), o.BatchOrders >= 0 && o.BatchOrders <= maxBatch},
		{"batch_wait_blocks is above 1008, a week", o.BatchWait <= 1008},
		{"zero_conf_sat is above zero_conf_all_sat", o.ZeroConfSat <= o.ZeroConfAllSat},
		{"confirm_for is less than an hour", o.ConfirmFor >= time.Hour},
		{"watch_for is less than pay_within and confirm_for", o.WatchFor >= o.PayWithin+o.ConfirmFor},
	} {
		if !p.ok {
			return fmt.Errorf("lsp configuration: orders: %s", p.what)
		}
	}
	if err := o.Open.validate(); err != nil {
		return fmt.Errorf("lsp configuration: orders: %w", err)
	}
	return nil
}

// maxBatch bounds a batch: each of its peers is waited for.
const maxBatch = 25

// batchWait is how many blocks a paid order may wait for others: only where the
// client asked for a confirmed channel, and so long that the funding, opened then,
// has twice the time that its fee rate aims at.
func (c Config) batchWait(w order.Wish) uint32 {
	needs := 2 * uint32(max(c.Fees.TargetBlocks, 1)) //nolint:gosec // a small number of blocks
	if c.Orders.BatchOrders < 2 || w.RequiredConfs == 0 || uint32(w.ConfirmWithin) <= needs {
		return 0
	}
	return min(c.Orders.BatchWait, uint32(w.ConfirmWithin)-needs)
}

// LSPS1 is the engine as bLIP-51 speaks to it, over whatever wire.
type LSPS1 struct{ *Engine }

// errNoOrders answers where orders are turned off.
var errNoOrders = errkind.New(errkind.Unavailable, "this gateway sells no channels by order")

// Options implements lsps1.Service.
func (l LSPS1) Options(context.Context) (lsps1.Options, error) {
	if !l.cfg.Orders.Enabled {
		return lsps1.Options{}, errNoOrders
	}
	return l.cfg.Orders.Options, nil
}

// Get implements lsps1.Service.
func (l LSPS1) Get(ctx context.Context, client ln.PubKey, id string) (lsps1.Order, error) {
	inst, err := l.orders.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && order.Of(inst.State).Client != client {
		return lsps1.Order{}, lsps1.ErrNotFound
	}
	if err != nil {
		return lsps1.Order{}, err
	}
	return lsps1.Show(inst.State), nil
}

// Create implements lsps1.Service. No token means anything yet.
func (l LSPS1) Create(ctx context.Context, client ln.PubKey, r lsps1.CreateOrderRequest) (lsps1.Order, error) {
	return l.create(ctx, client, r, false)
}

func (l LSPS1) create(ctx context.Context, client ln.PubKey, r lsps1.CreateOrderRequest, openly bool) (lsps1.Order, error) {
	e := l.Engine
	options, err := l.Options(ctx)
	if err != nil {
		return lsps1.Order{}, err
	}
	if r.Token != "" {
		return lsps1.Order{}, lsps1.ErrToken
	}
	if err := options.Check(r.Wish); err != nil {
		return lsps1.Order{}, err
	}
	var refundScript []byte
	if r.RefundAddress != "" {
		if refundScript, err = funding.ScriptOf(r.RefundAddress, e.cfg.Network); err != nil || !funding.IsSegWit(refundScript) {
			return lsps1.Order{}, lsps1.Bad("refund_onchain_address", "it is no SegWit address of %s", e.cfg.Network)
		}
	}
	price, err := e.priceOrder(r.Wish)
	if err != nil {
		return lsps1.Order{}, err
	}
	capacity, err := r.CapacitySat()
	if err != nil {
		return lsps1.Order{}, err
	}
	fundable, err := e.fundable(ctx)
	if err != nil {
		return lsps1.Order{}, errkind.Wrap(errkind.Unavailable, err, "the gateway's node does not answer: try again shortly")
	}
	asked := offerRequest{capacity: capacity, fundable: fundable}
	// Whoever is refused shall cost no address and no invoice.
	if err := e.admitsNow(ctx, client, asked); err != nil {
		return lsps1.Order{}, err
	}
	if openly {
		if err := e.mayOrderOpenly(ctx, client); err != nil {
			return lsps1.Order{}, err
		}
	}
	terms, err := e.orderTerms(ctx, client, r, price, refundScript)
	if err != nil {
		return lsps1.Order{}, err
	}
	terms.Openly = openly
	err = e.db.WriteTogether(ctx, func(ctx context.Context, tx *store.Tx) error {
		if openly {
			if err := e.countOpenly(ctx, tx, client); err != nil {
				return err
			}
		}
		isNew, err := e.admitOffer(ctx, tx, machineOrder, terms.ID, client, asked)
		if err != nil {
			return err
		}
		at := terms.CreatedAt.UnixMilli()
		if err := lspdb.New(tx).InsertOrder(ctx, lspdb.InsertOrderParams{
			ID: terms.ID, Client: client[:], State: "created", Newcomer: isNew,
			LspBalanceSat: int64(r.LspBalanceSat), ClientBalanceSat: int64(r.ClientBalanceSat), FeeSat: int64(price.FeeSat), //nolint:gosec // bounded by the options
			Announce: r.Announce, CreatedMs: at, UpdatedMs: at, Openly: openly,
		}); err != nil {
			return fmt.Errorf("index the order: %w", err)
		}
		_, err = e.orders.CreateTx(ctx, tx, terms.ID, order.Created{Order: order.Order{Terms: terms}}, order.Start{Moment: e.moment()})
		return err
	})
	if err != nil {
		return lsps1.Order{}, err
	}
	return e.awaitOrder(ctx, terms.ID)
}

// priceOrder is what an order costs at today's fee rate, or why none is taken.
func (e *Engine) priceOrder(w order.Wish) (order.Price, error) {
	rate := e.fees.current()
	switch {
	case rate.Stale:
		return order.Price{}, errStaleFees
	case rate.High:
		return order.Price{}, errHighFees
	}
	least, err := e.leastOwnBalance(w, rate.Rate)
	if err != nil {
		return order.Price{}, err
	}
	if w.LspBalanceSat < least {
		return order.Price{}, lsps1.TooLittle(least)
	}
	cover, err := e.cfg.Prices.Cover(rate.Rate)
	if err != nil {
		return order.Price{}, errkind.Wrap(errkind.Unavailable, err, errkind.Sentence(errDearMenu))
	}
	fee, err := e.cfg.Orders.Prices.Fee(w, cover)
	if err != nil {
		return order.Price{}, errkind.Wrap(errkind.Invalid, err, "the order is too large to have a price")
	}
	return order.Total(fee, w)
}

// leastOwnBalance is what the opener of the channel must have of it: the reserve,
// the commitment's fee at the stressed rate, and the anchors.
func (e *Engine) leastOwnBalance(w order.Wish, rate ln.FeeRateSatPerKW) (ln.Sat, error) {
	capacity, err := w.CapacitySat()
	if err != nil {
		return 0, err
	}
	policy := e.cfg.Capacity
	policy.CommitFeeRate = min(rate, maxCommitRate)
	return policy.OpenerKeeps(capacity, e.cfg.Type)
}

// orderTerms draws up an order. The refund promise is signed before anybody is
// told the address.
func (e *Engine) orderTerms(ctx context.Context, client ln.PubKey, r lsps1.CreateOrderRequest, price order.Price, refundScript []byte) (order.Terms, error) {
	cfg := e.cfg.Orders
	holdDelta, err := e.holdExpiryDelta(ctx)
	if err != nil {
		return order.Terms{}, errkind.Wrap(errkind.Unavailable, err, "the gateway's node does not answer: try again shortly")
	}
	var drawn [16 + 32]byte
	if _, err := io.ReadFull(e.opt.Random, drawn[:]); err != nil {
		return order.Terms{}, fmt.Errorf("draw an order's id and preimage: %w", err)
	}
	preimage, err := ln.PreimageFromBytes(drawn[16:])
	if err != nil {
		return order.Terms{}, err
	}
	now := e.opt.Now().UTC().Truncate(time.Millisecond)
	expires := now.Add(cfg.PayWithin)
	t := order.Terms{
		ID: uuid4([16]byte(drawn[:16])), Client: client, Wish: r.Wish, CreatedAt: now,
		Lightning: &order.Lightning{Price: price, Hash: preimage.Hash(), Preimage: lsp.NewSecret(preimage), FinalCltv: cfg.InvoiceCltv, ExpiresAt: expires},
		WaitFor:   cfg.WaitFor, HoldMarginBlocks: e.cfg.HoldMarginBlocks, HoldExpiryDelta: holdDelta,
		MaxOpens: e.cfg.MaxOpens, BuriedConfs: e.cfg.BuriedConfs, NullToken: r.NullToken,
		WaitBlocks: e.cfg.batchWait(r.Wish),
	}
	if refundScript == nil || !cfg.OnChain {
		return t, nil
	}
	t.OnChain, err = e.onChainTerms(ctx, t, r.RefundAddress, refundScript)
	return t, err
}

func (e *Engine) onChainTerms(ctx context.Context, t order.Terms, refundAddress string, refundScript []byte) (*order.OnChain, error) {
	cfg, rate := e.cfg.Orders, e.fees.current().Rate
	away := func(err error) error {
		return errkind.Wrap(errkind.Unavailable, err, "the gateway's wallet does not answer: try again shortly, or leave refund_onchain_address out")
	}
	address, err := e.node.Orders.NewAddress(ctx)
	if err != nil {
		return nil, away(err)
	}
	script, err := funding.ScriptOf(address, e.cfg.Network)
	if err != nil {
		return nil, err
	}
	// Spending the payment later costs something that one over Lightning does not.
	spending, err := funding.InputFee(script, rate)
	if err != nil {
		return nil, err
	}
	fee, err := t.Lightning.FeeSat.Add(spending)
	if err != nil {
		return nil, err
	}
	price, err := order.Total(fee, t.Wish)
	if err != nil {
		return nil, err
	}
	c := &order.OnChain{
		Price: price, Address: address, Script: script, SinceHeight: e.world.tip(), ExpiresAt: t.Lightning.ExpiresAt,
		ConfirmBy: t.Lightning.ExpiresAt.Add(cfg.ConfirmFor), WatchUntil: t.CreatedAt.Add(cfg.WatchFor),
		MinConfs: cfg.PaymentConfs, MinFeeFor0Conf: rate, RefundAddress: refundAddress, RefundScript: refundScript,
	}
	if price.TotalSat <= cfg.ZeroConfSat {
		c.MinConfs = 0
	}
	c.Promise = refundPromise(e.cfg.Self, t, c)
	if c.Signature, err = e.node.Orders.SignMessage(ctx, []byte(c.Promise)); err != nil {
		return nil, away(err)
	}
	return c, nil
}

// refundPromise is the text that the gateway signs. Its wording is what clients
// hold the gateway to: it is not changed for orders that exist.
func refundPromise(self ln.PubKey, t order.Terms, c *order.OnChain) string {
	return fmt.Sprintf("Lightning node %s promises Lightning node %s for order %s: what is paid to %s and does not pay for the ordered channel "+
		"is returned to %s, less the fee of the transaction that returns it. The order asks for %d sat and can be paid until %s. Payments are returned that arrive until %s.",
		self, t.Client, t.ID, c.Address, c.RefundAddress, c.TotalSat, lsps0.Datetime(c.ExpiresAt), lsps0.Datetime(c.WatchUntil))
}

// uuid4 writes 16 random bytes as a UUID of version 4.
func uuid4(b [16]byte) string {
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// awaitOrder waits until the order can be paid, or why it never will.
func (e *Engine) awaitOrder(ctx context.Context, id string) (lsps1.Order, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	states, err := e.orders.Watch(ctx, id)
	if err != nil {
		return lsps1.Order{}, err
	}
	for t := range states {
		switch t.To.(type) {
		case order.Created:
			continue
		case order.Failed, order.Unwinding:
			return lsps1.Order{}, errkind.New(errkind.Unavailable, order.ReasonOf(t.To).Text)
		}
		return lsps1.Show(t.To), nil
	}
	return lsps1.Order{}, errkind.New(errkind.Unavailable, "the gateway's node does not answer: try again shortly")
}
