package webhooks

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
)

// Node is what lnd tells about clients; the subscriptions block until their
// stream ends and have no replay.
type Node interface {
	SubscribePeers(ctx context.Context, handle func(ln.PeerEvent)) error
	ConnectedPeers(ctx context.Context) ([]ln.PubKey, error)
	SubscribeBlocks(ctx context.Context, handle func(ln.Block)) error
	ListChannels(ctx context.Context) ([]ln.Channel, error)
	PendingChannels(ctx context.Context) ([]ln.PendingChannel, error)
}

// Signer signs with the node's key (LSPS0.ln_signature).
type Signer interface {
	SignMessage(ctx context.Context, msg []byte) (string, error)
}

// Sender calls a webhook; the status is that of its answer.
type Sender interface {
	// Allowed reports an address that may be called. Post asks it again for
	// whatever a name resolves to.
	Allowed(a netip.Addr) bool
	Post(ctx context.Context, target lsps5.Target, header http.Header, body []byte) (status int, err error)
}

// Clients knows who has business with the gateway.
type Clients interface {
	// Known reports a channel, or an agreement about one.
	Known(ctx context.Context, client ln.PubKey) (bool, error)
}
