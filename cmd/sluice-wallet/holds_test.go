package main

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/lsp/agent/agentv1"
	"github.com/sluice-lsp/sluice/lws/agent/holdagentv1"
)

// The status shows what waits, since when, how long it may, and what was done to wake the
// wallet; as JSON it is one value.
func TestStatusShowsWhatWaits(t *testing.T) {
	holds := &holdagentv1.GetHoldsResponse{
		Wish: &holdagentv1.Wish{Enabled: true},
		Gateways: []*holdagentv1.Gateway{{
			Name: "acme", Registered: true, HoldForSeconds: 7200,
			Waiting: []*holdagentv1.Waiting{{
				Id: "1", PaymentHash: "3f9a0102", AmountMsat: 50_000_000, SinceMs: time.Now().Add(-time.Minute).UnixMilli(),
				UntilMs: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixMilli(), BlocksLeft: 4, Wakes: 3,
				LastWakeMs: time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC).UnixMilli(), LastWake: "its webhooks are to be called", Webhooks: []string{"app at push.example: call 2 failed: status 500; again at 03:00:09"}, Kind: "wrapped", Invoice: "unknown",
			}},
		}},
	}
	var out bytes.Buffer
	p := &cli.Printer{W: &out}
	show(p, &agentv1.GetStatusResponse{NodeKey: "02ab"}, holds)
	require.NoError(t, p.Err)
	for _, said := range []string{"acme", "3f9a0102", "50,000", "2026-01-02 03:04:05", "wrapped", "03:00:00: its webhooks are to be called; app at push.example: call 2 failed: status 500", "restore from the seed"} {
		require.Contains(t, out.String(), said)
	}
	out.Reset()
	require.NoError(t, writeStatus(&world{stdout: &out}, &agentv1.GetStatusResponse{NodeKey: "02ab"}, holds))
	var got map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &got))
	require.Equal(t, "02ab", got["node_key"])
	require.Len(t, got["holds"].(map[string]any)["gateways"], 1)
}
