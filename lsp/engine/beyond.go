package engine

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// NodeRecords are lnd's own records of what Sluice had it do.
type NodeRecords interface {
	ListChannels(ctx context.Context) ([]ln.Channel, error)
	PendingChannels(ctx context.Context) ([]ln.PendingChannel, error)
	// InvoicesAfter and SentPayments give a page of what was made after an index, oldest
	// first, and the index to go on from.
	InvoicesAfter(ctx context.Context, after uint64) ([]ln.Invoice, uint64, error)
	SentPayments(ctx context.Context, after uint64) ([]ln.Payment, uint64, error)
	LookupInvoice(ctx context.Context, hash ln.Hash) (ln.Invoice, error)
}

// The names of marks (store.NodeMarks): lnd's indexes of invoices and payments, and each
// channel that was found once.
const (
	MarkInvoices = "invoices"
	MarkPayments = "payments"
	markChannel  = "channel "
)

// beyondPages bounds how many pages of a thousand are read of each list.
const beyondPages = 3

// Beyond is what lnd has, and the database must have if it is not an older copy: every row
// is committed before lnd is asked to act on it, and none is pruned while lnd can show
// what it was for.
type Beyond struct {
	// Found says it in sentences for the operator.
	Found []string
	// Marks are those by which the same is not found again at the next start.
	Marks map[string]int64
}

// LookBeyond compares lnd's records with the database. It reads few of them: the channels
// of now, and the invoices and payments beyond the marks. lnd is asked before the
// database: another process may serve meanwhile, and what lnd has by then is on record.
//
// Whatever counts must be out of the reach of clients, and of users of other programs on
// this lnd: who can have it found can have rows distrusted. So the memo of an ordinary
// invoice counts nothing.
func LookBeyond(ctx context.Context, db *store.DB, node NodeRecords, marks map[string]int64) (Beyond, error) {
	l := beyondLook{db: db, node: node, marks: marks, out: Beyond{Marks: make(map[string]int64)}}
	for _, look := range []func(context.Context) error{l.channels, l.payments, l.invoices} {
		if err := look(ctx); err != nil {
			return Beyond{}, err
		}
	}
	return l.out, nil
}

type beyondLook struct {
	db    *store.DB
	node  NodeRecords
	marks map[string]int64
	out   Beyond
}

func (l *beyondLook) found(format string, args ...any) {
	l.out.Found = append(l.out.Found, fmt.Sprintf(format, args...))
}

// channels looks for channels that were opened by us. An open has its outpoint on record
// before lnd verifies the funding, and so before lnd lists the channel.
func (l *beyondLook) channels(ctx context.Context) error {
	// Pending ones first: a channel that opens in between is in one of the lists.
	pending, err := l.node.PendingChannels(ctx)
	if err != nil {
		return err
	}
	open, err := l.node.ListChannels(ctx)
	if err != nil {
		return err
	}
	memos := make(map[ln.Outpoint]string)
	for _, p := range pending {
		if p.Initiator {
			memos[p.Outpoint] = p.Memo
		}
	}
	for _, c := range open {
		if c.Initiator {
			memos[c.Outpoint] = c.Memo
		}
	}
	return l.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := lspdb.New(tx)
		for _, op := range slices.SortedFunc(maps.Keys(memos), func(a, b ln.Outpoint) int { return cmp.Compare(a.String(), b.String()) }) {
			mark := markChannel + op.String()
			if _, judged := l.marks[mark]; judged {
				continue
			}
			what, known, err := recordOf(ctx, q, op, memos[op])
			if err != nil {
				return fmt.Errorf("look for the record of channel %s: %w", op, err)
			}
			if !known {
				l.found("lnd has channel %s, opened for %s, and the database has no such open", op, what)
				l.out.Marks[mark] = 1
			}
		}
		return nil
	})
}

// recordOf finds the row of a channel that its memo calls ours; what says what for.
func recordOf(ctx context.Context, q *lspdb.Queries, op ln.Outpoint, memo string) (what string, known bool, err error) {
	if t, joint := ln.ReadJointTerms(memo); joint {
		_, err = q.GetCollab(ctx, t.ID)
		what = "joint funding " + t.ID
	} else if id, ours := strings.CutPrefix(memo, openMemo("")); ours && ownID(id) {
		_, err = q.OpeningByOutpoint(ctx, op.String())
		what = id
	} else {
		return "", true, nil
	}
	if errors.Is(store.MapError(err), store.ErrNotFound) {
		return what, false, nil
	}
	return what, true, err
}

