package devnet

import (
	"context"
	"fmt"
	"time"
)

// pollInterval is short enough to be invisible beside lnd's own 50 ms ticks
// and long enough that twenty waiters cost no measurable CPU.
const pollInterval = 15 * time.Millisecond

// WaitFor calls cond until it returns true, or ctx ends. An error from cond is
// remembered, not fatal: nodes refuse calls while they start. The error names
// what was awaited and the last error that cond returned.
func WaitFor(ctx context.Context, what string, cond func(context.Context) (bool, error)) error {
	begin := time.Now()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()

	var last error
	for {
		ok, err := cond(ctx)
		if ok && err == nil {
			return nil
		}
		// An error caused by the deadline itself says less than the one before.
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			waited := time.Since(begin).Round(time.Millisecond)
			if last != nil {
				return fmt.Errorf("waited %s for %s: %w (last: %w)", waited, what, context.Cause(ctx), last)
			}
			return fmt.Errorf("waited %s for %s: %w", waited, what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
