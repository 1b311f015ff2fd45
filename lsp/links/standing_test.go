package links

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

func TestStanding(t *testing.T) {
	const after = 15 * time.Second
	start := time.Unix(1_800_000_000, 0)
	// A look every fifteen seconds; node is for how long lnd runs at the first.
	turns := func(looks int, node time.Duration, at func(look int) ([]ln.Channel, []OnItsWay)) (due []int) {
		s := NewStanding(after)
		for i := range looks {
			channels, underWay := at(i)
			for j := range channels {
				if channels[j].SeenFor == 0 {
					channels[j].SeenFor = node + time.Duration(i)*after
				}
				if channels[j].OnlineFor == 0 {
					channels[j].OnlineFor = channels[j].SeenFor
				}
			}
			if len(s.Look(start.Add(time.Duration(i)*after), channels, underWay)) > 0 {
				due = append(due, i)
			}
		}
		return due
	}
	chanOf := func(id ln.SCID, htlcs ...ln.ChannelHtlc) ln.Channel {
		c := channel(byte(id), 0)
		c.ChanID, c.Active, c.Htlcs = id, true, htlcs
		return c
	}
	const long = 24 * time.Hour

	t.Run("an HTLC of the peer's that is not locked in: later and later", func(t *testing.T) {
		require.Equal(t, []int{1, 3, 7, 15, 31}, turns(40, long, func(int) ([]ln.Channel, []OnItsWay) {
			return []ln.Channel{chanOf(1, ln.ChannelHtlc{Incoming: true, Index: 7})}, nil
		}))
	})
	t.Run("others each time are none that stands still", func(t *testing.T) {
		require.Empty(t, turns(40, long, func(i int) ([]ln.Channel, []OnItsWay) {
			return []ln.Channel{chanOf(1, ln.ChannelHtlc{Incoming: true, Index: uint64(i)})}, nil //nolint:gosec // small
		}))
	})
	t.Run("nobody is nudged for what waits for its peer", func(t *testing.T) {
		require.Empty(t, turns(40, long, func(int) ([]ln.Channel, []OnItsWay) {
			c := chanOf(1, ln.ChannelHtlc{Incoming: true, Index: 7})
			c.Active = false
			return []ln.Channel{c, chanOf(2, ln.ChannelHtlc{Incoming: true, LockedIn: true}, ln.ChannelHtlc{LockedIn: true})}, nil
		}))
	})
	incoming := ln.ChannelHtlc{Incoming: true, LockedIn: true, ForwardingChan: 77, ForwardingIndex: 4}
	next := func(htlcs ...ln.ChannelHtlc) ln.Channel {
		c := chanOf(2, htlcs...)
		c.Aliases = []ln.SCID{77}
		return c
	}
	t.Run("a forward that is in the incoming channel only: the outgoing one has the turn", func(t *testing.T) {
		s := NewStanding(after)
		channels := []ln.Channel{chanOf(1, incoming), next(ln.ChannelHtlc{Incoming: true, Index: 4, LockedIn: true})}
		require.Empty(t, s.Look(start, channels, nil))
		require.Equal(t, channels[1:], s.Look(start.Add(after), channels, nil))
	})
	t.Run("one that is in both has none, nor one whose payer or whose receiver is away, or whose channel is gone", func(t *testing.T) {
		payerAway, receiverAway := chanOf(1, incoming), next()
		payerAway.Active, receiverAway.Active = false, false
		for _, channels := range [][]ln.Channel{
			{chanOf(1, incoming), next(ln.ChannelHtlc{Index: 4, LockedIn: true})},
			{payerAway, next()},
			{chanOf(1, incoming), receiverAway},
			{chanOf(1, incoming)},
		} {
			require.Empty(t, turns(10, long, func(int) ([]ln.Channel, []OnItsWay) { return channels, nil }))
		}
	})
	t.Run("a payment of our own that is in no channel", func(t *testing.T) {
		way := []OnItsWay{{Hash: ln.Hash{9}, Via: 77}, {Hash: ln.Hash{8}, Via: 1234}}
		require.Equal(t, []int{1, 3, 7}, turns(10, long, func(int) ([]ln.Channel, []OnItsWay) { return []ln.Channel{next()}, way }))
		require.Empty(t, turns(10, long, func(int) ([]ln.Channel, []OnItsWay) {
			return []ln.Channel{next(ln.ChannelHtlc{Hash: ln.Hash{9}, LockedIn: true})}, way
		}), "it is there")
	})
	t.Run("after a start of lnd each channel that was there has one turn, once it is back", func(t *testing.T) {
		var got [][]ln.SCID
		s := NewStanding(after)
		for i := range 8 {
			at := time.Duration(i+1) * after
			a, b, c, later := chanOf(1), chanOf(2), chanOf(3), chanOf(4)
			for _, ch := range []*ln.Channel{&a, &b, &c, &later} {
				ch.SeenFor, ch.OnlineFor = at, at
			}
			b.Active = i >= 4         // its peer comes later
			c.Commitments = uint64(i) //nolint:gosec // small: it signs by itself
			later.SeenFor = at - 10*time.Second
			var due []ln.SCID
			for _, ch := range s.Look(start.Add(at), []ln.Channel{a, b, c, later}, nil) {
				due = append(due, ch.ChanID)
			}
			got = append(got, due)
		}
		require.Equal(t, [][]ln.SCID{nil, {1}, nil, nil, nil, {2}, nil, nil}, got)
	})
	t.Run("a start that was watched counts however long a channel has been online, one that was not only soon after it", func(t *testing.T) {
		require.Equal(t, []int{4}, turns(10, long, func(i int) ([]ln.Channel, []OnItsWay) {
			c := chanOf(1)
			if i >= 3 {
				c.SeenFor = time.Duration(i-2) * after
			}
			return []ln.Channel{c}, nil
		}))
		require.Empty(t, turns(10, time.Hour, func(int) ([]ln.Channel, []OnItsWay) { return []ln.Channel{chanOf(1)}, nil }))
	})
}
