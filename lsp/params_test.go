package lsp_test

import (
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// The vectors are lspd's (lsps2/fee_test.go) and two computed independently.
func TestFeeVectors(t *testing.T) {
	for _, c := range []struct {
		size ln.Msat
		ppm  uint32
		min  ln.Msat
		fee  ln.Msat
		err  bool
	}{
		{0, 0, 0, 0, false},
		{0, 0, 1, 1, false},
		{1, 1, 0, 1, false},
		{10_000_000, 1000, 9999, 10_000, false},
		{10_000_000, 1000, 10_001, 10_001, false},
		{math.MaxUint64 - 999_999, 1, 0, 18_446_744_073_709, false},
		{math.MaxUint64 - 999_998, 1, 0, 0, true},
		{math.MaxUint64 - 999_999, 2, 0, 0, true},
		{455_000_001, 1200, 546_000, 546_001, false},
		{1_000_000_000, 1200, 546_000, 1_200_000, false},
	} {
		fee, err := lsp.OpeningFeeParams{MinFeeMsat: c.min, ProportionalPPM: c.ppm}.Fee(c.size)
		require.Equal(t, c.err, errors.Is(err, lsp.ErrFeeOverflow), "%+v: %v", c, err)
		require.Equal(t, c.fee, fee, "%+v", c)
	}
}

// Against big integers: bLIP-52's fee is exact, or an overflow of one of its steps.
func TestFeesAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.OneOf(rapid.Uint64Range(0, 5_000_000), rapid.Uint64())
		size, least := some.Draw(t, "size"), some.Draw(t, "min_fee")
		ppm := rapid.OneOf(rapid.Uint32Range(0, 10_000), rapid.Uint32()).Draw(t, "ppm")
		sum := new(big.Int).Mul(new(big.Int).SetUint64(size), big.NewInt(int64(ppm)))
		fits := sum.IsUint64()
		sum.Add(sum, big.NewInt(999_999))
		fits = fits && sum.IsUint64()
		want := max(sum.Div(sum, big.NewInt(1_000_000)).Uint64(), least)
		fee, err := lsp.OpeningFeeParams{MinFeeMsat: ln.Msat(least), ProportionalPPM: ppm}.Fee(ln.Msat(size))
		if !fits {
			require.ErrorIs(t, err, lsp.ErrFeeOverflow)
			return
		}
		require.NoError(t, err)
		require.Equal(t, want, uint64(fee))
	})
}

func TestQuoteRefusals(t *testing.T) {
	p := lsp.OpeningFeeParams{MinFeeMsat: 2_000_000, MinPaymentSizeMsat: 1_000_000, MaxPaymentSizeMsat: 500_000_000}
	for _, c := range []struct {
		amount ln.Msat
		want   error
	}{
		{0, lsp.ErrNoAmount},
		{999_999, lsp.ErrTooSmall},
		{2_000_000, lsp.ErrFeeTooLarge},
		{500_000_001, lsp.ErrTooLarge},
	} {
		_, err := p.QuotePayerPays(c.amount)
		require.ErrorIs(t, err, c.want)
		require.Equal(t, errkind.Invalid, errkind.Of(err))
		require.NotEmpty(t, errkind.Sentence(err))
	}
	q, err := p.QuotePayerPays(100_000_000)
	require.NoError(t, err)
	require.Equal(t, lsp.Quote{PayerMsat: 102_000_000, WalletMsat: 100_000_000, FeeMsat: 2_000_000, HintPPM: 20_000}, q)
	q, err = p.QuoteReceiverPays(100_000_000)
	require.NoError(t, err)
	require.Equal(t, lsp.Quote{PayerMsat: 100_000_000, WalletMsat: 98_000_000, FeeMsat: 2_000_000}, q)
}

func TestMenuOrder(t *testing.T) {
	item := func(fee ln.Msat, ppm uint32) lsp.OpeningFeeParams {
		return lsp.OpeningFeeParams{MinFeeMsat: fee, ProportionalPPM: ppm, MinPaymentSizeMsat: 1, MaxPaymentSizeMsat: 2}
	}
	require.NoError(t, lsp.CheckMenu(nil))
	require.NoError(t, lsp.CheckMenu([]lsp.OpeningFeeParams{item(1, 1), item(1, 2), item(2, 2), item(3, 3)}))
	require.Error(t, lsp.CheckMenu([]lsp.OpeningFeeParams{item(1, 1), item(1, 1)}))
	require.Error(t, lsp.CheckMenu([]lsp.OpeningFeeParams{item(2, 1), item(1, 2)}))
	require.Error(t, lsp.CheckMenu([]lsp.OpeningFeeParams{item(1, 2), item(2, 1)}))
}

