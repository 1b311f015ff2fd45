package lnd

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// FuzzDecodeBolt11: wallets send invoices; whatever they send is refused or read
// within bounds.
func FuzzDecodeBolt11(f *testing.F) {
	// BOLT 11's examples, and what is nearly one.
	for _, text := range []string{
		"", "lnbc1", "LNBC1", "lnbcrt1", "lightning:lnbc1",
		"lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqnls087fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql",
		"lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh",
		"lnbc" + strings.Repeat("9", 30) + "m1pvjluez", strings.Repeat("q", maxBolt11Bytes+1),
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		inv, err := DecodeBolt11("mainnet", text)
		if err != nil {
			return
		}
		require.LessOrEqual(t, inv.AmountMsat, ln.MaxMsat)
		require.False(t, inv.Payee.IsZero())
		require.LessOrEqual(t, len(text), maxBolt11Bytes)
	})
}

func TestDecodeBolt11(t *testing.T) {
	const coffee = "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh"
	inv, err := DecodeBolt11("mainnet", coffee)
	require.NoError(t, err)
	require.Equal(t, ln.Msat(250_000_000), inv.AmountMsat)
	require.Equal(t, "1 cup coffee", inv.Description)
	require.Equal(t, "03e7156ae33b0a208d0744199163177e909e80176e55d97a2f221ede0f934dd9ad", inv.Payee.String())
	_, err = DecodeBolt11("regtest", coffee)
	require.Error(t, err)
	_, err = DecodeBolt11("mainnet", strings.Replace(coffee, "2500u", "2500m", 1))
	require.Error(t, err)
}
