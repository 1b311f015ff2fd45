package ln

import (
	"slices"
	"time"
)

// Block is one tip that the chain announced.
type Block struct {
	Height uint32
	Hash   [32]byte
}

// Confirmations is how deep a transaction is at a tip: 0 while height is 0, which
// means that it is in no block, and 1 in the tip's own block. A tip below the
// height is one that is behind whoever reported the block, not a reorg.
func Confirmations(height, tip uint32) uint32 {
	switch {
	case height == 0:
		return 0
	case tip < height:
		return 1
	}
	return tip - height + 1
}

// Coin is one unspent output of the node's on-chain wallet.
type Coin struct {
	Outpoint      Outpoint
	AmountSat     Sat
	PkScript      []byte
	Confirmations int64
	Address       string
}

// Lease is a coin that somebody keeps from others for a while.
type Lease struct {
	ID        [32]byte
	Outpoint  Outpoint
	ExpiresAt time.Time
	AmountSat Sat
}

// WalletTx is a transaction of the node's on-chain wallet.
type WalletTx struct {
	TxID          TxID
	AmountSat     int64
	FeeSat        Sat
	Confirmations int32
	Height        int32
	At            time.Time
	Label         string
	RawTx         []byte
	// Spends are the outputs that it spends.
	Spends []Outpoint
	// Inputs are the same outputs, with whether they were the wallet's.
	Inputs []WalletInput
	// Outputs are what it pays.
	Outputs []WalletOutput
}

// PaysOthers says that some of it leaves the wallet.
func (t WalletTx) PaysOthers() bool {
	return slices.ContainsFunc(t.Outputs, func(o WalletOutput) bool { return !o.Ours })
}

// WalletInput is an input of a wallet's transaction.
type WalletInput struct {
	Outpoint Outpoint
	Ours     bool
}

// WalletOutput is an output of a wallet's transaction.
type WalletOutput struct {
	ValueSat int64
	Ours     bool
}

// Balances is what the node's on-chain wallet holds.
type Balances struct {
	ConfirmedSat   Sat
	UnconfirmedSat Sat
	LockedSat      Sat
	ReservedSat    Sat
}

// NodeInfo is what a node says of itself.
type NodeInfo struct {
	PubKey      PubKey
	Alias       string
	Version     string
	Commit      string
	Network     string
	BlockHeight uint32
	BlockHash   string
	// BestHeaderAt is the time in the newest block's header.
	BestHeaderAt  time.Time
	SyncedToChain bool
	SyncedToGraph bool
	Peers         uint32
	// Features are the feature bits that the node sets, known by number.
	Features map[uint32]string
	URIs     []string
	// RequireInterceptor and StoreFinalResolutions say how lnd was started.
	RequireInterceptor    bool
	StoreFinalResolutions bool
	BuildTags             []string
}
