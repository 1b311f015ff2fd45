// Package engine runs the vault: it brings writes that arrive together into one
// commit, signs their receipts once they are durable, and lets go of what
// retention does not keep.
//
// It promises that a receipt is signed only after the commit it speaks of; that
// an identity's writes take place in the order in which they arrived here; and
// that whoever asks too often, or is new where there is no room, is refused
// without the database being asked for more than its row.
package engine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	backups "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/groupcommit"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
)

// Config says what the service allows and keeps.
type Config struct {
	Quota     vault.Quota
	Retention vault.Retention
	// LogEntries is how many entries of an identity's log can be shown.
	LogEntries int64
	// MaxIdentities and MaxBytes (history included) close the service for
	// identities that never wrote. Those that did go on within their quotas, and
	// from twice MaxBytes on replace and delete only: a full disk would stop
	// everybody's backups.
	MaxIdentities int64
	MaxBytes      int64
	// NewPerHour is how many identities may be new in an hour, NewPerAddress how
	// many of them from one address. Identities cost nothing, addresses something.
	NewPerHour    int
	NewPerAddress int
	// Rate is for each identity, reads and writes.
	Rate auth.Rate
	// Tracked is how many identities' rates are remembered at once.
	Tracked int
}

// Defaults suit some thousand wallets.
func Defaults() Config {
	return Config{
		Quota: vault.Quota{
			Bytes: 256 << 20, Objects: 10_000, ObjectBytes: 16 << 20, DayWrites: 100_000, DayBytes: 4 << 30, HistoryBytes: 512 << 20,
		},
		Retention: vault.Retention{Versions: 10, Days: 30}, LogEntries: 100_000,
		MaxIdentities: 10_000, MaxBytes: 10 << 30, NewPerHour: 500, NewPerAddress: 20,
		Rate: auth.Rate{PerSecond: 50, Burst: 500}, Tracked: 10_000,
	}
}

// Validate names the first setting that cannot work.
func (c Config) Validate() error {
	if err := c.Quota.Check(); err != nil {
		return err
	}
	switch {
	case c.Quota.ObjectBytes > c.Quota.Bytes || c.Quota.ObjectBytes > c.Quota.DayBytes:
		return errors.New("an object may be larger than what may be stored, or written in a day")
	case c.Retention.Versions < 0 || c.Retention.Days < 0:
		return errors.New("retention cannot be negative")
	case c.LogEntries < 1 || c.MaxIdentities < 1 || c.MaxBytes < 1 || c.NewPerHour < 1 || c.NewPerAddress < 1 || c.Tracked < 1:
		return errors.New("log entries, identities, bytes and new identities per hour must be at least 1")
	case !(c.Rate.PerSecond > 0) || c.Rate.Burst < 1:
		return errors.New("the rate of each identity must be positive")
	}
	return nil
}

// Options are what an engine needs.
type Options struct {
	DB     *store.DB
	Signer *vault.Signer
	Epoch  vault.Epoch
	Config Config
	// Binding is the gateway's node's signature of the signer's key
	// (vault.BindingText); empty if there is none.
	Binding string
	// Wrote hears of every write before its receipt is given; it must not wait.
	Wrote func()
	Now   func() time.Time
	Log   *zap.Logger
}

// Engine runs the vault. Its methods may be called once Run has begun.
type Engine struct {
	o        Options
	store    *backups.Store
	rates    *auth.Limiters
	newcomer *rate.Limiter
	newFrom  *auth.Limiters
	totals   atomic.Pointer[backups.Totals]
	queue    *groupcommit.Queue[*backups.Job]
	metrics  *Metrics
}

// How writes are brought together.
const (
	// batchJobs and batchBytes bound what one commit carries.
	batchJobs  = 64
	batchBytes = 8 << 20
	// queued bounds the writes that wait: beyond it the service is
	// busy, and says so at once instead of after a client's patience.
	queued = 1024
	// applyTimeout bounds one commit with its retries.
	applyTimeout = 30 * time.Second
)

// New makes an engine.
func New(o Options) (*Engine, error) {
	if err := o.Config.Validate(); err != nil {
		return nil, fmt.Errorf("backups: %w", err)
	}
	e := &Engine{
		o: o, store: backups.New(o.DB, o.Signer.Key()), rates: auth.NewLimiters(o.Config.Rate, o.Config.Tracked),
		newcomer: rate.NewLimiter(rate.Limit(float64(o.Config.NewPerHour)/time.Hour.Seconds()), o.Config.NewPerHour),
		newFrom:  auth.NewLimiters(auth.Rate{PerSecond: float64(o.Config.NewPerAddress) / time.Hour.Seconds(), Burst: o.Config.NewPerAddress}, o.Config.Tracked),
		metrics:  newMetrics(),
	}
	e.queue = groupcommit.New(e.commits())
	e.totals.Store(&backups.Totals{})
	return e, nil
}

