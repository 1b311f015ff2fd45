package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// Bookkeeping asks lnd for what the books have to explain.
type Bookkeeping interface {
	WalletBalance(ctx context.Context) (ln.Balances, error)
	ForwardingHistory(ctx context.Context, since time.Time, offset, limit uint32) ([]ln.Forward, error)
	SentPayments(ctx context.Context, after uint64) ([]ln.Payment, uint64, error)
	SettledInvoices(ctx context.Context, after uint64) ([]ln.Invoice, uint64, error)
}

// ReconcileLine compares one account of the books with lnd.
type ReconcileLine struct {
	Account             string
	BooksMsat, NodeMsat int64
	Note                string
}

// ReconcileReport is the whole comparison.
type ReconcileReport struct {
	Balanced bool
	// InFlight says that HTLCs or unconfirmed transactions make figures that
	// still move.
	InFlight bool
	Lines    []ReconcileLine
}

// cursors say how far foreign business has been taken into the books.
type cursors struct {
	Began    time.Time `json:"began"`
	Height   uint32    `json:"height"`
	Forwards uint32    `json:"forwards"`
	Payments uint64    `json:"payments"`
	Invoices uint64    `json:"invoices"`
	// Counted are transactions that were unconfirmed, and so part of the
	// opening balance, when the books were opened.
	Counted []string `json:"counted,omitempty"`
}

const (
	settingCursors   = "books"
	accountEquity    = ledger.Account("equity/at_first_start")
	accountExternal  = ledger.Account("equity/outside")
	accountRouting   = ledger.Account("income/routing")
	accountPaidOut   = ledger.Account("equity/own_payments")
	accountPaidIn    = ledger.Account("equity/own_invoices")
	accountElsewhere = ledger.Account("channels/foreign")
	scopeChannels    = "channels/"
	historyPage      = 1000
)

// Reconcile takes lnd's other business (ordinary forwards, own payments and
// invoices, transactions, channels that Sluice did not open) into the books,
// entry by entry under lnd's own identifiers, and compares the result. Nothing
// is ever adjusted to fit: what no evidence explains stays a difference.
func (e *Engine) Reconcile(ctx context.Context) (ReconcileReport, error) {
	c, err := e.openBooks(ctx)
	if err != nil {
		return ReconcileReport{}, err
	}
	for _, step := range []func(context.Context, *cursors) error{
		e.bookForwards, e.bookPayments, e.bookInvoices, e.bookTransactions,
	} {
		if err := step(ctx, &c); err != nil {
			return ReconcileReport{}, err
		}
	}
	node, err := e.nodeAssets(ctx)
	if err != nil {
		return ReconcileReport{}, err
	}
	var balances map[ledger.Account]int64
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		balances, err = ledger.Balances(ctx, tx)
		return err
	})
	if err != nil {
		return ReconcileReport{}, fmt.Errorf("read the books: %w", err)
	}
	var channels, trial int64
	for account, amount := range balances {
		trial += amount
		if strings.HasPrefix(string(account), scopeChannels) {
			channels += amount
		}
	}
	report := ReconcileReport{InFlight: node.inFlight, Lines: []ReconcileLine{
		{Account: "channels", BooksMsat: channels, NodeMsat: node.channelsMsat},
		{Account: string(accountOnChain), BooksMsat: balances[accountOnChain], NodeMsat: node.onChainMsat},
		{Account: "trial balance", BooksMsat: trial},
	}}
	report.Balanced = true
	for i, l := range report.Lines {
		diff := l.NodeMsat - l.BooksMsat
		switch {
		case diff == 0:
		// lnd shows whole satoshis: each channel may hide up to one, the peer's
		// where we opened it and ours where the peer did.
		case l.Account == "channels" && max(diff, -diff) < 1000*int64(node.channels+1):
			report.Lines[i].Note = "less than a satoshi per channel, which lnd does not show"
		case node.inFlight:
			report.Lines[i].Note, report.Balanced = "payments or transactions are in flight: ask again when they are done", false
		default:
			report.Lines[i].Note, report.Balanced = "not explained by anything that lnd reports: see the runbook", false
		}
	}
	return report, nil
}

// nodeAssets is what lnd says we own.
type nodeAssets struct {
	channels                  int
	channelsMsat, onChainMsat int64
	inFlight                  bool
}

func (e *Engine) nodeAssets(ctx context.Context) (nodeAssets, error) {
	var a nodeAssets
	open, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return a, err
	}
	pending, err := e.node.Channels.PendingChannels(ctx)
	if err != nil {
		return a, err
	}
	wallet, err := e.opt.Books.WalletBalance(ctx)
	if err != nil {
		return a, err
	}
	a.channels = len(open)
	for _, c := range open {
		a.channelsMsat += channelValueMsat(c)
		a.inFlight = a.inFlight || len(c.Htlcs) > 0
	}
	for _, p := range pending {
		a.inFlight = true
		if p.Kind == ln.PendingOpen {
			a.channelsMsat += pendingValueMsat(p)
		} else {
			a.channelsMsat += int64(p.LimboSat) * 1000 //nolint:gosec // bounded by the capacity
		}
	}
	leased, err := e.leasedUnspent(ctx)
	if err != nil {
		return a, err
	}
	a.onChainMsat = int64(wallet.ConfirmedSat+wallet.UnconfirmedSat+leased) * 1000 //nolint:gosec // bounded by all bitcoin
	return a, nil
}

