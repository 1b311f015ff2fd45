package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/watchtower"
	towerapi "github.com/sluice-lsp/sluice/watchtower/api"
	towerengine "github.com/sluice-lsp/sluice/watchtower/engine"
	towerstore "github.com/sluice-lsp/sluice/watchtower/store"
)

// WatchtowerConfig is what the watchtower allows and keeps. The lnd that it
// watches the chain through is the process's own.
type WatchtowerConfig struct {
	Listen        string          `toml:"listen" help:"host:port for clients (lnd's towers have port 9911); empty turns the tower off"`
	Addresses     []string        `toml:"addresses" help:"how clients reach that, host:port; it stands in the URIs that they are given"`
	Allow         []string        `toml:"allow" help:"node keys that may register; empty lets every node"`
	MinSweepFee   uint64          `toml:"min_sweep_fee_sat_per_kw" help:"least fee rate of a session (250 sat/kw is 1 sat/vbyte; lnd's clients ask for 2500, wtclient.sweep-fee-rate);\nit is fixed when the session is made, for all of its justice transactions" min:"1000"`
	MaxUpdates    uint16          `toml:"max_updates_per_session" help:"most updates that one session may have; lnd's clients ask for 1024" min:"1"`
	Sessions      int64           `toml:"sessions" help:"sessions that one registration may have" min:"1"`
	Updates       int64           `toml:"updates" help:"updates that are held for one registration" min:"1"`
	Bytes         config.ByteSize `toml:"bytes" help:"what they may take" min:"1KiB"`
	PriceMsat     uint64          `toml:"price_msat_per_update" help:"what each update costs that is held beyond the free ones; wallets pay for it beforehand, by Lightning. 0 sells nothing,\nand all is free. The macaroon of a tower alone needs six rights more: bake it again (sluiced macaroon watchtower -c FILE)" max:"1000000"`
	FreeUpdates   int64           `toml:"free_updates" help:"updates that are held for one registration without a price, if there is one" min:"0"`
	RegisterFor   config.Duration `toml:"register_for" help:"how long a registration lasts; registering again prolongs it" min:"1d"`
	Notice        config.Duration `toml:"notice" help:"how long before its end it is said to expire"`
	Grace         config.Duration `toml:"grace" help:"how long after its end what was stored is watched; then it is deleted"`
	Bury          int32           `toml:"bury_blocks" help:"blocks after which a punished breach is closed" min:"1" max:"2016"`
	MaxTenants    int64           `toml:"max_registrations" help:"with so many nobody new is let in; each costs a fraction of a millisecond of every handshake" min:"1"`
	MaxBytes      config.ByteSize `toml:"max_bytes" help:"with so much stored nobody new is let in and nobody gets another session; sessions that exist go on" min:"1MiB"`
	NewPerHour    int             `toml:"new_per_hour" help:"registrations that may be new in an hour" min:"1"`
	NewPerAddress int             `toml:"new_per_address_per_hour" help:"how many of them from one address" min:"1"`
	Handshakes    auth.Rate       `toml:"handshakes" help:"connections that one address may begin"`
	MaxConns      int             `toml:"max_connections" help:"connections open at once" min:"1"`
	MaxConnsEach  int             `toml:"max_connections_each" help:"how many of them of one registration" min:"1"`
}

func defaultWatchtower() WatchtowerConfig {
	d := towerengine.Defaults()
	return WatchtowerConfig{
		MinSweepFee: uint64(d.Terms.MinSweepFee), MaxUpdates: d.Terms.MaxUpdates,
		Sessions: d.Terms.Limits.Sessions, Updates: d.Terms.Limits.Updates, Bytes: config.ByteSize(d.Terms.Limits.Bytes),
		PriceMsat: uint64(d.Terms.PriceMsat), FreeUpdates: d.Terms.Limits.Free,
		RegisterFor: config.Duration(d.Terms.For), Notice: config.Duration(d.Terms.Notice), Grace: config.Duration(d.Terms.Grace),
		Bury: d.Depths.Bury, MaxTenants: d.MaxTenants, MaxBytes: config.ByteSize(d.MaxBytes),
		NewPerHour: d.NewPerHour, NewPerAddress: d.NewPerAddress, Handshakes: d.Handshakes, MaxConns: d.MaxConns, MaxConnsEach: d.MaxConnsEach,
	}
}

func (c WatchtowerConfig) engine() (towerengine.Config, error) {
	out := towerengine.Defaults()
	out.Terms = watchtower.Terms{
		Limits: watchtower.Limits{Sessions: c.Sessions, Updates: c.Updates, Bytes: int64(c.Bytes), Free: c.FreeUpdates},
		For:    c.RegisterFor.Std(), Notice: c.Notice.Std(), Grace: c.Grace.Std(),
		MinSweepFee: ln.FeeRateSatPerKW(c.MinSweepFee), MaxUpdates: c.MaxUpdates, PriceMsat: ln.Msat(c.PriceMsat),
	}
	out.Depths.Bury, out.Addresses = c.Bury, c.Addresses
	out.MaxTenants, out.MaxBytes, out.NewPerHour, out.NewPerAddress = c.MaxTenants, int64(c.MaxBytes), c.NewPerHour, c.NewPerAddress
	out.Handshakes, out.MaxConns, out.MaxConnsEach = c.Handshakes, c.MaxConns, c.MaxConnsEach
	var err error
	out.Allow, err = keySet(c.Allow)
	return out, err
}

