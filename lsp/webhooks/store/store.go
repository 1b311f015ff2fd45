// Package store keeps clients' webhooks and the ledger of what they were told.
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
		return fmt.Errorf("webhooks migrations: %w", err)
	}
	return store.Migrate(ctx, db, "webhooks", files)
}
