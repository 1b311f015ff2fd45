package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/books"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// Bookkeeping asks lnd for what the books have to explain.
type Bookkeeping interface {
	WalletBalance(ctx context.Context) (ln.Balances, error)
	ForwardingHistory(ctx context.Context, since time.Time, offset, limit uint32) ([]ln.Forward, error)
	SentPayments(ctx context.Context, after uint64) ([]ln.Payment, uint64, error)
	SettledInvoices(ctx context.Context, after uint64) (ln.InvoicePage, error)
	// OpenInvoices are those that are neither settled nor cancelled.
	OpenInvoices(ctx context.Context) ([]ln.Invoice, error)
}

// CloseRecords tell how channels ended, and what a close cost.
type CloseRecords interface {
	ClosedChannels(ctx context.Context) ([]ln.ClosedChannel, error)
	// TxInBlock is ln.ErrNotFound when the block has no such transaction.
	TxInBlock(ctx context.Context, height uint32, id ln.TxID) ([]byte, error)
}

// cursors say how far foreign business has been taken into the books.
type cursors struct {
	Began time.Time `json:"began"`
	// Height is where the books began, Floor the lowest height of a transaction
	// that they follow, Tip the height that they have seen.
	Height uint32 `json:"height"`
	Floor  uint32 `json:"floor"`
	Tip    uint32 `json:"tip"`

	Forwards uint32 `json:"forwards"`
	// Payments and Invoices are lnd's indexes up to which nothing can change.
	Payments uint64 `json:"payments"`
	Invoices uint64 `json:"invoices"`
	// What was over when the books were opened, although it lies beyond the
	// cursors: payments by their index, invoices by their order of settlement.
	PaidBefore    []uint64 `json:"paid_before,omitempty"`
	SettledBefore uint64   `json:"settled_before"`
	// HeldBefore are incoming HTLCs that were in channels when the books were
	// opened.
	HeldBefore []ln.CircuitKey `json:"held_before,omitempty"`
}

const (
	settingCursors = "books"
	historyPage    = 1000
	// buriedBlocks is how deep a transaction must be before the books stop
	// following it.
	buriedBlocks = 144
)

// Progress says what a reconciliation is doing.
type Progress struct {
	Step  string
	Count int64
}

// progress is written by the reconciliation that runs and read by others.
type progress struct {
	step  atomic.Pointer[string]
	count atomic.Int64
}

func (p *progress) at(step string) {
	p.step.Store(&step)
	p.count.Store(0)
}

// ReconcileProgress is what a reconciliation that runs is doing now; the step
// is empty when none does.
func (e *Engine) ReconcileProgress() Progress {
	step := e.progress.step.Load()
	if step == nil {
		return Progress{}
	}
	return Progress{Step: *step, Count: e.progress.count.Load()}
}

// beginBooks opens the books before anything of ours can move money: a channel
// funded earlier would be counted twice. lnd being away for a while is waited
// for.
func (e *Engine) beginBooks(ctx context.Context) error {
	e.bookMu.Lock()
	defer e.bookMu.Unlock()
	for {
		_, err := e.openBooks(ctx)
		if err == nil || ctx.Err() != nil || !errors.Is(err, ln.ErrUnavailable) {
			return err
		}
		e.log.Warn("the books could not be opened yet", zap.Error(err))
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (e *Engine) loadCursors(ctx context.Context) (c cursors, found bool, err error) {
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		value, err := lspdb.New(tx).GetSetting(ctx, settingCursors)
		if errors.Is(store.MapError(err), store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		return json.Unmarshal(value, &c)
	})
	if err != nil {
		return c, false, fmt.Errorf("read the books' cursors: %w", err)
	}
	return c, found, nil
}

// openBooks writes the opening balance once: what lnd held when Sluice first
// looked. From then on every change has an entry.
func (e *Engine) openBooks(ctx context.Context) (cursors, error) {
	c, found, err := e.loadCursors(ctx)
	if err != nil || found {
		return c, err
	}
	// A gateway that is in business moves while it is looked at. The view counts
	// when nothing moved between two looks, with the cursors in between; on one
	// too busy for that the last look counts.
	var view *nodeView
	for range 20 {
		floor := int64(e.world.tip()) - buriedBlocks
		before, err := e.lookAtNode(ctx, uint32(max(1, floor))) //nolint:gosec // a height
		if err != nil {
			return c, err
		}
		c = cursors{Began: e.opt.Now().UTC(), Height: before.tip, Floor: uint32(max(1, floor)), Tip: before.tip} //nolint:gosec // a height
		if c, err = e.skipPast(ctx, c); err != nil {
			return c, err
		}
		if view, err = e.lookAtNode(ctx, c.Floor); err != nil {
			return c, err
		}
		if before.sameAs(view) {
			break
		}
	}
	for _, l := range view.open {
		for _, h := range l.Htlcs {
			if h.Incoming {
				c.HeldBefore = append(c.HeldBefore, h.IncomingKey(l.ChanID))
			}
		}
	}
	return c, e.writeBooks(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := openingBalance(ctx, tx, c, view); err != nil {
			return err
		}
		return e.saveCursors(ctx, tx, c)
	})
}

