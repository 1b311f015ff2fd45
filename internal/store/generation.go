package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/sluice-lsp/sluice/internal/durable"
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
// acted on. Nothing new may be decided until it was reconciled with the node:
// MarkRestored sees to it that no process forgets that.
type RestoredError struct {
	Kind         RestoreKind
	FileSeen     int64
	DatabaseSeen int64
}

// Error says what a person should know.
func (e *RestoredError) Error() string {
	switch e.Kind {
	case RestoreBehind:
		return fmt.Sprintf("the database was restored from an older copy: this machine has seen generation %d, the database knows it up to %d",
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

// Generation is the database's identity and how often it was begun anew, as one
// data directory has seen it.
type Generation struct {
	DatabaseID string `json:"database_id"`
	// FileID names the data directory. The database knows what each has seen, so
	// that what one process does to it hides nothing from another.
	FileID string `json:"file_id"`
	Number int64  `json:"generation"`
}

// CheckGeneration compares the database with the generation file, raises the
// generation, and writes the file, which must lie outside of what a dump of the
// database contains. A *RestoredError changes nothing.
//
// A dump that was taken since the last raise is not recognised: Advance narrows
// that window. Nor is one that came back together with the file, as in a snapshot of the
// whole disk: what the node has beyond NodeMarks tells these.
func CheckGeneration(ctx context.Context, db *DB, path string) (Generation, error) {
	return db.raise(ctx, path, func(_ context.Context, _ *Tx, row, file Generation, seen int64) error {
		restored := func(kind RestoreKind) error {
			return &RestoredError{Kind: kind, FileSeen: file.Number, DatabaseSeen: row.Number}
		}
		switch {
		case row.DatabaseID == "" && file.DatabaseID == "":
			return nil
		case row.DatabaseID == "":
			return restored(RestoreEmpty)
		case file.DatabaseID == "":
			return restored(RestoreNoFile)
		}
		return behind(row, file, seen)
	})
}

// Advance raises the generation of a database that is in use. Called from time
// to time (every minute, say, and at shutdown), it bounds how young a dump can
// be and still pass for the present. A *RestoredError says that the database was
// restored while it was in use (WentBack), and changes nothing.
func Advance(ctx context.Context, db *DB, path string) (Generation, error) {
	gen, err := db.raise(ctx, path, func(ctx context.Context, tx *Tx, row, file Generation, seen int64) error {
		if err := tx.checkPast(ctx); err != nil {
			return err
		}
		switch {
		case file.DatabaseID == "":
			return errors.New("the generation file is gone: the next start will take the database for a restored one")
		case row.DatabaseID == "":
			return &RestoredError{Kind: RestoreEmpty, FileSeen: file.Number}
		}
		return behind(row, file, seen)
	})
	if errors.Is(err, ErrRestored) {
		err = errors.Join(err, db.GoneBack(err.Error()))
	}
	return gen, err
}

// behind is a *RestoredError if the file is of another database, or of a later time.
func behind(row, file Generation, seen int64) error {
	switch {
	case file.DatabaseID != row.DatabaseID:
		return &RestoredError{Kind: RestoreForeign, FileSeen: file.Number, DatabaseSeen: row.Number}
	case file.Number > seen:
		return &RestoredError{Kind: RestoreBehind, FileSeen: file.Number, DatabaseSeen: seen}
	}
	return nil
}

// Join makes this data directory one that knows the database as it is.
func Join(ctx context.Context, db *DB, path string) (Generation, error) {
	return db.raise(ctx, path, func(context.Context, *Tx, Generation, Generation, int64) error { return nil })
}

// MarkRestored is Join for a database that was restored. It records in the
// database that none of the roles has reconciled it yet, and why, for people: so
// every process that has such a role, whatever its own file says, knows it until
// AcceptRestore. A role that is marked already keeps its first reason, and is to be
// reconciled once more.
func MarkRestored(ctx context.Context, db *DB, path, reason string, roles ...string) (Generation, error) {
	now := db.now().UnixMilli()
	return db.raise(ctx, path, func(ctx context.Context, tx *Tx, _, _ Generation, _ int64) error {
		tx.marks = true
		q := storedb.New(tx)
		for _, role := range roles {
			if err := q.MarkRestored(ctx, storedb.MarkRestoredParams{Role: role, SinceMs: now, Reason: reason}); err != nil {
				return err
			}
		}
		return nil
	})
}

// RestoredRole is a role that has not reconciled a restored database.
type RestoredRole struct {
	Role string
	// Reason is how the copy was recognised.
	Reason string
	Since  time.Time
}

// RestoredRoles lists the roles that have not reconciled a restored database.
func RestoredRoles(ctx context.Context, db *DB) (roles []RestoredRole, err error) {
	err = db.Read(ctx, func(ctx context.Context, tx *Tx) error {
		rows, err := storedb.New(tx).RestoredRoles(ctx)
		roles = make([]RestoredRole, 0, len(rows))
		for _, r := range rows {
			roles = append(roles, RestoredRole{Role: r.Role, Reason: r.Reason, Since: time.UnixMilli(r.SinceMs)})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("whether the database was restored: %w", err)
	}
	return roles, nil
}

// AcceptRestore says that the role has reconciled the restored database, as it was
// marked then. A later mark stays.
func AcceptRestore(ctx context.Context, db *DB, role string, marked time.Time) error {
	err := db.Write(ctx, func(ctx context.Context, tx *Tx) error {
		_, err := storedb.New(tx).AcceptRestored(ctx, storedb.AcceptRestoredParams{Role: role, SinceMs: marked.UnixMilli()})
		return err
	})
	if err != nil {
		return fmt.Errorf("accept the restored database: %w", err)
	}
	return nil
}

// Outdate raises the generation that the file has seen, and nothing in the database: the
// next start recognises the database as an older copy, whatever becomes of this process.
func Outdate(path string) error {
	gen, err := readGeneration(path)
	if err != nil || gen.DatabaseID == "" {
		return err // without a file the next start recognises it as well
	}
	gen.Number++
	return writeGeneration(path, gen)
}

// raise commits the new generation and then writes the file: a crash in between
// leaves the database ahead, which is no alarm. allow sees the database's
// generation, the file's, and what the database knows of the file.
func (db *DB) raise(
	ctx context.Context, path string, allow func(ctx context.Context, tx *Tx, row, file Generation, seen int64) error,
) (Generation, error) {
	file, err := readGeneration(path)
	if err != nil {
		return Generation{}, err
	}
	var ids [2][16]byte
	for i := range ids {
		if _, err := rand.Read(ids[i][:]); err != nil {
			return Generation{}, fmt.Errorf("generation: %w", err)
		}
	}
	var gen Generation
	err = db.Write(ctx, func(ctx context.Context, tx *Tx) error {
		q := storedb.New(tx)
		gen = Generation{FileID: cmp.Or(file.FileID, hex.EncodeToString(ids[0][:]))}
		meta, err := q.GetMeta(ctx)
		err = MapError(err)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		fresh := err != nil
		if !fresh {
			gen.DatabaseID, gen.Number = meta.DatabaseID, meta.Generation
		}
		seen, err := q.GetFile(ctx, gen.FileID)
		if err = MapError(err); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if err := allow(ctx, tx, gen, file, seen); err != nil {
			return err
		}
		gen.Number = max(gen.Number, file.Number) + 1
		at := tx.Now().UnixMilli()
		if err := q.PutFile(ctx, storedb.PutFileParams{ID: gen.FileID, Generation: gen.Number, SeenMs: at}); err != nil {
			return err
		}
		if !fresh {
			_, err = q.SetGeneration(ctx, storedb.SetGenerationParams{Generation: gen.Number, BumpedMs: at})
			return err
		}
		gen.DatabaseID = hex.EncodeToString(ids[1][:])
		return q.InsertMeta(ctx, storedb.InsertMetaParams{DatabaseID: gen.DatabaseID, Generation: gen.Number, BumpedMs: at})
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
	if err := json.Unmarshal(raw, &gen); err != nil || gen.DatabaseID == "" || gen.FileID == "" || gen.Number < 1 {
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
	if err := durable.WriteFile(path, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("generation file: %w", err)
	}
	return nil
}