// Key is the key of receipts.
func (e *Engine) Key() vault.ServerKey { return e.o.Signer.Key() }

// Binding is the node's signature of that key.
func (e *Engine) Binding() string { return e.o.Binding }

// Epoch is the present one.
func (e *Engine) Epoch() vault.Epoch { return e.o.Epoch }

// Config is what the engine was made with.
func (e *Engine) Config() Config { return e.o.Config }

// Run works until ctx ends. It is called once.
func (e *Engine) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return e.queue.Run(ctx) })
	group.Go(func() error { pace.Every(ctx, sumEvery, e.sum); return nil })
	group.Go(func() error { pace.Every(ctx, sweepEvery, e.sweep); return nil })
	return group.Wait()
}

// How often totals are summed up and history is looked after.
const (
	sumEvery   = 10 * time.Second
	sweepEvery = time.Minute
	// An identity is swept at most so often after it wrote, and at least so
	// often while it has history.
	sweepChanged = 10 * time.Minute
	sweepAny     = 24 * time.Hour
)

func (e *Engine) sum(ctx context.Context) {
	totals, err := e.store.Totals(ctx)
	if err != nil {
		if ctx.Err() == nil {
			e.o.Log.Warn("what is stored could not be summed up", zap.Error(err))
		}
		return
	}
	e.totals.Store(&totals)
}

func (e *Engine) sweep(ctx context.Context) {
	for {
		n, err := e.store.Sweep(ctx, backups.Sweeping{
			Retention: e.o.Config.Retention, Quota: e.o.Config.Quota, LogEntries: e.o.Config.LogEntries, ChangedAfter: sweepChanged, AnyAfter: sweepAny,
		})
		if err != nil && ctx.Err() == nil {
			e.o.Log.Warn("history was not swept; trying again", zap.Error(err))
		}
		if n == 0 || err != nil || ctx.Err() != nil {
			return
		}
	}
}

// Totals are what was stored a few seconds ago.
func (e *Engine) Totals() backups.Totals { return *e.totals.Load() }

// noGrowth says that the disk must not fill further.
func (e *Engine) noGrowth() bool {
	t := e.Totals()
	return t.Bytes+t.HistoryBytes >= 2*e.o.Config.MaxBytes
}

type addressKey struct{}

// From gives a context that says which address a call comes from
// (auth.AddressKey).
func From(ctx context.Context, address string) context.Context {
	return context.WithValue(ctx, addressKey{}, address)
}

// admitNewcomer lets an identity in that never wrote. The address pays first:
// one that is over its own allowance must not use up the allowance of all.
func (e *Engine) admitNewcomer(ctx context.Context) error {
	t := e.Totals()
	if t.Identities >= e.o.Config.MaxIdentities || t.Bytes+t.HistoryBytes >= e.o.Config.MaxBytes {
		return errkind.Wrap(errkind.Exhausted, vault.ErrQuota, "This server takes no new identities: it is full. Ask its operator, or use another.")
	}
	address, _ := ctx.Value(addressKey{}).(string)
	if !e.newFrom.Allow(address, e.o.Now()) || !e.newcomer.AllowN(e.o.Now(), 1) {
		return errkind.New(errkind.Exhausted, "Too many new identities in this hour: try again later.")
	}
	return nil
}

// admit charges an identity for one call.
func (e *Engine) admit(id vault.Identity) error {
	if !e.rates.Allow(string(id), e.o.Now()) {
		return errkind.New(errkind.Exhausted, "Too many calls: wait a second and call less often.")
	}
	return nil
}

// explain gives a database's failure its kind.
func explain(err error) error {
	switch {
	case err == nil, errkind.Of(err) != errkind.Internal:
		return err
	case errors.Is(err, store.ErrOutcomeUnknown), errors.Is(err, context.DeadlineExceeded):
		return errkind.Wrap(errkind.Unavailable, err, "It is unknown whether the write took place: read the version, and write again if it did not.")
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrConflict):
		return errkind.Wrap(errkind.Unavailable, err, "The store cannot be used now; nothing was changed: try again in a moment.")
	}
	return err
}
