package groupcommit_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/groupcommit"
)

var errBad = errors.New("a bad job")

// disk records the sets that it was given; a job named "bad" fails its set, and
// gate holds every commit up until it is told.
type disk struct {
	mu   sync.Mutex
	sets [][]string
	gate chan struct{}
}

func (d *disk) apply(_ context.Context, jobs ...string) error {
	if d.gate != nil {
		<-d.gate
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, j := range jobs {
		if j == "bad" {
			return errBad
		}
	}
	d.sets = append(d.sets, jobs)
	return nil
}

func (d *disk) config() groupcommit.Config[string] {
	return groupcommit.Config[string]{
		Jobs: 4, Bytes: 100, Queued: 8, Timeout: time.Minute, Apply: d.apply, Log: zap.NewNop(),
		OneAtFault: func(err error) bool { return errors.Is(err, errBad) },
	}
}

// run starts a queue; stop ends it and waits.
func run(t *testing.T, c groupcommit.Config[string]) (q *groupcommit.Queue[string], stop func()) {
	t.Helper()
	q = groupcommit.New(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	return q, func() {
		cancel()
		require.NoError(t, <-done)
	}
}

// send hands jobs over one after the other, and gives their answers later.
func send(q *groupcommit.Queue[string], size int, jobs ...string) (answers func() []error) {
	out := make([]error, len(jobs))
	var wg sync.WaitGroup
	for i, j := range jobs {
		wg.Go(func() { out[i] = q.Do(context.Background(), 0, size, j) })
		synctest.Wait()
	}
	return func() []error { wg.Wait(); return out }
}

// TestTogether: what arrives while a commit is under way shares the next, in its
// order and within the bounds.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{gate: make(chan struct{})}
		var seen []int
		c := d.config()
		c.Observe = func(n int) { seen = append(seen, n) }
		q, stop := run(t, c)
		answers := send(q, 1, "a", "b", "c", "d", "e", "f")
		close(d.gate)
		require.Equal(t, make([]error, 6), answers())
		require.Equal(t, [][]string{{"a"}, {"b", "c", "d", "e"}, {"f"}}, d.sets)
		require.Equal(t, []int{1, 4, 1}, seen)
		stop()
	})
}

func TestBytesBoundASet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{gate: make(chan struct{})}
		q, stop := run(t, d.config())
		answers := send(q, 60, "a", "b", "c")
		alone := send(q, 1000, "large")
		close(d.gate)
		require.Equal(t, make([]error, 3), answers())
		require.Equal(t, make([]error, 1), alone())
		require.Equal(t, [][]string{{"a"}, {"b"}, {"c"}, {"large"}}, d.sets)
		stop()
	})
}

// TestOneAtFault: a job that fails its set fails alone, and the others are
// durable. What fails for all is not tried again.
func TestOneAtFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{gate: make(chan struct{})}
		q, stop := run(t, d.config())
		answers := send(q, 1, "first", "a", "bad", "b")
		close(d.gate)
		require.Equal(t, []error{nil, nil, errBad, nil}, answers())
		require.Equal(t, [][]string{{"first"}, {"a"}, {"b"}}, d.sets)
		stop()
	})
	synctest.Test(t, func(t *testing.T) {
		full, tries := errors.New("disk full"), 0
		gate := make(chan struct{})
		c := (&disk{}).config()
		c.Apply = func(context.Context, ...string) error { <-gate; tries++; return full }
		q, stop := run(t, c)
		answers := send(q, 1, "first", "a", "b")
		close(gate)
		require.Equal(t, []error{full, full, full}, answers())
		require.Equal(t, 2, tries)
		stop()
	})
}

// TestBusyAndStopping: who finds the queue full hears it at once; what waits when
// the service stops is refused, and what was begun is finished.
func TestBusyAndStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{gate: make(chan struct{})}
		q, stop := run(t, d.config())
		begun := send(q, 1, "begun")
		var names []string
		for i := range 8 {
			names = append(names, fmt.Sprint(i))
		}
		waiting := send(q, 1, names...)
		require.Equal(t, []error{groupcommit.ErrBusy}, send(q, 1, "too many")())
		stopped := make(chan struct{})
		go func() { stop(); close(stopped) }()
		synctest.Wait()
		close(d.gate)
		<-stopped
		require.Equal(t, make([]error, 1), begun())
		applied := 1
		for _, err := range waiting() {
			if err == nil {
				applied++
				continue
			}
			require.ErrorIs(t, err, groupcommit.ErrBusy)
		}
		n := 0
		for _, s := range d.sets {
			n += len(s)
		}
		require.Equal(t, n, applied, "durable exactly where it was said")
		require.Equal(t, []error{groupcommit.ErrBusy}, send(q, 1, "after the end")())
	})
}

// TestNobodyWaits: a job whose caller has gone is not begun.
func TestNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{gate: make(chan struct{})}
		q, stop := run(t, d.config())
		first := send(q, 1, "first")
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() { gone <- q.Do(ctx, 0, 1, "gone") }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-gone, context.Canceled)
		second := send(q, 1, "second")
		close(d.gate)
		require.Equal(t, make([]error, 1), first())
		require.Equal(t, make([]error, 1), second())
		require.Equal(t, [][]string{{"first"}, {"second"}}, d.sets)
		stop()
	})
}

// TestShards: keys that share a shard keep their order, others don't wait.
func TestShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		var mu sync.Mutex
		var done []string
		c := (&disk{}).config()
		c.Shards = 2
		c.Apply = func(_ context.Context, jobs ...string) error {
			if jobs[0] == "slow" {
				<-hold
			}
			mu.Lock()
			defer mu.Unlock()
			done = append(done, jobs...)
			return nil
		}
		q, stop := run(t, c)
		slow := send(q, 1, "slow", "behind it")
		require.NoError(t, q.Do(t.Context(), 1, 1, "elsewhere"))
		require.Equal(t, []string{"elsewhere"}, done)
		close(hold)
		require.Equal(t, make([]error, 2), slow())
		require.Equal(t, []string{"elsewhere", "slow", "behind it"}, done)
		stop()
	})
}
