package engine

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/books"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// recordOpening keeps the index row of an open in step with its machine, posts
// its money, and learns once durable which channel belongs to it.
func (e *Engine) recordOpening(ctx context.Context, tx *store.Tx, t fsm.Transition[opening.State, opening.Event]) error {
	q := lspdb.New(tx)
	plan := opening.PlanOf(t.To)
	machine, paymentID, _ := splitOwner(plan.Owner)
	reason := opening.ReasonOf(t.To)
	cost, _ := opening.CostOf(t.To)
	outpoint := ""
	op := opening.OutpointOf(t.To)
	if !op.IsZero() {
		outpoint = op.String()
	}
	feeSat := int64(0)
	signed, isSigned := opening.TxOf(t.To)
	if isSigned {
		feeSat = int64(cost.FeeSat) //nolint:gosec // a fee of ours, far below 2^63
	}
	at := t.At.UnixMilli()
	switch t.Seq {
	case 1:
		isNew, err := newcomer(ctx, tx, plan.Client)
		if err != nil {
			return err
		}
		err = q.InsertOpening(ctx, lspdb.InsertOpeningParams{
			ID: t.ID, PaymentID: paymentID, Client: plan.Client[:], CapacitySat: int64(plan.CapacitySat), //nolint:gosec // bounded by the capacity limits
			Outpoint: outpoint, ZeroConf: plan.ZeroConf, State: t.To.StateName(), Reason: reason.String(),
			Terminal: opening.Final(t.To), Newcomer: isNew, Unpaid: machine != machineOrder, CreatedMs: at, UpdatedMs: at,
			BatchID: plan.Batch,
		})
		if err != nil {
			return fmt.Errorf("index the open: %w", err)
		}
	default:
		if _, err := q.UpdateOpening(ctx, lspdb.UpdateOpeningParams{
			ID: t.ID, ChainFeeSat: feeSat, Outpoint: outpoint, Confirmed: isSigned && signed.ConfirmedHeight > 0,
			State: t.To.StateName(), Reason: reason.String(), Terminal: opening.Final(t.To), UpdatedMs: at,
		}); err != nil {
			return fmt.Errorf("index the open: %w", err)
		}
	}
	if err := e.countOpening(ctx, tx, t.ID, machine, paymentID, t.Seq == 1, madeNoChannel(t.To)); err != nil {
		return err
	}
	return postOpening(ctx, tx, t)
}

func (e *Engine) openingMoved(id string, s opening.State) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.followWanted()
	e.noteFunding(s)
	e.noteComing(id, s)
	if opening.Final(s) {
		delete(e.liveOpenings, id)
		delete(e.watched, id)
		if op := opening.OutpointOf(s); !op.IsZero() {
			if _, exists := opening.TxOf(s); !exists {
				delete(e.byOutpoint, op)
			}
		}
		return
	}
	e.liveOpenings[id] = !opening.CarriesPayments(s)
	op := opening.OutpointOf(s)
	if op.IsZero() || e.byOutpoint[op] == id {
		return
	}
	e.byOutpoint[op] = id
	if l, known := e.world.link(op); known && l.active {
		// A commit without answer told of the outpoint so late that its channel was
		// first, and nobody was told of that.
		e.spawn(func() { e.onChannel(op, l) })
	}
}

// followWanted says whether a payment or an open waits for something that
// happens to a channel. Callers hold e.mu.
func (e *Engine) followWanted() {
	wanted := len(e.waitingJit)+len(e.waitingWrap) > 0
	for _, waits := range e.liveOpenings {
		wanted = wanted || waits
	}
	e.world.want(wanted)
}

