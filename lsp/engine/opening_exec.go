package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/cpfp"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// leaseFor is how long a coin stays ours without being renewed. Leases are
// renewed with every block and at every start until the transaction is public;
// the rest is for a gateway that was down.
const leaseFor = 24 * time.Hour

// minChangeSat is what a change output must be worth to lift a lagging funding
// transaction.
const minChangeSat = 5_000

// negotiation is a channel negotiation that this process holds.
type negotiation struct {
	stream Negotiation
	cancel context.CancelFunc
}

// concurrentOpening names the effects that may wait for a peer: giving an open
// up must not queue behind them.
func concurrentOpening(f opening.Effect) bool {
	switch f.(type) {
	case opening.Negotiate, opening.Verify, opening.AskNode, opening.WatchChain, opening.AskUse, opening.Forget, opening.NotifyOwner:
		return true
	}
	return false
}

func (e *Engine) executeOpening(ctx context.Context, t fsm.Task[opening.Effect]) ([]opening.Event, error) {
	switch f := t.Effect.(type) {
	case opening.LeaseCoins:
		return e.leaseCoins(ctx, f)
	case opening.Negotiate:
		return e.negotiate(ctx, f)
	case opening.Verify:
		return e.verify(ctx, f)
	case opening.AskNode:
		return e.askNode(ctx, f)
	case opening.Sign:
		return e.sign(ctx, f)
	case opening.Publish:
		return e.publish(ctx, f)
	case opening.WatchChain:
		return nil, e.watchChain(ctx, f)
	case opening.AskUse:
		return e.askUse(ctx, f)
	case opening.Forget:
		return e.forget(ctx, f)
	case opening.AbandonChannel:
		return nil, e.abandonChannel(ctx, f)
	case opening.ReleaseCoins:
		return nil, e.releaseCoins(ctx, f)
	case opening.BumpFee:
		return nil, e.bumpFee(ctx, f)
	case opening.TellBatch:
		return nil, e.tellBatch(ctx, f)
	case opening.NotifyOwner:
		return nil, e.notifyOwner(ctx, f)
	default:
		return nil, fmt.Errorf("the opening machine asks for %q, which this version does not know", t.Effect.EffectName())
	}
}

// negotiate asks the peer for the channel and builds the funding transaction
// on lnd's output. Nothing is verified: lnd may still be told to forget it.
func (e *Engine) negotiate(ctx context.Context, f opening.Negotiate) ([]opening.Event, error) {
	if e.hasNegotiation(f.PendingID) {
		return []opening.Event{opening.NegotiationLost{Moment: e.moment(), Text: "the negotiation was begun twice"}}, nil
	}
	for _, id := range f.CancelShims {
		if err := e.node.Opener.CancelShim(ctx, id); err != nil && errors.Is(err, ln.ErrUnavailable) {
			return nil, err
		}
	}
	// One that a restart left behind, with a newer one begun or the open given
	// up since, would only use up the peer's allowance of pending channels.
	wanted, err := e.wantsNegotiation(ctx, f)
	if err != nil || !wanted {
		return nil, err
	}
	// Its channel's becoming active must not be missed.
	if err := e.world.current(ctx); err != nil {
		return nil, err
	}
	// The stream outlives this call: Verify goes on with it.
	streamCtx, cancel := context.WithCancel(e.ctx)
	stream, err := e.node.Opener.OpenChannel(streamCtx, ln.OpenRequest{
		PendingID: f.PendingID, Peer: f.Plan.Client, CapacitySat: f.Plan.CapacitySat,
		// lnd has no alias type for channels that are announced.
		Private: !f.Plan.Announce, ScidAlias: !f.Plan.Announce, ZeroConf: f.Plan.ZeroConf, Type: f.Plan.Type, PushSat: f.Plan.PushSat,
		BaseFeeMsat: f.Plan.BaseFeeMsat, FeePPM: f.Plan.FeePPM, MaxLocalCSV: f.Plan.MaxLocalCSV, Memo: f.Plan.Memo,
	})
	var update ln.OpenUpdate
	if err == nil {
		update, err = stream.Next()
	}
	if err == nil && update.Fund == nil {
		err = errors.New("lnd did not ask for the funding transaction")
	}
	if err != nil {
		cancel()
		return e.negotiationEnded(f.PendingID, err), nil
	}
	script, err := funding.ScriptOf(update.Fund.Address, e.cfg.Network)
	if err == nil && update.Fund.AmountSat != f.Plan.CapacitySat {
		err = fmt.Errorf("lnd asks for %s where %s were agreed", update.Fund.AmountSat, f.Plan.CapacitySat)
	}
	var built funding.Unsigned
	if err == nil && f.Plan.Batch == "" {
		built, err = funding.Build(f.Selection, script, f.ChangeScript)
	}
	if err != nil {
		cancel()
		if cancelErr := e.node.Opener.CancelShim(ctx, f.PendingID); cancelErr != nil {
			e.log.Warn("a negotiation could not be cancelled", zap.Error(cancelErr))
		}
		return []opening.Event{opening.NegotiationFailed{Moment: e.moment(), PendingID: f.PendingID, Text: err.Error()}}, nil
	}
	e.mu.Lock()
	e.negotiations[f.PendingID] = &negotiation{stream: stream, cancel: cancel}
	e.mu.Unlock()
	if wanted, err = e.wantsNegotiation(ctx, f); err == nil && !wanted {
		// Given up while the peer was asked, perhaps before lnd had a shim that
		// could be cancelled.
		if n := e.takeNegotiation(f.PendingID); n != nil {
			n.cancel()
		}
		if err := e.node.Opener.CancelShim(ctx, f.PendingID); err != nil {
			e.log.Warn("a negotiation could not be cancelled", zap.Error(err))
		}
		return nil, nil
	}
	if f.Plan.Batch != "" {
		return []opening.Event{opening.OutputNamed{Moment: e.moment(), PendingID: f.PendingID, Script: script}}, nil
	}
	return []opening.Event{opening.FundingBuilt{Moment: e.moment(), PendingID: f.PendingID, Unsigned: opening.Unsigned{
		Psbt: built.Psbt, Outpoint: built.FundingOutpoint(), ChangeOutpoint: built.ChangeOutpoint(),
	}}}, nil
}

