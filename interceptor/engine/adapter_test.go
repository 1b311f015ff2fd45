package engine_test

import (
	"github.com/sluice-lsp/sluice/interceptor/acceptor"
	"github.com/sluice-lsp/sluice/interceptor/engine"
	icstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/interceptor/stream"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/store"
)

// The adapters that the app wires in have the ports' shapes.
var (
	_ engine.Node     = (*lnd.Client)(nil)
	_ engine.Outcomes = (*lnd.Client)(nil)
	_ acceptor.Node   = (*lnd.Client)(nil)
	_ engine.Session  = (*stream.Session)(nil)
	_ engine.Rows     = (*icstore.Store)(nil)
	_ engine.Handlers = (*icstore.Store)(nil)
	_ engine.Lease    = (*store.Lease)(nil)
)
