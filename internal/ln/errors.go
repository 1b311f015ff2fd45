package ln

import (
	"errors"
	"fmt"
)

// What a node can answer besides success. The adapter to lnd is the only place
// that reads lnd's error texts; everybody else asks errors.Is for these.
var (
	// ErrUnavailable: the node did not answer, or is starting or stopping. What
	// was asked may or may not have happened; ask again before assuming either.
	ErrUnavailable = errors.New("the node does not answer")
	// ErrNotFound: the node has no record of what was named.
	ErrNotFound = errors.New("the node knows no such thing")
	// ErrExists: the node already has what was to be added.
	ErrExists = errors.New("the node has it already")
	// ErrPeerOffline: the peer is not connected, or went away meanwhile.
	ErrPeerOffline = errors.New("the peer is not connected")
	// ErrPeerRejected: the peer refused; the text around it carries its reason.
	ErrPeerRejected = errors.New("the peer refused")
	// ErrPeerNotNow is an ErrPeerRejected whose words decide nothing: they are what the
	// peer's node says, too, while it cannot take the channel for a moment.
	ErrPeerNotNow = fmt.Errorf("%w for now", ErrPeerRejected)
	// ErrLeased: the coin is leased by somebody else or spent.
	ErrLeased = errors.New("the coin is not free")
	// ErrSpent: the wallet does not have the coin, any more as a rule. It is an ErrLeased.
	ErrSpent = fmt.Errorf("%w: the wallet does not list it", ErrLeased)
	// ErrDoubleSpend: the transaction conflicts with another one.
	ErrDoubleSpend = errors.New("the transaction conflicts with another")
	// ErrKnownTx: the transaction is already in the mempool or in a block.
	ErrKnownTx = errors.New("the transaction is already known")
	// ErrPermission: the macaroon does not allow the call.
	ErrPermission = errors.New("the macaroon does not allow this call")
	// ErrInvoiceClosed: the invoice is settled or cancelled already.
	ErrInvoiceClosed = errors.New("the invoice is already settled or cancelled")
	// ErrStreamTaken: another client holds the only interceptor stream.
	ErrStreamTaken = errors.New("another interceptor is attached to the node")
)
