package devnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// lndDatabaseRoom is how far an lnd of a network maps its channel.db from the start: more
// than a test fills. The file is sparse.
const lndDatabaseRoom = 64 << 20

// makeRoom makes an empty channel.db that lnd maps whole when it opens it. Where bbolt has
// to map more of a file while lnd changes a channel's policy, lnd stands still for good
// (docs/runbook.md, faults of lnd); a file that starts at 32 KiB gets there eight times in
// the first minutes of a network, and one with this much room never.
func makeRoom(lndDir string) error {
	dir := filepath.Join(lndDir, "data", "graph", "regtest")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, "channel.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		return fmt.Errorf("make lnd's database: %w", err)
	}
	if err := errors.Join(db.Close(), os.Truncate(path, lndDatabaseRoom)); err != nil {
		return fmt.Errorf("make lnd's database: %w", err)
	}
	return nil
}
