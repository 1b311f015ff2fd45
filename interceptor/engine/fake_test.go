package engine_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/engine"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// fakeLnd is lnd as the engine's ports see it. It reports every loss of money
// as a test error.
type fakeLnd struct {
	t testing.TB

	mu       sync.Mutex
	htlcs    map[ln.CircuitKey]*fakeHtlc
	order    []ln.CircuitKey
	next     map[ln.SCID]uint64
	held     map[ln.CircuitKey]bool
	session  *fakeSession
	payments map[ln.Hash]ln.Payment
	offline  bool
	height   uint32
	changed  chan struct{}
	listings int
	events   map[int]func(ln.HtlcEvent)
	nextSub  int
	// seenFor is for how long lnd says that it has followed its channels; 0 is that it
	// cannot say.
	seenFor time.Duration
	// lag is for how many listings a forward stays unseen; nil is none.
	lag func() int
	// onTrack runs before lnd answers about a payment; tracked counts such questions.
	onTrack func(ln.Hash)
	tracked int
	// young is a zero-conf channel of ours with its peer's coins in it.
	young ln.SCID
	// seen says that lnd has seen it confirmed, in a block that is not deep.
	seen bool
	// limit is what its peer may spend over it, in HTLCs of 2 sat.
	limit int
	since time.Time
	// spentBefore is what of it went another way, as to invoices.
	spentBefore int
	// forgetful: lnd runs without store-final-htlc-resolutions.
	forgetful bool
	// gone is a channel that is on chain; away is one whose peer is.
	gone, away ln.SCID
	// refused counts clients that were not admitted.
	refused int
	// histories counts questions about what was forwarded; onHistory runs before the answer.
	histories int
	onHistory func()
	// answered are the HTLCs in the order of their answers.
	answered []ln.CircuitKey
}

type fakeHtlc struct {
	offer   ln.InterceptedHtlc
	pending bool
	moved   bool
	settled bool
	acked   bool
	unseen  int
	// ending: lnd has signed its end and forgotten its circuit; its payer has not signed.
	ending bool
	// shown: a listing told that it was forwarded. What lnd has not committed yet
	// cannot end either.
	shown bool
}

func newFakeLnd(t testing.TB) *fakeLnd {
	return &fakeLnd{
		t: t, htlcs: make(map[ln.CircuitKey]*fakeHtlc), next: make(map[ln.SCID]uint64),
		held: make(map[ln.CircuitKey]bool), payments: make(map[ln.Hash]ln.Payment), height: 100,
		changed: make(chan struct{}), events: make(map[int]func(ln.HtlcEvent)),
	}
}

func (f *fakeLnd) bump() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// until waits for a condition on the fake's state.
func (f *fakeLnd) until(what string, ok func() bool) {
	f.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		f.mu.Lock()
		done, changed := ok(), f.changed
		f.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			f.t.Fatalf("never happened: %s", what)
		}
	}
}

func preimageOf(n uint64) ln.Preimage { return ln.Preimage{byte(n), byte(n >> 8), 1} }

func (f *fakeLnd) add(ch, scid ln.SCID) ln.CircuitKey { return f.addPart(ch, scid, ln.Hash{}) }

// addPart is add for a payment in parts; the zero hash is one of its own.
func (f *fakeLnd) addPart(ch, scid ln.SCID, hash ln.Hash) ln.CircuitKey {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := ln.CircuitKey{ChanID: ch, HtlcID: f.next[ch]}
	f.next[ch]++
	if hash == (ln.Hash{}) {
		hash = preimageOf(uint64(ch)<<10 | key.HtlcID).Hash()
	}
	expiry := f.height + 163
	f.htlcs[key] = &fakeHtlc{pending: true, offer: ln.InterceptedHtlc{
		Key: key, Hash: hash, IncomingMsat: 2000, OutgoingMsat: 1000,
		IncomingExpiry: expiry, OutgoingExpiry: expiry - 80, OutgoingSCID: scid, AutoFailHeight: expiry - 19,
	}}
	f.order = append(f.order, key)
	if f.session == nil {
		f.htlcs[key].pending = false
	} else {
		f.offer(key)
	}
	f.bump()
	return key
}

func (f *fakeLnd) offer(key ln.CircuitKey) {
	if !f.held[key] {
		f.held[key] = true
		if f.session != nil {
			f.session.push(f.htlcs[key].offer)
		}
	}
}

// flap makes a channel's link come up again: all that is in its packages is
// offered, with phantoms.
func (f *fakeLnd) flap(ch ln.SCID, phantom func() bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reoffer(ch, phantom)
}

func (f *fakeLnd) reoffer(ch ln.SCID, phantom func() bool) {
	for _, key := range f.order {
		h := f.htlcs[key]
		if key.ChanID != ch || h.acked {
			continue
		}
		if !h.pending && !phantom() {
			h.acked = true
			continue
		}
		f.offer(key)
	}
}

