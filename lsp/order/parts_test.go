package order

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

func TestClaimable(t *testing.T) {
	for _, c := range []struct {
		name  string
		rate  ln.FeeRateSatPerKW
		parts []ln.Msat
		ok    bool
	}{
		{"one part", 12_500, []ln.Msat{5_000_000}, true},
		{"one is left over", 12_500, []ln.Msat{20_000_000, 20_000_000, 1_000}, true},
		{"large ones", 12_500, []ln.Msat{9_000_000, 9_000_000}, true},
		{"what a claim costs at 50 sat/vB", 12_500, []ln.Msat{8_750_000, 8_750_000}, true},
		{"below it", 12_500, []ln.Msat{8_749_999, 8_749_999}, false},
		{"the same when fees are low", 253, []ln.Msat{8_749_999, 8_749_999}, true},
		{"dust", 253, []ln.Msat{353_999, 353_999, 20_000_000}, false},
		{"just no dust", 253, []ln.Msat{354_000, 354_000}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var htlcs []ln.InvoiceHtlc
			for _, amt := range c.parts {
				htlcs = append(htlcs, ln.InvoiceHtlc{AmtMsat: amt})
			}
			why, err := Claimable(htlcs, c.rate)
			require.NoError(t, err)
			require.Equal(t, c.ok, why.IsZero(), why.Text)
			if !c.ok {
				require.Equal(t, lsp.ReasonPartTooSmall, why.Code)
			}
		})
	}
}
