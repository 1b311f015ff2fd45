package app

import (
	"sync"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// heldLine is what the books hold of payers' money, beside lnd's HTLCs.
func heldLine(t *testing.T, books *lspv1.ReconcileResponse) *lspv1.ReconcileLine {
	t.Helper()
	for _, l := range books.GetLines() {
		if l.Account == "held" {
			return l
		}
	}
	require.Fail(t, "the comparison has no line for what is held")
	return nil
}

// holdsNothing: every payer's money has gone back or has become what it paid for.
func holdsNothing(t *testing.T, books *lspv1.ReconcileResponse) {
	t.Helper()
	l := heldLine(t, books)
	require.Zero(t, l.BooksMsat, "the books still hold something of a payer's: %s", lines(books))
	require.Zero(t, l.LndMsat, lines(books))
}

// What a payment holds is in the books, and in lnd's channels, for as long as it waits,
// also over a restart.
func TestHeldIsInTheBooks(t *testing.T) {
	for _, j := range jobs()[:4] {
		t.Run(j.name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: j, latency: lndfake.Observed()})
				r.openBooks()
				a := r.agree()
				r.w.Disconnect(r.gateway, r.wallet)
				paid := r.pay(a.bolt11)
				r.pause(20 * time.Second)
				holds := func() {
					t.Helper()
					books := r.reconcile()
					require.True(t, books.Balanced, lines(books))
					require.Empty(t, books.Details)
					l := heldLine(t, books)
					require.Equal(t, r.w.Wealth(r.payer).InFlightMsat, l.BooksMsat, lines(books))
					require.GreaterOrEqual(t, l.BooksMsat, a.payerMsat)
					require.Equal(t, l.BooksMsat, l.LndMsat)
				}
				holds()
				r.killProcess()
				r.pause(time.Second)
				r.up()
				holds()
				r.w.Connect(r.gateway, r.wallet)
				m := r.outcome(paid)
				require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, r.stories())
				r.settle()
				r.check(a, m)
			})
		})
	}
}

// A reconciliation beside payments that come and go finds nothing held that lnd does
// not have, and nothing less.
func TestHeldDoesNotFlap(t *testing.T) {
	for _, j := range append(jobs()[:2], jobs()[4:6]...) {
		j.amountSat = 60_000
		t.Run(j.name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: j, latency: lndfake.Observed()})
				r.openBooks()
				over, looks, held := make(chan struct{}), 0, 0
				var off []string
				var looking sync.WaitGroup
				looking.Go(func() {
					for {
						select {
						case <-over:
							return
						case <-time.After(time.Duration(7+looks%23) * time.Millisecond):
						}
						books, err := r.service.Load().operator.Reconcile(r.ctx, &lspv1.ReconcileRequest{})
						if err != nil {
							off = append(off, err.Error())
							continue
						}
						looks++
						for _, l := range books.Lines {
							if l.Account == "held" && l.DifferenceMsat != 0 {
								off = append(off, lines(books))
							}
							if l.Account == "held" && l.BooksMsat != 0 {
								held++
							}
						}
					}
				})
				func() {
					defer looking.Wait()
					defer close(over)
					for range 5 {
						a := r.agree()
						require.Equal(t, lnrpc.Payment_SUCCEEDED, r.outcome(r.pay(a.bolt11)).Status, r.stories())
					}
				}()
				require.Empty(t, off)
				require.NotZero(t, held, "of %d looks none fell into a payment", looks)
				t.Logf("%d looks, %d of them while something was held", looks, held)
			})
		})
	}
}
