package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// closer is what of an lnd's orders port is asked here.
type closer struct {
	Orders
	closed []ln.Outpoint
	fail   error
}

func (c *closer) Close(_ context.Context, op ln.Outpoint, _ ln.FeeRateSatPerKW) error {
	if c.fail != nil {
		return c.fail
	}
	c.closed = append(c.closed, op)
	return nil
}

// TestUnusedChannelsAreClosed: over restarts, a few with each block, and only
// channels on demand that nobody counts on.
func TestUnusedChannelsAreClosed(t *testing.T) {
	cfg := database(t)
	n := newFakeNode()
	c := &closer{}
	engine := func() *Engine {
		return newEngine(t, cfg, n, func(o *Options) {
			o.Node.Orders = c
			o.Config.Unused.AfterBlocks = 2_000
		})
	}
	e := engine()
	const born = 800_000
	channel := func(i byte, memo string) ln.Channel {
		return ln.Channel{
			Outpoint: ln.Outpoint{TxID: ln.TxID{i}}, Peer: ln.PubKey{2, i}, ChanID: ln.NewSCID(16_000_000, uint32(i), 0), ConfirmedSCID: ln.NewSCID(born, uint32(i), 0),
			ZeroConf: true, Active: true, Private: true, Initiator: true, LocalSat: 100_000, Memo: memo,
		}
	}
	for i := range byte(5) {
		n.channels = append(n.channels, channel(i+1, openMemo(ulid.Make().String())))
	}
	ordered := channel(50, openMemo("f81d4fae-7dec-11d0-a765-00a0c91e6bf6"))
	strangers := channel(51, "")
	n.channels = append(n.channels, ordered, strangers)
	at := func(e *Engine, height uint32) {
		t.Helper()
		e.world.height = height
		require.NoError(t, e.lookForUnused(t.Context()))
	}
	at(e, born+10)
	require.Empty(t, c.closed)
	// One is used, and the process begins anew.
	n.channels[0].RemoteSat = 5_000
	e = engine()
	at(e, born+1_000)
	at(e, born+2_100)
	require.Empty(t, c.closed, "the menu promised 4,320 blocks")
	// Somebody counts on another.
	e.promises["p"] = spot{client: n.channels[1].Peer, via: n.channels[1].ChanID, since: time.Now()}
	c.fail = errors.New("its peer is busy")
	at(e, born+4_320)
	require.Empty(t, c.closed)
	c.fail = nil
	at(e, born+4_320)
	require.Len(t, c.closed, closesAtOnce)
	for _, op := range c.closed {
		require.NotContains(t, []ln.Outpoint{n.channels[1].Outpoint, ordered.Outpoint, strangers.Outpoint}, op)
	}
	// What is closed is forgotten.
	n.channels = n.channels[1:2]
	delete(e.promises, "p")
	c.closed = nil
	at(e, born+4_321)
	require.Equal(t, []ln.Outpoint{n.channels[0].Outpoint}, c.closed)
}
