package jit

import (
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// Terms are what an offer binds. They never change, but for what the first
// complete set of parts gives one that withholds its fee (see Withhold).
type Terms struct {
	ID     string    `json:"id"`
	Client ln.PubKey `json:"client"`
	// SCID is the jit_channel_scid, bound to Hash so that probes open nothing.
	SCID ln.SCID       `json:"jit_channel_scid"`
	Hash ln.Hash       `json:"payment_hash"`
	Part lsp.PartTerms `json:"part_terms"`
	// Withhold is set when the receiver pays by being forwarded less; then
	// Part.FeeMsat is zero.
	Withhold *Withhold `json:"withhold,omitempty"`
	// Params are the opening_fee_params the fee was computed from.
	Params lsp.OpeningFeeParams `json:"opening_fee_params"`
	// ZeroConf, or Confs confirmations before the payment is forwarded.
	ZeroConf bool   `json:"zero_conf"`
	Confs    uint32 `json:"confs,omitempty"`
	// ClientTrusts is bLIP-52's client_trusts_lsp: the funding of a channel opened
	// for this payment is withheld until the client has claimed it.
	ClientTrusts bool `json:"client_trusts_lsp,omitempty"`
	// MayOpenMore: a wallet that has a channel agreed to another on demand.
	MayOpenMore bool `json:"may_open_more"`
	// Room is the channel whose room this payment was promised, and no fee for
	// it; zero when a channel is to be opened.
	Room      ln.SCID   `json:"room,omitempty"`
	ExpiresAt time.Time `json:"expires_at"`
	// CollectFor is how long parts wait for their siblings and for the wallet,
	// from the first (bLIP-52: at least 90 s). OpenFor bounds a zero-conf open,
	// MapFor the mapping.
	CollectFor time.Duration `json:"collect_for"`
	OpenFor    time.Duration `json:"open_for"`
	MapFor     time.Duration `json:"map_for"`
	// HoldFor is how long a complete set waits for a wallet that is offline, from its
	// first part, where that is longer.
	HoldFor time.Duration `json:"hold_for,omitempty"`
	// HoldMarginBlocks before auto_fail_height at which held parts go back.
	HoldMarginBlocks uint32 `json:"hold_margin_blocks"`
	// MaxOpens bounds the opens begun for this offer.
	MaxOpens uint32 `json:"max_opens"`
}

// Progress is what has been done for an offer over all attempts to pay it.
type Progress struct {
	// Opens counts the opens begun; the n-th is named OpeningID(n).
	Opens uint32 `json:"opens,omitempty"`
	// OpenLive says that the last open's fate is not known yet.
	OpenLive bool `json:"open_live,omitempty"`
	// LetGo says that the last open was asked to end: if it reports a channel whose
	// funding is withheld after that, that channel is about to go.
	LetGo bool `json:"let_go,omitempty"`
	// Chan is the channel that an open of this offer made.
	Chan ln.SCID `json:"chan,omitempty"`
	// Withheld says that nothing funds Chan until ReleaseOpening.
	Withheld bool `json:"withheld,omitempty"`
	// Mapped is set before the SCID may be mapped, and stays.
	Mapped bool `json:"mapped,omitempty"`
	// Unsure: the offer is of an older copy of the database, and may have been paid
	// by what that does not know.
	Unsure bool `json:"unsure,omitempty"`
	// Last is why the previous attempt ended.
	Last lsp.Reason `json:"last,omitzero"`
}

// Outcome is the fate of one resumed part.
type Outcome string

// The outcomes; the empty one is not known yet.
const (
	OutcomeOpen    Outcome = ""
	OutcomeSettled Outcome = "settled"
	OutcomeFailed  Outcome = "failed"
)

// Part is one HTLC of the payment, held or resumed.
type Part struct {
	Htlc ln.InterceptedHtlc `json:"htlc"`
	At   time.Time          `json:"at"`
	// Order numbers HTLCs as they came to the interceptor.
	Order int64 `json:"order,omitempty"`
	// SatBlocks is what holding it costs, as it stood when it arrived.
	SatBlocks uint64 `json:"sat_blocks,omitempty"`
	// ExtraFeeMsat was withheld when it was handed on.
	ExtraFeeMsat ln.Msat `json:"extra_fee_msat,omitempty"`
	Outcome      Outcome `json:"outcome,omitempty"`
}

// part is what the offer has of it.
func (v PartArrived) part() Part {
	return Part{Htlc: v.Htlc, At: v.At, Order: v.Order, SatBlocks: lsp.SatBlocks(v.Htlc.IncomingMsat, v.Height, v.Htlc.AutoFailHeight)}
}

// Held is the set of parts of one attempt.
type Held struct {
	Parts []Part `json:"parts"`
}

// Waiting are parts beyond the amount that came while the fate of forwarded
// ones was open (see Forwarded.extra).
type Waiting struct {
	Spares []Part `json:"spares,omitempty"`
}

// Offer is the part every state has.
type Offer struct {
	Terms
	Progress
}

// State is one of the states below.
type State interface {
	StateName() string
	offer() Offer
}

// The states.
type (
	// Offered: waiting for a payment; nothing is held.
	Offered struct{ Offer }
	// Collecting: parts are held, waiting for siblings or for the wallet.
	Collecting struct {
		Offer
		Held
		Deadline time.Time `json:"deadline"`
	}
	// Opening: the set is complete and checked, a channel is being opened.
	Opening struct {
		Offer
		Held
		OpeningID string `json:"opening_id"`
		// Deadline is zero when confirmations are awaited: then only block
		// heights end it.
		Deadline time.Time `json:"deadline,omitzero"`
	}
	// Mapping: a channel with room exists, the alias is being added and the
	// channel's policy awaited.
	Mapping struct {
		Offer
		Held
		Via      ln.SCID   `json:"via"`
		Deadline time.Time `json:"deadline"`
	}
	// Resuming: the decision to forward is stored; lnd is being told.
	Resuming struct {
		Offer
		Held
		Waiting
		Via ln.SCID `json:"via"`
	}
	// Forwarded: lnd has the decision; the wallet claims, or not.
	Forwarded struct {
		Offer
		Held
		Waiting
		Via ln.SCID `json:"via"`
	}
	// Paid: final; the wallet has its money and the gateway its fee.
	Paid struct {
		Offer
		Held
		Via           ln.SCID   `json:"via"`
		ForwardedMsat ln.Msat   `json:"forwarded_msat"`
		FeeEarnedMsat ln.Msat   `json:"fee_earned_msat"`
		At            time.Time `json:"at"`
	}
	// Refunded: final; the payer has the money back and this offer will not be
	// tried again.
	Refunded struct {
		Offer
		Reason lsp.Reason `json:"reason"`
	}
	// Expired: final; nobody paid in time.
	Expired struct {
		Offer
		Reason lsp.Reason `json:"reason"`
	}
	// Cancelled: final; the client or an operator withdrew it.
	Cancelled struct {
		Offer
		Reason lsp.Reason `json:"reason"`
	}
)

func (o Offer) offer() Offer { return o }

// StateName is the stable text under which the state is stored.
func (Offered) StateName() string    { return "offered" }
func (Collecting) StateName() string { return "collecting" }
func (Opening) StateName() string    { return "opening" }
func (Mapping) StateName() string    { return "mapping" }
func (Resuming) StateName() string   { return "resuming" }
func (Forwarded) StateName() string  { return "forwarded" }
func (Paid) StateName() string       { return "paid" }
func (Refunded) StateName() string   { return "refunded" }
func (Expired) StateName() string    { return "expired" }
func (Cancelled) StateName() string  { return "cancelled" }

// OfferOf is the offer behind a state, with its progress.
func OfferOf(s State) Offer { return s.offer() }

// PartsOf are the HTLCs that the state holds or has resumed.
func PartsOf(s State) []Part {
	switch s := s.(type) {
	case Collecting:
		return s.Parts
	case Opening:
		return s.Parts
	case Mapping:
		return s.Parts
	case Resuming:
		return slices.Concat(s.Parts, s.Spares)
	case Forwarded:
		return slices.Concat(s.Parts, s.Spares)
	case Paid:
		return s.Parts
	}
	return nil
}

// OpenMsat is what was handed on and has not ended.
func (s Forwarded) OpenMsat() (sum ln.Msat) {
	for _, p := range s.Parts {
		if p.Outcome == OutcomeOpen {
			// It does not wrap: CheckPart bounds each part, MaxParts their number.
			sum += p.Htlc.OutgoingMsat - p.ExtraFeeMsat
		}
	}
	return sum
}

// OpenMsat as in Forwarded.
func (s Resuming) OpenMsat() ln.Msat { return Forwarded(s).OpenMsat() }

// HoldOf is what the state keeps of payers' money.
func HoldOf(s State) (h lsp.Holding) {
	if Final(s) {
		return h
	}
	for _, p := range PartsOf(s) {
		if p.Outcome == OutcomeOpen {
			// Neither sum wraps: CheckPart bounds each part, MaxParts their number.
			h.HeldMsat += p.Htlc.IncomingMsat
			h.SatBlocks += p.SatBlocks
			h.Slots = h.Slots.With(p.Htlc.Key.ChanID)
		}
	}
	return h
}

// Final reports that the offer has ended.
func Final(s State) bool {
	switch s.(type) {
	case Paid, Refunded, Expired, Cancelled:
		return true
	}
	return false
}
