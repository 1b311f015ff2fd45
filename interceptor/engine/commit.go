package engine

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
)

// request is one change of the ledger: all of it or nothing. Requests that
// queue up share a transaction.
type request struct {
	// insert names recording offers whose rows are to be inserted.
	insert ln.CircuitKey
	isNew  bool
	// keys and change edit existing rows.
	keys   []ln.CircuitKey
	change func(interceptor.Row) (interceptor.Row, bool, error)
	// edit, when set, says that nobody waits: if its transaction fails, it is made again.
	edit *editOf
	// finished rows that memory no longer has, read beforehand.
	finished map[ln.CircuitKey]interceptor.Row
	// refusal rests on what others change in the same transaction: it is told
	// once that is committed.
	refusal error
	// done receives once; it has room for one.
	done chan error
}

// editOf is what an edit records, and of which HTLC. Two alike that queue up are one.
type editOf struct {
	key  ln.CircuitKey
	what string
}

// record queues the insertion of a recording offer (under mu).
func (e *Engine) record(t *tenure, key ln.CircuitKey) {
	p := t.recording[key]
	if p.queued {
		return
	}
	p.queued = true
	t.recording[key] = p
	t.requests = append(t.requests, &request{insert: key, isNew: true, done: make(chan error, 1)})
	wake(t.commit)
}

// edit queues a change that nobody waits for: something that has happened to an HTLC,
// which therefore is made again until it is committed (under mu).
func (e *Engine) edit(
	t *tenure, key ln.CircuitKey, what string, change func(interceptor.Row) (interceptor.Row, bool, error),
) {
	of := editOf{key, what}
	if _, queued := t.edits[of]; queued {
		return
	}
	t.edits[of] = struct{}{}
	t.requests = append(t.requests, &request{keys: []ln.CircuitKey{key}, change: change, edit: &of, done: make(chan error, 1)})
	wake(t.commit)
}

// submit queues a change and waits until it is committed or refused.
func (e *Engine) submit(
	ctx context.Context, keys []ln.CircuitKey, change func(interceptor.Row) (interceptor.Row, bool, error),
) error {
	r := &request{keys: keys, change: change, done: make(chan error, 1)}
	var missing []ln.CircuitKey
	e.mu.Lock()
	t := e.t
	if t == nil {
		e.mu.Unlock()
		return unavailable("this process does not own the interceptor", nil)
	}
	if !t.lease.Valid() {
		e.mu.Unlock()
		return unavailable("the lease is not valid", nil)
	}
	for _, key := range keys {
		if _, ok := t.rows[key]; !ok {
			missing = append(missing, key)
		}
	}
	e.mu.Unlock()
	if len(missing) > 0 {
		rows, err := e.cfg.Rows.Get(ctx, missing)
		if err != nil {
			return unavailable("the ledger cannot be read", err)
		}
		r.finished = make(map[ln.CircuitKey]interceptor.Row, len(rows))
		for _, row := range rows {
			r.finished[row.Key] = row
		}
	}
	e.mu.Lock()
	if e.t != t {
		e.mu.Unlock()
		return unavailable("this process no longer owns the interceptor", nil)
	}
	t.requests = append(t.requests, r)
	wake(t.commit)
	e.mu.Unlock()
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return unavailable("gave up waiting for the commit", ctx.Err())
	}
}

// commitLoop is the only writer of rows. Whatever has queued up while one
// transaction ran is the next one.
func (e *Engine) commitLoop(t *tenure) {
	failures := 0
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-t.commit:
		}
		for e.commitOnce(t, &failures) {
		}
	}
}

// commitOnce commits what is queued; it reports whether to look again at once.
func (e *Engine) commitOnce(t *tenure, failures *int) bool {
	if t.ctx.Err() != nil {
		return false
	}
	if !e.reread(t) {
		*failures++
		e.retry(t, *failures)
		return false
	}
	e.mu.Lock()
	requests := t.requests
	t.requests = nil
	clear(t.edits)
	epoch, valid := t.lease.Epoch(), t.lease.Valid()
	insert, update, accepted := e.prepare(t, requests)
	e.mu.Unlock()
	if len(accepted) == 0 {
		return false
	}
	var err error
	if !valid {
		err = interceptor.ErrLeaseLost
	} else if len(insert)+len(update) > 0 {
		err = e.cfg.Rows.Write(t.ctx, epoch, insert, update)
	}
	if err != nil {
		*failures++
		e.failed(t, accepted, update, err)
		e.retry(t, *failures)
		return false
	}
	*failures = 0
	e.mu.Lock()
	for _, r := range insert {
		e.inserted(t, r)
	}
	for _, r := range update {
		e.updated(t, r)
	}
	more := len(t.requests) > 0
	e.mu.Unlock()
	for _, r := range accepted {
		r.done <- r.refusal
	}
	return more
}

