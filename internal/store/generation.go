package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sluice-lsp/sluice/internal/store/storedb"
)

// ErrRestored is in the chain of every RestoredError.
var ErrRestored = errors.New("the database is not the one that was last used here")

// RestoreKind tells how the database differs from what the generation file says.
type RestoreKind string

// The kinds of difference.
const (
	// RestoreBehind: the file has seen a later generation of this database.
	RestoreBehind RestoreKind = "behind"

	// RestoreForeign: the file belongs to another database.
	RestoreForeign RestoreKind = "foreign"

	// RestoreEmpty: the file knows a database, but this one is new.
	RestoreEmpty RestoreKind = "empty"

	// RestoreNoFile: the database has a past, but this machine no file of it.
	// So it is on a machine that joins a shared database, or that was rebuilt.
	RestoreNoFile RestoreKind = "no-file"
)

// RestoredError says that the database may have forgotten decisions that were
// acted on. Nothing new may be decided until it was reconciled with the node;
// then AcceptRestore.
type RestoredError struct {
	Kind         RestoreKind
	FileSeen     int64
	DatabaseSeen int64
}

// Error says what a person should know.
func (e *RestoredError) Error() string {
	switch e.Kind {
	case RestoreBehind:
		return fmt.Sprintf("the database was restored from an older copy: this machine has seen generation %d, the database has %d",
			e.FileSeen, e.DatabaseSeen)
	case RestoreForeign:
		return "the generation file on this machine belongs to another database"
	case RestoreEmpty:
		return fmt.Sprintf("the database is empty, but this machine has used one up to generation %d", e.FileSeen)
	default:
		return fmt.Sprintf("the database has a past (generation %d), but this machine has no generation file of it", e.DatabaseSeen)
	}
}

// Unwrap makes errors.Is(err, ErrRestored) true.
func (e *RestoredError) Unwrap() error { return ErrRestored }

// Generation is the database's identity and how often it was begun anew.
type Generation struct {
	DatabaseID string `json:"database_id"`
	Number     int64  `json:"generation"`
}

// CheckGeneration compares the database with the generation file, raises the
// generation, and writes the file, which must lie outside of what a dump of the
// database contains. A *RestoredError changes nothing.
//
// A dump that was taken since the last raise is not recognised: Advance narrows
// that window.
func CheckGeneration(ctx context.Context, db *DB, path string) (Generation, error) {
	file, err := readGeneration(path)
	if err != nil {
		return Generation{}, err
	}
	return db.raise(ctx, path, func(row Generation) (int64, error) {
		restored := func(kind RestoreKind) (int64, error) {
			return 0, &RestoredError{Kind: kind, FileSeen: file.Number, DatabaseSeen: row.Number}
		}
		switch {
		case row.DatabaseID == "" && file.DatabaseID == "":
			return 1, nil
		case row.DatabaseID == "":
			return restored(RestoreEmpty)
		case file.DatabaseID == "":
			return restored(RestoreNoFile)
		case file.DatabaseID != row.DatabaseID:
			return restored(RestoreForeign)
		case file.Number > row.Number:
			return restored(RestoreBehind)
		}
		return row.Number + 1, nil
	})
}

// Advance raises the generation of a database that is in use. Called from time
// to time (every minute, say, and at shutdown), it bounds how young a dump can
// be and still pass for the present.
func Advance(ctx context.Context, db *DB, path string) (Generation, error) {
	return db.raise(ctx, path, func(row Generation) (int64, error) {
		if row.DatabaseID == "" {
			return 0, errors.New("the database has no generation yet: CheckGeneration comes first")
		}
		return row.Number + 1, nil
	})
}

// AcceptRestore makes the database, as it is, the one this machine goes on with.
// It is called when everything was reconciled.
func AcceptRestore(ctx context.Context, db *DB, path string) (Generation, error) {
	file, err := readGeneration(path)
	if err != nil {
		return Generation{}, err
	}
	return db.raise(ctx, path, func(row Generation) (int64, error) {
		return max(row.Number, file.Number) + 1, nil
	})
}

// raise commits the new generation and then writes the file: a crash in between
// leaves the database ahead, which is no alarm.
func (db *DB) raise(ctx context.Context, path string, next func(row Generation) (int64, error)) (Generation, error) {
	var gen Generation
	err := db.Write(ctx, func(ctx context.Context, tx *Tx) error {
		q := storedb.New(tx)
		gen = Generation{}
		row, err := q.GetMeta(ctx)
		err = MapError(err)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		fresh := err != nil
		if !fresh {
			gen = Generation{DatabaseID: row.DatabaseID, Number: row.Generation}
		}
		number, err := next(gen)
		if err != nil {
			return err
		}
		gen.Number = number
		if !fresh {
			_, err = q.SetGeneration(ctx, storedb.SetGenerationParams{
				Generation: number, BumpedMs: tx.Now().UnixMilli(),
			})
			return err
		}
		var id [16]byte
		if _, err := rand.Read(id[:]); err != nil {
			return fmt.Errorf("database id: %w", err)
		}
		gen.DatabaseID = hex.EncodeToString(id[:])
		return q.InsertMeta(ctx, storedb.InsertMetaParams{
			DatabaseID: gen.DatabaseID, Generation: number, BumpedMs: tx.Now().UnixMilli(),
		})
	})
	if err != nil {
		return Generation{}, fmt.Errorf("database generation: %w", err)
	}
	if err := writeGeneration(path, gen); err != nil {
		return Generation{}, err
	}
	return gen, nil
}

func readGeneration(path string) (Generation, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Generation{}, nil
	}
	if err != nil {
		return Generation{}, fmt.Errorf("generation file: %w", err)
	}
	var gen Generation
	if err := json.Unmarshal(raw, &gen); err != nil || gen.DatabaseID == "" || gen.Number < 1 {
		return Generation{}, fmt.Errorf("generation file %s is damaged: move it away to have the database treated as restored", path)
	}
	return gen, nil
}

// writeGeneration replaces the file so that after a power cut either the old
// content is there or the new one.
func writeGeneration(path string, gen Generation) (err error) {
	raw, err := json.Marshal(gen)
	if err != nil {
		return fmt.Errorf("generation file: %w", err)
	}
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, ".generation-*")
	if err != nil {
		return fmt.Errorf("generation file: %w", err)
	}
	_, err = tmp.Write(append(raw, '\n'))
	if err == nil {
		err = tmp.Sync()
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("generation file: %w", errors.Join(err, os.Remove(tmp.Name())))
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("generation file: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
