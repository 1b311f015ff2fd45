package engine

import (
	"context"
	"fmt"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
)

// Decide implements interceptor.Ledger.
func (e *Engine) Decide(ctx context.Context, decisions []interceptor.Decision) error {
	keys := make([]ln.CircuitKey, 0, len(decisions))
	byKey := make(map[ln.CircuitKey]interceptor.Decision, len(decisions))
	for _, d := range decisions {
		if other, twice := byKey[d.Key]; twice && (other.Action != d.Action || other.ExtraFeeMsat != d.ExtraFeeMsat || other.Send != d.Send) {
			return fmt.Errorf("two different decisions about %s: %w", d.Key, interceptor.ErrInvalid)
		}
		byKey[d.Key] = d
		keys = append(keys, d.Key)
	}
	if len(keys) == 0 {
		return nil
	}
	if err := e.askBefore(ctx, decisions); err != nil {
		return err
	}
	return e.submit(ctx, keys, func(r interceptor.Row) (interceptor.Row, bool, error) {
		return e.decide(r, byKey[r.Key])
	})
}

// decide applies a decision to a row (under mu).
func (e *Engine) decide(r interceptor.Row, d interceptor.Decision) (interceptor.Row, bool, error) {
	moved := e.moved(r)
	why := ""
	switch {
	case moved:
		why = "lnd had already forwarded it"
	case e.distrusted(r):
		// It may have been resumed since the copy was made.
		why = "the database was restored"
	}
	if why != "" && refuses(d.Action) {
		d.Action = interceptor.ActionResume
		d.Reason = ln.Clip(why+": only resumed, not "+d.Reason, interceptor.MaxReason)
	}
	next, changed, err := r.Decide(d, e.cfg.Now())
	if changed && !moved && next.State != interceptor.StateFailed && next.State != interceptor.StateSettled &&
		e.height != 0 && r.BlocksLeft(e.height) <= 0 {
		return r, false, &interceptor.RowError{Key: r.Key, State: r.State, Err: interceptor.ErrDeadline}
	}
	return next, changed, err
}

func refuses(a interceptor.Action) bool {
	return a == interceptor.ActionFail || a == interceptor.ActionRefuseUnknown
}

// moved says that lnd has shown, or another client may have seen to it, that it has
// forwarded a held HTLC (under mu).
func (e *Engine) moved(r interceptor.Row) bool {
	if e.t == nil || r.State != interceptor.StateHeld {
		return false
	}
	en, ok := e.t.rows[r.Key]
	return ok && en.moved
}

// distrusted says that a held row is of a time before the database was replaced
// by an older copy of itself (under mu).
func (e *Engine) distrusted(r interceptor.Row) bool {
	if !e.cfg.DistrustRows || e.t == nil || r.State != interceptor.StateHeld {
		return false
	}
	en, ok := e.t.rows[r.Key]
	return ok && en.inherited
}

// Distrusted counts what is held of before the database was replaced by an older
// copy of itself; known is false while this process does not own the
// interceptor, or has not seen what lnd has.
func (e *Engine) Distrusted() (left int, known bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.t == nil || e.t.session == nil || !e.t.class.Ready() {
		return 0, false
	}
	for _, en := range e.t.rows {
		if !en.row.Gone() && e.distrusted(en.row) {
			left++
		}
	}
	return left, true
}

// askBefore asks lnd for payments of ours before anything is decided that would
// give up the HTLC they are paid from: before a first Fail or RefuseUnknown,
// and before a Resume of a row that this tenure did not write itself. What lnd
// is paying becomes paying here, and the decision is refused; a refusal is carried out
// once that payment has failed.
func (e *Engine) askBefore(ctx context.Context, decisions []interceptor.Decision) error {
	ask := make(map[ln.Hash][]ln.CircuitKey)
	refused := make(map[ln.CircuitKey]string)
	e.mu.Lock()
	if e.t == nil {
		e.mu.Unlock()
		return unavailable("this process does not own the interceptor", nil)
	}
	for _, d := range decisions {
		en, ok := e.t.rows[d.Key]
		if !ok || en.row.State != interceptor.StateHeld && !en.row.Adopted() || d.Action == interceptor.ActionSettle {
			continue
		}
		if refuses(d.Action) {
			refused[d.Key] = d.Reason
		}
		if d.Action == interceptor.ActionResume && en.checked {
			continue
		}
		ask[en.row.Hash] = append(ask[en.row.Hash], d.Key)
	}
	e.mu.Unlock()
	for hash, keys := range ask {
		paying, err := e.isPaying(ctx, hash)
		if err != nil {
			return err
		}
		if !paying {
			e.checked(keys)
			continue
		}
		if err := e.adopt(ctx, keys, refused); err != nil {
			return err
		}
		return &interceptor.RowError{Key: keys[0], State: interceptor.StatePaying, Err: interceptor.ErrPaying}
	}
	return nil
}

func (e *Engine) isPaying(ctx context.Context, hash ln.Hash) (bool, error) {
	p, err := e.cfg.Node.TrackPayment(ctx, hash)
	if err != nil {
		return false, unavailable("lnd does not say whether it is paying "+hash.Short(), err)
	}
	return p.State == ln.PaymentInFlight || p.State == ln.PaymentSucceeded || p.InFlight > 0, nil
}

func (e *Engine) checked(keys []ln.CircuitKey) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.t == nil {
		return
	}
	for _, key := range keys {
		if en, ok := e.t.rows[key]; ok {
			en.checked = true
		}
	}
}

const unexplained = "lnd has a payment of ours for this hash, which no record explained"

