package lnd

import (
	"context"
	"sync"
	"time"
)

// shared gives one answer to all who ask for the same while lnd is busy with it. An answer
// is given only to those who asked before it was requested of lnd, so that it is never
// older than the question: who comes while a request is under way waits for the next.
//
// At most one request is under way. lnd reads every channel from its database for each
// ListChannels, with a dozen keys to be decompressed (0.2 ms a channel): fifty payments at
// once, each of which lists, would otherwise keep a gateway with some hundred channels from
// everything else.
type shared[T any] struct {
	doing string
	// within bounds a request; it belongs to no single caller, whose own context ends only
	// its wait.
	within time.Duration

	mu      sync.Mutex
	running bool
	next    *answer[T]
}

// answer is one request and what came of it.
type answer[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// ask gives the answer of a request that begins now or later.
func (s *shared[T]) ask(ctx context.Context, request func(context.Context) (T, error)) (T, error) {
	s.mu.Lock()
	mine := s.next
	switch {
	case mine != nil:
		// It has not begun.
	case s.running:
		mine = &answer[T]{done: make(chan struct{})}
		s.next = mine
	default:
		mine = &answer[T]{done: make(chan struct{})}
		s.running = true
		go s.run(context.WithoutCancel(ctx), mine, request)
	}
	s.mu.Unlock()
	select {
	case <-mine.done:
		return mine.value, mine.err
	case <-ctx.Done():
		var none T
		return none, mapError(s.doing, ctx.Err())
	}
}

// run requests answer after answer until nobody waits for one.
func (s *shared[T]) run(ctx context.Context, a *answer[T], request func(context.Context) (T, error)) {
	for a != nil {
		asked, cancel := context.WithTimeout(ctx, s.within)
		a.value, a.err = request(asked)
		cancel()
		close(a.done)
		s.mu.Lock()
		a, s.next = s.next, nil
		s.running = a != nil
		s.mu.Unlock()
	}
}
