package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lws"
	"github.com/sluice-lsp/sluice/lws/hold"
)

// onHtlc takes reports of the interceptor's: those about one payment in order, of different
// payments beside each other, so that they share transactions.
func (e *Engine) onHtlc(ev HtlcEvent) {
	if e.ctx.Err() != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if ev.Kind == HtlcSynced {
		e.onSynced()
		return
	}
	if e.reported != nil {
		e.reported[ev.Htlc.Key] = true
	}
	e.enqueue(ev)
}

// onSynced: what was not reported since the attachment is over, and was acknowledged before
// this process could store what followed (under mu).
func (e *Engine) onSynced() {
	for _, p := range e.live {
		for _, part := range p.Parts {
			if !e.reported[part.Key] {
				e.enqueue(HtlcEvent{Kind: HtlcGone, Htlc: ln.InterceptedHtlc{Key: part.Key, Hash: p.Hash}})
			}
		}
	}
	e.reported = nil
}

// enqueue hands a report to whoever takes those about its payment (under mu).
func (e *Engine) enqueue(ev HtlcEvent) {
	hash := ev.Htlc.Hash
	queue, busy := e.queues[hash]
	e.queues[hash] = append(queue, ev)
	if busy {
		return
	}
	e.wg.Go(func() {
		for {
			e.mu.Lock()
			queue := e.queues[hash]
			if len(queue) == 0 || e.ctx.Err() != nil {
				delete(e.queues, hash)
				e.mu.Unlock()
				return
			}
			next := queue[0]
			e.queues[hash] = queue[1:]
			e.mu.Unlock()
			e.handle(next)
		}
	})
}

// handle takes one report.
func (e *Engine) handle(ev HtlcEvent) {
	key := ev.Htlc.Key
	e.mu.Lock()
	if ev.Kind == HtlcOffered && ev.Paying {
		e.paying[key] = true
	} else {
		delete(e.paying, key)
	}
	e.mu.Unlock()
	switch ev.Kind {
	case HtlcOffered:
		if !ev.OnChain {
			e.offered(ev.Htlc, ev.Order)
			return
		}
		if id, known := e.holdOf(key); known {
			_ = e.tell(id, hold.Stranded{Moment: e.moment(), Key: key})
		}
	case HtlcDecided:
		if id, known := e.holdOf(key); !known {
			e.refused(ev)
		} else if !e.toldBy(key, ev.Resumed) {
			_ = e.tell(id, hold.Decided{Moment: e.moment(), Key: key, Resumed: ev.Resumed})
		}
	case HtlcGone:
		for e.isDeciding(key) {
			// Its end is acknowledged once what the effect came to is known.
			e.pause(retryStep)
		}
		if e.ctx.Err() != nil {
			return
		}
		if id, known := e.holdOf(key); known && !e.toldBy(key, ev.Resumed) {
			var v hold.Event = hold.Gone{Moment: e.moment(), Key: key}
			if ev.Resumed {
				v = hold.Decided{Moment: e.moment(), Key: key, Resumed: true}
			}
			if err := e.tell(id, v); err != nil && e.ctx.Err() != nil {
				return
			}
		} else if !known && !e.refused(ev) {
			return
		}
		e.mu.Lock()
		e.gone = append(e.gone, key)
		e.mu.Unlock()
		wake(e.ack)
	}
}

// refused takes what became of an HTLC that no payment here has: if it went back and came
// after the first part of a payment of its hash, it was a part of that, refused as it came
// or ended while this process was away. Its siblings do not wait for it: the payer may
// never send it again. False: this process stops, and is to be told again.
func (e *Engine) refused(ev HtlcEvent) bool {
	if ev.Resumed {
		return true
	}
	e.mu.Lock()
	for !e.listed && e.ctx.Err() == nil {
		// Whose it was is not known yet.
		e.mu.Unlock()
		wake(e.relist)
		e.pause(retryStep)
		e.mu.Lock()
	}
	c, _ := e.named(ev.Htlc.OutgoingSCID)
	id := e.sibling(c.Peer, ev.Htlc.Hash)
	sibling := id != "" && !e.decided[id] && e.live[id].Before(ev.Order)
	e.mu.Unlock()
	if !sibling {
		return true
	}
	err := e.tell(id, hold.SentBack{Moment: e.moment(), Reason: "a part of it could not be held and went back: the others go with it"})
	return err == nil || e.ctx.Err() == nil
}

// keepAcknowledged tells the interceptor which ends are known. They come in swarms, and
// nobody waits for it.
func (e *Engine) keepAcknowledged() {
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-e.ack:
		}
		e.pause(retryStep)
		e.mu.Lock()
		keys := e.gone
		e.gone = nil
		e.mu.Unlock()
		if len(keys) == 0 {
			continue
		}
		err := e.opt.Holds.Acknowledge(e.ctx, keys)
		if errors.Is(err, ErrUnknown) {
			// One that is forgotten already keeps none of the others.
			for _, key := range keys {
				err = errors.Join(err, e.opt.Holds.Acknowledge(e.ctx, []ln.CircuitKey{key}))
			}
		}
		if err != nil && e.ctx.Err() == nil {
			// They are told of again at the next attachment.
			e.log.Debug("ends of HTLCs could not be acknowledged", zap.Int("htlcs", len(keys)), zap.Error(err))
		}
	}
}

func (e *Engine) payment(id string) (hold.Payment, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p, ok := e.live[id]
	return p, ok
}

func (e *Engine) holdOf(key ln.CircuitKey) (string, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id, ok := e.byKey[key]
	return id, ok
}

