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
	SatBlocks: 100_000, AllSatBlocks: 150_000, IncomingHtlcs: 11, MinHold: time.Minute,
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

// The facts: expiries of a default invoice of lnd's, paid at height h with 3 blocks of
// padding, over a hint of 80. A RESUME after 3 blocks was taken, after 4 it was not.
func TestFailHeight(t *testing.T) {
	const h = 1000
	o := ln.InterceptedHtlc{IncomingExpiry: h + 163, OutgoingExpiry: h + 83, AutoFailHeight: h + 144}
	require.Equal(t, uint32(h+4), lws.FailHeight(o, h, 80, 12))
	require.Equal(t, uint32(h+60-2), lws.FailHeight(o, h, 24, 12), "a small final delta in the wallet's own invoice")
	require.Equal(t, uint32(h+132), lws.FailHeight(ln.InterceptedHtlc{OutgoingExpiry: h + 500, AutoFailHeight: h + 144}, h, 24, 12))
	require.Zero(t, lws.FailHeight(ln.InterceptedHtlc{OutgoingExpiry: 10, AutoFailHeight: 5}, h, 24, 12))
	for slack := uint32(0); slack < 100; slack++ {
		at := lws.FailHeight(ln.InterceptedHtlc{OutgoingExpiry: h + 80 + slack, AutoFailHeight: h + 1000}, h, 80, 12)
		require.LessOrEqual(t, at, h+1+slack, "the wallet would refuse it")
		require.GreaterOrEqual(t, at+2, h+1+slack)
	}
}
