package lsp_test

import (
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

func TestExtraFees(t *testing.T) {
	for _, c := range []struct {
		amounts []ln.Msat
		fee     ln.Msat
		want    []ln.Msat
		ok      bool
	}{
		{[]ln.Msat{100_000}, 10_000, []ln.Msat{10_000}, true},
		{[]ln.Msat{100_000}, 99_000, []ln.Msat{99_000}, true},
		{[]ln.Msat{100_000}, 99_001, []ln.Msat{99_000}, false},
		{[]ln.Msat{5_000, 5_000, 90_000}, 10_000, []ln.Msat{4_000, 4_000, 2_000}, true},
		{[]ln.Msat{5_000, 999}, 0, nil, false},
		{[]ln.Msat{5_000, 1_000}, 0, []ln.Msat{0, 0}, true},
		{nil, 1, []ln.Msat{}, false},
		{[]ln.Msat{ln.MaxMsat + 1}, 1, nil, false},
	} {
		got, ok := lsp.ExtraFees(c.amounts, c.fee, 1000)
		require.Equal(t, c.ok, ok, c)
		require.Equal(t, c.want, got, c)
	}
}

// Against big integers, for any parts: nothing is lost, nothing made.
func TestExtraFeesAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amounts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) ln.Msat {
			return ln.Msat(rapid.OneOf(rapid.Uint64Range(0, 5_000), rapid.Uint64Range(0, uint64(ln.MaxMsat)+1)).Draw(t, "amount"))
		}), 0, 40).Draw(t, "amounts")
		fee := ln.Msat(rapid.OneOf(rapid.Uint64Range(0, 20_000), rapid.Uint64()).Draw(t, "fee"))
		least := ln.Msat(rapid.Uint64Range(0, 2_000).Draw(t, "htlc_minimum"))
		room, small := new(big.Int), false
		for _, a := range amounts {
			small = small || a < least || a > ln.MaxMsat
			room.Add(room, new(big.Int).Sub(new(big.Int).SetUint64(uint64(a)), new(big.Int).SetUint64(uint64(least))))
		}
		got, ok := lsp.ExtraFees(amounts, fee, least)
		require.Equal(t, !small && room.Cmp(new(big.Int).SetUint64(uint64(fee))) >= 0, ok)
		if !ok {
			return
		}
		sum := new(big.Int)
		for i, extra := range got {
			require.GreaterOrEqual(t, amounts[i]-extra, least)
			require.LessOrEqual(t, extra, amounts[i])
			sum.Add(sum, new(big.Int).SetUint64(uint64(extra)))
		}
		require.Zero(t, sum.Cmp(new(big.Int).SetUint64(uint64(fee))))
	})
}
