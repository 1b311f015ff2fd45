package engine

import (
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/hold"
)

const (
	// listEvery bounds how long an event of lnd's that was missed stays unknown. Without
	// a wallet that is registered nobody waits for it, and a listing costs a large node a
	// tenth of a second.
	listEvery, listIdle = 30 * time.Second, 5 * time.Minute
	// claimFor is how long a claim lasts that nobody renews; renewed with half of it left.
	claimFor = 24 * time.Hour
	// settleFor is how long a channel must have been active until it counts: when a node
	// starts, both sides dial, one connection takes the place of the other, and what is
	// resumed in between fails (seen: lives of 110 ms).
	settleFor = 300 * time.Millisecond
	// prepareAfter is how long it must have been active until what waits is made ready to
	// be handed on once it counts: by then the connection that is replaced is gone.
	prepareAfter = 120 * time.Millisecond
	// patience is how long the channel that an onion names is waited for while another of
	// the wallet's is active.
	patience = 5 * time.Second
	// retryStep keeps attempts apart; nothing rests on its length.
	retryStep = 200 * time.Millisecond
)

// onBlock ends waits whose deadline in blocks has come.
func (e *Engine) onBlock(b ln.Block) {
	e.mu.Lock()
	e.height = b.Height
	var due []string
	for id, p := range e.live {
		if hold.Due(hold.Held{Payment: p}, b.Height) {
			due = append(due, id)
		}
	}
	e.mu.Unlock()
	slices.Sort(due)
	m := hold.NewBlock{Moment: e.moment()}
	for _, id := range due {
		// One that does not wait any more does not admit it.
		_ = e.tell(id, m)
	}
}

// onChannel takes lnd's word at once; a channel that is not known yet is listed. One that
// opens is described by its event: it was opened for a payment that is on its way, and a
// listing costs lnd what that payment could use.
func (e *Engine) onChannel(ev ln.ChannelEvent) {
	switch ev.Kind {
	case ln.ChannelActive, ln.ChannelInactive:
	case ln.ChannelPending:
		return // not listed yet
	case ln.ChannelOpened:
		if ev.Channel != nil {
			e.opened(*ev.Channel)
			return
		}
		fallthrough
	default:
		wake(e.relist)
		return
	}
	e.mu.Lock()
	e.events++
	e.changed[ev.Outpoint] = e.events
	c, known := e.channels[ev.Outpoint]
	if known {
		c.Active, c.since = ev.Kind == ln.ChannelActive, e.opt.Now()
		e.channels[ev.Outpoint] = c
	}
	e.mu.Unlock()
	if !known {
		wake(e.relist)
		return
	}
	if c.Active {
		e.mu.Lock()
		concerned, waiting := e.concerned(c.Peer), e.waitingOver(c)
		e.mu.Unlock()
		if concerned {
			e.expect(c.Peer)
		}
		for _, client := range waiting {
			e.arrived(client, settleFor)
		}
		return
	}
	wake(e.reclaim)
}

// opened notes a channel that is new, which is claimed as one that was listed is. A listing
// may have told of it before.
func (e *Engine) opened(c ln.Channel) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, known := e.channels[c.Outpoint]; known {
		return
	}
	e.events++
	e.changed[c.Outpoint] = e.events
	e.know(channel{Channel: c, since: e.opt.Now()})
	wake(e.reclaim)
}

// know files a channel under its names. Callers hold mu.
func (e *Engine) know(c channel) {
	c.Htlcs = nil
	e.channels[c.Outpoint] = c
	for _, name := range c.Names() {
		e.byName[name] = c.Outpoint
	}
}

// expect makes what waits for a wallet ready a moment after its channel became active,
// looks again once the channel counts, and once more when no other of its channels is waited
// for.
func (e *Engine) expect(client ln.PubKey) {
	if e.ctx.Err() != nil {
		return
	}
	e.wg.Go(func() {
		var waited time.Duration
		for _, after := range []time.Duration{prepareAfter, settleFor, patience} {
			e.pause(after - waited)
			waited = after
			atLeast := min(after, settleFor)
			e.mu.Lock()
			online := e.activeFor(client, atLeast)
			e.mu.Unlock()
			if !online {
				return
			}
			e.arrived(client, atLeast)
			wake(e.reclaim)
		}
	})
}

