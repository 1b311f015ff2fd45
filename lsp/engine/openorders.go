package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// OpenOrders are orders of callers that prove no key, as wallets make them that buy
// over HTTP. What they name is not theirs to use up: they have bounds of their own, far
// below what the node that they name may have open.
type OpenOrders struct {
	Enabled bool
	// PerNode and All bound the undecided ones.
	PerNode, All int
}

func (o OpenOrders) validate() error {
	if o.Enabled && (o.PerNode < 1 || o.All < o.PerNode) {
		return errors.New("orders without a login need an open_per_node of 1 or more, and an open_at_once that is no less")
	}
	return nil
}

// CreateOpen is Create for a node that somebody names. The channel goes to that node
// and to nobody else, and the node must be there: who names it has it at hand, or
// pays for a channel of somebody who wants one.
func (l LSPS1) CreateOpen(ctx context.Context, node ln.PubKey, r lsps1.CreateOrderRequest) (lsps1.Order, error) {
	if !l.cfg.Orders.Open.Enabled {
		return lsps1.Order{}, errkind.New(errkind.Unauthenticated, "Log in with the node's key first.")
	}
	return l.create(ctx, node, r, true)
}

// GetOpen shows an order that was made without a login to whoever has its id, which
// is 122 random bits.
func (l LSPS1) GetOpen(ctx context.Context, id string) (lsps1.Order, error) {
	inst, err := l.orders.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && !order.Of(inst.State).Openly {
		return lsps1.Order{}, lsps1.ErrNotFound
	}
	if err != nil {
		return lsps1.Order{}, err
	}
	return lsps1.Show(inst.State), nil
}

func (e *Engine) mayOrderOpenly(ctx context.Context, node ln.PubKey) error {
	if !e.world.online(node) {
		return errkind.New(errkind.Conflict, "the node that public_key names is not connected to the gateway: connect it to one of the uris of get_info, and order again")
	}
	// Whoever is refused shall cost no address and no invoice.
	return e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error { return e.countOpenly(ctx, tx, node) })
}

// countOpenly refuses one more than may be open.
func (e *Engine) countOpenly(ctx context.Context, tx *store.Tx, node ln.PubKey) error {
	have, err := lspdb.New(tx).OpenlyOrdered(ctx, node[:])
	if err != nil {
		return fmt.Errorf("count orders without a login: %w", err)
	}
	most := e.cfg.Orders.Open
	switch {
	case have.ClientOrders >= int64(most.PerNode):
		return errkind.Newf(errkind.Exhausted, "%d orders that nobody logged in for are open for this node already: pay or let expire one, or log in with the node's key", most.PerNode)
	case have.Orders >= int64(most.All):
		return errkind.New(errkind.Exhausted, "too many orders that nobody logged in for are open: try again later, or log in with the node's key")
	}
	return nil
}
