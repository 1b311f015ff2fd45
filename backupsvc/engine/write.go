package engine

import (
	"context"
	"errors"

	backups "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/groupcommit"
)

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
	j := &backups.Job{Identity: id, Write: w, Newcomer: newcomer}
	size := 0
	for _, item := range w.Puts {
		size += len(item.Value)
	}
	err := e.queue.Do(ctx, 0, size, j)
	if err == nil {
		err = j.Refusal
	}
	switch {
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		// The job is the queue's from here on.
		return vault.Receipt{}, err
	case errors.Is(err, groupcommit.ErrBusy):
		err = errkind.Wrap(errkind.Unavailable, err, "The store is busy; nothing was changed: try again in a moment.")
	}
	e.metrics.count(err)
	if err != nil {
		return vault.Receipt{}, explain(err)
	}
	if e.o.Wrote != nil {
		e.o.Wrote()
	}
	return e.o.Signer.Receipt(j.Plan, e.o.Epoch, e.o.Now())
}

// commits is how writes are brought together. There is one commit at a time, on
// PostgreSQL too: serializable transactions on the same few tables conflict, and
// one that carries many writes is faster than several that try again.
func (e *Engine) commits() groupcommit.Config[*backups.Job] {
	return groupcommit.Config[*backups.Job]{
		Jobs: batchJobs, Bytes: batchBytes, Queued: queued, Timeout: applyTimeout,
		Apply: func(ctx context.Context, jobs ...*backups.Job) error {
			return e.store.Apply(ctx, backups.Terms{Quota: e.o.Config.Quota, NoGrowth: e.noGrowth()}, jobs...)
		},
		OneAtFault: func(err error) bool { return errkind.Of(explain(err)) == errkind.Internal },
		Observe:    func(jobs int) { e.metrics.batch.Observe(float64(jobs)) },
		Log:        e.o.Log,
	}
}
