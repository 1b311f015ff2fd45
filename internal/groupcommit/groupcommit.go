// Package groupcommit brings writes that arrive together into one commit: waiting
// for the disk is most of what a small write costs, and many can wait at once.
//
// It promises that Do returns nil only once Apply has returned nil for a set with
// the job in it; that the jobs of a shard are applied in the order in which they
// arrived, each at most once unless Apply said that it failed; that what was begun
// is finished while the service stops, and what was not begun is refused; and that
// a job which makes the others of its set fail is found and fails alone.
package groupcommit

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// ErrBusy says that too many jobs wait, or the service is stopping. The job was
// not begun.
var ErrBusy = errors.New("too many writes wait")

// Config says how jobs are brought together.
type Config[J any] struct {
	// Shards is how many commits may be under way at once; 1 if it is 0.
	Shards int
	// Jobs and Bytes bound what one commit carries; Bytes 0 does not. A larger job
	// goes by itself.
	Jobs, Bytes int
	// Queued bounds the jobs that wait for a shard: beyond it a caller hears so at
	// once, instead of after its patience.
	Queued int
	// Timeout bounds one commit with its retries.
	Timeout time.Duration
	// Apply makes jobs durable, all or none, in their order. What it refuses of a
	// job is that job's to remember.
	Apply func(ctx context.Context, jobs ...J) error
	// OneAtFault says of an error that it may lie in one of the jobs: then each is
	// tried by itself.
	OneAtFault func(error) bool
	// Observe hears how many jobs share a commit.
	Observe func(jobs int)
	Log     *zap.Logger
}

// Queue is where jobs wait for their commit.
type Queue[J any] struct {
	c       Config[J]
	shards  []chan *waiting[J]
	stopped chan struct{}
}

// waiting is a job on its way.
type waiting[J any] struct {
	job  J
	size int
	ctx  context.Context //nolint:containedctx // its caller's: a job nobody waits for any more is not begun
	done chan error
}

// New makes a queue. Jobs wait until Run.
func New[J any](c Config[J]) *Queue[J] {
	q := &Queue[J]{c: c, stopped: make(chan struct{})}
	for range max(1, c.Shards) {
		q.shards = append(q.shards, make(chan *waiting[J], c.Queued))
	}
	return q
}

// Do waits for a job's commit. Jobs of one key share a shard. If ctx ends before,
// the job may or may not be applied, and belongs to the queue from then on.
func (q *Queue[J]) Do(ctx context.Context, key uint64, size int, job J) error {
	w := &waiting[J]{job: job, size: size, ctx: ctx, done: make(chan error, 1)}
	select {
	case q.shards[key%uint64(len(q.shards))] <- w:
	default:
		return ErrBusy
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-q.stopped:
		// Every worker has answered what it took; this one nobody took.
		select {
		case err := <-w.done:
			return err
		default:
			return ErrBusy
		}
	}
}

// Run commits until ctx ends. It is called once.
func (q *Queue[J]) Run(ctx context.Context) error {
	defer close(q.stopped)
	var group errgroup.Group
	for _, shard := range q.shards {
		group.Go(func() error { q.work(ctx, shard); return nil })
	}
	return group.Wait()
}

func (q *Queue[J]) work(ctx context.Context, shard <-chan *waiting[J]) {
	var carried *waiting[J]
	for {
		first := carried
		if first == nil {
			select {
			case <-ctx.Done():
				refuse(shard)
				return
			case first = <-shard:
			}
		}
		var set []*waiting[J]
		set, carried = q.gather(first, shard)
		q.commit(ctx, set)
	}
}

// gather takes what waits already: nobody waits for others to come, since those
// that do meanwhile share the next commit. carried is one too many.
func (q *Queue[J]) gather(first *waiting[J], shard <-chan *waiting[J]) (set []*waiting[J], carried *waiting[J]) {
	set, size := append(set, first), first.size
	for len(set) < q.c.Jobs {
		select {
		case w := <-shard:
			if size += w.size; q.c.Bytes > 0 && size > q.c.Bytes {
				return set, w
			}
			set = append(set, w)
		default:
			return set, nil
		}
	}
	return set, nil
}

// refuse answers what still waits when the service stops.
func refuse[J any](shard <-chan *waiting[J]) {
	for {
		select {
		case w := <-shard:
			w.done <- ErrBusy
		default:
			return
		}
	}
}

func (q *Queue[J]) commit(ctx context.Context, set []*waiting[J]) {
	live, jobs := set[:0], make([]J, 0, len(set))
	for _, w := range set {
		if err := w.ctx.Err(); err != nil {
			w.done <- err
			continue
		}
		live, jobs = append(live, w), append(jobs, w.job)
	}
	if len(live) == 0 {
		return
	}
	// What was begun is finished even while the service stops: its callers hear
	// what became of it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.c.Timeout)
	defer cancel()
	if q.c.Observe != nil {
		q.c.Observe(len(live))
	}
	err := q.c.Apply(ctx, jobs...)
	if err != nil && len(live) > 1 && ctx.Err() == nil && q.c.OneAtFault(err) {
		q.c.Log.Error("writes failed together; each is tried by itself", zap.Int("writes", len(live)), zap.Error(err))
		for _, w := range live {
			w.done <- q.c.Apply(ctx, w.job)
		}
		return
	}
	if err != nil {
		q.c.Log.Warn("writes could not be stored; their callers were told", zap.Int("writes", len(live)), zap.Error(err))
	}
	for _, w := range live {
		w.done <- err
	}
}