// recordJit keeps the index row of a payment in step with its machine and
// posts what was forwarded.
func (e *Engine) recordJit(ctx context.Context, tx *store.Tx, t fsm.Transition[jit.State, jit.Event]) error {
	offer := jit.OfferOf(t.To)
	held := jit.HoldOf(t.To)
	if t.Seq > 1 && !t.More {
		if err := updatePayment(ctx, tx, t.ID, t.To.StateName(), jit.ReasonOf(t.To), jit.Final(t.To), held, t.At.UnixMilli()); err != nil {
			return err
		}
	}
	if paid, ok := t.To.(jit.Paid); ok {
		if offer.Withhold != nil {
			// Now that its hash can stand in nobody's way, people can find it by it.
			if err := lspdb.New(tx).SetPaymentOutcome(ctx, lspdb.SetPaymentOutcomeParams{
				ID: t.ID, PaymentHash: offer.Hash[:], AmountMsat: int64(paid.ForwardedMsat), FeeMsat: int64(paid.FeeEarnedMsat), //nolint:gosec // sums of lnd's amounts
			}); err != nil {
				return fmt.Errorf("index what was paid: %w", err)
			}
		}
		if err := postForward(ctx, tx, t.ID, paid); err != nil {
			return err
		}
		if fee, ok := paid.Covers(); ok {
			if err := e.settleDebt(ctx, tx, t.ID, offer.Client, fee); err != nil {
				return err
			}
		}
	}
	if t.More {
		return nil
	}
	if err := postHeld(ctx, tx, heldMove{id: t.ID, seq: t.Seq, at: t.At, account: books.HeldPayments, was: jit.HoldOf(t.Was).HeldMsat, is: held.HeldMsat}); err != nil {
		return err
	}
	e.shareMoved(tx, machineJit, t.ID, t.Seq, jit.Final(t.To), held)
	return nil
}

func (e *Engine) jitMoved(id string, s jit.State) {
	offer := jit.OfferOf(s)
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.followWanted()
	if len(jit.PartsOf(s)) > 0 && !jit.Final(s) {
		e.waitingJit[id] = offer.Client
	} else {
		delete(e.waitingJit, id)
	}
	_, collecting := s.(jit.Collecting)
	sp, ok := jitSpot(s)
	e.moveSpot(id, sp, ok, collecting)
	e.movePromise(id, cmp.Or(offer.Chan, offer.Room), jit.Final(s), spot{client: offer.Client, hash: offer.Hash, amount: offer.Part.AmountMsat})
	if jit.Final(s) {
		delete(e.bySCID, offer.SCID)
		return
	}
	e.bySCID[offer.SCID] = id
}

// recordWrap is recordJit for wrapped invoices.
func (e *Engine) recordWrap(ctx context.Context, tx *store.Tx, t fsm.Transition[wrap.State, wrap.Event]) error {
	offer := wrap.OfferOf(t.To)
	held := wrap.HoldOf(t.To)
	if t.Seq > 1 {
		if err := updatePayment(ctx, tx, t.ID, t.To.StateName(), wrap.ReasonOf(t.To), wrap.Final(t.To), held, t.At.UnixMilli()); err != nil {
			return err
		}
	}
	if _, made := t.Event.(wrap.InvoiceAdded); made {
		if _, err := lspdb.New(tx).SetPaymentBolt11(ctx, lspdb.SetPaymentBolt11Params{ID: t.ID, Bolt11: offer.Bolt11}); err != nil {
			return fmt.Errorf("index the invoice: %w", err)
		}
	}
	if settled, ok := t.To.(wrap.Settled); ok {
		if err := postWrap(ctx, tx, t.ID, settled); err != nil {
			return err
		}
		if err := e.settleDebt(ctx, tx, t.ID, offer.Client, offer.FeeMsat); err != nil {
			return err
		}
	}
	if lost, ok := t.To.(wrap.Lost); ok {
		if err := postLost(ctx, tx, t.ID, t.At, lost); err != nil {
			return err
		}
	}
	if !t.More {
		if err := postHeld(ctx, tx, heldMove{id: t.ID, seq: t.Seq, at: t.At, account: books.HeldPayments, was: wrap.HoldOf(t.Was).HeldMsat, is: held.HeldMsat}); err != nil {
			return err
		}
	}
	e.shareMoved(tx, machineWrap, t.ID, t.Seq, wrap.Final(t.To), held)
	return nil
}

func (e *Engine) wrapMoved(id string, s wrap.State) {
	offer := wrap.OfferOf(s)
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.followWanted()
	if len(wrap.HeldOf(s).Htlcs) > 0 && !wrap.Final(s) {
		e.waitingWrap[id] = offer.Client
	} else {
		delete(e.waitingWrap, id)
	}
	if done := e.tracked[id]; done != nil && !wrap.InFlight(s) {
		done()
	}
	_, accepted := s.(wrap.Accepted)
	sp, ok := wrapSpot(s)
	e.moveSpot(id, sp, ok, accepted)
	e.movePromise(id, cmp.Or(offer.Chan, offer.Room), wrap.Final(s), spot{client: offer.Client, hash: offer.Hash, amount: offer.WalletMsat})
}

