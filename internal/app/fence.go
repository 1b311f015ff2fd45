package app

import (
	"context"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/store"
)

// fencedPayments begins a payment only while its process certainly has the lease. lnd
// takes a second attempt once the first has failed: a process that was frozen after its
// last look and thaws when another has paid, failed, and given the payer's money back
// would pay for nothing.
type fencedPayments struct {
	*lnd.Client
	lease *store.Lease
}

func (f fencedPayments) fence() error {
	if f.lease.Valid() {
		return nil
	}
	return fmt.Errorf("pay: %w: another process may own this payment", store.ErrLeaseLost)
}

// PayDirect implements the services' Payments.
func (f fencedPayments) PayDirect(ctx context.Context, p ln.DirectPayment) (ln.Payment, error) {
	if err := f.fence(); err != nil {
		return ln.Payment{}, err
	}
	return f.Client.PayDirect(ctx, p)
}

// PayInvoice implements swaps' Payments.
func (f fencedPayments) PayInvoice(ctx context.Context, p ln.InvoicePayment) (ln.Payment, error) {
	if err := f.fence(); err != nil {
		return ln.Payment{}, err
	}
	return f.Client.PayInvoice(ctx, p)
}

// ProbeRoute implements swaps' Payments.
func (f fencedPayments) ProbeRoute(ctx context.Context, p ln.RouteProbe) (ln.Payment, error) {
	if err := f.fence(); err != nil {
		return ln.Payment{}, err
	}
	return f.Client.ProbeRoute(ctx, p)
}
