package lsp

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

func TestSlots(t *testing.T) {
	var s Slots
	require.Empty(t, s.String())
	for _, scid := range []ln.SCID{9, 7, 9, 8, 7, 9} {
		s = s.With(scid)
	}
	require.Equal(t, Slots{{7, 2}, {8, 1}, {9, 3}}, s)
	require.Equal(t, 6, s.Total())
	require.Equal(t, 3, s.Of(9))
	require.Zero(t, s.Of(10))
	require.Equal(t, "0x0x7:2,0x0x8:1,0x0x9:3", s.String())
	for _, bad := range []string{"0x0x7", "0x0x7:", "0x0x7:0", "0x0x7:-1", "0x0x7:1,", "0x0x7:1,0x0x7:1", "0x0x8:1,0x0x7:1", "7:1", "0x0x7:x"} {
		_, err := ParseSlots(bad)
		require.Error(t, err, bad)
	}
}

// To the HTLC: of one client, of newcomers, in all, and of each incoming channel.
func TestAdmitCountsHtlcs(t *testing.T) {
	caps := Caps{Client: Load{HeldHtlcs: 10}, All: Load{HeldHtlcs: 40}, IncomingHtlcs: 20, NewcomersPercent: 50}
	require.Equal(t, 20, caps.Newcomers().HeldHtlcs)
	require.Equal(t, 10, caps.NewcomersIncoming())
	for name, c := range map[string]struct {
		u    Usage
		more Slots
		ok   bool
	}{
		"up to the client's":         {Usage{Client: Load{HeldHtlcs: 7}}, Slots{{7, 2}, {8, 1}}, true},
		"beyond it":                  {Usage{Client: Load{HeldHtlcs: 7}}, Slots{{7, 2}, {8, 2}}, false},
		"up to all's":                {Usage{All: Load{HeldHtlcs: 37}}, Slots{{7, 3}}, true},
		"beyond them":                {Usage{All: Load{HeldHtlcs: 37}}, Slots{{7, 4}}, false},
		"up to the newcomers'":       {Usage{Newcomer: true, Newcomers: Load{HeldHtlcs: 17}}, Slots{{7, 3}}, true},
		"beyond them, a newcomer":    {Usage{Newcomer: true, Newcomers: Load{HeldHtlcs: 17}}, Slots{{7, 4}}, false},
		"beyond them, not one":       {Usage{Newcomers: Load{HeldHtlcs: 17}}, Slots{{7, 4}}, true},
		"up to a channel's":          {Usage{Incoming: Slots{{7, 18}, {8, 0}}}, Slots{{7, 2}, {8, 1}}, true},
		"beyond one of two":          {Usage{Incoming: Slots{{7, 0}, {8, 20}}}, Slots{{7, 2}, {8, 1}}, false},
		"up to the newcomers' of it": {Usage{Newcomer: true, Incoming: Slots{{7, 8}}, NewcomersIncoming: Slots{{7, 8}}}, Slots{{7, 2}}, true},
		"beyond it, a newcomer":      {Usage{Newcomer: true, Incoming: Slots{{7, 8}}, NewcomersIncoming: Slots{{7, 8}}}, Slots{{7, 3}}, false},
		"beyond it, not one":         {Usage{Incoming: Slots{{7, 8}}, NewcomersIncoming: Slots{{7, 8}}}, Slots{{7, 3}}, true},
		"what holds nothing":         {Usage{Client: Load{HeldHtlcs: 99}, All: Load{HeldHtlcs: 99}}, nil, true},
	} {
		err := Admit(Request{HoldSlots: c.more}, c.u, caps)
		if c.ok {
			require.NoError(t, err, name)
			continue
		}
		require.Equal(t, errkind.Exhausted, errkind.Of(err), name)
		require.NoError(t, Admit(Request{HoldSlots: c.more}, c.u, Caps{NewcomersPercent: 50}), "%s: 0 is no limit", name)
	}
}
