package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// concurrentWrap names the effects that wait for as long as a wallet holds a
// payment: thousands of them must not use up the workers.
func concurrentWrap(f wrap.Effect) bool {
	switch f.(type) {
	case wrap.Pay, wrap.TrackPayment:
		return true
	}
	return false
}

func (e *Engine) executeWrap(ctx context.Context, t fsm.Task[wrap.Effect]) ([]wrap.Event, error) {
	switch f := t.Effect.(type) {
	case wrap.MakeInvoice:
		return e.makeInvoice(ctx, f)
	case wrap.WatchInvoice:
		e.watchWrapInvoice(f.OfferID, f.Hash)
		return nil, nil
	case wrap.CheckIncoming:
		return e.checkIncoming(ctx, f)
	case wrap.AskWallet:
		status, err := e.askWallet(ctx, t.ID, f.Client, f.AmountMsat, f.FeeMsat, f.Prefer, f.ZeroConf, true)
		if err != nil {
			return nil, err
		}
		return []wrap.Event{wrap.WalletStatus{
			Moment: e.moment(), Online: status.online, Wait: status.wait, Room: status.via, Channels: status.channels, Refusal: status.refusal,
		}}, nil
	case wrap.WakeWallet:
		e.wake(ctx, waitingWrap(f))
		return nil, nil
	case wrap.OpenChannel:
		refused, err := e.beginOpening(ctx, machineWrap, f.OfferID, f.OpeningID, openingWish{
			client: f.Terms.Client, amountMsat: f.AmountMsat, feeMsat: f.Terms.FeeMsat, zeroConf: f.Terms.ZeroConf, confs: f.Terms.Confs,
			maxLocalCSV: f.Terms.Params.MaxClientToSelfDelay, openFor: f.Terms.OpenFor, withhold: f.Terms.ClientTrusts,
			minLifetime: f.Terms.Params.MinLifetimeBlocks,
		})
		if err != nil || refused.IsZero() {
			return nil, err
		}
		// What a limit refuses is not tried again at once.
		return []wrap.Event{wrap.OpeningFailed{Moment: e.moment(), OpeningID: f.OpeningID, Reason: refused, Temporary: refused.Code != lsp.ReasonLimit}}, nil
	case wrap.ReleaseOpening:
		return nil, e.releaseOpening(ctx, f.OpeningID)
	case wrap.AbandonOpening:
		return nil, e.abandonOpening(ctx, f.OpeningID, f.Reason)
	case wrap.Pay:
		return e.pay(ctx, f)
	case wrap.TrackPayment:
		return e.trackPayment(ctx, t.ID, f.Hash)
	case wrap.LookForPayment:
		missing, err := e.isMissing(ctx, f.Hash, f.Missing)
		if err != nil || !missing {
			return nil, err
		}
		return []wrap.Event{wrap.PaymentMissing{Moment: e.moment()}}, nil
	case wrap.SettleInvoice:
		return e.settleInvoice(ctx, f)
	case wrap.CancelInvoice:
		return e.cancelInvoice(ctx, f)
	case wrap.Alarm:
		e.log.Error("a payment needs a person", zap.String("payment", f.OfferID), zap.String("reason", f.Reason.Text))
		return nil, nil
	default:
		return nil, fmt.Errorf("the wrap machine asks for %q, which this version does not know", t.Effect.EffectName())
	}
}

func (e *Engine) makeInvoice(ctx context.Context, f wrap.MakeInvoice) ([]wrap.Event, error) {
	inv, refused, err := payhash.HoldInvoice(ctx, e.node.Invoices, f.Invoice)
	switch {
	case err != nil:
		return nil, err
	case refused != "":
		return []wrap.Event{wrap.InvoiceRefused{Moment: e.moment(), Text: refused}}, nil
	}
	return []wrap.Event{wrap.InvoiceAdded{Moment: e.moment(), Bolt11: inv.Bolt11}}, nil
}

