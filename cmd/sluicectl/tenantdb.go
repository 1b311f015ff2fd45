package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sluice-lsp/sluice/internal/pgreplica"
)

// databaseTimeout bounds the look at a node's database.
const databaseTimeout = 10 * time.Second

// ownDatabase makes sure that a node that is not made yet gets a database of its own: on
// another node's it would have that one's channels. lnd does not ask.
func (c TenantAddCmd) ownDatabase(ctx context.Context, dsn string) error {
	if dsn == "" || c.Moved {
		return nil
	}
	if _, err := os.Stat(c.adminMacaroon()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	db, err := pgreplica.Open(ctx, dsn)
	if err != nil {
		if c.Form == formKubernetes {
			return nil // the pod reaches it, this machine need not
		}
		return err
	}
	defer func() { _ = db.Close() }()
	var tables int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')").Scan(&tables); err != nil {
		return fmt.Errorf("the database: %w", err)
	}
	if tables > 0 {
		return errors.New("the database of --dsn-file has tables already: each node needs an empty one of its own, or it would run on another node's channels. If it is this node's, which was moved here, use --moved. Nothing was written")
	}
	return nil
}
