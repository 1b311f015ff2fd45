package engine

import (
	"context"
	"errors"
	"time"

	"github.com/lightningnetwork/lnd/watchtower/wtdb"
	"github.com/lightningnetwork/lnd/watchtower/wtserver"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/store"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
)

// How requests are brought together.
const (
	// batchJobs bounds what one commit carries.
	batchJobs = 64
	// queued bounds the requests that wait for a shard: beyond it the tower is
	// busy, and clients try again.
	queued = 1024
	// postgresShards is how many commits are under way at once there; SQLite has
	// one writer. A tenant's requests always share a shard, so that they don't
	// conflict with each other.
	postgresShards = 4
	// applyTimeout bounds one commit with its retries. lnd's client gives up after
	// 15 s; what is stored after that is acknowledged when it asks again.
	applyTimeout = 14 * time.Second
)

// job is a request that waits for its commit.
type job struct {
	tower.Job
	done chan error
}

// DB is lnd's tower database for one tenant.
type DB struct {
	e      *Engine
	tenant int64
}

var _ wtserver.DB = (*DB)(nil)

// DB gives a tenant's database.
func (e *Engine) DB(tenant int64) *DB { return &DB{e: e, tenant: tenant} }

// InsertSessionInfo implements wtserver.DB.
func (d *DB) InsertSessionInfo(info *wtdb.SessionInfo) error {
	if d.e.full() {
		return errkind.New(errkind.Exhausted, "The tower is full: it takes no new sessions.")
	}
	j := &job{Job: tower.Job{Tenant: d.tenant, Session: info}}
	err := d.e.do(j)
	d.e.metrics.count("session", err)
	return err
}

// GetSessionInfo implements wtserver.DB.
func (d *DB) GetSessionInfo(id *wtdb.SessionID) (*wtdb.SessionInfo, error) {
	ctx, cancel := context.WithTimeout(context.Background(), applyTimeout)
	defer cancel()
	return d.e.store.Session(ctx, d.tenant, *id)
}

// InsertStateUpdate implements wtserver.DB.
func (d *DB) InsertStateUpdate(update *wtdb.SessionStateUpdate) (uint16, error) {
	j := &job{Job: tower.Job{Tenant: d.tenant, Update: update}}
	err := d.e.do(j)
	d.e.metrics.count("update", err)
	if err != nil {
		return 0, err
	}
	return j.LastApplied, nil
}

// DeleteSession implements wtserver.DB.
func (d *DB) DeleteSession(id wtdb.SessionID) error {
	j := &job{Job: tower.Job{Tenant: d.tenant, Delete: &id}}
	err := d.e.do(j)
	d.e.metrics.count("delete", err)
	return err
}

func errBusy() error {
	return errkind.New(errkind.Unavailable, "The tower is busy; nothing was changed: try again in a moment.")
}

// do waits for a job's commit and gives its refusal.
func (e *Engine) do(j *job) error {
	j.done = make(chan error, 1)
	select {
	case e.shards[int(j.Tenant)%len(e.shards)] <- j:
	default:
		return errBusy()
	}
	select {
	case err := <-j.done:
		return err
	case <-e.stopped:
		// Every worker has answered what it took; this one nobody took.
		select {
		case err := <-j.done:
			return err
		default:
			return errBusy()
		}
	}
}

// work commits a shard's jobs until ctx ends.
func (e *Engine) work(ctx context.Context, queue <-chan *job) {
	for {
		var batch []*job
		select {
		case <-ctx.Done():
			e.refuse(queue)
			return
		case j := <-queue:
			batch = append(batch, j)
		}
	collect:
		for len(batch) < batchJobs {
			select {
			case j := <-queue:
				batch = append(batch, j)
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

// commit applies jobs together. If that fails for a reason that may lie in one of
// them, each is tried by itself.
func (e *Engine) commit(ctx context.Context, batch []*job) {
	// What was begun is finished even while the service stops.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancel()
	e.metrics.batch.Observe(float64(len(batch)))
	err := e.apply(ctx, batch...)
	if err != nil && len(batch) > 1 && !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrConflict) && ctx.Err() == nil {
		e.o.Log.Error("requests failed together; each is tried by itself", zap.Int("requests", len(batch)), zap.Error(err))
		for _, j := range batch {
			if err := e.apply(ctx, j); err != nil {
				j.done <- err
			} else {
				j.done <- j.Refusal
			}
		}
		return
	}
	if err != nil {
		e.o.Log.Warn("requests could not be stored; their clients try again", zap.Int("requests", len(batch)), zap.Error(err))
	}
	for _, j := range batch {
		if err != nil {
			j.done <- err
		} else {
			// lnd's server compares refusals: they stay what they are.
			j.done <- j.Refusal
		}
	}
}

func (e *Engine) apply(ctx context.Context, jobs ...*job) error {
	list := make([]*tower.Job, 0, len(jobs))
	for _, j := range jobs {
		list = append(list, &j.Job)
	}
	return e.store.Apply(ctx, e.o.Config.Terms, list...)
}

// full says that the disk must not fill further.
func (e *Engine) full() bool { return e.Totals().Bytes >= e.o.Config.MaxBytes }
