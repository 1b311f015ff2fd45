package engine

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws"
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
	listing := func() bool {
		select {
		case <-e.relist:
			return true
		default:
			return false
		}
	}
	has := func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		c, named := e.named(11)
		return named && c.Active && e.hasChannel(wallet)
	}

	asked := e.events
	e.onChannel(ln.ChannelEvent{Kind: ln.ChannelPending, Outpoint: op})
	e.onChannel(ln.ChannelEvent{Kind: ln.ChannelOpened, Outpoint: op, Channel: &ln.Channel{Peer: wallet, ChanID: 11, Outpoint: op}})
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

// TestNobodyRegisteredNobodyFollows: channels are followed once a wallet is registered; one
// whose channel is younger than the last listing is registered all the same.
func TestNobodyRegisteredNobodyFollows(t *testing.T) {
	wallet := ln.PubKey{2, 7}
	a := &away{nobody: true, clock: new(atomic.Int64), channels: []ln.Channel{}}
	e := a.start(t)
	require.Eventually(t, func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.listed
	}, time.Minute, time.Millisecond)
	follows := func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.onChannel != nil
	}
	register := func() error {
		return e.SetWish(t.Context(), wallet, lws.Wish{HoldFor: time.Hour, MaxHtlcs: 5, MaxSat: 1_000_000, FinalCltvDelta: 80})
	}
	require.ErrorIs(t, register(), errkind.Conflict, "it has no channel")
	require.False(t, follows())

	a.mu.Lock()
	a.channels = []ln.Channel{{Peer: wallet, ChanID: 5, Outpoint: ln.Outpoint{Index: 1}}}
	a.mu.Unlock()
	require.ErrorIs(t, register(), errkind.Conflict, "a second has not passed since the last listing")
	a.clock.Add(int64(2 * time.Second))
	require.NoError(t, register())
	require.Eventually(t, follows, time.Minute, time.Millisecond)
}
