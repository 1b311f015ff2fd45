package engine

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/books"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// TestAnOlderCopyFindsTheWalletPaid: the database was put back to before a
// wrapped payment was held. Whether the hold invoice is still held or settled by
// now, and although the time of the offer is over, the payment ends settled, and
// the books have what came in, what went out and the fee.
func TestAnOlderCopyFindsTheWalletPaid(t *testing.T) {
	for _, state := range []ln.InvoiceState{ln.InvoiceAccepted, ln.InvoiceSettled} {
		t.Run(string(state), func(t *testing.T) {
			preimage := ln.Preimage{1, 2, 3}
			hash := preimage.Hash()
			terms := wrap.Terms{
				ID: "offer", Client: ln.PubKey{2, 1}, Hash: hash, PayerMsat: 100_000_000, WalletMsat: 98_000_000, FeeMsat: 2_000_000,
				WalletFinalCltv: 80, HoldFinalCltv: 180, PadBlocks: 3, MarginBlocks: 60, HoldExpiryDelta: 18,
				ZeroConf: true, MayOpenMore: true, ExpiresAt: time.Now().Add(-time.Minute), WaitFor: time.Minute, OpenFor: time.Minute,
				MaxOpens: 2, MaxPayments: 2,
			}
			n := newFakeNode()
			cfg := database(t)
			older := newEngine(t, cfg, n, nil)
			_, err := older.wraps.Create(t.Context(), "offer", wrap.Offered{Offer: wrap.Offer{Terms: terms}}, wrap.InvoiceAdded{Moment: at(100), Bolt11: "wrapped"})
			require.NoError(t, err)
			older.stop()

			n.payments[hash] = ln.Payment{Hash: hash, State: ln.PaymentSucceeded, Preimage: preimage}
			n.invoices[hash] = ln.Invoice{Hash: hash, State: state, Htlcs: []ln.InvoiceHtlc{
				{Key: ln.CircuitKey{ChanID: 7, HtlcID: 1}, AmtMsat: 100_000_000, Expiry: 900, State: ln.InvoiceCanceled},
				{Key: ln.CircuitKey{ChanID: 7, HtlcID: 2}, AmtMsat: 60_000_000, Expiry: 900, State: state},
				{Key: ln.CircuitKey{ChanID: 7, HtlcID: 3}, AmtMsat: 40_000_000, Expiry: 900, State: state},
			}}
			e := newEngine(t, cfg, n, nil)
			_, err = e.wraps.Recover(t.Context())
			require.NoError(t, err)
			tell(e, e.wraps, "offer", wrap.Event(wrap.Tick{Moment: lsp.Moment{At: time.Now(), Height: 100}}))
			require.Eventually(t, func() bool {
				inst, err := e.wraps.Get(t.Context(), "offer")
				return err == nil && wrap.Final(inst.State)
			}, 10*time.Second, 10*time.Millisecond)
			inst, err := e.wraps.Get(t.Context(), "offer")
			require.NoError(t, err)
			require.Equal(t, "settled", inst.State.StateName())
			require.Equal(t, []ln.Hash{hash}, n.settled)

			var balances map[ledger.Account]int64
			require.NoError(t, storetest.Open(t, cfg).Read(t.Context(), func(ctx context.Context, tx *store.Tx) (err error) {
				balances, err = ledger.Balances(ctx, tx)
				return err
			}))
			require.EqualValues(t, 100_000_000, balances[ledger.Account(books.InAccount(7))])
			require.EqualValues(t, -98_000_000, balances[ledger.Account(books.PeerAccount(terms.Client))])
			require.EqualValues(t, -2_000_000, balances[books.OpeningFee])
		})
	}
}

// acknowledged is an interceptor's ledger that is told of outcomes, and no more.
type acknowledged struct{ Held }

func (acknowledged) Acknowledge(context.Context, []ln.CircuitKey) error { return nil }

// TestAnOlderCopyHearsThatAPartWasClaimed: what the copy calls held was handed on,
// and claimed while nobody looked. That the row lapsed and that it was settled come
// at once: the payment is paid, not taken back.
func TestAnOlderCopyHearsThatAPartWasClaimed(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		b := newOffice(t, open(), func(*Config) {})
		b.e.opt.Restored, b.e.opt.Held = true, acknowledged{}
		a, hash := b.agree(key(2), 100_000_000)
		require.NoError(t, b.part(a, hash, 1))
		require.NotEmpty(t, jit.PartsOf(b.state(a.PaymentID)))
		end := HtlcEvent{
			Htlc:  ln.InterceptedHtlc{Key: ln.CircuitKey{ChanID: 7, HtlcID: 1}, Hash: hash, OutgoingSCID: a.SCID},
			Known: true, Settled: true, Reason: "lnd resolved it without a decision of ours",
		}
		for _, kind := range []HtlcEventKind{HtlcDecided, HtlcGone} {
			end.Kind = kind
			b.e.onHtlc(end)
		}
		require.Equal(t, "paid", b.state(a.PaymentID).StateName())
	})
}

// TestACutOffPaymentIsNotTakenForNeverSent: the call that paid the wallet was cut off while
// lnd's database was busy, and lnd carries it out a moment after it was asked about it. The
// payer's money must not be on its way back by then.
func TestACutOffPaymentIsNotTakenForNeverSent(t *testing.T) {
	for _, payments := range []uint32{0, 1} {
		preimage := ln.Preimage{4, 2}
		hash := preimage.Hash()
		n := newFakeNode()
		e := newEngine(t, database(t), n, nil)
		_, err := e.wraps.Create(t.Context(), "offer", wrap.Offered{Offer: wrap.Offer{
			Terms: wrap.Terms{ID: "offer", Client: ln.PubKey{2, 1}, Hash: hash, ExpiresAt: time.Now().Add(time.Hour)}, Progress: wrap.Progress{Payments: payments},
		}}, wrap.InvoiceAdded{Moment: at(100), Bolt11: "wrapped"})
		require.NoError(t, err)
		asked := 0
		n.onTrack = func() {
			if asked++; asked == 3 {
				n.payments[hash] = ln.Payment{Hash: hash, State: ln.PaymentSucceeded, Preimage: preimage}
			}
		}
		p, err := e.lastWord(t.Context(), "offer", hash)
		require.NoError(t, err)
		if payments == 0 {
			require.Equal(t, ln.PaymentUnknown, p.State, "nobody had tried: nothing can come")
			require.Equal(t, 1, asked)
		} else {
			require.Equal(t, ln.PaymentSucceeded, p.State)
		}
	}
}
