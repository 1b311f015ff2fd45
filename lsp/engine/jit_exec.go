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
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

func (e *Engine) executeJit(ctx context.Context, t fsm.Task[jit.Effect]) ([]jit.Event, error) {
	switch f := t.Effect.(type) {
	case jit.AskWallet:
		if f.Whole && e.world.online(f.Client) {
			away, err := e.payerAway(ctx, t.ID)
			if err != nil {
				return nil, err
			}
			if away {
				return []jit.Event{jit.WalletStatus{Moment: e.moment(), Online: true, Wait: true}}, nil
			}
		}
		status, err := e.askWallet(ctx, t.ID, f.Client, f.AmountMsat, f.FeeMsat, f.Prefer, f.ZeroConf, f.Whole)
		if err != nil {
			return nil, err
		}
		return []jit.Event{jit.WalletStatus{
			Moment: e.moment(), Online: status.online, Wait: status.wait, Room: status.via, Channels: status.channels, Refusal: status.refusal,
		}}, nil
	case jit.WakeWallet:
		e.wake(ctx, waitingJit(f))
		return nil, nil
	case jit.OpenChannel:
		refused, err := e.beginOpening(ctx, machineJit, f.OfferID, f.OpeningID, openingWish{
			client: f.Terms.Client, amountMsat: f.AmountMsat, feeMsat: f.Terms.AgreedFee(), zeroConf: f.Terms.ZeroConf, confs: f.Terms.Confs,
			maxLocalCSV: f.Terms.Params.MaxClientToSelfDelay, openFor: f.Terms.OpenFor, withhold: f.Terms.ClientTrusts,
			minLifetime: f.Terms.Params.MinLifetimeBlocks,
		})
		if err != nil || refused.IsZero() {
			return nil, err
		}
		return []jit.Event{jit.OpeningFailed{Moment: e.moment(), OpeningID: f.OpeningID, Reason: refused, Temporary: refused.Code != lsp.ReasonLimit}}, nil
	case jit.AbandonOpening:
		return nil, e.abandonOpening(ctx, f.OpeningID, f.Reason)
	case jit.ReleaseOpening:
		return nil, e.releaseOpening(ctx, f.OpeningID)
	case jit.MapChannel:
		return e.mapChannel(ctx, f)
	case jit.ResumeParts:
		return e.resumeParts(ctx, f)
	case jit.RefuseParts:
		return nil, e.refuseParts(ctx, f)
	case jit.ReleaseSCID:
		return nil, e.opt.Routes.Release(ctx, []ln.SCID{f.SCID})
	case jit.WatchParts:
		return e.watchParts(ctx, t.ID)
	default:
		return nil, fmt.Errorf("the jit machine asks for %q, which this version does not know", t.Effect.EffectName())
	}
}

// walletStatus is what a payment must know of its wallet.
type walletStatus struct {
	online bool
	room
	refusal lsp.Reason
}

// askWallet looks for a way to a wallet. Of a payment that is not whole only the
// wallet's presence counts.
func (e *Engine) askWallet(ctx context.Context, id string, client ln.PubKey, amount, fee ln.Msat, prefer ln.SCID, zeroConf, whole bool) (walletStatus, error) {
	status := walletStatus{online: e.world.online(client)}
	if !status.online || !whole {
		status.wait = true
		return status, nil
	}
	// Whether a channel may be opened is looked up beside, because most
	// payments that come here need one.
	type answer struct {
		refusal lsp.Reason
		err     error
	}
	refusal := make(chan answer, 1)
	go func() {
		reason, err := e.refusal(ctx, client, amount, fee, zeroConf)
		refusal <- answer{reason, err}
	}()
	var err error
	status.room, err = e.takeRoomOnceUp(ctx, id, client, amount, prefer, zeroConf)
	a := <-refusal
	if err != nil {
		return status, err
	}
	if status.via == 0 && !status.wait && !e.world.online(client) {
		// It went while it was asked about, maybe with the gateway's own lnd. What its
		// channels lack now they may have when it is back, which is told.
		e.leaveRoom(id)
		status.online, status.wait = false, true
		return status, nil
	}
	if status.via == 0 {
		status.refusal, err = a.refusal, a.err
	}
	return status, err
}

// refuseParts refuses every part that has no decision yet. To refuse with
// unknown_next_peer is to resume: a database that is an older copy may not know
// that lnd maps the SCID by now, and then it would forward.
func (e *Engine) refuseParts(ctx context.Context, f jit.RefuseParts) error {
	verdict := VerdictFail
	if f.How == jit.RefuseUnknown && !e.opt.Restored {
		verdict = VerdictRefuseUnknown
	}
	for _, key := range f.Keys {
		err := e.opt.Held.Decide(ctx, []ln.CircuitKey{key}, verdict, f.Reason.String())
		if err != nil && !errors.Is(err, ErrDecided) {
			return err
		}
	}
	return nil
}