// Validate implements config.Validator.
func (c WatchtowerConfig) Validate() error {
	e, err := c.engine()
	if err != nil {
		return fmt.Errorf("allow: %w", err)
	}
	if err := e.Validate(); err != nil {
		return err
	}
	if c.Listen != "" && len(c.Addresses) == 0 {
		return fmt.Errorf("addresses are missing: clients are told to come there, host:port")
	}
	return nil
}

// towerChain is the chain as this process's lnd shows it.
type towerChain struct{ client *lnd.Client }

func (c towerChain) Best(ctx context.Context) (int32, error) { return c.client.BestHeight(ctx) }

func (c towerChain) BlockHash(ctx context.Context, height int32) (chainhash.Hash, error) {
	return c.client.BlockHash(ctx, height)
}

func (c towerChain) Block(ctx context.Context, hash chainhash.Hash) (*wire.MsgBlock, error) {
	return c.client.Block(ctx, hash)
}

func (c towerChain) Publish(ctx context.Context, raw []byte) error {
	return c.client.Publish(ctx, raw, justiceLabel)
}

func (c towerChain) Watch(ctx context.Context, wake func()) error {
	return c.client.SubscribeBlocks(ctx, func(ln.Block) { wake() })
}

// justiceLabel is how justice transactions show in lnd's wallet.
const justiceLabel = "sluice: justice for a watchtower's client"

// genesis is what clients and tower agree on.
func genesis(network string) (chainhash.Hash, error) {
	params, err := lnd.ChainParams(network)
	if err != nil {
		return chainhash.Hash{}, fmt.Errorf("the watchtower: %w", err)
	}
	return *params.GenesisHash, nil
}

// newWatchtower makes the tower ready to run, and opens its port.
func (d *Daemon) newWatchtower(ctx context.Context) error {
	secret, err := d.towerKey(ctx)
	if err != nil {
		return fmt.Errorf("tower key: %w", err)
	}
	chain, err := genesis(d.cfg.Lnd.Network)
	if err != nil {
		return err
	}
	cfg, err := d.cfg.Watchtower.engine()
	if err != nil {
		return err
	}
	owner, err := d.owner()
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", d.cfg.Watchtower.Listen)
	if err != nil {
		return fmt.Errorf("watchtower.listen: %w", err)
	}
	d.tower, err = towerengine.New(towerengine.Options{
		DB: d.db, Secret: secret, Chain: towerChain{d.lnd}, ChainHash: chain, Listener: listener, Config: cfg, Now: d.now, Log: d.log.Named(towerapi.Name),
		// Also without a price: what was paid before is settled.
		Invoices: d.lnd, Channels: d.lnd,
		Acquire: func(ctx context.Context) (towerengine.Lease, error) {
			return d.acquire(ctx, d.db.AcquireLease, store.LeaseConfig{Name: leaseTower, Owner: owner, TTL: d.cfg.Interceptor.LeaseFor.Std()})
		},
	})
	if err != nil {
		_ = listener.Close()
		return err
	}
	if d.restored.Watchtower {
		// Nothing brings them back but their clients, who must hear of it.
		d.log.Error("the watchtower's database went back: updates that were acknowledged since the copy are lost, and their sessions will be refused as out of order; clients must make new ones (lncli wtclient session terminate)")
		if err := d.acceptRestore(ctx, towerapi.Name); err != nil {
			return errors.Join(err, listener.Close())
		}
	}
	return d.registry.Register(d.tower.Collector())
}

// towerKey is the secret that tower keys come from: a file of this machine, or
// for replicas a row of their shared database.
func (d *Daemon) towerKey(ctx context.Context) ([]byte, error) {
	if d.db.Engine() == store.Postgres {
		return towerstore.SharedKey(ctx, d.db, rand.Reader)
	}
	return keyFile(d.path(fileTowerKey))
}

// runWatchtower serves the tower until ctx ends.
func (d *Daemon) runWatchtower(ctx context.Context) error {
	if err := d.tower.Begin(ctx); err != nil {
		return nil //nolint:nilerr // it only ends with the context: an orderly stop
	}
	d.log.Info("the watchtower listens", zap.String("address", d.cfg.Watchtower.Listen), zap.Strings("as", d.cfg.Watchtower.Addresses), zap.Duration("registrations last", d.cfg.Watchtower.RegisterFor.Std().Round(time.Hour)))
	d.watch.Ready(d.tower, d.info.PubKey)
	return d.tower.Run(ctx)
}
