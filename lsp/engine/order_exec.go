package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/refund"
)

func (e *Engine) executeOrder(ctx context.Context, t fsm.Task[order.Effect]) ([]order.Event, error) {
	switch f := t.Effect.(type) {
	case order.MakeInvoice:
		inv, refused, err := payhash.HoldInvoice(ctx, e.node.Invoices, f.Invoice)
		switch {
		case err != nil:
			return nil, err
		case refused != "":
			return []order.Event{order.InvoiceRefused{Moment: e.moment(), Text: refused}}, nil
		}
		return []order.Event{order.InvoiceAdded{Moment: e.moment(), Bolt11: inv.Bolt11}}, nil
	case order.WatchInvoice:
		e.watchOrderInvoice(f.OrderID, f.Hash)
		return nil, nil
	case order.CheckIncoming:
		safe, text, err := e.incomingSafe(ctx, f.OrderID, f.Htlcs)
		if err != nil {
			return nil, err
		}
		return []order.Event{order.IncomingChecked{Moment: e.moment(), Safe: safe, Text: text}}, nil
	case order.AskPeer:
		online, err := e.world.reachable(ctx, f.Client)
		if err != nil {
			return nil, err
		}
		return []order.Event{order.PeerStatus{Moment: e.moment(), Online: online}}, nil
	case order.OpenChannel:
		return e.openOrdered(ctx, f)
	case order.AbandonOpening:
		if err := e.abandonOpening(ctx, f.OpeningID, f.Reason); err != nil {
			return nil, err
		}
		return e.openingOf(ctx, f.OpeningID)
	case order.SettleInvoice:
		return e.settleOrder(ctx, f)
	case order.CancelInvoice:
		err := e.node.Invoices.CancelInvoice(ctx, f.Hash)
		switch {
		case err == nil, errors.Is(err, ln.ErrNotFound):
			return []order.Event{order.InvoiceCanceled{Moment: e.moment()}}, nil
		case errors.Is(err, ln.ErrInvoiceClosed):
			return []order.Event{order.InvoiceSettled{Moment: e.moment()}}, nil
		}
		return nil, err
	case order.KeepCoins:
		return nil, e.keepCoins(ctx, f.LeaseID, f.Coins, zapcore.InfoLevel)
	case order.FreeCoins:
		return nil, e.freeCoins(ctx, f)
	case order.Refund:
		return e.beginRefund(ctx, f)
	case order.DropRefund:
		e.log.Warn("payments that were to be returned left the chain; the others are returned without them",
			zap.String("order", f.OrderID), zap.String("refund", f.RefundID), zap.Stringers("coins", f.Coins))
		_, err := e.refunds.Send(ctx, f.RefundID, refund.CoinsGone{Moment: e.moment(), Coins: f.Coins})
		return nil, e.passOn(err)
	case order.WarnLease:
		e.warnLease(ctx, f)
		return nil, nil
	case order.CloseChannel:
		return e.closeOrdered(ctx, f)
	case order.Alarm:
		e.log.Error("an order needs a person", zap.String("order", f.OrderID), zap.String("reason", f.Reason.Text))
		return nil, nil
	default:
		return nil, fmt.Errorf("the order machine asks for %q, which this version does not know", t.Effect.EffectName())
	}
}

// warnLease never fails its order: the warning is told again a day later.
func (e *Engine) warnLease(ctx context.Context, f order.WarnLease) {
	log := e.log.With(zap.String("order", f.OrderID), zap.Stringer("client", f.Client),
		zap.Stringer("outpoint", f.Channel.Outpoint), zap.Uint32("end_height", f.Channel.EndHeight))
	switch {
	case !f.Closes:
		log.Warn("the lease of a channel ends; the channel stays")
		return
	case e.opt.Notices == nil:
		log.Warn("the lease of a channel ends, and the channel is closed; clients cannot be told")
		return
	}
	if err := e.opt.Notices.LeaseEnds(ctx, f.Client, f.Channel.ExpiresAt); err != nil {
		log.Warn("the lease of a channel ends, and the channel is closed; its client could not be told", zap.Error(err))
		return
	}
	log.Warn("the lease of a channel ends, and the channel is closed; a client that is away is told")
}

// lndMaxCSV is the longest to_self_delay that a stock lnd asks of its peer.
const lndMaxCSV = 2016

// concurrentOrder names the effects that may wait for a peer.
func concurrentOrder(f order.Effect) bool {
	_, ok := f.(order.CloseChannel)
	return ok
}

func (e *Engine) watchOrderInvoice(id string, hash ln.Hash) {
	e.watchInvoice(id, hash, func(inv ln.Invoice) (over bool) {
		switch inv.State {
		case ln.InvoiceAccepted:
			_ = tellJudged(e, e.orders, id, e.judgeOrderSet(id, inv.HtlcsIn(ln.InvoiceAccepted)))
		case ln.InvoiceSettled:
			tell(e, e.orders, id, order.Event(order.InvoiceSettled{Moment: e.moment()}))
			return true
		case ln.InvoiceCanceled:
			tell(e, e.orders, id, order.Event(order.InvoiceCanceled{Moment: e.moment()}))
			return true
		case ln.InvoiceOpen:
		}
		return false
	})
}