// watchParts tells what is known of the resumed parts now; what is not known
// yet comes as events of the interceptor.
func (e *Engine) watchParts(ctx context.Context, id string) ([]jit.Event, error) {
	state, err := e.jitState(ctx, id)
	if err != nil {
		return nil, err
	}
	reports, err := e.opt.Held.Lookup(ctx, jit.OfferOf(state).Hash)
	if err != nil {
		return nil, err
	}
	var out []jit.Event
	for _, r := range reports {
		if ev, ok := e.partFate(id, r); ok {
			out = append(out, ev)
		}
	}
	return out, nil
}

// jitState is an offer as it is now, also one that is over.
func (e *Engine) jitState(ctx context.Context, id string) (jit.State, error) {
	if state, ok := e.jits.Present(id); ok {
		return state, nil
	}
	inst, err := e.jits.Get(ctx, id)
	return inst.State, err
}

// recordsWithin is how soon lnd's records have the end of an HTLC.
const recordsWithin = 30 * time.Second

// partFate is the machine's event for an HTLC that is gone.
func (e *Engine) partFate(id string, r HtlcEvent) (jit.Event, bool) {
	if r.Kind != HtlcGone {
		return nil, false
	}
	switch {
	case r.Known && r.Settled:
		return jit.PartSettled{Moment: e.moment(), Key: r.Htlc.Key}, true
	case r.Known && r.Resumed:
		// lnd tells the gateway that a forward failed, not why: the row's reason
		// is that of its RESUME.
		return jit.PartFailed{Moment: e.moment(), Key: r.Htlc.Key, Text: "it came back after it was forwarded"}, true
	case !r.Resumed && !e.mayHaveSettled(r):
		return e.partLost(id, r), true
	}
	return nil, false
}

// partLost tells of an HTLC that went back, or was taken away, before it was forwarded.
func (e *Engine) partLost(id string, r HtlcEvent) jit.Event {
	if state, ok := e.jits.Present(id); ok && !hasPart(state, r.Htlc.Key) {
		return jit.PartRefused{Moment: e.moment(), Key: r.Htlc.Key, Hash: r.Htlc.Hash, Order: r.Order, Text: r.Reason}
	}
	return jit.PartGone{Moment: e.moment(), Key: r.Htlc.Key, Text: r.Reason}
}

func hasPart(s jit.State, key ln.CircuitKey) bool {
	return slices.ContainsFunc(jit.PartsOf(s), func(p jit.Part) bool { return p.Htlc.Key == key })
}

// mayHaveSettled: an older copy of the database does not know that an HTLC was
// forwarded, and lnd's records of how it ended are still being asked.
func (e *Engine) mayHaveSettled(r HtlcEvent) bool {
	return e.opt.Restored && r.Kind == HtlcGone && !r.Resumed && !r.Known
}

// awaitFate takes an HTLC for failed whose end lnd's records do not tell: they
// have every forward that was settled.
func (e *Engine) awaitFate(id string, r HtlcEvent) {
	select {
	case <-time.After(recordsWithin):
	case <-e.ctx.Done():
		return
	}
	reports, err := e.opt.Held.Lookup(e.ctx, r.Htlc.Hash)
	if err != nil {
		e.log.Warn("how an HTLC ended cannot be looked up", zap.Stringer("htlc", r.Htlc.Key), zap.Error(err))
	}
	for _, now := range reports {
		if now.Htlc.Key == r.Htlc.Key && !e.mayHaveSettled(now) {
			return // its outcome came as an event
		}
	}
	tell(e, e.jits, id, e.partLost(id, r))
}

// onHtlc takes what the interceptor reports of one HTLC.
func (e *Engine) onHtlc(ev HtlcEvent) {
	switch ev.Kind {
	case HtlcOffered:
		if ev.OnChain {
			e.partOnChain(ev)
		} else {
			e.partsOffered([]HtlcEvent{ev})
		}
	case HtlcGone:
		e.partGone(ev)
	case HtlcDecided:
		if ev.Resumed || ev.Settled || e.opt.Restored && !ev.Known {
			return // how it ended is told by itself
		}
		if id, ok, err := e.offerFor(ev.Htlc.OutgoingSCID); err == nil && ok && e.isWaiting(id) {
			tell(e, e.jits, id, e.partLost(id, ev))
		}
	case HtlcSynced:
	}
}

// partOnChain: the incoming channel of a part that is held went on chain. The
// sender gets it back there; the others of its set go back at once.
func (e *Engine) partOnChain(ev HtlcEvent) {
	id, ok, err := e.offerFor(ev.Htlc.OutgoingSCID)
	if err != nil || !ok {
		return
	}
	tell(e, e.jits, id, jit.Event(jit.PartGone{Moment: e.moment(), Key: ev.Htlc.Key, Text: "its incoming channel went on chain"}))
}