func updatePayment(ctx context.Context, tx *store.Tx, id, state string, reason lsp.Reason, terminal bool, held lsp.Holding, atMs int64) error {
	heldMsat, err := held.HeldMsat.Int64()
	if err != nil {
		return fmt.Errorf("held amount of payment %s: %w", id, err)
	}
	_, err = lspdb.New(tx.Later(nil)).UpdatePayment(ctx, lspdb.UpdatePaymentParams{
		ID: id, State: state, Reason: reason.String(), Terminal: terminal, HeldMsat: heldMsat, HeldSatBlocks: int64(held.SatBlocks), HeldSlots: held.Slots.String(), UpdatedMs: atMs, //nolint:gosec // lsp.SatBlocks is bounded
	})
	if err != nil {
		return fmt.Errorf("index payment %s: %w", id, err)
	}
	return nil
}

// postOpening books the funding transaction when its signed bytes are stored:
// from then on it is only a matter of time. Until lnd's wallet lists it, what
// it takes from the wallet stands in a clearing account of its own.
func postOpening(ctx context.Context, tx *store.Tx, t fsm.Transition[opening.State, opening.Event]) error {
	cost, ok := opening.CostOf(t.To)
	if !ok {
		return nil
	}
	fund, err := cost.FundingSat.Msat()
	if err != nil {
		return err
	}
	fee, err := cost.FeeSat.Msat()
	if err != nil {
		return err
	}
	op := opening.OutpointOf(t.To)
	plan := opening.PlanOf(t.To)
	push, err := plan.PushSat.Msat()
	if err != nil {
		return err
	}
	lines := []books.Line{
		{Account: books.FundingAccount(cost.Clears), Msat: -int64(fund + fee)}, //nolint:gosec // checked by Msat
		{Account: books.ChanAccount(op), Msat: int64(fund - push)},             //nolint:gosec // checked by Msat
		{Account: books.ChainFee, Msat: int64(fee)},                            //nolint:gosec // checked by Msat
	}
	if _, id, _ := splitOwner(plan.Owner); push > 0 {
		// What the client of an order gets was its own.
		lines = append(lines, books.Line{Account: books.OrderAccount(id), Msat: int64(push)}) //nolint:gosec // checked by Msat
	}
	switch t.Event.(type) {
	case opening.FundingSigned:
		return ledger.Post(ctx, tx, ledger.Entry{
			Key: keyFunding(t.ID), At: t.At, Reference: t.ID,
			Reason: "funding transaction of channel " + op.String(), Lines: ledgerLines(lines),
		})
	}
	if _, gone := t.To.(opening.Conflicted); gone {
		return ledger.Post(ctx, tx, ledger.Entry{
			Key: "opening/" + t.ID + "/conflicted", At: t.At, Reference: t.ID,
			Reason: "the funding transaction was double-spent and never happened", Lines: ledgerLines(books.Reversed(lines)),
		})
	}
	return nil
}

// keyFunding is the key of the entry that a signed funding transaction has.
func keyFunding(openingID string) string { return "opening/" + openingID + "/funding" }

// ledgerLines leaves out lines that move nothing, such as the fee of a payment
// that opened no channel.
func ledgerLines(lines []books.Line) []ledger.Line {
	out := make([]ledger.Line, 0, len(lines))
	for _, l := range lines {
		if l.Msat != 0 {
			out = append(out, ledger.Line{Account: ledger.Account(l.Account), AmountMsat: l.Msat})
		}
	}
	return out
}

