package watchtower

import (
	"fmt"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
)

// BreachState is what has become of a breach, as stable text.
type BreachState string

// The states.
const (
	// Found: it is recorded; lnd has not taken the justice transaction yet.
	Found BreachState = "found"
	// Published: lnd took it. It is handed out again until it is buried.
	Published BreachState = "published"
	// Swept: the justice transaction is in a block.
	Swept BreachState = "swept"
	// Elsewhere: another transaction of the victim's took the outputs: its own
	// node's, or another tower's.
	Elsewhere BreachState = "elsewhere"
	// Lost: the cheater took the output after its delay.
	Lost BreachState = "lost"
	// Vanished: the commitment left the chain and did not come back.
	Vanished BreachState = "vanished"
	// Unusable: the client's blob makes no valid justice transaction, or what was
	// stored of it cannot be read.
	Unusable BreachState = "unusable"
)

// BreachStates are all there are.
func BreachStates() []BreachState {
	return []BreachState{Found, Published, Swept, Elsewhere, Lost, Vanished, Unusable}
}

// Path is how a transaction spent an output of a breach.
type Path string

// The paths.
const (
	// ByJustice is our justice transaction itself.
	ByJustice Path = "justice"
	// ByVictim needed a key of the victim's: the revocation of the cheater's
	// output, or the victim's own output.
	ByVictim Path = "victim"
	// ByCheater is any other way, which only the cheater has.
	ByCheater Path = "cheater"
)

// Point is a place in the chain.
type Point struct {
	Height int32
	Hash   chainhash.Hash
}

// Spend is a transaction in a block that took an output of a breach.
type Spend struct {
	At   Point
	TxID chainhash.Hash
	Path Path
}

// BreachID names a breach: of one session by one commitment.
type BreachID [16]byte

// Breach is one commitment in the chain that one session of one tenant has a
// justice transaction for.
type Breach struct {
	ID      BreachID
	Tenant  int64
	Session [33]byte
	Seq     uint16
	// CommitTx is the commitment; SeenAt where it is in the chain, with height 0
	// while it is not.
	CommitTx chainhash.Hash
	SeenAt   Point
	// MissingSince is the height at which it left the chain.
	MissingSince int32
	// Justice is the transaction, and JusticeTx its id. ToLocal is the output of
	// the commitment that is the cheater's after its delay.
	Justice   []byte
	JusticeTx chainhash.Hash
	ToLocal   uint32
	SweptSat  int64
	FeeSat    int64
	State     BreachState
	// Spend is set in Swept, Elsewhere and Lost.
	Spend Spend
	// Final says that nothing is done or expected any more. Only the chain itself
	// reopens a case: by a reorganisation deeper than the burial, or by a commitment
	// that is back after all.
	Final bool
	// Attempts counts hand-outs to lnd; Problem is what lnd said of the last.
	Attempts  int64
	Problem   string
	FoundAt   time.Time
	ChangedAt time.Time
}

// Due says that the justice transaction is to be handed to lnd.
func (b Breach) Due() bool { return !b.Final && (b.State == Found || b.State == Published) }

// Tried records a hand-out and what came of it; nothing is done when its outcome
// is no longer of interest. changed says that the story has something new.
func (b *Breach) Tried(problem string, now time.Time) (changed bool) {
	if !b.Due() {
		return false
	}
	b.Attempts++
	changed = problem != b.Problem
	b.Problem = problem
	if problem == "" && b.State == Found {
		b.State, b.ChangedAt, changed = Published, now, true
	}
	return changed
}

// Unreadable ends a breach whose stored transaction cannot be read: there is
// nothing to hand out, and others must not wait for it.
func (b *Breach) Unreadable(problem string, now time.Time) {
	b.State, b.Final, b.Problem, b.ChangedAt = Unusable, true, problem, now
}

// Spent records who took the outputs.
func (b *Breach) Spent(s Spend, now time.Time) error {
	if b.Final || b.State == Unusable {
		return fmt.Errorf("breach %x is over (%s) and its output was spent again", b.ID, b.State)
	}
	switch s.Path {
	case ByJustice:
		b.State = Swept
	case ByVictim:
		b.State = Elsewhere
	case ByCheater:
		b.State = Lost
	default:
		return fmt.Errorf("breach %x: no path %q", b.ID, s.Path)
	}
	b.Spend, b.Problem, b.ChangedAt = s, "", now
	return nil
}

// SeenAgain records the block that the commitment is in now. One that had vanished
// is a case again: its cheater may have waited for just that.
func (b *Breach) SeenAgain(at Point, now time.Time) (changed bool) {
	if b.SeenAt == at || b.Final && b.State != Vanished {
		return false
	}
	if b.State == Vanished {
		b.State, b.Final = Found, false
	}
	b.SeenAt, b.MissingSince, b.ChangedAt = at, 0, now
	return true
}

// Rewound takes back what blocks above a height said, though it was buried. The
// justice transaction is due again at once.
func (b *Breach) Rewound(to int32, now time.Time) (changed bool) {
	if b.Spend.At.Height > to {
		b.State, b.Spend, b.Final, b.ChangedAt, changed = Found, Spend{}, false, now, true
	}
	if !b.Final && b.SeenAt.Height > to {
		b.SeenAt, b.MissingSince, b.ChangedAt, changed = Point{}, to, now, true
	}
	return changed
}

// Settle ends what is buried, and what never came back.
func (b *Breach) Settle(tip int32, depth Depths, now time.Time) (changed bool) {
	switch {
	case b.Final:
		return false
	case b.Spend.At.Height > 0 && tip-b.Spend.At.Height+1 >= depth.Bury:
		b.Final = true
	case b.Due() && b.SeenAt.Height == 0 && tip-b.MissingSince >= depth.Forget:
		b.State, b.Final = Vanished, true
	default:
		return false
	}
	b.ChangedAt = now
	return true
}

// Depths are in blocks.
type Depths struct {
	// Bury is how many blocks, its own included, end a breach that was resolved.
	Bury int32
	// Forget is how long a commitment that left the chain is waited for.
	Forget int32
}
