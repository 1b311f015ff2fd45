package links

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

func TestStanding(t *testing.T) {
	const after = 15 * time.Second
	const long = 24 * time.Hour
	begin := time.Unix(1_800_000_000, 0)
	type view struct {
		channels []ln.Channel
		payments []OnItsWay
		// node is for how long lnd runs, 0 while it starts and does not say.
		node time.Duration
	}
	// A look every fifteen seconds: the channels whose turn it is.
	turns := func(looks int, at func(look int) view) (due map[int][]ln.SCID) {
		s, due := NewStanding(after), make(map[int][]ln.SCID)
		for i := range looks {
			v := at(i)
			for j := range v.channels {
				v.channels[j].SeenFor = v.node
			}
			for _, turn := range s.Look(begin.Add(time.Duration(i)*after), v.channels, v.payments) {
				due[i] = append(due[i], turn.Channel.ChanID)
			}
		}
		return due
	}
	chanOf := func(id ln.SCID, active bool, htlcs ...ln.ChannelHtlc) ln.Channel {
		c := channel(byte(id), 0)
		c.ChanID, c.Active, c.Htlcs, c.Commitments = id, active, htlcs, 5
		return c
	}
	later := func(id ln.SCID, looks ...int) map[int][]ln.SCID {
		out := make(map[int][]ln.SCID)
		for _, l := range looks {
			out[l] = []ln.SCID{id}
		}
		return out
	}
	none := map[int][]ln.SCID{}
	half := ln.ChannelHtlc{Incoming: true, Index: 7}

	t.Run("an HTLC of the peer's that is not locked in: later and later, and not for ever", func(t *testing.T) {
		require.Equal(t, later(1, 1, 3, 7, 15, 31, 63, 127, 255), turns(800, func(int) view {
			return view{channels: []ln.Channel{chanOf(1, true, half)}, node: long}
		}))
	})
	t.Run("others each time are none that stands still, nor is what is signed beside it", func(t *testing.T) {
		require.Equal(t, none, turns(40, func(i int) view {
			return view{channels: []ln.Channel{chanOf(1, true, ln.ChannelHtlc{Incoming: true, Index: uint64(i)})}, node: long} //nolint:gosec // small
		}))
		require.Equal(t, none, turns(40, func(i int) view {
			c := chanOf(1, true, half)
			c.Commitments = uint64(i) //nolint:gosec // small
			return view{channels: []ln.Channel{c}, node: long}
		}))
	})
	t.Run("what is held has no turn, nor a channel whose peer is away", func(t *testing.T) {
		require.Equal(t, none, turns(40, func(int) view {
			return view{channels: []ln.Channel{
				chanOf(1, false, half),
				chanOf(2, true, ln.ChannelHtlc{Incoming: true, LockedIn: true}, ln.ChannelHtlc{LockedIn: true}),
			}, node: long}
		}))
	})
	t.Run("a peer that comes and goes does not begin anew", func(t *testing.T) {
		require.Equal(t, later(1, 1, 5, 9, 17, 33, 65), turns(100, func(i int) view {
			return view{channels: []ln.Channel{chanOf(1, i%4 < 2, half)}, node: long}
		}))
	})
	incoming := ln.ChannelHtlc{Incoming: true, LockedIn: true, ForwardingChan: 77, ForwardingIndex: 4}
	next := func(active bool, htlcs ...ln.ChannelHtlc) ln.Channel {
		c := chanOf(2, active, htlcs...)
		c.Aliases = []ln.SCID{77}
		return c
	}
	t.Run("a forward that is in the incoming channel only: the outgoing one has the turn", func(t *testing.T) {
		require.Equal(t, later(2, 1, 3, 7), turns(9, func(int) view {
			return view{channels: []ln.Channel{chanOf(1, true, incoming), next(true, ln.ChannelHtlc{Incoming: true, Index: 4, LockedIn: true})}, node: long}
		}))
	})
	t.Run("one that is in both has none, nor one whose payer or whose receiver is away, or whose channel is gone", func(t *testing.T) {
		for _, channels := range [][]ln.Channel{
			{chanOf(1, true, incoming), next(true, ln.ChannelHtlc{Index: 4, LockedIn: true})},
			{chanOf(1, false, incoming), next(true)},
			{chanOf(1, true, incoming), next(false)},
			{chanOf(1, true, incoming)},
		} {
			require.Equal(t, none, turns(10, func(int) view { return view{channels: channels, node: long} }))
		}
	})
	t.Run("a payment of our own that is in no channel", func(t *testing.T) {
		way := []OnItsWay{{Hash: ln.Hash{9}, Via: 77, Direct: true}, {Hash: ln.Hash{8}, Via: 1234, Direct: true}}
		require.Equal(t, later(2, 1, 3, 7), turns(10, func(int) view { return view{[]ln.Channel{next(true)}, way, long} }))
		there := ln.ChannelHtlc{Hash: ln.Hash{9}, LockedIn: true}
		require.Equal(t, none, turns(10, func(int) view { return view{[]ln.Channel{next(true, there)}, way, long} }), "it is there")
	})

	// over is a payment over channel 2 that ended when lnd had run for this long.
	over := func(i int, node, ran time.Duration) []OnItsWay {
		return []OnItsWay{{Peer: key(2), Hash: ln.Hash{9}, Over: begin.Add(time.Duration(i)*after - node + ran)}}
	}
	t.Run("after lnd's start: the channel of a payment that had just ended, when it is back, until it signs", func(t *testing.T) {
		require.Equal(t, later(2, 5, 7, 11, 19), turns(30, func(i int) view {
			node := time.Duration(i+1) * after
			return view{[]ln.Channel{chanOf(1, true), next(i >= 4)}, over(i, node, -time.Second), node}
		}), "the fake channel never signs")
	})
	t.Run("a start is seen though lnd does not say at first for how long it runs", func(t *testing.T) {
		require.Contains(t, turns(12, func(i int) view {
			node := long
			if i >= 4 {
				node = max(0, time.Duration(i-6)*after)
			}
			return view{[]ln.Channel{next(true)}, over(i, time.Duration(i-6)*after, -time.Second), node}
		}), 8)
	})
	t.Run("two starts a few seconds apart are two: what was signed in between is not signed since", func(t *testing.T) {
		const apart = 5 * time.Second
		require.Equal(t, later(2, 2, 4), turns(6, func(i int) view {
			c, node := next(true), time.Duration(i)*after+time.Second
			if i > 0 {
				c.Commitments++
				node -= apart
			}
			return view{[]ln.Channel{c}, over(i, node, -time.Second), node}
		}))
	})
	t.Run("no turn for one that has signed since, for what ended long before, nor long after", func(t *testing.T) {
		require.Equal(t, none, turns(30, func(i int) view {
			node := time.Duration(i+1) * after
			c := next(true)
			if i > 0 {
				c.Commitments++
			}
			return view{[]ln.Channel{c}, over(i, node, -time.Second), node}
		}))
		require.Equal(t, none, turns(30, func(i int) view {
			node := time.Duration(i+1) * after
			return view{[]ln.Channel{next(true)}, over(i, node, -5*time.Minute), node}
		}))
		require.Equal(t, none, turns(30, func(i int) view {
			node := time.Hour + time.Duration(i+1)*after
			return view{[]ln.Channel{next(true)}, over(i, node, time.Minute), node}
		}))
	})
}
