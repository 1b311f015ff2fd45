package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/books"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// chainBooks are the books' channels and the transactions that may still
// change, with what lnd says of them now.
type chainBooks struct {
	view     *nodeView
	now      time.Time
	channels map[ln.Outpoint]*books.Channel
	txs      map[ln.TxID]*books.Tx
	settled  map[ln.TxID]bool
	byName   map[ln.SCID]*books.Channel
	pending  map[ln.Outpoint]ln.PendingChannel
	balances map[ledger.Account]int64
	// touched are rows to write back.
	touchedChannels map[ln.Outpoint]bool
	touchedTxs      map[ln.TxID]bool
	// fresh says that a transaction came that the books did not know.
	fresh bool
	held  heldBooks
	// unexplained says why the rest of a closed channel was not booked.
	unexplained map[ln.Outpoint]error
}

// loadChainBooks reads the rows and takes in what lnd's lists say of channels.
func loadChainBooks(ctx context.Context, tx *store.Tx, view *nodeView, now time.Time) (*chainBooks, error) {
	b := &chainBooks{
		view: view, now: now, channels: make(map[ln.Outpoint]*books.Channel), txs: make(map[ln.TxID]*books.Tx),
		settled: make(map[ln.TxID]bool), pending: make(map[ln.Outpoint]ln.PendingChannel),
		touchedChannels: make(map[ln.Outpoint]bool), touchedTxs: make(map[ln.TxID]bool), unexplained: make(map[ln.Outpoint]error),
	}
	q := lspdb.New(tx)
	channels, err := q.BookChannels(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the books' channels: %w", err)
	}
	for _, row := range channels {
		ch := &books.Channel{}
		if err := json.Unmarshal(row.Data, ch); err != nil {
			return nil, fmt.Errorf("decode channel %s of the books: %w", row.Outpoint, err)
		}
		b.channels[ch.Outpoint] = ch
	}
	txs, err := q.BookTxs(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the books' transactions: %w", err)
	}
	for _, row := range txs {
		if err := b.addTx(row); err != nil {
			return nil, err
		}
	}
	for _, t := range view.txs {
		if b.txs[t.TxID] != nil {
			continue
		}
		row, err := q.GetBookTx(ctx, t.TxID.String())
		if errors.Is(store.MapError(err), store.ErrNotFound) {
			b.fresh = true
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read transaction %s of the books: %w", t.TxID, err)
		}
		if err := b.addTx(row); err != nil {
			return nil, err
		}
	}
	b.seeChannels()
	return b, nil
}

func (b *chainBooks) addTx(row lspdb.LspBookTx) error {
	t := &books.Tx{}
	if err := json.Unmarshal(row.Data, t); err != nil {
		return fmt.Errorf("decode transaction %s of the books: %w", row.Txid, err)
	}
	b.txs[t.TxID], b.settled[t.TxID] = t, row.Settled
	return nil
}

func (b *chainBooks) channel(op ln.Outpoint) *books.Channel {
	ch := b.channels[op]
	if ch == nil {
		ch = &books.Channel{}
		b.channels[op] = ch
	}
	b.touchedChannels[op] = true
	return ch
}

func (b *chainBooks) seeChannels() {
	listed := make(map[ln.Outpoint]bool)
	for _, l := range b.view.open {
		listed[l.Outpoint] = true
		b.channel(l.Outpoint).SeeOpen(l)
	}
	for _, p := range b.view.pending {
		listed[p.Outpoint] = true
		b.pending[p.Outpoint] = p
		b.channel(p.Outpoint).SeePending(p)
	}
	for op, ch := range b.channels {
		if !listed[op] && ch.Phase != books.Closed && ch.Phase != books.Missing {
			ch.Phase = books.Missing
			b.touchedChannels[op] = true
		}
	}
}

// wantsClosed says that lnd's list of closed channels must be read: it gives
// all or none, so it is read only when a channel is missing or something came
// that may be of a channel which was opened and closed unseen.
func (b *chainBooks) wantsClosed() bool {
	for _, ch := range b.channels {
		if ch.Phase == books.Missing || (ch.Phase == books.Closed && !ch.Done) {
			return true
		}
	}
	return b.fresh
}

