package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/ballot"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Rulings is how the hub tells the interceptor what programs say (engine.Engine).
type Rulings interface {
	// Rule decides, or holds, a forward that Screen was told of.
	Rule(key ln.CircuitKey, r interceptor.Ruling) error
	// Note stores the ballot of one that is held.
	Note(ctx context.Context, key ln.CircuitKey, ballot string) error
}

// HubConfig says what a hub works with. The zero value of a duration means its
// default.
type HubConfig struct {
	Programs []Program
	// Stranger is for programs that are not registered: its name and macaroon do not
	// matter. They are asked while they are attached.
	Stranger Program
	// AwayGrace is how long a program may be away before its policy applies to what
	// already waits for it (5 s). New forwards do not wait for it.
	AwayGrace time.Duration
	// RecordAfter is when a forward that is still undecided gets a row (1 s).
	RecordAfter time.Duration
	Now         func() time.Time
	Log         *zap.Logger
}

// Hub asks programs and merges what they say. It implements engine.Screener, so
// that the engine calls it under its own lock: the hub never calls the engine while
// it holds mu.
type Hub struct {
	cfg HubConfig
	log *zap.Logger

	rulings Rulings

	mu        sync.Mutex
	strangers int
	programs  map[string]*program
	asks      map[ln.CircuitKey]*ask
	// early are messages of offers whose row has not been told of yet.
	early map[ln.CircuitKey]any
	// dirty are asks about which the engine is to be told something.
	dirty map[ln.CircuitKey]struct{}
	woken chan struct{}

	channels map[*chanConn]struct{}
}

// ask is one forward that programs have a say in. Guarded by Hub.mu.
type ask struct {
	offer  ln.InterceptedHtlc
	wire   any
	ballot *ballot.Ballot
	at     time.Time
	stage  stage
	// busy: somebody is telling the engine about it just now.
	busy bool
	// told is the ballot that the engine was told last.
	told string
	// seen since the interceptor was attached to.
	seen bool
}

// stage is how far the interceptor is with an ask.
type stage int

// The stages: it waits in memory; its row is being written; its row says held.
const (
	stageAsked stage = iota
	stageRecording
	stageHeld
)

// NewHub checks the registrations.
func NewHub(cfg HubConfig) (*Hub, error) {
	if cfg.AwayGrace == 0 {
		cfg.AwayGrace = 5 * time.Second
	}
	if cfg.RecordAfter == 0 {
		cfg.RecordAfter = time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	h := &Hub{
		cfg: cfg, log: cfg.Log, programs: make(map[string]*program), asks: make(map[ln.CircuitKey]*ask),
		early: make(map[ln.CircuitKey]any), dirty: make(map[ln.CircuitKey]struct{}), woken: make(chan struct{}, 1),
		channels: make(map[*chanConn]struct{}),
	}
	ids := make(map[string]string)
	for _, p := range cfg.Programs {
		if err := p.Validate(); err != nil {
			return nil, err
		}
		if _, twice := h.programs[p.Name]; twice {
			return nil, fmt.Errorf("two programs are named %s", p.Name)
		}
		if other, twice := ids[p.MacaroonID]; twice {
			return nil, fmt.Errorf("the programs %s and %s have the same macaroon: bake one for each, so that they can be told apart", other, p.Name)
		}
		ids[p.MacaroonID] = p.Name
		h.programs[p.Name] = &program{Program: p, registered: true, since: cfg.Now()}
	}
	return h, nil
}

// Use names the engine; call it before Run and before the engine runs.
func (h *Hub) Use(r Rulings) { h.rulings = r }

// Screen implements engine.Screener.
func (h *Hub) Screen(o interceptor.Offer) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.cfg.Now()
	var asked []string
	for name, p := range h.programs {
		if p.conn != nil || (p.registered && p.WhileAway != interceptor.AbsentResume) {
			asked = append(asked, name)
		}
	}
	if len(asked) == 0 {
		return false
	}
	a := &ask{offer: o.InterceptedHtlc, wire: o.Wire, ballot: ballot.New(asked...), at: now, seen: true}
	h.asks[o.Key] = a
	for _, name := range asked {
		p := h.programs[name]
		p.waiting++
		switch {
		case p.conn != nil:
			p.conn.ask(o.Key, o.Wire)
		case p.WhileAway == interceptor.AbsentFail:
			h.castPolicy(a, p, p.WhileAway)
			h.mark(o.Key)
		}
	}
	return true
}

// Again implements engine.Screener.
func (h *Hub) Again(o interceptor.Offer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a, ok := h.asks[o.Key]; ok {
		a.wire = o.Wire
		h.askAll(a)
		return
	}
	if len(h.early) < maxUnanswered {
		h.early[o.Key] = o.Wire
	}
}

// Over implements engine.Screener.
func (h *Hub) Over(key ln.CircuitKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(key)
}

// forget ends an ask (under mu). Streams keep what they sent, so that a late answer
// is known for one.
func (h *Hub) forget(key ln.CircuitKey) {
	delete(h.early, key)
	delete(h.dirty, key)
	a, ok := h.asks[key]
	if !ok {
		return
	}
	delete(h.asks, key)
	for _, name := range a.ballot.Waiting() {
		if p, known := h.programs[name]; known {
			p.waiting--
		}
	}
}

// askAll puts the question to every program that is there and has not answered
// (under mu).
func (h *Hub) askAll(a *ask) {
	for _, name := range a.ballot.Waiting() {
		if p := h.programs[name]; p != nil && p.conn != nil {
			p.conn.ask(a.offer.Key, a.wire)
		}
	}
}

