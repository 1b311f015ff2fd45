package funding

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// What goes back is what the coins hold, less what is kept and the fee; the
// client bears nothing else, and dust is never made.
func TestReturns(t *testing.T) {
	to, own := append([]byte{0x00, 20}, make([]byte, 20)...), append([]byte{0x51, 32}, make([]byte, 32)...)
	rapid.Check(t, func(t *rapid.T) {
		r := Return{ToScript: to, KeepSat: ln.Sat(rapid.Uint64Range(0, 200_000).Draw(t, "keep")), KeepScript: own}
		var sum ln.Sat
		for i := range rapid.IntRange(1, 5).Draw(t, "coins") {
			sat := ln.Sat(rapid.Uint64Range(1, 100_000).Draw(t, "sat"))
			sum += sat
			r.Coins = append(r.Coins, ln.Coin{Outpoint: ln.Outpoint{TxID: ln.TxID{byte(i)}}, AmountSat: sat, PkScript: own})
		}
		fee := ln.Sat(rapid.Uint64Range(0, 50_000).Draw(t, "fee"))
		psbt, id, returned, err := BuildReturn(r, fee)
		if sum < r.KeepSat+fee+294 {
			require.ErrorIs(t, err, ErrDust)
			return
		}
		require.NoError(t, err)
		require.Equal(t, sum, returned+r.KeepSat+fee)
		_, again, _, err := BuildReturn(r, fee)
		require.NoError(t, err)
		require.Equal(t, id, again)
		require.NotEmpty(t, psbt)
		weight, err := r.WeightWU()
		require.NoError(t, err)
		require.Greater(t, weight, uint64(300))
	})
	_, _, _, err := BuildReturn(Return{ToScript: []byte{0x76}, Coins: []ln.Coin{{AmountSat: 1000, PkScript: own}}}, 1)
	require.Error(t, err, "no SegWit")
}
