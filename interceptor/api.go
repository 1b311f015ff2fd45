package interceptor

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Absent is what happens to a handler's HTLCs while its process is away.
type Absent string

// The policies of an absent handler. Hold keeps the HTLC until the handler is
// back or the deadline comes; Resume forwards it like any other; Fail answers
// TEMPORARY_CHANNEL_FAILURE, after which payers retry.
const (
	AbsentHold   Absent = "hold"
	AbsentResume Absent = "resume"
	AbsentFail   Absent = "fail"
)

// HandlerConfig registers a handler. It is kept in the database, so that the
// policy holds before the handler's process has attached again.
type HandlerConfig struct {
	// Name is the handler's lasting identity: lower-case letters, digits, '-'.
	Name string
	// Priority decides between handlers that claim the same route: the higher
	// wins, and of equals the one whose name sorts first.
	Priority int
	OnAbsent Absent
}

// Route says that a handler wants the forwards whose onion names SCID.
type Route struct {
	SCID ln.SCID
	// Until is when the claim lapses; the zero time never does. HTLCs held
	// before stay the handler's.
	Until time.Time
	// Guarded, in a first claim, is the handler's word that nobody has been told
	// SCID yet, so that no HTLC can name it. From then on no HTLC that names it
	// is resumed without a row, so that one which a crash left without a row is
	// known to be unmoved. The guard ends with the claim, and when the route is
	// claimed again.
	Guarded bool
}

// EventKind names what a handler is told.
type EventKind string

// The events. All but EventSynced carry a row. Delivery is at least once and
// level-triggered: after every attach each undecided row comes again as
// EventOffered, each decided one whose HTLC is still there as EventDecided,
// each finished one that was not acknowledged as EventGone, then one
// EventSynced.
const (
	// EventOffered: the HTLC is held for this handler and recorded. It comes again when the
	// incoming channel goes on chain (Row.OnChain): from then on only a preimage helps.
	EventOffered EventKind = "offered"
	// EventNearDeadline: few blocks are left before the interceptor fails it.
	EventNearDeadline EventKind = "near_deadline"
	// EventDecided: a decision is committed, by the handler or, with a reason,
	// by the interceptor itself. One that was never offered was refused as it came:
	// what the handler holds of its payment from before (Row.ID) would wait for it.
	EventDecided EventKind = "decided"
	// EventGone: lnd no longer has the HTLC. Row.Outcome says how it ended, as
	// far as known; an unknown outcome that becomes known comes again.
	EventGone EventKind = "gone"
	// EventSynced: everything open at attach time has been delivered.
	EventSynced EventKind = "synced"
)

// Event is one message to a handler.
type Event struct {
	Kind EventKind
	Row  Row
	// BlocksLeft counts from the tip to Row.FailHeight, for offered and
	// near-deadline events; it may be negative, and 0 when no tip is known yet.
	BlocksLeft int32
}

// Action is what a handler decides about a held HTLC.
type Action string

// The actions. RefuseUnknown is sent as a RESUME of an HTLC whose SCID maps to
// nothing, the only way to answer UNKNOWN_NEXT_PEER: for what will never
// succeed. Fail answers TEMPORARY_CHANNEL_FAILURE: for what may soon.
const (
	ActionResume        Action = "resume"
	ActionFail          Action = "fail"
	ActionRefuseUnknown Action = "refuse_unknown"
	ActionSettle        Action = "settle"
)

// Decision is one HTLC's part of a decision. Several in one call are one
// transaction: all or none.
type Decision struct {
	Key    ln.CircuitKey
	Action Action
	// Preimage is set for ActionSettle only and must open the row's hash.
	Preimage ln.Preimage
	// ExtraFeeMsat is set for ActionResume only: so much less than the onion asks
	// is forwarded, and the next node is told so (bLIP-25, extra_fee). A node that
	// does not expect it fails the HTLC; lnd's does always.
	ExtraFeeMsat ln.Msat
	// Send, of an ActionResume without ExtraFeeMsat, changes what is forwarded.
	Send Sending
	// Reason is a sentence for operators, at most 500 bytes.
	Reason string
}