func (b *chainBooks) seeClosed(closed []ln.ClosedChannel, began uint32) {
	for _, l := range closed {
		known := b.channels[l.Outpoint]
		if (known == nil && l.CloseHeight <= began) || (known != nil && known.Done) {
			continue
		}
		b.channel(l.Outpoint).SeeClosed(l)
	}
}

// enter books what channels began with that no transaction of the wallet
// brought: what a peer pushed to us, and funding with coins from elsewhere.
func (b *chainBooks) enter(ctx context.Context, tx *store.Tx) error {
	for op, ch := range b.channels {
		exists := ch.Phase == books.Open || ch.Phase == books.Closing ||
			(ch.Phase == books.Closed && ch.Kind != ln.CloseAbandoned && ch.Kind != ln.CloseFundingCanceled)
		if ch.Funded || ch.Done || !exists {
			continue
		}
		if ch.Initiator {
			// Coins of the wallet come with their transaction.
			if _, known, err := b.txOf(ctx, tx, op.TxID); err != nil || known || (!ch.Confirmed && ch.Phase != books.Closed) {
				if err != nil {
					return err
				}
				continue
			}
		}
		ch.Funded = true
		b.touchedChannels[op] = true
		initial, push := ch.InitialMsat(), int64(ch.PushSat)*1000 //nolint:gosec // bounded by all bitcoin
		entry := ledger.Entry{
			Key: "channel/" + op.String() + "/pushed", At: b.now, Reference: op.String(), Reason: "what the peer that opened the channel gave us",
			Lines: ledgerLines([]books.Line{{Account: books.ChanAccount(op), Msat: push}, {Account: books.Pushed, Msat: -push}}),
		}
		if ch.Initiator {
			entry.Key, entry.Reason = "channel/"+op.String()+"/outside", "funded with coins that are not the wallet's"
			entry.Lines = ledgerLines([]books.Line{
				{Account: books.ChanAccount(op), Msat: initial}, {Account: books.Pushed, Msat: push}, {Account: books.Outside, Msat: -initial - push},
			})
		}
		if err := b.post(ctx, tx, entry); err != nil {
			return err
		}
	}
	return nil
}

// index reads all balances and finds the channel of every name.
func (b *chainBooks) index(ctx context.Context, tx *store.Tx) (err error) {
	b.byName = make(map[ln.SCID]*books.Channel)
	for _, ch := range b.channels {
		for _, id := range ch.Names {
			b.byName[id] = ch
		}
	}
	b.balances, err = ledger.Balances(ctx, tx)
	return err
}

// of is the channel that an account holds money of.
func (b *chainBooks) of(n books.Named) *books.Channel {
	switch {
	case !n.Chan.IsZero():
		return b.channels[n.Chan]
	case !n.Closing.IsZero():
		return b.channels[n.Closing]
	case n.SCID != 0:
		return b.byName[n.SCID]
	}
	return nil
}

// move posts an entry and keeps the balances in step.
func (b *chainBooks) move(ctx context.Context, tx *store.Tx, entry ledger.Entry) error {
	if err := b.post(ctx, tx, entry); err != nil {
		return err
	}
	for _, l := range entry.Lines {
		b.balances[l.Account] += l.AmountMsat
	}
	return nil
}

// save writes back what changed.
func (b *chainBooks) save(ctx context.Context, tx *store.Tx) error {
	for op := range b.touchedChannels {
		if err := putBookChannel(ctx, tx, b.channels[op]); err != nil {
			return fmt.Errorf("write channel %s of the books: %w", op, err)
		}
	}
	for id := range b.touchedTxs {
		// What lnd no longer has is found again by its id, should it come back.
		settled := b.settled[id] || !b.txs[id].Booked
		if err := putBookTx(ctx, tx, b.txs[id], settled); err != nil {
			return fmt.Errorf("write transaction %s of the books: %w", id, err)
		}
	}
	return nil
}

