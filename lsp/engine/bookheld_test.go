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

// accounts are all balances, and the entries of one payment.
func accounts(t *testing.T, db *store.DB, reference string) (balances map[ledger.Account]int64, entries []ledger.Entry) {
	t.Helper()
	require.NoError(t, db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) (err error) {
		if balances, err = ledger.Balances(ctx, tx); err != nil {
			return err
		}
		entries, err = ledger.Entries(ctx, tx, reference)
		return err
	}))
	return balances, entries
}

// What a payment holds is in the books from the state that holds it to the one that
// gives it back: what comes together has one entry.
func TestHeldIsPostedWithTheState(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		b := newOffice(t, open(), func(*Config) {})
		a, hash := b.agree(key(2), 100_000_000)
		parts := func(first uint64, amounts ...ln.Msat) (htlcs []HtlcEvent, sum int64) {
			for i, out := range amounts {
				in := out + a.Quote.FeeMsat*out/100_000_000 + 1
				htlcs = append(htlcs, HtlcEvent{Htlc: ln.InterceptedHtlc{
					Key: ln.CircuitKey{ChanID: 7, HtlcID: first + uint64(i)}, Hash: hash, IncomingMsat: in, OutgoingMsat: out, //nolint:gosec // an index
					IncomingExpiry: testHeight + 163, OutgoingExpiry: testHeight + 83, OutgoingSCID: a.SCID, AutoFailHeight: testHeight + 144,
				}})
				sum += int64(in) //nolint:gosec // small
			}
			return htlcs, sum
		}
		first, sum := parts(1, 10_000_000, 20_000_000, 30_000_000)
		b.e.partsOffered(first)
		balances, entries := accounts(t, b.e.db, a.PaymentID)
		require.Equal(t, sum, balances[books.HeldPayments])
		require.Equal(t, -sum, balances[books.HeldPayers])
		require.Len(t, entries, 1, "three parts came together")
		require.Len(t, entries[0].Lines, 2)
		require.Equal(t, b.usage(key(2)).All.HeldSat, ln.Msat(sum).ToSatCeil()) //nolint:gosec // positive

		// The same again holds nothing more, and the rest does.
		more, last := parts(4, 40_000_000)
		b.e.partsOffered(append(first[:1], more...))
		balances, _ = accounts(t, b.e.db, a.PaymentID)
		require.Equal(t, sum+last, balances[books.HeldPayments])

		// The wallet does not come: everything goes back.
		_, err := b.e.jits.Send(t.Context(), a.PaymentID, jit.Tick{Moment: lsp.Moment{At: time.Now().Add(5 * time.Minute), Height: testHeight}})
		require.NoError(t, err)
		require.Equal(t, "offered", b.state(a.PaymentID).StateName())
		balances, entries = accounts(t, b.e.db, a.PaymentID)
		require.Zero(t, balances[books.HeldPayments])
		require.Zero(t, balances[books.HeldPayers])
		require.Len(t, entries, 3)
	})
}

