package liquidity

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// A channel is closed when nothing was paid over it for long enough, no earlier
// than was promised, and never against its peer.
func TestWhatIsUnusedIsClosed(t *testing.T) {
	const born, tip = 800_000, 810_000
	p := UnusedPolicy{AfterBlocks: 5_000}
	idle := ln.Channel{
		Active: true, Private: true, Initiator: true, ZeroConf: true, ChanID: ln.NewSCID(16_000_000, 1, 1),
		ConfirmedSCID: ln.NewSCID(born, 1, 1), RemoteSat: 50_000, Memo: "sluice x",
	}
	use := Use{RemoteSat: 50_000, SinceHeight: tip - 5_000, MinLifetime: 4_320}
	require.True(t, p.Closes(idle, use, tip))
	for name, change := range map[string]func(*ln.Channel, *Use, *UnusedPolicy){
		"used a block too late":          func(_ *ln.Channel, u *Use, _ *UnusedPolicy) { u.SinceHeight++ },
		"promised for a block longer":    func(_ *ln.Channel, u *Use, _ *UnusedPolicy) { u.MinLifetime = tip - born + 1 },
		"its peer is away":               func(c *ln.Channel, _ *Use, _ *UnusedPolicy) { c.Active = false },
		"announced":                      func(c *ln.Channel, _ *Use, _ *UnusedPolicy) { c.Private = false },
		"its peer opened it":             func(c *ln.Channel, _ *Use, _ *UnusedPolicy) { c.Initiator = false },
		"its peer funded it, too":        func(c *ln.Channel, _ *Use, _ *UnusedPolicy) { c.Memo = ln.SharedFundingMemo + "x" },
		"a payment is on its way":        func(c *ln.Channel, _ *Use, _ *UnusedPolicy) { c.Htlcs = []ln.ChannelHtlc{{}} },
		"paid over since the last look":  func(c *ln.Channel, _ *Use, _ *UnusedPolicy) { c.RemoteSat++ },
		"its peer would lose its dust":   func(c *ln.Channel, u *Use, _ *UnusedPolicy) { c.RemoteSat, u.RemoteSat = 999, 999 },
		"not confirmed":                  func(c *ln.Channel, _ *Use, _ *UnusedPolicy) { c.ConfirmedSCID = 0 },
		"never looked at":                func(_ *ln.Channel, u *Use, _ *UnusedPolicy) { u.SinceHeight = 0 },
		"the operator does not want it":  func(_ *ln.Channel, _ *Use, p *UnusedPolicy) { p.AfterBlocks = 0 },
		"heights that would wrap around": func(_ *ln.Channel, u *Use, _ *UnusedPolicy) { u.MinLifetime = 1<<32 - 1 },
	} {
		c, u, p := idle, use, p
		change(&c, &u, &p)
		require.False(t, p.Closes(c, u, tip), name)
	}
	empty := idle
	empty.RemoteSat = 0
	require.True(t, p.Closes(empty, Use{SinceHeight: 1, MinLifetime: 0}, tip))

	// What is remembered.
	u, changed := Use{MinLifetime: 7}.Seen(idle, tip)
	require.True(t, changed)
	require.Equal(t, Use{RemoteSat: 50_000, SinceHeight: tip, MinLifetime: 7}, u)
	_, changed = u.Seen(idle, tip+1)
	require.False(t, changed)
	paid := idle
	paid.RemoteSat++
	after, changed := u.Seen(paid, tip+1)
	require.True(t, changed)
	require.EqualValues(t, tip+1, after.SinceHeight)
	busy := idle
	busy.Htlcs = []ln.ChannelHtlc{{}}
	after, _ = u.Seen(busy, tip+2)
	require.EqualValues(t, tip+2, after.SinceHeight, "a payment on its way is a use")
	after, changed = u.Seen(idle, tip-1)
	require.True(t, changed)
	require.EqualValues(t, tip-1, after.SinceHeight, "a shorter chain: it begins anew")
}