// arrived hands on what waits for a wallet, as far as lnd would not fail it. It is made
// ready once its channels have been active for so long, and goes when they count.
func (e *Engine) arrived(client ln.PubKey, atLeast time.Duration) {
	e.mu.Lock()
	var ids []string
	for id, p := range e.live {
		if p.Client == client && !e.decided[id] && e.ready(keysOf(p), atLeast) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		e.mu.Unlock()
		return
	}
	g := e.handing[client]
	if g == nil {
		g = &handover{}
		e.handing[client] = g
	}
	g.expected += len(ids)
	e.mu.Unlock()
	slices.Sort(ids)
	taken := e.tellAll(ids, hold.WalletActive{Moment: e.moment()})
	e.expectFewer(client, len(ids)-taken)
	e.wg.Go(func() {
		e.pause(gatherFor)
		e.flush(client, g, true)
	})
}

func keysOf(p hold.Payment) []ln.CircuitKey {
	out := make([]ln.CircuitKey, 0, len(p.Parts))
	for _, part := range p.Parts {
		out = append(out, part.Key)
	}
	return out
}

// named finds one of lnd's channels by any of its names (under mu).
func (e *Engine) named(name ln.SCID) (channel, bool) {
	op, known := e.byName[name]
	return e.channels[op], known
}

// ready: lnd would not fail these parts if they were resumed now. It fails what came over a
// channel that is not active, so they wait for their payers as well. And it looks for the
// channel that an onion names before it takes any other of the wallet's: they come back one
// after the other. One that does not is not waited for long. The channel must have been active
// for so long (under mu).
func (e *Engine) ready(keys []ln.CircuitKey, atLeast time.Duration) bool {
	now := e.opt.Now()
	for _, key := range keys {
		if c, known := e.named(key.ChanID); !known || !c.Active {
			return false
		}
		p := e.live[e.byKey[key]]
		for _, part := range p.Parts {
			if part.Key != key {
				continue
			}
			c, known := e.named(part.Over)
			if there := known && c.Active && now.Sub(c.since) >= atLeast; !there && !e.activeFor(p.Client, patience) {
				return false
			}
		}
	}
	return true
}

// waitingOver are the wallets that are there and have something waiting that came over a
// channel (under mu).
func (e *Engine) waitingOver(c channel) (out []ln.PubKey) {
	for id, p := range e.live {
		if e.decided[id] || slices.Contains(out, p.Client) || !e.online(p.Client) {
			continue
		}
		for _, part := range p.Parts {
			if e.byName[part.Key.ChanID] == c.Outpoint {
				out = append(out, p.Client)
				break
			}
		}
	}
	return out
}

// online: the wallet has an active channel that counts (under mu).
func (e *Engine) online(client ln.PubKey) bool { return e.activeFor(client, settleFor) }

// activeFor: one of the wallet's channels has been active for so long (under mu).
func (e *Engine) activeFor(client ln.PubKey, atLeast time.Duration) bool {
	now := e.opt.Now()
	for _, c := range e.channels {
		if c.Peer == client && c.Active && now.Sub(c.since) >= atLeast {
			return true
		}
	}
	return false
}

