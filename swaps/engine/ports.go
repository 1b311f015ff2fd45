package engine

import (
	"context"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Invoices holds the clients' payments.
type Invoices interface {
	AddHoldInvoice(ctx context.Context, r ln.HoldInvoiceRequest) (bolt11 string, err error)
	LookupInvoice(ctx context.Context, hash ln.Hash) (ln.Invoice, error)
	SubscribeInvoice(ctx context.Context, hash ln.Hash, handle func(ln.Invoice)) error
	SettleInvoice(ctx context.Context, preimage ln.Preimage) error
	CancelInvoice(ctx context.Context, hash ln.Hash) error
}

// Wallet funds outputs. Coins leased under one id are nobody else's.
type Wallet interface {
	FundPsbt(ctx context.Context, r ln.FundOutput) (ln.FundedPsbt, error)
	FinalizePsbt(ctx context.Context, psbt []byte) (rawTx []byte, err error)
	ListLeases(ctx context.Context) ([]ln.Lease, error)
	ReleaseCoin(ctx context.Context, id [32]byte, op ln.Outpoint) error
	WalletBalance(ctx context.Context) (ln.Balances, error)
}

// Chain publishes and watches. Publish takes a known transaction as success.
type Chain interface {
	Publish(ctx context.Context, rawTx []byte, label string) error
	BumpFee(ctx context.Context, op ln.Outpoint, satPerVByte uint64, budget ln.Sat) error
	EstimateFee(ctx context.Context, targetBlocks int32) (rate, relay ln.FeeRateSatPerKW, err error)
	// WatchConf and WatchSpend block until their stream ends and tell the
	// present state first, if there is one.
	WatchConf(ctx context.Context, id ln.TxID, script []byte, since uint32, handle func(ln.ConfEvent)) error
	WatchSpend(ctx context.Context, op ln.Outpoint, script []byte, since uint32, handle func(ln.SpendEvent)) error
}

// Keys come from the node's seed.
type Keys interface {
	// SharedKey gives the same secret for the same arguments, always.
	SharedKey(ctx context.Context, key ln.KeyLocator, point ln.PubKey) ([32]byte, error)
	NewAddress(ctx context.Context) (string, error)
}

// Events is what the node says of itself and of the chain.
type Events interface {
	SubscribeBlocks(ctx context.Context, handle func(ln.Block)) error
	Info(ctx context.Context) (ln.NodeInfo, error)
	ListChannels(ctx context.Context) ([]ln.Channel, error)
	// HoldExpiryDelta is how many blocks before the earliest expiry of its HTLCs
	// the node gives an accepted hold invoice back.
	HoldExpiryDelta(ctx context.Context) (uint32, error)
}

// Payments pays the clients' invoices. An error of PayInvoice says nothing about
// the payment; only TrackPayment and WaitPayment do.
type Payments interface {
	PayInvoice(ctx context.Context, p ln.InvoicePayment) (ln.Payment, error)
	TrackPayment(ctx context.Context, hash ln.Hash) (ln.Payment, error)
	WaitPayment(ctx context.Context, hash ln.Hash) (ln.Payment, error)
}

// Node is one lnd, port by port.
type Node struct {
	Invoices Invoices
	Wallet   Wallet
	Chain    Chain
	Keys     Keys
	Events   Events
	Payments Payments
}
