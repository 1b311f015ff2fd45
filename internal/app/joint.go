package app

import (
	"context"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/store"
	collabengine "github.com/sluice-lsp/sluice/lsp/collab/engine"
	lspengine "github.com/sluice-lsp/sluice/lsp/engine"
)

// JointConfig is the business of channels that wallets fund together with the
// gateway.
type JointConfig struct {
	Enabled        bool            `toml:"enabled" help:"let wallets bring their own coins to a channel; read docs/funding.md before: it says what is missing"`
	ZeroConf       bool            `toml:"zero_conf" help:"let such channels be used before they confirm; what a wallet sends over one is refused until then, because it could still take its coins away (sluicectl spend lends it something)"`
	MinWallet      config.Sat      `toml:"min_wallet_sat" help:"the least that a wallet brings" min:"10000"`
	MinInbound     config.Sat      `toml:"min_inbound_sat" help:"the least that the gateway brings" min:"20000"`
	MaxCapacity    config.Sat      `toml:"max_capacity_sat" help:"the largest channel"`
	Base           config.Sat      `toml:"base_fee_sat" help:"what a wallet pays for the gateway's part, besides its share of the chain fee"`
	PPM            uint64          `toml:"fee_ppm" help:"the same in parts per million of the gateway's part" max:"499999"`
	MaxInputs      int             `toml:"max_inputs" help:"coins that a wallet may bring" min:"1" max:"100"`
	MinInputConfs  uint32          `toml:"min_input_confirmations" help:"confirmations that each of them needs" min:"1" max:"100"`
	MaxLive        int             `toml:"max_live" help:"joint fundings that are not over, in all" min:"1"`
	MaxEach        int             `toml:"max_each" help:"of one wallet, not confirmed" min:"1"`
	MaxUnconfirmed config.Sat      `toml:"max_unconfirmed_sat" help:"of the gateway's in joint fundings that are not confirmed"`
	NegotiateFor   config.Duration `toml:"negotiate_for" help:"how long the two nodes have to exchange commitments" min:"5s" max:"10m"`
	SignFor        config.Duration `toml:"sign_for" help:"how long a wallet has to review and sign; so long the gateway's coins are kept for it" min:"1m" max:"12h"`
	BuriedConfs    uint32          `toml:"buried_confirmations" help:"confirmations after which nothing is expected to be undone" min:"1" max:"100"`
	BumpAfter      uint32          `toml:"bump_after_blocks" help:"a transaction that waits so long is hurried by a child of the gateway's change; 0 never"`
}

func defaultJoint() JointConfig {
	b := collabengine.Defaults()
	return JointConfig{
		MinWallet: config.Sat(b.MinWalletSat), MinInbound: config.Sat(b.MinInboundSat), MaxCapacity: config.Sat(b.MaxCapacitySat),
		Base: config.Sat(b.BaseSat), PPM: b.PPM, MaxInputs: b.MaxInputs, MinInputConfs: b.MinInputConfs, MaxLive: b.MaxLive, MaxEach: b.MaxEach,
		MaxUnconfirmed: config.Sat(b.MaxUnconfirmedSat), NegotiateFor: config.Duration(b.NegotiateFor), SignFor: config.Duration(b.SignFor),
		BuriedConfs: b.BuriedConfs, BumpAfter: b.BumpAfterBlocks,
	}
}

func (c JointConfig) engine(network string, self ln.PubKey, ceiling ln.FeeRateSatPerKW) collabengine.Config {
	out := collabengine.Defaults()
	out.Network, out.Self, out.ZeroConf, out.Ceiling = network, self, c.ZeroConf, ceiling
	out.MinWalletSat, out.MinInboundSat, out.MaxCapacitySat = c.MinWallet.Amount(), c.MinInbound.Amount(), c.MaxCapacity.Amount()
	out.BaseSat, out.PPM, out.MaxInputs, out.MinInputConfs = c.Base.Amount(), c.PPM, c.MaxInputs, c.MinInputConfs
	out.MaxLive, out.MaxEach, out.MaxUnconfirmedSat = c.MaxLive, c.MaxEach, c.MaxUnconfirmed.Amount()
	out.NegotiateFor, out.SignFor = c.NegotiateFor.Std(), c.SignFor.Std()
	out.BuriedConfs, out.BumpAfterBlocks = c.BuriedConfs, c.BumpAfter
	return out
}

// Validate implements config.Validator.
func (c JointConfig) Validate() error {
	return c.engine("regtest", ln.PubKey{2}, ln.MinFeeRate).Validate()
}

// jointOpener gives lnd's channel negotiation the shape of joint fundings.
type jointOpener struct{ *lnd.Client }

func (o jointOpener) OpenChannel(ctx context.Context, r ln.OpenRequest) (collabengine.Negotiation, error) {
	return o.Client.OpenChannel(ctx, r)
}

// keepJoint runs joint fundings until ctx ends, beginning anew when the database
// was away.
func (d *Daemon) keepJoint(ctx context.Context, lease *store.Lease, business *lspengine.Engine) {
	for ctx.Err() == nil {
		if err := d.runJoint(ctx, lease, business); err != nil && ctx.Err() == nil {
			d.log.Error("joint fundings have stopped; they begin anew", zap.Error(err))
			pause(ctx)
		}
	}
}

// runJoint runs joint fundings beside the business of channels, under its lease:
// both spend from one wallet.
func (d *Daemon) runJoint(ctx context.Context, lease *store.Lease, business *lspengine.Engine) error {
	joint, err := collabengine.New(collabengine.Options{
		Node: collabengine.Node{Opener: jointOpener{d.lnd}, Channels: d.lnd, Coins: d.lnd, Chain: d.lnd}, Desk: business,
		DB: d.db, Fence: lease.Check, Config: d.cfg.Joint.engine(d.cfg.Lnd.Network, d.info.PubKey, ln.FeeRateSatPerKW(d.cfg.LSP.FeeCeiling)),
		Now: d.now, Log: d.log.Named("joint"),
	})
	if err != nil {
		return err
	}
	defer d.joint.Ready(nil)
	return joint.Run(ctx, func() {
		d.joint.Ready(joint)
		d.log.Info("joint fundings are offered", zap.Bool("zero_conf", d.cfg.Joint.ZeroConf))
	})
}