// wantsNegotiation says that the open still waits for exactly this negotiation.
func (e *Engine) wantsNegotiation(ctx context.Context, f opening.Negotiate) (bool, error) {
	inst, err := e.openings.Get(ctx, f.Plan.ID)
	if err != nil {
		return false, err
	}
	switch s := inst.State.(type) {
	case opening.Leased:
		return s.PendingID(s.Negotiation) == f.PendingID, nil
	case opening.Joined:
		return len(s.Script) == 0 && s.PendingID(0) == f.PendingID, nil
	}
	return false, nil
}

// negotiationEnded says what an error before psbt_verify means: lnd holds no
// channel yet, so only a lost connection to lnd leaves anything unknown.
func (e *Engine) negotiationEnded(id ln.PendingChanID, err error) []opening.Event {
	m := e.moment()
	switch {
	case errors.Is(err, ln.ErrPeerOffline):
		return []opening.Event{opening.PeerGone{Moment: m}}
	case errors.Is(err, ln.ErrPeerRejected):
		return []opening.Event{opening.PeerRejected{Moment: m, PendingID: id, Text: err.Error(), NotNow: errors.Is(err, ln.ErrPeerNotNow)}}
	case errors.Is(err, ln.ErrUnavailable):
		return []opening.Event{opening.NegotiationLost{Moment: m, Text: err.Error()}}
	default:
		return []opening.Event{opening.NegotiationFailed{Moment: m, PendingID: id, Text: err.Error()}}
	}
}

func (e *Engine) hasNegotiation(id ln.PendingChanID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.negotiations[id] != nil
}

func (e *Engine) takeNegotiation(id ln.PendingChanID) *negotiation {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.negotiations[id]
	delete(e.negotiations, id)
	return n
}

// verify hands lnd the stored transaction and waits for the peer's commitment
// signature. Any error here leaves the outcome open: lnd must be asked.
func (e *Engine) verify(ctx context.Context, f opening.Verify) ([]opening.Event, error) {
	n := e.takeNegotiation(f.PendingID)
	if n == nil {
		return []opening.Event{opening.NegotiationLost{Moment: e.moment(), Text: "sluiced restarted during the negotiation"}}, nil
	}
	defer n.cancel()
	if err := e.node.Opener.VerifyPsbt(ctx, f.PendingID, f.Psbt); err != nil {
		return []opening.Event{opening.NegotiationLost{Moment: e.moment(), Text: err.Error()}}, nil
	}
	if f.SignAhead {
		e.signAhead(f.Psbt, f.Outpoint)
	}
	for {
		update, err := n.stream.Next()
		if err != nil {
			return []opening.Event{opening.NegotiationLost{Moment: e.moment(), Text: err.Error()}}, nil
		}
		if update.Pending == nil {
			continue
		}
		return []opening.Event{opening.FundingPending{Moment: e.moment(), Outpoint: *update.Pending}}, nil
	}
}

