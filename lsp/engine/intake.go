package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// Wish is what a wallet wants of a channel that is opened for it.
type Wish struct {
	ZeroConf     bool
	Confs        uint32
	AllowAnother bool
	// TrustMsat is the largest payment for which the wallet trusts the gateway to
	// fund the channel once it has claimed.
	TrustMsat ln.Msat
	// HoldFor is how long the complete payment shall wait for a wallet that is offline;
	// 0 is the usual time.
	HoldFor time.Duration
}

// NegotiateRequest asks for a route hint for one payment.
type NegotiateRequest struct {
	Client     ln.PubKey
	Hash       ln.Hash
	AmountMsat ln.Msat
	// Params is an item of the menu; nil will do where present channels have
	// room, since then nothing is charged.
	Params         *lsp.OpeningFeeParams
	Wish           Wish
	FinalCltvDelta uint32
	InvoiceExpires time.Time
}

// Agreement is what was agreed for one payment.
type Agreement struct {
	PaymentID    string
	SCID         ln.SCID
	Quote        lsp.Quote
	CltvDelta    uint32
	ExpiresAt    time.Time
	OpensChannel bool
	CapacitySat  ln.Sat
	Bolt11       string
	// ClientTrusts: the channel is funded once the payment is claimed.
	ClientTrusts bool
	// MaxWaitBlocks bounds how long the payment waits for confirmations.
	MaxWaitBlocks uint32
}

// errBadExpiry answers invoices that would outlive the offer.
var errBadExpiry = errkind.New(errkind.Invalid, "the invoice expires in the past or too far ahead: choose an expiry before the offer's valid_until")

