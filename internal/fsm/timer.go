package fsm

import (
	"errors"

	"go.uber.org/zap"
)

// arm sets the instance's time-out anew. The caller holds e.mu. The event goes
// only to the version it was made for: a transition that wins the race makes it
// void.
func (e *Engine[S, V, F]) arm(inst *instance[S, V, F]) {
	if inst.timer != nil && inst.armed == inst.version {
		return
	}
	inst.disarm()
	if e.phase != phaseRunning || inst.parked || inst.terminal || !inst.known || e.closed {
		return
	}
	due, event, ok := e.deadline(inst.state)
	if !ok {
		return
	}
	id, version := inst.id, inst.version
	inst.armed = version
	inst.timer = e.opt.Clock.AfterFunc(max(due.Sub(e.opt.Clock.Now()), 0), func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.start(func() { e.timeOut(id, version, event) })
	})
}

func (e *Engine[S, V, F]) timeOut(id string, version int64, event V) {
	e.persevere("time-out not delivered", id, func() error {
		_, err := e.send(e.ctx, id, event, version)
		var hook *hookError
		switch {
		case errors.Is(err, errPassed):
			return nil
		case errors.Is(err, ErrIllegal) && !errors.As(err, &hook):
			e.opt.Log.Error("the state doesn't admit its own time-out", zap.String("id", id), zap.Error(err))
			return nil
		}
		return err
	})
}