// openingBalance remembers every channel and every transaction that may still
// change, and posts what they and the wallet are worth.
func openingBalance(ctx context.Context, tx *store.Tx, c cursors, view *nodeView) error {
	listed := view.standing()
	channels := make(map[ln.Outpoint]*books.Channel)
	var lines []books.Line
	add := func(ch *books.Channel, account string, msat int64) {
		ch.Funded, ch.ClosingAtStart = true, ch.Phase == books.Closing
		lines = append(lines, books.Line{Account: account, Msat: msat})
	}
	for _, l := range view.open {
		ch := &books.Channel{}
		ch.SeeOpen(l)
		channels[l.Outpoint] = ch
		if value, _ := books.ValueMsat(l); !ch.Initiator || ch.Confirmed || listed[l.Outpoint.TxID] {
			add(ch, books.ChanAccount(l.Outpoint), value)
		}
	}
	for _, p := range view.pending {
		ch := &books.Channel{}
		ch.SeePending(p)
		channels[p.Outpoint] = ch
		switch {
		case p.Kind == ln.PendingOpen && p.Initiator && listed[p.Outpoint.TxID]:
			add(ch, books.ChanAccount(p.Outpoint), books.PendingValueMsat(p))
		case p.Kind == ln.PendingOpen:
		case !p.Commitment && listed[p.CloseTx]:
			// The wallet has it already.
			add(ch, books.ClosingAccount(p.Outpoint), 0)
		default:
			add(ch, books.ClosingAccount(p.Outpoint), int64(p.LimboSat)*1000) //nolint:gosec // bounded by the capacity
		}
	}
	known := books.NewKnown(channels, nil, nil)
	for _, t := range view.txs {
		if !listed[t.TxID] {
			continue
		}
		row := known.Book(t)
		// The effect is in the opening balance: if the transaction goes away
		// again, it is taken back there.
		for i, l := range row.Lines {
			if n := books.Parse(l.Account); l.Account != books.OnChain && n == (books.Named{}) {
				row.Lines[i].Account = books.AtStart
			}
		}
		row.Lines, row.AtStart, row.Booked, row.Times = books.Tidy(row.Lines), true, true, 1
		if err := putBookTx(ctx, tx, &row, false); err != nil {
			return err
		}
	}
	for _, ch := range channels {
		if err := putBookChannel(ctx, tx, ch); err != nil {
			return err
		}
	}
	lines = books.Tidy(append(lines, books.Line{Account: books.OnChain, Msat: view.onChainMsat}))
	var sum int64
	for _, l := range lines {
		sum += l.Msat
	}
	if len(lines) == 0 {
		return nil
	}
	return ledger.Post(ctx, tx, ledger.Entry{
		Key: "opening-balance", At: c.Began, Reason: "what lnd held when Sluice first looked",
		Lines: ledgerLines(append(lines, books.Line{Account: books.AtStart, Msat: -sum})),
	})
}

