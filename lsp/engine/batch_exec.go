package engine

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/batch"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

func (e *Engine) executeBatch(ctx context.Context, t fsm.Task[batch.Effect]) ([]batch.Event, error) {
	switch f := t.Effect.(type) {
	case batch.LeaseCoins:
		return e.leaseBatch(ctx, f)
	case batch.Hand:
		return e.handBatch(ctx, f)
	case batch.Commit:
		return e.commitBatch(ctx, f)
	case batch.Dismiss:
		for _, id := range f.OpeningIDs {
			if err := e.dismiss(ctx, id, f.Reason, f.Spared); err != nil {
				return nil, err
			}
		}
		return nil, nil
	case batch.ReleaseCoins:
		_, err := leases.Release(ctx, e.node.Coins, f.LeaseID)
		return nil, err
	default:
		return nil, fmt.Errorf("the batch machine asks for %q, which this version does not know", t.Effect.EffectName())
	}
}

// leaseBatch first looks whether everybody is still there: until now a peer that
// leaves costs the others nothing.
func (e *Engine) leaseBatch(ctx context.Context, f batch.LeaseCoins) ([]batch.Event, error) {
	inst, err := e.batches.Get(ctx, f.BatchID)
	if err != nil {
		return nil, err
	}
	leasing, ok := inst.State.(batch.Leasing)
	if !ok {
		return nil, nil
	}
	for _, o := range leasing.Outputs {
		if e.world.online(o.Client) {
			continue
		}
		_, err := e.openings.Send(ctx, o.OpeningID, opening.PeerGone{Moment: e.moment()})
		return nil, e.passOn(err)
	}
	w := coinsWish{
		name: zap.String("batch", f.BatchID), lease: f.LeaseID, fundingSat: f.FundingSat, channels: f.Channels, rate: f.FeeRate, maxFeeSat: f.MaxFeeSat,
	}
	chosen, wanted, err := e.chooseCoins(ctx, w, func(ctx context.Context) (bool, error) {
		inst, err := e.batches.Get(ctx, f.BatchID)
		_, leasing := inst.State.(batch.Leasing)
		return leasing, err
	})
	switch {
	case err != nil || !wanted:
		return nil, err
	case chosen.dear > 0:
		return []batch.Event{batch.CoinsRefused{Moment: e.moment(), Reason: lsp.Because(lsp.ReasonChainFees,
			"a funding transaction of %d channels would pay %s (%s), more than the %s that their orders bear", f.Channels, chosen.dear, chosen.text, f.MaxFeeSat)}}, nil
	case chosen.refused:
		return []batch.Event{batch.CoinsRefused{Moment: e.moment(), Reason: lsp.Because(lsp.ReasonCoinsShort,
			"the gateway has too few free coins to open %d channels at once: each is tried alone", f.Channels)}}, nil
	}
	return []batch.Event{batch.CoinsLeased{Moment: e.moment(), Selection: chosen.selection, ChangeScript: chosen.change}}, nil
}