// askNode finds out what became of a negotiation that was cut off.
func (e *Engine) askNode(ctx context.Context, f opening.AskNode) ([]opening.Event, error) {
	if n := e.takeNegotiation(f.PendingID); n != nil {
		n.cancel()
	}
	if err := e.node.Opener.CancelShim(ctx, f.PendingID); err != nil && errors.Is(err, ln.ErrUnavailable) {
		return nil, err
	}
	answer, err := e.lastingPresence(ctx, f.Outpoint)
	if err != nil {
		return nil, err
	}
	return []opening.Event{answer}, nil
}

func (e *Engine) presence(ctx context.Context, op ln.Outpoint) (opening.NodeAnswered, error) {
	answer := opening.NodeAnswered{Moment: e.moment(), Presence: opening.PresenceAbsent}
	pending, err := e.node.Channels.PendingChannels(ctx)
	if err != nil {
		return answer, err
	}
	for _, p := range pending {
		if p.Outpoint == op && p.Kind == ln.PendingOpen {
			answer.Presence = opening.PresencePending
		}
	}
	// Open channels are listed after pending ones were: a channel that moves
	// from one list to the other in between is seen at least once.
	open, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return answer, err
	}
	for _, c := range open {
		if c.Outpoint != op {
			continue
		}
		answer.Presence, answer.ChanID = opening.PresencePending, c.ChanID
		if c.Active {
			answer.Presence = opening.PresenceActive
		}
	}
	return answer, nil
}

func (e *Engine) publish(ctx context.Context, f opening.Publish) ([]opening.Event, error) {
	err := e.node.Chain.Publish(ctx, f.Raw, f.Label)
	if errors.Is(err, ln.ErrUnavailable) {
		return nil, err
	}
	if err != nil {
		return []opening.Event{opening.PublishFailed{Moment: e.moment(), Text: err.Error()}}, nil
	}
	return []opening.Event{opening.FundingPublished{Moment: e.moment()}}, nil
}

func (e *Engine) abandonChannel(ctx context.Context, f opening.AbandonChannel) error {
	e.takeSignature(f.Outpoint)
	for _, id := range f.CancelShims {
		if n := e.takeNegotiation(id); n != nil {
			n.cancel()
		}
		if err := e.node.Opener.CancelShim(ctx, id); err != nil && errors.Is(err, ln.ErrUnavailable) {
			return err
		}
	}
	if f.Outpoint.IsZero() {
		return nil
	}
	return e.whileDying(ctx, f.OpeningID, func(opening.Plan) error { return e.forgetChannel(ctx, f.Outpoint) })
}

// forgetChannel makes lnd forget a channel that nothing funds. lnd's wallet is
// asked first: a database that is an older copy may not know that the funding
// transaction was signed since, and forgetting a funded channel loses it. Nor may
// it know that the channel's funding was withheld and a payment claimed over it.
func (e *Engine) forgetChannel(ctx context.Context, op ln.Outpoint) error {
	raw, err := e.fundingTx(ctx, op)
	if err != nil {
		return err
	}
	if raw != nil {
		e.log.Error("a channel that the database has given up is funded: it is kept, and a person must look", zap.Stringer("outpoint", op))
		return nil
	}
	use, err := e.lastingUse(ctx, op)
	switch {
	case err != nil:
		return err
	case use.Claimed:
		e.log.Error("a channel that the database has given up, and that nothing funds, has brought its client money: it is kept, and a person must look",
			zap.Stringer("outpoint", op))
		return nil
	case use.Htlcs > 0:
		return fmt.Errorf("channel %s, which nothing funds, carries %d HTLCs: it is forgotten when they are gone: %w", op, use.Htlcs, ln.ErrUnavailable)
	}
	return e.node.Opener.AbandonChannel(ctx, op)
}

func (e *Engine) releaseCoins(ctx context.Context, f opening.ReleaseCoins) error {
	if _, err := leases.Release(ctx, e.node.Coins, f.LeaseID); err != nil {
		return err
	}
	e.expectChange(f.OpeningID, opening.Coins{})
	return nil
}

// bumpFee lifts the chain of unconfirmed transactions that the funding is part of,
// by a child of the last one's change.
func (e *Engine) bumpFee(ctx context.Context, f opening.BumpFee) error {
	log := e.log.With(zap.String("opening", f.OpeningID))
	return cpfp.Ask(ctx, cpfp.Node{Records: e.node.Chain, Coins: e.node.Coins, Sweeper: e.node.Chain}, log, cpfp.Request{
		Parent: cpfp.Parent{Change: f.Change}, LeaseID: f.LeaseID, Target: f.PackageRate, TipHeight: e.world.tip(),
		Limits: cpfp.Limits{Ceiling: e.cfg.Fees.Ceiling, MostSat: cpfp.AllOfTheChange},
	})
}

