package ln

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNames(t *testing.T) {
	require.Empty(t, Channel{}.Names())
	require.Equal(t, []SCID{3, 5, 7}, Channel{ChanID: 7, ConfirmedSCID: 5, Aliases: []SCID{7, 3, 0, 5}}.Names())
}

// TestDoubtOf: each HTLC counts, under whichever of its channel's names.
func TestDoubtOf(t *testing.T) {
	at := func(c SCID, index uint64) InvoiceHtlc {
		return InvoiceHtlc{Key: CircuitKey{ChanID: c, HtlcID: index}}
	}
	channels := []Channel{
		{ChanID: 1, Htlcs: []ChannelHtlc{{Incoming: true, Index: 4}, {Index: 5}, {Incoming: true, Index: 7, Unproven: true}}},
		{ChanID: 2, Aliases: []SCID{20}, ZeroConf: true, ConfirmedSCID: 21, Htlcs: []ChannelHtlc{{Incoming: true, Index: 4}}},
		{ChanID: 3, ZeroConf: true, Htlcs: []ChannelHtlc{{Incoming: true, Index: 4}}},
	}
	for name, c := range map[string]struct {
		htlcs []InvoiceHtlc
		want  Doubt
		over  SCID
	}{
		"none":                                  {nil, "", 0},
		"held":                                  {[]InvoiceHtlc{at(1, 4), at(2, 4)}, "", 0},
		"by another name":                       {[]InvoiceHtlc{at(20, 4), at(21, 4)}, "", 0},
		"of a channel that could be taken back": {[]InvoiceHtlc{at(1, 4), at(3, 4)}, DoubtFunding, 3},
		"of a closed channel":                   {[]InvoiceHtlc{at(1, 4), at(8, 4)}, DoubtClosed, 8},
		"failed since":                          {[]InvoiceHtlc{at(1, 4), at(1, 6)}, DoubtGone, 1},
		"one that goes out is another":          {[]InvoiceHtlc{at(1, 5)}, DoubtGone, 1},
		"may yet be failed":                     {[]InvoiceHtlc{at(1, 7), at(2, 4)}, DoubtUnproven, 1},
		"another is gone for good":              {[]InvoiceHtlc{at(1, 7), at(8, 4)}, DoubtClosed, 8},
	} {
		t.Run(name, func(t *testing.T) {
			why, over := DoubtOf(c.htlcs, channels, 700_000)
			require.Equal(t, c.want, why)
			require.Equal(t, c.over, over)
		})
	}
}
