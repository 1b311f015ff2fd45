package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
)

// tenure is one time of owning the lease. Its fields are guarded by Engine.mu.
type tenure struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	lease  Lease

	chain *interceptor.Chain
	class *interceptor.Classifier
	rows  map[ln.CircuitKey]*entry
	held  counters

	// session is nil while lnd or its stream is away; gen counts sessions.
	session Session
	gen     uint64
	// waiting offers need a listing requested after their ticket.
	waiting map[ln.CircuitKey]waitingOffer
	// recording offers are new, and their rows are on the way to the database.
	recording map[ln.CircuitKey]pendingRow
	// asking are new, and programs of others have yet to say what they think.
	asking map[ln.CircuitKey]*asked
	// inquiring offers were there before this tenure or are on chain, without a
	// row: a payment of ours decides what becomes of them.
	inquiring map[ln.CircuitKey]inquiry
	// parked offers are looked at again with every listing: what is in flight
	// already is left until it is gone, or until lnd's auto-fail comes near, and
	// what may be ending until that is known.
	parked map[ln.CircuitKey]interceptor.Offer
	// lingering says since when parked ones may be ending.
	lingering map[ln.CircuitKey]time.Time
	// young are channels over which little or nothing is forwarded, as of the last
	// listing.
	young map[ln.SCID]young
	// doubt is when HTLCs may have been resumed last without a row that should have one.
	doubt time.Time
	// refusals wait for lnd's word on payments before they are recorded.
	refusals []ln.CircuitKey
	requests []*request
	// edits are those of the requests that nobody waits for.
	edits map[editOf]struct{}

	list, commit, refuse, chores, hear, ends chan struct{}
	// soon: an HTLC is about to end, so the next listing should come early.
	soon bool
	// foreign: another client may have had lnd's stream since the last baseline;
	// distrust: the guards that ended for that, for the guardEnds-th time, have
	// not ended in the database yet.
	foreign, distrust bool
	guardEnds         int
	// stale rows must be read again before anything is done about them.
	stale map[ln.CircuitKey]struct{}
}

type entry struct {
	row interceptor.Row
	// open is the verified offer in the present session, nil when lnd waits
	// for no answer.
	open *interceptor.Offer
	// since orders the row's beginning with listings.
	since interceptor.Ticket
	// inherited rows were loaded, not offered, in this tenure; checked says
	// that lnd has been asked about a payment for their hash.
	inherited, checked bool
	warned             bool
	// moved: lnd showed that it forwarded the HTLC, whatever the row says. sent: a RESUME
	// was, or by its row may have been, sent.
	moved, sent bool
	// hint is what HTLC events said of the outcome, certain or not.
	hint    interceptor.Outcome
	certain bool
	// unlisted: the channel that it came over is not open any more, so that no listing
	// tells when it is gone. lnd need not offer it again: what it has the preimage of, it
	// claims by itself, and dust is nobody's.
	unlisted bool
	// inquired says when the outcome was last asked for.
	inquired time.Time
}

type inquiry struct {
	offer interceptor.Offer
	// unmoved: no RESUME can have moved it, unless the ledger has a row of it.
	unmoved bool
}

type waitingOffer struct {
	offer  interceptor.Offer
	ticket interceptor.Ticket
	// unpaid: lnd has said that no payment of ours is for its hash.
	unpaid bool
}

type pendingRow struct {
	row interceptor.Row
	// offer and gen are those of the offer that was verified.
	offer  interceptor.Offer
	gen    uint64
	since  interceptor.Ticket
	queued bool
	// refused as it came: no handler hears of it before it is failed.
	refused bool
	// moved: another client may have resumed it before its row was written.
	moved bool
}

