package engine

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Channels is what the engine asks lnd about channels.
type Channels interface {
	ListChannels(ctx context.Context) ([]ln.Channel, error)
	PendingChannels(ctx context.Context) ([]ln.PendingChannel, error)
	// OwnPolicy is ln.ErrNotFound until lnd's graph has our side of the edge.
	OwnPolicy(ctx context.Context, chanID ln.SCID, self ln.PubKey) (ln.ChannelPolicy, error)
	// SetPolicy creates the edge when it is missing and rebuilds the link's
	// policy.
	SetPolicy(ctx context.Context, op ln.Outpoint, p ln.ChannelPolicy) error
}

// Aliases are the SCIDs that lead to channels on this node. A channel that is
// closed keeps its aliases, though they lead nowhere.
type Aliases interface {
	// AddAlias is idempotent; an alias of another channel is ln.ErrExists.
	AddAlias(ctx context.Context, base, alias ln.SCID) error
	// AliasOwner is the channel that an alias belongs to, open or closed, or 0.
	AliasOwner(ctx context.Context, alias ln.SCID) (ln.SCID, error)
	// RemoveAlias is idempotent.
	RemoveAlias(ctx context.Context, base, alias ln.SCID) error
}

// Negotiation is one channel negotiation under way. Next blocks; its error is
// mapped to the sentinels of package ln.
type Negotiation interface {
	Next() (ln.OpenUpdate, error)
}

// Opener opens channels through the PSBT shim. A call that is
// ln.ErrUnavailable may or may not have happened.
type Opener interface {
	OpenChannel(ctx context.Context, r ln.OpenRequest) (Negotiation, error)
	VerifyPsbt(ctx context.Context, id ln.PendingChanID, psbt []byte) error
	CancelShim(ctx context.Context, id ln.PendingChanID) error
	AbandonChannel(ctx context.Context, op ln.Outpoint) error
}

// Coins is the on-chain wallet's inventory. A coin leased under one id is
// ln.ErrLeased under another.
type Coins interface {
	ListCoins(ctx context.Context, minConfs int32) ([]ln.Coin, error)
	LeaseCoin(ctx context.Context, id [32]byte, op ln.Outpoint, d time.Duration) error
	ReleaseCoin(ctx context.Context, id [32]byte, op ln.Outpoint) error
	ListLeases(ctx context.Context) ([]ln.Lease, error)
	NewChangeAddress(ctx context.Context) (string, error)
}

// Chain signs, publishes and watches transactions of the wallet.
type Chain interface {
	FinalizePsbt(ctx context.Context, psbt []byte) (rawTx []byte, err error)
	// Publish takes a known transaction as success; a conflicting one is
	// ln.ErrDoubleSpend.
	Publish(ctx context.Context, rawTx []byte, label string) error
	BumpFee(ctx context.Context, op ln.Outpoint, satPerVByte uint64, budget ln.Sat) error
	EstimateFee(ctx context.Context, targetBlocks int32) (rate, relay ln.FeeRateSatPerKW, err error)
	// Transactions lists the wallet's own from a height on, unconfirmed too.
	Transactions(ctx context.Context, fromHeight int32) ([]ln.WalletTx, error)
}

// Invoices holds payments for wallets that pay the fee themselves.
type Invoices interface {
	AddHoldInvoice(ctx context.Context, r ln.HoldInvoiceRequest) (bolt11 string, err error)
	LookupInvoice(ctx context.Context, hash ln.Hash) (ln.Invoice, error)
	SubscribeInvoice(ctx context.Context, hash ln.Hash, handle func(ln.Invoice)) error
	SettleInvoice(ctx context.Context, preimage ln.Preimage) error
	CancelInvoice(ctx context.Context, hash ln.Hash) error
}

// Payments sends payments to wallets and tells how they ended.
type Payments interface {
	// PayDirect's ln.ErrUnavailable and ln.ErrExists say nothing about the
	// HTLC; only TrackPayment and WaitPayment do.
	PayDirect(ctx context.Context, p ln.DirectPayment) (ln.Payment, error)
	TrackPayment(ctx context.Context, hash ln.Hash) (ln.Payment, error)
	WaitPayment(ctx context.Context, hash ln.Hash) (ln.Payment, error)
}

// Orders is what the sale of channels asks besides.
type Orders interface {
	// NewAddress gives a fresh address of the wallet, which nobody was told.
	NewAddress(ctx context.Context) (string, error)
	// SignMessage signs with the node's key, as `lncli signmessage` does.
	SignMessage(ctx context.Context, msg []byte) (string, error)
	// SubscribeTransactions tells that the wallet has a new transaction, or knows
	// more of one, until its stream ends. There is no replay.
	SubscribeTransactions(ctx context.Context, handle func()) error
	// Close closes with the peer, which must be there, a channel without HTLCs, and
	// returns once the transaction is out. The macaroon need not allow it:
	// ln.ErrPermission.
	Close(ctx context.Context, op ln.Outpoint, rate ln.FeeRateSatPerKW) error
}

