package agent_test

import (
	"testing"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
)

// What is paid on chain becomes a channel: the order costs the amount exactly, the
// fee comes out of it, and the LSP's part is on top.
func TestFundOnChain(t *testing.T) {
	signer, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	key, err := ln.PubKeyFromBytes(signer.PubKey().SerializeCompressed())
	require.NoError(t, err)
	w := newWallet()
	shop := &fakeLSPS{w: w, fees: map[ln.PubKey]ln.Sat{key: 2_000}, orders: map[string]lsps1.Order{}, sign: signer}
	world := startWith(t, map[string]*fakeLSP{"alpha": newFakeLSP(w, key, 2_000_000, 10_000)}, w, shop)
	ask := agent.OnChainRequest{AmountSat: 500_000, RefundAddress: "bcrt1qmine", Confirmations: -1}

	o, err := world.agent.FundOnChain(t.Context(), ask)
	require.NoError(t, err)
	require.Equal(t, ln.Sat(500_000), o.ChainTotalSat)
	require.Equal(t, ln.Sat(500_000-2_100), o.ClientBalanceSat)
	require.Equal(t, ln.Sat(500_000), o.LspBalanceSat, "as much again")
	require.Equal(t, "bcrt1qorder", o.Address)
	require.NotEmpty(t, o.Promise)
	require.Len(t, world.agent.Orders(), 1, "the order that told the price is not kept")

	// The LSP's own bounds are its policy.
	ask.AmountSat = 40_000
	_, err = world.agent.FundOnChain(t.Context(), ask)
	require.ErrorContains(t, err, "no such channel", "its smallest channel is larger than this and its least")
	ask.InboundSat = 200_000
	o, err = world.agent.FundOnChain(t.Context(), ask)
	require.NoError(t, err)
	require.Equal(t, ln.Sat(200_000), o.LspBalanceSat)

	// A price that moves is followed, and one that moves for ever is not.
	for _, c := range []struct {
		moves int
		err   string
	}{{1, ""}, {100, "moves too fast"}} {
		moved := 0
		shop.bend = func(o *lsps1.Order) {
			if moved < c.moves {
				moved++
				o.Payment.OnChain.TotalSat += lsps0.Sat(10 * moved) //nolint:gosec // small
				o.Payment.OnChain.FeeSat += lsps0.Sat(10 * moved)   //nolint:gosec // small
			}
		}
		o, err = world.agent.FundOnChain(t.Context(), ask)
		if c.err != "" {
			require.ErrorContains(t, err, c.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, ask.AmountSat, o.ChainTotalSat)
	}
	shop.bend = nil

	for want, spoil := range map[string]func(*agent.OnChainRequest){
		"address of yours":       func(r *agent.OnChainRequest) { r.RefundAddress = "" },
		"leaves nothing":         func(r *agent.OnChainRequest) { r.AmountSat = 2_000; r.InboundSat = 200_000 },
		"above your limit":       func(r *agent.OnChainRequest) { r.MaxFeeSat = 2_099 },
		"There is no LSP|no LSP": func(r *agent.OnChainRequest) { r.LSP = "nobody" },
	} {
		bad := ask
		spoil(&bad)
		_, err := world.agent.FundOnChain(t.Context(), bad)
		require.Error(t, err, want)
		require.Regexp(t, want, err.Error())
	}
	// Without the node's word nothing is shown to pay to.
	shop.sign = nil
	_, err = world.agent.FundOnChain(t.Context(), ask)
	require.ErrorContains(t, err, "signs nothing")
}