func (f *fakeLnd) restart(phantom func() bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(ln.ErrUnavailable)
	f.held = make(map[ln.CircuitKey]bool)
	for ch := range f.next {
		f.reoffer(ch, phantom)
	}
}

func (f *fakeLnd) drop(err error) {
	if f.session != nil {
		f.session.end(err)
		f.session = nil
	}
}

func (f *fakeLnd) resolve(key ln.CircuitKey, settled bool) bool {
	f.mu.Lock()
	h := f.htlcs[key]
	if !h.moved || !h.pending || f.lag != nil && !h.shown {
		f.mu.Unlock()
		return false
	}
	h.pending, h.settled = false, settled
	f.bump()
	f.mu.Unlock()
	kind := ln.HtlcForwardFail
	if settled {
		kind = ln.HtlcSettled
	}
	f.say(ln.HtlcEvent{Kind: kind, Incoming: key})
	f.say(ln.HtlcEvent{Kind: ln.HtlcFinal, Incoming: key, Settled: settled, OffChain: true})
	return true
}

// say tells an event to who listens.
func (f *fakeLnd) say(ev ln.HtlcEvent) {
	f.mu.Lock()
	var subs []func(ln.HtlcEvent)
	for _, s := range f.events {
		subs = append(subs, s)
	}
	f.mu.Unlock()
	for _, s := range subs {
		s(ev)
	}
}

// endUnheard ends an HTLC without a word.
func (f *fakeLnd) endUnheard(key ln.CircuitKey, settled bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.htlcs[key].pending, f.htlcs[key].settled = false, settled
	f.bump()
}

func (f *fakeLnd) Open(ctx context.Context) (engine.Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.offline {
		return nil, ln.ErrUnavailable
	}
	if f.session != nil {
		f.refused++
		f.bump()
		return nil, ln.ErrStreamTaken
	}
	s := &fakeSession{f: f, woken: make(chan struct{}, 1), last: make(map[ln.CircuitKey]uint64)}
	f.session = s
	for _, key := range f.order {
		if f.held[key] {
			s.push(f.htlcs[key].offer)
		}
	}
	f.bump()
	return s, nil
}

func (f *fakeLnd) ListChannels(context.Context) ([]ln.Channel, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.offline {
		return nil, ln.ErrUnavailable
	}
	f.listings++
	f.bump()
	byChan := map[ln.SCID]*ln.Channel{}
	for _, ch := range []ln.SCID{1, 2, 3} {
		byChan[ch] = &ln.Channel{ChanID: ch, Active: ch != f.away, SeenFor: f.seenFor}
		if ch == f.young {
			*byChan[ch] = ln.Channel{ChanID: ch, Active: true, Initiator: true, ZeroConf: true, Memo: ln.JointTerms{ID: "x", SpendSat: ln.Sat(2 * f.limit), Since: f.since}.Memo(), PushSat: 9_000, RemoteSat: 9_000 - ln.Sat(2*f.spent(ch))}
			if f.seen {
				byChan[ch].ConfirmedSCID = ln.NewSCID(f.height, 1, 0)
			}
		}
	}
	for _, key := range f.order {
		if f.htlcs[key].pending {
			ch := byChan[key.ChanID]
			h := ln.ChannelHtlc{Incoming: true, Index: key.HtlcID, Hash: f.htlcs[key].offer.Hash}
			switch m := f.htlcs[key]; {
			case m.unseen > 0:
				m.unseen--
			case m.moved && !m.ending:
				h.ForwardingChan, m.shown = 9, true
			}
			ch.Htlcs = append(ch.Htlcs, h)
		}
	}
	return slices.DeleteFunc([]ln.Channel{*byChan[1], *byChan[2], *byChan[3]}, func(c ln.Channel) bool { return c.ChanID == f.gone && f.gone != 0 }), nil
}

// spent counts a channel's HTLCs that did not come back (under mu).
func (f *fakeLnd) spent(ch ln.SCID) (n int) {
	n = f.spentBefore
	for key, h := range f.htlcs {
		if key.ChanID == ch && (h.pending || h.settled) {
			n++
		}
	}
	return n
}

// passedOn counts those of them that were resumed (under mu).
func (f *fakeLnd) passedOn(ch ln.SCID) (n int) {
	for key, h := range f.htlcs {
		if key.ChanID == ch && h.moved && (h.pending || h.settled) {
			n++
		}
	}
	return n
}

