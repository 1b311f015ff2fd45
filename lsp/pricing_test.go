package lsp_test

import (
	"math"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

func TestCover(t *testing.T) {
	for name, c := range map[string]struct {
		prices lsp.ChainPrices
		rate   ln.FeeRateSatPerKW
		want   ln.Sat
	}{
		"exactly":                      {lsp.ChainPrices{OpeningWU: 600, MarginPercent: 100}, 1_000, 600},
		"half as much again":           {lsp.ChainPrices{OpeningWU: 600, MarginPercent: 150}, 1_000, 900},
		"a part of it":                 {lsp.ChainPrices{OpeningWU: 600, MarginPercent: 50}, 1_000, 300},
		"the transaction rounds up":    {lsp.ChainPrices{OpeningWU: 601, MarginPercent: 100}, 253, 153}, // 152.053
		"the margin rounds up":         {lsp.ChainPrices{OpeningWU: 601, MarginPercent: 150}, 253, 230}, // 229.5
		"with the close":               {lsp.ChainPrices{OpeningWU: 600, ClosingWU: 400, MarginPercent: 100}, 1_000, 1_000},
		"each transaction rounds up":   {lsp.ChainPrices{OpeningWU: 1, ClosingWU: 1, MarginPercent: 100}, 253, 2},
		"prices do not follow":         {lsp.ChainPrices{OpeningWU: 600}, math.MaxUint64, 0},
		"the largest that can be paid": {lsp.ChainPrices{OpeningWU: 1_000, MarginPercent: 100}, 2_100_000_000_000_000, 2_100_000_000_000_000},
	} {
		got, err := c.prices.Cover(c.rate)
		require.NoError(t, err, name)
		require.Equal(t, c.want, got, name)
	}
	for name, c := range map[string]struct {
		prices lsp.ChainPrices
		rate   ln.FeeRateSatPerKW
	}{
		"rate":   {lsp.ChainPrices{OpeningWU: 600, MarginPercent: 100}, math.MaxUint64},
		"weight": {lsp.ChainPrices{OpeningWU: math.MaxUint64, MarginPercent: 100}, 253},
		"close":  {lsp.ChainPrices{OpeningWU: 600, ClosingWU: math.MaxUint64, MarginPercent: 100}, 253},
		"sum":    {lsp.ChainPrices{OpeningWU: 1_000, ClosingWU: 1_000, MarginPercent: 100}, 2_000_000_000_000_000},
		"margin": {lsp.ChainPrices{OpeningWU: 1_000, MarginPercent: math.MaxUint32}, 2_100_000_000_000_000},
		"a sat":  {lsp.ChainPrices{OpeningWU: 1_000, MarginPercent: 101}, 2_100_000_000_000_000},
	} {
		_, err := c.prices.Cover(c.rate)
		require.ErrorIs(t, err, ln.ErrOverflow, name)
	}
}

// Cover equals the same sum in numbers without bounds, or refuses.
func TestCoverIsExact(t *testing.T) {
	ceil := func(a, b *big.Int) *big.Int {
		return new(big.Int).Div(new(big.Int).Add(a, new(big.Int).Sub(b, big.NewInt(1))), b)
	}
	u := func(n uint64) *big.Int { return new(big.Int).SetUint64(n) }
	rapid.Check(t, func(t *rapid.T) {
		p := lsp.ChainPrices{
			OpeningWU: rapid.Uint64().Draw(t, "opening"), ClosingWU: rapid.Uint64().Draw(t, "closing"),
			MarginPercent: rapid.Uint32Range(1, math.MaxUint32).Draw(t, "margin"),
		}
		rate := rapid.Uint64().Draw(t, "rate")
		fee := func(wu uint64) *big.Int { return ceil(new(big.Int).Mul(u(rate), u(wu)), big.NewInt(1_000)) }
		cost := new(big.Int).Add(fee(p.OpeningWU), fee(p.ClosingWU))
		want := ceil(cost.Mul(cost, u(uint64(p.MarginPercent))), big.NewInt(100))
		got, err := p.Cover(ln.FeeRateSatPerKW(rate))
		if err == nil {
			require.Equal(t, want.String(), u(uint64(got)).String())
			return
		}
		require.ErrorIs(t, err, ln.ErrOverflow)
		// A part above 21 million is refused, too, even where the margin is below
		// 100: no transaction can pay it.
		limit := u(uint64(ln.MaxMsat.ToSatFloor()))
		require.True(t, want.Cmp(limit) > 0 || fee(p.OpeningWU).Cmp(limit) > 0 || fee(p.ClosingWU).Cmp(limit) > 0 ||
			new(big.Int).Add(fee(p.OpeningWU), fee(p.ClosingWU)).Cmp(limit) > 0, "%v can be paid", want)
	})
}

func TestMaxOpeningFee(t *testing.T) {
	for _, c := range []struct {
		agreed  ln.Msat
		percent uint32
		most    ln.Sat
	}{
		{2_000_000, 100, 2_000},
		{2_000_000, 200, 4_000},
		{2_000_999, 100, 2_000}, // part of a satoshi buys nothing
		{2_000_000, 50, 1_000},
		{0, 200, 0},
		{ln.MaxMsat, 100, ln.MaxMsat.ToSatFloor()},
		{ln.MaxMsat, math.MaxUint32, ln.MaxMsat.ToSatFloor()},
		{math.MaxUint64, math.MaxUint32, ln.MaxMsat.ToSatFloor()},
	} {
		most, bounded := lsp.ChainPrices{TolerancePercent: c.percent}.MaxOpeningFee(c.agreed)
		require.True(t, bounded)
		require.Equal(t, c.most, most, "%d percent of %s", c.percent, c.agreed)
	}
	_, bounded := lsp.ChainPrices{}.MaxOpeningFee(1)
	require.False(t, bounded)
}

func item(minFee ln.Msat, ppm uint32, from, to ln.Msat) lsp.OpeningFeeParams {
	return lsp.OpeningFeeParams{MinFeeMsat: minFee, ProportionalPPM: ppm, MinPaymentSizeMsat: from, MaxPaymentSizeMsat: to}
}

func TestPriceMenu(t *testing.T) {
	const big = 1_000_000_000
	for name, c := range map[string]struct {
		base  []lsp.OpeningFeeParams
		cover ln.Sat
		want  []lsp.OpeningFeeParams
	}{
		"as written":            {[]lsp.OpeningFeeParams{item(2_000_000, 10, 10_000_000, big)}, 2_000, []lsp.OpeningFeeParams{item(2_000_000, 10, 10_000_000, big)}},
		"raised":                {[]lsp.OpeningFeeParams{item(2_000_000, 10, 10_000_000, big)}, 2_001, []lsp.OpeningFeeParams{item(2_001_000, 10, 10_000_000, big)}},
		"above small payments":  {[]lsp.OpeningFeeParams{item(2_000_000, 10, 10_000_000, big)}, 15_000, []lsp.OpeningFeeParams{item(15_000_000, 10, 15_001_000, big)}},
		"the dear one stands":   {[]lsp.OpeningFeeParams{item(1_000, 10, big/2, big), item(9_000_000, 10, big/2, big)}, 5_000, []lsp.OpeningFeeParams{item(5_000_000, 10, big/2, big), item(9_000_000, 10, big/2, big)}},
		"order is kept":         {[]lsp.OpeningFeeParams{item(1_000, 10, big/2, big), item(2_000, 10, big/2, big), item(2_000, 20, big/2, big)}, 5_000, []lsp.OpeningFeeParams{item(5_000_000, 10, big/2, big), item(5_001_000, 10, big/2, big), item(5_001_000, 20, big/2, big)}},
		"too dear for its size": {[]lsp.OpeningFeeParams{item(1_000, 10, 2_000, 4_000_000), item(1_000, 20, 2_000, big)}, 5_000, []lsp.OpeningFeeParams{item(5_000_000, 20, 5_001_000, big)}},
		"nothing left":          {[]lsp.OpeningFeeParams{item(1_000, 10, 2_000, 4_000_000)}, 5_000, []lsp.OpeningFeeParams{}},
		"all money":             {[]lsp.OpeningFeeParams{item(1, 1, 1, ln.MaxMsat)}, ln.MaxMsat.ToSatFloor(), []lsp.OpeningFeeParams{}},
		"an empty menu":         {nil, 5_000, []lsp.OpeningFeeParams{}},
	} {
		got, err := lsp.PriceMenu(c.base, c.cover)
		require.NoError(t, err, name)
		require.Equal(t, c.want, got, name)
	}
	_, err := lsp.PriceMenu(nil, ln.MaxMsat.ToSatFloor()+1)
	require.ErrorIs(t, err, ln.ErrOverflow)
}

// Whatever the operator's menu and whatever the chain asks: what is offered
// covers it, is in bLIP-52's order, is raised no further than needed, and its
// smallest payment can be bought; and a dearer chain never makes a cheaper menu.
func TestPricedMenus(t *testing.T) {
	// Up to 100 bitcoin: far above, a proportional fee has no exact sum.
	amount := rapid.Uint64Range(1, 10_000_000_000_000)
	rapid.Check(t, func(t *rapid.T) {
		var base []lsp.OpeningFeeParams
		var fee ln.Msat
		var ppm uint32
		for i := range rapid.IntRange(1, 5).Draw(t, "items") {
			fee += ln.Msat(rapid.Uint64Range(0, 10_000_000).Draw(t, "dearer by"))
			ppm += rapid.Uint32Range(0, 50_000).Draw(t, "more ppm")
			from := ln.Msat(amount.Draw(t, "from"))
			next := item(fee, ppm, from, max(from, ln.Msat(amount.Draw(t, "to"))))
			next.MinLifetimeBlocks = uint32(i) // names the item
			base = append(base, next)
		}
		if lsp.CheckMenu(base) != nil {
			return // the operator is told
		}
		covers := []ln.Sat{
			0, ln.Sat(rapid.Uint64Range(0, 20_000).Draw(t, "cover")), ln.Sat(rapid.Uint64Range(20_000, 2_100_000_000_000_000).Draw(t, "dear cover")),
		}
		before := map[uint32]lsp.OpeningFeeParams{}
		for i, cover := range covers {
			menu, err := lsp.PriceMenu(base, cover)
			require.NoError(t, err)
			require.NoError(t, lsp.CheckMenu(menu))
			least, err := cover.Msat()
			require.NoError(t, err)
			now := map[uint32]lsp.OpeningFeeParams{}
			for _, got := range menu {
				now[got.MinLifetimeBlocks] = got
				from := base[got.MinLifetimeBlocks]
				require.GreaterOrEqual(t, got.MinFeeMsat, max(from.MinFeeMsat, least))
				require.LessOrEqual(t, got.MinFeeMsat, max(from.MinFeeMsat, least)+1_000*ln.Msat(len(base)-1), "raised further than needed")
				_, err := got.QuoteReceiverPays(got.MinPaymentSizeMsat)
				require.NoError(t, err, "nothing can be bought at %s", got.MinPaymentSizeMsat)
				if was, ok := before[got.MinLifetimeBlocks]; ok {
					require.GreaterOrEqual(t, got.MinFeeMsat, was.MinFeeMsat)
					require.GreaterOrEqual(t, got.MinPaymentSizeMsat, was.MinPaymentSizeMsat)
				}
				got.MinFeeMsat, got.MinPaymentSizeMsat = from.MinFeeMsat, from.MinPaymentSizeMsat
				require.Equal(t, from, got, "nothing else changes")
			}
			if i > 0 {
				for id := range now {
					require.Contains(t, before, id, "a dearer chain offers more")
				}
			}
			before = now
		}
	})
}
