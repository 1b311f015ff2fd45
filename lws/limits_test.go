package lws_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws"
)

var limits = lws.Limits{
	HoldFor: time.Hour, Htlcs: 10, AllHtlcs: 12, Sat: 1000, AllSat: 1500, MinFinal: 18, MaxFinal: 144,
}

func TestWishes(t *testing.T) {
	good := lws.Wish{HoldFor: time.Hour, MaxHtlcs: 10, MaxSat: 1000, FinalCltvDelta: 80}
	require.NoError(t, limits.Check(good))
	for name, change := range map[string]func(*lws.Wish){
		"no time":       func(w *lws.Wish) { w.HoldFor = 0 },
		"too long":      func(w *lws.Wish) { w.HoldFor += time.Second },
		"no HTLC":       func(w *lws.Wish) { w.MaxHtlcs = 0 },
		"too many":      func(w *lws.Wish) { w.MaxHtlcs++ },
		"no sats":       func(w *lws.Wish) { w.MaxSat = 0 },
		"too many sats": func(w *lws.Wish) { w.MaxSat++ },
		"final delta":   func(w *lws.Wish) { w.FinalCltvDelta = 17 },
	} {
		w := good
		change(&w)
		require.Error(t, limits.Check(w), name)
	}
}

func TestRefusals(t *testing.T) {
	w := lws.Wish{HoldFor: time.Hour, MaxHtlcs: 2, MaxSat: 100, FinalCltvDelta: 80}
	require.Empty(t, limits.Refuse(w, lws.Sum{Htlcs: 1, Msat: 99_000}, lws.Sum{Htlcs: 1, Msat: 99_000}, 1000))
	require.Contains(t, limits.Refuse(w, lws.Sum{Htlcs: 1, Msat: 99_000}, lws.Sum{}, 1001), "100 sat")
	require.Contains(t, limits.Refuse(w, lws.Sum{Htlcs: 2}, lws.Sum{}, 1), "2 HTLCs")
	require.Contains(t, limits.Refuse(w, lws.Sum{}, lws.Sum{Htlcs: 12}, 1), "12 HTLCs wait for wallets")
	require.Contains(t, limits.Refuse(w, lws.Sum{}, lws.Sum{Msat: 1_500_000}, 1), "1500 sat")
	huge := limits
	huge.Sat, huge.AllSat = 1<<63, 1<<63
	w.MaxSat = 1 << 63
	require.Empty(t, huge.Refuse(w, lws.Sum{}, lws.Sum{}, ln.MaxMsat), "limits beyond all money do not overflow")
}

// The facts: expiries of a default invoice of lnd's, paid at height h with 3 blocks of
// padding, over a hint of 80. A RESUME after 3 blocks was taken, after 4 it was not.
func TestFailHeight(t *testing.T) {
	const h = 1000
	o := ln.InterceptedHtlc{IncomingExpiry: h + 163, OutgoingExpiry: h + 83, AutoFailHeight: h + 144}
	require.Equal(t, uint32(h+4), lws.FailHeight(o, 80, 12))
	require.Equal(t, uint32(h+60), lws.FailHeight(o, 24, 12), "a small final delta in the wallet's own invoice")
	require.Equal(t, uint32(h+132), lws.FailHeight(ln.InterceptedHtlc{OutgoingExpiry: h + 500, AutoFailHeight: h + 144}, 24, 12))
	require.Zero(t, lws.FailHeight(ln.InterceptedHtlc{OutgoingExpiry: 10, AutoFailHeight: 5}, 24, 12))
}