// Negotiate agrees on a payment whose payer pays the fee. When the agreement
// is returned, HTLCs over its SCID are held from then on, whatever crashes.
func (e *Engine) Negotiate(ctx context.Context, r NegotiateRequest) (Agreement, error) {
	now := e.opt.Now()
	// What no item of the menu bounds lasts as long as one would.
	params := lsp.OpeningFeeParams{ValidUntil: now.Add(e.cfg.OfferFor).UTC().Truncate(time.Second)}
	if r.Params != nil {
		params = *r.Params
		if err := e.checkParams(ctx, r.Client, params, now); err != nil {
			return Agreement{}, err
		}
	}
	if !r.Wish.ZeroConf {
		// The payer's onion leaves the wallet only its final delta and three
		// blocks: it cannot be held for confirmations.
		return Agreement{}, errkind.New(errkind.Invalid, "a payment whose payer pays the fee cannot wait for confirmations: accept zero-conf, or choose that the receiver pays")
	}
	if err := e.checkWish(r.Wish); err != nil {
		return Agreement{}, err
	}
	if r.FinalCltvDelta < 18 || r.FinalCltvDelta > 2016 {
		return Agreement{}, errkind.Newf(errkind.Invalid, "a final CLTV delta of %d blocks cannot be: choose 18 to 2016 (80 is usual)", r.FinalCltvDelta)
	}
	if r.AmountMsat == 0 {
		return Agreement{}, lsp.ErrNoAmount
	}
	expires := earliest(r.InvoiceExpires, params.ValidUntil)
	if !expires.After(now) {
		return Agreement{}, errBadExpiry
	}
	id, err := e.newID()
	if err != nil {
		return Agreement{}, err
	}
	kept := false
	room, channels, err := e.promiseRoom(ctx, id, r.Client, r.Hash, r.AmountMsat, r.Wish.ZeroConf)
	if err != nil {
		return Agreement{}, err
	}
	defer func() {
		if !kept {
			e.breakPromise(id)
		}
	}()
	quote := lsp.Quote{PayerMsat: r.AmountMsat, WalletMsat: r.AmountMsat}
	var asked offerRequest
	trusts := false
	if room == 0 {
		if r.Params == nil {
			return Agreement{}, errkind.New(errkind.Conflict, "your channels cannot receive this payment: ask for the menu and choose an item, or receive less")
		}
		if quote, err = params.QuotePayerPays(r.AmountMsat); err != nil {
			return Agreement{}, err
		}
		if asked, err = e.sizeOffer(ctx, r.AmountMsat, quote.FeeMsat, r.Wish, channels); err != nil {
			return Agreement{}, err
		}
		if trusts, err = e.agreeOnTrust(ctx, r.Client, r.AmountMsat, r.Wish); err != nil {
			return Agreement{}, err
		}
	}
	// Whoever is refused shall cost no claim.
	if err := e.admitsNow(ctx, r.Client, asked); err != nil {
		return Agreement{}, err
	}
	scid, err := e.newSCID()
	if err != nil {
		return Agreement{}, err
	}
	terms := jit.Terms{
		ID: id, Client: r.Client, SCID: scid, Hash: r.Hash,
		Part: lsp.PartTerms{
			AmountMsat: r.AmountMsat, FeeMsat: quote.FeeMsat, CltvDelta: e.cfg.CltvDelta, FinalCltvDelta: r.FinalCltvDelta,
			MarginBlocks: 0, HtlcMinimumMsat: 1_000, MaxParts: e.cfg.MaxParts,
		},
		Params: params, ZeroConf: r.Wish.ZeroConf, Confs: r.Wish.Confs, ClientTrusts: trusts,
		MayOpenMore: r.Wish.AllowAnother && e.mayOpen(room), Room: room,
		ExpiresAt: expires, CollectFor: e.cfg.CollectFor, OpenFor: e.cfg.OpenFor, MapFor: e.cfg.MapFor, HoldFor: r.Wish.HoldFor,
		HoldMarginBlocks: e.cfg.HoldMarginBlocks, MaxOpens: e.maxOpens(room),
	}
	// The claim outlives the offer a little, so that a part that comes at the
	// last moment is answered by the offer, not forwarded into nowhere.
	if err := e.claim(ctx, scid, expires.Add(time.Hour)); err != nil {
		return Agreement{}, errkind.Wrap(errkind.Unavailable, err, "the gateway cannot hold payments at the moment: try again shortly")
	}
	err = e.db.WriteTogether(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := e.indexAgreement(ctx, tx, r.Client, asked, lspdb.InsertPaymentParams{
			ID: id, Machine: machineJit, PaymentHash: r.Hash[:], JitScid: scid.Bytes(),
			AmountMsat: int64(r.AmountMsat), FeeMsat: int64(quote.FeeMsat), //nolint:gosec // bounded by MaxMsat
			ExpiresMs: expires.UnixMilli(),
		}); err != nil {
			return err
		}
		_, err := e.jits.CreateTx(ctx, tx, id, jit.Offered{Offer: jit.Offer{Terms: terms}}, jit.Start{Moment: e.moment()})
		return err
	})
	if err != nil {
		// After a commit whose outcome is unknown it may exist all the same.
		_, lookErr := e.jits.Get(e.ctx, id)
		if kept = !errors.Is(lookErr, store.ErrNotFound); !kept {
			e.releaseClaim(scid)
		}
		return Agreement{}, err
	}
	kept = true
	return Agreement{
		PaymentID: id, SCID: scid, Quote: quote, CltvDelta: e.cfg.CltvDelta, ExpiresAt: expires,
		OpensChannel: room == 0, CapacitySat: asked.capacity, ClientTrusts: trusts,
	}, nil
}

// WrapRequest asks for an invoice of ours with the wallet's hash.
type WrapRequest struct {
	Client     ln.PubKey
	Bolt11     string
	AmountMsat ln.Msat
	Params     lsp.OpeningFeeParams
	Wish       Wish
}

