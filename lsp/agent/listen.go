package agent

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// listen stays ready to hear from an LSP that it holds a payment for this
// wallet, whose node it does not see. It goes on through lost connections.
func (a *Agent) listen(ctx context.Context, l LSP, k keeper) {
	const least, most = 200 * time.Millisecond, 30 * time.Second
	for wait := least; ctx.Err() == nil; wait = min(2*wait, most) {
		err := a.listenOnce(ctx, l, k, func() { wait = least })
		if ctx.Err() != nil {
			return
		}
		a.log.Debug("the LSP's word on waiting payments was cut off; listening again",
			zap.String("lsp", l.Name), zap.Duration("in", wait), zap.Error(err))
		if pace.Pause(ctx, wait) != nil {
			return
		}
	}
}

func (a *Agent) listenOnce(ctx context.Context, l LSP, k keeper, heard func()) error {
	// So that the stream ends with whatever ends this.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client, err := a.gateway(ctx, l)
	if err != nil {
		return err
	}
	stream, err := client.WatchWaiting(ctx, &lspv1.WatchWaitingRequest{})
	if err != nil {
		return fromGateway(l, err)
	}
	if _, err := stream.Header(); err != nil {
		return fromGateway(l, err)
	}
	for {
		word, err := stream.Recv()
		if err != nil {
			return fromGateway(l, err)
		}
		heard()
		// The payment comes by itself once the node is there. Nothing in the
		// word is acted upon but that: an LSP that lies makes a wallet connect.
		a.log.Info("the LSP holds a payment for this wallet: connecting to its node",
			zap.String("lsp", l.Name), zap.Stringer("amount", ln.Msat(word.GetAmountMsat())),
			zap.Time("until", time.UnixMilli(word.GetUntilMs()).UTC()))
		k.look()
	}
}
