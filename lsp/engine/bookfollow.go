package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/books"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// signedFundings are the channels whose funding a machine of ours has booked.
func (b *chainBooks) signedFundings(ctx context.Context, tx *store.Tx) (map[ln.Outpoint]bool, error) {
	out := make(map[ln.Outpoint]bool)
	q := lspdb.New(tx)
	for _, t := range b.view.txs {
		for i := range t.Outputs {
			op := ln.Outpoint{TxID: t.TxID, Index: uint32(i)} //nolint:gosec // an index
			if ch := b.channels[op]; ch == nil || !ch.Initiator {
				continue
			}
			row, err := q.OpeningByOutpoint(ctx, op.String())
			key := keyFunding(row.ID)
			if errors.Is(store.MapError(err), store.ErrNotFound) {
				var joint lspdb.LspCollab
				joint, err = q.CollabByChannel(ctx, op.String())
				key = books.JointKey(joint.ID)
			}
			if errors.Is(store.MapError(err), store.ErrNotFound) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("look for the open of channel %s: %w", op, err)
			}
			if out[op], err = ledger.Exists(ctx, tx, key); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// followTxs lets the books follow lnd's list of transactions: what is new is
// booked, what lnd no longer has is taken back by an entry of its own, what came
// back is booked again, and what turned out to be something else is taken back
// and booked as that.
func (b *chainBooks) followTxs(ctx context.Context, tx *store.Tx) error {
	signed, err := b.signedFundings(ctx, tx)
	if err != nil {
		return err
	}
	listed := b.view.standing()
	for id, row := range b.txs {
		if !listed[id] && row.Booked && !b.settled[id] {
			if err := b.undo(ctx, tx, row, "lnd's wallet no longer has the transaction: it was replaced, double-spent or left the chain"); err != nil {
				return err
			}
		}
	}
	b.seeCloses()
	known := books.NewKnown(b.channels, b.txs, signed)
	if known.Paid, known.Refunds, err = orderPaths(ctx, lspdb.New(tx)); err != nil {
		return err
	}
	// Parents first: a second-stage transaction tells what its child spends.
	for _, t := range books.ParentsFirst(b.view.txs) {
		if b.view.losers[t.TxID] {
			continue
		}
		if err := b.follow(ctx, tx, known, t); err != nil {
			return err
		}
		for _, s := range b.txs[t.TxID].Staged {
			known.Staged[s.Outpoint] = s
		}
	}
	return nil
}

// seeCloses takes closing transactions out of the wallet's list: of two that
// the sides of a cooperative close make, lnd may name the one that lost.
func (b *chainBooks) seeCloses() {
	known := books.Known{ByFunding: b.channels}
	for _, t := range b.view.txs {
		ch := known.CloseOf(t)
		if ch == nil || b.view.losers[t.TxID] || ch.Done || (ch.CloseTx == t.TxID && len(ch.CloseRaw) > 0) {
			continue
		}
		ch.CloseTx, ch.CloseRaw = t.TxID, t.RawTx
		b.touchedChannels[ch.Outpoint] = true
	}
}

func (b *chainBooks) follow(ctx context.Context, tx *store.Tx, known books.Known, t ln.WalletTx) error {
	row := b.txs[t.TxID]
	want := known.Book(t)
	if row == nil {
		row = &books.Tx{TxID: t.TxID}
		b.txs[t.TxID] = row
	}
	switch {
	case row.AtStart:
		if !row.Booked {
			if err := b.book(ctx, tx, row, row.Lines, t); err != nil {
				return err
			}
		}
	case row.Booked && (b.ofClosesOver(row) || slices.Equal(row.Lines, want.Lines)):
		// Of a close that is over the books have forgotten what the outputs held.
	case row.Booked:
		if err := b.undo(ctx, tx, row, "the transaction turned out to be something else"); err != nil {
			return err
		}
		fallthrough
	default:
		row.Channels, row.Staged = want.Channels, want.Staged
		if err := b.book(ctx, tx, row, want.Lines, t); err != nil {
			return err
		}
	}
	settled := t.Confirmations >= buriedBlocks && b.channelsDone(row)
	if row.Height != t.Height || settled != b.settled[t.TxID] {
		row.Height, b.settled[t.TxID] = t.Height, settled
		b.touchedTxs[t.TxID] = true
	}
	return nil
}

// ofClosesOver says that the transaction is part of closes that are all over.
func (b *chainBooks) ofClosesOver(row *books.Tx) bool {
	return b.channelsDone(row) && slices.ContainsFunc(row.Channels, func(op ln.Outpoint) bool { return op.TxID != row.TxID })
}

// channelsDone says that no close depends on the transaction any more.
func (b *chainBooks) channelsDone(row *books.Tx) bool {
	for _, op := range row.Channels {
		if ch := b.channels[op]; op.TxID != row.TxID && ch != nil && !ch.Done {
			return false
		}
	}
	return true
}

func (b *chainBooks) book(ctx context.Context, tx *store.Tx, row *books.Tx, lines []books.Line, t ln.WalletTx) error {
	row.Times++
	key := "tx/" + row.TxID.String()
	if row.Times > 1 {
		key = fmt.Sprintf("%s/again/%d", key, row.Times)
	}
	reason := "transaction of the gateway's wallet"
	if t.Label != "" {
		reason += ", labelled " + t.Label
	}
	row.Lines, row.Booked = lines, true
	b.touchedTxs[row.TxID] = true
	b.funds(row, true)
	return b.post(ctx, tx, ledger.Entry{Key: key, At: b.now, Reason: reason, Reference: row.TxID.String(), Lines: ledgerLines(lines)})
}

func (b *chainBooks) undo(ctx context.Context, tx *store.Tx, row *books.Tx, why string) error {
	row.Booked = false
	b.touchedTxs[row.TxID] = true
	b.funds(row, false)
	return b.post(ctx, tx, ledger.Entry{
		Key: fmt.Sprintf("tx/%s/undone/%d", row.TxID, row.Times), At: b.now, Reason: why, Reference: row.TxID.String(),
		Lines: ledgerLines(books.Reversed(row.Lines)),
	})
}

// funds marks the channels that a transaction funds.
func (b *chainBooks) funds(row *books.Tx, funded bool) {
	for _, op := range row.Channels {
		if ch := b.channels[op]; op.TxID == row.TxID && ch != nil {
			ch.Funded = funded
			b.touchedChannels[op] = true
		}
	}
}

func (b *chainBooks) post(ctx context.Context, tx *store.Tx, entry ledger.Entry) error {
	if len(entry.Lines) == 0 {
		return nil
	}
	return ledger.Post(ctx, tx, entry)
}
