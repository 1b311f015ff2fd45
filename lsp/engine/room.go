package engine

import (
	"context"
	"maps"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// A spot is what a payment on its way to a wallet will take from a channel.
// lnd's balances show it only once the HTLC is there: without it every payment
// that arrives meanwhile would see the same room, and all but one would fail
// after they were forwarded.
type spot struct {
	client ln.PubKey
	hash   ln.Hash
	amount ln.Msat
	// via is zero for a payment that waits for a channel of its own.
	via ln.SCID
	// decided says that the payment's state names the spot: asking about the
	// wallet again, too late, does not move it.
	decided bool
	// forwarded says that lnd was told to forward it: its balances may show it
	// already, or even that it has settled, before its outcome is known here.
	forwarded bool
}

// jitSpot is the spot of a payment in this state; ok is false if it has none.
// One that is being collected keeps what askWallet found for it.
func jitSpot(s jit.State) (sp spot, ok bool) {
	o := jit.OfferOf(s)
	sp = spot{client: o.Client, hash: o.Hash, amount: o.TakesMsat(), decided: true}
	switch s := s.(type) {
	case jit.Opening:
	case jit.Mapping:
		sp.via = s.Via
	case jit.Resuming:
		sp.via = s.Via
	case jit.Forwarded:
		sp.via, sp.forwarded = s.Via, true
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
	case wrap.Paying:
		sp.via = s.ChanID
	case wrap.PaymentUnknown:
		sp.via = s.ChanID
	default:
		return spot{}, false
	}
	return sp, true
}

// moveSpot keeps a payment's spot in step with its state. Callers hold e.mu.
func (e *Engine) moveSpot(id string, sp spot, ok, collecting bool) {
	switch {
	case ok:
		e.spots[id] = sp
	case !collecting:
		delete(e.spots, id)
	}
}

// movePromise keeps a promise of room until its agreement ends: of the channel
// that was opened for it in an earlier attempt, or that had room when it was
// made. Callers hold e.mu.
func (e *Engine) movePromise(id string, room ln.SCID, final bool, sp spot) {
	switch {
	case final:
		delete(e.promises, id)
	case room != 0:
		sp.via = room
		e.promises[id] = sp
	}
}

// promiseRoom finds an active channel of the client's that takes the amount
// beside everything that is on its way or promised already, and promises its
// room to the agreement to be made under this id. Zero means that there is none,
// and that a channel must be opened.
func (e *Engine) promiseRoom(ctx context.Context, id string, client ln.PubKey, hash ln.Hash, amount ln.Msat, zeroConf bool) (room ln.SCID, channels int, err error) {
	before := e.spotsOf(client)
	all, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return 0, 0, errkind.Wrap(errkind.Unavailable, err, "the gateway's node does not answer: try again shortly")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.Copy(before, e.spotsLocked(client))
	if room, channels = e.roomFor(all, client, amount, 0, before, zeroConf); room != 0 {
		e.promises[id] = spot{client: client, hash: hash, amount: amount, via: room}
	}
	return room, channels, nil
}

// breakPromise gives up the room of an agreement that was not made.
func (e *Engine) breakPromise(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.promises, id)
}

// outcomeWithin is how long a payment without room waits for the outcome of
// those that were just forwarded to the same wallet.
const outcomeWithin = 3 * time.Second

// awaitRoom is takeRoom, but a payment that may find no room only because others
// were just forwarded waits until their outcome is known: until then they count
// although lnd's balances may have taken them off already. One that would not
// fit without them either needs a channel, and does not wait.
func (e *Engine) awaitRoom(ctx context.Context, id string, client ln.PubKey, amount ln.Msat, prefer ln.SCID, zeroConf bool) (room ln.SCID, channels int, err error) {
	end := e.opt.Now().Add(outcomeWithin)
	for {
		var may bool
		room, channels, may, err = e.takeRoom(ctx, id, client, amount, prefer, zeroConf)
		if err != nil || room != 0 || !may || !e.opt.Now().Before(end) {
			return room, channels, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
}

// takeRoom finds room for a payment and takes its spot there, in one step; may
// says that there would be some without what was forwarded and has no outcome.
func (e *Engine) takeRoom(ctx context.Context, id string, client ln.PubKey, amount ln.Msat, prefer ln.SCID, zeroConf bool) (room ln.SCID, channels int, may bool, err error) {
	before := e.spotsOf(client)
	all, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return 0, 0, false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	// What ended while lnd was asked may still be missing from its answer.
	maps.Copy(before, e.spotsLocked(client))
	delete(before, id)
	room, channels = e.roomFor(all, client, amount, prefer, before, zeroConf)
	_, jitHeld := e.waitingJit[id]
	_, wrapHeld := e.waitingWrap[id]
	switch {
	case e.spots[id].decided:
	case room != 0 && (jitHeld || wrapHeld):
		e.spots[id] = spot{client: client, amount: amount, via: room}
	default:
		delete(e.spots, id)
	}
	if room == 0 {
		maps.DeleteFunc(before, func(_ string, sp spot) bool { return sp.forwarded })
		without, _ := e.roomFor(all, client, amount, prefer, before, zeroConf)
		may = without != 0
	}
	return room, channels, may, nil
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
	out := maps.Clone(e.promises)
	maps.Copy(out, e.spots)
	maps.DeleteFunc(out, func(_ string, sp spot) bool { return sp.client != client })
	return out
}

// roomFor finds an active channel to the wallet through which the amount fits
// beside what others will take of it: the preferred one first, else the one
// that it leaves fullest. A wallet that declines zero-conf gets nothing over a
// channel that is not confirmed, whatever it agreed to before. Callers hold e.mu.
func (e *Engine) roomFor(all []ln.Channel, client ln.PubKey, amount ln.Msat, prefer ln.SCID, others map[string]spot, zeroConf bool) (room ln.SCID, channels int) {
	rate := e.fees.current().Rate
	rate = min(rate, maxCommitRate)
	shown := make(map[ln.Hash]ln.Msat)
	for _, c := range all {
		for _, h := range c.Htlcs {
			if c.Peer == client && !h.Incoming {
				shown[h.Hash] += h.AmtMsat
			}
		}
	}
	var best ln.Channel
	for _, c := range all {
		if c.Peer != client {
			continue
		}
		channels++
		// An announced channel charges for what it forwards, which no hint of ours
		// says.
		if !c.Active || !c.Private || e.unfunded[c.Outpoint] || !zeroConf && c.ZeroConf && c.ConfirmedSCID == 0 {
			continue
		}
		owner, _, _ := strings.Cut(e.byOutpoint[c.Outpoint], "-open-")
		need := amount
		for id, sp := range others {
			if sp.via == c.ChanID || (sp.via == 0 && id == owner) {
				need += sp.amount - min(sp.amount, shown[sp.hash])
			}
		}
		spendable, err := lsp.Spendable(c, rate, e.cfg.MaxParts)
		if err != nil || spendable < need {
			continue
		}
		if room == 0 || c.ChanID == prefer || (room != prefer && c.LocalSat < best.LocalSat) {
			room, best = c.ChanID, c
		}
	}
	return room, channels
}
