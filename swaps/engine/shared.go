package engine

import (
	"context"
	"sync"
)

// shared answers the same question for many at once. Who asks while an answer is
// being found gets the next one, which is found after it asked: so nobody hears what
// was true before the question.
type shared[T any] struct {
	mu      sync.Mutex
	running bool
	next    *answer[T]
}

type answer[T any] struct {
	done  chan struct{}
	value T
	err   error
}

func (s *shared[T]) ask(ctx context.Context, spawn func(func()) bool, find func() (T, error)) (T, error) {
	var none T
	s.mu.Lock()
	if s.next == nil {
		s.next = &answer[T]{done: make(chan struct{})}
	}
	mine := s.next
	if !s.running {
		if s.running = spawn(func() { s.serve(find) }); !s.running {
			s.next = nil
			s.mu.Unlock()
			return none, errStopping
		}
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
func (s *shared[T]) serve(find func() (T, error)) {
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
