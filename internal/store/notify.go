package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// wakeChannel is the one PostgreSQL channel; the topic is the payload.
const wakeChannel = "sluice_wake"

// Notifier wakes up code that waits for changes. A wake-up is a hint: several
// may arrive as one, one may come without a change, and after a broken
// connection everybody is woken once. DB implements it.
type Notifier interface {
	// Notify wakes the listeners of topic: in other replicas too on PostgreSQL, in
	// this process only on SQLite.
	Notify(ctx context.Context, topic string) error

	// Listen gives a channel that receives after each change of topic, until ctx
	// ends or the database is closed; then it is closed.
	Listen(ctx context.Context, topic string) <-chan struct{}
}

var _ Notifier = (*DB)(nil)

// wakeups hands wake-ups to the listeners of this process and, on PostgreSQL,
// to and from the other replicas.
type wakeups struct {
	db     *DB
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	listeners map[string]map[chan struct{}]struct{}
	pending   map[string]struct{}
	sending   bool
	receiving bool
}

func newWakeups(db *DB) *wakeups {
	ctx, cancel := context.WithCancel(context.Background())
	return &wakeups{
		db: db, ctx: ctx, cancel: cancel,
		listeners: make(map[string]map[chan struct{}]struct{}),
		pending:   make(map[string]struct{}),
	}
}

// Notify implements Notifier. On PostgreSQL an error says that other replicas
// may not have heard; this process's listeners have.
func (db *DB) Notify(ctx context.Context, topic string) error {
	db.wake.local(topic)
	if db.engine != Postgres {
		return nil
	}
	return db.wake.send(ctx, topic)
}

// Listen implements Notifier.
func (db *DB) Listen(ctx context.Context, topic string) <-chan struct{} {
	return db.wake.listen(ctx, topic)
}

// send tells all topics in one transaction: each would else be a commit of its
// own, which waits for the disk as the write did that it tells of.
func (w *wakeups) send(ctx context.Context, topics ...string) error {
	if _, err := w.db.writer.ExecContext(ctx, "SELECT pg_notify($1, topic) FROM unnest($2::text[]) AS topic", wakeChannel, topics); err != nil {
		return fmt.Errorf("notify %q: %w", topics, MapError(err))
	}
	return nil
}

// local wakes this process's listeners. The channels hold one wake-up: more
// would tell a listener nothing new.
func (w *wakeups) local(topic string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.listeners[topic] {
		wakeUp(ch)
	}
}

func wakeUp(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (w *wakeups) everybody() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, set := range w.listeners {
		for ch := range set {
			wakeUp(ch)
		}
	}
}

// queue wakes local listeners now and tells the other replicas in the
// background, so that a commit doesn't wait for it.
func (w *wakeups) queue(topics []string) {
	for _, topic := range topics {
		w.local(topic)
	}
	if len(topics) == 0 || w.db.engine != Postgres {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	for _, topic := range topics {
		w.pending[topic] = struct{}{}
	}
	if !w.sending {
		w.sending = true
		w.done.Go(w.drain)
	}
}

func (w *wakeups) drain() {
	for {
		w.mu.Lock()
		batch := w.pending
		w.pending = make(map[string]struct{})
		if len(batch) == 0 || w.closed {
			w.sending = false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		if err := w.send(w.ctx, slices.Sorted(maps.Keys(batch))...); err != nil && w.ctx.Err() == nil {
			w.db.log.Warn("other replicas were not woken", zap.Error(err))
		}
	}
}

func (w *wakeups) listen(ctx context.Context, topic string) <-chan struct{} {
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		close(ch)
		return ch
	}
	if w.listeners[topic] == nil {
		w.listeners[topic] = make(map[chan struct{}]struct{})
	}
	w.listeners[topic][ch] = struct{}{}
	if w.db.engine == Postgres && !w.receiving {
		w.receiving = true
		w.done.Go(w.receive)
	}
	context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if _, ok := w.listeners[topic][ch]; !ok {
			return
		}
		delete(w.listeners[topic], ch)
		if len(w.listeners[topic]) == 0 {
			delete(w.listeners, topic)
		}
		close(ch)
	})
	return ch
}

// receive keeps a connection that listens. What was said while there was none
// is unknown, so each new connection wakes everybody.
func (w *wakeups) receive() {
	wait := 50 * time.Millisecond
	for w.ctx.Err() == nil {
		err := w.receiveOnce(func() { wait = 50 * time.Millisecond })
		if w.ctx.Err() != nil {
			return
		}
		w.db.log.Warn("listening to PostgreSQL ended, trying again", zap.Duration("in", wait), zap.Error(err))
		select {
		case <-time.After(wait):
		case <-w.ctx.Done():
		}
		wait = min(2*wait, 2*time.Second)
	}
}

func (w *wakeups) receiveOnce(connected func()) error {
	conn, err := pgx.ConnectConfig(w.ctx, w.db.pgConfig.Copy())
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := conn.Close(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			w.db.log.Debug("close listening connection", zap.Error(err))
		}
	}()
	if _, err := conn.Exec(w.ctx, "LISTEN "+wakeChannel); err != nil {
		return err
	}
	connected()
	w.everybody()
	for {
		n, err := conn.WaitForNotification(w.ctx)
		if err != nil {
			return err
		}
		w.local(n.Payload)
	}
}

func (w *wakeups) close() {
	w.cancel()
	w.mu.Lock()
	w.closed = true
	for _, set := range w.listeners {
		for ch := range set {
			close(ch)
		}
	}
	w.listeners = make(map[string]map[chan struct{}]struct{})
	w.mu.Unlock()
	w.done.Wait()
}
