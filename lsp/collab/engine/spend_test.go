package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// What a wallet may spend before its channels are buried is nothing, unless the operator
// says so for this wallet. All of its fundings share it, those included whose channel
// was used and never came to be; it stands in the channel's memo, where the interceptor
// finds it.
func TestWhatAWalletMaySpend(t *testing.T) {
	onBoth(t, func(t *testing.T, n *net) {
		n.cfg.MaxEach = 5
		n.restart()
		ctx := t.Context()
		left := func(client ln.PubKey) ln.Sat {
			t.Helper()
			s, err := n.e.Spend(ctx, client)
			require.NoError(t, err)
			require.Equal(t, client, s.Client)
			return s.LeftSat()
		}
		require.Zero(t, left(n.key))
		_, err := n.e.SetSpend(ctx, n.key, n.cfg.MaxCapacitySat+1)
		require.Equal(t, errkind.Invalid, errkind.Of(err))
		set, err := n.e.SetSpend(ctx, n.key, 50_000)
		require.NoError(t, err)
		require.Equal(t, Spend{Client: n.key, LimitSat: 50_000}, set)
		other := n.key
		other[4]++
		require.Zero(t, left(other), "for this wallet only")

		o, _ := n.offer(400_000, 600_000)
		o.ZeroConf = true
		v, err := n.e.Offer(ctx, o)
		require.NoError(t, err)
		v = n.wait(v.ID, "ready")
		require.EqualValues(t, 50_000, v.Plan.SpendSat)
		open, err := n.gateway.ListChannels(ctx)
		require.NoError(t, err)
		require.Len(t, open, 1)
		require.EqualValues(t, 50_000, open[0].Joint().SpendSat)
		require.True(t, open[0].TakesMoney(n.w.Height()))
		require.False(t, open[0].FundingIsSafe(n.w.Height()))
		require.Zero(t, left(n.key))
		n.restart()
		require.Zero(t, left(n.key))

		second, packet := n.offer(200_000, 300_000)
		second.Nonce[1] = 2
		w, err := n.e.Offer(ctx, second)
		require.NoError(t, err)
		w = n.wait(w.ID, "ready")
		require.Zero(t, w.Plan.SpendSat, "the first one has it")

		// It spent it, as far as anybody knows, before it ended the funding.
		_, err = n.e.Abort(ctx, n.key, v.ID)
		require.NoError(t, err)
		n.wait(v.ID, "failed")
		n.eventually("its channel is forgotten", func() bool { return n.channels() == 1 })
		require.Zero(t, left(n.key))
		_, err = n.e.SetSpend(ctx, n.key, 20_000)
		require.NoError(t, err)
		require.EqualValues(t, 20_000, left(n.key), "the operator forgives")
		again, err := n.e.Get(ctx, n.key, w.ID)
		require.NoError(t, err)
		require.Zero(t, again.Plan.SpendSat, "what was agreed stands")

		_, err = n.e.Sign(ctx, n.key, w.ID, n.sign(w, packet))
		require.NoError(t, err)
		n.wait(w.ID, "published")
		n.w.Mine(3)
		n.wait(w.ID, "buried")
		require.EqualValues(t, 20_000, left(n.key))
		require.NoError(t, n.w.Err())
	})
}
