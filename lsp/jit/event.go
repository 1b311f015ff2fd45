package jit

import (
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// Event is something that happened to an offer.
type Event interface{ EventName() string }

// The events. One that a state does not admit (fsm.ErrIllegal) changes nothing:
// whoever reports the world may take that for "too late".
type (
	// Start makes the offer known: the event of Create.
	Start struct{ lsp.Moment }
	// PartArrived: lnd offers an HTLC for the offer's SCID that law 3 calls new
	// (the interceptor answers replays and phantoms itself) and it is held: the
	// ledger has it. Its hash may be another's: a probe.
	PartArrived struct {
		lsp.Moment
		Htlc ln.InterceptedHtlc `json:"htlc"`
		// Order numbers HTLCs as they came to the interceptor.
		Order int64 `json:"order,omitempty"`
		// Refusal says why no more may be held: a limit, judged in the
		// transaction that stores this event. A part that would join is refused
		// with it, and the set goes back whole.
		Refusal lsp.Reason `json:"refusal,omitzero"`
		// Siblings that came at the same time are taken together: Before of them
		// are before this one, and More says that others of its hash follow.
		Before int  `json:"before,omitempty"`
		More   bool `json:"more,omitempty"`
	}
	// PartGone: a part that was never resumed went back, or was taken away, by
	// the interceptor or lnd (a deadline, or the incoming channel on chain); it
	// can no longer be forwarded.
	PartGone struct {
		lsp.Moment
		Key  ln.CircuitKey `json:"key"`
		Text string        `json:"text"`
	}
	// PartRefused: the interceptor could not hold a part as it came, so that this
	// machine never had it, and it went back.
	PartRefused struct {
		lsp.Moment
		Key   ln.CircuitKey `json:"key"`
		Hash  ln.Hash       `json:"payment_hash"`
		Order int64         `json:"order"`
		Text  string        `json:"text"`
	}
	// WalletStatus answers AskWallet.
	WalletStatus struct {
		lsp.Moment
		Online bool `json:"online"`
		// Wait says that nothing was looked for: the set is not whole, another payment
		// to the wallet has its turn, or the channel that a part came over is not
		// active. WalletOnline comes when that has passed.
		Wait bool `json:"wait,omitempty"`
		// Room is an active channel to the wallet through which the asked
		// amount fits now; zero when there is none.
		Room ln.SCID `json:"room,omitempty"`
		// Channels are the wallet's open channels with us, of any size.
		Channels int `json:"channels"`
		// Refusal says why no channel may be opened now: a limit, a drain, no
		// coins. Zero: it may.
		Refusal lsp.Reason `json:"refusal,omitzero"`
	}
	// WalletOnline: the wallet's node connected, it is this payment's turn, or its
	// payer is back.
	WalletOnline struct{ lsp.Moment }
	// OpeningUsable: the named open's channel can carry the payment.
	OpeningUsable struct {
		lsp.Moment
		OpeningID string  `json:"opening_id"`
		ChanID    ln.SCID `json:"chan_id"`
		// Withheld says that nothing funds the channel until ReleaseOpening.
		Withheld bool `json:"withheld,omitempty"`
	}
	// OpeningFailed: the named open is over; it made no channel and never will.
	OpeningFailed struct {
		lsp.Moment
		OpeningID string     `json:"opening_id"`
		Reason    lsp.Reason `json:"reason"`
		Temporary bool       `json:"temporary"`
	}
	// Mapped: the alias leads to Via, which is active with our policy.
	Mapped struct {
		lsp.Moment
		Via ln.SCID `json:"via"`
	}
	// MapFailed: it does not, for now or for good.
	MapFailed struct {
		lsp.Moment
		Via  ln.SCID `json:"via"`
		Text string  `json:"text"`
	}
	// PayerAway: the channel that a part came over is not active. lnd would fail what it
	// is told to forward now.
	PayerAway struct {
		lsp.Moment
		Via ln.SCID `json:"via"`
	}
	// PartsResumed: lnd was told to forward all parts.
	PartsResumed struct{ lsp.Moment }
	// PartSettled and PartFailed are the fate of a resumed part. That a held one was
	// settled shows that the database is an older copy.
	PartSettled struct {
		lsp.Moment
		Key ln.CircuitKey `json:"key"`
	}
	PartFailed struct {
		lsp.Moment
		Key  ln.CircuitKey `json:"key"`
		Text string        `json:"text"`
	}
	// NewBlock: the tip is Moment.Height.
	NewBlock struct{ lsp.Moment }
	// Tick: the time is Moment.At.
	Tick struct{ lsp.Moment }
	// DatabaseRestored: what is known of an offer without parts is of an older copy
	// of the database. It may have been paid since.
	DatabaseRestored struct{ lsp.Moment }
	// Cancel by client or operator; ErrTooLate once parts are being resumed.
	Cancel struct {
		lsp.Moment
		Reason lsp.Reason `json:"reason"`
	}
)

func (Start) EventName() string            { return "start" }
func (PartArrived) EventName() string      { return "part_arrived" }
func (PartGone) EventName() string         { return "part_gone" }
func (PartRefused) EventName() string      { return "part_refused" }
func (WalletStatus) EventName() string     { return "wallet_status" }
func (WalletOnline) EventName() string     { return "wallet_online" }
func (OpeningUsable) EventName() string    { return "opening_usable" }
func (OpeningFailed) EventName() string    { return "opening_failed" }
func (Mapped) EventName() string           { return "mapped" }
func (MapFailed) EventName() string        { return "map_failed" }
func (PayerAway) EventName() string        { return "payer_away" }
func (PartsResumed) EventName() string     { return "parts_resumed" }
func (PartSettled) EventName() string      { return "part_settled" }
func (PartFailed) EventName() string       { return "part_failed" }
func (NewBlock) EventName() string         { return "new_block" }
func (Tick) EventName() string             { return "tick" }
func (DatabaseRestored) EventName() string { return "database_restored" }
func (Cancel) EventName() string           { return "cancel" }
