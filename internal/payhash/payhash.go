// Package payhash keeps payment hashes apart. A node knows one invoice and one payment by
// a hash, whoever made it, and clients choose the hashes of what they have wrapped or
// swapped: one hash in two flows would have one of them cancel, or count as its own, what
// the other holds or pays. The package promises that
//
//   - a hash belongs to one flow of one service (Claim), from the transaction on that
//     agrees on the flow;
//   - no flow begins with a hash that the node knows already (Unknown), from before or from
//     programs that are not ours;
//   - an invoice is added once however often it is tried, and another's is never taken for
//     it (HoldInvoice).
package payhash

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash/payhashdb"
	"github.com/sluice-lsp/sluice/internal/store"
)

// ErrTaken says that a payment hash is in use, or was.
var ErrTaken = errkind.New(errkind.Conflict, "this payment hash is in use at the gateway, or was: make a new invoice, or a new swap, with a hash of its own")

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the table up to date.
func Migrate(ctx context.Context, db *store.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("migrations of the payment hashes: %w", err)
	}
	return store.Migrate(ctx, db, "payhash", files)
}

// Claim makes a hash the owner's in the caller's transaction, which stays good if it is
// ErrTaken. Owners are named "service/id".
func Claim(ctx context.Context, tx *store.Tx, hash ln.Hash, owner string) error {
	_, err := payhashdb.New(tx.Later(store.OneRow(ErrTaken))).InsertHash(ctx, payhashdb.InsertHashParams{Hash: hash[:], Owner: owner})
	return err
}

// Release forgets the claims of an owner whose flow is deleted.
func Release(ctx context.Context, tx *store.Tx, owner string) error {
	return payhashdb.New(tx).DeleteHashes(ctx, owner)
}

// Invoices are the node's.
type Invoices interface {
	// LookupInvoice of an unknown hash is ln.ErrNotFound.
	LookupInvoice(ctx context.Context, hash ln.Hash) (ln.Invoice, error)
}

// Holder makes hold invoices.
type Holder interface {
	Invoices
	// AddHoldInvoice of a hash that the node has already is ln.ErrExists.
	AddHoldInvoice(ctx context.Context, r ln.HoldInvoiceRequest) (bolt11 string, err error)
}

// Payments are the node's.
type Payments interface {
	TrackPayment(ctx context.Context, hash ln.Hash) (ln.Payment, error)
}

// Unknown is ErrTaken if the node knows an invoice or a payment of one of the hashes. What
// it says of that one would be taken for what it says of the flow's.
func Unknown(ctx context.Context, invoices Invoices, payments Payments, hashes ...ln.Hash) error {
	for _, hash := range hashes {
		if _, err := invoices.LookupInvoice(ctx, hash); err == nil {
			return ErrTaken
		} else if !errors.Is(err, ln.ErrNotFound) {
			return err
		}
		p, err := payments.TrackPayment(ctx, hash)
		if err != nil {
			return err
		}
		if p.State != ln.PaymentUnknown {
			return ErrTaken
		}
	}
	return nil
}

// HoldInvoice adds a hold invoice, or finds the one that an earlier attempt of the same
// flow added. refused says why there will be none; after an error it is tried again.
//
// The flow has claimed the hash, so only a program that is not ours can have made another
// one since. It would have to be alike in everything that is compared here.
func HoldInvoice(ctx context.Context, node Holder, r ln.HoldInvoiceRequest) (inv ln.Invoice, refused string, err error) {
	_, err = node.AddHoldInvoice(ctx, r)
	if errors.Is(err, ln.ErrUnavailable) {
		return inv, "", err
	}
	if err != nil && !errors.Is(err, ln.ErrExists) {
		return inv, err.Error(), nil
	}
	if inv, err = node.LookupInvoice(ctx, r.Hash); err != nil {
		return inv, "", err
	}
	if inv.AmountMsat != r.AmountMsat || inv.Memo != r.Memo || inv.State != ln.InvoiceOpen ||
		r.FinalCltvDelta != 0 && inv.FinalCltvDelta != r.FinalCltvDelta {
		return ln.Invoice{}, "the node's invoice of this hash is another one, or has ended", nil
	}
	return inv, "", nil
}