// judgeOrderSet is judgeSet for the set that pays an order.
func (e *Engine) judgeOrderSet(id string, htlcs []ln.InvoiceHtlc) judge[order.Event] {
	return func(ctx context.Context, tx *store.Tx) (order.Event, func(), error) {
		accepted := order.SetAccepted{Moment: e.moment(), Htlcs: htlcs}
		inst, err := e.orders.GetTx(ctx, tx, id)
		if err != nil {
			return nil, nil, err
		}
		o := order.Of(inst.State)
		held, err := order.HoldCost(o, htlcs, accepted.Height)
		if err != nil {
			return nil, nil, err
		}
		var settle func()
		accepted.Refusal, settle, err = e.holdFor(ctx, tx, id, "set", o.Client, held)
		if err != nil || !accepted.Refusal.IsZero() {
			return accepted, settle, err
		}
		accepted.Refusal, err = order.Claimable(htlcs, e.fees.current().Rate)
		return accepted, settle, err
	}
}

// openOrdered begins the open, or finds how far it has come.
func (e *Engine) openOrdered(ctx context.Context, f order.OpenChannel) ([]order.Event, error) {
	capacity, err := f.Wish.CapacitySat()
	if err != nil {
		return nil, err
	}
	fee, err := f.FeeSat.Msat()
	if err != nil {
		return nil, err
	}
	until := time.Time{}
	switch _, err := e.openings.Get(ctx, f.OpeningID); {
	case errors.Is(err, store.ErrNotFound):
		var waits bool
		if until, waits, err = e.batchWaits(ctx, f.Batch, f.OpeningID); err != nil {
			return nil, err
		}
		if !waits {
			return []order.Event{order.OpeningFailed{Moment: e.moment(), OpeningID: f.OpeningID, Reason: opening.SharedReason(), Temporary: true, Spared: true}}, nil
		}
		why, err := e.unpaid(ctx, f.OrderID)
		if err != nil {
			return nil, err
		}
		if !why.IsZero() {
			return []order.Event{order.OpeningFailed{Moment: e.moment(), OpeningID: f.OpeningID, Reason: why}}, e.leaveBatch(ctx, f, why)
		}
	case err != nil:
		return nil, err
	}
	bump := e.cfg.BumpAfterBlocks
	if bump > 0 {
		// In time for the confirmation that was ordered.
		bump = min(bump, max(1, uint32(f.Wish.ConfirmWithin)/2))
		if e.cfg.batchWait(f.Wish) > 0 {
			// It may have waited, and has twice this time left.
			bump = min(bump, uint32(max(e.cfg.Fees.TargetBlocks, 1))) //nolint:gosec // a small number of blocks
		}
	}
	refused, err := e.beginOpening(ctx, machineOrder, f.OrderID, f.OpeningID, openingWish{
		client: f.Client, feeMsat: fee, zeroConf: f.Wish.RequiredConfs == 0, confs: max(uint32(f.Wish.RequiredConfs), 1),
		maxLocalCSV: lndMaxCSV, openFor: e.cfg.OpenFor, openBy: until,
		ordered: &orderedChannel{capacity: capacity, push: f.Wish.ClientBalanceSat, announce: f.Wish.Announce, bumpAfter: bump, batch: f.Batch},
	})
	if err != nil {
		return nil, err
	}
	if !refused.IsZero() {
		// What is refused now (fees, a limit per hour) a later block may allow.
		return []order.Event{order.OpeningFailed{Moment: e.moment(), OpeningID: f.OpeningID, Reason: refused, Temporary: true}}, e.leaveBatch(ctx, f, refused)
	}
	inst, err := e.openings.Get(ctx, f.OpeningID)
	if errors.Is(err, store.ErrNotFound) {
		// A channel that the database had forgotten has reported by itself.
		return nil, e.leaveBatch(ctx, f, lsp.Because(lsp.ReasonNone, "it has its channel already"))
	}
	if err != nil {
		return nil, err
	}
	return e.openingEvents(f.OpeningID, inst.State), nil
}

// openingOf is how an open that was to be given up stands.
func (e *Engine) openingOf(ctx context.Context, id string) ([]order.Event, error) {
	inst, err := e.openings.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return []order.Event{order.OpeningFailed{
			Moment: e.moment(), OpeningID: id, Temporary: true, Reason: lsp.Because(lsp.ReasonOpenFailed, "the channel was never begun"),
		}}, nil
	}
	if err != nil {
		return nil, err
	}
	return e.openingEvents(id, inst.State), nil
}

