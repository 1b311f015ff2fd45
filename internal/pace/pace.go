// Package pace keeps attempts and rounds apart.
//
// It promises that every wait ends at once when its context does, and that nothing
// rests on a wait's length: what is waited for is looked at anew afterwards.
package pace

import (
	"context"
	"time"
)

// Pause waits, or returns the context's error when that ends first.
func Pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Every calls f now and every d, until ctx ends. A round that takes longer than d
// delays the next.
func Every(ctx context.Context, d time.Duration, f func(context.Context)) {
	f(ctx)
	Each(ctx, d, f)
}

// Each is Every without the first call: nothing happens before d has passed.
func Each(ctx context.Context, d time.Duration, f func(context.Context)) {
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f(ctx)
		}
	}
}

// Backoff says how long Keep waits: First, and twice as long each time, up to
// Most. What ran for longer than Healthy begins with First again.
type Backoff struct {
	First, Most, Healthy time.Duration
}

// Keep runs something that should not end, such as a subscription, again and again
// until ctx ends. ended hears of every end but that of ctx, before the wait.
func Keep(ctx context.Context, b Backoff, run func(context.Context) error, ended func(error)) {
	wait := b.First
	for ctx.Err() == nil {
		began := time.Now()
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > b.Healthy {
			wait = b.First
		}
		ended(err)
		if Pause(ctx, wait) != nil {
			return
		}
		wait = min(2*wait, b.Most)
	}
}