func (e *Engine) handBatch(ctx context.Context, f batch.Hand) ([]batch.Event, error) {
	_, err := e.openings.Send(ctx, f.OpeningID, opening.FundingShared{Moment: e.moment(), Coins: f.Coins, Unsigned: f.Unsigned})
	if err == nil {
		return nil, nil
	}
	if !errors.Is(err, fsm.ErrIllegal) && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	inst, err := e.openings.Get(ctx, f.OpeningID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if err == nil && !opening.Final(inst.State) && opening.OutpointOf(inst.State) == f.Unsigned.Outpoint {
		return nil, nil // it has it already, and tells how it goes on
	}
	left := batch.MemberLeft{Moment: e.moment(), OpeningID: f.OpeningID, Reason: lsp.Because(lsp.ReasonOpenFailed, "its open is over")}
	if err == nil && !opening.ReasonOf(inst.State).IsZero() {
		left.Reason = opening.ReasonOf(inst.State)
	}
	return []batch.Event{left}, nil
}

// commitBatch signs for all of its channels, or for none. The signed bytes reach
// every open in one transaction of the database: one that has ended refuses it for
// all of them.
func (e *Engine) commitBatch(ctx context.Context, f batch.Commit) ([]batch.Event, error) {
	m := e.moment()
	done, ready, err := e.committed(ctx, f)
	switch {
	case err != nil:
		return nil, err
	case done:
		return []batch.Event{batch.Committed{Moment: m}}, nil
	case !ready:
		return e.commitRefused("one of its channels is gone"), nil
	}
	if why, err := e.doubtful(ctx, f); err != nil || why != "" {
		return e.commitRefused(why), err
	}
	signed, err := e.signFunding(ctx, f.Psbt, f.Channels[0].Outpoint)
	if err != nil {
		return nil, err
	}
	if refused, ok := signed.(opening.SigningFailed); ok {
		return []batch.Event{batch.CommitRefused{Moment: m, Reason: lsp.Because(lsp.ReasonOpenFailed,
			"the wallet would not sign the funding transaction: %s", ln.Clip(refused.Text, 200))}}, nil
	}
	err = e.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		for _, c := range f.Channels {
			if _, err := e.openings.SendTx(ctx, tx, c.OpeningID, signed); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, fsm.ErrIllegal) {
		// One of them ended meanwhile, or an earlier attempt of this is stored.
		return nil, fmt.Errorf("the channels of batch %s have moved on: %w", f.BatchID, ln.ErrUnavailable)
	}
	if err != nil {
		return nil, err
	}
	return []batch.Event{batch.Committed{Moment: m}}, nil
}

func (e *Engine) commitRefused(why string) []batch.Event {
	if why == "" {
		return nil
	}
	return []batch.Event{batch.CommitRefused{Moment: e.moment(), Reason: lsp.Because(lsp.ReasonOpenFailed, "it was not signed: %s", why), Spared: true}}
}

// committed says that all channels hold the signed transaction, or that all could.
func (e *Engine) committed(ctx context.Context, f batch.Commit) (done, ready bool, err error) {
	done, ready = true, true
	for _, c := range f.Channels {
		inst, err := e.openings.Get(ctx, c.OpeningID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return false, false, err
		}
		_, signed := opening.TxOf(inst.State)
		_, pending := inst.State.(opening.Pending)
		same := err == nil && opening.OutpointOf(inst.State) == c.Outpoint
		done, ready = done && signed && same, ready && pending && same
	}
	return done, ready, nil
}

// doubtful names a channel that shall not be funded after all, and ends its open: its
// order's payment is not there any more, or lnd has lost the channel. What an older
// copy of the database takes for unsigned may be public: then it is.
func (e *Engine) doubtful(ctx context.Context, f batch.Commit) (string, error) {
	if e.published(ctx, f.Channels[0].Outpoint) != nil {
		return "", nil
	}
	pending, err := e.node.Channels.PendingChannels(ctx)
	if err != nil {
		return "", err
	}
	listed := make(map[ln.Outpoint]bool)
	for _, p := range pending {
		if p.Kind == ln.PendingOpen {
			listed[p.Outpoint] = true
		}
	}
	for _, c := range f.Channels {
		why, err := e.signedInVain(ctx, c.OpeningID)
		if err != nil {
			return "", err
		}
		var ev opening.Event = opening.SigningFailed{Moment: e.moment(), Text: why}
		if why == "" && !listed[c.Outpoint] {
			// lnd may list it as open: its funding is public then.
			answer, err := e.presence(ctx, c.Outpoint)
			if err != nil {
				return "", err
			}
			if answer.Presence == opening.PresenceAbsent {
				why, ev = "the node has lost the channel", answer
			}
		}
		if why == "" {
			continue
		}
		_, err = e.openings.Send(ctx, c.OpeningID, ev)
		return fmt.Sprintf("channel %s: %s", c.OpeningID, ln.Clip(why, 200)), e.passOn(err)
	}
	return "", nil
}

// tellBatch tells a batch of one of its channels. One that does not have it any more
// lets it go.
func (e *Engine) tellBatch(ctx context.Context, f opening.TellBatch) error {
	m := e.moment()
	var ev batch.Event
	switch f.News {
	case opening.BatchOutput:
		ev = batch.OutputNamed{Moment: m, OpeningID: f.OpeningID, Script: f.Script}
	case opening.BatchPending:
		ev = batch.MemberPending{Moment: m, OpeningID: f.OpeningID, Outpoint: f.Outpoint}
	case opening.BatchLeft:
		ev = batch.MemberLeft{Moment: m, OpeningID: f.OpeningID, Reason: f.Reason}
	default:
		return fmt.Errorf("opening %s tells its batch %q, which this version does not know", f.OpeningID, f.News)
	}
	_, err := e.batches.Send(ctx, f.Batch, ev)
	illegal, refused := errors.AsType[*fsm.IllegalError](err)
	switch {
	case err == nil, f.News == opening.BatchLeft && e.passOn(err) == nil, refused && illegal.Repeated:
		return nil
	case refused, errors.Is(err, store.ErrNotFound):
		return e.dismiss(ctx, f.OpeningID, opening.SharedReason(), true)
	}
	return err
}

// dismiss gives up an open of a batch. One that is signed is in its transaction: then
// it is too late, and nothing is wrong with it.
func (e *Engine) dismiss(ctx context.Context, openingID string, reason lsp.Reason, spared bool) error {
	_, err := e.openings.Send(ctx, openingID, opening.Abandon{Moment: e.moment(), Reason: reason, Spared: spared})
	if errors.Is(err, opening.ErrTooLate) {
		e.log.Debug("a channel that a batch lets go is signed", zap.String("opening", openingID))
		return nil
	}
	return e.passOn(err)
}

// leaveBatch tells the batch of an order's open, if it has one, that it is not begun.
func (e *Engine) leaveBatch(ctx context.Context, f order.OpenChannel, reason lsp.Reason) error {
	if f.Batch == "" {
		return nil
	}
	_, err := e.batches.Send(ctx, f.Batch, batch.MemberLeft{Moment: e.moment(), OpeningID: f.OpeningID, Reason: reason})
	return e.passOn(err)
}

// recordBatch keeps the index row of a batch in step with its machine.
func (e *Engine) recordBatch(ctx context.Context, tx *store.Tx, t fsm.Transition[batch.State, batch.Event]) error {
	p := batch.PlanOf(t.To)
	row := lspdb.PutBatchParams{
		ID: t.ID, State: t.To.StateName(), Reason: batch.ReasonOf(t.To).String(), Terminal: batch.Final(t.To),
		Channels: int64(len(p.Members)), CreatedMs: t.At.UnixMilli(), UpdatedMs: t.At.UnixMilli(),
	}
	if shared, channels, built := batch.TxOf(t.To); built {
		row.Channels, row.Txid = int64(len(channels)), shared.TxID.String()
		row.FundingSat, row.FeeSat = int64(shared.Selection.FundingSat), int64(shared.Selection.FeeSat) //nolint:gosec // sums of outputs
	}
	if err := lspdb.New(tx).PutBatch(ctx, row); err != nil {
		return fmt.Errorf("index batch %s: %w", t.ID, err)
	}
	return nil
}
