package engine

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
)

// TestAWrapEndsBeforeTheWalletsInvoice: whoever pays at the last moment must
// still find the wallet's own invoice good when its channel is there, and has
// the confirmations that the wallet wants. One that cannot be is refused.
func TestAWrapEndsBeforeTheWalletsInvoice(t *testing.T) {
	client := ln.PubKey{2, 1}
	n := newFakeNode()
	n.rich()
	var own ln.Bolt11
	e := newEngine(t, database(t), n, func(o *Options) {
		o.DecodeBolt11 = func(string) (ln.Bolt11, error) { return own, nil }
	})
	_, err := e.wraps.Recover(t.Context())
	require.NoError(t, err)
	for i, c := range []struct {
		wish  Wish
		least time.Duration
		wait  uint32
	}{
		{Wish{ZeroConf: true}, 150 * time.Second, 0},
		{Wish{Confs: 3}, 150*time.Second + 3*time.Hour, 24},
		{Wish{ZeroConf: true, HoldFor: 10 * time.Hour}, 10*time.Hour + time.Minute, 66},
	} {
		menu, err := e.Menu(t.Context(), client)
		require.NoError(t, err)
		require.NoError(t, menu.Refusal)
		params := menu.Items[0]
		quote, err := params.QuoteReceiverPays(100_000_000)
		require.NoError(t, err)
		wrap := func(life time.Duration) (Agreement, error) {
			own = ln.Bolt11{
				Network: "regtest", Hash: ln.Hash{byte(i + 1)}, Payee: client, AmountMsat: quote.WalletMsat, FinalCltvDelta: 80,
				CreatedAt: time.Now(), Expiry: life, HasPaymentAddr: true,
			}
			return e.Wrap(t.Context(), WrapRequest{Client: client, Bolt11: "own", AmountMsat: quote.PayerMsat, Params: params, Wish: c.wish})
		}
		_, err = wrap(c.least - time.Second)
		require.Equal(t, errkind.Invalid, errkind.Of(err), "%v", err)
		require.Contains(t, errkind.Sentence(err), c.least.String())
		a, err := wrap(c.least + 5*time.Minute)
		require.NoError(t, err)
		require.WithinDuration(t, own.ExpiresAt().Add(-c.least), a.ExpiresAt, time.Second)
		// The wallet is told how long its payer's money may wait.
		require.Equal(t, c.wait, a.MaxWaitBlocks)
	}
	_, err = e.Negotiate(t.Context(), NegotiateRequest{
		Client: client, AmountMsat: 1_000_000, FinalCltvDelta: 80, InvoiceExpires: time.Now().Add(time.Hour), Wish: Wish{ZeroConf: true, HoldFor: 25 * time.Hour},
	})
	require.ErrorIs(t, err, errkind.Invalid)
	require.ErrorContains(t, err, "waits for at most")
	require.ErrorIs(t, e.checkWish(Wish{ZeroConf: true, HoldFor: 24*time.Hour + 1}), errkind.Invalid)
	require.ErrorIs(t, e.checkWish(Wish{ZeroConf: true, HoldFor: -1}), errkind.Invalid)
}

// TestAWrapNeedsAHashOfItsOwn: the client chooses the hash and the description of what it
// has wrapped. An invoice that is not this payment's could be cancelled, or its payer's
// money handed on to the wallet, by whoever has seen it.
func TestAWrapNeedsAHashOfItsOwn(t *testing.T) {
	client := ln.PubKey{2, 1}
	n := newFakeNode()
	n.rich()
	var own ln.Bolt11
	e := newEngine(t, database(t), n, func(o *Options) {
		o.DecodeBolt11 = func(string) (ln.Bolt11, error) { return own, nil }
	})
	_, err := e.wraps.Recover(t.Context())
	require.NoError(t, err)
	menu, err := e.Menu(t.Context(), client)
	require.NoError(t, err)
	params := menu.Items[0]
	quote, err := params.QuoteReceiverPays(100_000_000)
	require.NoError(t, err)
	wrap := func(hash ln.Hash) error {
		own = ln.Bolt11{
			Network: "regtest", Hash: hash, Payee: client, AmountMsat: quote.WalletMsat, FinalCltvDelta: 80, Description: "a swap's memo",
			CreatedAt: time.Now(), Expiry: time.Hour, HasPaymentAddr: true,
		}
		_, err := e.Wrap(t.Context(), WrapRequest{Client: client, Bolt11: "own", AmountMsat: quote.PayerMsat, Params: params, Wish: Wish{ZeroConf: true}})
		return err
	}
	invoiced, paid, claimed := ln.Hash{1}, ln.Hash{2}, ln.Hash{3}
	n.invoices[invoiced] = ln.Invoice{Hash: invoiced, Memo: "a swap's memo", AmountMsat: quote.PayerMsat, State: ln.InvoiceOpen}
	n.payments[paid] = ln.Payment{Hash: paid, State: ln.PaymentInFlight}
	require.NoError(t, e.db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		return payhash.Claim(ctx, tx, claimed, "swap_out/of somebody")
	}))
	for _, hash := range []ln.Hash{invoiced, paid, claimed} {
		require.ErrorIs(t, wrap(hash), payhash.ErrTaken)
	}
	require.NoError(t, wrap(ln.Hash{4}))
	require.Error(t, wrap(ln.Hash{4}))
}