// notifyOwner tells the payment's machine. It repeats what it may have told
// before; the machines take that.
func (e *Engine) notifyOwner(ctx context.Context, f opening.NotifyOwner) error {
	machine, id, ok := splitOwner(f.Owner)
	if !ok {
		return fmt.Errorf("opening %s has no owner this version knows: %q", f.OpeningID, f.Owner)
	}
	switch machine {
	case machineOrder:
		return e.notifyOrderOf(ctx, id, f)
	case machineSwap:
		if f.Notice == opening.NoticeConflicted {
			e.log.Error("a funding transaction was double-spent: a person must look",
				zap.String("opening", f.OpeningID), zap.String("reason", f.Reason.Text))
		}
		return nil
	}
	failed := func(reason lsp.Reason) error {
		if machine == machineJit {
			return e.passOn(e.sendJit(ctx, id, jitOpeningFailed(e.moment(), f, reason)))
		}
		return e.passOn(e.sendWrap(ctx, id, wrapOpeningFailed(e.moment(), f, reason)))
	}
	switch f.Notice {
	case opening.NoticeUsable:
		if machine == machineJit {
			return e.passOn(e.sendJit(ctx, id, jitOpeningUsable(e.moment(), f)))
		}
		return e.passOn(e.sendWrap(ctx, id, wrapOpeningUsable(e.moment(), f)))
	case opening.NoticeFailed, opening.NoticeRejected:
		return failed(f.Reason)
	case opening.NoticeConflicted:
		e.log.Error("a funding transaction was double-spent: a person must look",
			zap.String("opening", f.OpeningID), zap.String("reason", f.Reason.Text))
		return failed(f.Reason)
	case opening.NoticeSigned, opening.NoticePublished, opening.NoticeConfirmed, opening.NoticeReorged:
		return nil
	}
	return nil
}

// reconcileOpening asks lnd how things stand with an open that an earlier
// process left.
func (e *Engine) reconcileOpening(ctx context.Context, id string, s opening.State) ([]opening.Event, error) {
	e.renewLeases(ctx, id)
	switch s := s.(type) {
	case opening.Planned:
		// Its coins are being leased: that effect runs again by itself.
	case opening.Joined, opening.Leased:
		return []opening.Event{opening.NegotiationLost{Moment: e.moment(), Text: "sluiced restarted during the negotiation"}}, nil
	case opening.Pending:
		return e.reconcileLink(ctx, s.Outpoint)
	case opening.Withheld:
		use, _, err := e.useOf(ctx, s.Outpoint)
		if err != nil {
			return nil, err
		}
		return []opening.Event{use}, nil
	case opening.Signed:
		// The network may take its transaction much later, at a block; no effect of the
		// machine's watches it then.
		e.watchFunding(id, s.Coins, s.Unsigned, s.Tx)
		return e.reconcileLink(ctx, s.Outpoint)
	case opening.Published:
		e.watchFunding(id, s.Coins, s.Unsigned, s.Tx)
		return e.reconcileLink(ctx, s.Outpoint)
	case opening.Usable:
		e.watchFunding(id, s.Coins, s.Unsigned, s.Tx)
	case opening.Confirmed:
		e.watchFunding(id, s.Coins, s.Unsigned, s.Tx)
	case opening.Built:
		return []opening.Event{opening.NegotiationLost{Moment: e.moment(), Text: "sluiced restarted during the negotiation"}}, nil
	}
	return nil, nil
}

func (e *Engine) reconcileLink(ctx context.Context, op ln.Outpoint) ([]opening.Event, error) {
	answer, err := e.presence(ctx, op)
	if err != nil {
		return nil, err
	}
	if answer.Presence == opening.PresenceActive {
		return []opening.Event{opening.ChannelActive{Moment: e.moment(), ChanID: answer.ChanID}}, nil
	}
	return nil, nil
}

// watchFunding is the WatchChain of an open that an earlier process left.
func (e *Engine) watchFunding(id string, coins opening.Coins, built opening.Unsigned, tx opening.Tx) {
	inputs := make([]ln.Outpoint, 0, len(coins.Selection.Inputs))
	for _, c := range coins.Selection.Inputs {
		inputs = append(inputs, c.Outpoint)
	}
	e.watch(opening.WatchChain{OpeningID: id, Outpoint: built.Outpoint, Inputs: inputs, SinceHeight: tx.SignedHeight})
}
