package fsmtest

import (
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
)

// Clock stands still until Advance. It also governs an engine's retries, so a
// test whose effects fail must advance it.
type Clock struct {
	mu     sync.Mutex
	now    time.Time
	nextID int
	timers map[int]timer
}

type timer struct {
	due time.Time
	f   func()
}

var _ fsm.Clock = (*Clock)(nil)

// NewClock starts at now.
func NewClock(now time.Time) *Clock { return &Clock{now: now, timers: make(map[int]timer)} }

// Now implements fsm.Clock.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// AfterFunc implements fsm.Clock.
func (c *Clock) AfterFunc(d time.Duration, f func()) func() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d <= 0 {
		go f()
		return func() bool { return false }
	}
	c.nextID++
	id := c.nextID
	c.timers[id] = timer{due: c.now.Add(d), f: f}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, pending := c.timers[id]
		delete(c.timers, id)
		return pending
	}
}

// Advance moves the clock and starts what is due by then.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for id, timer := range c.timers {
		if !timer.due.After(c.now) {
			delete(c.timers, id)
			go timer.f()
		}
	}
}