func (e *Engine) watchWrapInvoice(id string, hash ln.Hash) {
	e.watchInvoice(id, hash, func(inv ln.Invoice) (over bool) {
		switch inv.State {
		case ln.InvoiceAccepted:
			_ = tellJudged(e, e.wraps, id, e.judgeSet(id, inv.HtlcsIn(ln.InvoiceAccepted)))
		case ln.InvoiceSettled:
			tell(e, e.wraps, id, wrap.Event(wrap.InvoiceSettled{Moment: e.moment()}))
			return true
		case ln.InvoiceCanceled:
			tell(e, e.wraps, id, wrap.Event(wrap.InvoiceCanceled{Moment: e.moment()}))
			return true
		case ln.InvoiceOpen:
		}
		return false
	})
}

// watchInvoice follows a hold invoice until handle says that it is over.
func (e *Engine) watchInvoice(id string, hash ln.Hash, handle func(ln.Invoice) (over bool)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.invoices[hash] != nil || e.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(e.ctx)
	e.invoices[hash] = cancel
	e.spawn(func() {
		defer func() {
			cancel()
			e.mu.Lock()
			delete(e.invoices, hash)
			e.mu.Unlock()
		}()
		for ctx.Err() == nil {
			err := e.node.Invoices.SubscribeInvoice(ctx, hash, func(inv ln.Invoice) {
				if handle(inv) {
					cancel()
				}
			})
			if ctx.Err() != nil {
				return
			}
			e.log.Warn("lnd ended an invoice subscription; subscribing again", zap.String("payment", id), zap.Error(err))
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
}

// judgeSet is judgePart for the set that a hold invoice accepted. lnd holds it
// already, and has only one answer to it: cancelling the invoice.
func (e *Engine) judgeSet(id string, htlcs []ln.InvoiceHtlc) judge[wrap.Event] {
	return func(ctx context.Context, tx *store.Tx) (wrap.Event, func(), error) {
		accepted := wrap.SetAccepted{Moment: e.moment(), Htlcs: htlcs}
		inst, err := e.wraps.GetTx(ctx, tx, id)
		if err != nil {
			return nil, nil, err
		}
		offer := wrap.OfferOf(inst.State)
		held, err := wrap.HoldCost(offer, htlcs, accepted.Height)
		if err != nil {
			return nil, nil, err
		}
		var settle func()
		accepted.Refusal, settle, err = e.holdFor(ctx, tx, id, "set", offer.Client, held)
		return accepted, settle, err
	}
}

func (e *Engine) checkIncoming(ctx context.Context, f wrap.CheckIncoming) ([]wrap.Event, error) {
	safe, text, err := e.incomingSafe(ctx, f.OfferID, f.Htlcs)
	if err != nil {
		return nil, err
	}
	return []wrap.Event{wrap.IncomingChecked{Moment: e.moment(), Safe: safe, Text: text}}, nil
}

// incomingSafe is law 12 (ln.DoubtOf); a doubt that passes is an error: it is asked again.
// The channel is named in the log only: which one the payer has with the gateway is not
// the business of whoever reads the text.
func (e *Engine) incomingSafe(ctx context.Context, id string, htlcs []ln.InvoiceHtlc) (safe bool, text string, err error) {
	channels, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return false, "", err
	}
	why, over := ln.DoubtOf(htlcs, channels, e.world.tip())
	if err := why.TooEarly(); err != nil {
		return false, "", err
	}
	if why != "" {
		e.log.Warn("a payment came in over a channel that is not safe", zap.String("payment", id),
			zap.Stringer("channel", over), zap.String("because", string(why)))
	}
	return why == "", string(why), nil
}

// pay sends the payment if lnd knows of none and the margin still holds. What
// it cannot be sure of, it reports as cut off.
func (e *Engine) pay(ctx context.Context, f wrap.Pay) ([]wrap.Event, error) {
	known, err := e.node.Payments.TrackPayment(ctx, f.Payment.Hash)
	if err != nil {
		return nil, err
	}
	switch {
	case known.State == ln.PaymentSucceeded:
		return []wrap.Event{wrap.PaymentSucceeded{Moment: e.moment(), Preimage: lsp.NewSecret(known.Preimage)}}, nil
	case known.State == ln.PaymentInFlight:
		return []wrap.Event{wrap.PaymentCutOff{Moment: e.moment(), Text: "the payment is in flight already"}}, nil
	case known.State == ln.PaymentFailed && f.Attempt <= 1:
		return []wrap.Event{wrap.PaymentFailed{Moment: e.moment(), Text: known.Failure, Retry: true}}, nil
	}
	// What is being handed on to the wallet right now may be put into the channel
	// that was chosen for this one; whoever comes later sees this one's spot. Blocks may
	// come while it waits: what must be true when it is sent is looked at afterwards.
	leave, err := e.gates.enter(ctx, f.Payment.Peer)
	if err != nil {
		return nil, err
	}
	unfit, err := e.unfitToPay(ctx, f)
	leave()
	if err != nil {
		return nil, err
	}
	if unfit != "" {
		return []wrap.Event{wrap.PaymentNotSent{Moment: e.moment(), Text: unfit}}, nil
	}
	// The HTLC outlives this process: only lnd can say how it ends, so the
	// call's own context must not make it look ended.
	result, err := e.node.Payments.PayDirect(ctx, f.Payment)
	if err != nil {
		e.log.Warn("the outcome of a payment to a wallet is not known yet", zap.String("payment", f.OfferID), zap.Error(err))
		return []wrap.Event{wrap.PaymentCutOff{Moment: e.moment(), Text: err.Error()}}, nil
	}
	switch result.State {
	case ln.PaymentSucceeded:
		return []wrap.Event{wrap.PaymentSucceeded{Moment: e.moment(), Preimage: lsp.NewSecret(result.Preimage)}}, nil
	case ln.PaymentFailed:
		return []wrap.Event{wrap.PaymentFailed{Moment: e.moment(), Text: result.Failure, Retry: retryable(result.Failure)}}, nil
	case ln.PaymentInFlight, ln.PaymentUnknown:
	}
	return []wrap.Event{wrap.PaymentCutOff{Moment: e.moment(), Text: "lnd has not resolved the payment"}}, nil
}

// unfitToPay says why a payment must not be sent now, or "". The height comes last.
func (e *Engine) unfitToPay(ctx context.Context, f wrap.Pay) (string, error) {
	inv, err := e.node.Invoices.LookupInvoice(ctx, f.Payment.Hash)
	if err != nil {
		return "", err
	}
	if inv.State != ln.InvoiceAccepted {
		return "the payer's money is no longer held", nil
	}
	// Over a long wait its channel may have gone on chain: there a claim costs a
	// transaction of ours, and too little has no output at all.
	open, gone, err := e.incomingSafe(ctx, f.OfferID, inv.HtlcsIn(ln.InvoiceAccepted))
	if err != nil {
		if late, unknown := e.tooLateToPay(ctx, f); unknown == nil && late != "" {
			return late, nil
		}
		return "", err
	}
	if !open {
		return gone, nil
	}
	if op, _, found := e.world.byChanID(f.Payment.ChanID); found {
		ok, err := e.carries(ctx, op, f.Withheld)
		if err != nil {
			return "", err
		}
		if !ok {
			return "the channel's funding transaction is in doubt", nil
		}
	}
	short, err := e.marginShort(ctx, f, inv)
	if err != nil || short != "" {
		return short, err
	}
	return e.tooLateToPay(ctx, f)
}

func (e *Engine) tooLateToPay(ctx context.Context, f wrap.Pay) (string, error) {
	info, err := e.node.Events.Info(ctx)
	if err != nil {
		return "", err
	}
	if info.BlockHeight > f.SendUntilHeight {
		return fmt.Sprintf("the chain is at height %d, past %d: paying now could outlive the held payment", info.BlockHeight, f.SendUntilHeight), nil
	}
	return "", nil
}

// marginShort is law 4 at the moment of sending: by the parts that lnd holds now
// and by how early it cancels them as it runs now, says what is missing, or "".
func (e *Engine) marginShort(ctx context.Context, f wrap.Pay, inv ln.Invoice) (string, error) {
	delta, err := e.holdExpiryDelta(ctx)
	if err != nil {
		return "", err
	}
	resolved := uint64(f.Payment.ExpiryHeight) + uint64(f.MarginBlocks)
	for _, h := range inv.HtlcsIn(ln.InvoiceAccepted) {
		if resolved+uint64(delta) > uint64(h.Expiry) {
			return fmt.Sprintf("a held part expires at height %d and the node gives it back %d blocks earlier, which is before %d, where the payment to the wallet is resolved at the latest",
				h.Expiry, delta, resolved), nil
		}
	}
	return "", nil
}

// holdExpiryDelta is what lnd says, and no less than what is configured, which
// stands alone where the macaroon may not ask.
func (e *Engine) holdExpiryDelta(ctx context.Context) (uint32, error) {
	delta, err := e.node.Settings.HoldExpiryDelta(ctx)
	if err != nil && !errors.Is(err, ln.ErrPermission) {
		return 0, err
	}
	return max(delta, e.cfg.HoldExpiryDelta), nil
}

// retryable tells failures of our own link from refusals of the wallet.
func retryable(failure string) bool {
	switch failure {
	case "TEMPORARY_CHANNEL_FAILURE", "UNKNOWN_NEXT_PEER", "TEMPORARY_NODE_FAILURE", "CHANNEL_DISABLED", "EXPIRY_TOO_SOON":
		return true
	}
	return false
}

// trackPayment waits for lnd's word, or until the machine needs none: lnd may
// never give one (wrap.Missing).
func (e *Engine) trackPayment(ctx context.Context, id string, hash ln.Hash) ([]wrap.Event, error) {
	ctx, done := context.WithCancel(ctx)
	defer done()
	e.mu.Lock()
	e.tracked[id] = done
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.tracked, id)
		e.mu.Unlock()
	}()
	needed := func() bool {
		inst, err := e.wraps.Get(e.ctx, id)
		return err != nil || wrap.InFlight(inst.State)
	}
	if !needed() {
		return nil, nil
	}
	p, err := e.node.Payments.WaitPayment(ctx, hash)
	if err != nil {
		if e.ctx.Err() == nil && !needed() {
			return nil, nil
		}
		return nil, err
	}
	switch p.State {
	case ln.PaymentSucceeded:
		return []wrap.Event{wrap.PaymentSucceeded{Moment: e.moment(), Preimage: lsp.NewSecret(p.Preimage)}}, nil
	case ln.PaymentFailed:
		return []wrap.Event{wrap.PaymentFailed{Moment: e.moment(), Text: p.Failure, Retry: true}}, nil
	case ln.PaymentUnknown:
		return []wrap.Event{wrap.PaymentNotSent{Moment: e.moment(), Text: "lnd never recorded the payment"}}, nil
	case ln.PaymentInFlight:
	}
	return nil, fmt.Errorf("payment %s is still in flight", hash.Short())
}

