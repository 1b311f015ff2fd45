package onboard_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

func TestFirstChannels(t *testing.T) {
	two := onboard.FirstChannels{Count: 2, Sat: 1_000_000}
	for _, row := range []struct {
		have      int
		confirmed int64
		open      int
		missing   int64
	}{
		{0, 0, 0, 2_040_000},
		{0, 1_019_999, 0, 1_020_001},
		{0, 1_020_000, 1, 1_020_000},
		{0, 2_040_000, 2, 0},
		{1, 5_000_000, 1, 0},
		{1, 0, 0, 1_020_000},
		{2, 0, 0, 0},
		{3, 9_000_000, 0, 0},
		{0, -5, 0, 2_040_005},
	} {
		open, missing := two.Plan(row.have, row.confirmed)
		require.Equal(t, row.open, open, "%+v", row)
		require.Equal(t, row.missing, missing, "%+v", row)
	}
	open, missing := onboard.FirstChannels{}.Plan(0, 1_000_000)
	require.Zero(t, open)
	require.Zero(t, missing)
	require.NoError(t, two.Check())
	require.NoError(t, onboard.FirstChannels{}.Check())
	for _, bad := range []onboard.FirstChannels{{Count: -1}, {Count: 11, Sat: 1_000_000}, {Count: 1}, {Count: 1, Sat: 19_999}, {Count: 1, Sat: 1 << 60}} {
		require.Error(t, bad.Check(), "%+v", bad)
	}
}