// leaseBlocks is more blocks than any lease lives on after its coin was spent.
const leaseBlocks = 144

// leasedUnspent is what the wallet's leased coins are worth. lnd's own
// locked_balance also counts leased coins that are spent already, until their
// leases end: those of every funding transaction that is not buried.
func (e *Engine) leasedUnspent(ctx context.Context) (ln.Sat, error) {
	leases, err := e.node.Coins.ListLeases(ctx)
	if err != nil || len(leases) == 0 {
		return 0, err
	}
	tip := e.world.tip()
	txs, err := e.node.Chain.Transactions(ctx, int32(tip-min(tip, leaseBlocks))) //nolint:gosec // a height
	if err != nil {
		return 0, err
	}
	spent := make(map[ln.Outpoint]bool)
	for _, tx := range txs {
		for _, op := range tx.Spends {
			spent[op] = true
		}
	}
	var sum ln.Sat
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

// channelValueMsat is what we own in a channel. Its opener owns all that is
// not the peer's: the commitment fee and the anchors come out of its balance.
// They are not added up from lnd's commit_fee, which contains the peer's
// anchor whenever the commitment leaves that out (nothing is the peer's yet).
// HTLCs are their offerer's until they settle.
func channelValueMsat(c ln.Channel) int64 {
	ours, theirs := int64(c.LocalSat)*1000, int64(c.RemoteSat)*1000 //nolint:gosec // bounded by the capacity
	for _, h := range c.Htlcs {
		if h.Incoming {
			theirs += int64(h.AmtMsat) //nolint:gosec // bounded by the capacity
		} else {
			ours += int64(h.AmtMsat) //nolint:gosec // bounded by the capacity
		}
	}
	if c.Initiator {
		return int64(c.CapacitySat)*1000 - theirs //nolint:gosec // bounded by all bitcoin
	}
	return ours
}

func pendingValueMsat(p ln.PendingChannel) int64 {
	if p.Initiator {
		return int64(p.CapacitySat)*1000 - int64(p.RemoteSat)*1000 //nolint:gosec // bounded by all bitcoin
	}
	return int64(p.LocalSat) * 1000 //nolint:gosec // bounded by the capacity
}

// beginBooks opens the books before anything of ours can move money: a channel
// funded earlier would be counted twice. lnd being away for a while is waited
// for.
func (e *Engine) beginBooks(ctx context.Context) error {
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

// openBooks writes the opening balance once: what lnd held when Sluice first
// looked. From then on every change has an entry.
func (e *Engine) openBooks(ctx context.Context) (cursors, error) {
	var c cursors
	found := true
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		value, err := lspdb.New(tx).GetSetting(ctx, settingCursors)
		if errors.Is(store.MapError(err), store.ErrNotFound) {
			found = false
			return nil
		}
		if err != nil {
			return err
		}
		return json.Unmarshal(value, &c)
	})
	if err != nil || found {
		return c, err
	}
	assets, err := e.nodeAssets(ctx)
	if err != nil {
		return c, err
	}
	now := e.opt.Now().UTC()
	c = cursors{Began: now, Height: e.world.tip()}
	if c, err = e.skipPast(ctx, c); err != nil {
		return c, err
	}
	txs, err := e.node.Chain.Transactions(ctx, int32(c.Height)) //nolint:gosec // a height
	if err != nil {
		return c, err
	}
	for _, tx := range txs {
		if tx.Confirmations == 0 {
			c.Counted = append(c.Counted, tx.TxID.String())
		}
	}
	return c, e.saveCursors(ctx, c, ledger.Entry{
		Key: "opening-balance", At: now, Reason: "what lnd held when Sluice first looked",
		Lines: nonZero(
			ledger.Line{Account: accountElsewhere, AmountMsat: assets.channelsMsat},
			ledger.Line{Account: accountOnChain, AmountMsat: assets.onChainMsat},
			ledger.Line{Account: accountEquity, AmountMsat: -assets.channelsMsat - assets.onChainMsat},
		),
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
	for {
		page, next, err := e.opt.Books.SentPayments(ctx, c.Payments)
		if err != nil {
			return c, err
		}
		if len(page) == 0 {
			break
		}
		c.Payments = next
	}
	for {
		page, next, err := e.opt.Books.SettledInvoices(ctx, c.Invoices)
		if err != nil {
			return c, err
		}
		if len(page) == 0 {
			return c, nil
		}
		c.Invoices = next
	}
}

func (e *Engine) saveCursors(ctx context.Context, c cursors, entries ...ledger.Entry) error {
	value, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode the books' cursors: %w", err)
	}
	err = e.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		for _, entry := range entries {
			// A flow of ours may have booked the same thing under the same key.
			booked, err := ledger.Exists(ctx, tx, entry.Key)
			if err != nil {
				return err
			}
			if booked {
				continue
			}
			if err := ledger.Post(ctx, tx, entry); err != nil {
				return err
			}
		}
		return lspdb.New(tx).PutSetting(ctx, lspdb.PutSettingParams{
			Name: settingCursors, Value: value, UpdatedMs: e.opt.Now().UnixMilli(),
		})
	})
	if err != nil {
		return fmt.Errorf("write the books: %w", err)
	}
	return nil
}