// RowFilter selects rows for people and programs.
type RowFilter struct {
	// Handler, Hash and State narrow the answer when set.
	Handler string
	Hash    *ln.Hash
	State   State
	// OpenOnly leaves out HTLCs that lnd no longer has.
	OpenOnly bool
	// After pages: rows whose id (Row.ID) is greater.
	After int64
	// Limit is at most 1000; 0 means 100.
	Limit int
}

// Offer is one offer of lnd. Seq numbers the offers of one stream, so that an
// answer meant for an earlier offer of the same key is never sent for a later
// one that was not judged yet.
type Offer struct {
	ln.InterceptedHtlc
	Seq uint64
	// Wire is lnd's own message, for programs that speak its interface
	// (interceptor/proxy); nobody else looks into it.
	Wire any
}

// Answer is what the stream sends to lnd for one offer.
type Answer struct {
	Key    ln.CircuitKey
	Seq    uint64
	Action AnswerAction
	// Preimage is set for AnswerSettle only.
	Preimage ln.Preimage
	// ExtraFeeMsat, of an AnswerResume, is withheld: OutgoingMsat is what is
	// forwarded then.
	ExtraFeeMsat ln.Msat
	// OutgoingMsat and Records, of an AnswerResume, are what is forwarded; an
	// OutgoingMsat of 0 is as the onion asks.
	OutgoingMsat ln.Msat
	Records      WireRecords
}

// AnswerAction is an action on the wire.
type AnswerAction string

// The answers that lnd understands and that this interceptor uses.
const (
	AnswerResume AnswerAction = "resume"
	AnswerFail   AnswerAction = "fail"
	AnswerSettle AnswerAction = "settle"
)

// Status is what operators see at a glance.
type Status struct {
	// Active says that this process owns the lease; Connected that lnd accepted
	// its stream; Degraded that the database or the lease is missing while the
	// stream lives, so that only ordinary forwards pass (law 8).
	Active, Connected, Degraded bool
	// Height is the chain's tip, 0 before the first block is known.
	Height uint32
	// HeldHtlcs and HeldMsat count undecided HTLCs, paying ones included.
	HeldHtlcs int
	HeldMsat  ln.Msat
	// MinBlocksLeft is the most urgent held row's distance to its FailHeight;
	// it is meaningful when HeldHtlcs is not 0.
	MinBlocksLeft int32
	// HeldSatBlocks sums sats times blocks from each offer to the tip.
	HeldSatBlocks uint64
	// Unrecorded counts offers that wait for the database.
	Unrecorded int
	// StreamEnds counts streams that ended since start; LastStreamEnd says why.
	StreamEnds    uint64
	LastStreamEnd string
	// Resumed, Phantoms and ResumeOnly count offers by verdict since start.
	Resumed, Phantoms, ResumeOnly uint64
	// Pruned counts old rows that were deleted since start.
	Pruned uint64
	// Handlers lists every registered handler and whether it is attached.
	Handlers []HandlerStatus
	// Asked counts forwards that programs of others have yet to answer and that
	// are not on record.
	Asked int
	// Left counts HTLCs offered again that lnd has forwarded, or may be ending.
	Left int
	// Programs lists the programs of others.
	Programs []ProgramStatus
}

// ProgramStatus is a program of somebody else's as operators see it.
type ProgramStatus struct {
	Name string
	// Registered ones stand in the configuration; others are known while they
	// are attached.
	Registered bool
	// Htlcs and Channels say what it is attached to.
	Htlcs, Channels bool
	WhileAway       Absent
	WhenSlow        Absent
	MaySettle       bool
	// Waiting counts forwards that it has yet to answer.
	Waiting int
	// Asked, Failed, Settled, Late and Refused count since start: what it was
	// asked, what it failed and settled, what its policy answered because it was
	// slow, and answers that were not taken.
	Asked, Failed, Settled, Late, Refused uint64
	// LastRefusal says why the last of these was not taken.
	LastRefusal string
}

// HandlerStatus is one handler as operators see it.
type HandlerStatus struct {
	HandlerConfig
	Attached bool
	Routes   int
	Held     int
}
