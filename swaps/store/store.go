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
