package engine

import (
	"context"
	"errors"

	"go.uber.org/zap"

	backups "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// job is a write that waits for its commit.
type job struct {
	backups.Job
	ctx  context.Context //nolint:containedctx // its caller's: a job nobody waits for any more is not begun
	size int
	done chan error
}

// Put writes and gives the receipt once the write is durable. When ctx ends
// before, the write may or may not take place.
func (e *Engine) Put(ctx context.Context, id vault.Identity, w vault.Write) (vault.Receipt, error) {
	if err := e.admit(id); err != nil {
		return vault.Receipt{}, err
	}
	if err := w.Check(); err != nil {
		return vault.Receipt{}, err
	}
	admitted := false
	newcomer := func() error {
		// A transaction may run several times; who was let in once pays once.
		if admitted {
			return nil
		}
		err := e.admitNewcomer(ctx)
		admitted = err == nil
		return err
	}
	j := &job{Job: backups.Job{Identity: id, Write: w, Newcomer: newcomer}, ctx: ctx, done: make(chan error, 1)}
	for _, item := range w.Puts {
		j.size += len(item.Value)
	}
	select {
	case e.queue <- j:
	default:
		return vault.Receipt{}, errBusy()
	}
	var err error
	select {
	case err = <-j.done:
	case <-ctx.Done():
		// The job is the worker's from here on.
		return vault.Receipt{}, ctx.Err()
	case <-e.stopped:
		// Every worker has answered what it took; this one nobody took.
		select {
		case err = <-j.done:
		default:
			err = errBusy()
		}
	}
	e.metrics.count(err)
	if err != nil {
		return vault.Receipt{}, explain(err)
	}
	return e.o.Signer.Receipt(j.Plan, e.o.Epoch, e.o.Now())
}

func errBusy() error {
	return errkind.New(errkind.Unavailable, "The store is busy; nothing was changed: try again in a moment.")
}

// work commits jobs until ctx ends.
func (e *Engine) work(ctx context.Context, queue <-chan *job) {
	var carried *job
	for {
		var batch []*job
		if carried != nil {
			batch, carried = append(batch, carried), nil
		} else {
			select {
			case <-ctx.Done():
				e.refuse(queue)
				return
			case j := <-queue:
				batch = append(batch, j)
			}
		}
		size := batch[0].size
	collect:
		for len(batch) < batchJobs {
			select {
			case j := <-queue:
				if size+j.size > batchBytes {
					carried = j
					break collect
				}
				batch, size = append(batch, j), size+j.size
			default:
				break collect
			}
		}
		e.commit(ctx, batch)
	}
}

// refuse answers what still waits when the service stops.
func (e *Engine) refuse(queue <-chan *job) {
	for {
		select {
		case j := <-queue:
			j.done <- errBusy()
		default:
			return
		}
	}
}

// commit applies jobs together. If that fails for a reason that may lie in one
// of them, each is tried by itself.
func (e *Engine) commit(ctx context.Context, batch []*job) {
	live := batch[:0]
	for _, j := range batch {
		if j.ctx.Err() != nil {
			j.done <- j.ctx.Err()
			continue
		}
		live = append(live, j)
	}
	if len(live) == 0 {
		return
	}
	// What was begun is finished even while the service stops: its callers get
	// their receipts.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancel()
	e.metrics.batch.Observe(float64(len(live)))
	err := e.apply(ctx, live...)
	if err != nil && len(live) > 1 && errkind.Of(explain(err)) == errkind.Internal {
		e.o.Log.Error("writes failed together; each is tried by itself", zap.Int("writes", len(live)), zap.Error(err))
		for _, j := range live {
			err := e.apply(ctx, j)
			j.done <- errors.Join(err, j.Refusal)
		}
		return
	}
	for _, j := range live {
		if err != nil {
			j.done <- err
		} else {
			j.done <- j.Refusal
		}
	}
}

func (e *Engine) apply(ctx context.Context, jobs ...*job) error {
	list := make([]*backups.Job, 0, len(jobs))
	for _, j := range jobs {
		list = append(list, &j.Job)
	}
	return e.store.Apply(ctx, backups.Terms{Quota: e.o.Config.Quota, NoGrowth: e.noGrowth()}, list...)
}
