package app

import (
	"context"
	"errors"

	"github.com/sluice-lsp/sluice/internal/ln"
	lspapi "github.com/sluice-lsp/sluice/lsp/api"
	lspengine "github.com/sluice-lsp/sluice/lsp/engine"
	swapsengine "github.com/sluice-lsp/sluice/swaps/engine"
)

// swapChannels has lsp open channels for swaps in. Each call goes to the engine of
// this process's present tenure; without one it is refused as unavailable, and the
// swap asks again.
type swapChannels struct{ lsp *lspapi.Service }

// swapChannels is nil where swaps open no channels.
func (d *Daemon) swapChannels() swapsengine.Channels {
	if !d.roles.LSP || !d.cfg.Swaps.OpenChannels {
		return nil
	}
	return swapChannels{d.lsp}
}

// PriceChannel implements swapsengine.Channels.
func (s swapChannels) PriceChannel(ctx context.Context, client ln.PubKey, size ln.Msat) (ln.Msat, ln.Sat, error) {
	e, err := s.lsp.Engine()
	if err != nil {
		return 0, 0, err
	}
	return e.PriceForeign(ctx, client, size)
}

// OpenChannel implements swapsengine.Channels.
func (s swapChannels) OpenChannel(ctx context.Context, r swapsengine.ChannelRequest) (ln.SCID, error) {
	e, err := s.lsp.Engine()
	if err != nil {
		return 0, err
	}
	channel, err := e.OpenForeign(ctx, lspengine.ForeignOpen{
		OpeningID: r.OpeningID, PaymentID: r.PaymentID, Client: r.Client, AmountMsat: r.AmountMsat, FeeMsat: r.FeeMsat, Confs: r.Confs,
	})
	if refused, ok := errors.AsType[*lspengine.NotOpenedError](err); ok {
		return 0, &swapsengine.NotOpenedError{Text: refused.Reason.Text, Begun: refused.Begun}
	}
	return channel, err
}

// AbandonChannel implements swapsengine.Channels.
func (s swapChannels) AbandonChannel(ctx context.Context, openingID, why string) error {
	e, err := s.lsp.Engine()
	if err != nil {
		return err
	}
	return e.AbandonForeign(ctx, openingID, why)
}

// ChannelPaid implements swapsengine.Channels.
func (s swapChannels) ChannelPaid(ctx context.Context, paymentID string, client ln.PubKey) error {
	e, err := s.lsp.Engine()
	if err != nil {
		return err
	}
	return e.ForeignPaid(ctx, paymentID, client)
}
