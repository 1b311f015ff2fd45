// Package store keeps what on-demand channels need beside their state
// machines: an index of payments and of channel opens to search by and to sum
// limits from, and the service's settings. The truth of a flow is its state
// machine; rows here change in the same transaction.
package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/sluice-lsp/sluice/internal/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the service's tables up to date.
func Migrate(ctx context.Context, db *store.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("lsp migrations: %w", err)
	}
	return store.Migrate(ctx, db, "lsp", files)
}
