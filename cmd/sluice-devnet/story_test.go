package main

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// A demo that shows something else than its titles say must fail, and say what.
func TestAStoryThatGoesWrongIsTold(t *testing.T) {
	first := wish{what: "first payment", sat: 100_000, payerPays: true, opens: true}
	same := wish{what: "same channel", sat: 7_000}
	second := wish{what: "second channel", sat: 400_000, opens: true}
	tip := int64(450)
	one := holdings{tip: tip, msat: 100_000_000, channels: map[string]int64{"a:0": 100_000}}
	firstGoes := received{payerSat: 100_000, onTopMsat: 2_000_000, feeMsat: 2_000_000, before: holdings{tip: tip}, after: one}
	sameGoes := received{payerSat: 7_000, before: one, after: holdings{tip: tip, msat: 107_000_000, channels: map[string]int64{"a:0": 107_000}}}
	secondGoes := received{
		payerSat: 400_000, feeMsat: 4_000_000, before: one,
		after: holdings{tip: tip, msat: 496_000_000, channels: map[string]int64{"a:0": 100_000, "b:0": 396_000}},
	}
	for _, c := range []struct {
		name  string
		wish  wish
		goes  received
		but   func(*received)
		wrong string
	}{
		{"first", first, firstGoes, func(*received) {}, ""},
		{"same", same, sameGoes, func(*received) {}, ""},
		{"second", second, secondGoes, func(*received) {}, ""},
		{"less arrives", first, firstGoes, func(r *received) { r.after.msat-- }, "msat that arrived: want 100,000,000, got 99,999,999"},
		{"the payer pays no fee", first, firstGoes, func(r *received) { r.onTopMsat = 0 }, "msat that the payer paid on top: want 2,000,000, got 0"},
		{"the payer sends less", first, firstGoes, func(r *received) { r.payerSat = 99_999 }, "sat that the payer sent to the wallet: want 100,000, got 99,999"},
		{"an opening for nothing", first, firstGoes, func(r *received) { r.feeMsat, r.onTopMsat = 0, 0 }, "opening fee: 0 msat, and a channel to open: true"},
		{"a block was needed", first, firstGoes, func(r *received) { r.after.tip++ }, "the chain's tip, as no block is needed: want 450, got 451"},
		{"a channel too many", same, sameGoes, func(r *received) { r.after.channels["c:0"] = 0 }, "the wallet's channels: want 1, got 2"},
		{"a fee for the same channel", same, sameGoes, func(r *received) { r.feeMsat = 1_000 }, "opening fee: 1,000 msat, and a channel to open: false"},
		{"no channel", second, secondGoes, func(r *received) { delete(r.after.channels, "b:0") }, "the wallet's channels: want 2, got 1"},
		{"the other channel", second, secondGoes, func(r *received) { r.after.channels["a:0"] = 100_001 }, "1 sat came over channel a:0"},
		{"a channel less", second, secondGoes, func(r *received) { delete(r.after.channels, "a:0") }, "channel a:0 is gone"},
		{"the payer pays, too", second, secondGoes, func(r *received) { r.onTopMsat = 1 }, "msat that the payer paid on top: want 0, got 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.goes.after.channels = maps.Clone(c.goes.after.channels)
			c.but(&c.goes)
			err := c.wish.check(c.goes)
			if c.wrong == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, "did not go as the story tells it")
			require.ErrorContains(t, err, c.wrong)
		})
	}

	before := shares{"payer": 1_000, "gateway": 2_000, "wallet": 3_000}
	want := moves{"payer": 500, "wallet": -500}
	require.NoError(t, before.moved(shares{"payer": 1_500, "gateway": 2_000, "wallet": 2_500}, want))
	require.ErrorContains(t, before.moved(shares{"payer": 1_499, "gateway": 2_001, "wallet": 2_500}, want),
		"0 msat were to come to the gateway in channels, and 1 came")

	out := &devnet.LoopSwap{Type: "LOOP_OUT", Amount: 500_000, CostServer: 1_950}
	require.NoError(t, swapped(100, 502_050, out, 500_000))
	require.ErrorContains(t, swapped(100, 502_051, out, 500_000), "the gateway's side of the channel changed by 501,951")
	in := &devnet.LoopSwap{Type: loopIn, Amount: 400_000, CostServer: 1_814}
	require.NoError(t, swapped(502_050, 103_864, in, 400_000))
	require.Error(t, swapped(502_050, 103_864, in, 400_001))
}