// keepListed lists channels at the start, when something unknown happened, and from
// time to time.
func (e *Engine) keepListed() {
	for e.ctx.Err() == nil {
		e.mu.Lock()
		before := e.events
		e.mu.Unlock()
		channels, err := e.opt.Node.ListChannels(e.ctx)
		if err != nil {
			if e.ctx.Err() == nil {
				e.log.Warn("channels cannot be listed", zap.Error(err))
			}
			e.pause(200 * time.Millisecond)
			continue
		}
		e.onListed(channels, before)
		e.mu.Lock()
		every := listIdle
		if len(e.wishes)+len(e.live) > 0 {
			every = listEvery
		}
		e.mu.Unlock()
		timer := time.NewTimer(every)
		select {
		case <-e.ctx.Done():
		case <-e.relist:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// onListed takes a listing that was requested after so many events.
func (e *Engine) onListed(channels []ln.Channel, before uint64) {
	e.mu.Lock()
	e.listed = true
	earlier := e.channels
	e.channels = make(map[ln.Outpoint]channel, len(channels))
	clear(e.byName)
	now := e.opt.Now()
	var expect []ln.PubKey
	for _, listed := range channels {
		c := channel{Channel: listed, since: now}
		if old, known := earlier[c.Outpoint]; known {
			if e.changed[c.Outpoint] > before {
				c.Active = old.Active
			}
			if c.Active == old.Active {
				c.since = old.since
			}
		}
		e.know(c)
		if c.Active && c.since.Equal(now) && !slices.Contains(expect, c.Peer) && e.concerned(c.Peer) {
			expect = append(expect, c.Peer)
		}
	}
	for op, at := range e.changed {
		if _, open := e.channels[op]; open {
			continue
		}
		if c, known := earlier[op]; known && at > before {
			e.know(c) // it opened after the question
			continue
		}
		delete(e.changed, op)
	}
	var arrived []ln.PubKey
	var lost []string
	for id, p := range e.live {
		if e.online(p.Client) && !slices.Contains(arrived, p.Client) {
			arrived = append(arrived, p.Client)
		}
		if !e.decided[id] && !e.hasChannel(p.Client) {
			lost = append(lost, id)
		}
	}
	e.mu.Unlock()
	slices.Sort(lost)
	for _, id := range lost {
		// The onion names a channel that is closed: it can never be handed on.
		_ = e.tell(id, hold.SentBack{Moment: e.moment(), Reason: "the wallet has no channel with this gateway any more"})
	}
	wake(e.reclaim)
	for _, client := range arrived {
		e.arrived(client, settleFor)
	}
	for _, client := range expect {
		e.expect(client)
	}
}

// hasChannel: lnd lists an open channel with the wallet, active or not (under mu).
func (e *Engine) hasChannel(client ln.PubKey) bool {
	for _, c := range e.channels {
		if c.Peer == client {
			return true
		}
	}
	return false
}

// concerned: the peer is registered, or something waits for it (under mu).
func (e *Engine) concerned(client ln.PubKey) bool {
	if _, registered := e.wishes[client]; registered {
		return true
	}
	for _, p := range e.live {
		if p.Client == client {
			return true
		}
	}
	return false
}

// keepClaimed claims the channels of registered wallets that are offline, and only
// those.
func (e *Engine) keepClaimed() {
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-e.reclaim:
		}
		for e.ctx.Err() == nil {
			claim, release := e.claims()
			if len(claim)+len(release) == 0 {
				break
			}
			if err := e.change(claim, release); err != nil {
				if e.ctx.Err() == nil {
					e.log.Warn("the interceptor does not take claims yet", zap.Error(err))
				}
				e.pause(200 * time.Millisecond)
			}
		}
	}
}

// claims is what has to change.
func (e *Engine) claims() (claim, release []ln.SCID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.listed {
		return nil, nil
	}
	now := e.opt.Now()
	want := make(map[ln.SCID]bool)
	for _, c := range e.channels {
		if _, registered := e.wishes[c.Peer]; !registered {
			continue
		}
		offline := !e.online(c.Peer)
		for _, name := range c.Channel.Names() {
			want[name] = offline
		}
	}
	for name, offline := range want {
		until, claimed := e.claimed[name]
		switch {
		case offline && (!claimed || until.Sub(now) < claimFor/2):
			claim = append(claim, name)
		case !offline && (!claimed || !until.IsZero()):
			// Also at the start: an earlier process may have claimed it.
			release = append(release, name)
		}
	}
	for name, until := range e.claimed {
		if _, known := want[name]; !known && !until.IsZero() {
			release = append(release, name)
		}
	}
	slices.Sort(claim)
	slices.Sort(release)
	return claim, release
}

// change tells the interceptor; a zero time in claimed says that it is released.
func (e *Engine) change(claim, release []ln.SCID) error {
	until := e.opt.Now().Add(claimFor)
	done := make(map[ln.SCID]time.Time)
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		maps.Copy(e.claimed, done)
	}()
	if len(claim) > 0 {
		if err := e.opt.Holds.Claim(e.ctx, claim, until); err != nil {
			return err
		}
		for _, name := range claim {
			done[name] = until
		}
	}
	if len(release) > 0 {
		if err := e.opt.Holds.Release(e.ctx, release); err != nil {
			return err
		}
		for _, name := range release {
			done[name] = time.Time{}
		}
	}
	return nil
}