// isMissing looks for the proof that wrap.Missing describes. It asks lnd for the
// tip first: what is listed then is no older.
func (e *Engine) isMissing(ctx context.Context, hash ln.Hash, m wrap.Missing) (bool, error) {
	info, err := e.node.Events.Info(ctx)
	if err != nil {
		return false, err
	}
	if !info.SyncedToChain || info.BlockHeight < m.ExpiryHeight+wrap.MissingAfterBlocks {
		return false, nil
	}
	channels, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return false, err
	}
	settled := false
	is := func(aliases []ln.SCID, ids ...ln.SCID) bool {
		return slices.Contains(append(ids, aliases...), m.ChanID)
	}
	for _, c := range channels {
		settled = settled || is(c.Aliases, c.ChanID, c.ConfirmedSCID)
		for _, h := range c.Htlcs {
			if !h.Incoming && h.Hash == hash {
				return false, nil
			}
		}
	}
	if !settled {
		closed, err := e.opt.Closes.ClosedChannels(ctx)
		if err != nil {
			return false, err
		}
		settled = slices.ContainsFunc(closed, func(c ln.ClosedChannel) bool { return is(c.Aliases, c.ChanID, c.ConfirmedSCID) })
	}
	p, err := e.node.Payments.TrackPayment(ctx, hash)
	if err != nil {
		return false, err
	}
	missing := settled && p.State == ln.PaymentInFlight
	if missing {
		e.log.Warn("lnd lost a payment in a restart: its HTLC has expired and is in no channel; lnd will call it in flight for ever",
			zap.Stringer("hash", hash), zap.Stringer("channel", m.ChanID), zap.Uint32("expiry_height", m.ExpiryHeight))
	}
	return missing, nil
}

