package engine_test

import (
	"sync"
	"time"
)

// clock is a wall clock that the test sets forward.
type clock struct {
	mu     sync.Mutex
	offset time.Duration
}

func newClock() *clock { return new(clock) }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}
