package engine

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// pictures is an lnd whose answers the test holds back: during runs between
// the question and the answer.
type pictures struct {
	Events
	Channels
	peers    []ln.PubKey
	channels []ln.Channel
	during   func()
}

func (p *pictures) ConnectedPeers(context.Context) ([]ln.PubKey, error) {
	list := p.peers
	p.during()
	return list, nil
}

func (p *pictures) ListChannels(context.Context) ([]ln.Channel, error) {
	list := p.channels
	p.during()
	return list, nil
}

func pictured(t *testing.T) (*world, *pictures) {
	t.Helper()
	p := &pictures{during: func() {}}
	w := newWorld(p, p, zap.NewNop())
	w.onBlock, w.onPeer, w.onChannel = func(uint32) {}, func(ln.PubKey) {}, func(ln.Outpoint, link) {}
	return w, p
}

// TestAnEventOverrulesAnOlderPicture: a list that was asked for before a peer
// left must not bring it back, nor one asked for before it came take it away.
func TestAnEventOverrulesAnOlderPicture(t *testing.T) {
	left, came, gone := ln.PubKey{2, 1}, ln.PubKey{2, 2}, ln.PubKey{2, 3}
	w, p := pictured(t)
	p.peers = []ln.PubKey{left}
	w.peer(ln.PeerEvent{Peer: gone, Online: true})
	p.during = func() {
		w.peer(ln.PeerEvent{Peer: left, Online: false})
		w.peer(ln.PeerEvent{Peer: came, Online: true})
	}
	require.NoError(t, w.readPeers(t.Context()))
	require.False(t, w.online(left))
	require.True(t, w.online(came))
	require.False(t, w.online(gone), "an event from before the question is older than the answer")

	// The next picture overrules them all.
	p.during = func() {}
	require.NoError(t, w.readPeers(t.Context()))
	require.True(t, w.online(left))
	require.False(t, w.online(came))
}

// A peer whose disconnect is not told yet cannot be opened to.
func TestAPeerIsReachableWhereLndHasIt(t *testing.T) {
	here, left, unseen := ln.PubKey{2, 1}, ln.PubKey{2, 2}, ln.PubKey{2, 3}
	w, p := pictured(t)
	w.peer(ln.PeerEvent{Peer: here, Online: true})
	w.peer(ln.PeerEvent{Peer: left, Online: true})
	p.peers = []ln.PubKey{here, unseen}
	for peer, want := range map[ln.PubKey]bool{here: true, left: false, unseen: false} {
		got, err := w.reachable(t.Context(), peer)
		require.NoError(t, err)
		require.Equal(t, want, got, peer)
	}
}

// TestALinkSeenAfterAGapMayBeRebuilt: lnd rebuilds a link with its default
// fees, so one whose events were missed must have its policy looked at.
func TestALinkSeenAfterAGapMayBeRebuilt(t *testing.T) {
	op, other := ln.Outpoint{TxID: ln.TxID{1}}, ln.Outpoint{TxID: ln.TxID{2}}
	w, p := pictured(t)
	var told []link
	w.onChannel = func(_ ln.Outpoint, l link) { told = append(told, l) }

	// Opened and active under our eyes: as we asked for it.
	w.channelEvent(ln.ChannelEvent{Outpoint: op, Kind: ln.ChannelOpened, Channel: &ln.Channel{ChanID: 7}})
	w.channelEvent(ln.ChannelEvent{Outpoint: op, Kind: ln.ChannelActive})
	require.Equal(t, []link{{chanID: 7, active: true}}, told)

	// It flaps.
	w.channelEvent(ln.ChannelEvent{Outpoint: op, Kind: ln.ChannelInactive})
	w.channelEvent(ln.ChannelEvent{Outpoint: op, Kind: ln.ChannelActive})
	require.True(t, told[len(told)-1].rebuilt)

	// What was true of its link is true as long as it has not gone away.
	before := told[len(told)-1]
	flap := func() {
		w.channelEvent(ln.ChannelEvent{Outpoint: op, Kind: ln.ChannelInactive})
		w.channelEvent(ln.ChannelEvent{Outpoint: op, Kind: ln.ChannelActive})
	}
	flap()
	require.False(t, w.stayed(op, before))
	before = told[len(told)-1]
	require.True(t, w.stayed(op, before))

	// A picture after a gap: what was there may have flapped, what is new may
	// have done anything, what is missing is gone; an event during the question
	// counts more than the answer.
	told = nil
	p.channels = []ln.Channel{{Outpoint: op, ChanID: 7, Active: true}, {Outpoint: other, ChanID: 8, Active: true}}
	p.during = func() { w.channelEvent(ln.ChannelEvent{Outpoint: other, Kind: ln.ChannelInactive}) }
	require.NoError(t, w.readChannels(t.Context()))
	_, l, found := w.byChanID(7)
	require.True(t, found && l.active && l.rebuilt)
	require.False(t, w.stayed(op, before), "it may have gone away in the gap")
	_, l, found = w.byChanID(8)
	require.True(t, found && l.rebuilt && !l.active, "the event came after the question")

	p.channels, p.during = nil, func() {}
	require.NoError(t, w.readChannels(t.Context()))
	_, _, found = w.byChanID(7)
	require.False(t, found)
}

