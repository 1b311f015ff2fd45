package lndtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/chainntnfs"
	"github.com/lightningnetwork/lnd/watchtower/blob"
	"github.com/lightningnetwork/lnd/watchtower/wtdb"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/engine"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
)

// The environment that names the suite's database.
const (
	envEngine = "SLUICE_LNDTEST_ENGINE"
	envPath   = "SLUICE_LNDTEST_PATH"
	envDSN    = "SLUICE_LNDTEST_DSN"
)

// DB is lnd's whole tower database on one registration of ours.
type DB struct {
	*engine.DB
	store *tower.Store
}

// GetLookoutTip implements lnd's lookout.DB.
func (d *DB) GetLookoutTip() (*chainntnfs.BlockEpoch, error) {
	tip, ok, err := d.store.Tip(context.Background())
	if err != nil || !ok {
		return nil, err
	}
	return &chainntnfs.BlockEpoch{Height: tip.Height, Hash: &tip.Hash}, nil
}

// SetLookoutTip implements lnd's lookout.DB.
func (d *DB) SetLookoutTip(e *chainntnfs.BlockEpoch) error {
	return d.store.SetTip(context.Background(), watchtower.Point{Height: e.Height, Hash: *e.Hash})
}

// QueryMatches implements lnd's lookout.DB.
func (d *DB) QueryMatches(hints []blob.BreachHint) ([]wtdb.Match, error) {
	found, err := d.store.Matches(context.Background(), hints)
	var out []wtdb.Match
	for _, m := range found {
		out = append(out, m.Match)
	}
	return out, err
}

// New gives an empty database, where lnd's suite makes its mock: it can be told
// no test, so that what fails here ends the process. What an earlier call gave is
// emptied.
func New() *DB {
	d, err := open()
	if err != nil {
		panic(fmt.Sprintf("lnd's suite on our database: %v", err))
	}
	return d
}

func open() (*DB, error) {
	ctx := context.Background()
	db, err := store.Open(ctx, store.Config{Engine: store.Engine(os.Getenv(envEngine)), Path: os.Getenv(envPath), DSN: os.Getenv(envDSN), Log: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(tower.Migrate(ctx, db), storetest.Empty(ctx, db)); err != nil {
		return nil, err
	}
	cfg := engine.Defaults()
	cfg.Addresses = []string{"tower.example:9911"}
	e, err := engine.New(engine.Options{
		DB: db, Secret: bytes.Repeat([]byte{1}, 32), Chain: noChain{}, Config: cfg, Now: time.Now, Log: zap.NewNop(),
		Acquire: func(ctx context.Context) (engine.Lease, error) { <-ctx.Done(); return nil, ctx.Err() },
	})
	if err != nil {
		return nil, err
	}
	// It runs until the process ends.
	go func() { _ = e.Run(ctx) }()
	key, _ := btcec.PrivKeyFromBytes(bytes.Repeat([]byte{2}, 32))
	tenant, err := e.Register(ctx, ln.PubKey(key.PubKey().SerializeCompressed()), "192.0.2.1")
	if err != nil {
		return nil, err
	}
	return &DB{DB: e.DB(tenant.ID), store: tower.New(db)}, nil
}

// noChain is never reached: nobody searches here.
type noChain struct{}

var errNoChain = errors.New("no chain")

func (noChain) Best(context.Context) (int32, error) { return 0, errNoChain }
func (noChain) BlockHash(context.Context, int32) (chainhash.Hash, error) {
	return chainhash.Hash{}, errNoChain
}
func (noChain) Block(context.Context, chainhash.Hash) (*wire.MsgBlock, error) { return nil, errNoChain }
func (noChain) Publish(context.Context, []byte) error                         { return errNoChain }
func (noChain) Watch(ctx context.Context, _ func()) error                     { <-ctx.Done(); return ctx.Err() }
