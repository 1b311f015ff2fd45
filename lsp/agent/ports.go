package agent

import (
	"context"
	"io"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// Node is the wallet's lnd itself.
type Node interface {
	Info(ctx context.Context) (ln.NodeInfo, error)
	// SignMessage signs with the node's key, as lnd does; it is used for
	// login challenges that were checked before.
	SignMessage(ctx context.Context, msg []byte) (string, error)
	// RunAcceptor hands over every channel proposal until it fails; decide
	// answers from memory, since lnd's funding of all peers waits for it.
	RunAcceptor(ctx context.Context, decide func(ln.OpenProposal) ln.AcceptVerdict) error
}

// Channels lists the wallet's channels.
type Channels interface {
	ListChannels(ctx context.Context) ([]ln.Channel, error)
	PendingChannels(ctx context.Context) ([]ln.PendingChannel, error)
	// ClosedChannels are those that are resolved.
	ClosedChannels(ctx context.Context) ([]ln.ClosedChannel, error)
}

// Peers keeps the Lightning connections.
type Peers interface {
	// ConnectPeer takes being connected already as success.
	ConnectPeer(ctx context.Context, key ln.PubKey, hostPort string) error
	ConnectedPeers(ctx context.Context) ([]ln.PubKey, error)
	// SubscribePeers blocks until its stream ends; there is no replay.
	SubscribePeers(ctx context.Context, handle func(ln.PeerEvent)) error
}

// Invoices keeps what is to be received.
type Invoices interface {
	AddInvoice(ctx context.Context, r ln.InvoiceRequest) (bolt11 string, hash ln.Hash, err error)
	LookupInvoice(ctx context.Context, hash ln.Hash) (ln.Invoice, error)
	// CancelInvoice takes a cancelled invoice as success.
	CancelInvoice(ctx context.Context, hash ln.Hash) error
	// SubscribeInvoice gives the present state first.
	SubscribeInvoice(ctx context.Context, hash ln.Hash, handle func(ln.Invoice)) error
}

// Payer sends payments. feeLimit is the most to pay for the route; an error
// says nothing about the payment's outcome.
type Payer interface {
	PayInvoice(ctx context.Context, bolt11 string, amount, feeLimit ln.Msat) (ln.Payment, error)
}

// Connect reaches the service of one LSP as the node self, logging in when
// needed. It connects lazily; the second result ends the connection.
type Connect func(l LSP, self ln.PubKey) (lspv1.ChannelsServiceClient, func() error, error)

// Ports are what the agent works with.
type Ports struct {
	Node     Node
	Channels Channels
	Peers    Peers
	Invoices Invoices
	// Holder may be nil: then no LSP is trusted with a funding.
	Holder Holder
	// Payer may be nil: then Pay is refused.
	Payer Payer
	// LSPS may be nil: then nothing is asked over the peer connection.
	LSPS LSPS
	// Decode verifies and reads an invoice of a network.
	Decode func(network, text string) (ln.Bolt11, error)
	// Expects says, from memory, that the wallet asked for exactly this channel and
	// brings coins to it; nil expects none.
	Expects func(ln.OpenProposal) bool
	// Awaits says, from memory, that the wallet waits for a payment of this LSP whose
	// preimage it could use: over a channel that has so many confirmations first. Nil:
	// never.
	Awaits func(lsp ln.PubKey) (confs uint32, waits bool)
	// Connect nil means DialGateway.
	Connect Connect
	// Random nil means crypto/rand; it makes preimages.
	Random io.Reader
	// Now nil means time.Now.
	Now func() time.Time
	Log *zap.Logger
}
