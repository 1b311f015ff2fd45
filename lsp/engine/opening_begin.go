package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// openingWish is what a payment wants of a channel.
type openingWish struct {
	client      ln.PubKey
	amountMsat  ln.Msat
	feeMsat     ln.Msat
	zeroConf    bool
	confs       uint32
	maxLocalCSV uint32
	openFor     time.Duration
	// openBy is when the open must be signed, where that is later than openFor says.
	openBy      time.Time
	minLifetime uint32
	// withhold keeps the funding back until the payment is claimed.
	withhold bool
	// ordered is set for a channel that was bought outright.
	ordered *orderedChannel
}

// orderedChannel is what an order says of its channel.
type orderedChannel struct {
	capacity, push ln.Sat
	announce       bool
	bumpAfter      uint32
	batch          string
}

// beginOpening creates the open unless it exists; one that exists reports
// again what it last told. The reason is why none was begun: fees are unknown
// or have risen since the wallet was asked, or others have used up a limit
// meanwhile. Trying again instead would keep the payer's money: the refusal of
// its parts waits in line behind this effect.
func (e *Engine) beginOpening(ctx context.Context, machine, paymentID, openingID string, w openingWish) (lsp.Reason, error) {
	if e.opt.Restored {
		notice, forgotten, err := e.forgottenChannel(ctx, machine, paymentID, openingID)
		if err != nil {
			return lsp.Reason{}, err
		}
		if forgotten {
			return lsp.Reason{}, e.notifyOwner(ctx, notice)
		}
	}
	plan, planErr := e.planOpening(machine, paymentID, openingID, w)
	var refused lsp.Reason
	err := e.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		refused = lsp.Reason{}
		_, err := e.openings.GetTx(ctx, tx, openingID)
		switch {
		case err == nil:
			return store.ErrUnique
		case !errors.Is(err, store.ErrNotFound):
			return err
		case planErr != nil:
			refused = lsp.Because(lsp.ReasonOpenFailed, "the channel could not be opened (%s): the payment went back; try again later", planErr)
			if because, ok := errors.AsType[refusedError](planErr); ok {
				refused = because.Reason
			}
			return nil
		}
		usage, err := e.openUsage(ctx, tx, w.client)
		if err != nil {
			return err
		}
		unpaid := plan.CapacitySat
		if w.ordered != nil {
			unpaid = 0 // the payment is there
		}
		if refused = overLimit(lsp.Admit(lsp.Request{NewOpen: true, CapacitySat: unpaid, UnconfirmedSat: unpaid}, usage, e.limits().caps)); !refused.IsZero() {
			return nil
		}
		_, err = e.openings.CreateTx(ctx, tx, openingID, opening.Planned{Plan: plan}, opening.Start{Moment: e.moment()})
		return err
	})
	if errors.Is(err, store.ErrUnique) {
		return lsp.Reason{}, e.repeatNotice(ctx, openingID)
	}
	if err == nil && !refused.IsZero() {
		e.log.Warn("no channel is opened", zap.String("opening", openingID), zap.String("reason", refused.Text))
	}
	return refused, err
}

// forgottenChannel looks for a channel that was opened for this payment before
// the database was replaced by an older copy, by the memo that every open
// leaves in lnd. The payment goes on over that one.
func (e *Engine) forgottenChannel(ctx context.Context, machine, paymentID, openingID string) (found opening.NotifyOwner, ok bool, err error) {
	if _, err := e.openings.Get(ctx, openingID); !errors.Is(err, store.ErrNotFound) {
		return found, false, err
	}
	channels, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return found, false, err
	}
	for _, c := range channels {
		if c.Memo != openMemo(paymentID) {
			continue
		}
		if !c.Active {
			return found, false, fmt.Errorf("channel %s of payment %s, which the database forgot, is not active: %w", c.Outpoint, paymentID, ln.ErrUnavailable)
		}
		if c.ZeroConf && c.ConfirmedSCID == 0 {
			// lnd lists such a channel before anybody has signed its funding.
			if public, err := e.isPublic(ctx, c.Outpoint.TxID); err != nil || !public {
				return found, false, errors.Join(fmt.Errorf("nothing funds channel %s of payment %s, which the database forgot: abandon it in lnd if it stays so: %w", c.Outpoint, paymentID, ln.ErrUnavailable), err)
			}
		}
		e.log.Error("a channel was opened for this payment before the database was restored: it is used",
			zap.String("payment", paymentID), zap.Stringer("outpoint", c.Outpoint))
		return opening.NotifyOwner{
			OpeningID: openingID, Owner: owner(machine, paymentID), Notice: opening.NoticeUsable, Outpoint: c.Outpoint, ChanID: c.ChanID,
		}, true, nil
	}
	pending, err := e.node.Channels.PendingChannels(ctx)
	if err != nil {
		return found, false, err
	}
	for _, p := range pending {
		if p.Memo == openMemo(paymentID) && p.Kind == ln.PendingOpen {
			// Who bought the channel outright has it once its funding is public.
			if public, err := e.isPublic(ctx, p.Outpoint.TxID); err == nil && public && machine == machineOrder {
				return opening.NotifyOwner{
					OpeningID: openingID, Owner: owner(machine, paymentID), Notice: opening.NoticePublished, Outpoint: p.Outpoint,
				}, true, nil
			}
			return found, false, fmt.Errorf("channel %s of payment %s, which the database forgot, is not open yet: %w", p.Outpoint, paymentID, ln.ErrUnavailable)
		}
	}
	return found, false, nil
}

// isPublic says that lnd's wallet lists a transaction: then it was published, and is
// sent again by lnd itself.
func (e *Engine) isPublic(ctx context.Context, id ln.TxID) (bool, error) {
	tip := e.world.tip()
	txs, err := e.node.Chain.Transactions(ctx, int32(tip-min(tip, recentBlocks))) //nolint:gosec // heights stay below 2^31
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(txs, func(t ln.WalletTx) bool { return t.TxID == id }), nil
}

// openMemo is what lnd keeps with a channel that was opened for a payment.
func openMemo(paymentID string) string { return "sluice " + paymentID }

// repeatNotice tells an owner again how its open ended or that it is usable,
// for an owner that asked again after a crash.
func (e *Engine) repeatNotice(ctx context.Context, openingID string) error {
	inst, err := e.openings.Get(ctx, openingID)
	if err != nil {
		return err
	}
	notice, ok := opening.NoticeFor(inst.State)
	if !ok {
		return nil
	}
	return e.notifyOwner(ctx, notice)
}

func (e *Engine) abandonOpening(ctx context.Context, openingID string, reason lsp.Reason) error {
	_, err := e.openings.Send(ctx, openingID, opening.Abandon{Moment: e.moment(), Reason: reason})
	if errors.Is(err, opening.ErrTooLate) {
		inst, err := e.openings.Get(ctx, openingID)
		if err != nil || !opening.PlanOf(inst.State).Withhold {
			return err
		}
		// An owner that gave up a channel while its funding was withheld takes its
		// fate for unknown; if it was published in the meantime it has been told
		// already.
		return e.repeatNotice(ctx, openingID)
	}
	return e.passOn(err)
}
