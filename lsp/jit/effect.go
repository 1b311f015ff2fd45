package jit

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// Effect is something to do once the state that asks for it is stored; it may
// run again. Effects of one offer run in the order in which they were asked
// for: RefuseParts before a later MapChannel, above all.
type Effect interface{ EffectName() string }

// Refusal is how parts are refused.
type Refusal string

// RefuseTemporary is FAIL with temporary_channel_failure: the payer may try
// again soon. RefuseUnknown is RESUME of an unmapped SCID: lnd answers
// unknown_next_peer and payers stop. Should the executor find the SCID mapped
// after all, it must FAIL instead.
const (
	RefuseTemporary Refusal = "temporary_channel_failure"
	RefuseUnknown   Refusal = "unknown_next_peer"
)

// The effects.
type (
	// AskWallet: is the client connected, and if the set is whole: is there room
	// for the amount, may a channel be opened? The room is taken for the payment
	// until its state says otherwise. Answer: WalletStatus.
	AskWallet struct {
		OfferID    string    `json:"offer_id"`
		Client     ln.PubKey `json:"client"`
		AmountMsat ln.Msat   `json:"amount_msat"`
		Whole      bool      `json:"whole,omitempty"`
		Prefer     ln.SCID   `json:"prefer,omitempty"`
		// Opens says how many opens this offer has begun (0: a channel would
		// be its first).
		Opens uint32 `json:"opens"`
		// FeeMsat is the opening fee agreed: what a channel may cost depends on it.
		FeeMsat  ln.Msat `json:"fee_msat"`
		ZeroConf bool    `json:"zero_conf"`
	}
	// WakeWallet pokes an offline wallet; a repeat is a harmless second poke.
	// Until is when the payment goes back.
	WakeWallet struct {
		OfferID    string    `json:"offer_id"`
		Client     ln.PubKey `json:"client"`
		Hash       ln.Hash   `json:"payment_hash"`
		AmountMsat ln.Msat   `json:"amount_msat"`
		Until      time.Time `json:"until,omitzero"`
	}
	// OpenChannel creates the open OpeningID unless it exists, and has it
	// report (again) what it last told its owner: OpeningUsable or
	// OpeningFailed.
	OpenChannel struct {
		OfferID    string  `json:"offer_id"`
		OpeningID  string  `json:"opening_id"`
		Terms      Terms   `json:"terms"`
		AmountMsat ln.Msat `json:"amount_msat"`
	}
	// ReleaseOpening has the withheld funding published: the client has claimed.
	ReleaseOpening struct {
		OfferID   string `json:"offer_id"`
		OpeningID string `json:"opening_id"`
	}
	// AbandonOpening asks the open to end if it still can; too late is fine. Of one
	// whose funding was withheld it answers OpeningFailed or OpeningUsable.
	AbandonOpening struct {
		OfferID   string     `json:"offer_id"`
		OpeningID string     `json:"opening_id"`
		Reason    lsp.Reason `json:"reason"`
	}
	// MapChannel adds SCID as an alias of Via ("exists" is success), waits
	// until Via is active and its own forwarding policy is in the graph with
	// no fee. Answers: Mapped, MapFailed.
	MapChannel struct {
		OfferID string    `json:"offer_id"`
		Client  ln.PubKey `json:"client"`
		SCID    ln.SCID   `json:"jit_channel_scid"`
		Via     ln.SCID   `json:"via"`
		// Withheld: Via was opened for this payment by OpeningID, and its funding is
		// withheld.
		Withheld  bool   `json:"withheld,omitempty"`
		OpeningID string `json:"opening_id,omitempty"`
	}
	// ResumeParts stores and sends RESUME for every key, then PartsResumed; a
	// key that lnd no longer knows is PartFailed once lnd says how it ended.
	// Repeats are what lnd wants for HTLCs it offers again.
	// ExtraFees is empty or says of each key how much less than its onion asks is
	// forwarded.
	ResumeParts struct {
		OfferID   string          `json:"offer_id"`
		Keys      []ln.CircuitKey `json:"keys"`
		ExtraFees []ln.Msat       `json:"extra_fees,omitempty"`
	}
	// RefuseParts stores and sends the refusal for every key. A key whose
	// stored decision is RESUME is left alone: never FAIL after RESUME.
	RefuseParts struct {
		OfferID string          `json:"offer_id"`
		Keys    []ln.CircuitKey `json:"keys"`
		How     Refusal         `json:"how"`
		Reason  lsp.Reason      `json:"reason"`
	}
	// ReleaseSCID gives up holding what comes over the SCID: from now on it is one
	// more alias of the wallet's channel (bLIP-52).
	ReleaseSCID struct {
		OfferID string  `json:"offer_id"`
		SCID    ln.SCID `json:"jit_channel_scid"`
	}
	// WatchParts reports the fate of resumed parts, also those already known:
	// PartSettled, PartFailed.
	WatchParts struct {
		OfferID string          `json:"offer_id"`
		Keys    []ln.CircuitKey `json:"keys"`
	}
)

func (AskWallet) EffectName() string      { return "ask_wallet" }
func (WakeWallet) EffectName() string     { return "wake_wallet" }
func (OpenChannel) EffectName() string    { return "open_channel" }
func (ReleaseOpening) EffectName() string { return "release_opening" }
func (AbandonOpening) EffectName() string { return "abandon_opening" }
func (MapChannel) EffectName() string     { return "map_channel" }
func (ResumeParts) EffectName() string    { return "resume_parts" }
func (RefuseParts) EffectName() string    { return "refuse_parts" }
func (ReleaseSCID) EffectName() string    { return "release_scid" }
func (WatchParts) EffectName() string     { return "watch_parts" }
