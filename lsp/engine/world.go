package engine

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// world is what this process knows of the node right now, kept by lnd's event
// streams and read anew from lnd whenever a stream has begun again. What it
// knows of channels is only as new as the last time that anything needed it
// (follow.go).
type world struct {
	events   Events
	channels Channels
	log      *zap.Logger

	onBlock   func(height uint32)
	onPeer    func(ln.PubKey)
	onChannel func(ln.Outpoint, link)
	onClosed  func(ln.Outpoint)

	mu     sync.Mutex
	height uint32
	peers  map[ln.PubKey]bool
	links  map[ln.Outpoint]link
	synced map[string]chan struct{}
	follow follow
	// seen counts events; peerSeen and linkSeen are the count at the last event
	// of each. A picture that was asked for before an event doesn't overrule it.
	seen     uint64
	peerSeen map[ln.PubKey]uint64
	linkSeen map[ln.Outpoint]uint64
}

// link is one channel's link as far as events tell.
type link struct {
	peer   ln.PubKey
	chanID ln.SCID
	// names are what else an HTLC may call it.
	names  []ln.SCID
	active bool
	// rebuilt says that the link went away and came back since this process
	// saw the channel first: then lnd may have rebuilt it with default fees.
	rebuilt bool
	// lost counts how often it went away under our eyes, or may have in a gap.
	lost int
}

func newWorld(events Events, channels Channels, log *zap.Logger) *world {
	return &world{
		events: events, channels: channels, log: log,
		peers: make(map[ln.PubKey]bool), links: make(map[ln.Outpoint]link),
		peerSeen: make(map[ln.PubKey]uint64), linkSeen: make(map[ln.Outpoint]uint64),
		follow: follow{picture: make(chan struct{}), woken: make(chan struct{}, 1)},
		synced: map[string]chan struct{}{
			"blocks": make(chan struct{}), "peers": make(chan struct{}), "channels": make(chan struct{}),
		},
	}
}

// run keeps every subscription alive until ctx ends.
func (w *world) run(ctx context.Context, spawn func(func())) {
	spawn(func() {
		w.keep(ctx, "blocks", func(ctx context.Context) error {
			return w.events.SubscribeBlocks(ctx, w.block)
		})
	})
	spawn(func() {
		w.keep(ctx, "peers", func(ctx context.Context) error {
			// The list is read once the subscription stands, so that nobody who
			// comes in between is missed; a peer seen twice is harmless.
			go w.resync(ctx, "peers", w.readPeers)
			return w.events.SubscribePeers(ctx, w.peer)
		})
	})
	spawn(func() {
		w.resync(ctx, "channels", w.readChannels)
		w.keep(ctx, "channels", w.followChannels)
	})
}

