package engine

import (
	"context"
	"errors"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/order"
	lspstore "github.com/sluice-lsp/sluice/lsp/store"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// nodeRecords are an lnd's lists; the index of an invoice and of a payment is its place,
// from 1.
type nodeRecords struct {
	open     []ln.Channel
	pending  []ln.PendingChannel
	invoices []ln.Invoice
	payments []ln.Payment
	away     error
	// asked counts pages of invoices and of payments.
	asked int
}

func (n *nodeRecords) ListChannels(context.Context) ([]ln.Channel, error) { return n.open, n.away }

func (n *nodeRecords) PendingChannels(context.Context) ([]ln.PendingChannel, error) {
	return n.pending, n.away
}

func (n *nodeRecords) InvoicesAfter(_ context.Context, after uint64) ([]ln.Invoice, uint64, error) {
	n.asked++
	page := n.invoices[min(after, uint64(len(n.invoices))):]
	page = page[:min(2, len(page))]
	return page, after + uint64(len(page)), n.away
}

func (n *nodeRecords) SentPayments(_ context.Context, after uint64) ([]ln.Payment, uint64, error) {
	n.asked++
	page := n.payments[min(after, uint64(len(n.payments))):]
	page = page[:min(2, len(page))]
	return page, after + uint64(len(page)), n.away
}

func (n *nodeRecords) LookupInvoice(_ context.Context, hash ln.Hash) (ln.Invoice, error) {
	for _, inv := range n.invoices {
		if inv.Hash == hash {
			return inv, nil
		}
	}
	return ln.Invoice{}, ln.ErrNotFound
}

const (
	paymentULID = "01JABCDEFGHJKMNPQRSTVWXYZ0"
	orderUUID   = "0a1b2c3d-4e5f-4a6b-8c7d-0e1f2a3b4c5d"
)

// TestLndKnowsMore: what of lnd's records tells that the database is an older copy, and
// what does not.
func TestLndKnowsMore(t *testing.T) {
	op := ln.Outpoint{TxID: ln.TxID{7}, Index: 1}
	hash := ln.Preimage{1}.Hash()
	ours := func(memo string) []ln.Channel { return []ln.Channel{{Outpoint: op, Initiator: true, Memo: memo}} }
	paid := ln.Payment{Hash: hash, State: ln.PaymentSucceeded, ValueMsat: 5_000, Direct: true}
	hold := func(state ln.InvoiceState, memo string) []ln.Invoice {
		return []ln.Invoice{{Hash: hash, State: state, Memo: memo, PaidMsat: 9_000}}
	}
	with := func(change func(*nodeRecords)) nodeRecords {
		n := nodeRecords{invoices: hold(ln.InvoiceAccepted, "tea"), payments: []ln.Payment{paid}}
		change(&n)
		return n
	}
	marks := map[string]int64{MarkInvoices: 0, MarkPayments: 0}
	for _, c := range []struct {
		name string
		node nodeRecords
		// record is what the database has.
		record func(b shelf)
		marks  map[string]int64
		found  string
	}{
		{"nothing", nodeRecords{}, nil, marks, ""},
		{"an open channel", nodeRecords{open: ours("sluice " + paymentULID)}, nil, marks, "opened for " + paymentULID},
		{"an ordered one", nodeRecords{open: ours("sluice " + orderUUID)}, nil, marks, "opened for " + orderUUID},
		{"one that opens", nodeRecords{pending: []ln.PendingChannel{{Kind: ln.PendingOpen, Outpoint: op, Initiator: true, Memo: "sluice " + paymentULID}}}, nil, marks, op.String()},
		{"one that closes", nodeRecords{pending: []ln.PendingChannel{{Kind: ln.PendingForceClose, Outpoint: op, Initiator: true, Memo: "sluice " + paymentULID}}}, nil, marks, op.String()},
		{"one on record", nodeRecords{open: ours("sluice " + paymentULID)}, func(b shelf) { b.opened(op.String(), "usable") }, marks, ""},
		// An open that failed may have left a channel that lnd lists.
		{"one on record as failed", nodeRecords{open: ours("sluice " + paymentULID)}, func(b shelf) { b.opened(op.String(), "failed") }, marks, ""},
		// The copy is of before lnd was asked to verify its funding.
		{"one whose open has no outpoint yet", nodeRecords{open: ours("sluice " + paymentULID)}, func(b shelf) { b.opened("", "leased") }, marks, op.String()},
		{"one that was found at an earlier start", nodeRecords{open: ours("sluice " + paymentULID)}, nil, map[string]int64{markChannel + op.String(): 1}, ""},
		{"a joint funding", nodeRecords{open: ours(ln.JointTerms{ID: "j1"}.Memo())}, nil, marks, "joint funding j1"},
		{"a joint funding on record", nodeRecords{open: ours(ln.JointTerms{ID: "j1"}.Memo())}, shelf.joint, marks, ""},
		{"somebody else's memo", nodeRecords{open: ours("sluice of the old mill")}, nil, marks, ""},
		{"no memo", nodeRecords{open: ours("")}, nil, marks, ""},
		{"a tenant's first channel", nodeRecords{open: ours("first channel, by sluicectl tenant add")}, nil, marks, ""},
		// lnd shows the opener's memo to the opener only.
		{"a peer's channel", nodeRecords{open: []ln.Channel{{Outpoint: op, Memo: "sluice " + paymentULID}}}, nil, marks, ""},

		{"a wallet was paid", with(func(*nodeRecords) {}), nil, marks, "the database has no such payment"},
		{"and the payer's money was taken", with(func(n *nodeRecords) { n.invoices[0].State = ln.InvoiceSettled }), nil, marks, "the database has no such payment"},
		{"a wallet is being paid", with(func(n *nodeRecords) { n.payments[0].State = ln.PaymentInFlight }), nil, marks, "the database has no such payment"},
		{"its payment failed", with(func(n *nodeRecords) { n.payments[0].State = ln.PaymentFailed }), nil, marks, ""},
		{"paid before the mark", with(func(*nodeRecords) {}), nil, map[string]int64{MarkInvoices: 1, MarkPayments: 1}, ""},
		{"the database has no marks yet", with(func(*nodeRecords) {}), nil, nil, ""},
		{"somebody paid an invoice", with(func(n *nodeRecords) { n.payments[0].Direct = false }), nil, marks, ""},
		{"a peer was paid, without a hold invoice", with(func(n *nodeRecords) { n.invoices = nil }), nil, marks, ""},
		// Whoever has the gateway pay a hash for another reason cannot have the payment
		// that is wrapped for it distrusted.
		{"the invoice is not paid", with(func(n *nodeRecords) { n.invoices[0].State = ln.InvoiceOpen }), func(b shelf) { b.wrapIn(hash, "invoice_made") }, marks, ""},
		{"on record as paying", with(func(*nodeRecords) {}), func(b shelf) { b.wrapIn(hash, "paying") }, marks, ""},
		{"on record as settled", with(func(*nodeRecords) {}), func(b shelf) { b.wrapIn(hash, "settled") }, marks, ""},
		{"on record as not paid yet", with(func(*nodeRecords) {}), func(b shelf) { b.wrapIn(hash, "invoice_made") }, marks, "which the database has as invoice_made"},
		{"on record as held", with(func(*nodeRecords) {}), func(b shelf) { b.wrapIn(hash, "accepted") }, marks, "which the database has as accepted"},
		{"deep in the list", with(func(n *nodeRecords) {
			n.payments = append(make([]ln.Payment, 2*beyondPages-1), paid)
		}), nil, marks, "the database has no such payment"},
		{"too deep", with(func(n *nodeRecords) { n.payments = append(make([]ln.Payment, 2*beyondPages), paid) }), nil, marks, ""},

		{"an order's money is held", nodeRecords{invoices: hold(ln.InvoiceAccepted, order.InvoiceMemo(orderUUID))}, nil, marks, "for order " + orderUUID},
		{"an order on record", nodeRecords{invoices: hold(ln.InvoiceAccepted, order.InvoiceMemo(orderUUID))}, func(b shelf) { b.ordered(orderUUID) }, marks, ""},
		// Anybody who can word an invoice of another program here could write it.
		{"the words of a settled invoice", nodeRecords{invoices: hold(ln.InvoiceSettled, order.InvoiceMemo(orderUUID))}, nil, marks, ""},
		{"the words of an open invoice", nodeRecords{invoices: hold(ln.InvoiceOpen, order.InvoiceMemo(orderUUID))}, nil, marks, ""},
		{"the words of a wallet", nodeRecords{invoices: hold(ln.InvoiceAccepted, order.InvoiceMemo(orderUUID))}, func(b shelf) { b.wrapIn(hash, "accepted") }, marks, ""},
		{"other words", nodeRecords{invoices: hold(ln.InvoiceAccepted, "channel order for the port")}, nil, marks, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := storetest.Open(t, storetest.SQLite(t))
			b := newShelf(t, db)
			if c.record != nil {
				c.record(b)
			}
			got, err := LookBeyond(t.Context(), db, &c.node, c.marks)
			require.NoError(t, err)
			if c.found == "" {
				require.Empty(t, got.Found)
				return
			}
			require.Len(t, got.Found, 1)
			require.Contains(t, got.Found[0], c.found)

			// Once the marks are noted it is not found again.
			later := maps.Clone(c.marks)
			maps.Copy(later, got.Marks)
			later[MarkInvoices], later[MarkPayments] = int64(len(c.node.invoices)), int64(len(c.node.payments))
			again, err := LookBeyond(t.Context(), db, &c.node, later)
			require.NoError(t, err)
			require.Empty(t, again.Found)
		})
	}
}

