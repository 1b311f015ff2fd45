// Package sharedcall has many who ask the same at once share an answer.
//
// It promises that nobody hears what was true before the question, that at most one
// answer is being found at a time, and that a failure is told to those who waited for
// it and kept for nobody else.
package sharedcall

import (
	"context"
	"sync"
)

// Answers answers one question. Who asks while an answer is being found gets the next
// one, which is found after it asked. The zero value is ready.
type Answers[T any] struct {
	mu      sync.Mutex
	running bool
	next    *answer[T]
}

type answer[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// Ask waits for an answer that find gives from now on, or until ctx ends, which ends
// nobody else's wait. spawn runs find beside the caller; its error is that no answer
// will be found.
func (s *Answers[T]) Ask(ctx context.Context, spawn func(func()) error, find func() (T, error)) (T, error) {
	var none T
	s.mu.Lock()
	if s.next == nil {
		s.next = &answer[T]{done: make(chan struct{})}
	}
	mine := s.next
	if !s.running {
		if err := spawn(func() { s.serve(find) }); err != nil {
			s.next = nil
			s.mu.Unlock()
			return none, err
		}
		s.running = true
	}
	s.mu.Unlock()
	select {
	case <-mine.done:
		return mine.value, mine.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// serve finds answers while somebody waits for one.
func (s *Answers[T]) serve(find func() (T, error)) {
	for {
		s.mu.Lock()
		now := s.next
		s.next = nil
		if now == nil {
			s.running = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		now.value, now.err = find()
		close(now.done)
	}
}
