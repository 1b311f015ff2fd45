package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// TestWhatIsOnItsWayIntoAChannelIsSeen: lnd lists an HTLC that it forwards into a channel a
// moment after it did. A channel that nothing funds is not forgotten with it.
func TestWhatIsOnItsWayIntoAChannelIsSeen(t *testing.T) {
	for _, active := range []bool{true, false} {
		n := newFakeNode()
		forgotten := 0
		n.forget = func(ln.Outpoint) error { forgotten++; return nil }
		e := newEngine(t, database(t), n, nil)
		op, peer := ln.Outpoint{TxID: ln.TxID{1}}, ln.PubKey{2, 1}
		n.channels = []ln.Channel{{Outpoint: op, Peer: peer, ChanID: 50, Active: active}}
		e.world.channelEvent(ln.ChannelEvent{Kind: ln.ChannelOpened, Outpoint: op, Channel: &n.channels[0]})
		if active {
			e.world.channelEvent(ln.ChannelEvent{Kind: ln.ChannelActive, Outpoint: op})
		}
		lists := 0
		n.onList = func() {
			if lists++; lists == 2 {
				n.channels[0].Htlcs = []ln.ChannelHtlc{{AmtMsat: 1_000_000, Hash: ln.Hash{1}}}
			}
		}
		err := e.forgetChannel(t.Context(), op)
		if !active {
			require.NoError(t, err, "nothing comes over a channel that is down")
			require.Equal(t, 1, forgotten)
			continue
		}
		require.ErrorIs(t, err, ln.ErrUnavailable, "it is tried again when it is empty")
		require.Zero(t, forgotten)
		n.onList, n.channels[0].Htlcs = nil, nil
		require.NoError(t, e.forgetChannel(t.Context(), op))
		require.Equal(t, 1, forgotten)
	}
}
