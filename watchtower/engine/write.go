package engine

import (
	"context"
	"errors"
	"time"

	"github.com/lightningnetwork/lnd/watchtower/wtdb"
	"github.com/lightningnetwork/lnd/watchtower/wtserver"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/groupcommit"
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
	// one writer.
	postgresShards = 4
	// applyTimeout bounds one commit with its retries. lnd's client gives up after
	// 15 s; what is stored after that is acknowledged when it asks again.
	applyTimeout = 14 * time.Second
)

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
	j := &tower.Job{Tenant: d.tenant, Session: info}
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
	j := &tower.Job{Tenant: d.tenant, Update: update}
	err := d.e.do(j)
	d.e.metrics.count("update", err)
	if err != nil {
		return 0, err
	}
	return j.LastApplied, nil
}

// DeleteSession implements wtserver.DB.
func (d *DB) DeleteSession(id wtdb.SessionID) error {
	j := &tower.Job{Tenant: d.tenant, Delete: &id}
	err := d.e.do(j)
	d.e.metrics.count("delete", err)
	return err
}

// do waits for a job's commit and gives its refusal. lnd's server compares
// refusals: they stay what they are.
func (e *Engine) do(j *tower.Job) error {
	err := e.queue.Do(context.Background(), uint64(j.Tenant), 0, j) //nolint:gosec // ids count from 1
	if errors.Is(err, groupcommit.ErrBusy) {
		return errkind.Wrap(errkind.Unavailable, err, "The tower is busy; nothing was changed: try again in a moment.")
	}
	if err != nil {
		return err
	}
	return j.Refusal
}

// commits is how requests are brought together. A tenant's requests always share
// a shard, so that they don't conflict with each other.
func (e *Engine) commits() groupcommit.Config[*tower.Job] {
	c := groupcommit.Config[*tower.Job]{
		Jobs: batchJobs, Queued: queued, Timeout: applyTimeout,
		Apply: func(ctx context.Context, jobs ...*tower.Job) error {
			return e.store.Apply(ctx, e.o.Config.Terms, jobs...)
		},
		OneAtFault: func(err error) bool {
			return !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrConflict)
		},
		Observe: func(jobs int) { e.metrics.batch.Observe(float64(jobs)) },
		Log:     e.o.Log,
	}
	if e.o.DB.Engine() == store.Postgres {
		c.Shards = postgresShards
	}
	return c
}

// full says that the disk must not fill further.
func (e *Engine) full() bool { return e.Totals().Bytes >= e.o.Config.MaxBytes }
