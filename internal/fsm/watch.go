package fsm

import (
	"context"
	"sync"
)

// Watch streams an instance's states: the present one first (a Transition with
// only ID, To, Seq and At), then each that this engine stores, in order and
// without loss, until ctx ends or the engine closes; then the channel is closed.
// A slow reader holds nobody up. An unknown id is store.ErrNotFound.
func (e *Engine[S, V, F]) Watch(ctx context.Context, id string) (<-chan Transition[S, V], error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher[S, V]{wake: make(chan struct{}, 1)}
	// First listen, then look: what is stored in between comes twice, and the
	// sequence number tells.
	e.mu.Lock()
	if e.watchers[id] == nil {
		e.watchers[id] = make(map[*watcher[S, V]]struct{})
	}
	e.watchers[id][w] = struct{}{}
	e.mu.Unlock()
	forget := func() {
		cancel()
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watchers[id], w)
		if len(e.watchers[id]) == 0 {
			delete(e.watchers, id)
		}
	}
	inst, err := e.Get(ctx, id)
	if err != nil {
		forget()
		return nil, err
	}
	out := make(chan Transition[S, V])
	pump := func() {
		defer close(out)
		defer forget()
		next := Transition[S, V]{ID: id, To: inst.State, Seq: inst.Version, At: inst.Updated}
		last := int64(0)
		for {
			if next.Seq > last {
				select {
				case out <- next:
					last = next.Seq
				case <-ctx.Done():
					return
				case <-e.ctx.Done():
					return
				}
			}
			var ok bool
			for next, ok = w.pop(last); !ok; next, ok = w.pop(last) {
				select {
				case <-w.wake:
				case <-ctx.Done():
					return
				case <-e.ctx.Done():
					return
				}
			}
		}
	}
	e.mu.Lock()
	closed := e.closed
	e.start(pump)
	e.mu.Unlock()
	if closed {
		pump()
	}
	return out, nil
}

// watcher collects the transitions that a Watch has not passed on yet.
type watcher[S State, V Event] struct {
	wake chan struct{}

	mu      sync.Mutex
	pending []Transition[S, V]
}

// pop takes the transition with the lowest number.
func (w *watcher[S, V]) pop(last int64) (t Transition[S, V], ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	best := -1
	for i := range w.pending {
		if best < 0 || w.pending[i].Seq < w.pending[best].Seq {
			best = i
		}
	}
	if best < 0 {
		return t, false
	}
	t = w.pending[best]
	w.pending = append(w.pending[:best], w.pending[best+1:]...)
	return t, true
}

// tell passes a durable transition to the instance's watchers. The caller holds
// e.mu.
func (e *Engine[S, V, F]) tell(t Transition[S, V]) {
	for w := range e.watchers[t.ID] {
		w.mu.Lock()
		w.pending = append(w.pending, t)
		w.mu.Unlock()
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}
