package engine

import (
	"context"
	"errors"
	"time"
)

// follow decides when channels are followed. lnd tells its subscribers of every
// commitment of every channel, each time with the whole channel, so that an
// ordinary forward makes several such messages: at a busy gateway this costs
// more than all else that Sluice does there. So channels are followed only
// while a payment or an open depends on one, and for a while afterwards, in
// which lnd may rebuild the link of a fresh channel with default fees.
// Guarded by world.mu.
type follow struct {
	// wanted: something depends on a channel; until then, or until the time,
	// they are followed.
	wanted bool
	until  time.Time
	woken  chan struct{}
	// picture is closed once the present subscription's first picture is read.
	picture chan struct{}
}

const (
	// followFor is how long channels are followed after the last need.
	followFor = 2 * time.Minute
	// secondLook is when a fresh subscription's picture is read again: lnd does
	// not say when a subscription counts, and the first picture may be older.
	secondLook = 500 * time.Millisecond
)

// want says whether anything depends on a channel.
func (w *world) want(wanted bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.follow.wanted && !wanted {
		w.follow.until = time.Now().Add(followFor)
	}
	if wanted && !w.follow.wanted {
		wake(w.follow.woken)
	}
	w.follow.wanted = wanted
}

// current waits until channels are followed and their picture is read.
func (w *world) current(ctx context.Context) error {
	w.mu.Lock()
	picture := w.follow.picture
	w.follow.until = time.Now().Add(followFor)
	wake(w.follow.woken)
	w.mu.Unlock()
	select {
	case <-picture:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// idleIn is how long channels are still to be followed; 0 when they need not be.
func (w *world) idleIn() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := max(time.Until(w.follow.until), 0)
	if w.follow.wanted {
		return max(left, followFor)
	}
	return left
}

// followChannels waits until channels must be followed and does so until they
// need not be, which is no error.
func (w *world) followChannels(ctx context.Context) error {
	for w.idleIn() == 0 {
		select {
		case <-w.follow.woken:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	sub, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		for left := w.idleIn(); left > 0; left = w.idleIn() {
			select {
			case <-time.After(left):
			case <-sub.Done():
				return
			}
		}
		cancel(errIdle)
	}()
	go func() {
		w.resync(sub, "channels", w.readChannels)
		w.mu.Lock()
		if sub.Err() == nil {
			close(w.follow.picture)
		}
		w.mu.Unlock()
		select {
		case <-time.After(secondLook):
			w.resync(sub, "channels", func(ctx context.Context) error { return w.picture(ctx, false) })
		case <-sub.Done():
		}
	}()
	err := w.events.SubscribeChannelEvents(sub, w.channelEvent)
	w.mu.Lock()
	// Whoever waits for a picture waits for that of the next subscription.
	cancel(err)
	select {
	case <-w.follow.picture:
		w.follow.picture = make(chan struct{})
	default:
	}
	w.mu.Unlock()
	if errors.Is(context.Cause(sub), errIdle) {
		return nil
	}
	return err
}

var errIdle = errors.New("nothing depends on a channel")

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