// ownID is the form of ids of payments (ULID) and of orders (UUID).
func ownID(id string) bool {
	if _, err := ulid.ParseStrict(id); err == nil {
		return true
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	return err == nil && len(raw) == 16 && id == uuid4([16]byte(raw))
}

// payments looks for wallets that were paid for wrapped invoices: lnd has a payment over
// one channel without a payment request, and a hold invoice of its own of the same hash
// that holds or has taken the payer's money. That a wrap pays is on record before.
func (l *beyondLook) payments(ctx context.Context) error {
	return eachBeyond(ctx, l.marks, MarkPayments, l.node.SentPayments, func(p ln.Payment) error {
		if p.Direct && (p.State == ln.PaymentSucceeded || p.State == ln.PaymentInFlight) {
			return l.payment(ctx, p)
		}
		return nil
	})
}

// eachBeyond gives what lnd lists beyond a mark, as many pages of it as are read. Without
// a mark nothing is beyond it.
func eachBeyond[T any](
	ctx context.Context, marks map[string]int64, mark string,
	list func(ctx context.Context, after uint64) ([]T, uint64, error), each func(T) error,
) error {
	began, begun := marks[mark]
	at := uint64(began) //nolint:gosec // an index of lnd's
	for page := 0; begun && page < beyondPages; page++ {
		items, next, err := list(ctx, at)
		if err != nil {
			return err
		}
		for _, item := range items {
			if err := each(item); err != nil {
				return err
			}
		}
		if len(items) == 0 || next <= at {
			return nil
		}
		at = next
	}
	return nil
}

func (l *beyondLook) payment(ctx context.Context, p ln.Payment) error {
	inv, err := l.node.LookupInvoice(ctx, p.Hash)
	if errors.Is(err, ln.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if inv.State != ln.InvoiceAccepted && inv.State != ln.InvoiceSettled {
		return nil
	}
	rows, err := paymentsByHash(ctx, l.db, p.Hash)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		l.found("lnd has paid %s to a wallet for a hold invoice of ours (hash %s), and the database has no such payment", p.ValueMsat, p.Hash.Short())
	}
	for _, r := range rows {
		if r.Machine == machineWrap && !r.Terminal && beforePaying(r.State) {
			l.found("lnd has paid %s to the wallet of payment %s, which the database has as %s", p.ValueMsat, r.ID, r.State)
		}
	}
	return nil
}

// beforePaying are the states of a wrap that was never about to pay. No later one leads
// back to them.
func beforePaying(state string) bool {
	return slices.Contains([]string{
		(wrap.Offered{}).StateName(), (wrap.InvoiceMade{}).StateName(), (wrap.Accepted{}).StateName(), (wrap.Opening{}).StateName(),
	}, state)
}

// paymentsByHash are those that were ever agreed on with this hash.
func paymentsByHash(ctx context.Context, db *store.DB, hash ln.Hash) (rows []lspdb.LspPayment, err error) {
	err = db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		rows, err = lspdb.New(tx).PaymentsByHash(ctx, hash[:])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for the payment of hash %s: %w", hash.Short(), err)
	}
	return rows, nil
}

// invoices looks for orders whose payer's money is held. Only hold invoices are ever
// accepted; of others the memo may be anybody's words. Of an order that was served its
// channel tells.
func (l *beyondLook) invoices(ctx context.Context) error {
	return eachBeyond(ctx, l.marks, MarkInvoices, l.node.InvoicesAfter, func(inv ln.Invoice) error {
		id, ours := strings.CutPrefix(inv.Memo, order.InvoiceMemo(""))
		if !ours || inv.State != ln.InvoiceAccepted || !ownID(id) {
			return nil
		}
		return l.order(ctx, id, inv)
	})
}

func (l *beyondLook) order(ctx context.Context, id string, inv ln.Invoice) error {
	// A wallet words the invoice that is wrapped for it as it likes.
	if rows, err := paymentsByHash(ctx, l.db, inv.Hash); err != nil || len(rows) > 0 {
		return err
	}
	err := l.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		_, err := lspdb.New(tx).GetOrder(ctx, id)
		return store.MapError(err)
	})
	if errors.Is(err, store.ErrNotFound) {
		l.found("lnd holds %s for order %s, and the database has no such order", inv.PaidMsat, id)
		return nil
	}
	return err
}
