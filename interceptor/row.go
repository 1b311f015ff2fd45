package interceptor

import (
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// State is where a held HTLC stands; it is stored as this text.
type State string

// The states. Held and paying are undecided. Lapsed means that lnd resolved
// the HTLC without a decision of ours (it failed it at its auto-fail height,
// or its channel went away).
const (
	StateHeld           State = "held"
	StatePaying         State = "paying"
	StateResumed        State = "resumed"
	StateRefusedUnknown State = "refused_unknown"
	StateFailed         State = "failed"
	StateSettled        State = "settled"
	StateLapsed         State = "lapsed"
)

// Decided reports a terminal state: only the outcome may still become known.
func (s State) Decided() bool {
	switch s {
	case StateResumed, StateRefusedUnknown, StateFailed, StateSettled, StateLapsed:
		return true
	case StateHeld, StatePaying:
	}
	return false
}

// Valid reports a known state.
func (s State) Valid() bool { return s == StateHeld || s == StatePaying || s.Decided() }

// Outcome is how the incoming HTLC ended.
type Outcome string

// The outcomes. Settled: the gateway was paid. Failed: the payer got it back.
const (
	OutcomeUnknown Outcome = ""
	OutcomeSettled Outcome = "settled"
	OutcomeFailed  Outcome = "failed"
)

// Row is the record of one HTLC that was held, or refused by the interceptor
// itself. Rows are written before anything is sent (law 2).
type Row struct {
	// ID orders rows by arrival; it is given by the store.
	ID             int64
	Key            ln.CircuitKey
	Hash           ln.Hash
	IncomingMsat   ln.Msat
	OutgoingMsat   ln.Msat
	IncomingExpiry uint32
	OutgoingExpiry uint32
	OutgoingSCID   ln.SCID
	// AutoFailHeight is where lnd fails it by itself. FailHeight is earlier by
	// the safety margin: there the interceptor fails it, unless paying.
	AutoFailHeight uint32
	FailHeight     uint32
	// OfferHeight is the tip when it was offered, 0 when unknown.
	OfferHeight uint32
	// OnChain: the incoming channel went to chain; it can only be settled.
	OnChain bool
	// Handler is whose HTLC it is; empty for those that the interceptor
	// refused without a handler.
	Handler string
	State   State
	// After is what a paying row becomes once lnd's payment for its hash has failed: held,
	// or failed where it has been refused. It is empty while a handler pays: that may send
	// another payment, and says itself when it does not.
	After State
	// Reason is a sentence for people, about the latest change.
	Reason string
	// Preimage is set once settled.
	Preimage ln.Preimage
	// ExtraFeeMsat was withheld when it was resumed: every replay gets the same
	// answer.
	ExtraFeeMsat ln.Msat
	// Send is what else was changed when it was resumed, for the same reason.
	Send Sending
	// Ballot is what programs of others have said so far of one that they hold.
	Ballot    string
	OfferedAt time.Time
	// DecidedAt is zero while undecided.
	DecidedAt time.Time
	// GoneAt is zero while lnd still has the HTLC.
	GoneAt  time.Time
	Outcome Outcome
	// Acked: the handler has taken the final outcome into its own books.
	Acked bool
	// Version counts changes; every update is a compare-and-swap on it.
	Version int64
}

// Undecided reports that the row still needs a decision.
func (r Row) Undecided() bool { return !r.State.Decided() }

// Gone reports that lnd no longer has the HTLC.
func (r Row) Gone() bool { return !r.GoneAt.IsZero() }

// Live reports that something may still have to be done about the row.
func (r Row) Live() bool {
	return !r.Gone() || (r.Handler != "" && !r.Acked)
}

// Errors of decisions. They are matched with errors.Is; RowError carries the
// row as it stands.
var (
	// ErrDecided: another decision stands; nothing was done.
	ErrDecided = errors.New("another decision stands")
	// ErrPaying: a payment of ours for the hash may be in flight, so that only
	// a settlement is possible (law 4).
	ErrPaying = errors.New("a payment of ours for this hash may be in flight")
	// ErrUnknownRow: no row has this key.
	ErrUnknownRow = errors.New("no held HTLC has this key")
	// ErrOnChain: the incoming channel is on chain; only a settlement helps.
	ErrOnChain = errors.New("the incoming channel is on chain: it can only be settled")
	// ErrDeadline: the chain has reached the row's FailHeight; the interceptor
	// fails it, and a RESUME could meet an HTLC that lnd has just failed.
	ErrDeadline = errors.New("the deadline of the HTLC has passed")
	// ErrPreimage: the preimage does not open the row's hash.
	ErrPreimage = errors.New("the preimage does not open the payment hash")
	// ErrLimit: no more HTLCs may be held, or this one not for long enough.
	ErrLimit = errors.New("it cannot be held")
	// ErrInvalid: the call itself is malformed.
	ErrInvalid = errors.New("invalid request")
	// ErrUnavailable: this process cannot commit decisions now (no database, no
	// lease, or not started). Nothing is known to have been done; ask again.
	ErrUnavailable = errors.New("the interceptor cannot decide now")
	// ErrLeaseLost: somebody else owns the interceptor, or may by now.
	ErrLeaseLost = errors.New("the interceptor's lease is lost")
	// ErrConflict: the store holds a newer version than the one compared with.
	ErrConflict = errors.New("the row changed meanwhile")
	// ErrReplaced: another attachment took this handler's place.
	ErrReplaced = errors.New("the handler attached again elsewhere")
	// ErrUnknownHandler: the handler never registered.
	ErrUnknownHandler = errors.New("no such handler is registered")
)

// RowError says which row refused a decision, and how it stands.
type RowError struct {
	Key ln.CircuitKey
	// State is empty when no row exists.
	State State
	Err   error
}

func (e *RowError) Error() string {
	if e.State == "" {
		return fmt.Sprintf("HTLC %s: %v", e.Key, e.Err)
	}
	return fmt.Sprintf("HTLC %s is %s: %v", e.Key, e.State, e.Err)
}

// Unwrap gives the cause for errors.Is.
func (e *RowError) Unwrap() error { return e.Err }

// MaxReason bounds a reason text, in bytes.
const MaxReason = 500

// NewRow is the record of a new HTLC, held for the handler. failSafety is how
// many blocks before lnd's auto-fail the interceptor fails it.
func NewRow(o ln.InterceptedHtlc, handler string, failSafety, height uint32, at time.Time) Row {
	fail := uint32(0)
	if o.AutoFailHeight > failSafety {
		fail = o.AutoFailHeight - failSafety
	}
	return Row{
		Key: o.Key, Hash: o.Hash,
		IncomingMsat: o.IncomingMsat, OutgoingMsat: o.OutgoingMsat,
		IncomingExpiry: o.IncomingExpiry, OutgoingExpiry: o.OutgoingExpiry,
		OutgoingSCID: o.OutgoingSCID, AutoFailHeight: o.AutoFailHeight,
		FailHeight: fail, OfferHeight: height, Handler: handler,
		State: StateHeld, OfferedAt: at, Version: 1,
	}
}

// Decide applies a decision. It gives the new row and whether anything
// changed; the same decision again changes nothing. Errors are *RowError.
func (r Row) Decide(d Decision, at time.Time) (Row, bool, error) {
	target, err := d.target()
	if err != nil {
		return r, false, r.refuse(err)
	}
	if len(d.Reason) > MaxReason {
		return r, false, r.refuse(fmt.Errorf("reason of %d bytes, more than %d: %w", len(d.Reason), MaxReason, ErrInvalid))
	}
	if d.Action == ActionSettle && d.Preimage.Hash() != r.Hash {
		return r, false, r.refuse(ErrPreimage)
	}
	if d.ExtraFeeMsat > 0 && (d.Action != ActionResume || d.ExtraFeeMsat >= r.OutgoingMsat) {
		return r, false, r.refuse(fmt.Errorf("%s to withhold from a forward of %s: %w", d.ExtraFeeMsat, r.OutgoingMsat, ErrInvalid))
	}
	if !d.Send.IsZero() && (d.Action != ActionResume || d.ExtraFeeMsat > 0 || !d.Send.Within(r.IncomingMsat, r.OutgoingMsat)) {
		return r, false, r.refuse(fmt.Errorf("%s to send for %s that asks for %s: %w", d.Send.Msat, r.IncomingMsat, r.OutgoingMsat, ErrInvalid))
	}
	if err := d.Send.Records.Validate(); err != nil {
		return r, false, r.refuse(fmt.Errorf("%w: %w", ErrInvalid, err))
	}
	if r.State == target && r.ExtraFeeMsat == d.ExtraFeeMsat && r.Send == d.Send {
		return r, false, nil
	}
	if r.State.Decided() {
		return r, false, r.refuse(ErrDecided)
	}
	if target != StateSettled {
		if r.State == StatePaying {
			return r, false, r.refuse(ErrPaying)
		}
		if r.OnChain {
			return r, false, r.refuse(ErrOnChain)
		}
	}
	r.State, r.Reason, r.DecidedAt = target, d.Reason, at
	if target == StateSettled {
		r.Preimage = d.Preimage
	}
	r.ExtraFeeMsat, r.Send, r.After = d.ExtraFeeMsat, d.Send, ""
	r.Version++
	return r, true, nil
}

// MarkPaying records that a payment of ours for the row's hash is about to be
// sent (law 4). It must be committed before the payment is sent.
func (r Row) MarkPaying(reason string) (Row, bool, error) {
	switch {
	case r.State == StatePaying && r.After == "":
		return r, false, nil
	case r.State.Decided():
		return r, false, r.refuse(ErrDecided)
	case r.OnChain:
		return r, false, r.refuse(ErrOnChain)
	}
	r.State, r.After, r.Reason = StatePaying, "", reason
	r.Version++
	return r, true, nil
}

// Adopt records that lnd has a payment for the row's hash that no handler told of. after
// is what the row becomes once that has failed, StateHeld or StateFailed; what is refused
// stays so.
func (r Row) Adopt(after State, reason string) (Row, bool) {
	switch {
	case r.State.Decided(), r.OnChain, r.State == StatePaying && (r.After == "" || r.After == after || r.After == StateFailed):
		return r, false
	}
	r.State, r.After, r.Reason = StatePaying, after, reason
	r.Version++
	return r, true
}

// Adopted reports that lnd is paying the row's hash, or was, and no handler says so.
func (r Row) Adopted() bool { return r.State == StatePaying && r.After != "" }

// MarkNotPaying records that the payment has finally failed. The caller must
// have asked lnd: an unknown outcome is not a failure.
func (r Row) MarkNotPaying(reason string) (Row, bool, error) {
	switch r.State {
	case StateHeld:
		return r, false, nil
	case StatePaying:
	case StateResumed, StateRefusedUnknown, StateFailed, StateSettled, StateLapsed:
		return r, false, r.refuse(ErrDecided)
	}
	r.State, r.After, r.Reason = StateHeld, "", reason
	r.Version++
	return r, true, nil
}

// Vanish records that lnd no longer has the HTLC. An undecided row lapses.
func (r Row) Vanish(outcome Outcome, at time.Time) (Row, bool) {
	changed := false
	if r.Undecided() {
		r.Reason = "lnd resolved it without a decision of ours"
		r.State, r.After, r.DecidedAt = StateLapsed, "", at
		changed = true
	}
	if !r.Gone() {
		r.GoneAt, changed = at, true
	}
	if r.Outcome == OutcomeUnknown && outcome != OutcomeUnknown {
		r.Outcome, r.Acked, changed = outcome, false, true
	}
	if changed {
		r.Version++
	}
	return r, changed
}

// Moved records that lnd has, or may have, already forwarded an undecided HTLC: our
// database is older than lnd's (law 2, a restored dump), or another client had lnd's
// stream. From here it is only resumed.
func (r Row) Moved(at time.Time) (Row, bool) {
	if r.State != StateHeld {
		return r, false
	}
	r.State, r.DecidedAt = StateResumed, at
	r.Reason = "lnd had already forwarded it: the database is older than lnd, or another program had lnd's interceptor"
	r.Version++
	return r, true
}

// Answer is what lnd gets for a decided row, also each time it is offered
// again. ok is false while the row is undecided or has lapsed.
func (r Row) Answer() (a Answer, ok bool) {
	a.Key = r.Key
	switch r.State {
	case StateResumed, StateRefusedUnknown:
		a.Action = AnswerResume
		if r.ExtraFeeMsat > 0 {
			a.ExtraFeeMsat, a.OutgoingMsat = r.ExtraFeeMsat, r.OutgoingMsat-r.ExtraFeeMsat
			break
		}
		a.OutgoingMsat, a.Records = r.Send.Msat, r.Send.Records
	case StateFailed:
		a.Action = AnswerFail
	case StateSettled:
		a.Action, a.Preimage = AnswerSettle, r.Preimage
	case StateHeld, StatePaying, StateLapsed:
		return Answer{}, false
	default:
		return Answer{}, false
	}
	if r.OnChain && a.Action != AnswerSettle {
		return Answer{}, false
	}
	return a, true
}

// BlocksLeft is the distance from the tip to the deadline.
func (r Row) BlocksLeft(height uint32) int32 {
	return clampInt32(int64(r.FailHeight) - int64(height))
}

func (r Row) refuse(err error) error { return &RowError{Key: r.Key, State: r.State, Err: err} }

func (d Decision) target() (State, error) {
	switch d.Action {
	case ActionResume:
		return StateResumed, nil
	case ActionFail:
		return StateFailed, nil
	case ActionRefuseUnknown:
		return StateRefusedUnknown, nil
	case ActionSettle:
		return StateSettled, nil
	case ActionHold:
		// A ruling is not a decision.
	}
	return "", fmt.Errorf("action %q: %w", d.Action, ErrInvalid)
}

func clampInt32(v int64) int32 {
	const limit = 1<<31 - 1
	return int32(min(max(v, -limit), limit)) //nolint:gosec // bounded just here
}
