package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// attachment is one handler's event queue, guarded by Engine.mu. It is not
// bounded: it holds at most a few events per open row.
type attachment struct {
	queue []interceptor.Event
	err   error
	woken chan struct{}
}

func (a *attachment) push(ev interceptor.Event) {
	a.queue = append(a.queue, ev)
	wake(a.woken)
}

func (a *attachment) end(err error) {
	if a.err == nil {
		a.err = err
	}
	wake(a.woken)
}

// deliver tells the row's handler, if it is there (under mu).
func (e *Engine) deliver(r interceptor.Row, kind interceptor.EventKind) {
	a, ok := e.attached[r.Handler]
	if !ok {
		return
	}
	ev := interceptor.Event{Kind: kind, Row: r}
	if e.height != 0 && (kind == interceptor.EventOffered || kind == interceptor.EventNearDeadline) {
		ev.BlocksLeft = r.BlocksLeft(e.height)
	}
	a.push(ev)
}

// owner gives the tenure for a change of registrations.
func (e *Engine) owner() (*tenure, int64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.t == nil {
		return nil, 0, unavailable("this process does not own the interceptor", nil)
	}
	if !e.t.lease.Valid() {
		return nil, 0, unavailable("the lease is not valid", nil)
	}
	return e.t, e.t.lease.Epoch(), nil
}

// Register implements interceptor.Registry.
func (e *Engine) Register(ctx context.Context, h interceptor.HandlerConfig) error {
	if err := h.Validate(); err != nil {
		return err
	}
	t, epoch, err := e.owner()
	if err != nil {
		return err
	}
	if err := e.cfg.Handlers.PutHandler(ctx, epoch, h); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	t.chain.Put(h)
	if _, here := e.attached[h.Name]; !here {
		if _, known := e.away[h.Name]; !known {
			e.away[h.Name] = e.cfg.Now()
		}
	}
	return nil
}

// ClaimRoutes implements interceptor.Registry.
func (e *Engine) ClaimRoutes(ctx context.Context, handler string, routes []interceptor.Route) error {
	t, epoch, err := e.owner()
	if err != nil {
		return err
	}
	e.mu.Lock()
	_, known := t.chain.Handler(handler)
	e.mu.Unlock()
	if !known {
		return fmt.Errorf("handler %q: %w", handler, interceptor.ErrUnknownHandler)
	}
	for _, r := range routes {
		if r.SCID == 0 || r.SCID == ln.NodeAddressed {
			return fmt.Errorf("route %s: %w", r.SCID, interceptor.ErrInvalid)
		}
	}
	if err := e.cfg.Handlers.PutRoutes(ctx, epoch, handler, routes); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range routes {
		if err := t.chain.Claim(handler, r); err != nil {
			return err
		}
	}
	return nil
}

// ReleaseRoutes implements interceptor.Registry.
func (e *Engine) ReleaseRoutes(ctx context.Context, handler string, scids []ln.SCID) error {
	t, epoch, err := e.owner()
	if err != nil {
		return err
	}
	if err := e.cfg.Handlers.DeleteRoutes(ctx, epoch, handler, scids); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, scid := range scids {
		t.chain.Release(handler, scid)
	}
	return nil
}

// Attach implements interceptor.Registry. On standby it waits.
func (e *Engine) Attach(ctx context.Context, handler string, sink func(interceptor.Event)) error {
	a := &attachment{woken: make(chan struct{}, 1)}
	for {
		if err := e.WaitActive(ctx); err != nil {
			return err
		}
		err := e.join(handler, a)
		if err == nil {
			break
		}
		if err != errLease { //nolint:errorlint // an internal signal, never wrapped
			return err
		}
	}
	defer e.leave(handler, a)
	for {
		e.mu.Lock()
		queue, err := a.queue, a.err
		a.queue = nil
		e.mu.Unlock()
		if err != nil {
			return err
		}
		for _, ev := range queue {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			sink(ev)
		}
		if len(queue) > 0 {
			continue
		}
		select {
		case <-a.woken:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// join makes a the handler's attachment and queues everything that is open.
func (e *Engine) join(handler string, a *attachment) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.t == nil {
		return errLease
	}
	if _, known := e.t.chain.Handler(handler); !known {
		return fmt.Errorf("handler %q: %w", handler, interceptor.ErrUnknownHandler)
	}
	if old, ok := e.attached[handler]; ok {
		old.end(interceptor.ErrReplaced)
	}
	e.attached[handler] = a
	delete(e.away, handler)
	var rows []interceptor.Row
	for _, en := range e.t.rows {
		if en.row.Handler == handler {
			rows = append(rows, en.row)
		}
	}
	slices.SortFunc(rows, func(a, b interceptor.Row) int { return cmp.Compare(a.ID, b.ID) })
	for _, r := range rows {
		switch {
		case r.Gone():
			e.deliver(r, interceptor.EventGone)
		case r.State.Decided():
			e.deliver(r, interceptor.EventDecided)
		default:
			e.deliver(r, interceptor.EventOffered)
			e.t.rows[r.Key].warned = false
		}
	}
	a.push(interceptor.Event{Kind: interceptor.EventSynced})
	return nil
}

func (e *Engine) leave(handler string, a *attachment) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.attached[handler] == a {
		delete(e.attached, handler)
		e.away[handler] = e.cfg.Now()
	}
}

// Status says how things stand.
func (e *Engine) Status() interceptor.Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := interceptor.Status{
		Height: e.height, StreamEnds: e.stats.streamEnds, LastStreamEnd: e.stats.lastStreamEnd,
		Resumed: e.stats.resumed, Phantoms: e.stats.phantoms, ResumeOnly: e.stats.resumeOnly, Pruned: e.stats.pruned,
	}
	t := e.t
	if t == nil {
		return s
	}
	s.Active, s.Connected = true, t.session != nil
	s.Degraded = !t.lease.Valid() || len(t.stale) > 0
	s.HeldHtlcs, s.HeldMsat, s.Unrecorded, s.Asked = t.held.htlcs, t.held.msat, len(t.recording), len(t.asking)
	s.Left = len(t.parked)
	byHandler := make(map[string]int)
	first := true
	for _, en := range t.rows {
		r := en.row
		if !r.Undecided() || r.Gone() {
			continue
		}
		byHandler[r.Handler]++
		if left := r.BlocksLeft(e.height); e.height != 0 && (first || left < s.MinBlocksLeft) {
			s.MinBlocksLeft, first = left, false
		}
		if r.OfferHeight != 0 && e.height > r.OfferHeight {
			s.HeldSatBlocks += uint64(r.IncomingMsat.ToSatFloor()) * uint64(e.height-r.OfferHeight)
		}
	}
	for _, h := range t.chain.Handlers() {
		_, here := e.attached[h.Name]
		s.Handlers = append(s.Handlers, interceptor.HandlerStatus{
			HandlerConfig: h, Attached: here, Routes: t.chain.Routes(h.Name), Held: byHandler[h.Name],
		})
	}
	return s
}
