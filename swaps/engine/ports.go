package engine

import (
	"context"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Sales are invoices of the gateway's own, which the node settles by itself.
type Sales interface {
	AddInvoice(ctx context.Context, r ln.InvoiceRequest) (bolt11 string, hash ln.Hash, err error)
}

// Invoices holds the clients' payments.
type Invoices interface {
	AddHoldInvoice(ctx context.Context, r ln.HoldInvoiceRequest) (bolt11 string, err error)
	LookupInvoice(ctx context.Context, hash ln.Hash) (ln.Invoice, error)
	SubscribeInvoice(ctx context.Context, hash ln.Hash, handle func(ln.Invoice)) error
	SettleInvoice(ctx context.Context, preimage ln.Preimage) error
	CancelInvoice(ctx context.Context, hash ln.Hash) error
}

// Wallet funds outputs.
type Wallet interface {
	FundKeeping(ctx context.Context, r ln.FundKeeping) (psbt []byte, err error)
	FinalizePsbt(ctx context.Context, psbt []byte) (rawTx []byte, err error)
	WalletBalance(ctx context.Context) (ln.Balances, error)
}

// Coins leased under one id are nobody else's: ln.ErrLeased.
type Coins interface {
	LeaseCoin(ctx context.Context, id [32]byte, op ln.Outpoint, d time.Duration) error
	ListLeases(ctx context.Context) ([]ln.Lease, error)
	ReleaseCoin(ctx context.Context, id [32]byte, op ln.Outpoint) error
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

// Records are the wallet's transactions. ForgetTx takes one out that can never
// confirm; ln.ErrNotFound says that there is none.
type Records interface {
	// Transactions are those from a height on, and unconfirmed ones.
	Transactions(ctx context.Context, fromHeight int32) ([]ln.WalletTx, error)
	ForgetTx(ctx context.Context, id ln.TxID) error
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
	// ClosedChannels are those of which everything is resolved.
	ClosedChannels(ctx context.Context) ([]ln.ClosedChannel, error)
	// HoldExpiryDelta is how many blocks before the earliest expiry of its HTLCs
	// the node gives an accepted hold invoice back.
	HoldExpiryDelta(ctx context.Context) (uint32, error)
}

// Payments pays the clients' invoices. An error of PayInvoice, PayDirect and
// ProbeRoute says nothing about the payment; only TrackPayment and WaitPayment do.
type Payments interface {
	PayInvoice(ctx context.Context, p ln.InvoicePayment) (ln.Payment, error)
	// PayDirect pays over one channel of ours to its peer.
	PayDirect(ctx context.Context, p ln.DirectPayment) (ln.Payment, error)
	// ProbeRoute sends a payment that nobody can settle.
	ProbeRoute(ctx context.Context, p ln.RouteProbe) (ln.Payment, error)
	TrackPayment(ctx context.Context, hash ln.Hash) (ln.Payment, error)
	WaitPayment(ctx context.Context, hash ln.Hash) (ln.Payment, error)
}

// ChannelRequest asks for a channel to a client.
type ChannelRequest struct {
	// OpeningID names this attempt, PaymentID what it is for.
	OpeningID, PaymentID string
	Client               ln.PubKey
	AmountMsat, FeeMsat  ln.Msat
	Confs                uint32
}

// NotOpenedError says that a channel will never be: with Begun because its open
// failed, so that the name is spent; otherwise none was begun.
type NotOpenedError struct {
	Text  string
	Begun bool
}

func (e *NotOpenedError) Error() string { return e.Text }

// Channels opens channels on demand: another service of the gateway does, under
// its own limits.
type Channels interface {
	// PriceChannel is what a channel costs through which a client receives size
	// less that fee, and its capacity. Nothing is promised by it.
	PriceChannel(ctx context.Context, client ln.PubKey, size ln.Msat) (fee ln.Msat, capacity ln.Sat, err error)
	// OpenChannel begins an open or finds the one of its name, and returns once
	// payments can be entrusted to the channel. Only a *NotOpenedError says that
	// they never can.
	OpenChannel(ctx context.Context, r ChannelRequest) (ln.SCID, error)
	// AbandonChannel gives an open up that is not signed; others go on.
	AbandonChannel(ctx context.Context, openingID, why string) error
	// ChannelPaid may be told more than once.
	ChannelPaid(ctx context.Context, paymentID string, client ln.PubKey) error
}

// Node is one lnd, port by port.
type Node struct {
	Invoices Invoices
	Sales    Sales
	Wallet   Wallet
	Coins    Coins
	Chain    Chain
	Records  Records
	Keys     Keys
	Events   Events
	Payments Payments
}
