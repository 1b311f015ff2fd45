package lsps1

import (
	"fmt"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/order"
)

// Options are what orders may ask for (lsps1.get_info).
type Options struct {
	MinRequiredConfs uint16
	MinConfirmWithin uint16
	MaxExpiryBlocks  uint32
	MinClientSat     ln.Sat
	MaxClientSat     ln.Sat
	MinLspSat        ln.Sat
	MaxLspSat        ln.Sat
	MinChannelSat    ln.Sat
	MaxChannelSat    ln.Sat
}

// Validate refuses options that bLIP-51 forbids, and those under which no order
// could be made.
func (o Options) Validate() error {
	if o.MinConfirmWithin < 1 || o.MaxExpiryBlocks < 1 {
		return fmt.Errorf("min_funding_confirms_within_blocks and max_channel_expiry_blocks must be 1 or more")
	}
	for _, p := range []struct {
		name     string
		min, max ln.Sat
	}{
		{"initial_client_balance_sat", o.MinClientSat, o.MaxClientSat},
		{"initial_lsp_balance_sat", o.MinLspSat, o.MaxLspSat},
		{"channel_balance_sat", o.MinChannelSat, o.MaxChannelSat},
	} {
		if p.min > p.max {
			return fmt.Errorf("min_%s is %s, above max_%s, %s", p.name, p.min, p.name, p.max)
		}
	}
	least, err := o.MinClientSat.Add(o.MinLspSat)
	if err != nil || least > o.MaxChannelSat {
		return fmt.Errorf("the least balances of both sides make a channel larger than max_channel_balance_sat, %s", o.MaxChannelSat)
	}
	most, err := o.MaxClientSat.Add(o.MaxLspSat)
	if err == nil && most < o.MinChannelSat {
		return fmt.Errorf("the largest balances of both sides make a channel of %s, smaller than min_channel_balance_sat, %s", most, o.MinChannelSat)
	}
	return nil
}

// Check holds an order against the options: Mismatch or BadParam.
func (o Options) Check(w order.Wish) error {
	switch {
	case w.LspBalanceSat < 1:
		return Bad("lsp_balance_sat", "it must be 1 or more")
	case w.ExpiryBlocks < 1:
		return Bad("channel_expiry_blocks", "it must be 1 or more")
	case w.LspBalanceSat < o.MinLspSat:
		return mismatch("min_initial_lsp_balance_sat", "lsp_balance_sat must be at least %d", o.MinLspSat)
	case w.LspBalanceSat > o.MaxLspSat:
		return mismatch("max_initial_lsp_balance_sat", "lsp_balance_sat must be at most %d", o.MaxLspSat)
	case w.ClientBalanceSat < o.MinClientSat:
		return mismatch("min_initial_client_balance_sat", "client_balance_sat must be at least %d", o.MinClientSat)
	case w.ClientBalanceSat > o.MaxClientSat:
		return mismatch("max_initial_client_balance_sat", "client_balance_sat must be at most %d", o.MaxClientSat)
	case w.RequiredConfs < o.MinRequiredConfs:
		return mismatch("min_required_channel_confirmations", "required_channel_confirmations must be at least %d", o.MinRequiredConfs)
	case w.ConfirmWithin < o.MinConfirmWithin:
		return mismatch("min_funding_confirms_within_blocks", "funding_confirms_within_blocks must be at least %d", o.MinConfirmWithin)
	case w.ExpiryBlocks > o.MaxExpiryBlocks:
		return mismatch("max_channel_expiry_blocks", "channel_expiry_blocks must be at most %d", o.MaxExpiryBlocks)
	}
	capacity, err := w.CapacitySat()
	switch {
	case err != nil || capacity > o.MaxChannelSat:
		return mismatch("max_channel_balance_sat", "lsp_balance_sat and client_balance_sat together must be at most %d", o.MaxChannelSat)
	case capacity < o.MinChannelSat:
		return mismatch("min_channel_balance_sat", "lsp_balance_sat and client_balance_sat together must be at least %d", o.MinChannelSat)
	}
	return nil
}

// TooLittle refuses a balance that does not keep the channel alive: its reserve,
// and the commitment's fee, which the gateway pays as the opener.
func TooLittle(least ln.Sat) error {
	return mismatch("min_initial_lsp_balance_sat", "with this client_balance_sat, lsp_balance_sat must be at least %d: the channel's reserve and its commitment's fee come from it", least)
}

// GetInfoResult is the answer to lsps1.get_info.
type GetInfoResult struct {
	MinRequiredConfs    uint16    `json:"min_required_channel_confirmations"`
	MinConfirmWithin    uint16    `json:"min_funding_confirms_within_blocks"`
	SupportsZeroReserve bool      `json:"supports_zero_channel_reserve"`
	MaxExpiryBlocks     uint32    `json:"max_channel_expiry_blocks"`
	MinClientSat        lsps0.Sat `json:"min_initial_client_balance_sat"`
	MaxClientSat        lsps0.Sat `json:"max_initial_client_balance_sat"`
	MinLspSat           lsps0.Sat `json:"min_initial_lsp_balance_sat"`
	MaxLspSat           lsps0.Sat `json:"max_initial_lsp_balance_sat"`
	MinChannelSat       lsps0.Sat `json:"min_channel_balance_sat"`
	MaxChannelSat       lsps0.Sat `json:"max_channel_balance_sat"`
}

// Options are what was read, as the client.
func (r GetInfoResult) Options() Options {
	return Options{
		MinRequiredConfs: r.MinRequiredConfs, MinConfirmWithin: r.MinConfirmWithin, MaxExpiryBlocks: r.MaxExpiryBlocks,
		MinClientSat: ln.Sat(r.MinClientSat), MaxClientSat: ln.Sat(r.MaxClientSat),
		MinLspSat: ln.Sat(r.MinLspSat), MaxLspSat: ln.Sat(r.MaxLspSat),
		MinChannelSat: ln.Sat(r.MinChannelSat), MaxChannelSat: ln.Sat(r.MaxChannelSat),
	}
}

// NewGetInfoResult writes the options. A reserve of zero is none that lnd can
// give.
func NewGetInfoResult(o Options) GetInfoResult {
	return GetInfoResult{
		MinRequiredConfs: o.MinRequiredConfs, MinConfirmWithin: o.MinConfirmWithin, MaxExpiryBlocks: o.MaxExpiryBlocks,
		MinClientSat: lsps0.Sat(o.MinClientSat), MaxClientSat: lsps0.Sat(o.MaxClientSat),
		MinLspSat: lsps0.Sat(o.MinLspSat), MaxLspSat: lsps0.Sat(o.MaxLspSat),
		MinChannelSat: lsps0.Sat(o.MinChannelSat), MaxChannelSat: lsps0.Sat(o.MaxChannelSat),
	}
}
