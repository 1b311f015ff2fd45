package engine

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/links"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// A spot is what a payment on its way to a wallet will take from its channels.
// lnd's balances show it only once the HTLC is there: without it every payment
// that arrives meanwhile would see the same room, and all but one would fail
// after they were forwarded.
type spot struct {
	client ln.PubKey
	hash   ln.Hash
	amount ln.Msat
	// via is the channel that was chosen, zero for a payment that waits for a
	// channel of its own.
	via ln.SCID
	// decided says that the payment's state names the spot: asking about the
	// wallet again, too late, does not move it.
	decided bool
	// far is set while a channel waits for confirmations.
	far bool
	// direct: a payment of ours, which takes the chosen channel and no other.
	direct bool
	// anywhere: every channel may lose what it takes.
	anywhere bool
	// since is when the payment came to where it is.
	since time.Time
}

// jitSpot is the spot of a payment in this state; ok is false if it has none.
// One that is being collected keeps what askWallet found for it.
func jitSpot(s jit.State) (sp spot, ok bool) {
	o := jit.OfferOf(s)
	sp = spot{client: o.Client, hash: o.Hash, amount: o.TakesMsat(), decided: true}
	switch s := s.(type) {
	case jit.Opening:
		sp.far = !o.ZeroConf
	case jit.Mapping:
		sp.via = s.Via
	case jit.Resuming:
		sp.via, sp.amount = s.Via, s.OpenMsat()
	case jit.Forwarded:
		sp.via, sp.amount = s.Via, s.OpenMsat()
	default:
		return spot{}, false
	}
	return sp, true
}

func wrapSpot(s wrap.State) (sp spot, ok bool) {
	o := wrap.OfferOf(s)
	sp = spot{client: o.Client, hash: o.Hash, amount: o.WalletMsat, decided: true}
	switch s := s.(type) {
	case wrap.Opening:
		sp.far = !o.ZeroConf
	case wrap.Paying:
		sp.via, sp.direct = s.ChanID, true
	case wrap.PaymentUnknown:
		sp.via, sp.direct = s.ChanID, true
	default:
		return spot{}, false
	}
	return sp, true
}

// moveSpot keeps a payment's spot in step with its state. Callers hold e.mu.
func (e *Engine) moveSpot(id string, sp spot, ok, collecting bool) {
	switch {
	case ok:
		sp.since = e.opt.Now()
		e.spots[id] = sp
	case !collecting:
		if was, ok := e.spots[id]; ok && was.via != 0 {
			e.isOver(links.OnItsWay{Peer: was.client, Hash: was.hash, Over: e.opt.Now()})
		}
		delete(e.spots, id)
	}
}

// movePromise keeps a promise of room until its agreement ends: of the channel
// that was opened for it in an earlier attempt, or that had room when it was
// made. Callers hold e.mu.
func (e *Engine) movePromise(id string, via ln.SCID, final bool, sp spot) {
	switch {
	case final:
		delete(e.promises, id)
	case via != 0:
		sp.via = via
		e.promises[id] = sp
	}
}

// promiseRoom finds an active channel of the client's that takes the amount
// beside everything that is on its way or promised already, and promises its
// room to the agreement to be made under this id. Zero means that there is none,
// and that a channel must be opened.
//
// What a payment took that lnd has settled just now counts twice until its end is known
// here: it has left lnd's balance and has its spot. So where nothing but payments that
// are in a channel are in the way, their end is waited for a moment.
func (e *Engine) promiseRoom(ctx context.Context, id string, client ln.PubKey, hash ln.Hash, amount ln.Msat, zeroConf bool) (via ln.SCID, channels int, err error) {
	err = briefly(ctx, endsWithin, func() (behind bool, err error) {
		via, channels, behind, err = e.tryPromise(ctx, id, client, hash, amount, zeroConf)
		return behind, err
	})
	return via, channels, err
}

