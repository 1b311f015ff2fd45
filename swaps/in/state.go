package in

import (
	"fmt"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// Plan is what was agreed. It never changes while the swap lives.
type Plan struct {
	Terms       htlc.Terms `json:"terms"`
	AmountSat   ln.Sat     `json:"amount_sat"`
	Invoice     string     `json:"invoice"`
	InvoiceMsat ln.Msat    `json:"invoice_msat"`
	Probe       string     `json:"probe"`
	ProbeHash   ln.Hash    `json:"probe_hash"`
	LastHop     ln.PubKey  `json:"last_hop,omitzero"`
	// MaxRoutingMsat is the most that the payment may cost besides.
	MaxRoutingMsat ln.Msat   `json:"max_routing_msat"`
	ProbeBy        time.Time `json:"probe_by"`
	// Confs must the output have; DeepConfs are those after which a reorg is not
	// expected to undo it.
	Confs     uint32 `json:"confs"`
	DeepConfs uint32 `json:"deep_confs"`
	// PayMarginBlocks lie between the end of our payment and the expiry;
	// MinCltvBlocks must be left for the payment itself.
	PayMarginBlocks uint32        `json:"pay_margin_blocks"`
	MinCltvBlocks   uint32        `json:"min_cltv_blocks"`
	MaxAttempts     int           `json:"max_attempts"`
	KeyFor          time.Duration `json:"key_for"`
	// WaitBlocks may a claim wait for others to share its transaction with.
	WaitBlocks  uint32 `json:"wait_blocks,omitempty"`
	BeginHeight uint32 `json:"begin_height"`
	// ReserveBlocks after that a swap without a deposit keeps room from others no more.
	ReserveBlocks uint32 `json:"reserve_blocks,omitempty"`
	// Client is what it calls itself, Caller what it is capped by.
	Client string `json:"client,omitempty"`
	Caller string `json:"caller,omitempty"`
	// Open is set for a client without a channel: one is opened for it.
	Open *Open `json:"open,omitempty"`
}

// Open is what a swap in that opens a channel agreed on besides. Nothing can be
// probed before there is a channel, and the payment takes that one hop.
type Open struct {
	// ID names the channel's open where channels are opened.
	ID          string    `json:"id"`
	Node        ln.PubKey `json:"node"`
	PaymentAddr [32]byte  `json:"payment_addr"`
	FinalCltv   uint32    `json:"final_cltv"`
	// FeeMsat is what the channel costs: a part of what is not paid out.
	FeeMsat     ln.Msat `json:"fee_msat"`
	CapacitySat ln.Sat  `json:"capacity_sat"`
	// Confs are the channel's own, before it is paid over.
	Confs    uint32 `json:"confs"`
	MaxOpens uint32 `json:"max_opens"`
	// DepositByHeight is the last block that the output may confirm in: who never
	// deposits keeps no place.
	DepositByHeight uint32 `json:"deposit_by_height"`
}

// OpeningID names the n-th open, from 1.
func (o Open) OpeningID(n uint32) string { return fmt.Sprintf("%s-s%d", o.ID, n) }

// ID names the swap.
func (p Plan) ID() string { return p.Terms.Hash.String() }

// LastPayHeight is the last height at which a payment may be sent.
func (p Plan) LastPayHeight() uint32 {
	return p.Terms.ExpiryHeight - min(p.Terms.ExpiryHeight, p.PayMarginBlocks+p.MinCltvBlocks)
}

// Output is the client's, in the best chain; zero while there is none.
type Output struct {
	Outpoint        ln.Outpoint `json:"outpoint,omitzero"`
	ConfirmedHeight uint32      `json:"confirmed_height,omitempty"`
	Away
}

func (o Output) trouble() swaps.Reason {
	if o.ConfirmedHeight > 0 {
		return swaps.Reason{}
	}
	return swaps.Reason{Text: fmt.Sprintf("no block holds the output %s any more, since height %d", o.Outpoint, o.AwayHeight)}
}

// Away is what is known of an output that is paid for, or may be, while no block
// holds it.
type Away struct {
	// AwayHeight is the tip at which no block was known to hold it any more.
	AwayHeight uint32 `json:"away_height,omitempty"`
	// Other pays the contract exactly as well, in the block of OtherHeight: perhaps the
	// client's own replacement, which another miner had.
	Other       ln.Outpoint `json:"other,omitzero"`
	OtherHeight uint32      `json:"other_height,omitempty"`
}

// undone: no block is known to hold it.
func (o Output) undone(v OutputReorged) Output {
	switch {
	case v.Outpoint == o.Other && o.OtherHeight > 0:
		o.Other, o.OtherHeight = ln.Outpoint{}, 0
	case v.Outpoint == o.Outpoint && o.ConfirmedHeight > 0:
		o.ConfirmedHeight, o.AwayHeight = 0, v.Height
	}
	return o
}

// unpaidUndone is undone of an output that nothing was paid for: the swap waits for
// another one.
func (o Output) unpaidUndone(v OutputReorged) Output {
	if v.Unsure || v.Outpoint != o.Outpoint {
		return o.undone(v)
	}
	return Output{Outpoint: o.Other, ConfirmedHeight: o.OtherHeight}
}

// found is what the chain says of an output that is paid for, or may be.
func (p Plan) found(o Output, v OutputFound) Output {
	switch {
	case v.Outpoint == o.Outpoint:
		o.ConfirmedHeight, o.AwayHeight = v.ConfirmedHeight, 0
	case v.ValueSat == p.AmountSat:
		o.Other, o.OtherHeight = v.Outpoint, v.ConfirmedHeight
	}
	return o
}

// moved: after a reorg another transaction pays the contract, and stands while the one
// that was paid for does not come back. That is the one to claim then. A client that
// pays twice moves nothing: what it paid first is there.
func (p Plan) moved(o Output, tip uint32) (Output, bool) {
	if o.ConfirmedHeight > 0 || o.OtherHeight == 0 || tip < o.AwayHeight+p.DeepConfs {
		return o, false
	}
	return Output{Outpoint: o.Other, ConfirmedHeight: o.OtherHeight}, true
}

// Payment is ours to the client.
type Payment struct {
	Attempts int `json:"attempts,omitempty"`
	// Preimage is the client's, once paid.
	Preimage swaps.Secret `json:"preimage,omitzero"`
	FeeMsat  ln.Msat      `json:"fee_msat,omitempty"`
	KeyBy    time.Time    `json:"key_by,omitzero"`
	// KeyLate: the client's key was waited for long enough.
	KeyLate bool `json:"key_late,omitempty"`
	// ClaimBy is the height at which the claim waits for no others any more.
	ClaimBy uint32 `json:"claim_by,omitempty"`
	// ClientKey is the client's internal private key, once pushed: worth nothing
	// without ours, and given to us to make the claim cheap.
	ClientKey swaps.Secret `json:"client_key,omitzero"`
	// OldClaims spend an output that another one took the place of.
	OldClaims []ln.TxID `json:"old_claims,omitempty"`
	// ChanID is the channel that was opened for it, Opens how many opens were
	// begun and failed, ExpiryHeight the payment's own over that channel.
	ChanID       ln.SCID `json:"chan_id,omitempty"`
	Opens        uint32  `json:"opens,omitempty"`
	ExpiryHeight uint32  `json:"expiry_height,omitempty"`
}

// Claim is our signed spend, the latest one. Swaps in that are claimed at the same
// time share one.
type Claim struct {
	Raw  []byte  `json:"raw"`
	TxID ln.TxID `json:"txid"`
	// ClaimFeeSat is this swap's part of TxFeeSat, which the transaction pays; Shared
	// is how many swaps it serves.
	ClaimFeeSat ln.Sat             `json:"claim_fee_sat"`
	TxFeeSat    ln.Sat             `json:"tx_fee_sat,omitempty"`
	Shared      int                `json:"shared,omitempty"`
	Rate        ln.FeeRateSatPerKW `json:"rate_sat_per_kw"`
	Height      uint32             `json:"height"`
	// Claims are all that were signed: an earlier one may confirm.
	Claims []swaps.Version `json:"claims,omitempty"`
	// Spent is how the output was spent in the best chain, and by what.
	Spent       htlc.Spend `json:"spent,omitempty"`
	SpentBy     ln.TxID    `json:"spent_by,omitzero"`
	SpentHeight uint32     `json:"spent_height,omitempty"`
	SpentFeeSat ln.Sat     `json:"spent_fee_sat,omitempty"`
}

// State is one of the states below.
type State interface {
	StateName() string
	plan() Plan
}

// The states.
type (
	// Probing: the client's wallet is being probed; it knows no address yet.
	Probing struct{ Plan }
	// ProbeHeld: the client's wallet did not give the probe back in time, and holds it.
	// Nothing is begun, and the swap keeps its place until the money is back.
	ProbeHeld struct{ Plan }
	// Waiting: for the output, its confirmations, or the next attempt to pay.
	Waiting struct {
		Plan
		Output
		Payment
	}
	// Opening: the output is there, and a channel is being opened for the client.
	Opening struct {
		Plan
		Output
		Payment
	}
	// Paying: our payment may be in flight.
	Paying struct {
		Plan
		Output
		Payment
	}
	// Paid: the preimage is stored; the client may still give its key away.
	Paid struct {
		Plan
		Output
		Payment
	}
	// Claiming: a claim is signed and may be public.
	Claiming struct {
		Plan
		Output
		Payment
		Claim
	}
	// Claimed: final; the output is ours.
	Claimed struct {
		Plan
		Output
		Payment
		Claim
	}
	// Failed: final; nothing was paid. What the client locked it takes back
	// itself after the expiry.
	Failed struct {
		Plan
		Output
		Reason swaps.Reason `json:"reason"`
	}
	// Lost: final; it was paid for and the client has the output as well.
	Lost struct {
		Plan
		Output
		Payment
		Claim
		Reason swaps.Reason `json:"reason"`
	}
)

func (p Plan) plan() Plan { return p }

// StateName is the stable text under which the state is stored.
func (Probing) StateName() string   { return "probing" }
func (ProbeHeld) StateName() string { return "probe_held" }
func (Waiting) StateName() string   { return "waiting" }
func (Opening) StateName() string   { return "opening" }
func (Paying) StateName() string    { return "paying" }
func (Paid) StateName() string      { return "paid" }
func (Claiming) StateName() string  { return "claiming" }
func (Claimed) StateName() string   { return "claimed" }
func (Failed) StateName() string    { return "failed" }
func (Lost) StateName() string      { return "lost" }

// PlanOf is what the state's swap agreed.
func PlanOf(s State) Plan { return s.plan() }

// Final reports that no event will change the state any more.
func Final(s State) bool {
	switch s.(type) {
	case Claimed, Failed, Lost:
		return true
	}
	return false
}

// OutputOf is the client's output, as far as it is known.
func OutputOf(s State) Output {
	switch s := s.(type) {
	case Claimed:
		return s.Output
	case Failed:
		return s.Output
	case Lost:
		return s.Output
	case Waiting:
		return s.Output
	case Opening:
		return s.Output
	case Paying:
		return s.Output
	case Paid:
		return s.Output
	case Claiming:
		return s.Output
	}
	return Output{}
}

// Claimable are the parts of a state whose output may be claimed now: it was paid
// for, the client's key is there or late, and nothing spends it yet.
func Claimable(s State) (Paid, Claim, bool) {
	switch s := s.(type) {
	case Paid:
		return s, Claim{}, s.ready()
	case Claiming:
		return Paid{Plan: s.Plan, Output: s.Output, Payment: s.Payment}, s.Claim, s.Spent == ""
	}
	return Paid{}, Claim{}, false
}

// PaidOf are the parts of a state that was paid for.
func PaidOf(s State) (Payment, Claim, bool) {
	switch s := s.(type) {
	case Paid:
		return s.Payment, Claim{}, true
	case Claiming:
		return s.Payment, s.Claim, true
	case Claimed:
		return s.Payment, s.Claim, true
	case Lost:
		return s.Payment, s.Claim, true
	}
	return Payment{}, Claim{}, false
}

// ready: there is nothing to wait for but company.
func (p Payment) ready() bool { return !p.ClientKey.IsZero() || p.KeyLate }

// forget takes out of the wallet what can never confirm: claims of outputs that are
// gone, and of this one if it is.
func (p Payment) forget(claims []swaps.Version) []Effect {
	ids := slices.Clone(p.OldClaims)
	for _, c := range claims {
		ids = append(ids, c.TxID)
	}
	if len(ids) == 0 {
		return nil
	}
	return []Effect{ForgetTxs{TxIDs: ids}}
}

// MostClaimSat is the most that a claim ever pays.
func (p Plan) MostClaimSat() ln.Sat { return p.AmountSat / 2 }

// Way is how the output is claimed.
func (p Payment) Way() htlc.Spend {
	if p.ClientKey.IsZero() {
		return htlc.SpendSuccess
	}
	return htlc.SpendKey
}

// Coming says that the swap will want to claim its output before long, if all goes
// well: a claim that waits for company waits for it.
func Coming(s State) bool {
	switch s := s.(type) {
	case Waiting:
		return s.ConfirmedHeight > 0
	case Opening, Paying, Paid:
		return true
	}
	return false
}

// ReasonOf is why a swap ended, or what troubles it.
func ReasonOf(s State) swaps.Reason {
	switch s := s.(type) {
	case Paying:
		return s.trouble()
	case Paid:
		return s.trouble()
	case Claiming:
		return s.trouble()
	case Failed:
		return s.Reason
	case Lost:
		return s.Reason
	}
	return swaps.Reason{}
}

// Exposed is what a reorg at this tip could take: paid for, or about to be, by
// an output that is not deep.
func Exposed(s State, tip uint32) ln.Sat {
	switch s.(type) {
	case Paying, Paid, Claiming:
	default:
		return 0
	}
	p := PlanOf(s)
	if ln.Confirmations(OutputOf(s).ConfirmedHeight, tip) >= p.DeepConfs {
		return 0
	}
	return p.AmountSat
}

// Lapsed says that a swap which nobody deposited to keeps no room from others any
// more. It is paid all the same if a deposit comes in time, and there is room then.
func Lapsed(s State, tip uint32) bool {
	w, waits := s.(Waiting)
	return waits && w.Open == nil && w.Outpoint.IsZero() && tip > w.BeginHeight+w.ReserveBlocks
}

// Coins is what the state may still take of the wallet's coins for a channel.
func Coins(s State) ln.Sat {
	p := PlanOf(s)
	if p.Open == nil {
		return 0
	}
	switch s := s.(type) {
	case Waiting:
		if s.ChanID == 0 {
			return p.Open.CapacitySat
		}
	case Opening:
		return p.Open.CapacitySat
	}
	return 0
}

// Promised is what the state may still pay over channels that are there.
func Promised(s State) ln.Sat {
	if PlanOf(s).Open != nil {
		return 0
	}
	switch s.(type) {
	case Probing, Waiting, Paying:
		return PlanOf(s).AmountSat
	}
	return 0
}