// serve owns the interceptor until the lease is lost or ctx ends.
func (e *Engine) serve(ctx context.Context, lease Lease) error {
	tctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t := &tenure{
		ctx: tctx, cancel: cancel, lease: lease,
		chain: interceptor.NewChain(), class: interceptor.NewClassifier(),
		rows: make(map[ln.CircuitKey]*entry), held: newCounters(),
		waiting: make(map[ln.CircuitKey]waitingOffer), recording: make(map[ln.CircuitKey]pendingRow),
		inquiring: make(map[ln.CircuitKey]inquiry), parked: make(map[ln.CircuitKey]interceptor.Offer), lingering: make(map[ln.CircuitKey]time.Time),
		stale: make(map[ln.CircuitKey]struct{}), asking: make(map[ln.CircuitKey]*asked),
		list: make(chan struct{}, 1), commit: make(chan struct{}, 1), edits: make(map[editOf]struct{}),
		refuse: make(chan struct{}, 1), chores: make(chan struct{}, 1), hear: make(chan struct{}, 1),
		ends: make(chan struct{}, 1),
	}
	err := e.load(tctx, t)
	if err == nil {
		e.begin(t)
		var workers sync.WaitGroup
		workers.Go(func() { e.watchLease(t) })
		workers.Go(func() { e.commitLoop(t) })
		workers.Go(func() { e.refuseLoop(t) })
		workers.Go(func() { e.choreLoop(t) })
		if e.cfg.Outcomes != nil {
			workers.Go(func() { e.eventLoop(t) })
			workers.Go(func() { e.outcomeLoop(t) })
		}
		e.connectLoop(t)
		err = context.Cause(tctx)
		e.finish(t)
		workers.Wait()
	}
	// The database may be gone for good: others wait for the lease's TTL then.
	rctx, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer done()
	e.mu.Lock()
	last := t.lease
	e.mu.Unlock()
	if rerr := last.Release(rctx); rerr != nil {
		e.log.Info("the lease was not released", zap.Error(rerr))
	}
	return err
}

func (e *Engine) load(ctx context.Context, t *tenure) error {
	doubt, err := e.cfg.Handlers.Begin(ctx, t.lease.Epoch(), !e.cfg.DistrustRows, e.cfg.Now())
	if err != nil {
		return err
	}
	t.doubt = doubt
	handlers, routes, err := e.cfg.Handlers.Handlers(ctx)
	if err != nil {
		return err
	}
	rows, err := e.cfg.Rows.Live(ctx)
	if err != nil {
		return err
	}
	for _, h := range handlers {
		t.chain.Put(h)
		for _, r := range routes[h.Name] {
			if err := t.chain.Claim(h.Name, r); err != nil {
				return err
			}
		}
	}
	for _, r := range rows {
		a, decided := r.Answer()
		t.rows[r.Key] = &entry{row: r, inherited: true, sent: decided && a.Action == interceptor.AnswerResume}
		t.held.add(r)
		e.mu.Lock()
		e.lastID = max(e.lastID, r.ID)
		e.mu.Unlock()
	}
	return nil
}

func (e *Engine) begin(t *tenure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.cfg.Now()
	for _, h := range t.chain.Handlers() {
		if _, here := e.attached[h.Name]; !here {
			e.away[h.Name] = now
		}
	}
	e.t = t
	close(e.turned)
	e.turned = make(chan struct{})
	e.log.Info("this process owns the interceptor",
		zap.Int64("epoch", t.lease.Epoch()), zap.Int("rows", len(t.rows)), zap.Int("handlers", len(t.chain.Handlers())))
}

// finish ends every attachment and fails every request that was not committed.
func (e *Engine) finish(t *tenure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.endScreening(t)
	e.t = nil
	close(e.turned)
	e.turned = make(chan struct{})
	for name, a := range e.attached {
		a.end(interceptor.ErrUnavailable)
		delete(e.attached, name)
	}
	for _, r := range t.requests {
		r.done <- unavailable("the interceptor is stopping", nil)
	}
	t.requests = nil
}

// errLease ends a tenure.
var errLease = errors.New("the lease is gone")

// watchLease ends the tenure with the lease, or, with KeepForwarding, carries
// on by law 8 until the lease is back. If somebody else had it meanwhile, what
// memory says is out of date and the tenure ends.
func (e *Engine) watchLease(t *tenure) {
	lease := t.lease
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-lease.Lost():
		}
		if t.ctx.Err() != nil {
			return
		}
		if !e.cfg.KeepForwarding {
			e.endTenure(t, errLease)
			return
		}
		e.log.Error("no valid lease: only ordinary forwards, phantoms and what is decided are answered")
		next, err := e.cfg.Acquire(t.ctx)
		if err != nil {
			e.endTenure(t, fmt.Errorf("%w: %w", errLease, err))
			return
		}
		e.mu.Lock()
		t.lease = next
		wake(t.commit)
		e.mu.Unlock()
		if next.Epoch() != lease.Epoch()+1 {
			e.endTenure(t, fmt.Errorf("%w: another process had it meanwhile", errLease))
			return
		}
		e.log.Info("the lease is back", zap.Int64("epoch", next.Epoch()))
		if _, err := e.cfg.Handlers.Begin(t.ctx, next.Epoch(), true, e.cfg.Now()); err != nil {
			// What it costs: the guards end at the next start.
			e.log.Warn("this epoch is not on record", zap.Int64("epoch", next.Epoch()), zap.Error(err))
		}
		lease = next
	}
}

