package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/store/storedb"
)

// ErrLeaseLost says that somebody else has, or may by now have, the lease.
var ErrLeaseLost = errors.New("lease lost")

// LeaseConfig says which lease to hold and how.
type LeaseConfig struct {
	// Name is what is leased, such as "interceptor/<gateway>".
	Name string

	// Owner names this holder. A lease whose owner has this very name is taken
	// over at once, without waiting for it to expire: so the name must belong to
	// one living process at a time (a file lock on the data directory sees to
	// that on one machine). Two processes with one name can still never both
	// write, because each take-over raises the epoch.
	Owner string

	// TTL is how long others wait after the last sign of life (0: 6 s).
	TTL time.Duration

	// Margin is how much earlier than that the holder considers the lease lost;
	// it covers clocks that run at different speeds (0: a sixth of TTL).
	Margin time.Duration

	// RenewEvery is the time between renewals (0: a quarter of TTL).
	RenewEvery time.Duration

	// Now is the local clock, with a monotonic reading (nil: time.Now).
	Now func() time.Time
}

func (c LeaseConfig) withDefaults() (LeaseConfig, error) {
	if c.TTL == 0 {
		c.TTL = 6 * time.Second
	}
	if c.Margin == 0 {
		c.Margin = c.TTL / 6
	}
	if c.RenewEvery == 0 {
		c.RenewEvery = c.TTL / 4
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Name == "" || c.Owner == "" {
		return c, errors.New("a lease needs a name and an owner")
	}
	if c.TTL < 0 || c.Margin < 0 || c.RenewEvery <= 0 || c.Margin+c.RenewEvery >= c.TTL {
		return c, fmt.Errorf("lease %q: margin %s and renewal interval %s leave nothing of the TTL %s",
			c.Name, c.Margin, c.RenewEvery, c.TTL)
	}
	return c, nil
}

// LeaseInfo is a lease's row, for operators. Expires is the holder's wall-clock
// guess; no decision rests on it.
type LeaseInfo struct {
	Name, Owner string
	Epoch       int64
	Expires     time.Time
}

// LeaseInfo tells who holds a lease, or ErrNotFound when nobody ever did. Owner
// is empty when it was released.
func (db *DB) LeaseInfo(ctx context.Context, name string) (LeaseInfo, error) {
	var row storedb.StoreLease
	err := db.Read(ctx, func(ctx context.Context, tx *Tx) (err error) {
		row, err = storedb.New(tx).GetLease(ctx, name)
		return err
	})
	if err != nil {
		return LeaseInfo{}, fmt.Errorf("lease %q: %w", name, err)
	}
	return LeaseInfo{
		Name: row.Name, Owner: row.Owner, Epoch: row.Epoch, Expires: time.UnixMilli(row.ExpiresMs),
	}, nil
}

// Lease is a held lease. It renews itself until it is released or lost, and
// once lost stays lost: acquire again.
//
// Expiry needs no agreement between clocks: a contender takes over after it has
// seen, by its own monotonic clock, no renewal for the TTL; the holder counts
// its TTL from before it sent the last renewal that succeeded, less the margin,
// so it stops first.
type Lease struct {
	db     *DB
	cfg    LeaseConfig
	epoch  int64
	lost   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	renewed time.Time
	ended   bool
}

// AcquireLease waits until the lease is free, released, or unrenewed for its
// TTL, takes it, and starts renewing it. It returns ctx's error when ctx ends
// first. While the database is unavailable it goes on trying.
func (db *DB) AcquireLease(ctx context.Context, cfg LeaseConfig) (*Lease, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	listening, cancel := context.WithCancel(ctx)
	defer cancel()
	wake := db.Listen(listening, leaseTopic(cfg.Name))
	var (
		seen      storedb.StoreLease
		seenSince time.Time
	)
	for {
		if db.hasGoneBack() {
			return nil, fmt.Errorf("lease %q: %w", cfg.Name, ErrWentBack)
		}
		// Both ends are measured before the database is asked: the holder's
		// deadline, and the contender's last sighting as late as possible below.
		sent := cfg.Now()
		row, epoch, err := db.tryLease(ctx, cfg, seen, !seenSince.IsZero() && sent.Sub(seenSince) >= ttlOf(seen))
		if epoch != 0 {
			return db.startLease(cfg, epoch, sent), nil
		}
		now := cfg.Now()
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("lease %q: %w", cfg.Name, ctx.Err())
		case err != nil && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrConflict):
			return nil, fmt.Errorf("lease %q: %w", cfg.Name, err)
		case err != nil:
			db.log.Warn("lease not acquired, trying again", zap.String("lease", cfg.Name), zap.Error(err))
			// A holder that cannot reach the database cannot renew either; what
			// counts is TTL of seeing the row unchanged with the database there.
			seenSince = time.Time{}
		case seenSince.IsZero() || row.Epoch != seen.Epoch || row.Renewals != seen.Renewals:
			seen, seenSince = row, now
		}
		wait := cfg.RenewEvery
		if !seenSince.IsZero() {
			wait = max(min(wait, ttlOf(seen)-now.Sub(seenSince)), time.Millisecond)
		}
		select {
		case _, open := <-wake:
			if !open {
				wake = nil
			}
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func ttlOf(row storedb.StoreLease) time.Duration { return time.Duration(row.TtlMs) * time.Millisecond }

func leaseTopic(name string) string { return "lease/" + name }

// tryLease takes the lease if it may be taken and returns the new epoch, or
// else 0 and the row that is in the way.
func (db *DB) tryLease(ctx context.Context, cfg LeaseConfig, seen storedb.StoreLease, expired bool) (
	row storedb.StoreLease, epoch int64, err error,
) {
	expires := db.now().Add(cfg.TTL).UnixMilli()
	err = db.Write(ctx, func(ctx context.Context, tx *Tx) error {
		epoch = 0
		q := storedb.New(tx)
		if row, err = tx.lease(ctx, cfg.Name); err != nil {
			return err
		}
		tx.OnCommit(func() {
			if epoch != 0 {
				db.durable(cfg.Name, leaseMark{epoch: epoch, owner: cfg.Owner})
			}
		})
		if row.Name == "" {
			n, err := q.InsertLease(ctx, storedb.InsertLeaseParams{
				Name: cfg.Name, Owner: cfg.Owner, TtlMs: cfg.TTL.Milliseconds(), ExpiresMs: expires,
			})
			if n == 1 {
				epoch = 1
			}
			return err
		}
		unchanged := expired && row.Epoch == seen.Epoch && row.Renewals == seen.Renewals
		if row.Owner != "" && row.Owner != cfg.Owner && !unchanged {
			return nil
		}
		n, err := q.TakeLease(ctx, storedb.TakeLeaseParams{
			Owner: cfg.Owner, TtlMs: cfg.TTL.Milliseconds(), ExpiresMs: expires,
			Name: cfg.Name, Epoch: row.Epoch, Renewals: row.Renewals,
		})
		if n == 1 {
			epoch = row.Epoch + 1
		}
		return err
	})
	if err != nil {
		epoch = 0
	}
	return row, epoch, err
}

func (db *DB) startLease(cfg LeaseConfig, epoch int64, sent time.Time) *Lease {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Lease{
		db: db, cfg: cfg, epoch: epoch, renewed: sent,
		lost: make(chan struct{}), done: make(chan struct{}), cancel: cancel,
	}
	go l.run(ctx)
	go func() {
		select {
		case <-db.WentBack():
			// A renewal may be waiting for a connection that hangs.
			l.end("the database has gone back in time")
			cancel()
		case <-ctx.Done():
		}
	}()
	return l
}

// elapsed is, for the holder, the longer of the monotonic and the wall-clock time between
// two readings: a machine that slept has a monotonic clock that stood still. A contender
// counts by the monotonic clock alone, since a wall clock that is set forward must not
// have it take what its owner still has.
func elapsed(from, to time.Time) time.Duration {
	return max(to.Sub(from), to.Round(0).Sub(from.Round(0)))
}

func (l *Lease) left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || l.db.hasGoneBack() {
		return 0
	}
	return l.cfg.TTL - l.cfg.Margin - elapsed(l.renewed, l.cfg.Now())
}

// run renews until the lease is released, taken, or cannot be renewed in time.
func (l *Lease) run(ctx context.Context) {
	defer close(l.done)
	defer l.cancel()
	for {
		left := l.left()
		if left <= 0 {
			l.end("it could not be renewed in time")
			return
		}
		select {
		case <-ctx.Done():
			l.end("")
			return
		case <-time.After(min(l.cfg.RenewEvery, left)):
		}
		sent := l.cfg.Now()
		if left = l.left(); left <= 0 {
			continue
		}
		taken, err := l.renew(ctx, left)
		switch {
		case taken:
			l.end("somebody else has taken it")
			return
		case err != nil && ctx.Err() == nil:
			l.db.log.Warn("lease not renewed", zap.String("lease", l.cfg.Name), zap.Error(err))
			// Again soon, without turning a broken database into a busy loop.
			select {
			case <-time.After(min(l.cfg.RenewEvery/4, max(l.left(), 0))):
			case <-ctx.Done():
			}
		case err == nil:
			l.mu.Lock()
			l.renewed = sent
			l.mu.Unlock()
		}
	}
}

func (l *Lease) renew(ctx context.Context, within time.Duration) (taken bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err = l.db.Write(ctx, func(ctx context.Context, tx *Tx) error {
		row, err := tx.lease(ctx, l.cfg.Name)
		if err != nil {
			return err
		}
		if taken = row.Epoch != l.epoch || row.Owner == ""; taken {
			return nil
		}
		tx.OnCommit(func() { l.db.durable(l.cfg.Name, leaseMark{row.Epoch, row.Renewals + 1, row.Owner}) })
		return storedb.New(tx).RenewLease(ctx, storedb.RenewLeaseParams{
			ExpiresMs: l.db.now().Add(l.cfg.TTL).UnixMilli(), Name: l.cfg.Name, Epoch: l.epoch,
		})
	})
	return taken && err == nil, err
}

func (l *Lease) end(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended = true
	close(l.lost)
	if why != "" {
		l.db.log.Error("lease lost: "+why, zap.String("lease", l.cfg.Name), zap.Int64("epoch", l.epoch))
	}
}

// Name is the lease's name.
func (l *Lease) Name() string { return l.cfg.Name }

// Epoch is the fencing token: larger than every earlier holder's.
func (l *Lease) Epoch() int64 { return l.epoch }

// Valid tells whether the lease is certainly still ours. It asks the local
// clock only, so it is right even when the process was frozen until now.
func (l *Lease) Valid() bool { return l.left() > 0 }

// Lost is closed when the lease was lost or released.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Check fences a transaction: ErrLeaseLost unless the lease is valid and its
// row still has our epoch.
func (l *Lease) Check(ctx context.Context, tx *Tx) error {
	if !l.Valid() {
		return fmt.Errorf("lease %q, epoch %d: %w", l.cfg.Name, l.epoch, ErrLeaseLost)
	}
	return tx.CheckLease(ctx, l.cfg.Name, l.epoch)
}

// Release ends the lease and lets others take it at once. Call it after the
// work that it protects has stopped. If the database cannot be told, others wait
// for the TTL.
func (l *Lease) Release(ctx context.Context) error {
	l.cancel()
	<-l.done
	// Over an older copy it would hide from the next holder that it is one; then others
	// wait for the TTL, and find the mark.
	if l.db.hasGoneBack() {
		return nil
	}
	err := l.db.Write(ctx, func(ctx context.Context, tx *Tx) error {
		if _, err := tx.lease(ctx, l.cfg.Name); err != nil {
			return err
		}
		_, err := storedb.New(tx).ReleaseLease(ctx, storedb.ReleaseLeaseParams{Name: l.cfg.Name, Epoch: l.epoch})
		tx.Notify(leaseTopic(l.cfg.Name))
		return err
	})
	if err != nil {
		return fmt.Errorf("release lease %q: %w", l.cfg.Name, err)
	}
	return nil
}