// lose plays a wrapped payment whose hold invoice is gone when the wallet has been
// paid; paying is called before that is known.
func lose(t *testing.T, e *Engine, paying func(ln.Hash)) (offer wrap.Terms) {
	t.Helper()
	preimage := ln.Preimage{4, 2}
	offer = wrap.Terms{
		ID: "offer", Client: ln.PubKey{2, 1}, Hash: preimage.Hash(), PayerMsat: 100_000_000, WalletMsat: 98_000_000, FeeMsat: 2_000_000,
		WalletFinalCltv: 80, HoldFinalCltv: 180, PadBlocks: 3, MarginBlocks: 60, HoldExpiryDelta: 18, ZeroConf: true,
		ExpiresAt: time.Now().Add(time.Hour), WaitFor: time.Minute, OpenFor: time.Minute, MaxOpens: 2, MaxPayments: 2,
	}
	_, err := e.wraps.Create(t.Context(), offer.ID, wrap.InvoiceMade{Offer: wrap.Offer{Terms: offer}}, wrap.SetAccepted{Moment: at(100), Htlcs: []ln.InvoiceHtlc{
		{Key: ln.CircuitKey{ChanID: 7, HtlcID: 1}, AmtMsat: 60_000_000, Expiry: 900, State: ln.InvoiceAccepted},
		{Key: ln.CircuitKey{ChanID: 7, HtlcID: 2}, AmtMsat: 40_000_000, Expiry: 900, State: ln.InvoiceAccepted},
	}})
	require.NoError(t, err)
	balances, _ := accounts(t, e.db, offer.ID)
	require.EqualValues(t, 100_000_000, balances[books.HeldPayments])
	require.EqualValues(t, -100_000_000, balances[books.HeldPayers])
	send := func(v wrap.Event) wrap.State {
		s, err := e.wraps.Send(t.Context(), offer.ID, v)
		require.NoError(t, err)
		return s
	}
	send(wrap.IncomingChecked{Moment: at(100), Safe: true})
	require.Equal(t, "paying", send(wrap.WalletStatus{Moment: at(100), Online: true, Room: 11}).StateName())
	paying(offer.Hash)
	send(wrap.InvoiceCanceled{Moment: at(101)})
	require.Equal(t, "lost", send(wrap.PaymentSucceeded{Moment: at(102), Preimage: lsp.NewSecret(preimage)}).StateName())
	return offer
}

// A wallet that was paid for money that went back is a loss of the gateway's, whoever
// books it first.
func TestWhatIsLostIsALoss(t *testing.T) {
	for name, reconciled := range map[string]bool{"lost first": false, "reconciled first": true} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t, database(t), newFakeNode(), nil)
			offer := lose(t, e, func(hash ln.Hash) {
				if !reconciled {
					return
				}
				require.NoError(t, e.db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
					return postFlow(ctx, tx, ledger.Entry{
						Key: "payment/" + hash.String(), At: time.Now(), Reason: "payment sent by the gateway's node",
						Lines: ledger.Move(ledger.Account(books.OutAccount(11)), books.OwnPayments, 98_000_000),
					})
				}))
			})
			balances, _ := accounts(t, e.db, offer.ID)
			require.EqualValues(t, 98_000_000, balances[books.LostPayments])
			require.EqualValues(t, -98_000_000, balances[ledger.Account(books.OutAccount(11))]+balances[ledger.Account(books.PeerAccount(offer.Client))])
			for _, account := range []ledger.Account{books.OwnPayments, books.OwnInvoices, books.OpeningFee, books.ClearingWrap, books.HeldPayments, books.HeldPayers} {
				require.Zero(t, balances[account], account)
			}
		})
	}
}

// A database of before these accounts existed holds payments that were never posted:
// the first start books them, once.
func TestHeldOfBeforeIsBookedOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		b := newOffice(t, open(), func(*Config) {})
		a, hash := b.agree(key(2), 100_000_000)
		require.NoError(t, b.part(a, hash, 1))
		before, _ := accounts(t, b.e.db, a.PaymentID)
		require.NotZero(t, before[books.HeldPayments])
		b.sql("DELETE FROM ledger_lines")
		b.sql("DELETE FROM ledger_entries")
		for range 2 {
			require.NoError(t, b.e.beginHeld(t.Context()))
			after, _ := accounts(t, b.e.db, a.PaymentID)
			require.Equal(t, before, after)
		}
		_, err := b.e.jits.Send(t.Context(), a.PaymentID, jit.Tick{Moment: lsp.Moment{At: time.Now().Add(5 * time.Minute), Height: testHeight}})
		require.NoError(t, err)
		after, _ := accounts(t, b.e.db, a.PaymentID)
		require.Zero(t, after[books.HeldPayments])
		require.Zero(t, after[books.HeldPayers])
	})
}