func (f *fakeLnd) TrackPayment(_ context.Context, hash ln.Hash) (ln.Payment, error) {
	f.mu.Lock()
	onTrack := f.onTrack
	f.mu.Unlock()
	if onTrack != nil {
		onTrack(hash)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tracked++
	f.bump()
	if p, ok := f.payments[hash]; ok {
		return p, nil
	}
	return ln.Payment{Hash: hash, State: ln.PaymentUnknown}, nil
}

func (f *fakeLnd) SubscribeBlocks(ctx context.Context, handle func(ln.Block)) error {
	for {
		f.mu.Lock()
		height, changed := f.height, f.changed
		f.mu.Unlock()
		handle(ln.Block{Height: height})
		for again := false; !again; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
			}
			f.mu.Lock()
			again, changed = f.height != height, f.changed
			f.mu.Unlock()
		}
	}
}

func (f *fakeLnd) mineTo(height uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.height = height
	f.bump()
}

func (f *fakeLnd) SubscribeHtlcEvents(ctx context.Context, ready func(), handle func(ln.HtlcEvent)) error {
	f.mu.Lock()
	id := f.nextSub
	f.nextSub++
	f.events[id] = handle
	f.bump()
	f.mu.Unlock()
	ready()
	<-ctx.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.events, id)
	f.bump()
	return ctx.Err()
}

func (f *fakeLnd) LookupResolution(_ context.Context, key ln.CircuitKey) (ln.Resolution, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h := f.htlcs[key]; !h.pending && !f.forgetful {
		return ln.Resolution{Known: true, Settled: h.settled, OffChain: true}, nil
	}
	return ln.Resolution{}, nil
}

func (f *fakeLnd) ForwardingHistory(context.Context, time.Time, uint32, uint32) ([]ln.Forward, error) {
	f.mu.Lock()
	f.histories++
	onHistory := f.onHistory
	f.bump()
	f.mu.Unlock()
	if onHistory != nil {
		onHistory()
	}
	return nil, nil
}

// taken gives lnd's stream to another client, which answers nothing.
func (f *fakeLnd) taken() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(ln.ErrUnavailable)
	f.session = &fakeSession{f: f, woken: make(chan struct{}, 1), last: make(map[ln.CircuitKey]uint64)}
	f.refused = 0
	f.bump()
}

// left is the end of that client.
func (f *fakeLnd) left() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.session = nil
	f.bump()
}

type fakeSession struct {
	f *fakeLnd

	mu    sync.Mutex
	queue []interceptor.Offer
	seq   uint64
	last  map[ln.CircuitKey]uint64
	err   error
	woken chan struct{}
}

func (s *fakeSession) push(o ln.InterceptedHtlc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	s.last[o.Key] = s.seq
	s.queue = append(s.queue, interceptor.Offer{InterceptedHtlc: o, Seq: s.seq})
	s.wake()
}

func (s *fakeSession) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

func (s *fakeSession) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.wake()
}

func (s *fakeSession) Next(ctx context.Context) ([]interceptor.Offer, error) {
	for {
		s.mu.Lock()
		queue, err := s.queue, s.err
		s.queue = nil
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if len(queue) > 0 {
			return queue, nil
		}
		select {
		case <-s.woken:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Answer applies at once what lnd would do with the answer.
func (s *fakeSession) Answer(a interceptor.Answer) error {
	f := s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	s.mu.Lock()
	err, seq := s.err, s.last[a.Key]
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if seq != a.Seq || !f.held[a.Key] {
		return fmt.Errorf("%s is not outstanding", a.Key)
	}
	delete(f.held, a.Key)
	f.answered = append(f.answered, a.Key)
	h := f.htlcs[a.Key]
	switch a.Action {
	case interceptor.AnswerResume:
		if !h.pending {
			f.t.Errorf("LOSS: resumed %s, which lnd no longer has", a.Key)
		}
		if h.ending {
			f.t.Errorf("LOSS: resumed %s, whose end lnd has signed", a.Key)
		}
		if !h.moved && f.lag != nil {
			h.unseen = f.lag()
		}
		h.moved = true
		if n := f.passedOn(f.young); f.young != 0 && a.Key.ChanID == f.young && !f.seen && n > f.limit {
			f.t.Errorf("LOSS: %d HTLCs of a channel that is not buried were passed on, and %d may be", n, f.limit)
		}
	case interceptor.AnswerFail:
		if h.moved && h.pending && !h.ending {
			f.t.Errorf("LOSS: failed %s after a RESUME", a.Key)
		}
		h.pending = false
	case interceptor.AnswerSettle:
		if a.Preimage.Hash() != h.offer.Hash {
			f.t.Errorf("settled %s with a wrong preimage", a.Key)
		}
		if h.pending {
			h.pending, h.settled = false, true
		}
	}
	f.bump()
	return nil
}

func (s *fakeSession) Close(context.Context) { s.Abort() }

func (s *fakeSession) Abort() {
	s.end(ln.ErrUnavailable)
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.f.session == s {
		s.f.session = nil
		s.f.bump()
	}
}
