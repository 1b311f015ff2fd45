package main

import (
	"context"
	"fmt"
)

// stops is what ends a bench's parts, in the order in which they began.
type stops struct{ stop []func() }

func (s *stops) close() {
	for i := len(s.stop) - 1; i >= 0; i-- {
		s.stop[i]()
	}
}

// serve runs a service until close, and returns once it is ready.
func (s *stops) serve(ctx context.Context, service func(ctx context.Context, ready func()) error) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- service(run, func() { close(ready) }) }()
	s.stop = append(s.stop, func() { cancel(); <-ended })
	select {
	case <-ready:
		return nil
	case err := <-ended:
		ended <- err
		return fmt.Errorf("the service ended: %w", err)
	case <-ctx.Done():
		return ctx.Err()
	}
}
