package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/watchtower/credit"
	"github.com/sluice-lsp/sluice/watchtower/store/towerdb"
)

// The accounts of the tower. What the node received over channels is booked from
// lnd's own list of invoices against equity/own_invoices; credit explains that
// account.
const (
	OwnInvoices   ledger.Account = "equity/own_invoices"
	UpdatesIncome ledger.Account = "income/tower_updates"
)

// CreditAccount is what is owed to a tenant in updates that it has paid.
func CreditAccount(identity string) ledger.Account { return ledger.Account("towers/" + identity) }

// Purchase is a purchase of credit as it stands.
type Purchase struct {
	ID         ln.Hash
	Tenant     int64
	State      string
	AmountMsat ln.Msat
	PaidMsat   ln.Msat
	Bolt11     string
	Reason     string
	Created    time.Time
	Expires    time.Time
	Changed    time.Time
}

// RecordPurchase stores, in the transition's own transaction, how a purchase
// stands, and what the transition adds to the tenant's credit or takes from it,
// with its entry in the books. seq makes the entry's key: a transition is booked
// once.
func RecordPurchase(ctx context.Context, tx *store.Tx, from, to credit.State, seq int64, at time.Time) error {
	q, p := towerdb.New(tx), credit.PlanOf(to)
	was, err := credit.RecordedMsat(from).Int64()
	if err != nil {
		return err
	}
	is, err := credit.RecordedMsat(to).Int64()
	if err != nil {
		return err
	}
	amount, err := p.AmountMsat.Int64()
	if err != nil {
		return err
	}
	hash := p.Hash()
	row := towerdb.PutPurchaseParams{
		ID: hash[:], Tenant: p.Tenant, State: to.StateName(), AmountMsat: amount, PaidMsat: is, Reason: credit.ReasonOf(to),
		CreatedMs: p.At.UnixMilli(), ExpiresMs: p.Expires.UnixMilli(), ChangedMs: at.UnixMilli(),
	}
	if s, ok := to.(credit.Offered); ok {
		row.Bolt11 = s.Bolt11
	}
	if err := q.PutPurchase(ctx, row); err != nil {
		return fmt.Errorf("store purchase: %w", err)
	}
	change := is - was
	if change == 0 {
		return nil
	}
	n, err := q.AddCredit(ctx, towerdb.AddCreditParams{ID: p.Tenant, CreditMsat: change})
	if err != nil {
		return fmt.Errorf("record credit: %w", err)
	}
	if n != 1 {
		return fmt.Errorf("record credit: there is no tenant %d", p.Tenant)
	}
	reason := "credit for a watchtower's updates was paid"
	if change < 0 {
		reason = "a payment for a watchtower's updates went back"
	}
	return ledger.Post(ctx, tx, ledger.Entry{
		Key: fmt.Sprintf("tower/purchase/%s/%d", p.ID(), seq), At: at, Reason: reason, Reference: p.ID(),
		Lines: ledger.Move(CreditAccount(p.Identity), OwnInvoices, change),
	})
}

// BookDrawn books what updates have cost since the last time, and says whether
// there is more to book. It may run in several processes at once: an entry is
// named by what was drawn in all, which only grows.
func (s *Store) BookDrawn(ctx context.Context) (booked int, err error) {
	err = s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := towerdb.New(tx)
		booked = 0
		rows, err := q.UnbookedTenants(ctx, bookAtOnce)
		if err != nil {
			return fmt.Errorf("list what is not booked: %w", err)
		}
		for _, r := range rows {
			if err := ledger.Post(ctx, tx, ledger.Entry{
				Key: fmt.Sprintf("tower/drawn/%d/%d", r.ID, r.DrawnMsat), At: tx.Now(), Reason: "updates that a watchtower stored", Reference: r.Identity,
				Lines: ledger.Move(UpdatesIncome, CreditAccount(r.Identity), r.DrawnMsat-r.BookedMsat),
			}); err != nil {
				return err
			}
			if err := q.SetBooked(ctx, towerdb.SetBookedParams{ID: r.ID, BookedMsat: r.DrawnMsat}); err != nil {
				return fmt.Errorf("mark as booked: %w", err)
			}
			booked++
		}
		return nil
	})
	return booked, err
}

// bookAtOnce keeps the transaction short.
const bookAtOnce = 100

// OpenPurchases counts the purchases of a tenant that are not paid, in the
// transaction that may add one.
func OpenPurchases(ctx context.Context, tx *store.Tx, tenant int64) (int64, error) {
	n, err := towerdb.New(tx).CountPurchases(ctx, tenant)
	if err != nil {
		return 0, fmt.Errorf("count purchases: %w", err)
	}
	return n, nil
}

// Purchases lists a tenant's purchases, newest first.
func (s *Store) Purchases(ctx context.Context, tenant int64, limit int) (out []Purchase, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		rows, err := towerdb.New(tx).ListPurchases(ctx, towerdb.ListPurchasesParams{Tenant: tenant, Limit: page(limit)})
		if err != nil {
			return fmt.Errorf("list purchases: %w", err)
		}
		for _, r := range rows {
			p, err := purchaseOf(r)
			if err != nil {
				return err
			}
			out = append(out, p)
		}
		return nil
	})
	return out, err
}

// Purchase finds a purchase of a tenant's.
func (s *Store) Purchase(ctx context.Context, tenant int64, id ln.Hash) (out Purchase, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		row, err := towerdb.New(tx).GetPurchase(ctx, towerdb.GetPurchaseParams{Tenant: tenant, ID: id[:]})
		if err = store.MapError(err); errors.Is(err, store.ErrNotFound) {
			return errkind.New(errkind.NotFound, "There is no such purchase of this registration.")
		}
		if err != nil {
			return fmt.Errorf("read purchase: %w", err)
		}
		out, err = purchaseOf(row)
		return err
	})
	return out, err
}

func purchaseOf(r towerdb.TowerPurchase) (Purchase, error) {
	id, err := ln.HashFromBytes(r.ID)
	if err != nil {
		return Purchase{}, fmt.Errorf("a purchase's id: %w", err)
	}
	//nolint:gosec // amounts were written from ln.Msat
	return Purchase{
		ID: id, Tenant: r.Tenant, State: r.State, AmountMsat: ln.Msat(r.AmountMsat), PaidMsat: ln.Msat(r.PaidMsat), Bolt11: r.Bolt11, Reason: r.Reason,
		Created: time.UnixMilli(r.CreatedMs), Expires: time.UnixMilli(r.ExpiresMs), Changed: time.UnixMilli(r.ChangedMs),
	}, nil
}

// ForgetPurchases deletes purchases that came to nothing before a moment, each
// with its story, by forget.
func (s *Store) ForgetPurchases(ctx context.Context, before time.Time, forget func(ctx context.Context, tx *store.Tx, id string) error) (n int, err error) {
	err = s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		n = 0
		q := towerdb.New(tx)
		ids, err := q.OverPurchases(ctx, towerdb.OverPurchasesParams{ChangedMs: before.UnixMilli(), Limit: bookAtOnce})
		if err != nil {
			return fmt.Errorf("list purchases that are over: %w", err)
		}
		for _, raw := range ids {
			id, err := ln.HashFromBytes(raw)
			if err != nil {
				return fmt.Errorf("a purchase's id: %w", err)
			}
			if err := forget(ctx, tx, id.String()); err != nil {
				return err
			}
			if err := q.DeletePurchase(ctx, raw); err != nil {
				return fmt.Errorf("delete purchase: %w", err)
			}
			n++
		}
		return nil
	})
	return n, err
}