// ready waits until each subscription has delivered its first picture.
func (w *world) ready(ctx context.Context) error {
	for _, ch := range w.synced {
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (w *world) keep(ctx context.Context, what string, subscribe func(context.Context) error) {
	wait := 50 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		sub, cancel := context.WithCancel(ctx)
		err := subscribe(sub)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			continue
		}
		w.log.Warn("lnd ended a subscription; subscribing again", zap.String("subscription", what), zap.Error(err))
		if time.Since(began) > time.Minute {
			wait = 50 * time.Millisecond
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		wait = min(2*wait, 2*time.Second)
	}
}

// resync reads a whole picture, and tries again until the subscription that
// it belongs to has ended.
func (w *world) resync(ctx context.Context, what string, read func(context.Context) error) {
	for ctx.Err() == nil {
		err := read(ctx)
		if err == nil {
			w.markSynced(what)
			return
		}
		w.log.Warn("could not read the node's state; trying again", zap.String("state", what), zap.Error(err))
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (w *world) markSynced(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.synced[what]:
	default:
		close(w.synced[what])
	}
}

func (w *world) block(b ln.Block) {
	w.mu.Lock()
	w.height = b.Height
	w.mu.Unlock()
	w.markSynced("blocks")
	w.onBlock(b.Height)
}

func (w *world) readPeers(ctx context.Context) error {
	asked := w.count()
	list, err := w.events.ConnectedPeers(ctx)
	if err != nil {
		return err
	}
	now := make(map[ln.PubKey]bool, len(list))
	for _, p := range list {
		now[p] = true
	}
	w.mu.Lock()
	for p, seen := range w.peerSeen {
		if seen > asked {
			now[p] = w.peers[p]
		}
	}
	var came []ln.PubKey
	for p, here := range now {
		if here && !w.peers[p] {
			came = append(came, p)
		}
	}
	w.peers = now
	clear(w.peerSeen)
	w.mu.Unlock()
	for _, p := range came {
		w.onPeer(p)
	}
	return nil
}

func (w *world) peer(e ln.PeerEvent) {
	w.mu.Lock()
	w.seen++
	w.peerSeen[e.Peer] = w.seen
	w.peers[e.Peer] = e.Online
	if !e.Online {
		w.linksGone(e.Peer)
	}
	w.mu.Unlock()
	if e.Online {
		w.onPeer(e.Peer)
	}
}

// linksGone notes that a peer's links went away: peers are followed always, channels are
// not, and of a link that never became active lnd says nothing. Callers hold w.mu.
func (w *world) linksGone(peer ln.PubKey) {
	for op, l := range w.links {
		if l.peer == peer {
			l.rebuilt = true
			l.lost++
			w.links[op] = l
		}
	}
}

// readChannels reads the first picture of a subscription.
func (w *world) readChannels(ctx context.Context) error { return w.picture(ctx, true) }

// picture reads lnd's channels. After a gap in the events a link that was seen
// before may have been rebuilt.
func (w *world) picture(ctx context.Context, gap bool) error {
	w.mu.Lock()
	asked, before := w.seen, make(map[ln.Outpoint]bool, len(w.links))
	for op := range w.links {
		before[op] = true
	}
	w.mu.Unlock()
	list, err := w.channels.ListChannels(ctx)
	if err != nil {
		return err
	}
	type change struct {
		op ln.Outpoint
		l  link
	}
	var changes []change
	w.mu.Lock()
	open := make(map[ln.Outpoint]bool, len(list))
	for _, c := range list {
		open[c.Outpoint] = true
		was, seen := w.links[c.Outpoint]
		// A gap may hide a flap, and before the first event of a channel anything
		// may have happened.
		now := link{peer: c.Peer, chanID: c.ChanID, names: otherNames(c), active: c.Active, rebuilt: gap || !seen || was.rebuilt || was.active != c.Active, lost: was.lost}
		if gap || was.active != c.Active {
			now.lost++
		}
		if w.linkSeen[c.Outpoint] > asked {
			now.active, now.rebuilt = was.active, was.rebuilt || gap && before[c.Outpoint]
		}
		w.links[c.Outpoint] = now
		if !seen || was.active != now.active {
			changes = append(changes, change{c.Outpoint, now})
		}
	}
	for op := range w.links {
		if !open[op] && w.linkSeen[op] <= asked {
			delete(w.links, op)
		}
	}
	clear(w.linkSeen)
	w.mu.Unlock()
	for _, c := range changes {
		w.onChannel(c.op, c.l)
	}
	return nil
}

func (w *world) channelEvent(e ln.ChannelEvent) {
	w.mu.Lock()
	w.seen++
	w.linkSeen[e.Outpoint] = w.seen
	l, known := w.links[e.Outpoint]
	switch e.Kind {
	case ln.ChannelOpened:
		if e.Channel != nil {
			l.peer, l.chanID, l.names = e.Channel.Peer, e.Channel.ChanID, otherNames(*e.Channel)
		}
	case ln.ChannelActive:
		l.active, l.rebuilt = true, l.rebuilt || !known
	case ln.ChannelInactive:
		l.active, l.rebuilt = false, true
		l.lost++
	case ln.ChannelClosed, ln.ChannelResolved:
		delete(w.links, e.Outpoint)
		w.mu.Unlock()
		w.onChannel(e.Outpoint, link{chanID: l.chanID, rebuilt: true})
		w.onClosed(e.Outpoint)
		return
	case ln.ChannelPending:
	}
	w.links[e.Outpoint] = l
	w.mu.Unlock()
	if e.Kind == ln.ChannelActive || e.Kind == ln.ChannelInactive || (e.Kind == ln.ChannelOpened && l.active) {
		w.onChannel(e.Outpoint, l)
	}
}

func (w *world) count() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

// tip is the best height known, 0 before the first block.
func (w *world) tip() uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.height
}

// channelCount is how many channels are open or opening.
func (w *world) channelCount() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.links)
}

// channelsTo is how many channels the peer has with us, whether lnd would use them
// now or not.
func (w *world) channelsTo(p ln.PubKey) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.links {
		if l.peer == p {
			n++
		}
	}
	return n
}

// online reports whether the peer is connected.
func (w *world) online(p ln.PubKey) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.peers[p]
}

// reachable reports whether lnd, too, has the peer now: between a disconnect and
// its event a peer counts as connected here, to which nothing can be opened.
func (w *world) reachable(ctx context.Context, p ln.PubKey) (bool, error) {
	if !w.online(p) {
		return false, nil
	}
	list, err := w.events.ConnectedPeers(ctx)
	if err != nil {
		return false, err
	}
	return slices.Contains(list, p), nil
}

// link is how a channel is now.
func (w *world) link(op ln.Outpoint) (link, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l, known := w.links[op]
	return l, known
}

// stayed says that the channel is there and its link has not gone away since before.
func (w *world) stayed(op ln.Outpoint, before link) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	l, known := w.links[op]
	return known && l.lost == before.lost
}

// byChanID finds a channel by lnd's name for it.
func (w *world) byChanID(id ln.SCID) (ln.Outpoint, link, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for op, l := range w.links {
		if l.chanID == id {
			return op, l, true
		}
	}
	return ln.Outpoint{}, link{}, false
}

func otherNames(c ln.Channel) (names []ln.SCID) {
	for _, name := range c.Names() {
		if name != c.ChanID {
			names = append(names, name)
		}
	}
	return names
}

// inactive says that one of these HTLCs came over a channel that is known and not
// active.
func (w *world) inactive(htlcs []ln.CircuitKey) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.links {
		if l.active {
			continue
		}
		for _, key := range htlcs {
			if key.ChanID != 0 && (l.chanID == key.ChanID || slices.Contains(l.names, key.ChanID)) {
				return true
			}
		}
	}
	return false
}

// name records lnd's name for a channel.
func (w *world) name(op ln.Outpoint, id ln.SCID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l, ok := w.links[op]; ok {
		l.chanID = id
		w.links[op] = l
	}
}
