package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/books"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// settleCloses moves what channels that are closing hold into accounts of their
// own, and books what is left of those that are resolved: what the close cost.
func (b *chainBooks) settleCloses(ctx context.Context, tx *store.Tx) error {
	held := make(map[ln.Outpoint][]books.Line)
	for account, msat := range b.balances {
		n := books.Parse(string(account))
		if ch := b.of(n); ch != nil && msat != 0 && n.Closing.IsZero() {
			held[ch.Outpoint] = append(held[ch.Outpoint], books.Line{Account: string(account), Msat: msat})
		}
	}
	for op, ch := range b.channels {
		closing := ledger.Account(books.ClosingAccount(op))
		if b.promised(ch) || (ch.Phase != books.Closing && ch.Phase != books.Closed) {
			// A close that lnd has taken back, or whose channel is gone.
			if left := b.balances[closing]; left != 0 {
				if err := b.moveBack(ctx, tx, ch, closing, left); err != nil {
					return err
				}
			}
			continue
		}
		var sum int64
		for _, l := range held[op] {
			sum += l.Msat
		}
		if lines := held[op]; len(lines) > 0 {
			ch.Moves++
			err := b.move(ctx, tx, ledger.Entry{
				Key: fmt.Sprintf("close/%s/in/%d", op, ch.Moves), At: b.now, Reference: op.String(), Reason: "the channel is closing",
				Lines: ledgerLines(books.Tidy(append(books.Reversed(lines), books.Line{Account: string(closing), Msat: sum}))),
			})
			if err != nil {
				return err
			}
			b.touchedChannels[op] = true
		}
		if ch.Phase == books.Closed {
			if err := b.settleRest(ctx, tx, ch, closing); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *chainBooks) moveBack(ctx context.Context, tx *store.Tx, ch *books.Channel, closing ledger.Account, left int64) error {
	ch.Moves++
	b.touchedChannels[ch.Outpoint] = true
	return b.move(ctx, tx, ledger.Entry{
		Key: fmt.Sprintf("close/%s/in/%d", ch.Outpoint, ch.Moves), At: b.now, Reference: ch.Outpoint.String(), Reason: "the channel is not closing",
		Lines: ledgerLines([]books.Line{{Account: string(closing), Msat: -left}, {Account: books.ChanAccount(ch.Outpoint), Msat: left}}),
	})
}

// settleRest books what is left of a closed channel once everything that lnd's
// records name has arrived.
func (b *chainBooks) settleRest(ctx context.Context, tx *store.Tx, ch *books.Channel, closing ledger.Account) error {
	left := b.balances[closing]
	if left == 0 {
		if !ch.Done {
			ch.Forget()
			b.touchedChannels[ch.Outpoint] = true
		}
		return nil
	}
	if ch.Done {
		// Something came after the end: lnd's records are read again.
		ch.Done = false
		b.touchedChannels[ch.Outpoint] = true
	}
	id, missing, err := b.awaited(ctx, tx, ch)
	if err != nil {
		return err
	}
	if missing {
		b.unexplained[ch.Outpoint] = fmt.Errorf("transaction %s, which brings it home, is not in lnd's wallet yet", id)
		return nil
	}
	account, why := ch.Rest(left)
	if why != nil {
		b.unexplained[ch.Outpoint] = why
		return nil //nolint:nilerr // reconciliation shows it, and tries again
	}
	ch.Rests++
	ch.RestMsat += left
	b.touchedChannels[ch.Outpoint] = true
	err = b.move(ctx, tx, ledger.Entry{
		Key: fmt.Sprintf("close/%s/rest/%d", ch.Outpoint, ch.Rests), At: b.now, Reference: ch.Outpoint.String(),
		Reason: "what the close cost: " + ch.Kind,
		Lines:  ledgerLines([]books.Line{{Account: string(closing), Msat: -left}, {Account: account, Msat: left}}),
	})
	if err == nil {
		ch.Forget()
	}
	return err
}

// awaited is a transaction that brings money of the channel home and that the
// books do not have yet.
func (b *chainBooks) awaited(ctx context.Context, tx *store.Tx, ch *books.Channel) (ln.TxID, bool, error) {
	if ch.ClosingAtStart {
		return ln.TxID{}, false, nil
	}
	var ids []ln.TxID
	if ch.Kind == ln.CloseCooperative && ch.SettledSat > 0 {
		ids = append(ids, ch.CloseTx)
	}
	for _, r := range ch.Resolutions {
		if r.Ours && r.SweepTx != (ln.TxID{}) {
			ids = append(ids, r.SweepTx)
		}
	}
	for _, id := range ids {
		row, known, err := b.txOf(ctx, tx, id)
		if err != nil {
			return id, false, err
		}
		if !known || !row.Booked {
			return id, true, nil
		}
	}
	return ln.TxID{}, false, nil
}

// txOf finds a transaction of the books, settled ones too.
func (b *chainBooks) txOf(ctx context.Context, tx *store.Tx, id ln.TxID) (row *books.Tx, known bool, err error) {
	if row = b.txs[id]; row != nil {
		return row, true, nil
	}
	stored, err := lspdb.New(tx).GetBookTx(ctx, id.String())
	if errors.Is(store.MapError(err), store.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read transaction %s of the books: %w", id, err)
	}
	row = &books.Tx{}
	if err := json.Unmarshal(stored.Data, row); err != nil {
		return nil, false, fmt.Errorf("decode transaction %s of the books: %w", id, err)
	}
	return row, true, nil
}

// promised says that what lnd lists of a channel of ours, and what a signed
// transaction says of it, does not exist yet, or no more: nothing funds it.
func (b *chainBooks) promised(ch *books.Channel) bool {
	return !ch.Funded && (ch.Phase != books.Closed || b.balances[ledger.Account(books.FundingAccount(ch.Outpoint))] != 0)
}
