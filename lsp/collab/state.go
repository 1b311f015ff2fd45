package collab

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// Input is a coin that the wallet offers, and where the gateway finds it.
type Input struct {
	ln.Coin
	// Height is the block that holds its transaction, as the wallet says; the
	// gateway looks there.
	Height uint32 `json:"height"`
}

// Plan is what was agreed. It never changes while the open lives.
type Plan struct {
	ID     string    `json:"id"`
	Client ln.PubKey `json:"client"`
	// Nonce is the wallet's: with its key it makes the id of the negotiation, so
	// that both sides know that id before it begins.
	Nonce [32]byte `json:"nonce"`

	CapacitySat ln.Sat `json:"capacity_sat"`
	// WalletSat of the capacity is the wallet's from the start.
	WalletSat ln.Sat `json:"wallet_sat"`
	// ServiceFeeSat is what the wallet pays the gateway for its part.
	ServiceFeeSat ln.Sat  `json:"service_fee_sat"`
	Inputs        []Input `json:"inputs"`
	ChangeScript  []byte  `json:"change_script,omitempty"`
	// MaxWalletFeeSat is the most that the wallet pays to miners.
	MaxWalletFeeSat ln.Sat             `json:"max_wallet_fee_sat"`
	FeeRate         ln.FeeRateSatPerKW `json:"fee_rate_sat_per_kw"`

	Type        ln.CommitmentType `json:"commitment_type"`
	ZeroConf    bool              `json:"zero_conf,omitempty"`
	MaxLocalCSV uint16            `json:"max_local_csv,omitempty"`
	// MinInputConfs must each of the wallet's coins have.
	MinInputConfs uint32 `json:"min_input_confs"`
	// BuriedConfs are those after which nothing is expected to be undone.
	BuriedConfs     uint32 `json:"buried_confs"`
	BumpAfterBlocks uint32 `json:"bump_after_blocks,omitempty"`
	// NegotiateBy ends an open that has no commitments by then; SignFor is how
	// long the wallet has to sign once it has.
	NegotiateBy time.Time     `json:"negotiate_by"`
	SignFor     time.Duration `json:"sign_for"`
	// Replaces is an open of the same wallet's whose place this one takes.
	Replaces string `json:"replaces,omitempty"`
	// SpendSat is what the wallet may spend over the channel before it is buried, as
	// was agreed at OfferedAt.
	SpendSat  ln.Sat    `json:"spend_sat,omitempty"`
	OfferedAt time.Time `json:"offered_at,omitzero"`
}

// PendingID is the id of the channel's negotiation. It covers the wallet's key:
// nobody can name another wallet's.
func PendingID(client ln.PubKey, nonce [32]byte) ln.PendingChanID {
	return sha256.Sum256(append(append([]byte("sluice/collab/pending/"), client[:]...), nonce[:]...))
}

// ID names a wallet's joint funding by its nonce: offering again finds it, and the
// wallet knows it beforehand.
func ID(client ln.PubKey, nonce [32]byte) string {
	sum := sha256.Sum256(append(append([]byte("sluice/collab/id/"), client[:]...), nonce[:]...))
	return hex.EncodeToString(sum[:12])
}

// PendingID is the plan's.
func (p Plan) PendingID() ln.PendingChanID { return PendingID(p.Client, p.Nonce) }

// leaseMark begins every lease id of joint fundings, so that they are known from
// those of other opens and of other programs.
const leaseMark = "sluice\x00\x02"

// LeaseID is the id under which all our coins of this open are leased.
func (p Plan) LeaseID() [32]byte {
	id := sha256.Sum256(append(append([]byte("sluice/collab/lease/"), p.Client[:]...), p.Nonce[:]...))
	copy(id[:], leaseMark)
	return id
}

// IsLeaseID reports that a lease was taken for a joint funding.
func IsLeaseID(id [32]byte) bool { return string(id[:len(leaseMark)]) == leaseMark }

// Memo marks the channel in lnd: by it everybody knows that another's coins are in
// its funding, and what may be spent over it all the same.
func (p Plan) Memo() string {
	return ln.JointTerms{ID: p.ID, SpendSat: p.SpendSat, Since: p.OfferedAt}.Memo()
}

// Ours are the gateway's leased coins and where its change goes.
type Ours struct {
	Gateway funding.Party `json:"gateway"`
	Joint   funding.Joint `json:"joint"`
}

// wallet is the other party.
func (p Plan) wallet() funding.Party {
	coins := make([]ln.Coin, 0, len(p.Inputs))
	for _, in := range p.Inputs {
		coins = append(coins, in.Coin)
	}
	return funding.Party{Inputs: coins, OutlaySat: p.WalletSat + p.ServiceFeeSat, ChangeScript: p.ChangeScript} //nolint:gosec // bounded where it was agreed
}

// WalletParty is what the wallet brings.
func WalletParty(p Plan) funding.Party { return p.wallet() }

// GatewayOutlaySat is what the gateway pays besides its share of the chain fee.
func (p Plan) GatewayOutlaySat() ln.Sat { return p.CapacitySat - p.WalletSat - p.ServiceFeeSat }

// Spend is a transaction in the best chain that spends an input.
type Spend struct {
	Input  ln.Outpoint `json:"input"`
	By     ln.TxID     `json:"by"`
	Height uint32      `json:"height"`
}

// Tx is the complete transaction and its life on the network.
type Tx struct {
	Raw          []byte `json:"raw"`
	SignedHeight uint32 `json:"signed_height"`
	// Spends are the inputs that the best chain has spent, by whatever.
	Spends     []Spend            `json:"spends,omitempty"`
	BumpHeight uint32             `json:"bump_height,omitempty"`
	BumpRate   ln.FeeRateSatPerKW `json:"bump_rate_sat_per_kw,omitempty"`
	// Trouble is the last refusal of the transaction by the network.
	Trouble lsp.Reason `json:"trouble,omitzero"`
}