// endTenure closes the stream before anything else: another owner may be there.
func (e *Engine) endTenure(t *tenure, err error) {
	t.cancel(err)
	e.mu.Lock()
	session := t.session
	e.mu.Unlock()
	if session != nil {
		session.Abort()
	}
}

// connectLoop keeps a stream open and reads its offers.
func (e *Engine) connectLoop(t *tenure) {
	for attempt := 0; t.ctx.Err() == nil; {
		_ = pace.Pause(t.ctx, e.cfg.Backoff(attempt))
		session, err := e.cfg.Open(t.ctx)
		if err != nil {
			if attempt == 0 || attempt%20 == 0 {
				e.log.Warn("lnd's interceptor stream cannot be had yet", zap.Int("attempt", attempt), zap.Error(err))
			}
			e.mu.Lock()
			e.taken(t, err)
			e.mu.Unlock()
			attempt++
			continue
		}
		opened := time.Now()
		err = e.runSession(t, session)
		// A stream that ends at once is not worth opening again at once.
		if attempt++; time.Since(opened) > time.Second {
			attempt = 0
		}
		e.log.Warn("lnd's interceptor stream ended", zap.Error(err))
	}
}

func (e *Engine) runSession(t *tenure, session Session) error {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	e.mu.Lock()
	if t.ctx.Err() != nil {
		e.mu.Unlock()
		session.Abort()
		return context.Cause(t.ctx)
	}
	t.gen++
	gen := t.gen
	t.session = session
	t.class.Connected()
	clear(t.waiting)
	clear(t.inquiring)
	clear(t.parked)
	clear(t.lingering)
	for _, en := range t.rows {
		en.open = nil
	}
	wake(t.list)
	e.mu.Unlock()
	e.log.Info("lnd accepted the interceptor stream", zap.Uint64("session", gen))

	var lister sync.WaitGroup
	lister.Go(func() { e.listLoop(ctx, t, gen) })
	err := e.intake(ctx, t, session)

	cancel()
	e.mu.Lock()
	t.session = nil
	e.stats.streamEnds++
	e.stats.lastStreamEnd = err.Error()
	e.taken(t, err)
	e.mu.Unlock()
	lister.Wait()
	if errors.Is(context.Cause(t.ctx), errLease) {
		session.Abort()
		return err
	}
	// Law 10: what was decided is sent, nothing else is.
	cctx, done := context.WithTimeout(context.WithoutCancel(t.ctx), time.Second)
	defer done()
	session.Close(cctx)
	return err
}

// taken notes that lnd has given the stream to another client since this tenure had
// it. It may be our own of before, if the connection broke and lnd does not know yet:
// nothing tells, not even time, since another client may come and go within a moment. That
// costs the guards, and what came in the meantime is only resumed (under mu).
func (e *Engine) taken(t *tenure, err error) {
	if !errors.Is(err, ln.ErrStreamTaken) || t.gen == 0 || t.foreign {
		return
	}
	e.log.Warn("lnd has another interceptor, or has not noticed yet that our stream ended: what it may have forwarded is only resumed")
	t.class.Foreign()
	t.foreign = true
	e.endGuards(t)
	// What is not on record yet is nothing that the other must have left alone.
	for key, p := range t.recording {
		p.moved = true
		t.recording[key] = p
	}
	for key := range t.asking {
		e.unask(t, key)
	}
	clear(t.inquiring)
}

// endGuards ends every guard, here and in the database (under mu).
func (e *Engine) endGuards(t *tenure) {
	t.chain.EndGuards()
	t.distrust, t.doubt = true, e.cfg.Now()
	t.guardEnds++
	wake(t.chores)
}

func (e *Engine) intake(ctx context.Context, t *tenure, session Session) error {
	for {
		offers, err := session.Next(ctx)
		if err != nil {
			return err
		}
		e.mu.Lock()
		if !e.cfg.KeepForwarding && !t.lease.Valid() {
			e.mu.Unlock()
			e.endTenure(t, errLease)
			return errLease
		}
		for _, o := range offers {
			e.onOffer(t, o)
		}
		e.mu.Unlock()
	}
}
