package storetest

import (
	"errors"
	"fmt"
	"sync"

	"github.com/sluice-lsp/sluice/internal/store"
)

// ErrCrashed is what a crashed process's transactions end with.
var ErrCrashed = errors.New("the process has crashed (by the test's wish)")

// Point is a place in the life of a transaction.
type Point int

// The two points that matter: nothing is durable yet, or everything is but
// nobody has been told.
const (
	BeforeCommit Point = iota
	AfterCommit
)

// String names the point.
func (p Point) String() string {
	if p == BeforeCommit {
		return "before"
	}
	return "after"
}

// Fault is a lasting condition of a database.
type Fault int

// The conditions.
const (
	Healthy Fault = iota
	Gone          // nothing works
	Full          // reads work, commits fail
	Locked        // reads work, another program holds the write lock
)

// Faults makes databases fail. Its zero value is healthy; put Hooks into the
// configuration of every database that shall share the fate. It is safe for use
// by many goroutines.
type Faults struct {
	mu      sync.Mutex
	fault   Fault
	commits int64
	at      int64
	point   Point
	crashed chan struct{}
	dead    bool
	lost    int64 // from which commit on answers are lost, and how many
	losses  int64
	gone    int64 // answers lost
}

// Hooks are for store.Config.
func (f *Faults) Hooks() *store.Hooks {
	return &store.Hooks{
		Begin:        f.begin,
		BeforeCommit: func() error { return f.commit(BeforeCommit) },
		AfterCommit:  func() error { return f.commit(AfterCommit) },
	}
}

// Set makes the database gone, full, locked or healthy.
func (f *Faults) Set(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

// CrashAt lets the process crash at the n-th commit from now (the next one is
// number 1): from that point on, no transaction begins or commits until Restart.
// The channel it returns is closed at the crash.
func (f *Faults) CrashAt(n int64, point Point) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.point, f.crashed = f.commits+n, point, make(chan struct{})
	return f.crashed
}

// LoseAnswer makes the n-th commit from now durable without its caller learning
// so, as when the connection breaks at that moment. The process lives on.
func (f *Faults) LoseAnswer(n int64) { f.LoseAnswers(n, 1) }

// LoseAnswers is LoseAnswer for a number of commits, one after the other.
func (f *Faults) LoseAnswers(n, count int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost, f.losses = f.commits+n, count
}

// Lost is how many answers were lost.
func (f *Faults) Lost() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gone
}

// Restart ends a crash and forgets a planned one.
func (f *Faults) Restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead, f.at = false, 0
}

// Crashed tells whether the crash has happened.
func (f *Faults) Crashed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// Commits counts the commits that were reached.
func (f *Faults) Commits() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.commits
}

func (f *Faults) begin(readOnly bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.dead:
		return fmt.Errorf("%w: %w", store.ErrUnavailable, ErrCrashed)
	case f.fault == Gone:
		return fmt.Errorf("%w: connection refused (by the test's wish)", store.ErrUnavailable)
	case f.fault == Locked && !readOnly:
		return fmt.Errorf("%w: database is locked (by the test's wish)", store.ErrUnavailable)
	}
	return nil
}

func (f *Faults) commit(point Point) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if point == BeforeCommit {
		f.commits++
	}
	if !f.dead && f.at != 0 && f.at == f.commits && f.point == point {
		f.dead, f.at = true, 0
		close(f.crashed)
		if point == AfterCommit {
			return fmt.Errorf("%w: %w: %w", store.ErrUnavailable, store.ErrOutcomeUnknown, ErrCrashed)
		}
	}
	if point == AfterCommit && f.losses > 0 && f.lost <= f.commits {
		f.losses--
		f.gone++
		return fmt.Errorf("%w: %w: answer lost (by the test's wish)", store.ErrUnavailable, store.ErrOutcomeUnknown)
	}
	switch {
	case f.dead && point == AfterCommit:
		// Its COMMIT was under way when the crash came.
		return fmt.Errorf("%w: %w: %w", store.ErrUnavailable, store.ErrOutcomeUnknown, ErrCrashed)
	case f.dead:
		return fmt.Errorf("%w: %w", store.ErrUnavailable, ErrCrashed)
	case f.fault == Full && point == BeforeCommit:
		return fmt.Errorf("%w: no space left (by the test's wish)", store.ErrUnavailable)
	case f.fault == Gone && point == BeforeCommit:
		return fmt.Errorf("%w: connection lost (by the test's wish)", store.ErrUnavailable)
	}
	return nil
}
