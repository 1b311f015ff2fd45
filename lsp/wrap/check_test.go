package wrap

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

func TestCheckWrap(t *testing.T) {
	lspKey := ln.PubKey{3, 9}
	promised := Promised{LSP: lspKey, Network: "regtest", PayerMsat: 100_000, MaxFeeMsat: 2000, MinCltvOver: 81, HoldFor: 20 * time.Minute}
	own := func() ln.Bolt11 {
		return ln.Bolt11{
			Network: "regtest", Hash: ln.Hash{1}, Payee: ln.PubKey{2, 1}, AmountMsat: 98_000, Description: "tea",
			CreatedAt: testStart, Expiry: time.Hour, FinalCltvDelta: 80, HasPaymentAddr: true,
		}
	}
	good := func() ln.Bolt11 {
		w := own()
		w.Payee, w.AmountMsat, w.FinalCltvDelta, w.Expiry = lspKey, 100_000, 180, 40*time.Minute
		return w
	}
	now := testStart.Add(time.Minute)
	require.NoError(t, CheckWrap(own(), good(), promised, now))
	for name, c := range map[string]struct {
		change func(own, wrapped *ln.Bolt11)
		want   string
	}{
		"hash":             {func(_, w *ln.Bolt11) { w.Hash[0] = 2 }, "payment hash"},
		"payee":            {func(_, w *ln.Bolt11) { w.Payee = ln.PubKey{3} }, "not the LSP"},
		"network":          {func(_, w *ln.Bolt11) { w.Network = "mainnet" }, "network"},
		"both networks":    {func(o, w *ln.Bolt11) { o.Network, w.Network = "mainnet", "mainnet" }, "network"},
		"payer asked more": {func(_, w *ln.Bolt11) { w.AmountMsat++ }, "was agreed"},
		"no amount":        {func(_, w *ln.Bolt11) { w.AmountMsat = 0 }, "without an amount"},
		"fee":              {func(o, _ *ln.Bolt11) { o.AmountMsat-- }, "would keep"},
		"negative fee":     {func(o, _ *ln.Bolt11) { o.AmountMsat = 100_001 }, "less than the wallet"},
		"description":      {func(_, w *ln.Bolt11) { w.Description = "coffee" }, "description"},
		"description hash": {func(_, w *ln.Bolt11) { w.DescriptionHash = []byte{1} }, "description"},
		"expired":          {func(_, w *ln.Bolt11) { w.Expiry = time.Minute }, "has expired"},
		"outlives ours":    {func(_, w *ln.Bolt11) { w.Expiry += time.Second }, "wallet's own invoice has expired"},
		"future":           {func(o, w *ln.Bolt11) { w.CreatedAt = testStart.Add(30 * time.Minute); w.Expiry = time.Minute }, "future"},
		"no secret":        {func(_, w *ln.Bolt11) { w.HasPaymentAddr = false }, "payment secret"},
		"cltv too high":    {func(_, w *ln.Bolt11) { w.FinalCltvDelta = 2017 }, "locks payers' money"},
		"cltv too low":     {func(_, w *ln.Bolt11) { w.FinalCltvDelta = 160 }, "no time to pay"},
	} {
		o, w := own(), good()
		c.change(&o, &w)
		require.ErrorContains(t, CheckWrap(o, w, promised, now), c.want, name)
	}
}

func TestSecretDoesNotPrint(t *testing.T) {
	s := lsp.NewSecret(testPreimage)
	stored, err := json.Marshal(s)
	require.NoError(t, err)
	secret := strings.Trim(string(stored), `"`)
	require.Len(t, secret, 64)
	state := Settling{Preimage: s}
	for _, form := range []string{"%v", "%+v", "%#v", "%s"} {
		require.NotContains(t, fmt.Sprintf(form, s), secret[:8])
		require.NotContains(t, fmt.Sprintf(form, state), secret[:8], form)
		require.NotContains(t, fmt.Sprintf(form, SettleInvoice{Preimage: s}), secret[:8], form)
	}
	var back lsp.Secret
	require.NoError(t, json.Unmarshal(stored, &back))
	require.Equal(t, s, back)
	require.Error(t, json.Unmarshal([]byte(`"zz"`), &back))
}
