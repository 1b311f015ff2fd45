package opening

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// Plan is what is to be opened. It never changes while the open lives.
type Plan struct {
	ID string `json:"id"`
	// Owner names the payment that the channel is for; NotifyOwner carries it.
	Owner       string    `json:"owner"`
	Client      ln.PubKey `json:"client"`
	CapacitySat ln.Sat    `json:"capacity_sat"`
	// PushSat of the capacity is the client's from the start.
	PushSat ln.Sat `json:"push_sat,omitempty"`
	// Announce makes the channel public, with this policy of ours.
	Announce    bool    `json:"announce,omitempty"`
	BaseFeeMsat ln.Msat `json:"base_fee_msat,omitempty"`
	FeePPM      uint64  `json:"fee_ppm,omitempty"`
	// TellPublished: the owner waits for the transaction to be public.
	TellPublished bool               `json:"tell_published,omitempty"`
	Type          ln.CommitmentType  `json:"commitment_type"`
	FeeRate       ln.FeeRateSatPerKW `json:"fee_rate_sat_per_kw"`
	// MaxFeeSat is the most that the funding transaction may pay; 0 is no bound.
	MaxFeeSat ln.Sat `json:"max_fee_sat,omitempty"`
	ZeroConf  bool   `json:"zero_conf"`
	// Withhold keeps the funding transaction back, though the owner uses the
	// channel, until the owner says Release: the client trusts the gateway with it
	// (bLIP-52, client_trusts_lsp). It needs ZeroConf.
	Withhold bool `json:"withhold,omitempty"`
	// WithholdMarginBlocks before an HTLC on such a channel expires it is funded
	// after all: only then can the HTLC be resolved on chain.
	WithholdMarginBlocks uint32 `json:"withhold_margin_blocks,omitempty"`
	// Confs are the confirmations that make the channel usable without
	// zero-conf; with it they are ignored.
	Confs uint32 `json:"confs,omitempty"`
	// MinLifetimeBlocks is for how long the client was promised to have the channel.
	MinLifetimeBlocks uint32 `json:"min_lifetime_blocks,omitempty"`
	// BuriedConfs end the open: a reorg deeper than this is not undone.
	BuriedConfs uint32 `json:"buried_confs"`
	MaxLocalCSV uint16 `json:"max_local_csv,omitempty"`
	// Seed makes the pending channel ids; it is drawn once, at random.
	Seed [32]byte `json:"seed"`
	// Batch is the batch of channels that share this one's funding transaction; empty
	// for a channel that has one of its own. The batch chooses the coins, builds the
	// transaction and signs it, for all its channels or for none.
	Batch string `json:"batch,omitempty"`
	// Deadline ends an open that has not been signed by then.
	Deadline time.Time `json:"deadline"`
	Memo     string    `json:"memo,omitempty"`
	// BumpAfterBlocks is how long a published transaction may wait before it is
	// bumped, and how long until the next bump; 0 never bumps.
	BumpAfterBlocks uint32 `json:"bump_after_blocks,omitempty"`
	// MaxNegotiations bounds how often the peer is asked: again after a crash cut the
	// negotiation off before the funding transaction existed, or after the peer could
	// not take the channel for a moment.
	MaxNegotiations uint32 `json:"max_negotiations"`
}

// PendingID is the pending channel id of the n-th negotiation (from 0). A
// negotiation cut off may live on in lnd, so each has an id of its own.
func (p Plan) PendingID(n uint32) ln.PendingChanID {
	return sha256.Sum256(binary.BigEndian.AppendUint32(append([]byte("sluice/opening/"), p.Seed[:]...), n))
}

// leaseMark begins every lease id of ours, so that they are known from those of
// other programs that share lnd's wallet.
const leaseMark = "sluice\x00\x01"

// LeaseID is the id under which all coins of this open are leased, so that
// leasing again and releasing are idempotent and touch no other open's coins.
func (p Plan) LeaseID() [32]byte {
	if p.Batch != "" {
		return BatchLeaseID(p.Batch)
	}
	id := sha256.Sum256(append([]byte("sluice/lease/"), p.Seed[:]...))
	copy(id[:], leaseMark)
	return id
}

// BatchLeaseID is the id under which a batch leases the coins of its transaction.
func BatchLeaseID(batch string) [32]byte {
	id := sha256.Sum256([]byte("sluice/lease/batch/" + batch))
	copy(id[:], leaseMark)
	return id
}

