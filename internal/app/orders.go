package app

import (
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/ln"
	lspapi "github.com/sluice-lsp/sluice/lsp/api"
	lspengine "github.com/sluice-lsp/sluice/lsp/engine"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
)

// OrdersConfig says what channels wallets may buy outright (bLIP-51), and how
// they pay.
type OrdersConfig struct {
	Enabled bool `toml:"enabled" help:"sell channels by order (LSPS1)"`

	MinConfs   uint16     `toml:"min_required_channel_confirmations" help:"0 lets clients ask for a channel that they can use at once" max:"6"`
	MinWithin  uint16     `toml:"min_funding_confirms_within_blocks" help:"within how many blocks a client may ask the funding transaction to confirm;\nat least fee_target_blocks" min:"1"`
	MaxExpiry  uint32     `toml:"max_channel_expiry_blocks" help:"longest lease" min:"1" max:"525600"`
	MinClient  config.Sat `toml:"min_initial_client_balance_sat" help:"least that the client may have in the channel from the start; it pays for it"`
	MaxClient  config.Sat `toml:"max_initial_client_balance_sat" help:"most that the client may have in the channel from the start"`
	MinOwn     config.Sat `toml:"min_initial_lsp_balance_sat" help:"least balance that the gateway provides" min:"1"`
	MaxOwn     config.Sat `toml:"max_initial_lsp_balance_sat" help:"largest balance that the gateway provides" min:"1"`
	MinChannel config.Sat `toml:"min_channel_balance_sat" help:"smallest channel" min:"20000"`
	MaxChannel config.Sat `toml:"max_channel_balance_sat" help:"largest channel, at most max_channel_sat; 0 is max_channel_sat"`
	Fee        config.Sat `toml:"fee_base_sat" help:"what an order costs, beside the two proportional fees; never less than what opening costs on chain (fee_margin_percent)"`
	FeePPM     uint32     `toml:"fee_ppm" help:"parts per million of the balance that the gateway provides"`
	LeasePPM   uint32     `toml:"fee_lease_ppm" help:"the same for each month (4,320 blocks) of the lease"`

	PayWithin   config.Duration `toml:"pay_within" help:"how long an order can be paid" min:"10m" max:"7d"`
	WaitFor     config.Duration `toml:"wait_for" help:"how long a paid order waits for its client's node and for the open, before the payment goes back" min:"1m" max:"24h"`
	InvoiceCltv uint32          `toml:"invoice_cltv_blocks" help:"for how many blocks a payment over Lightning can be held" min:"40" max:"2016"`

	BatchOrders int    `toml:"batch_orders" help:"how many orders that can wait share a funding transaction at most; 0 or 1: each channel has its own, at once.\nOnly those can wait whose client asked for a confirmed channel and for more than twice fee_target_blocks until it confirms" max:"25"`
	BatchWait   uint32 `toml:"batch_wait_blocks" help:"how many blocks such an order waits for others at most; a payment over Lightning is held meanwhile" max:"1008"`

	OnChain      bool            `toml:"onchain" help:"let clients pay on chain; between payment and opening the gateway holds their money"`
	PaymentConfs uint16          `toml:"payment_confirmations" help:"confirmations that a payment on chain needs" min:"1" max:"6"`
	ZeroConf     config.Sat      `toml:"zero_conf_sat" help:"orders of up to so much may be paid without confirmations; a client can double-spend such a payment. 0 is none"`
	ZeroConfAll  config.Sat      `toml:"zero_conf_all_sat" help:"payments that are taken unconfirmed at a time, in all"`
	ConfirmFor   config.Duration `toml:"confirm_for" help:"how long a payment that was seen in time may take to confirm" min:"1h"`
	WatchFor     config.Duration `toml:"watch_for" help:"how long the address of an order is watched: what arrives late goes back" min:"1d"`

	Open           bool `toml:"open_http" help:"let callers that have not logged in order over HTTP, as wallets of others do; the channel goes to the node that they name, which must be connected, and whoever has an order's id may see it"`
	OpenPerAddress int  `toml:"open_per_hour_per_address" help:"how many such orders one address may make in an hour (IPv6: each /64)" min:"1" max:"1000"`
	OpenPerNode    int  `toml:"open_per_node" help:"how many of them may wait for payment or their channel for one node" min:"1"`
	OpenAtOnce     int  `toml:"open_at_once" help:"the same in all" min:"1"`

	CloseAtEnd  bool        `toml:"close_at_lease_end" help:"close channels when their lease is over, with the client's node; the macaroon needs one right more"`
	WarnBlocks  uint32      `toml:"lease_warning_blocks" help:"from so many blocks before the end of a lease on it is logged and listed, and clients that are away are told if their channel is closed then"`
	BaseFee     config.Msat `toml:"announced_base_fee_msat" help:"forwarding fee of channels that are announced; others forward for nothing"`
	AnnouncePPM uint32      `toml:"announced_fee_ppm" help:"the proportional part of it, in parts per million"`
}

