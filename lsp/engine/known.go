package engine

import (
	"context"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// Known reports that a client has, or is getting, a channel with the gateway, or
// has agreed on a payment that is not forgotten yet.
func (e *Engine) Known(ctx context.Context, client ln.PubKey) (bool, error) {
	var agreed int64
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		agreed, err = lspdb.New(tx).HasPayment(ctx, client[:])
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look for a client's payments: %w", err)
	}
	if agreed > 0 {
		return true, nil
	}
	channels, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return false, fmt.Errorf("list the channels: %w", err)
	}
	for _, c := range channels {
		if c.Peer == client {
			return true, nil
		}
	}
	return false, nil
}