// Whatever the payer splits the payment into, each part charged at the hint's
// rate and rounded down, the parts bring the fee but for one msat per part, and
// CheckParts agrees.
func TestHintCoversTheFee(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := ln.Msat(rapid.Uint64Range(1, uint64(ln.MaxMsat)/4).Draw(t, "amount"))
		fee := ln.Msat(rapid.Uint64Range(0, uint64(amount)-1).Draw(t, "fee"))
		ppm, err := lsp.HintPPM(amount, fee)
		require.NoError(t, err)
		whole, err := lsp.HintFee(amount, ppm)
		require.NoError(t, err)
		require.GreaterOrEqual(t, whole, fee)
		if ppm > 0 {
			less, err := lsp.HintFee(amount, ppm-1)
			require.NoError(t, err)
			require.Less(t, less, fee, "a lower rate would do")
		}

		terms := lsp.PartTerms{AmountMsat: amount, FeeMsat: fee, CltvDelta: 80, FinalCltvDelta: 80, MaxParts: 8}
		parts := rapid.IntRange(1, 8).Draw(t, "parts")
		var htlcs []ln.InterceptedHtlc
		left := amount
		for i := range parts {
			out := left
			if i < parts-1 {
				out = ln.Msat(rapid.Uint64Range(0, uint64(left)).Draw(t, "out"))
			}
			left -= out
			add, err := lsp.HintFee(out, ppm)
			require.NoError(t, err)
			htlcs = append(htlcs, ln.InterceptedHtlc{
				Key: ln.CircuitKey{HtlcID: uint64(i)}, IncomingMsat: out + add, OutgoingMsat: out,
				IncomingExpiry: 1160, OutgoingExpiry: 1080, AutoFailHeight: 1141,
			})
		}
		reason := terms.CheckParts(htlcs, 1000)
		require.True(t, reason.IsZero(), reason.Text)

		// A hint that promises less than the fee is found out.
		if fee > ln.Msat(parts) {
			for i := range htlcs {
				htlcs[i].IncomingMsat = htlcs[i].OutgoingMsat
			}
			require.Equal(t, lsp.ReasonFeeShort, terms.CheckParts(htlcs, 1000).Code)
		}
	})
}

func TestCheckPartsRefusals(t *testing.T) {
	terms := lsp.PartTerms{AmountMsat: 100_000, FeeMsat: 2000, CltvDelta: 80, FinalCltvDelta: 40, MarginBlocks: 2, HtlcMinimumMsat: 1000, MaxParts: 2}
	good := func() []ln.InterceptedHtlc {
		part := ln.InterceptedHtlc{IncomingMsat: 51_000, OutgoingMsat: 50_000, IncomingExpiry: 1122, OutgoingExpiry: 1042, AutoFailHeight: 1103}
		other := part
		other.Key.HtlcID = 1
		return []ln.InterceptedHtlc{part, other}
	}
	require.True(t, terms.CheckParts(good(), 1000).IsZero())
	for name, c := range map[string]struct {
		change func(p []ln.InterceptedHtlc) []ln.InterceptedHtlc
		height uint32
		want   lsp.ReasonCode
	}{
		"missing":        {func(p []ln.InterceptedHtlc) []ln.InterceptedHtlc { return p[:1] }, 1000, lsp.ReasonAmountShort},
		"twice the same": {func(p []ln.InterceptedHtlc) []ln.InterceptedHtlc { p[1].Key = p[0].Key; return p }, 1000, lsp.ReasonAmountShort},
		"too many":       {func(p []ln.InterceptedHtlc) []ln.InterceptedHtlc { return append(p, p[0]) }, 1000, lsp.ReasonTooManyParts},
		"fee 3 short":    {func(p []ln.InterceptedHtlc) []ln.InterceptedHtlc { p[0].IncomingMsat -= 3; return p }, 1000, lsp.ReasonFeeShort},
		"a free part": {func(p []ln.InterceptedHtlc) []ln.InterceptedHtlc {
			p[0].IncomingMsat, p[1].IncomingMsat = 50_000, 52_000
			return p
		}, 1000, lsp.ReasonFeeShort},
		"delta 79":      {func(p []ln.InterceptedHtlc) []ln.InterceptedHtlc { p[1].IncomingExpiry--; return p }, 1000, lsp.ReasonCltv},
		"a block later": {func(p []ln.InterceptedHtlc) []ln.InterceptedHtlc { return p }, 1001, lsp.ReasonCltv},
		"tiny part":     {func(p []ln.InterceptedHtlc) []ln.InterceptedHtlc { p[0].OutgoingMsat = 999; return p }, 1000, lsp.ReasonPartTooSmall},
		"negative fee":  {func(p []ln.InterceptedHtlc) []ln.InterceptedHtlc { p[0].IncomingMsat = 49_999; return p }, 1000, lsp.ReasonFeeShort},
		"huge":          {func(p []ln.InterceptedHtlc) []ln.InterceptedHtlc { p[0].IncomingMsat = math.MaxUint64; return p }, 1000, lsp.ReasonAmountOver},
	} {
		require.Equal(t, c.want, terms.CheckParts(c.change(good()), c.height).Code, name)
	}
}

