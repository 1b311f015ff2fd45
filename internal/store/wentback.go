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

// past is the latest that this process has had committed of each lease. A row of an
// earlier time, or with another owner at the same time, is proof that the database went
// back. Leases are renewed all the time, so that it is known within one renewal, or
// with the next fenced transaction if that comes first.
//
// What was only read is no proof: a primary shows what no replica has, and what nobody
// was told is durable.
type past struct {
	mu     sync.Mutex
	latest map[string]leaseMark
	why    string
	back   chan struct{}
}

// leaseMark is a lease's age, and whose it is then; later ones are larger.
type leaseMark struct {
	epoch, renewals int64
	owner           string
}

func (m leaseMark) before(o leaseMark) bool {
	return m.epoch < o.epoch || m.epoch == o.epoch && m.renewals < o.renewals
}

func (m leaseMark) String() string {
	if m == (leaseMark{}) {
		return "not there"
	}
	return fmt.Sprintf("take-over %d by %q, renewal %d", m.epoch, m.owner, m.renewals)
}

// WentBack is closed once the database was seen to have gone back. From then on this
// process has no lease and writes nothing but MarkRestored, which whoever waits for
// it calls, to end the process then and have it begin anew.
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

// durable notes a mark that this process has had committed.
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

// GoneBack takes note, for good, that the database has gone back, and is ErrWentBack.
// Why is for people.
func (db *DB) GoneBack(why string) error {
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

// lease reads a lease, and fails with ErrWentBack if it is not of a time at or after
// what was known before the transaction began. A lease that nobody ever had is the zero row.
func (tx *Tx) lease(ctx context.Context, name string) (storedb.StoreLease, error) {
	row, err := storedb.New(tx).GetLease(ctx, name)
	if err = MapError(err); err != nil && !errors.Is(err, ErrNotFound) {
		return row, err
	}
	known, found := tx.known[name], leaseMark{epoch: row.Epoch, renewals: row.Renewals, owner: row.Owner}
	stranger := found.epoch == known.epoch && found.owner != "" && found.owner != known.owner
	if found.before(known) || stranger {
		return row, tx.db.GoneBack(fmt.Sprintf("its lease %q was at %s, and is now at %s", name, known, found))
	}
	return row, nil
}

// checkPast fails with ErrWentBack if any lease of this process tells so.
func (tx *Tx) checkPast(ctx context.Context) error {
	for name := range tx.known {
		if _, err := tx.lease(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