// IsLeaseID reports that a lease was taken for an open of ours.
func IsLeaseID(id [32]byte) bool { return string(id[:len(leaseMark)]) == leaseMark }

// Coins are the leased inputs and where the change goes.
type Coins struct {
	Selection    funding.Selection `json:"selection"`
	ChangeScript []byte            `json:"change_script,omitempty"`
	// Negotiation counts from 0; PendingID(Negotiation) is the one under way.
	Negotiation uint32 `json:"negotiation"`
	// Share is set where the transaction funds other channels as well: then the
	// selection is that of all of them.
	Share *Share `json:"share,omitempty"`
}

// Share is one channel's part in a transaction of several.
type Share struct {
	// FeeSat is its part of the transaction's fee; the parts make the whole.
	FeeSat ln.Sat `json:"fee_sat"`
	// First is the outpoint of the transaction's first channel: the books clear the
	// whole transaction there, which lnd's wallet lists as one.
	First ln.Outpoint `json:"first"`
}

// Unsigned is the funding transaction before anyone signed it.
type Unsigned struct {
	Psbt           []byte      `json:"psbt"`
	Outpoint       ln.Outpoint `json:"outpoint"`
	ChangeOutpoint ln.Outpoint `json:"change_outpoint,omitzero"`
}

// Link is what lnd has shown of the channel so far.
type Link struct {
	Active bool `json:"active,omitempty"`
	// ChanID is lnd's base SCID: the alias of a zero-conf channel.
	ChanID ln.SCID `json:"chan_id,omitempty"`
}

// Tx is the signed transaction and its life on the network.
type Tx struct {
	Raw []byte `json:"raw"`
	// SignedHeight counts the wait until a bump.
	SignedHeight uint32 `json:"signed_height"`
	// ConfirmedHeight is the block that holds it; 0 while unconfirmed.
	ConfirmedHeight uint32 `json:"confirmed_height,omitempty"`
	// BumpHeight and BumpRate are the last bump asked for (a package rate).
	BumpHeight uint32             `json:"bump_height,omitempty"`
	BumpRate   ln.FeeRateSatPerKW `json:"bump_rate_sat_per_kw,omitempty"`
	// Spender is a transaction in the best chain that spends an input of ours.
	Spender       ln.TxID `json:"spender,omitzero"`
	SpenderHeight uint32  `json:"spender_height,omitempty"`
	// Told says that the owner knows that the channel is usable, ToldPublished
	// that its transaction is public.
	Told          bool `json:"told,omitempty"`
	ToldPublished bool `json:"told_published,omitempty"`
	// Trouble is the last refusal of the transaction by the network, if any.
	Trouble lsp.Reason `json:"trouble,omitzero"`
}

// State is one of the states below.
type State interface {
	StateName() string
	plan() Plan
}