func TestPromise(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 600_000_000, time.UTC)
	oldKey := lsp.PromiseKey{Version: 1, Secret: [32]byte{1}}
	newKey := lsp.PromiseKey{Version: 2, Secret: [32]byte{2}}
	before, err := lsp.NewPromiser(oldKey)
	require.NoError(t, err)
	client, other := ln.PubKey{2, 1}, ln.PubKey{2, 2}
	given := before.Promise(client, lsp.OpeningFeeParams{
		MinFeeMsat: 1, ProportionalPPM: 2, ValidUntil: now, MinLifetimeBlocks: 3,
		MaxClientToSelfDelay: 4, MinPaymentSizeMsat: 5, MaxPaymentSizeMsat: 6,
	})
	require.LessOrEqual(t, len(given.Promise), lsp.MaxPromiseLen)
	require.Empty(t, strings.Trim(given.Promise, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."), "needs no escape in JSON")
	require.NoError(t, before.Verify(client, given))

	// The same instant in another zone, or written otherwise, is the same.
	again := given
	again.ValidUntil, err = time.Parse(time.RFC3339, "2026-01-02T04:04:05+01:00")
	require.NoError(t, err)
	require.NoError(t, before.Verify(client, again))

	require.ErrorIs(t, before.Verify(other, given), lsp.ErrPromiseBad, "another client's")
	for name, change := range map[string]func(*lsp.OpeningFeeParams){
		"min fee":      func(p *lsp.OpeningFeeParams) { p.MinFeeMsat++ },
		"proportional": func(p *lsp.OpeningFeeParams) { p.ProportionalPPM++ },
		"valid until":  func(p *lsp.OpeningFeeParams) { p.ValidUntil = p.ValidUntil.Add(time.Nanosecond) },
		"lifetime":     func(p *lsp.OpeningFeeParams) { p.MinLifetimeBlocks++ },
		"delay":        func(p *lsp.OpeningFeeParams) { p.MaxClientToSelfDelay++ },
		"min size":     func(p *lsp.OpeningFeeParams) { p.MinPaymentSizeMsat++ },
		"max size":     func(p *lsp.OpeningFeeParams) { p.MaxPaymentSizeMsat++ },
		"promise":      func(p *lsp.OpeningFeeParams) { p.Promise += "A" },
		"none":         func(p *lsp.OpeningFeeParams) { p.Promise = "" },
		"long":         func(p *lsp.OpeningFeeParams) { p.Promise = strings.Repeat("v", 1000) },
		"version form": func(p *lsp.OpeningFeeParams) { p.Promise = strings.Replace(p.Promise, "v1.", "v01.", 1) },
	} {
		altered := given
		change(&altered)
		require.ErrorIs(t, before.Verify(client, altered), lsp.ErrPromiseBad, name)
	}

	overlap, err := lsp.NewPromiser(newKey, oldKey)
	require.NoError(t, err)
	require.NoError(t, overlap.Verify(client, given), "an older key is honoured while it is kept")
	after, err := lsp.NewPromiser(newKey)
	require.NoError(t, err)
	require.ErrorIs(t, after.Verify(client, given), lsp.ErrPromiseOldKey)

	require.ErrorIs(t, given.Valid(given.ValidUntil), lsp.ErrOfferExpired)
	require.NoError(t, given.Valid(given.ValidUntil.Add(-time.Second)))
}

func FuzzPromise(f *testing.F) {
	p, err := lsp.NewPromiser(lsp.PromiseKey{Version: 1, Secret: [32]byte{1}})
	if err != nil {
		f.Fatal(err)
	}
	good := p.Promise(ln.PubKey{2}, lsp.OpeningFeeParams{}).Promise
	for _, s := range []string{"", "v", "v1.", "v1.AAAA", good, good + "=", "v99999999999." + good[3:]} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		err := p.Verify(ln.PubKey{2}, lsp.OpeningFeeParams{Promise: s, ValidUntil: time.Time{}})
		if (err == nil) != (s == good) {
			t.Fatalf("%q: %v", s, err)
		}
	})
}
