package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws"
)

// Node is what the engine asks of lnd.
type Node interface {
	ListChannels(ctx context.Context) ([]ln.Channel, error)
	// SubscribeChannelEvents and SubscribeBlocks block until their stream ends; only
	// the latter begins with what is.
	SubscribeChannelEvents(ctx context.Context, handle func(ln.ChannelEvent)) error
	SubscribeBlocks(ctx context.Context, handle func(ln.Block)) error
}

// HtlcEventKind is what the interceptor reports of an HTLC.
type HtlcEventKind string

// The kinds. Synced says that everything open has been reported since Attach.
const (
	HtlcOffered HtlcEventKind = "offered"
	HtlcDecided HtlcEventKind = "decided"
	HtlcGone    HtlcEventKind = "gone"
	HtlcSynced  HtlcEventKind = "synced"
)

// HtlcEvent is one report; it may come more than once.
type HtlcEvent struct {
	Kind HtlcEventKind
	Htlc ln.InterceptedHtlc
	// Order numbers HTLCs as they came.
	Order int64
	// Resumed says that the standing decision is to forward it.
	Resumed bool
	// OnChain: its incoming channel went on chain, so that no decision of ours changes it.
	OnChain bool
	// Paying: lnd is paying its hash, so that it cannot go back before that is over.
	Paying bool
}

// ErrDecided says that an HTLC has another decision, or that only something else than
// a decision of ours can end it: an event tells. ErrUnknown: there is no such HTLC.
var (
	ErrDecided = errors.New("the HTLC was decided otherwise")
	ErrUnknown = errors.New("no such HTLC is held")
)

// DecidedError is an ErrDecided about one HTLC. None of those that were to be decided with
// it was.
type DecidedError struct {
	Key ln.CircuitKey
	// Resumed: it was forwarded.
	Resumed bool
	Err     error
}

func (e *DecidedError) Error() string { return fmt.Sprintf("%v: %v", ErrDecided, e.Err) }

// Unwrap makes it an ErrDecided.
func (e *DecidedError) Unwrap() []error { return []error{ErrDecided, e.Err} }

// Holds is the interceptor. Changes are durable when they return nil, and idempotent.
// Every decision, ours included, and every end of an HTLC is told at the attachment, again
// after each Attach until it is acknowledged.
type Holds interface {
	// Claim has every forward that names one of these held from now on.
	Claim(ctx context.Context, scids []ln.SCID, until time.Time) error
	Release(ctx context.Context, scids []ln.SCID) error
	Attach(ctx context.Context, sink func(HtlcEvent)) error
	// Decide forwards all, or fails all (TEMPORARY_CHANNEL_FAILURE), in one decision.
	Decide(ctx context.Context, keys []ln.CircuitKey, resume bool, reason string) error
	Acknowledge(ctx context.Context, keys []ln.CircuitKey) error
}

// Waiting is a payment that waits for its wallet.
type Waiting struct {
	PaymentID  string
	Client     ln.PubKey
	Hash       ln.Hash
	AmountMsat ln.Msat
	Until      time.Time
}

// Waker pokes a wallet that is offline. It does not block for long and takes the same
// payment again without harm. How says what was done, in words for people, and what an
// error means for them; nothing else rests on either.
type Waker interface {
	Wake(ctx context.Context, w Waiting) (how string, err error)
	// Calls says what became of the calls of a wallet's webhooks since a moment, in words
	// for people: they go on after Wake has returned.
	Calls(ctx context.Context, client ln.PubKey, since time.Time) ([]string, error)
}

// Others are payments that wait for wallets elsewhere in the gateway.
type Others interface {
	// Waiting are those of one wallet, or of all.
	Waiting(ctx context.Context, client *ln.PubKey) ([]lws.Shown, error)
	// Return sends one back to its payer, when its wallet asks for it.
	Return(ctx context.Context, client ln.PubKey, id string) error
}

// Wishes keeps what wallets asked for.
type Wishes interface {
	Wishes(ctx context.Context) (map[ln.PubKey]lws.Wish, error)
	// Put is false when there are so many wallets already, and this one is not known.
	Put(ctx context.Context, client ln.PubKey, w lws.Wish, known bool, most int64, at time.Time) (bool, error)
	Delete(ctx context.Context, client ln.PubKey) error
}

// Expected keeps the final CLTV deltas of invoices whose payers are shown a larger one.
type Expected interface {
	// PutExpected is false when the wallet has so many already.
	PutExpected(ctx context.Context, client ln.PubKey, x lws.Expected, most int, now time.Time) (bool, error)
	// Expected is 0 for an invoice that nobody announced.
	Expected(ctx context.Context, client ln.PubKey, hash ln.Hash) (finalCltv uint32, err error)
}