// Wrap agrees on a payment whose receiver pays the fee.
func (e *Engine) Wrap(ctx context.Context, r WrapRequest) (Agreement, error) {
	now := e.opt.Now()
	if err := e.checkParams(ctx, r.Client, r.Params, now); err != nil {
		return Agreement{}, err
	}
	if err := e.checkWish(r.Wish); err != nil {
		return Agreement{}, err
	}
	own, err := e.opt.DecodeBolt11(r.Bolt11)
	if err != nil {
		return Agreement{}, errkind.Wrap(errkind.Invalid, err, "the invoice cannot be read: send the wallet's own BOLT 11 invoice of this network")
	}
	if own.Payee != r.Client {
		return Agreement{}, errkind.New(errkind.Invalid, "the invoice is not signed by the node key you logged in with: send an invoice of your own node")
	}
	holdDelta, err := e.holdExpiryDelta(ctx)
	if err != nil {
		return Agreement{}, errkind.Wrap(errkind.Unavailable, err, "the gateway's node does not answer: try again shortly")
	}
	// Payers' nodes lock money for 2016 blocks at most (lnd's max-cltv-expiry),
	// and what the wallet asks for is how long it can keep ours and theirs.
	if own.FinalCltvDelta > 2016 ||
		wrap.HoldCltvFor(own.FinalCltvDelta, e.cfg.PadBlocks, e.cfg.PayMarginBlocks, holdDelta, e.cfg.waitBlocks(r.Wish)) > 2016 {
		return Agreement{}, errkind.Newf(errkind.Invalid, "with a final CLTV delta of %d blocks and what it shall wait, the invoice would lock the payer's money for more than 2016 blocks: choose 80 (lnd's default), or a shorter wait", own.FinalCltvDelta)
	}
	if !own.HasPaymentAddr {
		return Agreement{}, errkind.New(errkind.Invalid, "the invoice has no payment secret: make it with a current wallet")
	}
	late := e.cfg.claimFor(r.Wish)
	expires := earliest(own.ExpiresAt().Add(-late), r.Params.ValidUntil)
	if !expires.After(now) {
		return Agreement{}, errkind.Newf(errkind.Invalid, "the invoice expires too soon: after the payer has paid, up to %s may pass until your node is paid, so make it good for longer than that", late)
	}
	if err := payhash.Unknown(ctx, e.node.Invoices, e.node.Payments, own.Hash); err != nil {
		return Agreement{}, err
	}
	id, err := e.newID()
	if err != nil {
		return Agreement{}, err
	}
	kept := false
	room, channels, err := e.promiseRoom(ctx, id, r.Client, own.Hash, r.AmountMsat, r.Wish.ZeroConf)
	if err != nil {
		return Agreement{}, err
	}
	defer func() {
		if !kept {
			e.breakPromise(id)
		}
	}()
	quote := lsp.Quote{PayerMsat: r.AmountMsat, WalletMsat: r.AmountMsat}
	var asked offerRequest
	trusts := false
	if room != 0 {
		if own.AmountMsat != r.AmountMsat {
			return Agreement{}, errkind.Newf(errkind.Conflict, "your present channels can receive this payment without an opening fee: send an invoice over the full %s", r.AmountMsat)
		}
	} else {
		if quote, err = r.Params.QuoteReceiverPays(r.AmountMsat); err != nil {
			return Agreement{}, err
		}
		if own.AmountMsat != quote.WalletMsat {
			return Agreement{}, errkind.Newf(errkind.Invalid, "the invoice is over %s; for a payment of %s with a fee of %s it must be over %s",
				own.AmountMsat, r.AmountMsat, quote.FeeMsat, quote.WalletMsat)
		}
		if asked, err = e.sizeOffer(ctx, own.AmountMsat, quote.FeeMsat, r.Wish, channels); err != nil {
			return Agreement{}, err
		}
		if trusts, err = e.agreeOnTrust(ctx, r.Client, own.AmountMsat, r.Wish); err != nil {
			return Agreement{}, err
		}
	}
	terms := wrap.Terms{
		ID: id, Client: r.Client, Hash: own.Hash,
		PayerMsat: quote.PayerMsat, WalletMsat: quote.WalletMsat, FeeMsat: quote.FeeMsat,
		WalletPaymentAddr: own.PaymentAddr, WalletFinalCltv: own.FinalCltvDelta, Params: r.Params,
		Description: own.Description, DescriptionHash: own.DescriptionHash,
		PadBlocks: e.cfg.PadBlocks, MarginBlocks: e.cfg.PayMarginBlocks, HoldExpiryDelta: holdDelta,
		ZeroConf: r.Wish.ZeroConf, Confs: r.Wish.Confs, ClientTrusts: trusts, MayOpenMore: r.Wish.AllowAnother && e.mayOpen(room), Room: room,
		ExpiresAt: expires, WaitFor: e.cfg.CollectFor, OpenFor: e.cfg.OpenFor, HoldFor: r.Wish.HoldFor,
		MaxOpens: e.maxOpens(room), MaxPayments: e.cfg.MaxPayments,
	}
	terms.HoldFinalCltv = wrap.HoldCltvFor(own.FinalCltvDelta, e.cfg.PadBlocks, e.cfg.PayMarginBlocks, holdDelta, e.cfg.waitBlocks(r.Wish))
	err = e.db.WriteTogether(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := e.indexAgreement(ctx, tx, r.Client, asked, lspdb.InsertPaymentParams{
			ID: id, Machine: machineWrap, PaymentHash: own.Hash[:],
			AmountMsat: int64(quote.WalletMsat), FeeMsat: int64(quote.FeeMsat), //nolint:gosec // bounded by MaxMsat
			ExpiresMs: expires.UnixMilli(),
		}); err != nil {
			return err
		}
		if err := payhash.Claim(ctx, tx, own.Hash, owner(machineWrap, id)); err != nil {
			return err
		}
		_, err := e.wraps.CreateTx(ctx, tx, id, wrap.Offered{Offer: wrap.Offer{Terms: terms}}, wrap.Start{Moment: e.moment()})
		return err
	})
	if err != nil {
		_, lookErr := e.wraps.Get(e.ctx, id)
		kept = !errors.Is(lookErr, store.ErrNotFound)
		return Agreement{}, err
	}
	kept = true
	bolt11, err := e.awaitInvoice(ctx, id)
	if err != nil {
		return Agreement{}, err
	}
	a := Agreement{
		PaymentID: id, Quote: quote, ExpiresAt: expires, OpensChannel: room == 0, CapacitySat: asked.capacity, Bolt11: bolt11, ClientTrusts: trusts,
	}
	if (a.OpensChannel && !r.Wish.ZeroConf) || r.Wish.HoldFor > 0 {
		a.MaxWaitBlocks = e.cfg.waitBlocks(r.Wish)
	}
	return a, nil
}

