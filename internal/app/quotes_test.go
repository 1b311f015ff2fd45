package app

import (
	"testing"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Quotes stop before payments would fail: with a few coins, each good for one channel,
// a wallet asks until it is refused. Then all that it was quoted is paid at once, and
// every payment gets its channel.
func TestEveryQuoteHasItsCoin(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: job{name: "quotes", amountSat: 700_000, parts: 1, opens: true}, configure: func(c *Config) {
			c.LSP.PoolCoins, c.LSP.PoolCoin = 4, config.Sat(1_500_000)
		}})
		r.openBooks()
		var quotes []agreement
		for range 20 {
			a, err := r.ask()
			if err != nil {
				require.Equal(t, errkind.Unavailable, errkind.Of(err), "%v", err)
				require.Contains(t, errkind.Sentence(err), "coin")
				break
			}
			require.True(t, a.opens)
			quotes = append(quotes, a)
		}
		require.GreaterOrEqual(t, len(quotes), 2)
		require.Less(t, len(quotes), 5, "a coin for each")
		paid := make([]<-chan *lnrpc.Payment, len(quotes))
		for i, a := range quotes {
			paid[i] = r.pay(a.bolt11)
		}
		for i := range paid {
			m := r.outcome(paid[i])
			require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
		}
		r.settle()
		require.NoError(t, r.w.Err())
	})
}
