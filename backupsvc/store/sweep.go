package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/backupsvc/store/backupsdb"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/store"
)

// Sweeping says what is kept of the past, and how often that is looked after.
type Sweeping struct {
	Retention vault.Retention
	// Quota has the bound for past values; identities may have their own.
	Quota vault.Quota
	// LogEntries is how many entries an identity's log can show.
	LogEntries int64
	// ChangedAfter is how long after a sweep an identity that wrote is due
	// again, AnyAfter one with history that did not write.
	ChangedAfter, AnyAfter time.Duration
}

// How much one sweep does at a time.
const (
	sweepIdentities = 100
	sweepKeys       = 200
	sweepValues     = 500
)

// Sweep lets go, for every identity that is due, of past values that retention
// does not keep, and shortens logs. It gives how many identities it looked at:
// zero means that nothing is due.
func (s *Store) Sweep(ctx context.Context, c Sweeping) (int, error) {
	var due []backupsdb.BackupsIdentity
	now := s.db.Now()
	err := s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		due, err = backupsdb.New(tx).DueForSweep(ctx, backupsdb.DueForSweepParams{
			ChangedBeforeMs: now.Add(-c.ChangedAfter).UnixMilli(), AnyBeforeMs: now.Add(-c.AnyAfter).UnixMilli(),
			HistoryBytes: c.Quota.HistoryBytes, Most: sweepIdentities,
		})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("sweep: %w", err)
	}
	for _, row := range due {
		if err := s.sweepIdentity(ctx, c, row); err != nil {
			return 0, fmt.Errorf("sweep %s: %w", row.Identity, err)
		}
	}
	return len(due), nil
}

func (s *Store) sweepIdentity(ctx context.Context, c Sweeping, row backupsdb.BackupsIdentity) error {
	storeID, key := []byte{}, []byte{}
	for {
		var keys []backupsdb.KeysWithValuesRow
		err := s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
			q := backupsdb.New(tx)
			keys, err = q.KeysWithValues(ctx, backupsdb.KeysWithValuesParams{Owner: row.Owner, StoreID: storeID, ObjectKey: key, Most: sweepKeys})
			if err != nil {
				return err
			}
			var freed int64
			for _, k := range keys {
				n, err := s.sweepKey(ctx, q, c, row.Owner, k, tx.Now())
				if err != nil {
					return err
				}
				freed += n
			}
			return s.mark(ctx, q, row.Owner, freed, nil)
		})
		if err != nil {
			return err
		}
		if len(keys) < sweepKeys {
			break
		}
		storeID, key = keys[len(keys)-1].StoreID, keys[len(keys)-1].ObjectKey
	}
	if err := s.sweepOver(ctx, c, row.Owner); err != nil {
		return err
	}
	return s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := backupsdb.New(tx)
		return s.mark(ctx, q, row.Owner, 0, func(p *backupsdb.MarkSweptParams, now backupsdb.BackupsIdentity) error {
			p.SweptSeq, p.SweptMs = row.Seq, tx.Now().UnixMilli()
			if from := now.Seq - c.LogEntries + 1; from > now.LogFrom {
				p.LogFrom = from
			}
			_, err := q.TrimLog(ctx, backupsdb.TrimLogParams{Owner: row.Owner, Seq: p.LogFrom})
			return err
		})
	})
}

func (s *Store) sweepKey(ctx context.Context, q *backupsdb.Queries, c Sweeping, owner []byte, k backupsdb.KeysWithValuesRow, now time.Time) (int64, error) {
	var present int64
	obj, err := q.GetObject(ctx, backupsdb.GetObjectParams{Owner: owner, StoreID: k.StoreID, ObjectKey: k.ObjectKey})
	gone := errors.Is(store.MapError(err), store.ErrNotFound)
	if err != nil && !gone {
		return 0, err
	}
	if !gone {
		present = obj.Seq
		if k.Kept == 1 {
			return 0, nil
		}
	}
	rows, err := q.PastOf(ctx, backupsdb.PastOfParams{Owner: owner, StoreID: k.StoreID, ObjectKey: k.ObjectKey, Seq: present})
	if err != nil {
		return 0, err
	}
	past, sizes := make([]vault.Past, 0, len(rows)), make(map[uint64]int64, len(rows))
	for _, r := range rows {
		past = append(past, vault.Past{Seq: seq(r.Seq), AtMs: r.AtMs, Size: r.Size})
		sizes[seq(r.Seq)] = r.Size
	}
	return letGo(ctx, q, owner, c.Retention.Drop(past, gone, now), sizes)
}

// sweepOver keeps an identity's past values within their bound.
func (s *Store) sweepOver(ctx context.Context, c Sweeping, owner []byte) error {
	for more := true; more; {
		err := s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
			q := backupsdb.New(tx)
			more = false
			row, err := q.GetIdentity(ctx, owner)
			if err != nil {
				return err
			}
			acc, err := accountOf(row)
			if err != nil {
				return err
			}
			over := acc.HistoryBytes - c.Quota.With(acc.Own).HistoryBytes
			if over <= 0 {
				return nil
			}
			rows, err := q.OldestPast(ctx, backupsdb.OldestPastParams{Owner: owner, Limit: sweepValues})
			if err != nil {
				return err
			}
			past, sizes := make([]vault.Past, 0, len(rows)), make(map[uint64]int64, len(rows))
			var total int64
			for _, r := range rows {
				past = append(past, vault.Past{Seq: seq(r.Seq), Size: r.Size})
				sizes[seq(r.Seq)] = r.Size
				total += r.Size
			}
			freed, err := letGo(ctx, q, owner, vault.DropOver(past, max(0, total-over)), sizes)
			if err != nil {
				return err
			}
			more = len(rows) == sweepValues && freed < over
			return s.mark(ctx, q, owner, freed, nil)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func letGo(ctx context.Context, q *backupsdb.Queries, owner []byte, drop []uint64, sizes map[uint64]int64) (freed int64, err error) {
	for _, n := range drop {
		went, err := q.LetGo(ctx, backupsdb.LetGoParams{Owner: owner, Seq: num(n)})
		if err != nil {
			return 0, err
		}
		if went == 1 {
			freed += sizes[n]
		}
	}
	return freed, nil
}

// mark books what was freed; change may set more.
func (s *Store) mark(ctx context.Context, q *backupsdb.Queries, owner []byte, freed int64, change func(*backupsdb.MarkSweptParams, backupsdb.BackupsIdentity) error) error {
	if freed == 0 && change == nil {
		return nil
	}
	row, err := q.GetIdentity(ctx, owner)
	if err != nil {
		return err
	}
	p := backupsdb.MarkSweptParams{Owner: owner, FreedBytes: freed, LogFrom: row.LogFrom, SweptSeq: row.SweptSeq, SweptMs: row.SweptMs}
	if change != nil {
		if err := change(&p, row); err != nil {
			return err
		}
	}
	_, err = q.MarkSwept(ctx, p)
	return err
}