// State is one of the states below.
type State interface {
	StateName() string
	plan() Plan
}

// The states. Each carries all that was known before.
type (
	// Checking: the wallet's coins are looked up in the chain.
	Checking struct{ Plan }
	// Choosing: ours are chosen and leased; some may be, after a crash.
	Choosing struct{ Plan }
	// Negotiating: our coins are leased; lnd negotiates, nothing is built.
	Negotiating struct {
		Plan
		Ours
	}
	// Built: the unsigned transaction is stored; psbt_verify may have been
	// called. lnd may or may not know the channel.
	Built struct {
		Plan
		Ours
		funding.JointTx
	}
	// Ready: both sides hold the other's commitment signature; the wallet
	// reviews. Nobody has signed an input.
	Ready struct {
		Plan
		Ours
		funding.JointTx
		SignBy time.Time `json:"sign_by"`
	}
	// Countersigning: the wallet's signatures are stored; ours is being made.
	Countersigning struct {
		Plan
		Ours
		funding.JointTx
		Half []byte `json:"half"`
	}
	// Signed: the complete transaction is stored; it may be public. No way back.
	Signed struct {
		Plan
		Ours
		funding.JointTx
		Tx
	}
	// Published: the node took it for the network.
	Published struct {
		Plan
		Ours
		funding.JointTx
		Tx
	}
	// Confirmed: in a block, not yet buried.
	Confirmed struct {
		Plan
		Ours
		funding.JointTx
		Tx
	}
	// Buried: final and good.
	Buried struct {
		Plan
		Ours
		funding.JointTx
		Tx
	}
	// Failed: final; no signature of ours left, and our coins are released.
	Failed struct {
		Plan
		Reason lsp.Reason `json:"reason"`
		// Channel is set when an unsigned transaction had been built.
		Channel ln.Outpoint `json:"channel,omitzero"`
	}
	// Conflicted: final; another transaction spent an input and is buried: the
	// channel can never exist.
	Conflicted struct {
		Plan
		Ours
		funding.JointTx
		Tx
		Reason lsp.Reason `json:"reason"`
	}
)

func (p Plan) plan() Plan { return p }

// StateName is the stable text under which the state is stored.
func (Checking) StateName() string       { return "checking" }
func (Choosing) StateName() string       { return "choosing" }
func (Negotiating) StateName() string    { return "negotiating" }
func (Built) StateName() string          { return "built" }
func (Ready) StateName() string          { return "ready" }
func (Countersigning) StateName() string { return "countersigning" }
func (Signed) StateName() string         { return "signed" }
func (Published) StateName() string      { return "published" }
func (Confirmed) StateName() string      { return "confirmed" }
func (Buried) StateName() string         { return "buried" }
func (Failed) StateName() string         { return "failed" }
func (Conflicted) StateName() string     { return "conflicted" }

// PlanOf is what the state's open set out to do.
func PlanOf(s State) Plan { return s.plan() }

// Final reports that no event will change the state any more.
func Final(s State) bool {
	switch s.(type) {
	case Buried, Failed, Conflicted:
		return true
	}
	return false
}

// CanAbort reports that no signature of ours has left: the open can be given up
// with no complete transaction anywhere.
func CanAbort(s State) bool {
	switch s.(type) {
	case Checking, Choosing, Negotiating, Built, Ready, Countersigning:
		return true
	}
	return false
}

// OursOf are our coins and both shares, once they are leased.
func OursOf(s State) (Ours, bool) {
	switch s := s.(type) {
	case Negotiating:
		return s.Ours, true
	case Built:
		return s.Ours, true
	case Ready:
		return s.Ours, true
	case Countersigning:
		return s.Ours, true
	}
	l, ok := liveOf(s)
	return l.Ours, ok
}

// TxOf is the unsigned transaction, once it is built.
func TxOf(s State) (funding.JointTx, bool) {
	switch s := s.(type) {
	case Built:
		return s.JointTx, true
	case Ready:
		return s.JointTx, true
	case Countersigning:
		return s.JointTx, true
	}
	l, ok := liveOf(s)
	return l.JointTx, ok
}

// SignedOf is the complete transaction, once it is stored.
func SignedOf(s State) (Tx, bool) {
	l, ok := liveOf(s)
	return l.Tx, ok
}

// ChannelOf is the channel's outpoint; zero before it is built.
func ChannelOf(s State) ln.Outpoint {
	if f, ok := s.(Failed); ok {
		return f.Channel
	}
	tx, _ := TxOf(s)
	return tx.Funding
}

// ConfirmedHeight is the block that holds the funding transaction, 0 if none.
func ConfirmedHeight(s State) uint32 {
	l, _ := liveOf(s)
	return l.confirmed()
}

// ReasonOf is why an open ended, or why it lags.
func ReasonOf(s State) lsp.Reason {
	switch s := s.(type) {
	case Failed:
		return s.Reason
	case Conflicted:
		return s.Reason
	}
	l, _ := liveOf(s)
	return l.Trouble
}

// Funded says that the complete transaction is in the network's hands, so that
// what is sent over the channel is the wallet's as far as the gateway can see.
func Funded(s State) bool {
	switch s.(type) {
	case Published, Confirmed, Buried:
		return true
	}
	return false
}

// AtRisk says that the wallet could still take the funding away by spending its
// inputs otherwise: what it has not received over Lightning is not safe to take.
func AtRisk(s State) bool {
	switch s.(type) {
	case Buried, Failed:
		return false
	}
	return true
}
