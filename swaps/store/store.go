// Package store keeps what swaps need beside their state machines: the fee
// rates that prices were made from, and what tokens are made from. The truth of a swap is its state machine.
package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps/quote"
	"github.com/sluice-lsp/sluice/swaps/store/swapsdb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the service's tables up to date.
func Migrate(ctx context.Context, db *store.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("swaps migrations: %w", err)
	}
	return store.Migrate(ctx, db, "swaps", files)
}

// Secret gives the secret of a name, which is fresh's if there was none.
func Secret(ctx context.Context, tx *store.Tx, name string, fresh [32]byte, now time.Time) (secret [32]byte, err error) {
	q := swapsdb.New(tx)
	if err := q.InsertSecret(ctx, swapsdb.InsertSecretParams{Name: name, Secret: fresh[:], MadeMs: now.UnixMilli()}); err != nil {
		return secret, fmt.Errorf("keep the secret %s: %w", name, err)
	}
	kept, err := q.GetSecret(ctx, name)
	if err != nil {
		return secret, fmt.Errorf("read the secret %s: %w", name, err)
	}
	if len(kept) != len(secret) {
		return secret, fmt.Errorf("the secret %s has %d bytes", name, len(kept))
	}
	return [32]byte(kept), nil
}

// Window reads the rates since a time, oldest first.
func Window(ctx context.Context, tx *store.Tx, since time.Time) (quote.Window, error) {
	rows, err := swapsdb.New(tx).RatesSince(ctx, since.UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("read the rates of quotes: %w", err)
	}
	out := make(quote.Window, 0, len(rows))
	for _, r := range rows {
		out = append(out, quote.Rates{
			At: time.UnixMilli(r.AtMs), Soon: ln.FeeRateSatPerKW(r.SoonSatPerKw), Later: ln.FeeRateSatPerKW(r.LaterSatPerKw),
		})
	}
	return out, nil
}

// Record keeps rates before anything is quoted from them, and forgets those
// before a time.
func Record(ctx context.Context, tx *store.Tx, r quote.Rates, forget time.Time) error {
	q := swapsdb.New(tx)
	err := q.InsertRates(ctx, swapsdb.InsertRatesParams{
		AtMs: r.At.UnixMilli(), SoonSatPerKw: int64(r.Soon), LaterSatPerKw: int64(r.Later), //nolint:gosec // rates within the ceiling
	})
	if err == nil {
		err = q.DeleteRatesBefore(ctx, forget.UnixMilli())
	}
	if err != nil {
		return fmt.Errorf("keep the rates of quotes: %w", err)
	}
	return nil
}

// Probe is a payment that nobody can settle, sent to see whether a client can be paid.
type Probe struct {
	Hash ln.Hash
	// UntilHeight is when none of its HTLCs can be held any more.
	UntilHeight uint32
}

// AddProbe keeps a probe before it is sent.
func AddProbe(ctx context.Context, tx *store.Tx, p Probe) error {
	if err := swapsdb.New(tx).InsertProbe(ctx, swapsdb.InsertProbeParams{Hash: p.Hash[:], UntilHeight: int64(p.UntilHeight)}); err != nil {
		return fmt.Errorf("keep a probe: %w", err)
	}
	return nil
}

// Probes are those that may still lock money.
func Probes(ctx context.Context, tx *store.Tx) ([]Probe, error) {
	rows, err := swapsdb.New(tx).ListProbes(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the probes: %w", err)
	}
	out := make([]Probe, 0, len(rows))
	for _, r := range rows {
		if len(r.Hash) != len(ln.Hash{}) {
			return nil, fmt.Errorf("a probe's hash has %d bytes", len(r.Hash))
		}
		out = append(out, Probe{Hash: ln.Hash(r.Hash), UntilHeight: uint32(r.UntilHeight)}) //nolint:gosec // a height
	}
	return out, nil
}

// DropProbe forgets a probe whose money is back.
func DropProbe(ctx context.Context, tx *store.Tx, hash ln.Hash) error {
	if err := swapsdb.New(tx).DeleteProbe(ctx, hash[:]); err != nil {
		return fmt.Errorf("forget a probe: %w", err)
	}
	return nil
}