// TestLndAwayTellsNothing: an lnd that does not answer is an error, not an agreement.
func TestLndAwayTellsNothing(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t))
	newShelf(t, db)
	_, err := LookBeyond(t.Context(), db, &nodeRecords{away: ln.ErrUnavailable}, nil)
	require.True(t, errors.Is(err, ln.ErrUnavailable), "%v", err)
}

// TestLookingBeyondIsBounded: a gateway with much other business is not read through.
func TestLookingBeyondIsBounded(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t))
	newShelf(t, db)
	n := &nodeRecords{invoices: make([]ln.Invoice, 100), payments: make([]ln.Payment, 100)}
	_, err := LookBeyond(t.Context(), db, n, map[string]int64{MarkInvoices: 0, MarkPayments: 0})
	require.NoError(t, err)
	require.Equal(t, 2*beyondPages, n.asked)
}

// shelf is a database that a test writes records into.
type shelf struct {
	t  *testing.T
	db *store.DB
}

func newShelf(t *testing.T, db *store.DB) shelf {
	t.Helper()
	for _, migrate := range []func(context.Context, *store.DB) error{fsm.Migrate, ledger.Migrate, lspstore.Migrate} {
		require.NoError(t, migrate(t.Context(), db))
	}
	return shelf{t, db}
}