// mayOpen says whether a channel may be opened for a payment. One that was
// promised room pays no fee and gets none, unless the operator allows it: its
// wallet could close the channel that had room, and be opened another for
// nothing.
func (e *Engine) mayOpen(room ln.SCID) bool { return room == 0 || e.cfg.OpenForLostRoom }

func (e *Engine) maxOpens(room ln.SCID) uint32 {
	if !e.mayOpen(room) {
		return 0
	}
	return e.cfg.MaxOpens
}

// releaseClaim gives back the SCID of an agreement that was not made. It is a
// courtesy: a claim lapses by itself.
func (e *Engine) releaseClaim(scid ln.SCID) {
	if err := e.opt.Routes.Release(e.ctx, []ln.SCID{scid}); err != nil && e.ctx.Err() == nil {
		e.log.Info("a claim could not be released; it lapses by itself", zap.Stringer("scid", scid), zap.Error(err))
	}
}

// awaitInvoice waits until the hold invoice exists, or why it never will.
func (e *Engine) awaitInvoice(ctx context.Context, id string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	states, err := e.wraps.Watch(ctx, id)
	if err != nil {
		return "", err
	}
	for t := range states {
		offer := wrap.OfferOf(t.To)
		if offer.Bolt11 != "" {
			return offer.Bolt11, nil
		}
		if wrap.Final(t.To) {
			return "", errkind.New(errkind.Conflict, wrap.ReasonOf(t.To).Text)
		}
	}
	return "", errkind.New(errkind.Unavailable, "the gateway's node does not answer: try again shortly")
}

func (e *Engine) checkParams(ctx context.Context, client ln.PubKey, p lsp.OpeningFeeParams, now time.Time) error {
	if err := e.keys.verify(ctx, client, p); err != nil {
		return err
	}
	return p.Valid(now)
}

func (e *Engine) checkWish(w Wish) error {
	if !w.ZeroConf && (w.Confs == 0 || w.Confs > e.cfg.MaxConfs) {
		return errkind.Newf(errkind.Invalid, "without zero-conf name 1 to %d confirmations to wait for", e.cfg.MaxConfs)
	}
	if w.HoldFor < 0 || w.HoldFor > e.cfg.HoldFor {
		return errkind.Newf(errkind.Invalid, "a payment waits for at most %s for its wallet: ask for that, or for less", e.cfg.HoldFor)
	}
	return nil
}

