package interceptor

import (
	"flag"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// modelHtlc is one HTLC in the model of lnd.
type modelHtlc struct {
	pending bool // on the local commitment
	moved   bool // a RESUME took it to the outgoing side
	signed  bool // and lnd shows the outgoing HTLC
	// committed: the outgoing HTLC is in a commitment that lnd has signed. Before, it is in
	// memory only, though lnd may show it.
	committed bool
	// ending: lnd has signed its end and forgotten its circuit; the payer has not
	// signed yet. stubborn: nor does it soon.
	ending, stubborn bool
	acked            bool // no longer in a forwarding package: never offered again
	scid             ln.SCID
}

// modelLnd does to offers what lnd was seen to do (facts on replays): it offers
// everything unresolved again after flaps, restarts and reconnects, and some
// HTLCs that it has already resolved as well.
type modelLnd struct {
	t         *rapid.T
	htlcs     map[ln.CircuitKey]*modelHtlc
	next      map[ln.SCID]uint64
	held      map[ln.CircuitKey]bool
	connected bool
	// age is for how long it has run.
	age int
	// queue is what was offered and not yet read by the client.
	queue []ln.CircuitKey
}

func (m *modelLnd) add(ch, scid ln.SCID) {
	key := ln.CircuitKey{ChanID: ch, HtlcID: m.next[ch]}
	m.next[ch]++
	m.htlcs[key] = &modelHtlc{pending: true, scid: scid}
	if !m.connected {
		m.htlcs[key].pending = false // fails it by itself
		return
	}
	m.offer(key)
}

func (m *modelLnd) offer(key ln.CircuitKey) {
	if m.held[key] {
		return
	}
	m.held[key] = true
	if m.connected {
		m.queue = append(m.queue, key)
	}
}

func (m *modelLnd) keys() []ln.CircuitKey {
	return slices.SortedFunc(maps.Keys(m.htlcs), func(a, b ln.CircuitKey) int {
		if a.ChanID != b.ChanID {
			return int(a.ChanID) - int(b.ChanID)
		}
		return int(a.HtlcID) - int(b.HtlcID)
	})
}

// reoffer is a link coming up: packages are read again, phantoms among them.
func (m *modelLnd) reoffer(ch ln.SCID) {
	for _, key := range m.keys() {
		if h := m.htlcs[key]; key.ChanID == ch && !h.acked {
			if (!h.pending || h.ending) && rapid.Bool().Draw(m.t, "acked") {
				h.acked = true
				continue
			}
			m.offer(key)
		}
	}
}

func (m *modelLnd) restart() {
	m.disconnect()
	m.age = 0
	m.held = make(map[ln.CircuitKey]bool)
	// What it has not signed it has forgotten, though it may have shown a forward.
	for _, key := range m.keys() {
		if h := m.htlcs[key]; h.moved && !h.ending && !h.committed {
			h.moved, h.signed = false, false
		}
	}
	for _, ch := range []ln.SCID{1, 2} {
		m.reoffer(ch)
	}
}

func (m *modelLnd) connect() {
	m.connected, m.queue = true, nil
	for _, key := range m.keys() {
		if m.held[key] {
			m.queue = append(m.queue, key)
		}
	}
}

func (m *modelLnd) disconnect() { m.connected, m.queue = false, nil }

func (m *modelLnd) answer(key ln.CircuitKey, resume bool) {
	if !m.connected || !m.held[key] {
		m.disconnect()
		return
	}
	delete(m.held, key)
	h := m.htlcs[key]
	if resume {
		if !h.pending {
			m.t.Fatalf("LOSS: resumed %s, which lnd no longer has", key)
		}
		if h.ending {
			m.t.Fatalf("LOSS: resumed %s, whose end lnd has signed", key)
		}
		h.moved = true
		return
	}
	if h.moved && h.pending && !h.ending {
		m.t.Fatalf("LOSS: failed %s after a RESUME moved it", key)
	}
	m.end(h, false)
}

// end is lnd's signature. Between it and the payer's the HTLC is listed without a
// circuit.
func (m *modelLnd) end(h *modelHtlc, stubborn bool) {
	if h.ending {
		return
	}
	h.ending, h.stubborn = h.pending, stubborn
	if !stubborn && rapid.Bool().Draw(m.t, "signs at once") {
		h.pending, h.ending = false, false
	}
}

// leave is the payer's signature.
func (m *modelLnd) leave(h *modelHtlc) {
	if h.ending {
		h.pending, h.ending = false, false
	}
}

func (m *modelLnd) list(ticket Ticket) *Listing {
	m.age++
	age := time.Duration(m.age) * time.Second
	chans := map[ln.SCID]*ln.Channel{1: {ChanID: 1, SeenFor: age}, 2: {ChanID: 2, SeenFor: age}}
	for _, key := range m.keys() {
		if m.htlcs[key].pending {
			ch := chans[key.ChanID]
			h := ln.ChannelHtlc{Incoming: true, Index: key.HtlcID}
			if m.htlcs[key].signed && !m.htlcs[key].ending {
				h.ForwardingChan = 3
			}
			ch.Htlcs = append(ch.Htlcs, h)
		}
	}
	return NewListing(ticket, []ln.Channel{*chans[1], *chans[2]})
}

// modelCar is a sidecar built on the classifier in the way the engine is.
type modelCar struct {
	t       *rapid.T
	lnd     *modelLnd
	db      modelDB
	chain   *Chain
	c       *Classifier
	waiting map[ln.CircuitKey]Ticket
	// outstanding: offers that may be answered, by this process in this stream.
	outstanding map[ln.CircuitKey]bool
	// shown are HTLCs that a listing showed as forwarded, to this process.
	shown map[ln.CircuitKey]bool
	// sent: a RESUME of a recorded one was, or may have been, sent.
	sent map[ln.CircuitKey]bool
	// lingering says whether what may be ending has been there for long enough.
	lingering map[ln.CircuitKey]bool
	inFlight  *Listing
	// told are the ids that payers know, from their first claim on.
	told []ln.SCID
	next ln.SCID
	// distrust: guards ended here, and not in the database yet.
	distrust bool
	// old is a program that knows no guards.
	old bool
}

// modelDB is the database; claims say whether they are guarded.
type modelDB struct {
	rows        map[ln.CircuitKey]State
	claims      map[ln.SCID]bool
	epoch, mark int64
}

func (d modelDB) clone() modelDB {
	d.rows, d.claims = maps.Clone(d.rows), maps.Clone(d.claims)
	return d
}

const (
	ordinarySCID = ln.SCID(900) // never claimed
	sharedSCID   = ln.SCID(901) // claimed, not guarded: payers knew it before
)

func (s *modelCar) start() { s.begin(true) }

// begin is a process that gets the lease (Engine.load, Store.Begin).
func (s *modelCar) begin(trusted bool) {
	s.db.epoch++
	if !s.old {
		if !trusted || s.db.mark < s.db.epoch-1 {
			s.endGuards()
		}
		s.db.mark = s.db.epoch
	}
	s.chain = NewChain()
	s.chain.Put(HandlerConfig{Name: "h", OnAbsent: AbsentHold})
	for scid, guarded := range s.db.claims {
		s.claim(scid, guarded && !s.old)
	}
	s.c, s.distrust = NewClassifier(), false
	s.sent, s.shown = make(map[ln.CircuitKey]bool), make(map[ln.CircuitKey]bool)
	for key, state := range s.db.rows {
		s.sent[key] = state == StateResumed
	}
	// This is what the classifier leaves open.
	for _, h := range s.lnd.htlcs {
		if h.stubborn {
			s.lnd.leave(h)
		}
	}
	s.connect()
}

func (s *modelCar) claim(scid ln.SCID, guarded bool) {
	if err := s.chain.Claim("h", Route{SCID: scid, Guarded: guarded}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *modelCar) endGuards() {
	for scid := range s.db.claims {
		s.db.claims[scid] = false
	}
}

// agree claims an id that nobody knows, and then tells it.
func (s *modelCar) agree() {
	s.next++
	scid := 1000 + s.next
	s.db.claims[scid] = !s.old
	s.crashOr(func() {
		s.claim(scid, !s.old)
		s.told = append(s.told, scid)
	})
}

// release ends a claim, again makes one that payers know already.
func (s *modelCar) release(scid ln.SCID) {
	delete(s.db.claims, scid)
	s.crashOr(func() { s.chain.Release("h", scid) })
}

func (s *modelCar) again(scid ln.SCID) {
	s.db.claims[scid] = false
	s.crashOr(func() { s.claim(scid, false) })
}

// intruder is a client of somebody else's that had lnd's stream when this
// process thought that it had. It leaves alone what a row holds: that is what
// all holding rests on. A process that dies before it has recorded what it
// noticed is like one that was down; so what is recorded late is only a false
// alarm.
func (s *modelCar) intruder(falseAlarm bool) {
	s.lnd.disconnect()
	s.lnd.connect()
	for _, key := range s.lnd.queue {
		if _, recorded := s.db.rows[key]; !falseAlarm && !recorded && s.lnd.htlcs[key].pending && !s.lnd.htlcs[key].ending && rapid.Bool().Draw(s.t, "intrudes") {
			s.lnd.answer(key, true)
		}
	}
	s.lnd.disconnect()
	s.c.Foreign()
	s.chain.EndGuards()
	s.distrust = true
	if !falseAlarm {
		s.record()
	}
	s.connect()
}

// record is Engine.recordDistrust.
func (s *modelCar) record() {
	if s.distrust {
		s.endGuards()
		s.distrust = false
	}
}

func (s *modelCar) connect() {
	s.lnd.disconnect()
	s.lnd.connect()
	s.c.Connected()
	s.waiting = make(map[ln.CircuitKey]Ticket)
	s.outstanding = make(map[ln.CircuitKey]bool)
	s.lingering = make(map[ln.CircuitKey]bool)
	s.inFlight = nil
	for key, h := range s.lnd.htlcs {
		if h.stubborn && !s.shown[key] {
			s.lnd.leave(h)
		}
	}
}

// wait is the time that what ends takes. There are listings meanwhile, so that what
// flies is seen.
func (s *modelCar) wait() {
	for _, h := range s.lnd.htlcs {
		if !h.stubborn {
			s.lnd.leave(h)
		}
	}
	for _, key := range s.lnd.keys() {
		if _, lingers := s.lingering[key]; lingers && (!s.lnd.htlcs[key].signed || s.lnd.htlcs[key].ending) {
			s.waiting[key], s.lingering[key] = s.c.Begin(), true
		}
	}
}

func (s *modelCar) htlc(key ln.CircuitKey) ln.InterceptedHtlc {
	return ln.InterceptedHtlc{Key: key, IncomingExpiry: 200, AutoFailHeight: 181}
}

func (s *modelCar) read() {
	if len(s.lnd.queue) == 0 {
		return
	}
	key := s.lnd.queue[0]
	s.lnd.queue = s.lnd.queue[1:]
	delete(s.outstanding, key)
	delete(s.lingering, key)
	_, recorded := s.db.rows[key]
	switch v := s.c.Offer(s.htlc(key), recorded); v {
	case VerdictNew:
		s.new(key)
	case VerdictNeedListing:
		s.waiting[key] = s.c.Begin()
	case VerdictResumeOnly, VerdictPhantom, VerdictTrimmed, VerdictRecorded, VerdictSettleOnly, VerdictInFlight, VerdictUnrecorded,
		VerdictEnding, VerdictMayBeEnding:
		s.t.Fatalf("verdict %s at arrival", v)
	}
}

func (s *modelCar) new(key ln.CircuitKey) {
	scid := s.lnd.htlcs[key].scid
	// The claim has lapsed by somebody's clock, or its handler is away and wants
	// its HTLCs to pass.
	passes := rapid.IntRange(0, 2).Draw(s.t, "passes") == 0
	if !s.chain.Claimed(scid) || passes && s.old {
		s.resume(key)
		return
	}
	s.crashOr(func() {
		switch {
		case passes:
			s.db.rows[key] = StateResumed
			s.crashOr(func() { s.resume(key) })
		case rapid.Bool().Draw(s.t, "hold"):
			s.db.rows[key] = StateHeld
			s.outstanding[key] = true
		default:
			s.db.rows[key] = StateFailed
			s.crashOr(func() { s.lnd.answer(key, false) })
		}
	})
}

// knows says that this process can know that lnd has, or had, a circuit. Of others a
// stubborn payer is what is left open.
func (s *modelCar) knows(key ln.CircuitKey) bool { return s.shown[key] || s.c.resumedInStream(key) }

func (s *modelCar) resume(key ln.CircuitKey) {
	delete(s.lingering, key)
	s.sent[key] = true
	s.c.Resuming(key)
	s.lnd.answer(key, true)
}

// crashOr is the moment between a commit and the send.
func (s *modelCar) crashOr(send func()) {
	if rapid.IntRange(0, 9).Draw(s.t, "crash") == 0 {
		s.start()
		return
	}
	send()
}

func (s *modelCar) decide() {
	for _, key := range s.lnd.keys() {
		if s.db.rows[key] != StateHeld || rapid.Bool().Draw(s.t, "later") {
			continue
		}
		resume := rapid.Bool().Draw(s.t, "resume")
		s.db.rows[key] = StateFailed
		if resume {
			s.db.rows[key] = StateResumed
		}
		if !s.outstanding[key] {
			continue // decided while lnd or its stream was away
		}
		delete(s.outstanding, key)
		s.crashOr(func() {
			if resume {
				s.resume(key)
			} else {
				s.lnd.answer(key, false)
			}
		})
		return
	}
}

// list requests a listing or takes the answer of the one requested before, so
// that everything else can happen in between.
func (s *modelCar) list() {
	if s.inFlight == nil {
		s.inFlight = s.lnd.list(s.c.Begin())
		return
	}
	l := s.inFlight
	s.inFlight = nil
	if !s.lnd.connected {
		return
	}
	if !s.c.Ready() {
		s.c.Baseline(l)
	}
	s.c.Seen(l)
	for key, h := range l.pending {
		s.shown[key] = s.shown[key] || h.ForwardingChan != 0
	}
	s.c.Prune(l)
	for _, key := range s.lnd.keys() {
		ticket, ok := s.waiting[key]
		if !ok || !l.Since(ticket) {
			continue
		}
		delete(s.waiting, key)
		state, recorded := s.db.rows[key]
		known := Known{
			Recorded: recorded, Guarded: s.chain.Guarded(s.lnd.htlcs[key].scid),
			Resumed: state == StateResumed && s.sent[key], Waited: s.lingering[key],
		}
		switch v := s.c.Listed(s.htlc(key), known, l); v {
		case VerdictUnrecorded:
			if s.lnd.htlcs[key].moved {
				s.t.Fatalf("%s was moved, and passes for unmoved", key)
			}
			s.new(key)
		case VerdictNew:
			s.new(key)
		case VerdictInFlight, VerdictEnding:
			delete(s.lingering, key)
			s.waiting[key] = s.c.Begin()
		case VerdictMayBeEnding:
			s.waiting[key], s.lingering[key] = s.c.Begin(), false
		case VerdictResumeOnly:
			if s.distrust && !s.c.ResumedHere(key) {
				s.waiting[key] = s.c.Begin()
				break
			}
			s.resume(key)
		case VerdictPhantom, VerdictTrimmed:
			delete(s.lingering, key)
			if recorded {
				s.db.rows[key] = StateLapsed
			}
			s.lnd.answer(key, false)
		case VerdictRecorded:
			switch state {
			case StateHeld:
				s.outstanding[key] = true
			case StateResumed:
				s.resume(key)
			case StateFailed:
				s.lnd.answer(key, false)
			default:
			}
		case VerdictNeedListing, VerdictSettleOnly:
			s.t.Fatalf("verdict %s of a listed channel", v)
		}
		if !s.lnd.connected {
			return
		}
	}
}

// Some of the holes that this test is to find took hundreds of runs to show.
func TestClassifierLosesNothingAgainstAModelOfLnd(t *testing.T) {
	steps := flag.Lookup("rapid.steps")
	before := steps.Value.String()
	require.NoError(t, steps.Value.Set("70"))
	defer func() { require.NoError(t, steps.Value.Set(before)) }()
	for range 20 {
		checkClassifier(t)
	}
}

func checkClassifier(t *testing.T) {
	t.Helper()
	rapid.Check(t, func(t *rapid.T) {
		lnd := &modelLnd{
			t: t, htlcs: make(map[ln.CircuitKey]*modelHtlc),
			next: make(map[ln.SCID]uint64), held: make(map[ln.CircuitKey]bool),
		}
		car := &modelCar{t: t, lnd: lnd, told: []ln.SCID{ordinarySCID, sharedSCID}, db: modelDB{
			rows: make(map[ln.CircuitKey]State), claims: map[ln.SCID]bool{sharedSCID: false},
		}}
		car.start()
		copied := car.db.clone()
		// Those that were told last, mostly: with each of them few things happen.
		route := func(t *rapid.T) ln.SCID {
			if last := car.told[max(0, len(car.told)-2):]; rapid.IntRange(0, 3).Draw(t, "recent") > 0 {
				return rapid.SampledFrom(last).Draw(t, "route")
			}
			return rapid.SampledFrom(car.told).Draw(t, "route")
		}
		judge := func() {
			car.list()
			car.list()
			for range 4 {
				car.read()
			}
			car.list()
			car.list()
		}
		channel := rapid.SampledFrom([]ln.SCID{1, 2})
		t.Repeat(map[string]func(*rapid.T){
			"add":    func(t *rapid.T) { lnd.add(channel.Draw(t, "channel"), route(t)) },
			"add2":   func(t *rapid.T) { lnd.add(channel.Draw(t, "channel"), route(t)) },
			"read":   func(*rapid.T) { car.read() },
			"read2":  func(*rapid.T) { car.read() },
			"list":   func(*rapid.T) { car.list() },
			"list2":  func(*rapid.T) { car.list() },
			"decide": func(*rapid.T) { car.decide() },
			// From a RESUME to the end of the HTLC takes longer than from a
			// listing to the answer that rests on it. And what has waited in a
			// mailbox for longer than what ends takes does not leave it, fly and end
			// before the next listing.
			"sign": func(t *rapid.T) {
				for _, key := range lnd.keys() {
					if h := lnd.htlcs[key]; h.moved && car.inFlight == nil && !car.lingering[key] {
						h.signed = true
						h.committed = h.committed || rapid.IntRange(0, 3).Draw(t, "commits") > 0
					}
				}
			},
			"resolve": func(t *rapid.T) {
				for _, key := range lnd.keys() {
					h := lnd.htlcs[key]
					if h.committed && h.pending && rapid.Bool().Draw(t, "resolves") {
						lnd.end(h, car.knows(key) && rapid.IntRange(0, 3).Draw(t, "stubborn") == 0)
					}
				}
			},
			// What was not signed waits in a mailbox again, and shows no forward.
			"outgoing flap": func(t *rapid.T) {
				for _, key := range lnd.keys() {
					if h := lnd.htlcs[key]; h.signed && !h.committed {
						h.signed = false
					}
				}
			},
			"leave": func(t *rapid.T) {
				for _, key := range lnd.keys() {
					if rapid.Bool().Draw(t, "leaves") {
						lnd.leave(lnd.htlcs[key])
					}
				}
			},
			"wait": func(*rapid.T) { car.wait() },
			// A payer that sees to it that lnd offers an HTLC again as it ends.
			"ends as its link flaps": func(t *rapid.T) {
				if car.inFlight != nil || !lnd.connected {
					return
				}
				ch := channel.Draw(t, "channel")
				for _, key := range lnd.keys() {
					if h := lnd.htlcs[key]; key.ChanID == ch && h.moved && h.pending && !car.lingering[key] {
						h.signed, h.committed = true, true
						lnd.end(h, car.knows(key))
					}
				}
				lnd.reoffer(ch)
			},
			// lnd's own auto-fail. The client is never about to answer then: it
			// fails what it holds some blocks earlier. And it has read the offer
			// long ago: an offer that was made is never taken back, so that the
			// client's tip rises with it.
			"lapse": func(t *rapid.T) {
				for _, key := range lnd.keys() {
					h := lnd.htlcs[key]
					if lnd.held[key] && !h.moved && !slices.Contains(lnd.queue, key) && rapid.IntRange(0, 3).Draw(t, "lapses") == 0 {
						delete(lnd.held, key)
						h.pending = false
						delete(car.outstanding, key)
						delete(car.waiting, key)
					}
				}
			},
			"flap":       func(t *rapid.T) { lnd.reoffer(channel.Draw(t, "channel")) },
			"restart":    func(*rapid.T) { lnd.restart() },
			"disconnect": func(*rapid.T) { lnd.disconnect() },
			"reconnect": func(*rapid.T) {
				if !lnd.connected {
					car.connect()
				}
			},
			"crash":  func(*rapid.T) { car.start() },
			"judge":  func(*rapid.T) { judge() },
			"judge2": func(*rapid.T) { judge() },
			// What a predecessor left behind is what a crash and a flap show.
			"crash and judge": func(t *rapid.T) {
				car.start()
				lnd.reoffer(channel.Draw(t, "channel"))
				judge()
			},
			"agree": func(*rapid.T) { car.agree() },
			"release": func(t *rapid.T) {
				if scid := route(t); scid != ordinarySCID {
					car.release(scid)
				}
			},
			"claim again": func(t *rapid.T) {
				if scid := route(t); scid != ordinarySCID {
					car.again(scid)
				}
			},
			"another program": func(t *rapid.T) {
				car.old = !car.old
				car.start()
			},
			"intruder":    func(*rapid.T) { car.intruder(false) },
			"false alarm": func(*rapid.T) { car.intruder(true) },
			"record":      func(*rapid.T) { car.record() },
			"copy":        func(*rapid.T) { copied = car.db.clone() },
			// The generation file tells, and what the copy says is held is only
			// resumed.
			"restore": func(*rapid.T) {
				car.db, car.old = copied.clone(), false
				for key, state := range car.db.rows {
					if state == StateHeld {
						car.db.rows[key] = StateResumed
					}
				}
				car.begin(false)
				copied = car.db.clone()
			},
		})
	})
}