// prepare applies the requests to copies of the rows. One that is refused
// changes nothing, and is answered here unless it was refused for what another
// changes beside it (under mu).
func (e *Engine) prepare(t *tenure, requests []*request) (insert, update []interceptor.Row, accepted []*request) {
	edited := make(map[ln.CircuitKey]interceptor.Row)
	var order []ln.CircuitKey
	for _, req := range requests {
		if req.isNew {
			p, ok := t.recording[req.insert]
			if ok {
				insert = append(insert, p.row)
				accepted = append(accepted, req)
			}
			continue
		}
		mine := make(map[ln.CircuitKey]interceptor.Row)
		var refusal error
		uncommitted := false
		for _, key := range req.keys {
			row, ok := mine[key]
			if !ok {
				row, ok = edited[key]
				uncommitted = uncommitted || ok
			}
			if !ok {
				var en *entry
				if en, ok = t.rows[key]; ok {
					row = en.row
				} else {
					row, ok = req.finished[key]
				}
			}
			if !ok {
				refusal = &interceptor.RowError{Key: key, Err: interceptor.ErrUnknownRow}
				break
			}
			next, changed, err := req.change(row)
			if err != nil {
				refusal = err
				break
			}
			if changed {
				// Several changes in one transaction are one version.
				if next.Version = req.finished[key].Version + 1; t.rows[key] != nil {
					next.Version = t.rows[key].row.Version + 1
				}
				mine[key] = next
			}
		}
		if refusal != nil && !uncommitted {
			req.done <- refusal
			continue
		}
		if req.refusal = refusal; refusal != nil {
			accepted = append(accepted, req)
			continue
		}
		for key, row := range mine {
			if _, twice := edited[key]; !twice {
				order = append(order, key)
			}
			edited[key] = row
		}
		accepted = append(accepted, req)
	}
	for _, key := range order {
		update = append(update, edited[key])
	}
	// lnd is answered in this order: as the HTLCs came.
	slices.SortFunc(update, func(a, b interceptor.Row) int { return cmp.Compare(a.ID, b.ID) })
	return insert, update, accepted
}

// failed deals with a transaction that may or may not have happened: the rows
// are read again before anything is done about them.
func (e *Engine) failed(t *tenure, accepted []*request, update []interceptor.Row, err error) {
	if t.ctx.Err() == nil {
		e.log.Error("the ledger cannot be written", zap.Error(err))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range update {
		t.stale[r.Key] = struct{}{}
	}
	var again []*request
	for _, r := range accepted {
		invalid := errors.Is(err, interceptor.ErrInvalid)
		switch {
		case r.isNew && invalid:
			// It can never be recorded: lnd's auto-fail resolves it.
			e.log.Error("an HTLC cannot be recorded", zap.Stringer("key", r.insert), zap.Error(err))
			e.drop(t, r.insert)
		case r.isNew:
			again = append(again, r)
		case r.edit != nil && !invalid:
			if _, queued := t.edits[*r.edit]; !queued {
				t.edits[*r.edit] = struct{}{}
				again = append(again, r)
			}
		default:
			r.done <- unavailable("the ledger cannot be written; the outcome is not known", err)
		}
	}
	// What has happened comes before what was decided since.
	t.requests = append(again, t.requests...)
}

func (e *Engine) retry(t *tenure, failures int) {
	_ = pace.Pause(t.ctx, min(time.Second, 5*time.Millisecond<<min(failures, 8)))
	wake(t.commit)
}

// reread brings stale rows up to date; false while the database is away.
func (e *Engine) reread(t *tenure) bool {
	e.mu.Lock()
	keys := slices.Collect(maps.Keys(t.stale))
	e.mu.Unlock()
	if len(keys) == 0 {
		return true
	}
	rows, err := e.cfg.Rows.Get(t.ctx, keys)
	if err != nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, key := range keys {
		delete(t.stale, key)
	}
	for _, r := range rows {
		e.updated(t, r)
	}
	return true
}

// inserted takes a new row into memory (under mu).
func (e *Engine) inserted(t *tenure, r interceptor.Row) {
	p, ok := t.recording[r.Key]
	if !ok {
		return
	}
	delete(t.recording, r.Key)
	en := &entry{row: r, since: t.class.Begin(), checked: true, moved: p.moved}
	t.rows[r.Key] = en
	if p.gen == t.gen && !p.moved {
		// An offer that came since is judged with the row in view.
		if _, again := t.waiting[r.Key]; !again {
			offer := p.offer
			en.open = &offer
			e.wentOnChain(t, en)
		}
	}
	if en.moved && r.State == interceptor.StateHeld {
		e.movedBefore(t, en)
	}
	wake(t.list)
	if r.State.Decided() {
		t.soon = true
		e.deliver(r, interceptor.EventDecided)
		e.answer(t, en)
		return
	}
	e.deliver(r, interceptor.EventOffered)
}

// updated takes a committed change into memory and acts on it (under mu).
func (e *Engine) updated(t *tenure, r interceptor.Row) {
	en, ok := t.rows[r.Key]
	if !ok {
		// A finished row: only a late outcome or an acknowledgement.
		return
	}
	old := en.row
	if r.Version < old.Version {
		return
	}
	en.row = r
	if old.Undecided() && r.State.Decided() {
		t.held.remove(old)
		en.since = t.class.Begin()
		t.soon = t.soon || r.State != interceptor.StateResumed
		wake(t.list)
		e.deliver(r, interceptor.EventDecided)
	} else if old.State != r.State || r.OnChain && !old.OnChain && r.Undecided() {
		e.deliver(r, interceptor.EventOffered)
	}
	if en.moved && en.open != nil && r.State.Decided() && r.State != interceptor.StateSettled {
		// It may be ending: a listing tells.
		t.parked[r.Key], en.open = *en.open, nil
	}
	e.answer(t, en)
	if r.Gone() && (!old.Gone() || old.Outcome != r.Outcome) {
		e.deliver(r, interceptor.EventGone)
	}
	if !r.Live() {
		delete(t.rows, r.Key)
	}
}