// Settings is how lnd runs. What the macaroon may not ask is ln.ErrPermission.
type Settings interface {
	// HoldExpiryDelta is how many blocks before the earliest expiry of its
	// HTLCs lnd cancels an accepted hold invoice.
	HoldExpiryDelta(ctx context.Context) (uint32, error)
}

// Events is what lnd reports by itself; each call blocks until its stream
// ends, and there is no replay.
type Events interface {
	SubscribeBlocks(ctx context.Context, handle func(ln.Block)) error
	SubscribeChannelEvents(ctx context.Context, handle func(ln.ChannelEvent)) error
	SubscribePeers(ctx context.Context, handle func(ln.PeerEvent)) error
	ConnectedPeers(ctx context.Context) ([]ln.PubKey, error)
	Info(ctx context.Context) (ln.NodeInfo, error)
}

// Forwards is what lnd says of HTLCs that it forwards.
type Forwards interface {
	// SubscribeHtlcEvents tells what becomes of them from the moment that it calls
	// ready, until its stream ends; there is no replay.
	SubscribeHtlcEvents(ctx context.Context, ready func(), handle func(ln.HtlcEvent)) error
}

// Node is one lnd, port by port.
type Node struct {
	Channels Channels
	Aliases  Aliases
	Opener   Opener
	Coins    Coins
	Chain    Chain
	Invoices Invoices
	Payments Payments
	Settings Settings
	Orders   Orders
	Events   Events
	Forwards Forwards
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
	// Known and Settled tell the outcome of an HTLC that is gone.
	Known, Settled bool
	// OnChain: its incoming channel went on chain. Nothing can be done about it
	// any more.
	OnChain bool
	// Paying: lnd is paying its hash, so that it cannot go back before that is over.
	Paying bool
	Reason string
}

// Verdict is a decision about held HTLCs.
type Verdict string

// The verdicts.
const (
	VerdictResume        Verdict = "resume"
	VerdictFail          Verdict = "fail"
	VerdictRefuseUnknown Verdict = "refuse_unknown"
)

// ErrDecided says that an HTLC has another decision already, or is gone.
var ErrDecided = errors.New("the HTLC was decided otherwise")

// Routes claims SCIDs at the interceptor: HTLCs over them are held for us.
// Both calls are idempotent; a claim that has returned is durable. Nobody may
// have been told an SCID before it is claimed: what the interceptor does with
// an HTLC that a crash left unrecorded rests on that.
type Routes interface {
	Claim(ctx context.Context, scids []ln.SCID, until time.Time) error
	Release(ctx context.Context, scids []ln.SCID) error
}

// Forward is one held HTLC to be handed on, less what is withheld of it.
type Forward struct {
	Key          ln.CircuitKey
	ExtraFeeMsat ln.Msat
}

// Held is the interceptor's ledger of HTLCs held for us.
type Held interface {
	// Attach reports until its context ends; every open HTLC comes (again)
	// after each call.
	Attach(ctx context.Context, sink func(HtlcEvent)) error
	// Decide is all or nothing and idempotent; ErrDecided when one of them
	// stands otherwise.
	Decide(ctx context.Context, keys []ln.CircuitKey, v Verdict, reason string) error
	// Resume is Decide with VerdictResume for HTLCs of which something may be
	// withheld (bLIP-25); ErrDecided also when one was resumed for another amount.
	Resume(ctx context.Context, forwards []Forward, reason string) error
	// Acknowledge says that the outcome of these is in our books.
	Acknowledge(ctx context.Context, keys []ln.CircuitKey) error
	// Lookup reports how these stand now.
	Lookup(ctx context.Context, hash ln.Hash) ([]HtlcEvent, error)
}

// Waiting is a payment that is held until its wallet comes online.
type Waiting struct {
	PaymentID  string
	Client     ln.PubKey
	Hash       ln.Hash
	AmountMsat ln.Msat
	// Until is when it goes back to its payer.
	Until time.Time
}

// Notices tells clients that are away what is to become of their channels. It does
// not block for long, and takes the same notice again without harm.
type Notices interface {
	// LeaseEnds: a channel of the client's is closed once its lease is over, at the
	// earliest at this moment.
	LeaseEnds(ctx context.Context, client ln.PubKey, at time.Time) error
}

// Waker pokes a wallet that is offline. It does not block for long and takes the
// same payment again without harm. How says what was done, in words for people;
// its failure is only told: the payment waits for the wallet in any case.
type Waker interface {
	Wake(ctx context.Context, w Waiting) (how string, err error)
}