// TestConfigNamesWhatIsWrong: each setting that cannot be is refused by name.
func TestConfigNamesWhatIsWrong(t *testing.T) {
	good := Defaults()
	good.Network, good.Self = "regtest", ln.PubKey{2, 1}
	require.NoError(t, good.Validate())
	for want, spoil := range map[string]func(*Config){
		"network":         func(c *Config) { c.Network = "" },
		"node key":        func(c *Config) { c.Self = ln.PubKey{} },
		"cltv_delta":      func(c *Config) { c.CltvDelta = 0 },
		"offer_for":       func(c *Config) { c.OfferFor = 1 },
		"2 hours":         func(c *Config) { c.OfferFor = 3 * time.Hour },
		"promise_key_for": func(c *Config) { c.PromiseKeyFor = time.Hour },
		"weight":          func(c *Config) { c.Prices.OpeningWU = 0 },
		"min_channel_sat": func(c *Config) { c.Capacity.MinSat = 1 },
		"max_channel_sat": func(c *Config) { c.Capacity.MaxSat = c.Capacity.MinSat - 1 },
		"stress_percent":  func(c *Config) { c.Capacity.StressPercent = 99 },
		"open_for":        func(c *Config) { c.OpenFor = 0 },
		"max_payments":    func(c *Config) { c.MaxPayments = 0 },
		"fees.floor":      func(c *Config) { c.Fees.Floor = 1 },
		"fees.ceiling":    func(c *Config) { c.Fees.Ceiling = c.Fees.Floor - 1 },
		"buried_confs":    func(c *Config) { c.BuriedConfs = 0 },
		"close_unused":    func(c *Config) { c.Unused.AfterBlocks = 100 },
		"trust (never":    func(c *Config) { c.Trust.Mode = "sometimes" },
		"trust_window":    func(c *Config) { c.Trust.Window = time.Minute },
		"menu":            func(c *Config) { c.Menu = nil },
	} {
		c := good
		spoil(&c)
		require.ErrorContains(t, c.Validate(), want)
	}
}

// An HTLC may call the channel that it came over by any of its names. What is not known
// keeps nothing waiting.
func TestInactiveIncomingChannel(t *testing.T) {
	w := newWorld(nil, nil, zap.NewNop())
	w.onChannel = func(ln.Outpoint, link) {}
	op := ln.Outpoint{TxID: ln.TxID{1}}
	w.channelEvent(ln.ChannelEvent{
		Kind: ln.ChannelOpened, Outpoint: op, Channel: &ln.Channel{ChanID: 7, Aliases: []ln.SCID{7, 8}, ConfirmedSCID: 9},
	})
	for _, active := range []bool{false, true, false} {
		kind := ln.ChannelInactive
		if active {
			kind = ln.ChannelActive
		}
		w.channelEvent(ln.ChannelEvent{Kind: kind, Outpoint: op})
		for _, name := range []ln.SCID{7, 8, 9} {
			require.Equal(t, !active, w.inactive([]ln.CircuitKey{{ChanID: 20}, {ChanID: name}}))
		}
		require.False(t, w.inactive([]ln.CircuitKey{{ChanID: 20}, {}}))
	}
}