// postForward books a payment whose payer paid the fee, part by part, under
// lnd's own name for the forward: reconciliation may have met it first, as an
// ordinary forward, and then only what was earned is renamed. The wallet's
// side goes by peer, because lnd forwards over any channel of the peer.
func postForward(ctx context.Context, tx *store.Tx, id string, paid jit.Paid) error {
	for _, p := range paid.Parts {
		if p.Outcome != jit.OutcomeSettled {
			continue
		}
		in, out := int64(p.Htlc.IncomingMsat), int64(p.Htlc.OutgoingMsat-p.ExtraFeeMsat) //nolint:gosec // amounts of lnd's, below 2^63
		err := postOrRename(ctx, tx, ledger.Entry{
			Key: "forward/" + p.Htlc.Key.String(), At: paid.At, Reference: id,
			Reason: "forwarded to the wallet over a channel on demand",
			Lines: ledgerLines([]books.Line{
				{Account: books.InAccount(p.Htlc.Key.ChanID), Msat: in},
				{Account: books.PeerAccount(paid.Client), Msat: -out},
				{Account: books.OpeningFee, Msat: -(in - out)},
			}),
		}, books.Routing, books.OpeningFee, -(in - out))
		if err != nil {
			return err
		}
	}
	return nil
}

// postWrap books a wrapped payment: what came in with the held HTLCs and what
// left to the wallet meet in a clearing account, and the difference is the fee.
func postWrap(ctx context.Context, tx *store.Tx, id string, s wrap.Settled) error {
	var lines []books.Line
	var in int64
	for _, h := range s.Htlcs {
		amount := int64(h.AmtMsat) //nolint:gosec // an amount of lnd's, below 2^63
		in += amount
		lines = append(lines, books.Line{Account: books.InAccount(h.Key.ChanID), Msat: amount})
	}
	out := int64(s.AmountMsat) //nolint:gosec // our own amount
	err := postOrRename(ctx, tx, ledger.Entry{
		Key: "invoice/" + s.Hash.String(), At: s.At, Reference: id, Reason: "the payer paid the wrapped invoice",
		Lines: ledgerLines(books.Tidy(append(lines, books.Line{Account: books.ClearingWrap, Msat: -in}))),
	}, books.OwnInvoices, books.ClearingWrap, -in)
	if err != nil {
		return err
	}
	err = postOrRename(ctx, tx, ledger.Entry{
		Key: "payment/" + s.Hash.String(), At: s.At, Reference: id, Reason: "the wallet was paid its own invoice",
		Lines: ledgerLines([]books.Line{{Account: books.PeerAccount(s.Client), Msat: -out}, {Account: books.ClearingWrap, Msat: out}}),
	}, books.OwnPayments, books.ClearingWrap, out)
	if err != nil || in == out {
		return err
	}
	return ledger.Post(ctx, tx, ledger.Entry{
		Key: "wrap-fee/" + s.Hash.String(), At: s.At, Reference: id, Reason: "opening fee kept from a wrapped payment",
		Lines: ledgerLines([]books.Line{{Account: books.ClearingWrap, Msat: in - out}, {Account: books.OpeningFee, Msat: -(in - out)}}),
	})
}

// postLost books a payment to a wallet for which nothing comes in any more.
func postLost(ctx context.Context, tx *store.Tx, id string, at time.Time, s wrap.Lost) error {
	out := int64(s.AmountMsat) //nolint:gosec // our own amount
	return postOrRename(ctx, tx, ledger.Entry{
		Key: "payment/" + s.Hash.String(), At: at, Reference: id, Reason: "the wallet was paid, and the payer's money had gone back",
		Lines: ledgerLines([]books.Line{{Account: books.PeerAccount(s.Client), Msat: -out}, {Account: books.LostPayments, Msat: out}}),
	}, books.OwnPayments, books.LostPayments, out)
}

// postOrRename posts an entry, or, when reconciliation has already posted one
// of that key as foreign business, moves its counterpart from one account to
// the other.
func postOrRename(ctx context.Context, tx *store.Tx, entry ledger.Entry, from, to ledger.Account, amountMsat int64) error {
	booked, err := ledger.Exists(ctx, tx, entry.Key)
	if err != nil {
		return err
	}
	if !booked {
		return ledger.Post(ctx, tx, entry)
	}
	if amountMsat == 0 {
		return nil
	}
	return ledger.Post(ctx, tx, ledger.Entry{
		Key: "rename/" + entry.Key, At: entry.At, Reference: entry.Reference, Reason: entry.Reason,
		Lines: []ledger.Line{{Account: from, AmountMsat: -amountMsat}, {Account: to, AmountMsat: amountMsat}},
	})
}
