package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// An operator changes limits and inventory while sluiced runs: they count at once,
// are kept, and go back to the configuration. What was admitted before stands.
func TestLimitsAtRunTime(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		b := newOffice(t, open(), func(c *Config) { c.Caps.Client.OpenRequests = 2 })
		ctx := t.Context()
		b.agree(key(2), 100_000_000)
		b.agree(key(2), 100_000_000)
		_, _, err := b.negotiate(key(2), 100_000_000)
		require.Equal(t, errkind.Exhausted, errkind.Of(err))
		require.NoError(t, b.e.SetLimits(ctx, map[string]uint64{"open_requests_per_client": 3}))
		b.agree(key(2), 100_000_000)
		require.NoError(t, b.e.SetLimits(ctx, map[string]uint64{"open_requests_per_client": 1, "newcomers_percent": 70}))
		_, _, err = b.negotiate(key(2), 100_000_000)
		require.Equal(t, errkind.Exhausted, errkind.Of(err))
		require.Equal(t, 3, b.usage(key(2)).Client.OpenRequests, "what was admitted stands")

		// Coins that the operator keeps fund nothing.
		capacity, err := b.e.capacityFor(100_000_000)
		require.NoError(t, err)
		_, _, err = b.negotiate(key(3), 100_000_000)
		require.NoError(t, err)
		require.NoError(t, b.e.SetLimits(ctx, map[string]uint64{"keep_sat": uint64(b.node.coins - capacity)}))
		_, _, err = b.negotiate(key(4), 100_000_000)
		require.Equal(t, errkind.Unavailable, errkind.Of(err))
		require.ErrorContains(t, err, "too few free coins")

		for _, bad := range []map[string]uint64{
			nil,
			{"open_request": 1},
			{"newcomers_percent": 0},
			{"newcomers_percent": 101},
			{"open_requests": 1 << 40},
			{"keep_sat": 1 << 60},
			{"open_requests": 1, "unknown": 1},
		} {
			require.ErrorIs(t, b.e.SetLimits(ctx, bad), errkind.Invalid, "%v", bad)
		}
		require.ErrorIs(t, b.e.ResetLimits(ctx, []string{"unknown"}), errkind.Invalid)

		// As a restart reads them.
		before := b.e.Limits()
		b.e.limitsSet = nil
		require.NoError(t, b.e.loadLimits(ctx))
		require.Equal(t, before, b.e.Limits())
		changed := 0
		for _, l := range before {
			if l.Set {
				changed++
			} else {
				require.Equal(t, l.Configured, l.Value, l.Name)
			}
		}
		require.Equal(t, 3, changed)
		require.NoError(t, b.e.ResetLimits(ctx, []string{"keep_sat"}))
		_, _, err = b.negotiate(key(4), 100_000_000)
		require.NoError(t, err)
		require.NoError(t, b.e.ResetLimits(ctx, nil))
		for _, l := range b.e.Limits() {
			require.False(t, l.Set)
			require.Equal(t, l.Configured, l.Value, l.Name)
		}
		b.sql("UPDATE lsp_settings SET value = $1 WHERE name = 'limits'", []byte(`{"newcomers_percent":0}`))
		require.ErrorIs(t, b.e.loadLimits(ctx), errkind.Invalid, "what cannot be is refused at the start")
	})
}