func (e *Engine) settleInvoice(ctx context.Context, f wrap.SettleInvoice) ([]wrap.Event, error) {
	cancelled, err := e.settleHold(ctx, f.Hash, f.Preimage)
	switch {
	case err != nil:
		return nil, err
	case cancelled:
		return []wrap.Event{wrap.InvoiceCanceled{Moment: e.moment()}}, nil
	}
	return []wrap.Event{wrap.InvoiceSettled{Moment: e.moment()}}, nil
}

// settleHold settles a hold invoice, or finds that it is cancelled.
func (e *Engine) settleHold(ctx context.Context, hash ln.Hash, preimage lsp.Secret) (cancelled bool, err error) {
	err = e.node.Invoices.SettleInvoice(ctx, preimage.Preimage())
	if errors.Is(err, ln.ErrInvoiceClosed) {
		inv, lookErr := e.node.Invoices.LookupInvoice(ctx, hash)
		if lookErr == nil && inv.State == ln.InvoiceCanceled {
			return true, nil
		}
	}
	return false, err
}

// cancelInvoice gives the payer's money back. lnd is asked first, whatever the
// database (an older copy, say) believes: while a payment of ours for the hash
// may succeed nothing is cancelled (law 4), and one that has is settled for.
func (e *Engine) cancelInvoice(ctx context.Context, f wrap.CancelInvoice) ([]wrap.Event, error) {
	p, err := e.lastWord(ctx, f.OfferID, f.Hash)
	switch {
	case err != nil:
		return nil, err
	case p.State == ln.PaymentSucceeded:
		inv, err := e.node.Invoices.LookupInvoice(ctx, f.Hash)
		if err != nil && !errors.Is(err, ln.ErrNotFound) {
			return nil, err
		}
		// An invoice that nobody has paid holds nothing to settle with the
		// preimage: then the payment is another one of the same hash.
		if err == nil && (inv.State == ln.InvoiceAccepted || inv.State == ln.InvoiceSettled) {
			e.log.Error("the wallet of a payment that was to be given back has been paid: it is settled instead", zap.String("payment", f.OfferID))
			return []wrap.Event{wrap.PaidAfterAll{Moment: e.moment(), Preimage: lsp.NewSecret(p.Preimage), Htlcs: inv.HtlcsIn(inv.State)}}, nil
		}
	case p.State == ln.PaymentInFlight, p.InFlight > 0:
		missing := false
		if f.Missing != nil {
			if missing, err = e.isMissing(ctx, f.Hash, *f.Missing); err != nil {
				return nil, err
			}
		}
		if !missing {
			return nil, fmt.Errorf("lnd is paying %s: the payer's money is not given back before that has ended", f.Hash.Short())
		}
	}
	err = e.node.Invoices.CancelInvoice(ctx, f.Hash)
	switch {
	case err == nil, errors.Is(err, ln.ErrNotFound):
		return []wrap.Event{wrap.InvoiceCanceled{Moment: e.moment()}}, nil
	case errors.Is(err, ln.ErrInvoiceClosed):
		return []wrap.Event{wrap.InvoiceSettled{Moment: e.moment()}}, nil
	}
	return nil, err
}

// lastWord is what lnd knows of a payment's send to the wallet. One that was tried and
// that lnd does not know must stay unknown for absentFor: the call that was cut off may
// wait for lnd's database still, and is carried out when it gets to it.
func (e *Engine) lastWord(ctx context.Context, id string, hash ln.Hash) (p ln.Payment, err error) {
	err = briefly(ctx, absentFor, func() (unknown bool, err error) {
		if p, err = e.node.Payments.TrackPayment(ctx, hash); err != nil || p.State != ln.PaymentUnknown {
			return false, err
		}
		inst, err := e.wraps.Get(ctx, id)
		return err == nil && wrap.OfferOf(inst.State).Payments > 0, err
	})
	return p, err
}

// reconcileWrap takes up a payment that an earlier process left: its hold
// invoice is followed again, and one that may have been paid is asked about.
func (e *Engine) reconcileWrap(ctx context.Context, id string, s wrap.State) ([]wrap.Event, error) {
	// One whose invoice is being made has that effect run again by itself.
	if _, fresh := s.(wrap.Offered); !fresh {
		e.watchWrapInvoice(id, wrap.OfferOf(s).Hash)
	}
	return nil, nil
}
