package lndfake

import (
	"context"
	"sync"
)

// feed is one subscriber's queue. Pushing never blocks, because it happens under the world's lock.
type feed[T any] struct {
	mu   sync.Mutex
	buf  []T
	wake chan struct{}
}

func newFeed[T any]() *feed[T] { return &feed[T]{wake: make(chan struct{}, 1)} }

func (f *feed[T]) push(v T) {
	f.mu.Lock()
	f.buf = append(f.buf, v)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// next waits for the oldest value that was not yet taken.
func (f *feed[T]) next(ctx context.Context) (v T, err error) {
	for {
		f.mu.Lock()
		if len(f.buf) > 0 {
			v = f.buf[0]
			f.buf = f.buf[1:]
			f.mu.Unlock()
			return v, nil
		}
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return v, ctx.Err()
		case <-f.wake:
		}
	}
}

// topic is a set of feeds; it is guarded by the world's lock.
type topic[T any] struct {
	feeds []*feed[T]
}

func (t *topic[T]) add() *feed[T] {
	f := newFeed[T]()
	t.feeds = append(t.feeds, f)
	return f
}

func (t *topic[T]) drop(f *feed[T]) {
	for i, g := range t.feeds {
		if g == f {
			t.feeds = append(t.feeds[:i:i], t.feeds[i+1:]...)
			return
		}
	}
}

func (t *topic[T]) publish(v T) {
	for _, f := range t.feeds {
		f.push(v)
	}
}

// pump registers a feed with init under the world's lock and sends what comes until the stream ends.
func pump[T any](i *instance, ctx context.Context, t *topic[T], init func(*feed[T]), send func(T) error) error {
	var f *feed[T]
	if err := i.do(func() error {
		f = t.add()
		if init != nil {
			init(f)
		}
		return nil
	}); err != nil {
		return err
	}
	defer i.node.w.do(func() { t.drop(f) })
	for {
		v, err := f.next(ctx)
		if err != nil {
			return err
		}
		if err := send(v); err != nil {
			return err
		}
	}
}