// adopt records a payment of ours that the ledger did not know of. Some of the HTLCs were
// refused, with a reason.
func (e *Engine) adopt(ctx context.Context, keys []ln.CircuitKey, refused map[ln.CircuitKey]string) error {
	e.log.Error("lnd is paying the hash of held HTLCs that no record says are being paid", zap.Stringers("keys", keys))
	return e.submit(ctx, keys, func(r interceptor.Row) (interceptor.Row, bool, error) {
		after, reason := interceptor.StateHeld, unexplained
		if why, is := refused[r.Key]; is {
			after, reason = interceptor.StateFailed, refusedText(why)
		}
		next, changed := r.Adopt(after, reason)
		return next, changed, nil
	})
}

// refusedText is the reason of an HTLC that was refused for another, and waits.
func refusedText(why string) string {
	return ln.Clip(why, interceptor.MaxReason-100) + "; refused once lnd's payment for this hash is over"
}

// MarkPaying implements interceptor.Ledger.
func (e *Engine) MarkPaying(ctx context.Context, keys []ln.CircuitKey, reason string) error {
	return e.submit(ctx, keys, func(r interceptor.Row) (interceptor.Row, bool, error) {
		if r.State == interceptor.StateHeld && e.height != 0 && r.BlocksLeft(e.height) <= 0 {
			return r, false, &interceptor.RowError{Key: r.Key, State: r.State, Err: interceptor.ErrDeadline}
		}
		return r.MarkPaying(reason)
	})
}

// MarkNotPaying implements interceptor.Ledger.
func (e *Engine) MarkNotPaying(ctx context.Context, keys []ln.CircuitKey, reason string) error {
	hashes := make(map[ln.Hash]ln.CircuitKey)
	e.mu.Lock()
	if e.t == nil {
		e.mu.Unlock()
		return unavailable("this process does not own the interceptor", nil)
	}
	for _, key := range keys {
		if en, ok := e.t.rows[key]; ok && en.row.State == interceptor.StatePaying {
			hashes[en.row.Hash] = key
		}
	}
	e.mu.Unlock()
	for hash, key := range hashes {
		paying, err := e.isPaying(ctx, hash)
		if err != nil {
			return err
		}
		if paying {
			return &interceptor.RowError{Key: key, State: interceptor.StatePaying, Err: interceptor.ErrPaying}
		}
	}
	return e.submit(ctx, keys, func(r interceptor.Row) (interceptor.Row, bool, error) {
		return r.MarkNotPaying(reason)
	})
}

// Acknowledge implements interceptor.Ledger.
func (e *Engine) Acknowledge(ctx context.Context, keys []ln.CircuitKey) error {
	if len(keys) == 0 {
		return nil
	}
	return e.submit(ctx, keys, func(r interceptor.Row) (interceptor.Row, bool, error) {
		if r.Acked || !r.Gone() {
			return r, false, nil
		}
		r.Acked = true
		r.Version++
		return r, true, nil
	})
}

// Rows implements interceptor.Ledger.
func (e *Engine) Rows(ctx context.Context, f interceptor.RowFilter) ([]interceptor.Row, error) {
	return e.cfg.Rows.List(ctx, f)
}

// refuseLoop fails new HTLCs that cannot be held. lnd is asked first, as before
// every first FAIL, unless the HTLC itself shows that no payment of ours rests on
// it (see unpayable).
func (e *Engine) refuseLoop(t *tenure) {
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-t.refuse:
		}
		e.mu.Lock()
		queue := t.refusals
		t.refusals = nil
		e.mu.Unlock()
		for i, key := range queue {
			if err := e.refuseOne(t, key); err != nil {
				if t.ctx.Err() != nil {
					return
				}
				e.log.Warn("an HTLC cannot be refused yet", zap.Stringer("key", key), zap.Error(err))
				e.mu.Lock()
				t.refusals = append(t.refusals, queue[i:]...)
				e.mu.Unlock()
				_ = pace.Pause(t.ctx, e.cfg.PollSoon)
				wake(t.refuse)
				break
			}
		}
	}
}

// unpayable says that no payment of ours can be paid from an HTLC that is refused as it
// came. Such a payment is sent only after its HTLC is on record as paying (law 4), and
// this one never was on any: lnd added it after this tenure's first listing, so that no
// predecessor was offered it, whatever a restored database has forgotten, and no handler
// of this tenure has heard of it. If lnd is paying its hash all the same, that payment
// rests on something else: a hold invoice, another HTLC, a swap. Were such HTLCs kept
// until it is over, whoever knows the hash of one that lasts could fill a channel's slots
// past every limit.
func (e *Engine) unpayable(t *tenure, p pendingRow) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return p.refused && !t.class.Inherited(p.row.Key)
}

func (e *Engine) refuseOne(t *tenure, key ln.CircuitKey) error {
	e.mu.Lock()
	p, ok := t.recording[key]
	e.mu.Unlock()
	if !ok || p.queued {
		return nil
	}
	var paying bool
	var err error
	if !e.unpayable(t, p) {
		if paying, err = e.isPaying(t.ctx, p.row.Hash); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if p, ok = t.recording[key]; !ok || p.queued {
		return nil
	}
	var changed bool
	row := p.row
	switch {
	case p.moved:
		row, changed = row.Moved(e.cfg.Now())
	case paying:
		row, changed = row.Adopt(interceptor.StateFailed, refusedText(row.Reason))
	default:
		row, changed, err = row.Decide(interceptor.Decision{
			Key: key, Action: interceptor.ActionFail, Reason: row.Reason,
		}, e.cfg.Now())
	}
	if err != nil || !changed {
		return err
	}
	if row.State.Decided() {
		t.held.remove(p.row)
	}
	row.Version = 1
	p.row = row
	t.recording[key] = p
	e.record(t, key)
	return nil
}