// waitBlocks is how many blocks a payment may be held for the wallet to come, and for
// the confirmations that it wants.
func (c Config) waitBlocks(w Wish) uint32 {
	// Even an open that takes a second may see blocks arrive, and a payer's
	// height may be behind ours.
	const slack, blockTime = 6, 10 * time.Minute
	wait := slack + uint32((w.HoldFor+blockTime-1)/blockTime) //nolint:gosec // HoldFor is bounded
	if w.ZeroConf {
		return wait
	}
	return wait + w.Confs*c.BlocksPerConf
}

// claimFor is how long after the payer's last moment the wallet's own invoice
// must still be good: for a wallet that comes online late, the open, and the
// confirmations that it wants. Otherwise a channel would be opened for a
// payment that the wallet's node refuses.
func (c Config) claimFor(w Wish) time.Duration {
	wait := max(c.CollectFor, w.HoldFor) + c.OpenFor
	if !w.ZeroConf {
		wait += time.Duration(w.Confs) * time.Duration(c.BlocksPerConf) * 10 * time.Minute
	}
	return wait
}

// offerRequest is what an offer counts for. The zero value is one that needs no
// channel: it counts as a request all the same.
type offerRequest struct {
	capacity ln.Sat
	// fundable is what the wallet could fund when it was asked.
	fundable lsp.Fundable
}

// sizeOffer sizes the channel of a new offer, and looks what can be funded.
func (e *Engine) sizeOffer(ctx context.Context, amount, fee ln.Msat, w Wish, channels int) (offerRequest, error) {
	if channels > 0 && !w.AllowAnother {
		return offerRequest{}, errkind.New(errkind.Conflict, "your channels cannot receive this payment: agree to another channel, or receive less")
	}
	if err := e.newAgreement(fee, w.ZeroConf); err != nil {
		return offerRequest{}, err
	}
	capacity, err := e.capacityFor(amount)
	if err != nil {
		return offerRequest{}, err
	}
	fundable, err := e.fundable(ctx)
	if err != nil {
		return offerRequest{}, errkind.Wrap(errkind.Unavailable, err, "the gateway's node does not answer: try again shortly")
	}
	return offerRequest{capacity: capacity, fundable: fundable}, nil
}

// admitsNow looks at the limits without making the request count.
func (e *Engine) admitsNow(ctx context.Context, client ln.PubKey, asked offerRequest) error {
	isNew, err := e.knownNewcomer(ctx, client)
	if err != nil {
		return err
	}
	share := lsp.Share{Client: client, Newcomer: isNew}
	if err := e.mayAdmit("", &share, lsp.Request{NewOffer: true, QuoteSat: asked.capacity}, asked.fundable); err != nil || asked.capacity == 0 {
		return err
	}
	// What binds is asked again in the transaction that begins the open: this spares
	// the payer an attempt.
	u := lsp.Usage{Newcomer: share.Newcomer}
	if err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error { return e.unconfirmed(ctx, tx, client, &u) }); err != nil {
		return err
	}
	return lsp.Admit(lsp.Request{UnconfirmedSat: asked.capacity}, u, e.limits().caps)
}

// admitOffer counts a new offer if the limits admit it, in the transaction that
// stores it.
func (e *Engine) admitOffer(ctx context.Context, tx *store.Tx, machine, id string, client ln.PubKey, asked offerRequest) (isNew bool, err error) {
	e.loads.mu.Lock()
	_, ok := e.loads.sum.Newcomer(client)
	e.loads.mu.Unlock()
	if !ok {
		if isNew, err = newcomer(ctx, tx, client); err != nil {
			return isNew, err
		}
	}
	share := lsp.Share{Client: client, Newcomer: isNew, QuotedSat: asked.capacity}
	if isNew, err = e.admit(tx, id, share, lsp.Request{NewOffer: true, QuoteSat: asked.capacity}, asked.fundable); err != nil {
		return isNew, err
	}
	tx.OnUnknown(func() { e.doubtShare(machine, id) })
	return isNew, nil
}