func (e *Engine) bookForwards(ctx context.Context, c *cursors) error {
	for {
		page, err := e.opt.Books.ForwardingHistory(ctx, time.Unix(0, 0), c.Forwards, historyPage)
		if err != nil {
			return err
		}
		entries := make([]ledger.Entry, 0, len(page))
		for _, f := range page {
			in, out := int64(f.IncomingMsat), int64(f.OutgoingMsat) //nolint:gosec // amounts of lnd's
			key := "forward/" + f.Incoming.String()
			if !f.HasIndexes {
				key = fmt.Sprintf("forward-at/%d", f.Offset)
			}
			entries = append(entries, ledger.Entry{
				Key: key, At: f.At, Reason: "ordinary forward",
				Lines: nonZero(
					ledger.Line{Account: chanIDAccount(f.Incoming.ChanID), AmountMsat: in},
					ledger.Line{Account: ledger.Account("channels/out/" + f.Outgoing.ChanID.String()), AmountMsat: -out},
					ledger.Line{Account: accountRouting, AmountMsat: -(in - out)},
				),
			})
		}
		c.Forwards += uint32(len(page)) //nolint:gosec // at most historyPage
		if err := e.saveCursors(ctx, *c, entries...); err != nil {
			return err
		}
		if len(page) < historyPage {
			return nil
		}
	}
}

func (e *Engine) bookPayments(ctx context.Context, c *cursors) error {
	for {
		page, next, err := e.opt.Books.SentPayments(ctx, c.Payments)
		if err != nil || len(page) == 0 {
			return err
		}
		var entries []ledger.Entry
		for _, p := range page {
			if p.State == ln.PaymentInFlight {
				// Its cursor must not pass until it has an outcome.
				return e.saveCursors(ctx, *c, entries...)
			}
			if p.State == ln.PaymentSucceeded {
				total := int64(p.ValueMsat + p.FeeMsat) //nolint:gosec // amounts of lnd's
				entries = append(entries, ledger.Entry{
					Key: "payment/" + p.Hash.String(), At: e.opt.Now(), Reason: "payment sent by the gateway's node",
					Lines: []ledger.Line{
						{Account: accountElsewhere, AmountMsat: -total},
						{Account: accountPaidOut, AmountMsat: total},
					},
				})
			}
			c.Payments = p.Index
		}
		c.Payments = next
		if err := e.saveCursors(ctx, *c, entries...); err != nil {
			return err
		}
	}
}

func (e *Engine) bookInvoices(ctx context.Context, c *cursors) error {
	for {
		page, next, err := e.opt.Books.SettledInvoices(ctx, c.Invoices)
		if err != nil || len(page) == 0 {
			return err
		}
		var entries []ledger.Entry
		for _, inv := range page {
			paid := int64(inv.PaidMsat) //nolint:gosec // an amount of lnd's
			entries = append(entries, ledger.Entry{
				Key: "invoice/" + inv.Hash.String(), At: e.opt.Now(), Reason: "invoice of the gateway's node settled",
				Lines: []ledger.Line{
					{Account: accountElsewhere, AmountMsat: paid},
					{Account: accountPaidIn, AmountMsat: -paid},
				},
			})
		}
		c.Invoices = next
		if err := e.saveCursors(ctx, *c, entries...); err != nil {
			return err
		}
	}
}

// bookTransactions takes in what happened on chain since the books were
// opened, apart from our own funding transactions, which are booked already.
func (e *Engine) bookTransactions(ctx context.Context, c *cursors) error {
	txs, err := e.node.Chain.Transactions(ctx, int32(c.Height)+1) //nolint:gosec // a height
	if err != nil {
		return err
	}
	var entries []ledger.Entry
	for _, tx := range txs {
		if strings.HasPrefix(tx.Label, "sluice open ") || slices.Contains(c.Counted, tx.TxID.String()) {
			continue
		}
		amount := tx.AmountSat * 1000
		if amount == 0 {
			continue
		}
		entries = append(entries, ledger.Entry{
			Key: "tx/" + tx.TxID.String(), At: tx.At, Reason: "transaction of the gateway's wallet",
			Lines: []ledger.Line{
				{Account: accountOnChain, AmountMsat: amount},
				{Account: accountExternal, AmountMsat: -amount},
			},
		})
	}
	return e.saveCursors(ctx, *c, entries...)
}