// openingEvents are what an order must know of its open in this state.
func (e *Engine) openingEvents(id string, s opening.State) []order.Event {
	m, op := e.moment(), opening.OutpointOf(s)
	switch s := s.(type) {
	case opening.Failed:
		return []order.Event{order.OpeningFailed{Moment: m, OpeningID: id, Reason: s.Reason, Temporary: s.Temporary, Spared: s.Spared}}
	case opening.Rejected:
		return []order.Event{order.OpeningFailed{Moment: m, OpeningID: id, Reason: s.Reason, Temporary: s.NotNow}}
	case opening.Conflicted:
		return []order.Event{order.OpeningFailed{Moment: m, OpeningID: id, Reason: s.Reason}}
	case opening.Signed:
		return []order.Event{order.OpeningSigned{Moment: m, OpeningID: id, Outpoint: op}}
	}
	tx, signed := opening.TxOf(s)
	if !signed {
		return nil
	}
	events := []order.Event{order.OpeningPublished{Moment: m, OpeningID: id, Outpoint: op}}
	if tx.ConfirmedHeight > 0 {
		events = append(events, order.OpeningConfirmed{Moment: m, OpeningID: id})
	}
	return events
}

// notifyOrderOf tells an order what its open tells.
func (e *Engine) notifyOrderOf(ctx context.Context, id string, f opening.NotifyOwner) error {
	m := e.moment()
	var ev order.Event
	switch f.Notice {
	case opening.NoticeSigned:
		ev = order.OpeningSigned{Moment: m, OpeningID: f.OpeningID, Outpoint: f.Outpoint}
	case opening.NoticePublished, opening.NoticeUsable:
		ev = order.OpeningPublished{Moment: m, OpeningID: f.OpeningID, Outpoint: f.Outpoint}
	case opening.NoticeConfirmed:
		ev = order.OpeningConfirmed{Moment: m, OpeningID: f.OpeningID}
	case opening.NoticeReorged:
		ev = order.OpeningReorged{Moment: m, OpeningID: f.OpeningID}
	case opening.NoticeFailed, opening.NoticeRejected, opening.NoticeConflicted:
		ev = order.OpeningFailed{Moment: m, OpeningID: f.OpeningID, Reason: f.Reason, Temporary: f.Temporary, Spared: f.Spared}
	default:
		return fmt.Errorf("opening %s tells %q, which this version does not know", f.OpeningID, f.Notice)
	}
	_, err := e.orders.Send(ctx, id, ev)
	return e.passOn(err)
}

func (e *Engine) settleOrder(ctx context.Context, f order.SettleInvoice) ([]order.Event, error) {
	cancelled, err := e.settleHold(ctx, f.Hash, f.Preimage)
	switch {
	case err != nil:
		return nil, err
	case cancelled:
		return []order.Event{order.InvoiceCanceled{Moment: e.moment()}}, nil
	}
	return []order.Event{order.InvoiceSettled{Moment: e.moment()}}, nil
}

// closeOrdered closes a channel whose lease is over, if its client's node is
// there. One that is away, or whose channel carries HTLCs, is asked again with the
// next block. What is asked for is not closed yet: only lnd's list says so.
func (e *Engine) closeOrdered(ctx context.Context, f order.CloseChannel) ([]order.Event, error) {
	listed, err := e.listsChannel(ctx, f.Outpoint)
	if err != nil {
		return nil, err
	}
	if !listed {
		return []order.Event{order.ChannelClosed{Moment: e.moment()}}, nil
	}
	rate := e.fees.target()
	if rate == 0 {
		rate = e.cfg.Fees.Floor
	}
	if err := e.node.Orders.Close(ctx, f.Outpoint, rate); err != nil {
		e.log.Warn("a channel whose lease is over could not be closed; the next block tries again",
			zap.String("order", f.OrderID), zap.Stringer("outpoint", f.Outpoint), zap.Error(err))
		return nil, nil
	}
	if listed, err = e.listsChannel(ctx, f.Outpoint); err != nil || listed {
		return nil, err
	}
	e.log.Info("a channel is closed because its lease is over", zap.String("order", f.OrderID), zap.Stringer("outpoint", f.Outpoint))
	return []order.Event{order.ChannelClosed{Moment: e.moment()}}, nil
}

// listsChannel says that lnd lists the channel as open or opening.
func (e *Engine) listsChannel(ctx context.Context, op ln.Outpoint) (bool, error) {
	answer, err := e.presence(ctx, op)
	return answer.Presence != opening.PresenceAbsent, err
}

// reconcileOrder takes up an order that an earlier process left.
func (e *Engine) reconcileOrder(ctx context.Context, id string, s order.State) ([]order.Event, error) {
	o := order.Of(s)
	if _, fresh := s.(order.Created); !fresh && o.Lightning != nil && !o.Settled && !o.InvoiceGone {
		e.watchOrderInvoice(id, o.Lightning.Hash)
	}
	switch s.(type) {
	case order.Opening, order.Funding, order.Settling, order.Active:
		// An open that this database does not know yet is begun by its effect.
		inst, err := e.openings.Get(ctx, order.OpeningID(id, o.Opens))
		if errors.Is(err, store.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return e.changing(s, e.openingEvents(order.OpeningID(id, o.Opens), inst.State)), nil
	}
	return nil, nil
}
