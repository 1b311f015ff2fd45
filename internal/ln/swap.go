package ln

import "time"

// FundOutput asks the wallet for a transaction that pays one output, with
// coins that it leases under LeaseID.
type FundOutput struct {
	Address   string
	AmountSat Sat
	FeeRate   FeeRateSatPerKW
	MinConfs  int32
	LeaseID   [32]byte
	LeaseFor  time.Duration
}

// FundKeeping asks the wallet for a transaction that pays one output and always has
// another one that is the wallet's own: it gets LeastSat, and all that is left over.
// So whoever holds the wallet can hurry it by a child.
type FundKeeping struct {
	Script    []byte
	AmountSat Sat
	// OwnScript is one of the wallet's.
	OwnScript []byte
	LeastSat  Sat
	FeeRate   FeeRateSatPerKW
	MinConfs  int32
	LeaseID   [32]byte
	LeaseFor  time.Duration
}

// FundedPsbt is the wallet's answer, unsigned. ChangeIndex is -1 without change.
type FundedPsbt struct {
	Psbt        []byte
	ChangeIndex int32
}

// ConfEvent is what the chain says of a transaction: that a block of this
// height holds it, or that none does any more.
type ConfEvent struct {
	Reorged bool
	Height  uint32
	RawTx   []byte
}

// InvoicePayment asks the node to pay an invoice of somebody's.
type InvoicePayment struct {
	Bolt11       string
	FeeLimitMsat Msat
	// CltvLimit is the most blocks that the payment may be locked for.
	CltvLimit uint32
	LastHop   PubKey
	Timeout   time.Duration
	MaxParts  uint32
}

// RouteProbe asks the node to send a payment to a node of a hash that nobody has
// the preimage of: that it comes back from there says that the route works.
type RouteProbe struct {
	Target       PubKey
	AmountMsat   Msat
	Hash         Hash
	PaymentAddr  [32]byte
	FeeLimitMsat Msat
	// FinalCltvDelta is the payee's, CltvLimit the most blocks that it may be locked
	// for.
	FinalCltvDelta, CltvLimit uint32
	LastHop                   PubKey
	Hints                     [][]RouteHint
	Timeout                   time.Duration
	MaxParts                  uint32
}

// SpendEvent is what the chain says of an output: which transaction in a block
// spends it, or that none does any more.
type SpendEvent struct {
	Reorged bool
	Height  uint32
	RawTx   []byte
	// InputIndex is the spending transaction's input.
	InputIndex uint32
}
