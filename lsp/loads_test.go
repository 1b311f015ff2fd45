package lsp

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Whatever is put in, replaced and taken out, the running sums are those of the
// shares that are there.
func TestLoadsAreTheSumsOfTheirShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, have := NewLoads(), map[string]Share{}
		paid := map[ln.PubKey]bool{}
		client := func() ln.PubKey { return ln.PubKey{2, rapid.Byte().Draw(t, "client") % 3} }
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := fmt.Sprint(rapid.IntRange(0, 8).Draw(t, "id"))
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				c := client()
				if old, ok := have[id]; ok {
					c = old.Client // a share never changes hands
				}
				s := Share{
					Client: c, Newcomer: !paid[c], QuotedSat: ln.Sat(rapid.Uint64Range(0, 1<<40).Draw(t, "quoted")),
					Funded: rapid.Bool().Draw(t, "funded"), Only: rapid.Bool().Draw(t, "only"),
					Holding: Holding{
						HeldMsat: ln.Msat(rapid.Uint64Range(0, 1<<50).Draw(t, "held")), SatBlocks: rapid.Uint64Range(0, maxSatBlocks).Draw(t, "blocks"),
					},
				}
				for _, scid := range rapid.SliceOfN(rapid.Uint64Range(1, 3), 0, 9).Draw(t, "came in on") {
					s.Slots = s.Slots.With(ln.SCID(scid))
				}
				again, err := ParseSlots(s.Slots.String())
				require.NoError(t, err)
				require.Equal(t, s.Slots, again)
				l.Put(id, s)
				have[id] = s
			case 2:
				l.Drop(id)
				delete(have, id)
			case 3:
				c := client()
				paid[c] = true
				l.Known(c)
				for id, s := range have {
					if s.Client == c {
						s.Newcomer = false
						have[id] = s
					}
				}
			}
			for n := range byte(3) {
				c := ln.PubKey{2, n}
				require.Equal(t, sumOf(have, c), l.Usage(c))
			}
			on := Slots{{1, 1}, {2, 1}, {3, 1}, {4, 1}}
			all, newcomers := l.Incoming(on)
			busiest := 0
			for _, c := range on {
				var want waiting
				for _, s := range have {
					want.all += s.Slots.Of(c.Chan)
					if s.Newcomer {
						want.newcomers += s.Slots.Of(c.Chan)
					}
				}
				require.Equal(t, want, waiting{all.Of(c.Chan), newcomers.Of(c.Chan)})
				busiest = max(busiest, want.all)
			}
			require.Equal(t, busiest, l.Busiest().Htlcs)
		}
		other := NewLoads()
		for id, s := range have {
			other.Put(id, s)
		}
		require.Empty(t, l.Differs(other))
		for id, s := range have {
			if len(s.Slots) > 0 {
				moved := s
				moved.Slots = append(Slots{{ln.SCID(99), s.Slots[0].Htlcs}}, s.Slots[1:]...)
				other.Put(id, moved)
				require.NotEmpty(t, l.Differs(other), "as many, on another channel")
				other.Put(id, s)
			}
		}
		other.Put("more", Share{})
		require.NotEmpty(t, l.Differs(other))
		require.NotEmpty(t, other.Differs(l))
	})
}

// sumOf is Usage from nothing.
func sumOf(shares map[string]Share, client ln.PubKey) (u Usage) {
	add := func(l *Load, held *ln.Msat, s Share) {
		if !s.Only {
			l.OpenRequests++
		}
		l.QuotedSat += s.QuotedSat
		l.HeldSatBlocks += s.SatBlocks
		l.HeldHtlcs += s.Slots.Total()
		*held += s.HeldMsat
		l.HeldSat = held.ToSatCeil()
	}
	var all, newcomers, own ln.Msat
	for _, s := range shares {
		add(&u.All, &all, s)
		if s.Newcomer {
			add(&u.Newcomers, &newcomers, s)
		}
		if s.Client == client {
			add(&u.Client, &own, s)
		}
		if !s.Funded {
			quote := Quoted{Sat: s.QuotedSat}
			if s.QuotedSat > 0 {
				quote.Channels = 1
			}
			u.Unfunded.Sat += quote.Sat
			u.Unfunded.Channels += quote.Channels
			if s.Newcomer {
				u.NewcomersUnfunded.Sat += quote.Sat
				u.NewcomersUnfunded.Channels += quote.Channels
			}
		}
	}
	return u
}