// partsOffered gives parts that came over one short channel id to its offer: they
// are stored together.
func (e *Engine) partsOffered(offered []HtlcEvent) {
	id, ok, err := e.offerFor(offered[0].Htlc.OutgoingSCID)
	if err != nil {
		return
	}
	if ok {
		judges := make([]judge[jit.Event], 0, len(offered))
		for i, ev := range offered {
			more := slices.ContainsFunc(offered[i+1:], func(other HtlcEvent) bool { return other.Htlc.Hash == ev.Htlc.Hash })
			judges = append(judges, e.judgePart(id, ev, i, more))
		}
		if tellJudged(e, e.jits, id, judges...) == nil {
			return
		}
	}
	// Nobody waits for them: there never was an agreement, or the database has
	// forgotten it, and then lnd may map the SCID.
	verdict := VerdictRefuseUnknown
	if ok || e.opt.Restored {
		verdict = VerdictFail
	}
	for _, ev := range offered {
		err = e.opt.Held.Decide(e.ctx, []ln.CircuitKey{ev.Htlc.Key}, verdict, "no agreement with a wallet uses this channel id any more")
		if err != nil && !errors.Is(err, ErrDecided) {
			e.log.Warn("an HTLC that nobody waits for could not be refused", zap.Stringer("htlc", ev.Htlc.Key), zap.Error(err))
		}
	}
}

// judgePart holds a part against the limits of what may be held, whichever way
// the payment will go, in the transaction that takes it.
func (e *Engine) judgePart(id string, ev HtlcEvent, before int, more bool) judge[jit.Event] {
	h := ev.Htlc
	return func(ctx context.Context, tx *store.Tx) (jit.Event, func(), error) {
		arrived := jit.PartArrived{Moment: e.moment(), Htlc: h, Order: ev.Order, Before: before, More: more}
		if state, ok := e.jits.Present(id); ok && hasPart(state, h.Key) {
			// Offered again, or the answer to its commit was lost: it counts already.
			return arrived, func() { e.dropShare(holdName(id, h.Key.String())) }, nil
		}
		client, err := e.clientOf(ctx, tx, id)
		if err != nil {
			return nil, nil, err
		}
		var settle func()
		arrived.Refusal, settle, err = e.holdFor(ctx, tx, id, h.Key.String(), client, lsp.Holding{
			HeldMsat: h.IncomingMsat, SatBlocks: lsp.SatBlocks(h.IncomingMsat, arrived.Height, h.AutoFailHeight), Slots: lsp.Slots{{Chan: h.Key.ChanID, Htlcs: 1}},
		})
		return arrived, settle, err
	}
}

// clientOf is whom a payment is for.
func (e *Engine) clientOf(ctx context.Context, tx *store.Tx, id string) (ln.PubKey, error) {
	e.loads.mu.Lock()
	share, ok := e.loads.sum.Get(id)
	e.loads.mu.Unlock()
	if ok {
		return share.Client, nil
	}
	row, err := lspdb.New(tx).GetPayment(ctx, id)
	if err != nil {
		return ln.PubKey{}, err
	}
	client, err := ln.PubKeyFromBytes(row.Client)
	if err != nil {
		return client, fmt.Errorf("payment %s: %w", id, err)
	}
	return client, nil
}

func (e *Engine) partGone(ev HtlcEvent) {
	id, ok, err := e.offerFor(ev.Htlc.OutgoingSCID)
	if err != nil {
		return
	}
	if ok {
		if fate, known := e.partFate(id, ev); known {
			tell(e, e.jits, id, fate)
		} else if e.mayHaveSettled(ev) {
			e.spawn(func() { e.awaitFate(id, ev) })
		}
	}
	if ev.Resumed && !ev.Known || e.mayHaveSettled(ev) {
		return
	}
	// Once the engine stops, an event may be told to nobody; what is acknowledged does
	// not come again.
	if e.ctx.Err() != nil {
		return
	}
	if err := e.opt.Held.Acknowledge(e.ctx, []ln.CircuitKey{ev.Htlc.Key}); err != nil && e.ctx.Err() == nil {
		e.log.Warn("an outcome could not be acknowledged; it will come again", zap.Stringer("htlc", ev.Htlc.Key), zap.Error(err))
	}
}

// offerFor finds the offer that a SCID belongs to. Those that are over are not
// kept in memory; a late part still finds them in the database. It waits for a
// database that does not answer, because an offer that cannot be looked up is
// not one that does not exist: refusing its HTLC as unknown would forward it.
// The error is that the engine stops.
func (e *Engine) offerFor(scid ln.SCID) (id string, ok bool, err error) {
	e.mu.Lock()
	id, ok = e.bySCID[scid]
	e.mu.Unlock()
	if ok {
		return id, true, nil
	}
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := e.db.Read(e.ctx, func(ctx context.Context, tx *store.Tx) error {
			row, err := lspdb.New(tx).GetPaymentByScid(ctx, scid.Bytes())
			id = row.ID
			return err
		})
		switch {
		case err == nil:
			return id, true, nil
		case errors.Is(err, store.ErrNotFound):
			return "", false, nil
		case e.ctx.Err() != nil:
			return "", false, err
		}
		e.log.Warn("the offer of a channel id could not be looked up; trying again", zap.Stringer("scid", scid), zap.Error(err))
		select {
		case <-time.After(wait):
		case <-e.ctx.Done():
		}
	}
}

func (e *Engine) isWaiting(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.waitingJit[id]
	return ok
}
