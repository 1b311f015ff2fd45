package lws_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws"
)

func TestWave(t *testing.T) {
	one := func(n int, msat ln.Msat) (out [][]ln.Msat) {
		for range n {
			out = append(out, []ln.Msat{msat})
		}
		return out
	}
	require.Equal(t, 400, lws.Wave(one(400, 10), []lws.Room{{4000, 4000}, {9000, 9000}}), "ample room")
	require.Equal(t, 399, lws.Wave(one(400, 10), []lws.Room{{3999, 3999}, {9000, 9000}}))
	require.Equal(t, 400, lws.Wave(one(400, 10), []lws.Room{{9, 9}, {9000, 9000}}), "lnd does not choose what is full")
	require.Equal(t, 1, lws.Wave(one(400, 10), []lws.Room{{0, 10}, {9000, 9000}}), "but what it believes in")
	require.Equal(t, 400, lws.Wave(one(400, 10), nil), "nowhere to go: lnd says so")
	require.Equal(t, 1, lws.Wave([][]ln.Msat{{30, 30}, {1}}, []lws.Room{{40, 40}, {40, 40}}), "parts go together, and alone")
}

// Wherever lnd puts the parts of a wave of several, each channel has room for what it gets.
func TestWaveAlwaysFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.Custom(func(t *rapid.T) ln.Msat { return ln.Msat(rapid.Uint64Range(1, 50).Draw(t, "msat")) })
		payments := rapid.SliceOfN(rapid.SliceOfN(amount, 1, 3), 1, 10).Draw(t, "payments")
		var rooms []lws.Room
		for range rapid.IntRange(1, 4).Draw(t, "channels") {
			least := ln.Msat(rapid.Uint64Range(0, 300).Draw(t, "least"))
			rooms = append(rooms, lws.Room{Least: least, Most: least + ln.Msat(rapid.Uint64Range(0, 20).Draw(t, "more"))})
		}
		n := lws.Wave(payments, rooms)
		require.GreaterOrEqual(t, n, 1)
		require.LessOrEqual(t, n, len(payments))
		if n == 1 {
			return
		}
		got := make([]ln.Msat, len(rooms))
		for _, parts := range payments[:n] {
			for _, part := range parts {
				var takes []int
				for i, r := range rooms {
					if r.Most >= part {
						takes = append(takes, i)
					}
				}
				if len(takes) > 0 {
					got[rapid.SampledFrom(takes).Draw(t, "chosen")] += part
				}
			}
		}
		for i, r := range rooms {
			require.LessOrEqual(t, got[i], r.Least, "channel %d", i)
		}
	})
}