// offered takes an HTLC that the interceptor holds for us.
func (e *Engine) offered(h ln.InterceptedHtlc, order int64) {
	// fresh names the payment that it begins, also when it has to be tried again.
	fresh := ""
	for e.ctx.Err() == nil {
		e.mu.Lock()
		c, known := e.named(h.OutgoingSCID)
		client := c.Peer
		wish, registered := e.wishes[client]
		id, again := e.byKey[h.Key]
		if !again {
			id = e.sibling(client, h.Hash)
		}
		online, listed := e.online(client), e.listed && e.height != 0
		e.mu.Unlock()
		if !listed {
			// Whose it is, or how long it may wait, is not known yet.
			wake(e.relist)
			e.pause(retryStep)
			continue
		}
		if !again && id == "" && (!known || !registered) {
			// A claim that nobody stands for any more: forwarded like any other.
			if err := e.opt.Holds.Decide(e.ctx, []ln.CircuitKey{h.Key}, true, "its wallet is not registered any more"); err != nil && !errors.Is(err, ErrDecided) && !errors.Is(err, ErrUnknown) {
				e.pause(retryStep)
				continue
			}
			return
		}
		v, evict, err := e.judge(client, wish, registered, id, h, again)
		if err != nil {
			e.log.Warn("an HTLC cannot be judged yet", zap.Stringer("key", h.Key), zap.Error(err))
			e.pause(retryStep)
			continue
		}
		v.Part.Order = order
		if e.makeRoom(evict) {
			// Somebody went another way meanwhile: what is left is judged anew.
			continue
		}
		if id == "" {
			if fresh == "" {
				fresh, err = e.newID(v.At)
			}
			if id = fresh; err == nil {
				err = e.begin(id, client, wish, h.Hash, v)
			}
		} else {
			err = e.tell(id, v)
		}
		// From here on it counts as what is stored, or not at all.
		e.mu.Lock()
		delete(e.admitted, h.Key)
		e.mu.Unlock()
		if errors.Is(err, fsm.ErrIllegal) || errors.Is(err, store.ErrNotFound) {
			// That payment ended meanwhile; a sibling that comes later is another.
			e.mu.Lock()
			e.forget(id)
			e.mu.Unlock()
			continue
		}
		if err != nil {
			e.pause(retryStep)
			continue
		}
		if online {
			_ = e.tell(id, hold.WalletActive{Moment: e.moment()})
		}
		return
	}
}

// sibling is a payment of the same hash that waits for the same wallet (under mu).
func (e *Engine) sibling(client ln.PubKey, hash ln.Hash) string {
	for id, p := range e.live {
		if p.Client == client && p.Hash == hash {
			return id
		}
	}
	return ""
}

func (e *Engine) newID(at time.Time) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id, err := ulid.New(ulid.Timestamp(at), e.ids)
	if err != nil {
		return "", fmt.Errorf("make an id: %w", err)
	}
	return id.String(), nil
}

// begin creates the payment that an HTLC is the first part of. One that is there already
// is of an earlier try, of which only the answer was lost.
func (e *Engine) begin(id string, client ln.PubKey, w lws.Wish, hash ln.Hash, v hold.Offered) error {
	_, err := e.holds.Create(e.ctx, id, hold.Fresh{Payment: hold.Payment{
		ID: id, Client: client, Hash: hash, Since: v.At, Until: v.At.Add(w.HoldFor),
	}}, v)
	if !errors.Is(err, store.ErrUnique) {
		return err
	}
	inst, err := e.holds.Get(e.ctx, id)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	// What followed its first state may be known already.
	if _, known := e.live[id]; !known && !hold.Final(inst.State) {
		e.remember(id, inst.State)
	}
	return nil
}

// execute carries out what a payment asks for.
func (e *Engine) execute(ctx context.Context, task fsm.Task[hold.Effect]) ([]hold.Event, error) {
	switch f := task.Effect.(type) {
	case hold.Wake:
		how := e.wakeWallet(ctx, f)
		if _, live := e.payment(f.ID); !live {
			// It is over: nobody looks at it any more.
			return nil, nil
		}
		return []hold.Event{hold.Woken{Moment: e.moment(), How: how}}, nil
	case hold.Resume:
		if f.Force {
			return e.decide(ctx, f.Keys, true, walletBack)
		}
		return e.resume(ctx, f)
	case hold.Fail:
		return e.decide(ctx, f.Keys, false, f.Reason)
	}
	return nil, fmt.Errorf("effect %q is unknown", task.Effect.EffectName())
}

// wakeWallet never fails its payment: the wallet may come by itself. What was done is
// for people.
func (e *Engine) wakeWallet(ctx context.Context, f hold.Wake) string {
	log := e.log.With(zap.String("hold", f.ID), zap.Stringer("client", f.Client), zap.Time("until", f.Until))
	if e.opt.Waker == nil {
		log.Info("a payment waits for its wallet; no way to reach it is set up")
		return "no way to reach wallets is set up"
	}
	how, err := e.opt.Waker.Wake(ctx, Waiting{PaymentID: f.ID, Client: f.Client, Hash: f.Hash, AmountMsat: f.AmountMsat, Until: f.Until})
	if err != nil {
		log.Info("a payment waits for its wallet, which could not be told", zap.Error(err))
		return ln.Clip(how, maxHow)
	}
	log.Info("a payment waits for its wallet, which was told", zap.String("how", how))
	return ln.Clip(how, maxHow)
}

// maxHow bounds what is kept of an attempt to wake.
const maxHow = 200
