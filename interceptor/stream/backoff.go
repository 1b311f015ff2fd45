package stream

import (
	"math/rand/v2"
	"time"
)

// Backoff spaces attempts to connect: the first is immediate, the next few come
// within a quarter of a second, because with requireinterceptor lnd fails every
// new forward while nobody is attached.
type Backoff struct {
	// Rand draws from [0, n); nil draws from the runtime's generator.
	Rand func(n int64) int64
	// Max bounds the wait (0: 500 ms).
	Max time.Duration

	attempt int
}

// Reset makes the next attempt immediate; call it after a success.
func (b *Backoff) Reset() { b.attempt = 0 }

// Next is how long to wait before the next attempt.
func (b *Backoff) Next() time.Duration {
	limit := b.Max
	if limit == 0 {
		limit = 500 * time.Millisecond
	}
	n := b.attempt
	b.attempt++
	if n == 0 {
		return 0
	}
	ceiling := min(limit, 10*time.Millisecond<<min(n-1, 10))
	if n <= 10 {
		ceiling = min(ceiling, 250*time.Millisecond)
	}
	draw := b.Rand
	if draw == nil {
		draw = rand.Int64N
	}
	return ceiling/2 + time.Duration(draw(int64(ceiling/2)+1))
}