// skipPast moves the cursors beyond everything that happened before the
// opening balance.
func (e *Engine) skipPast(ctx context.Context, c cursors) (cursors, error) {
	for {
		page, err := e.opt.Books.ForwardingHistory(ctx, time.Unix(0, 0), c.Forwards, historyPage)
		if err != nil {
			return c, err
		}
		c.Forwards += uint32(len(page)) //nolint:gosec // at most historyPage
		if len(page) < historyPage {
			break
		}
	}
	open := false
	for at := uint64(0); ; {
		page, next, err := e.opt.Books.SentPayments(ctx, at)
		if err != nil {
			return c, err
		}
		for _, p := range page {
			open = open || p.State == ln.PaymentInFlight
			if !open {
				c.Payments = p.Index
			} else if p.State == ln.PaymentSucceeded {
				c.PaidBefore = append(c.PaidBefore, p.Index)
			}
		}
		if len(page) == 0 {
			break
		}
		at = next
	}
	open = false
	for at := uint64(0); ; {
		page, err := e.opt.Books.SettledInvoices(ctx, at)
		if err != nil {
			return c, err
		}
		if !open {
			c.Invoices = page.From
		}
		open = open || page.Open
		for _, inv := range page.Settled {
			c.SettledBefore = max(c.SettledBefore, inv.SettleIndex)
		}
		if page.Done {
			return c, nil
		}
		at = page.Next
	}
}

// writeBooks runs f in a transaction that only the holder of the lease may
// commit.
func (e *Engine) writeBooks(ctx context.Context, f func(context.Context, *store.Tx) error) error {
	if err := e.db.WriteFenced(ctx, e.opt.Fence, f); err != nil {
		return fmt.Errorf("write the books: %w", err)
	}
	return nil
}

func (e *Engine) saveCursors(ctx context.Context, tx *store.Tx, c cursors) error {
	value, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode the books' cursors: %w", err)
	}
	return lspdb.New(tx).PutSetting(ctx, lspdb.PutSettingParams{
		Name: settingCursors, Value: value, UpdatedMs: e.opt.Now().UnixMilli(),
	})
}

func putBookChannel(ctx context.Context, tx *store.Tx, ch *books.Channel) error {
	data, err := json.Marshal(ch)
	if err != nil {
		return fmt.Errorf("encode channel %s: %w", ch.Outpoint, err)
	}
	return lspdb.New(tx).PutBookChannel(ctx, lspdb.PutBookChannelParams{Outpoint: ch.Outpoint.String(), Done: ch.Done, Data: data})
}

func putBookTx(ctx context.Context, tx *store.Tx, row *books.Tx, settled bool) error {
	data, err := json.Marshal(row)
	if err != nil {
		return fmt.Errorf("encode transaction %s: %w", row.TxID, err)
	}
	return lspdb.New(tx).PutBookTx(ctx, lspdb.PutBookTxParams{Txid: row.TxID.String(), Settled: settled, Data: data})
}

// noteChannels keeps what only an open channel tells, its names and what was
// pushed: lnd does not list them once it is closing. What is missed, while
// sluiced is away or by an error, the next reconciliation learns from the list
// of open channels, or late from that of closed ones.
func (e *Engine) noteChannels(ctx context.Context) {
	list, err := e.node.Channels.ListChannels(ctx)
	if err == nil {
		err = e.rememberChannels(ctx, list)
	}
	if err != nil && ctx.Err() == nil {
		e.log.Warn("the books could not take note of the channels; the next block tries again", zap.Error(err))
	}
}