// castPolicy lets a policy speak for a program (under mu).
func (h *Hub) castPolicy(a *ask, p *program, policy interceptor.Absent) {
	v := ballot.Vote{Action: interceptor.ActionResume, Policy: true}
	if policy == interceptor.AbsentFail {
		v.Action = interceptor.ActionFail
	}
	if a.ballot.Cast(p.Name, v) == nil {
		p.waiting--
	}
}

// mark has the engine told about an ask (under mu).
func (h *Hub) mark(key ln.CircuitKey) {
	h.dirty[key] = struct{}{}
	wake(h.woken)
}

// attach begins a program's stream. Another one of its own ends.
func (h *Hub) attach(name string) *conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, known := h.programs[name]
	if !known {
		p = &program{Program: h.cfg.Stranger}
		p.Name = name
		h.programs[name] = p
	}
	if p.conn != nil {
		p.conn.end(errReplaced)
	}
	c := &conn{program: p, sent: make(map[ln.CircuitKey]struct{}), woken: make(chan struct{}, 1), ended: make(chan struct{})}
	p.conn, p.since, p.lateInRow = c, h.cfg.Now(), 0
	var open []*ask
	for _, a := range h.asks {
		if a.ballot.Waits(name) {
			open = append(open, a)
		}
	}
	slices.SortFunc(open, func(a, b *ask) int { return a.at.Compare(b.at) })
	for _, a := range open {
		c.ask(a.offer.Key, a.wire)
	}
	return c
}

// detach ends a stream. What waits for the program gets its policy after a grace.
func (h *Hub) detach(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.program.conn == c {
		c.program.conn, c.program.since = nil, h.cfg.Now()
	}
}

// next waits for questions of a stream.
func (h *Hub) next(ctx context.Context, c *conn) ([]any, error) {
	for {
		h.mu.Lock()
		queue, err := c.queue, c.err
		c.queue = nil
		h.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if len(queue) > 0 {
			return queue, nil
		}
		select {
		case <-c.woken:
		case <-c.ended:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// errNotOffered: the answer is about a forward that this stream was not asked about,
// or answered before.
var errNotOffered = errors.New("this forward was not offered on this stream, or it was answered")

// answer takes a program's answer. An error ends the stream; an answer that is only
// not taken does not, up to a point.
func (h *Hub) answer(c *conn, key ln.CircuitKey, v ballot.Vote) error {
	h.mu.Lock()
	if c.err != nil {
		h.mu.Unlock()
		return c.err
	}
	p := c.program
	p.lateInRow = 0
	if _, sent := c.sent[key]; !sent {
		defer h.mu.Unlock()
		return h.refuse(c, fmt.Errorf("%s: %w", key, errNotOffered))
	}
	a, open := h.asks[key]
	if !open || !a.ballot.Waits(p.Name) {
		// It ended, or a policy answered, while the program thought about it.
		delete(c.sent, key)
		h.mu.Unlock()
		return nil
	}
	if err := v.Check(a.offer, p.MaySettle); err != nil {
		h.mu.Unlock()
		h.count(c, fmt.Errorf("%s: %w", key, err))
		return err
	}
	delete(c.sent, key)
	if err := a.ballot.Cast(p.Name, v); err != nil {
		h.mu.Unlock()
		return err
	}
	p.waiting--
	switch v.Action {
	case interceptor.ActionFail:
		p.failed++
	case interceptor.ActionSettle:
		p.settled++
	case interceptor.ActionResume, interceptor.ActionRefuseUnknown, interceptor.ActionHold:
	}
	if a.stage != stageAsked || a.busy {
		h.mark(key)
		h.mu.Unlock()
		return nil
	}
	h.mu.Unlock()
	h.rule(key)
	return nil
}

// count notes an answer for which lnd, too, would end the stream.
func (h *Hub) count(c *conn, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.program.refused++
	c.program.lastRefusal = err.Error()
}

// refuse counts an answer that is not taken (under mu).
func (h *Hub) refuse(c *conn, err error) error {
	c.refused++
	c.program.refused++
	c.program.lastRefusal = err.Error()
	if c.refused < maxRefused {
		return nil
	}
	return fmt.Errorf("%w, the last: %w", errFlood, err)
}

// rule tells the engine what an ask in memory comes to, if that is known.
func (h *Hub) rule(key ln.CircuitKey) {
	h.mu.Lock()
	a, ok := h.asks[key]
	if !ok || a.busy || a.stage != stageAsked {
		h.mu.Unlock()
		return
	}
	r, decided := a.ballot.Ruling()
	if !decided {
		h.mu.Unlock()
		return
	}
	// From here no other answer matters.
	h.forget(key)
	h.mu.Unlock()
	err := h.rulings.Rule(key, r)
	if err != nil && !errors.Is(err, interceptor.ErrUnknownRow) {
		h.log.Info("what programs said about a forward came too late", zap.Stringer("key", key), zap.Error(err))
	}
}

// Status lists the programs by name.
func (h *Hub) Status() []interceptor.ProgramStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]interceptor.ProgramStatus, 0, len(h.programs))
	for _, p := range h.programs {
		out = append(out, interceptor.ProgramStatus{
			Name: p.Name, Registered: p.registered, Htlcs: p.conn != nil, Channels: p.channels > 0,
			WhileAway: p.WhileAway, WhenSlow: p.WhenSlow, MaySettle: p.MaySettle, Waiting: p.waiting,
			Asked: p.asked, Failed: p.failed, Settled: p.settled, Late: p.late, Refused: p.refused, LastRefusal: p.lastRefusal,
		})
	}
	slices.SortFunc(out, func(a, b interceptor.ProgramStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