// indexAgreement indexes a new agreement if the limits admit it.
func (e *Engine) indexAgreement(ctx context.Context, tx *store.Tx, client ln.PubKey, asked offerRequest, p lspdb.InsertPaymentParams) error {
	isNew, err := e.admitOffer(ctx, tx, p.Machine, p.ID, client, asked)
	if err != nil {
		return err
	}
	p.Client, p.Newcomer, p.CapacitySat = client[:], isNew, int64(asked.capacity) //nolint:gosec // bounded by the capacity limits
	return e.insertPayment(ctx, tx, p)
}

func (e *Engine) insertPayment(ctx context.Context, tx *store.Tx, p lspdb.InsertPaymentParams) error {
	now := e.opt.Now().UnixMilli()
	p.State, p.CreatedMs, p.UpdatedMs = "offered", now, now
	return lspdb.New(tx.Later(func(_ int64, err error) error {
		if errors.Is(store.MapError(err), store.ErrUnique) {
			return errkind.Wrap(errkind.Conflict, err, "a payment with this payment hash is open already: make a new invoice")
		}
		return err
	})).InsertPayment(ctx, p)
}

// planOpening draws up one channel open.
func (e *Engine) planOpening(machine, paymentID, openingID string, w openingWish) (opening.Plan, error) {
	rate, reason := e.openingRate(w.feeMsat, w.zeroConf)
	if !reason.IsZero() {
		return opening.Plan{}, refusedError{reason}
	}
	capacity, err := w.capacity(e, rate)
	if err != nil {
		return opening.Plan{}, err
	}
	plan := opening.Plan{
		ID: openingID, Owner: owner(machine, paymentID), Client: w.client, CapacitySat: capacity, Type: e.cfg.Type,
		FeeRate: rate, ZeroConf: w.zeroConf, Confs: w.confs, BuriedConfs: e.cfg.BuriedConfs,
		Withhold: w.withhold && w.zeroConf, WithholdMarginBlocks: e.cfg.HoldMarginBlocks,
		MinLifetimeBlocks: w.minLifetime,
		MaxLocalCSV:       uint16(min(w.maxLocalCSV, 1<<16-1)), //nolint:gosec // bounded just here
		Deadline:          e.opt.Now().UTC().Add(w.openFor), Memo: openMemo(paymentID),
		BumpAfterBlocks: e.cfg.BumpAfterBlocks, MaxNegotiations: e.cfg.MaxOpens,
	}
	if w.openBy.After(plan.Deadline) {
		plan.Deadline = w.openBy
	}
	plan.MaxFeeSat, _ = e.cfg.Prices.MaxOpeningFee(w.feeMsat)
	if o := w.ordered; o != nil {
		plan.PushSat, plan.Announce, plan.TellPublished, plan.BumpAfterBlocks = o.push, o.announce, true, o.bumpAfter
		plan.Batch = o.batch
		if o.announce {
			plan.BaseFeeMsat, plan.FeePPM = e.cfg.Orders.BaseFeeMsat, e.cfg.Orders.FeePPM
		}
	}
	if _, err := io.ReadFull(e.opt.Random, plan.Seed[:]); err != nil {
		return opening.Plan{}, fmt.Errorf("draw a seed: %w", err)
	}
	return plan, nil
}

// capacity is what was ordered, or what the payment needs.
func (w openingWish) capacity(e *Engine, rate ln.FeeRateSatPerKW) (ln.Sat, error) {
	if w.ordered != nil {
		return w.ordered.capacity, nil
	}
	return e.capacityAt(w.amountMsat, rate)
}

// newSCID draws a random alias above the range that lnd allocates from.
func (e *Engine) newSCID() (ln.SCID, error) {
	var b [8]byte
	if _, err := io.ReadFull(e.opt.Random, b[:]); err != nil {
		return 0, fmt.Errorf("draw a channel id: %w", err)
	}
	n := binary.BigEndian.Uint64(b[:])
	const from = ln.AliasBlockStart + 100_000
	block := from + uint32(n%(ln.AliasBlockEnd-from))
	return ln.NewSCID(block, uint32(n>>20)&0xffffff, uint16(n>>48)), nil //nolint:gosec // the parts are masked
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