// The states. Each carries all that was known before.
type (
	// Planned: decided; no coin is leased for sure (some may be, after a crash).
	Planned struct{ Plan }
	// Joined: the peer is asked for the channel, for a transaction that the batch
	// builds once each of its channels has an output. No coin is this open's alone.
	Joined struct {
		Plan
		// Script is the funding output that lnd named, once it has.
		Script []byte `json:"script,omitempty"`
	}
	// Leased: the inputs are ours alone; lnd negotiates, nothing is built.
	Leased struct {
		Plan
		Coins
		// AskAt is when the peer is asked again, which could not take the channel a
		// moment ago; zero while it is being asked.
		AskAt time.Time `json:"ask_at,omitzero"`
	}
	// Built: the unsigned transaction and its outpoint are known and stored;
	// psbt_verify may have been called. lnd may or may not know the channel.
	Built struct {
		Plan
		Coins
		Unsigned
		Link
	}
	// Unknown: as Built, but the negotiation's outcome was cut off; lnd is
	// being asked.
	Unknown struct {
		Plan
		Coins
		Unsigned
		Link
	}
	// Pending: both sides hold the other's commitment signature; no input has
	// been signed for anyone to see.
	Pending struct {
		Plan
		Coins
		Unsigned
		Link
	}
	// Withheld: as Pending, and the owner uses the channel, which nothing funds.
	// Only the owner ends this, or what lnd shows of the channel's use: money may
	// be on its way over it, so no deadline does.
	Withheld struct {
		Plan
		Coins
		Unsigned
		Link
		// Withdrawn is why the owner wants the channel no more. It is given up once
		// nothing is on it; if the client has money in it, it is funded instead.
		Withdrawn lsp.Reason `json:"withdrawn,omitzero"`
		// Forgetting: lnd is being made to forget the channel, and only its answer
		// counts: a funding that is signed now may be of a channel that is gone.
		Forgetting bool `json:"forgetting,omitempty"`
	}
	// Released: the client has money in the channel, or may get some. It must be
	// signed and published, whatever happens. No way back.
	Released struct {
		Plan
		Coins
		Unsigned
		Link
		// Trouble is why the wallet would not sign, if it did not.
		Trouble lsp.Reason `json:"trouble,omitzero"`
	}
	// Signed: the raw transaction is stored; it may be public. No way back.
	Signed struct {
		Plan
		Coins
		Unsigned
		Link
		Tx
	}
	// Published: the node accepted the transaction for the network.
	Published struct {
		Plan
		Coins
		Unsigned
		Link
		Tx
	}
	// Usable: published and active (with its confirmations, when asked for);
	// the owner was told. The transaction is not confirmed for zero-conf.
	Usable struct {
		Plan
		Coins
		Unsigned
		Link
		Tx
	}
	// Confirmed: in a block and usable, not yet buried.
	Confirmed struct {
		Plan
		Coins
		Unsigned
		Link
		Tx
	}
	// Buried: final and good. The leases are forgotten.
	Buried struct {
		Plan
		Coins
		Unsigned
		Link
		Tx
	}
	// Rejected: final; the peer said no, in its words. Coins are released.
	Rejected struct {
		Plan
		Text   string     `json:"text"`
		Reason lsp.Reason `json:"reason"`
		// NotNow says that its words decide nothing: it may say yes soon.
		NotNow bool `json:"not_now,omitempty"`
		// Outpoint is set when an unsigned transaction had been built.
		Outpoint ln.Outpoint `json:"outpoint,omitzero"`
	}
	// Failed: final; nothing was published and the coins are released.
	Failed struct {
		Plan
		Reason lsp.Reason `json:"reason"`
		// Temporary says that the same open may succeed soon.
		Temporary bool `json:"temporary"`
		// Spared: it ended for the sake of others in its batch.
		Spared   bool        `json:"spared,omitempty"`
		Outpoint ln.Outpoint `json:"outpoint,omitzero"`
	}
	// Conflicted: final; another transaction spent an input and is buried, so
	// the channel can never exist. A person must look.
	Conflicted struct {
		Plan
		Coins
		Unsigned
		Link
		Tx
		Reason lsp.Reason `json:"reason"`
	}
)

func (p Plan) plan() Plan { return p }

// StateName is the stable text under which the state is stored.
func (Planned) StateName() string    { return "planned" }
func (Joined) StateName() string     { return "joined" }
func (Leased) StateName() string     { return "leased" }
func (Built) StateName() string      { return "built" }
func (Unknown) StateName() string    { return "unknown" }
func (Pending) StateName() string    { return "pending" }
func (Withheld) StateName() string   { return "withheld" }
func (Released) StateName() string   { return "released" }
func (Signed) StateName() string     { return "signed" }
func (Published) StateName() string  { return "published" }
func (Usable) StateName() string     { return "usable" }
func (Confirmed) StateName() string  { return "confirmed" }
func (Buried) StateName() string     { return "buried" }
func (Rejected) StateName() string   { return "rejected" }
func (Failed) StateName() string     { return "failed" }
func (Conflicted) StateName() string { return "conflicted" }

// PlanOf is what the state's open set out to do.
func PlanOf(s State) Plan { return s.plan() }

// Final reports that no event will change the state any more.
func Final(s State) bool {
	switch s.(type) {
	case Buried, Rejected, Failed, Conflicted:
		return true
	}
	return false
}

// CarriesPayments reports that the channel has been usable, so that nothing
// waits for it to become so.
func CarriesPayments(s State) bool {
	switch s.(type) {
	case Withheld, Released, Usable, Confirmed, Buried:
		return true
	}
	return false
}

// CanAbandon reports that the open can still be given up with no transaction
// of it anywhere. A Withheld one is given up once its channel is empty.
func CanAbandon(s State) bool {
	switch s.(type) {
	case Planned, Joined, Leased, Built, Unknown, Pending, Withheld:
		return true
	}
	return false
}
