package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/hold"
)

// TestAChannelThatOpensIsKnownByItsEvent: no listing is needed for it, and none that was
// asked for before it opened takes it away.
func TestAChannelThatOpensIsKnownByItsEvent(t *testing.T) {
	wallet, op := ln.PubKey{2, 7}, ln.Outpoint{TxID: ln.TxID{3}, Index: 1}
	e := &Engine{
		relist: make(chan struct{}, 1), reclaim: make(chan struct{}, 1), channels: make(map[ln.Outpoint]channel),
		changed: make(map[ln.Outpoint]uint64), byName: make(map[ln.SCID]ln.Outpoint), live: make(map[string]hold.Payment),
	}
	e.opt.Now = (&away{}).now
	e.ctx = t.Context()
	woken := func(ch chan struct{}) bool {
		select {
		case <-ch:
			return true
		default:
			return false
		}
	}
	listing := func() bool { return woken(e.relist) }
	has := func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		c, named := e.named(11)
		return named && c.Active && e.hasChannel(wallet)
	}

	asked := e.events
	e.onChannel(ln.ChannelEvent{Kind: ln.ChannelPending, Outpoint: op})
	e.onChannel(ln.ChannelEvent{Kind: ln.ChannelOpened, Outpoint: op, Channel: &ln.Channel{Peer: wallet, ChanID: 11, Outpoint: op}})
	require.True(t, woken(e.reclaim), "it may be a registered wallet's")
	e.onChannel(ln.ChannelEvent{Kind: ln.ChannelActive, Outpoint: op})
	require.True(t, has())
	require.False(t, listing())

	e.onListed(nil, asked)
	require.True(t, has(), "the listing was asked for before it opened")
	e.onListed(nil, e.events)
	require.False(t, has(), "it is closed")

	e.onChannel(ln.ChannelEvent{Kind: ln.ChannelActive, Outpoint: op})
	require.True(t, listing(), "nothing is known of it")
	e.onChannel(ln.ChannelEvent{Kind: ln.ChannelClosed, Outpoint: op})
	require.True(t, listing())
}
