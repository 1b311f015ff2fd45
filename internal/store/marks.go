package store

import (
	"context"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/store/storedb"
)

// NodeMarks are positions in the records of the node, by name, up to which this
// database had a row for whatever it was the cause of. What the node has beyond them
// is either of the last moments before sluiced ended, or of a time that an older copy
// of the database does not know. Unlike the generation file they are part of the copy:
// a snapshot of the whole disk brings old marks, and the node has gone on.
func NodeMarks(ctx context.Context, db *DB) (marks map[string]int64, err error) {
	err = db.Read(ctx, func(ctx context.Context, tx *Tx) error {
		rows, err := storedb.New(tx).NodeMarks(ctx)
		marks = make(map[string]int64, len(rows))
		for _, r := range rows {
			marks[r.Name] = r.Position
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("what was seen of the node: %w", err)
	}
	return marks, nil
}

// PutNodeMarks replaces the marks that it names. A position must have been read from
// the node before this is called: whatever lies before it is on record then.
func PutNodeMarks(ctx context.Context, db *DB, marks map[string]int64) error {
	err := db.Write(ctx, func(ctx context.Context, tx *Tx) error {
		q := storedb.New(tx)
		for name, position := range marks {
			if err := q.PutNodeMark(ctx, storedb.PutNodeMarkParams{Name: name, Position: position}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note what was seen of the node: %w", err)
	}
	return nil
}