// bookChain takes in what happened to channels and on chain, in one commit.
func (e *Engine) bookChain(ctx context.Context, c *cursors) (*chainBooks, error) {
	e.progress.at("channels and transactions")
	before, err := e.heldBefore(ctx)
	if err != nil {
		return nil, err
	}
	from, err := e.followFrom(ctx, *c)
	if err != nil {
		return nil, err
	}
	view, err := e.lookAtNode(ctx, from)
	if err != nil {
		return nil, err
	}
	var closed []ln.ClosedChannel
	var wants bool
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		b, err := loadChainBooks(ctx, tx, view, e.opt.Now())
		if err == nil {
			wants = b.wantsClosed()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the books: %w", err)
	}
	if wants {
		if closed, err = e.opt.Closes.ClosedChannels(ctx); err != nil {
			return nil, err
		}
	}
	raws := make(map[ln.TxID][]byte)
	for {
		var b *chainBooks
		err = e.writeBooks(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
			b, err = e.takeIn(ctx, tx, view, closed, raws, *c)
			return err
		})
		if err != nil {
			return nil, err
		}
		b.held.before = before
		c.Tip = max(c.Tip, view.tip)
		// A close whose transaction the books have not seen is looked up in its
		// block; then they go over it once more.
		if !e.fetchCloseTxs(ctx, b, raws) {
			return b, nil
		}
	}
}

// takeIn is bookChain's transaction.
func (e *Engine) takeIn(ctx context.Context, tx *store.Tx, view *nodeView, closed []ln.ClosedChannel, raws map[ln.TxID][]byte, c cursors) (*chainBooks, error) {
	b, err := loadChainBooks(ctx, tx, view, e.opt.Now())
	if err != nil {
		return nil, err
	}
	b.seeClosed(closed, c.Height)
	for op, ch := range b.channels {
		if raw := raws[ch.CloseTx]; ch.NeedsCloseTx() && len(raw) > 0 {
			ch.CloseRaw = raw
			b.touchedChannels[op] = true
		}
	}
	// What is held and the balances that say so are of one moment.
	if b.held.parts, err = e.heldParts(ctx, tx); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context, *store.Tx) error{b.followTxs, b.enter, b.index, b.settleCloses, b.save} {
		if err := step(ctx, tx); err != nil {
			return nil, err
		}
	}
	c.Tip = max(c.Tip, view.tip)
	return b, e.saveCursors(ctx, tx, c)
}

// fetchCloseTxs reads closing transactions that are needed, and says whether
// there are new ones.
func (e *Engine) fetchCloseTxs(ctx context.Context, b *chainBooks, raws map[ln.TxID][]byte) bool {
	found := false
	for _, ch := range b.channels {
		if _, tried := raws[ch.CloseTx]; tried || !ch.NeedsCloseTx() {
			continue
		}
		raw, err := e.opt.Closes.TxInBlock(ctx, ch.CloseHeight, ch.CloseTx)
		if err != nil {
			e.log.Warn("a closing transaction could not be read: its cost stays unbooked until it can",
				zap.Stringer("channel", ch.Outpoint), zap.Error(err))
		}
		raws[ch.CloseTx] = raw
		found = found || len(raw) > 0
	}
	return found
}

// followFrom is the height from which lnd's transactions are compared with the
// books: low enough for everything that a reorganisation could still change,
// and for closes that are not over.
func (e *Engine) followFrom(ctx context.Context, c cursors) (uint32, error) {
	from := min(c.Tip, e.world.tip())
	from -= min(from, buriedBlocks)
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		rows, err := lspdb.New(tx).BookTxs(ctx)
		if err != nil {
			return err
		}
		for _, row := range rows {
			t := books.Tx{}
			if err := json.Unmarshal(row.Data, &t); err != nil {
				return fmt.Errorf("decode transaction %s of the books: %w", row.Txid, err)
			}
			if t.Height > 0 {
				from = min(from, uint32(t.Height)) //nolint:gosec // a height
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read the books: %w", err)
	}
	return max(1, from, c.Floor), nil
}
