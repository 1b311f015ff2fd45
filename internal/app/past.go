package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
)

const (
	// markWithin is less than a service manager's patience with a process that is to stop.
	markWithin = 5 * time.Second
	// lookForMarks is by when a process knows that another has found the database older.
	lookForMarks = 2 * time.Second
)

// watchPast ends this process if the database goes back in time while it is in use,
// whoever finds it. What is in memory is of a time that the database knows nothing of,
// so that it must begin anew. The leases have ended by then, and nothing is written any
// more but the mark, which comes first: the next start could not tell a copy of a moment
// ago from the present.
func (d *Daemon) watchPast(ctx context.Context) error {
	ticker := time.NewTicker(lookForMarks)
	defer ticker.Stop()
	for d.db.WhyWentBack() == "" {
		select {
		case <-ctx.Done():
			return nil // Run looks once more
		case <-d.db.WentBack():
		case <-ticker.C:
			if err := d.lookForMarks(ctx); err != nil && ctx.Err() == nil {
				d.log.Debug("whether another process found the database older could not be read", zap.Error(err))
			}
		}
	}
	for {
		err := d.markPast(context.WithoutCancel(ctx))
		if errors.Is(err, store.ErrWentBack) || ctx.Err() != nil {
			return err
		}
		d.log.Error("that the database went back could not be noted in it; nothing is decided meanwhile", zap.Error(err))
		_ = pace.Pause(ctx, time.Second)
	}
}

// markPast notes a restore under this process, and is then store.ErrWentBack; nil is that there was
// none. The generation file comes first: with it the next start knows, also if the database cannot be told.
func (d *Daemon) markPast(ctx context.Context) error {
	why := d.db.WhyWentBack()
	if why == "" || d.marked {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, markWithin)
	defer cancel()
	if err := store.Outdate(d.path(fileGeneration)); err != nil {
		return fmt.Errorf("it went back (%s): %w", why, err)
	}
	if _, err := d.markRestored(ctx, "it went back while sluiced used it: "+why); err != nil {
		return err
	}
	d.marked = true
	return fmt.Errorf("%w: %s. Start sluiced again: it asks lnd about all that it finds before it decides anything", store.ErrWentBack, why)
}

// lookForMarks finds out whether another process has found the database older since this
// one began.
func (d *Daemon) lookForMarks(ctx context.Context) error {
	before := d.trusting.Load()
	if before == nil {
		return nil // not begun yet
	}
	roles, err := store.RestoredRoles(ctx, d.db)
	if err != nil {
		return err
	}
	for _, r := range roles {
		if since, known := (*before)[r.Role]; !known || !since.Equal(r.Since) {
			return d.db.GoneBack("another process found so: " + r.Reason)
		}
	}
	return nil
}

// acquire gets a lease for a process that has begun with the database as it is. One
// that waited while another found the database older does not take over what the other
// would have distrusted: it begins anew.
func (d *Daemon) acquire(
	ctx context.Context, from func(context.Context, store.LeaseConfig) (*store.Lease, error), cfg store.LeaseConfig,
) (*store.Lease, error) {
	for {
		lease, err := from(ctx, cfg)
		if err != nil {
			return nil, err
		}
		for lease.Valid() {
			if err = d.lookForMarks(ctx); err == nil {
				return lease, nil
			}
			if errors.Is(err, store.ErrWentBack) || ctx.Err() != nil {
				break
			}
			_ = pace.Pause(ctx, 100*time.Millisecond)
		}
		giveBack, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		releaseErr := lease.Release(giveBack)
		cancel()
		if errors.Is(err, store.ErrWentBack) || ctx.Err() != nil {
			return nil, errors.Join(err, releaseErr)
		}
	}
}