func (e *Engine) rememberChannels(ctx context.Context, list []ln.Channel) error {
	e.bookMu.Lock()
	defer e.bookMu.Unlock()
	var fresh []*books.Channel
	for _, l := range list {
		if !e.noted[l.Outpoint] {
			ch := &books.Channel{}
			ch.SeeOpen(l)
			fresh = append(fresh, ch)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if _, opened, err := e.loadCursors(ctx); err != nil || !opened {
		return err // the opening balance will have them
	}
	var unknown []*books.Channel
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		unknown = nil
		for _, ch := range fresh {
			_, err := lspdb.New(tx).GetBookChannel(ctx, ch.Outpoint.String())
			if errors.Is(store.MapError(err), store.ErrNotFound) {
				unknown = append(unknown, ch)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && len(unknown) > 0 {
		err = e.writeBooks(ctx, func(ctx context.Context, tx *store.Tx) error {
			for _, ch := range unknown {
				if err := putBookChannel(ctx, tx, ch); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return err
	}
	clear(e.noted)
	for _, l := range list {
		e.noted[l.Outpoint] = true
	}
	return nil
}

// nodeView is lnd's own account of what it holds, at one time.
type nodeView struct {
	tip     uint32
	open    []ln.Channel
	pending []ln.PendingChannel
	txs     []ln.WalletTx
	// losers are listed transactions that cannot become true.
	losers      map[ln.TxID]bool
	onChainMsat int64
	// torn says that two transactions fight over coins whose value lnd does not
	// tell, so that the wallet's balance is not known.
	torn  bool
	htlcs bool
}

// standing are the listed transactions that the books follow.
func (v *nodeView) standing() map[ln.TxID]bool {
	out := make(map[ln.TxID]bool, len(v.txs))
	for _, t := range v.txs {
		if !v.losers[t.TxID] {
			out[t.TxID] = true
		}
	}
	return out
}

func (v *nodeView) sameAs(w *nodeView) bool {
	if v.onChainMsat != w.onChainMsat || len(v.open) != len(w.open) || len(v.pending) != len(w.pending) || len(v.txs) != len(w.txs) {
		return false
	}
	for i := range v.open {
		a, b := v.open[i], w.open[i]
		if a.Outpoint != b.Outpoint || a.LocalSat != b.LocalSat || a.RemoteSat != b.RemoteSat || !slices.Equal(a.Htlcs, b.Htlcs) {
			return false
		}
	}
	return true
}

// lookAtNode asks lnd for its channels, its wallet's transactions from a height
// on, and its balance. Channels come first: a channel whose funding lnd takes
// for confirmed then has its transaction among those listed after.
func (e *Engine) lookAtNode(ctx context.Context, from uint32) (*nodeView, error) {
	v := &nodeView{tip: e.world.tip()}
	var err error
	if v.open, err = e.node.Channels.ListChannels(ctx); err != nil {
		return nil, err
	}
	if v.pending, err = e.node.Channels.PendingChannels(ctx); err != nil {
		return nil, err
	}
	if v.txs, err = e.node.Chain.Transactions(ctx, int32(from)); err != nil { //nolint:gosec // a height
		return nil, err
	}
	wallet, err := e.opt.Books.WalletBalance(ctx)
	if err != nil {
		return nil, err
	}
	leases, err := e.node.Coins.ListLeases(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range v.open {
		v.htlcs = v.htlcs || len(l.Htlcs) > 0
	}
	v.losers = books.Losers(v.txs)
	miscounted, known := books.MiscountedSat(v.txs, v.losers)
	v.torn = !known
	leased, err := leasedUnspent(leases, v.txs)
	if err != nil {
		return nil, err
	}
	v.onChainMsat = (int64(wallet.ConfirmedSat+wallet.UnconfirmedSat+leased) - miscounted) * 1000 //nolint:gosec // bounded by all bitcoin
	return v, nil
}

// leasedUnspent is what the wallet's leased coins are worth. lnd's own
// locked_balance also counts leased coins that are spent already, until their
// leases end: those of every funding transaction that is not buried.
func leasedUnspent(leases []ln.Lease, txs []ln.WalletTx) (sum ln.Sat, err error) {
	spent := make(map[ln.Outpoint]bool)
	for _, tx := range txs {
		for _, op := range tx.Spends {
			spent[op] = true
		}
	}
	for _, l := range leases {
		if spent[l.Outpoint] {
			continue
		}
		if sum, err = sum.Add(l.AmountSat); err != nil {
			return 0, err
		}
	}
	return sum, nil
}
