// Package fsm runs state machines that hold money. It promises:
//
//   - a pure Step decides; state, event and effects are durable in one
//     transaction, guarded by compare-and-swap, before any effect runs;
//   - an effect runs at least once, after every crash again until its result is
//     durable, and always with the same idempotency key;
//   - an effect's result (the events that it led to) and its being done are one
//     commit;
//   - the effects of one instance run one after the other, in order, unless
//     declared concurrent; no lock is held while any of them runs;
//   - after a start, unfinished instances are reconciled with the world before
//     their pending effects run;
//   - an event that a state doesn't admit changes nothing and is an IllegalError.
//
// The pure half (Machine, Step, Edges, Diagram) needs no database.
package fsm

import (
	"errors"
	"fmt"
	"time"
)

// State is one machine's state: a struct whose exported fields are kept as JSON
// under a name that never changes. Make it a sealed interface per machine.
type State interface{ StateName() string }

// Event is what happened, to be kept as JSON under a stable name. Time-outs and
// block heights are events too. One that implements EventTime() time.Time is
// recorded with that time, the others with the time of their arrival.
type Event interface{ EventName() string }

// Effect is what the world shall be asked to do, kept as JSON under a stable
// name until it is done.
type Effect interface{ EffectName() string }

// Machine describes one kind of flow. S, V and F are its sealed interfaces.
type Machine[S State, V Event, F Effect] struct {
	// Name is stable: it is the key of the rows.
	Name string

	// Step decides. It is pure: it reads no clock and no database, changes
	// neither argument, and may be called more than once for one event. An event
	// that the state doesn't admit gets Illegal(s, v).
	Step func(s S, v V) (S, []F, error)

	// States, Events and Effects hold one example value of each type, so that
	// rows can be read back.
	States  []S
	Events  []V
	Effects []F

	// Terminal says that nothing more can happen: the instance is no longer
	// loaded at start.
	Terminal func(S) bool

	// Deadline gives the time-out of a state and the event to send then. It is
	// recomputed from the state at every transition and start. May be nil.
	Deadline func(S) (time.Time, V, bool)

	// Edges are all transitions that Step admits, for the diagram; fsmtest checks
	// that they are what Step does.
	Edges []Edge
}

// Edge is a transition, by names. From is the initial state of Create, too: an
// instance is born by a transition.
type Edge struct {
	From, Event, To string

	// Effects are the names of those that the transition may ask for.
	Effects []string
}

// ErrIllegal is in the chain of every IllegalError.
var ErrIllegal = errors.New("the event is not possible in this state")

// IllegalError says that a state doesn't admit an event. Nothing was changed.
type IllegalError struct {
	Machine, ID  string
	State, Event string
	// Repeated says that the event tells nothing that the state does not say already.
	Repeated bool
}

// Error names the instance, if known, the state and the event.
func (e *IllegalError) Error() string {
	if e.Machine == "" {
		return fmt.Sprintf("event %q is not possible in state %q", e.Event, e.State)
	}
	return fmt.Sprintf("%s %s: event %q is not possible in state %q", e.Machine, e.ID, e.Event, e.State)
}

// Unwrap makes errors.Is(err, ErrIllegal) true.
func (e *IllegalError) Unwrap() error { return ErrIllegal }

// Illegal is what Step returns for an event that the state doesn't admit.
func Illegal(s State, v Event) error {
	return &IllegalError{State: s.StateName(), Event: v.EventName()}
}

// Repeated is what Step returns in place of Illegal for an event that tells only what the
// state says already: two sources report one fact, an effect's result and a stream, and
// the other one came first. Nothing is amiss, and nobody is alarmed.
func Repeated(s State, v Event) error {
	return &IllegalError{State: s.StateName(), Event: v.EventName(), Repeated: true}
}

// NoEffect is the effect type of machines that have none.
type NoEffect interface{ Effect }

// Clock tells the time and calls back later. SystemClock is the real one,
// fsmtest has one that stands still until it is told to go on.
type Clock interface {
	Now() time.Time

	// AfterFunc calls f in its own goroutine after d. The function it returns
	// prevents that if it is called in time.
	AfterFunc(d time.Duration, f func()) (stop func() bool)
}

// SystemClock is the real clock.
func SystemClock() Clock { return systemClock{} }

// WallClock is the real clock as somebody tells it: the service's own, whose jumps a
// deadline by the clock must follow.
func WallClock(now func() time.Time) Clock { return wallClock{now: now} }

type wallClock struct {
	systemClock
	now func() time.Time
}

func (c wallClock) Now() time.Time { return c.now() }

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (systemClock) AfterFunc(d time.Duration, f func()) func() bool {
	return time.AfterFunc(d, f).Stop
}
