package engine

import (
	"context"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/books"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/refund"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// recordOrder keeps the index row of an order in step with its machine and posts
// what it earns.
func (e *Engine) recordOrder(ctx context.Context, tx *store.Tx, t fsm.Transition[order.State, order.Event]) error {
	o, held := order.Of(t.To), order.HeldOf(t.To).Holding()
	q := lspdb.New(tx)
	if t.Seq > 1 {
		p := lspdb.UpdateOrderParams{
			ID: t.ID, State: t.To.StateName(), Reason: order.ReasonOf(t.To).String(), Terminal: order.Final(t.To),
			Undecided: order.Undecided(t.To), PaidBy: string(o.PaidBy), FeeSat: int64(order.PriceOf(o).FeeSat), //nolint:gosec // bounded by the options
			HeldMsat: int64(held.HeldMsat), HeldSatBlocks: int64(held.SatBlocks), HeldSlots: held.Slots.String(), RiskSat: int64(o.RiskSat()), //nolint:gosec // amounts of lnd's and bounded products
			UpdatedMs: t.At.UnixMilli(),
		}
		until, _ := order.WaitsUntil(t.To)
		p.BatchID, p.WaitsUntilHeight = o.Batch, int64(until)
		if order.Final(t.To) {
			p.RiskSat = 0
		}
		if o.Channel != nil {
			p.Outpoint, p.LeaseEndHeight = o.Channel.Outpoint.String(), int64(o.Channel.EndHeight)
		}
		if _, err := q.UpdateOrder(ctx, p); err != nil {
			return fmt.Errorf("index order %s: %w", t.ID, err)
		}
	}
	for _, c := range o.Coins {
		if err := q.PutOrderCoin(ctx, lspdb.PutOrderCoinParams{Outpoint: c.Outpoint.String(), OrderID: t.ID, AmountSat: int64(c.AmountSat)}); err != nil { //nolint:gosec // an output's value
			return fmt.Errorf("index a payment of order %s: %w", t.ID, err)
		}
	}
	if err := postOrder(ctx, tx, t); err != nil {
		return err
	}
	// Taken unconfirmed it counts as paid for once it has confirmed.
	if delivered(t.To) && o.RiskSat() == 0 && (t.From == nil || !delivered(t.From) || order.Of(t.From).RiskSat() > 0) {
		fee, err := order.PriceOf(o).FeeSat.Msat()
		if err != nil {
			return err
		}
		if err := e.settleDebt(ctx, tx, t.ID, o.Client, fee); err != nil {
			return err
		}
	}
	if !t.More {
		was := ln.Msat(0)
		if t.Was != nil {
			was = order.HeldOf(t.Was).HeldMsat
		}
		if err := postHeld(ctx, tx, heldMove{id: t.ID, seq: t.Seq, at: t.At, account: books.HeldOrders, was: was, is: held.HeldMsat}); err != nil {
			return err
		}
	}
	e.shareMoved(tx, machineOrder, t.ID, t.Seq, !order.Undecided(t.To), held)
	if order.Undecided(t.To) && t.From != nil && !order.Undecided(t.From) {
		// It counts again, as its row says.
		tx.OnCommit(func() { e.doubtShare(machineOrder, t.ID) })
	}
	return nil
}

// delivered: the client has its channel, and the gateway its money.
func delivered(s order.State) bool {
	switch s.(type) {
	case order.Active, order.Closing, order.Ending, order.Ended:
		o := order.Of(s)
		return o.Settled || o.PaidBy == order.PaidByOnChain
	}
	return false
}

// postOrder books what an order moves: what came in by its invoice, what it
// earned, and what was lost. What came in on chain is booked with the wallet's
// transaction, what went into the channel for the client with the funding. So the
// order's account is what is owed to its client, and ends at zero.
func postOrder(ctx context.Context, tx *store.Tx, t fsm.Transition[order.State, order.Event]) error {
	o := order.Of(t.To)
	account := books.OrderAccount(t.ID)
	if o.Settled && (t.From == nil || !order.Of(t.From).Settled) {
		if err := postOrderInvoice(ctx, tx, t, o); err != nil {
			return err
		}
	}
	was, is := t.From != nil && delivered(t.From), delivered(t.To)
	fee, err := o.EarnedMsat()
	if err != nil {
		return err
	}
	lines := []books.Line{{Account: account, Msat: int64(fee)}, {Account: books.OpeningFee, Msat: -int64(fee)}} //nolint:gosec // checked by Msat
	switch {
	case is && !was:
		err = ledger.Post(ctx, tx, ledger.Entry{
			Key: fmt.Sprintf("order/%s/fee/%d", t.ID, t.Seq), At: t.At, Reference: t.ID, Reason: "the fee of a channel order", Lines: ledgerLines(lines),
		})
	case was && !is:
		// Its funding was double-spent: it is owed to the client again.
		before, earnedErr := order.Of(t.From).EarnedMsat()
		if earnedErr != nil {
			return earnedErr
		}
		back := []books.Line{{Account: account, Msat: -int64(before)}, {Account: books.OpeningFee, Msat: int64(before)}} //nolint:gosec // checked by Msat
		err = ledger.Post(ctx, tx, ledger.Entry{
			Key: fmt.Sprintf("order/%s/fee/%d", t.ID, t.Seq), At: t.At, Reference: t.ID, Reason: "the ordered channel can never exist", Lines: ledgerLines(back),
		})
	}
	if err != nil || !order.Final(t.To) {
		return err
	}
	lost, err := o.LostMsat()
	if err != nil || lost == 0 || !is {
		return err
	}
	return ledger.Post(ctx, tx, ledger.Entry{
		Key: "order/" + t.ID + "/double-spent", At: t.At, Reference: t.ID, Reason: "the client's payment left the chain after the channel was funded",
		Lines: ledgerLines([]books.Line{{Account: books.DoubleSpent, Msat: int64(lost)}, {Account: account, Msat: -int64(lost)}}), //nolint:gosec // checked by Msat
	})
}

func postOrderInvoice(ctx context.Context, tx *store.Tx, t fsm.Transition[order.State, order.Event], o order.Order) error {
	var lines []books.Line
	var in int64
	for _, h := range o.Held.Htlcs {
		amount := int64(h.AmtMsat) //nolint:gosec // an amount of lnd's, below 2^63
		in += amount
		lines = append(lines, books.Line{Account: books.InAccount(h.Key.ChanID), Msat: amount})
	}
	account := books.OrderAccount(t.ID)
	if in == 0 {
		// Settled by somebody else than this database: lnd's history has it.
		return nil
	}
	return postOrRename(ctx, tx, ledger.Entry{
		Key: "invoice/" + o.Lightning.Hash.String(), At: t.At, Reference: t.ID, Reason: "a channel order was paid",
		Lines: ledgerLines(books.Tidy(append(lines, books.Line{Account: account, Msat: -in}))),
	}, books.OwnInvoices, ledger.Account(account), -in)
}

func (e *Engine) orderMoved(id string, s order.State) {
	e.mu.Lock()
	defer e.mu.Unlock()
	o := order.Of(s)
	if order.Final(s) {
		delete(e.liveOrders, id)
		delete(e.payable, id)
		delete(e.waitingOrder, id)
		delete(e.queued, id)
		delete(e.returning, id)
		return
	}
	if !order.Returning(s) {
		delete(e.returning, id)
	}
	if until, waits := order.WaitsUntil(s); waits {
		e.queued[id] = queuedOrder{client: o.Client, until: until}
		wake(e.batchDue)
	} else {
		delete(e.queued, id)
	}
	e.liveOrders[id] = true
	peer, chain := order.Wants(s)
	if peer {
		e.waitingOrder[id] = o.Client
	} else {
		delete(e.waitingOrder, id)
	}
	if chain {
		e.payable[id] = watchedOrder{script: o.OnChain.Script, since: o.OnChain.SinceHeight, own: o.OwnCoins()}
	} else {
		delete(e.payable, id)
	}
}

// recordRefund keeps the rows of a refund in step with its machine.
func (e *Engine) recordRefund(ctx context.Context, tx *store.Tx, t fsm.Transition[refund.State, refund.Event]) error {
	q, p := lspdb.New(tx), refund.PlanOf(t.To)
	row := lspdb.PutRefundParams{
		ID: t.ID, OrderID: p.OrderID, State: t.To.StateName(), Reason: refund.ReasonOf(t.To).String(), Terminal: refund.Final(t.To),
		OwedSat: int64(p.OwedSat()), CreatedMs: t.At.UnixMilli(), UpdatedMs: t.At.UnixMilli(), //nolint:gosec // sums of outputs
	}
	if latest, ok := refund.Latest(t.To); ok {
		row.FeeSat, row.Txid = int64(latest.FeeSat), latest.TxID.String() //nolint:gosec // a fee of ours
	}
	if err := q.PutRefund(ctx, row); err != nil {
		return fmt.Errorf("index refund %s: %w", t.ID, err)
	}
	if signed, ok := t.Event.(refund.Signed); ok {
		if err := q.PutRefundTx(ctx, lspdb.PutRefundTxParams{Txid: signed.Tx.TxID.String(), OrderID: p.OrderID}); err != nil {
			return fmt.Errorf("index refund %s: %w", t.ID, err)
		}
	}
	if _, kept := t.To.(refund.Kept); kept {
		rest, err := p.OwedSat().Msat()
		if err != nil {
			return err
		}
		if err := ledger.Post(ctx, tx, ledger.Entry{
			Key: "refund/" + t.ID + "/kept", At: t.At, Reference: p.OrderID, Reason: "too little to be sent back",
			Lines: ledgerLines([]books.Line{{Account: books.OrderAccount(p.OrderID), Msat: int64(rest)}, {Account: books.RefundRests, Msat: -int64(rest)}}), //nolint:gosec // checked by Msat
		}); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) refundMoved(id string, s refund.State) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if refund.Final(s) {
		delete(e.liveRefunds, id)
		return
	}
	e.liveRefunds[id] = true
}

// orderPaths are what the books must know of orders to book the wallet's
// transactions: which outputs pay one, and which transactions refund one.
func orderPaths(ctx context.Context, q *lspdb.Queries) (paid map[ln.Outpoint]string, refunds map[ln.TxID]string, err error) {
	coins, err := q.OrderCoins(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("read the payments of orders: %w", err)
	}
	paid = make(map[ln.Outpoint]string, len(coins))
	for _, c := range coins {
		op, err := ln.ParseOutpoint(c.Outpoint)
		if err != nil {
			return nil, nil, fmt.Errorf("read the payments of orders: %w", err)
		}
		paid[op] = c.OrderID
	}
	txs, err := q.RefundTxs(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("read the refunds of orders: %w", err)
	}
	refunds = make(map[ln.TxID]string, len(txs))
	for _, t := range txs {
		id, err := ln.ParseTxID(t.Txid)
		if err != nil {
			return nil, nil, fmt.Errorf("read the refunds of orders: %w", err)
		}
		refunds[id] = t.OrderID
	}
	return paid, refunds, nil
}
