package lnd

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// TestInherited: what the first listing of a connection has is proven once its channel was
// active for long enough in that connection, and stays so; what came later always is.
func TestInherited(t *testing.T) {
	i := new(inherited)
	connected := func() {
		_, _, err := countedCredentials{insecure.NewCredentials(), i}.Clone().ClientHandshake(t.Context(), "gateway", nil)
		require.NoError(t, err)
	}
	began := time.Now()
	one, two := ln.Outpoint{Index: 1}, ln.Outpoint{Index: 2}
	listing := func(life uint64, after time.Duration, activeOne bool, ofOne ...uint64) (unproven []uint64) {
		channels := []ln.Channel{
			{Outpoint: one, Active: activeOne, Htlcs: []ln.ChannelHtlc{{Index: 3}}},
			{Outpoint: two, Active: true},
		}
		for _, index := range ofOne {
			channels[0].Htlcs = append(channels[0].Htlcs, ln.ChannelHtlc{Incoming: true, Index: index})
		}
		i.mark(life, began.Add(after), channels)
		for _, h := range channels[0].Htlcs {
			if h.Unproven {
				require.True(t, h.Incoming)
				unproven = append(unproven, h.Index)
			}
		}
		return unproven
	}
	connected()
	life := i.life()
	require.Equal(t, []uint64{1, 2}, listing(life, 0, false, 1, 2), "the peer is away")
	require.Equal(t, []uint64{1, 2}, listing(life, time.Hour, false, 1, 2), "time alone proves nothing")
	require.Equal(t, []uint64{1, 2}, listing(life, time.Hour, true, 1, 2, 4), "one came in since")
	require.Equal(t, []uint64{1, 2}, listing(life, time.Hour+settlesWithin-1, true, 1, 2, 4))
	require.Equal(t, []uint64{1, 2}, listing(life, time.Hour+settlesWithin, false, 1, 2, 4), "gone again")
	require.Equal(t, []uint64{1, 2}, listing(life, 2*time.Hour, true, 1, 2, 4))
	require.Empty(t, listing(life, 2*time.Hour+settlesWithin, true, 1, 4), "one was failed")
	require.Empty(t, listing(life, 3*time.Hour, false, 1, 4), "proven for this life")

	connected()
	require.Equal(t, []uint64{1, 4}, listing(life, 3*time.Hour, true, 1, 4), "asked for in the life before")
	life = i.life()
	require.Equal(t, []uint64{1, 4}, listing(life, 4*time.Hour, true, 1, 4), "a new life")
	require.Empty(t, listing(life, 4*time.Hour+settlesWithin, true, 1, 4, 5))
	require.Empty(t, i.htlcs)
}
