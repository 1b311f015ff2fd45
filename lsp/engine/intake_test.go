package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
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
	require.ErrorIs(t, e.checkWish(Wish{ZeroConf: true, HoldFor: 24*time.Hour + 1}), errkind.Invalid)
	require.ErrorIs(t, e.checkWish(Wish{ZeroConf: true, HoldFor: -1}), errkind.Invalid)
}