// ordered puts an order on record.
func (b shelf) ordered(id string) {
	b.record(func(ctx context.Context, q *lspdb.Queries) error {
		client := key(2)
		return q.InsertOrder(ctx, lspdb.InsertOrderParams{ID: id, Client: client[:], State: "created"})
	})
}

// opened puts an open on record.
func (b shelf) opened(outpoint, state string) {
	b.record(func(ctx context.Context, q *lspdb.Queries) error {
		client := key(2)
		return q.InsertOpening(ctx, lspdb.InsertOpeningParams{
			ID: paymentULID + "-open-1", PaymentID: paymentULID, Client: client[:], Outpoint: outpoint, State: state, Terminal: state == "failed",
		})
	})
}

// joint puts a joint funding on record.
func (b shelf) joint() {
	b.record(func(ctx context.Context, q *lspdb.Queries) error {
		client := key(2)
		return q.InsertCollab(ctx, lspdb.InsertCollabParams{ID: "j1", Client: client[:], State: "offered"})
	})
}

// wrapIn puts a wrapped payment on record.
func (b shelf) wrapIn(hash ln.Hash, state string) {
	b.record(func(ctx context.Context, q *lspdb.Queries) error {
		client := key(2)
		return q.InsertPayment(ctx, lspdb.InsertPaymentParams{
			ID: paymentULID, Machine: machineWrap, Client: client[:], PaymentHash: hash[:], State: state, Terminal: state == "settled",
		})
	})
}

func (b shelf) record(f func(context.Context, *lspdb.Queries) error) {
	b.t.Helper()
	require.NoError(b.t, b.db.Write(b.t.Context(), func(ctx context.Context, tx *store.Tx) error { return f(ctx, lspdb.New(tx)) }))
}
