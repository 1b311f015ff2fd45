package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// Hold invoices that an older copy of the database has never heard of. Nobody would settle
// them, lnd would give them back some blocks before they expire, and what wallets were paid
// out of them would be the gateway's loss.

// Reconciled is closed once nothing of before is left that an older copy of the database
// does not know and that may cost the gateway money.
func (e *Engine) Reconciled() <-chan struct{} { return e.reconciled }

// settleForgotten follows what the gateway pays out of such invoices to its end. An
// invoice that nothing was paid for goes back to its payer by itself.
func (e *Engine) settleForgotten(ctx context.Context) {
	var held []ln.Invoice
	e.insist(ctx, "hold invoices that the database may have forgotten could not be listed", func() (err error) {
		held, err = e.opt.Books.OpenInvoices(ctx)
		return err
	})
	var wg sync.WaitGroup
	for _, inv := range held {
		if inv.State != ln.InvoiceAccepted {
			continue
		}
		wg.Go(func() {
			e.insist(ctx, "a hold invoice that the database does not know could not be followed", func() error {
				return e.endForgotten(ctx, inv.Hash)
			})
		})
	}
	wg.Wait()
	if ctx.Err() == nil {
		close(e.reconciled)
	}
}

// insist repeats f until it succeeds or ctx ends.
func (e *Engine) insist(ctx context.Context, failure string, f func() error) {
	for {
		err := f()
		if err == nil || ctx.Err() != nil {
			return
		}
		e.log.Warn(failure+"; trying again", zap.Error(err))
		_ = pace.Pause(ctx, time.Second)
	}
}

func (e *Engine) endForgotten(ctx context.Context, hash ln.Hash) error {
	agreed, err := paymentsByHash(ctx, e.db, hash)
	if err != nil || slices.ContainsFunc(agreed, func(r lspdb.LspPayment) bool { return r.Machine == machineWrap && !r.Terminal }) {
		return err // it is looked after
	}
	p, err := e.node.Payments.TrackPayment(ctx, hash)
	if err != nil {
		return err
	}
	if p.State == ln.PaymentInFlight {
		e.log.Error("a payment is on its way to a wallet, out of a hold invoice which this database does not know: it is followed to its end", zap.Stringer("payment_hash", hash))
		if p, err = e.node.Payments.WaitPayment(ctx, hash); err != nil {
			return err
		}
	}
	switch p.State {
	case ln.PaymentSucceeded:
		e.log.Error("a wallet was paid out of a hold invoice which this database does not know: it is settled", zap.Stringer("payment_hash", hash))
		cancelled, err := e.settleHold(ctx, hash, lsp.NewSecret(p.Preimage))
		if err == nil && cancelled {
			e.log.Error("the node had given that hold invoice back: the gateway has lost what the wallet was paid", zap.Stringer("payment_hash", hash))
		}
		return err
	case ln.PaymentFailed:
		// Whose invoice it is nothing says; lnd gives it back before it expires.
		return nil
	case ln.PaymentUnknown:
		return nil // no payment of ours has this hash
	}
	return fmt.Errorf("payment %s is still in flight", hash.Short())
}