// briefly tries until it is not worth another try, and no longer than the time.
func briefly(ctx context.Context, within time.Duration, try func() (again bool, err error)) error {
	for began := time.Now(); ; {
		again, err := try()
		if err != nil || !again || time.Since(began) >= within {
			return err
		}
		if err := pace.Pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// endsWithin is how long the end of a payment that lnd has settled may take to be known.
const endsWithin = 2 * time.Second

// tryPromise is promiseRoom without the wait; behind says that there would be room if the
// payments that are in a channel had ended.
func (e *Engine) tryPromise(ctx context.Context, id string, client ln.PubKey, hash ln.Hash, amount ln.Msat, zeroConf bool) (via ln.SCID, channels int, behind bool, err error) {
	before := e.spotsOf(client)
	all, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return 0, 0, false, errkind.Wrap(errkind.Unavailable, err, "the gateway's node does not answer: try again shortly")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.Copy(before, e.spotsLocked(client))
	if via, channels = e.roomFor(all, client, amount, 0, before, zeroConf); via != 0 {
		e.promises[id] = spot{client: client, hash: hash, amount: amount, via: via}
		return via, channels, false, nil
	}
	inChannels := func(id string, _ spot) bool { sp, underWay := e.spots[id]; return underWay && sp.via != 0 }
	// As they are now: one that ended while lnd listed is among those before.
	rest := e.spotsLocked(client)
	maps.DeleteFunc(rest, inChannels)
	room, _ := e.roomFor(all, client, amount, 0, rest, zeroConf)
	return 0, channels, room != 0, nil
}

// breakPromise gives up the room of an agreement that was not made.
func (e *Engine) breakPromise(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.promises, id)
}

// A room is what askWallet finds.
type room struct {
	// via takes the payment; zero: a channel must be opened.
	via ln.SCID
	// channels are the wallet's with us.
	channels int
	// wait says that others must be on their way first.
	wait bool
	// coming says that there would be room if all of the wallet's channels were active.
	coming bool
}

// comesUpWithin is how long a wallet's channels may take to be active once its node
// has connected: a few milliseconds on an idle machine. A payment that was promised
// room in one of them would go back if it were asked in between, and one that was not
// would open a channel that nobody needs.
const comesUpWithin = 5 * time.Second

// takeRoomOnceUp is takeRoom, for a wallet that may just have come.
func (e *Engine) takeRoomOnceUp(ctx context.Context, id string, client ln.PubKey, amount ln.Msat, prefer ln.SCID, zeroConf bool) (r room, err error) {
	err = briefly(ctx, comesUpWithin, func() (coming bool, err error) {
		r, err = e.takeRoom(ctx, id, client, amount, prefer, zeroConf)
		return r.via == 0 && !r.wait && r.coming && e.world.online(client), err
	})
	return r, err
}

// takeRoom finds room for a whole payment and takes its spot there, in one step.
//
// lnd puts every part into any channel of the wallet that takes it, whichever
// was named. Of several payments that were handed on at once the first may
// scatter over the channels of the others, until the last part of one fits
// nowhere although the sum of the room is there; and a channel that was opened
// for one would be eaten by others before its own parts come. So the payments to
// one wallet take turns: from the choice of a channel (or the decision to open
// one) until lnd's balances show the HTLCs, nobody else chooses. Whoever has the
// turn and one channel with room for all of it gets through, wherever lnd puts
// its parts, as they are handed on one after the other (handOn). Who fits into one
// channel beside all of those that are on their way needs no turn.
func (e *Engine) takeRoom(ctx context.Context, id string, client ln.PubKey, amount ln.Msat, prefer ln.SCID, zeroConf bool) (room, error) {
	before := e.spotsOf(client)
	all, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return room{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	// What ended while lnd was asked may still be missing from its answer.
	maps.Copy(before, e.spotsLocked(client))
	delete(before, id)
	underWay := e.underWay(before, shownTo(client, all))
	for other := range underWay {
		sp := before[other]
		sp.anywhere = true
		before[other] = sp
	}
	var r room
	r.via, r.channels = e.roomFor(all, client, amount, prefer, before, zeroConf)
	if r.via == 0 {
		up := slices.Clone(all)
		for i := range up {
			up[i].Active = true
		}
		via, _ := e.roomFor(up, client, amount, prefer, before, zeroConf)
		r.coming = via != 0
	}
	_, jitHeld := e.waitingJit[id]
	_, wrapHeld := e.waitingWrap[id]
	held := jitHeld || wrapHeld
	switch {
	case e.spots[id].decided:
	case !held:
		delete(e.spots, id)
	case r.via == 0 && (len(underWay) > 0 || !e.isNext(client, id)):
		delete(e.spots, id)
		r.wait = true
		e.lineUp(client, id)
	default:
		e.spots[id] = spot{client: client, amount: amount, via: r.via, since: e.opt.Now()}
	}
	return r, nil
}

// leaveRoom gives up what takeRoom took for a payment that cannot go on yet.
func (e *Engine) leaveRoom(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.spots[id].decided {
		delete(e.spots, id)
	}
}

func (e *Engine) spotsOf(client ln.PubKey) map[string]spot {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.spotsLocked(client)
}

// spotsLocked is what payments to a wallet take of its channels, and what open
// agreements were promised of them: of those the room is only kept until their
// payment comes and takes a spot.
func (e *Engine) spotsLocked(client ln.PubKey) map[string]spot {
	out := make(map[string]spot)
	for _, all := range []map[string]spot{e.promises, e.spots} {
		for id, sp := range all {
			if sp.client == client {
				out[id] = sp
			}
		}
	}
	return out
}

// roomFor finds an active channel to the wallet through which the amount fits
// beside what others will take of it: the preferred one first, else the one
// that it leaves fullest. A wallet that declines zero-conf gets nothing over a
// channel that is not confirmed, whatever it agreed to before. Callers hold e.mu.
func (e *Engine) roomFor(all []ln.Channel, client ln.PubKey, amount ln.Msat, prefer ln.SCID, others map[string]spot, zeroConf bool) (via ln.SCID, channels int) {
	rate := e.fees.current().Rate
	rate = min(rate, maxCommitRate)
	shown := shownTo(client, all)
	var best ln.Channel
	for _, c := range all {
		if c.Peer != client {
			continue
		}
		channels++
		// An announced channel charges for what it forwards, which no hint of ours
		// says.
		// What a wallet receives over a joint channel before it is buried it could
		// lose by its own double-spend, and before it is published by our silence.
		if !c.Active || !c.Private || c.IsJoint() && c.ZeroConf && c.ConfirmedSCID == 0 || e.unfunded[c.Outpoint] || !zeroConf && c.ZeroConf && c.ConfirmedSCID == 0 {
			continue
		}
		owner, _, _ := strings.Cut(e.byOutpoint[c.Outpoint], "-open-")
		need := amount
		for id, sp := range others {
			if sp.anywhere || sp.via == c.ChanID || (sp.via == 0 && id == owner) {
				need += sp.rest(shown)
			}
		}
		spendable, err := lsp.Spendable(c, rate, e.cfg.MaxParts)
		if err != nil || spendable < need {
			continue
		}
		if via == 0 || c.ChanID == prefer || (via != prefer && c.LocalSat < best.LocalSat) {
			via, best = c.ChanID, c
		}
	}
	return via, channels
}
