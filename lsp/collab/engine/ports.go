package engine

import (
	"context"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// Negotiation is one channel negotiation under way. Next blocks.
type Negotiation interface {
	Next() (ln.OpenUpdate, error)
}

// Opener opens channels through the PSBT shim. A call that is ln.ErrUnavailable
// may or may not have happened.
type Opener interface {
	OpenChannel(ctx context.Context, r ln.OpenRequest) (Negotiation, error)
	VerifyPsbt(ctx context.Context, id ln.PendingChanID, psbt []byte) error
	CancelShim(ctx context.Context, id ln.PendingChanID) error
	// AbandonChannel takes a channel that is gone as success.
	AbandonChannel(ctx context.Context, op ln.Outpoint) error
}

// Channels is what lnd lists.
type Channels interface {
	ListChannels(ctx context.Context) ([]ln.Channel, error)
	PendingChannels(ctx context.Context) ([]ln.PendingChannel, error)
	// Transactions are the wallet's own from a height on, unconfirmed too.
	Transactions(ctx context.Context, fromHeight int32) ([]ln.WalletTx, error)
	// ForgetTx takes one out of the wallet that can never confirm.
	ForgetTx(ctx context.Context, id ln.TxID) error
	SubscribeBlocks(ctx context.Context, handle func(ln.Block)) error
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

// Chain signs, publishes and watches.
type Chain interface {
	FinalizePsbt(ctx context.Context, psbt []byte) (rawTx []byte, err error)
	// Publish takes a known transaction as success.
	Publish(ctx context.Context, rawTx []byte, label string) error
	BumpFee(ctx context.Context, op ln.Outpoint, satPerVByte uint64, budget ln.Sat) error
	// TxInBlock is ln.ErrNotFound when the block has no such transaction.
	TxInBlock(ctx context.Context, height uint32, id ln.TxID) ([]byte, error)
	// WatchSpend blocks until its stream ends and tells the present state first,
	// if there is one; nil says that nothing can undo what it told last.
	WatchSpend(ctx context.Context, op ln.Outpoint, script []byte, since uint32, handle func(ln.SpendEvent)) error
}

// Desk knows what else the wallet's coins are for, and what transactions pay.
type Desk interface {
	// Spendable leaves out coins that belong to others.
	Spendable(coins []ln.Coin) []ln.Coin
	// ReserveSat is what must be left in the wallet once there is one more
	// channel.
	ReserveSat() ln.Sat
	Rate() funding.Rate
}

// Node is one lnd, port by port.
type Node struct {
	Opener   Opener
	Channels Channels
	Coins    Coins
	Chain    Chain
}
