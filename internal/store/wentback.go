package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/store/storedb"
)

// ErrWentBack says that the database has forgotten what it had told this process was
// durable: it was restored from an older copy while it was in use, or a replica that
// had not got everything has taken its place. It is ErrLeaseLost too: whoever held a
// lease has none.
var ErrWentBack = fmt.Errorf("the database has gone back in time while it was in use: %w", ErrLeaseLost)

// past is the latest that this process knows to be durable of each lease. A row of
// an earlier time is proof that the database went back, and leases are renewed all
// the time, so that it is known within one renewal, or with the next fenced
// transaction if that comes first.
type past struct {
	mu     sync.Mutex
	latest map[string]leaseMark
	why    string
	back   chan struct{}
}

// leaseMark is a lease's age; later ones are larger.
type leaseMark struct{ epoch, renewals int64 }

func (m leaseMark) before(o leaseMark) bool {
	return m.epoch < o.epoch || m.epoch == o.epoch && m.renewals < o.renewals
}

func later(a, b leaseMark) leaseMark {
	if a.before(b) {
		return b
	}
	return a
}

func markOf(row storedb.StoreLease) leaseMark { return leaseMark{row.Epoch, row.Renewals} }

// WentBack is closed once the database was seen to have gone back. Nothing is
// leased from then on: whoever waits for it says so in the database (MarkRestored),
// ends the process, and has it begin anew.
func (db *DB) WentBack() <-chan struct{} { return db.past.back }

// WhyWentBack is how that was seen, for people; "" is never.
func (db *DB) WhyWentBack() string {
	db.past.mu.Lock()
	defer db.past.mu.Unlock()
	return db.past.why
}

// known is the latest mark of each lease, never to be changed. What a transaction must
// not be older than is asked before it begins.
func (db *DB) known() map[string]leaseMark {
	db.past.mu.Lock()
	defer db.past.mu.Unlock()
	return db.past.latest
}

// durable notes a mark that was committed or read.
func (db *DB) durable(name string, m leaseMark) {
	db.past.mu.Lock()
	defer db.past.mu.Unlock()
	if !db.past.latest[name].before(m) {
		return
	}
	latest := make(map[string]leaseMark, len(db.past.latest)+1)
	maps.Copy(latest, db.past.latest)
	latest[name] = m
	db.past.latest = latest
}

// wentBack takes note of it, for good.
func (db *DB) wentBack(why string) error {
	db.past.mu.Lock()
	first := db.past.why == ""
	if first {
		db.past.why = why
		close(db.past.back)
	}
	db.past.mu.Unlock()
	if first {
		db.log.Error("the database has gone back in time while it was in use", zap.String("because", why))
	}
	return ErrWentBack
}

func (db *DB) hasGoneBack() bool {
	select {
	case <-db.past.back:
		return true
	default:
		return false
	}
}

// lease reads a lease, and fails with ErrWentBack if it is older than what was known
// before the transaction began, which holder may know better. A lease that nobody ever
// had has the zero mark.
func (tx *Tx) lease(ctx context.Context, name string, holder leaseMark) (storedb.StoreLease, error) {
	row, err := storedb.New(tx).GetLease(ctx, name)
	if err = MapError(err); err != nil && !errors.Is(err, ErrNotFound) {
		return row, err
	}
	known := later(tx.known[name], holder)
	if found := markOf(row); found.before(known) {
		return row, tx.db.wentBack(fmt.Sprintf("its lease %q was at take-over %d, renewal %d, and is now at take-over %d, renewal %d",
			name, known.epoch, known.renewals, found.epoch, found.renewals))
	}
	return row, nil
}