// What the books hold is compared with lnd's channels by circuits; what is on its way
// differs from nothing.
func TestHeldIsComparedByCircuit(t *testing.T) {
	k := func(channel ln.SCID, id uint64) ln.CircuitKey { return ln.CircuitKey{ChanID: channel, HtlcID: id} }
	one := heldPart{id: "one", account: books.HeldPayments, msat: 1_500}
	two := heldPart{id: "two", account: books.HeldOrders, msat: 7_000}
	channel := func(htlcs ...ln.ChannelHtlc) []ln.Channel {
		return []ln.Channel{{ChanID: 70, ConfirmedSCID: 7, Htlcs: htlcs}}
	}
	incoming := func(index uint64, amount ln.Msat) ln.ChannelHtlc {
		return ln.ChannelHtlc{Incoming: true, Index: index, AmtMsat: amount}
	}
	for name, c := range map[string]struct {
		open          []ln.Channel
		parts, before map[ln.CircuitKey]heldPart
		// booked is what the accounts say where that is not the parts' sum.
		booked       int64
		differs      int64
		gone, detail int
	}{
		"listed": {
			open:  channel(incoming(1, 1_000), incoming(2, 7_000)),
			parts: map[ln.CircuitKey]heldPart{k(7, 1): one, k(70, 2): two}, before: map[ln.CircuitKey]heldPart{k(7, 1): one, k(70, 2): two},
		},
		"more is listed: on its way in, or back": {
			open:  channel(incoming(1, 1_000), incoming(3, 9_000), ln.ChannelHtlc{Index: 1, AmtMsat: 3_000}),
			parts: map[ln.CircuitKey]heldPart{k(7, 1): one}, before: map[ln.CircuitKey]heldPart{k(7, 1): one},
		},
		"gone": {
			open:  channel(incoming(2, 7_000)),
			parts: map[ln.CircuitKey]heldPart{k(7, 1): one, k(7, 2): two}, before: map[ln.CircuitKey]heldPart{k(7, 1): one, k(7, 2): two},
			differs: -1_500, gone: 1, detail: 1,
		},
		"an outgoing one of the same index is another": {
			open:  channel(ln.ChannelHtlc{Index: 1, AmtMsat: 1_000}),
			parts: map[ln.CircuitKey]heldPart{k(7, 1): one}, before: map[ln.CircuitKey]heldPart{k(7, 1): one},
			differs: -1_500, gone: 1, detail: 1,
		},
		"came while lnd was asked": {open: channel(), parts: map[ln.CircuitKey]heldPart{k(7, 1): one}},
		"went while lnd was asked": {open: channel(), before: map[ln.CircuitKey]heldPart{k(7, 1): one}},
		"on chain":                 {parts: map[ln.CircuitKey]heldPart{k(7, 1): one}, before: map[ln.CircuitKey]heldPart{k(7, 1): one}},
		"another amount": {
			open:  channel(incoming(1, 2_000)),
			parts: map[ln.CircuitKey]heldPart{k(7, 1): one}, before: map[ln.CircuitKey]heldPart{k(7, 1): one},
			differs: 500, detail: 1,
		},
		"never posted": {
			open:  channel(incoming(1, 1_000)),
			parts: map[ln.CircuitKey]heldPart{k(7, 1): one}, before: map[ln.CircuitKey]heldPart{k(7, 1): one},
			booked: 400, differs: 1_100,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := &chainBooks{view: &nodeView{open: c.open}, held: heldBooks{parts: c.parts, before: c.before}, balances: map[ledger.Account]int64{}}
			for _, p := range c.parts {
				b.balances[p.account] += int64(p.msat) //nolint:gosec // small
			}
			if c.booked != 0 {
				b.balances[books.HeldPayments] = c.booked
			}
			var r ReconcileReport
			line := b.compareHeld(&r)
			require.Equal(t, c.differs, line.NodeMsat-line.BooksMsat)
			require.Equal(t, c.gone, b.held.gone)
			require.Len(t, r.Details, c.detail)
		})
	}
}
