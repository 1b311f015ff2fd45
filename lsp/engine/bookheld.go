package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/books"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// settingHeld says that what is held is in the books.
const settingHeld = "books_held"

// heldMove is what a payment or an order held before its change of state, and holds now.
type heldMove struct {
	id      string
	seq     int64
	at      time.Time
	account ledger.Account
	was, is ln.Msat
}

// postHeld books what came under a payment's hold with its change of state, or left it:
// HTLCs of the payer's, who gets them back unless they become what they pay for. The
// accounts end at zero.
func postHeld(ctx context.Context, tx *store.Tx, m heldMove) error {
	if m.was == m.is {
		return nil
	}
	was, err := m.was.Int64()
	if err != nil {
		return fmt.Errorf("what %s held: %w", m.id, err)
	}
	is, err := m.is.Int64()
	if err != nil {
		return fmt.Errorf("what %s holds: %w", m.id, err)
	}
	reason := "HTLCs of the payer are held"
	if is < was {
		reason = "HTLCs of the payer are no longer held"
	}
	return ledger.PostLater(ctx, tx, ledger.Entry{
		Key: fmt.Sprintf("held/%s/%d", m.id, m.seq), At: m.at, Reference: m.id, Reason: reason,
		Lines: ledger.Move(books.HeldPayers, m.account, is-was),
	})
}

// heldPart is an HTLC that a payment or an order holds.
type heldPart struct {
	id      string
	account ledger.Account
	msat    ln.Msat
}

// heldParts are those that the stored states hold.
func (e *Engine) heldParts(ctx context.Context, tx *store.Tx) (map[ln.CircuitKey]heldPart, error) {
	out := make(map[ln.CircuitKey]heldPart)
	invoice := func(id string, account ledger.Account, htlcs []ln.InvoiceHtlc) {
		for _, h := range htlcs {
			out[h.Key] = heldPart{id: id, account: account, msat: h.AmtMsat}
		}
	}
	q := lspdb.New(tx)
	payments, err := q.HeldPayments(ctx)
	if err != nil {
		return nil, fmt.Errorf("read what is held: %w", err)
	}
	ids := make(map[string][]string)
	for _, p := range payments {
		ids[p.Machine] = append(ids[p.Machine], p.ID)
	}
	if err := eachTx(ctx, tx, e.jits, ids[machineJit], func(inst fsm.Instance[jit.State]) error {
		for _, p := range jit.PartsOf(inst.State) {
			if p.Outcome == jit.OutcomeOpen {
				out[p.Htlc.Key] = heldPart{id: inst.ID, account: books.HeldPayments, msat: p.Htlc.IncomingMsat}
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if err := eachTx(ctx, tx, e.wraps, ids[machineWrap], func(inst fsm.Instance[wrap.State]) error {
		invoice(inst.ID, books.HeldPayments, wrap.HeldOf(inst.State).Htlcs)
		return nil
	}); err != nil {
		return nil, err
	}
	held, err := q.HeldOrders(ctx)
	if err != nil {
		return nil, fmt.Errorf("read what is held for orders: %w", err)
	}
	return out, eachTx(ctx, tx, e.orders, held, func(inst fsm.Instance[order.State]) error {
		invoice(inst.ID, books.HeldOrders, order.HeldOf(inst.State).Htlcs)
		return nil
	})
}

// beginHeld books once what was held before there were accounts for it.
func (e *Engine) beginHeld(ctx context.Context) error {
	booked := false
	look := func(ctx context.Context, tx *store.Tx) error {
		_, err := lspdb.New(tx).GetSetting(ctx, settingHeld)
		if booked = err == nil; booked || errors.Is(store.MapError(err), store.ErrNotFound) {
			return nil
		}
		return err
	}
	if err := e.db.Read(ctx, look); err != nil || booked {
		return err
	}
	return e.writeBooks(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := look(ctx, tx); err != nil || booked {
			return err
		}
		parts, err := e.heldParts(ctx, tx)
		if err != nil {
			return err
		}
		type holder struct {
			id      string
			account ledger.Account
		}
		sums := make(map[holder]ln.Msat)
		for _, p := range parts {
			h := holder{p.id, p.account}
			if sums[h], err = sums[h].Add(p.msat); err != nil {
				return err
			}
		}
		now := e.opt.Now().UTC()
		for h, sum := range sums {
			if err := postHeld(ctx, tx, heldMove{id: h.id, at: now, account: h.account, is: sum}); err != nil {
				return err
			}
		}
		return lspdb.New(tx).PutSetting(ctx, lspdb.PutSettingParams{Name: settingHeld, Value: []byte("true"), UpdatedMs: now.UnixMilli()})
	})
}

// heldBooks is what is held, by the books' states and by lnd's channels.
type heldBooks struct {
	// parts are what the states hold; before, those that they held before lnd was
	// asked: what came meanwhile is in no list of lnd's yet.
	parts, before map[ln.CircuitKey]heldPart
	// gone are those that lnd does not list although its channel is open.
	gone int
}

// heldBefore is heldParts before lnd is asked for its channels.
func (e *Engine) heldBefore(ctx context.Context) (parts map[ln.CircuitKey]heldPart, err error) {
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		parts, err = e.heldParts(ctx, tx)
		return err
	})
	return parts, err
}

// compareHeld holds the accounts of what is held against the HTLCs of lnd's open
// channels, by their circuits. An HTLC that is on its way counts on neither side: the
// books begin with what a state holds and end with what it gives up, and lnd has the
// HTLC a little earlier, and later.
func (b *chainBooks) compareHeld(r *ReconcileReport) ReconcileLine {
	line := ReconcileLine{Account: "held", BooksMsat: b.balances[books.HeldPayments] + b.balances[books.HeldOrders]}
	open, listed := make(map[ln.SCID]bool), make(map[ln.CircuitKey]ln.ChannelHtlc)
	for _, c := range b.view.open {
		for _, name := range c.Names() {
			open[name] = true
			for _, h := range c.Htlcs {
				if h.Incoming {
					listed[h.IncomingKey(name)] = h
				}
			}
		}
	}
	b.held.gone = 0
	for key, p := range b.held.parts {
		msat := int64(p.msat) //nolint:gosec // an amount of lnd's, below 2^63
		h, there := listed[key]
		_, was := b.held.before[key]
		switch {
		// lnd lists whole satoshis, and what is on chain without its hash.
		case there && h.AmtMsat == p.msat-p.msat%1000, !open[key.ChanID], !there && !was:
			line.NodeMsat += msat
		case there:
			line.NodeMsat += int64(h.AmtMsat)                                                                                   //nolint:gosec // as above
			b.detail(r, string(p.account), msat, int64(h.AmtMsat), p.id, "lnd lists HTLC "+key.String()+" with another amount") //nolint:gosec // as above
		default:
			b.held.gone++
			b.detail(r, string(p.account), msat, 0, p.id, "HTLC "+key.String()+" is held for this payment, and is not in lnd's channel")
		}
	}
	return line
}