func defaultOrders(b lspengine.Config) OrdersConfig {
	o := b.Orders
	return OrdersConfig{
		Enabled: o.Enabled, MinConfs: o.Options.MinRequiredConfs, MinWithin: o.Options.MinConfirmWithin, MaxExpiry: o.Options.MaxExpiryBlocks,
		MinClient: config.Sat(o.Options.MinClientSat), MaxClient: config.Sat(o.Options.MaxClientSat),
		MinOwn: config.Sat(o.Options.MinLspSat), MaxOwn: config.Sat(o.Options.MaxLspSat),
		MinChannel: config.Sat(o.Options.MinChannelSat), MaxChannel: 0,
		Fee: config.Sat(o.Prices.BaseSat), FeePPM: o.Prices.PPM, LeasePPM: o.Prices.LeasePPM,
		PayWithin: config.Duration(o.PayWithin), WaitFor: config.Duration(o.WaitFor), InvoiceCltv: o.InvoiceCltv,
		BatchOrders: o.BatchOrders, BatchWait: o.BatchWait,
		OnChain: o.OnChain, PaymentConfs: o.PaymentConfs, ZeroConf: config.Sat(o.ZeroConfSat), ZeroConfAll: config.Sat(o.ZeroConfAllSat),
		ConfirmFor: config.Duration(o.ConfirmFor), WatchFor: config.Duration(o.WatchFor),
		OpenPerAddress: 6, OpenPerNode: o.Open.PerNode, OpenAtOnce: o.Open.All,
		CloseAtEnd: o.CloseAtEnd, WarnBlocks: o.WarnBlocks, BaseFee: config.Msat(o.BaseFeeMsat), AnnouncePPM: uint32(o.FeePPM), //nolint:gosec // a default of ours
	}
}

// lspAPI is what callers are served; without a login only where that is allowed.
func (c Config) lspAPI() *lspapi.Service {
	s := lspapi.New()
	if o := c.LSP.Orders; o.Enabled && o.Open {
		s.SellOpenly(o.openRate())
	}
	return s
}

// openRate is how often one address may order without a login.
func (c OrdersConfig) openRate() auth.Rate {
	return auth.Rate{PerSecond: float64(c.OpenPerAddress) / 3600, Burst: c.OpenPerAddress}
}

// engine turns settings into the engine's; largest is the largest channel of any
// kind, which is also the default of these.
func (c OrdersConfig) engine(largest ln.Sat) lspengine.OrderConfig {
	out := lspengine.OrderConfig{
		Enabled: c.Enabled,
		Options: lsps1.Options{
			MinRequiredConfs: c.MinConfs, MinConfirmWithin: c.MinWithin, MaxExpiryBlocks: c.MaxExpiry,
			MinClientSat: c.MinClient.Amount(), MaxClientSat: c.MaxClient.Amount(), MinLspSat: c.MinOwn.Amount(), MaxLspSat: c.MaxOwn.Amount(),
			MinChannelSat: c.MinChannel.Amount(), MaxChannelSat: c.MaxChannel.Amount(),
		},
		PayWithin: c.PayWithin.Std(), WaitFor: c.WaitFor.Std(), InvoiceCltv: c.InvoiceCltv,
		BatchOrders: c.BatchOrders, BatchWait: c.BatchWait,
		OnChain: c.OnChain, ConfirmFor: c.ConfirmFor.Std(), WatchFor: c.WatchFor.Std(),
		PaymentConfs: c.PaymentConfs, ZeroConfSat: c.ZeroConf.Amount(), ZeroConfAllSat: c.ZeroConfAll.Amount(),
		Open:       lspengine.OpenOrders{Enabled: c.Open && c.Enabled, PerNode: c.OpenPerNode, All: c.OpenAtOnce},
		CloseAtEnd: c.CloseAtEnd, WarnBlocks: c.WarnBlocks, BaseFeeMsat: c.BaseFee.Amount(), FeePPM: uint64(c.AnnouncePPM),
	}
	if o := &out.Options; o.MaxChannelSat == 0 {
		o.MaxChannelSat, o.MaxLspSat, o.MaxClientSat = largest, min(o.MaxLspSat, largest), min(o.MaxClientSat, largest)
	}
	out.Prices.BaseSat, out.Prices.PPM, out.Prices.LeasePPM = c.Fee.Amount(), c.FeePPM, c.LeasePPM
	return out
}
