package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/store/towerdb"
)

// Tip is the last block that was searched; false before the first.
func (s *Store) Tip(ctx context.Context) (tip watchtower.Point, ok bool, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		tip, ok, err = point(towerdb.New(tx).Tip(ctx))
		return err
	})
	return tip, ok, err
}

// BlockAt is the block that was searched at a height, where that is still known.
func (s *Store) BlockAt(ctx context.Context, height int32) (at watchtower.Point, ok bool, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		at, ok, err = point(towerdb.New(tx).BlockAt(ctx, int64(height)))
		return err
	})
	return at, ok, err
}

// Lowest is the lowest block that is still known to have been searched.
func (s *Store) Lowest(ctx context.Context) (at watchtower.Point, ok bool, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		at, ok, err = point(towerdb.New(tx).LowestBlock(ctx))
		return err
	})
	return at, ok, err
}

func point(row towerdb.TowerBlock, err error) (watchtower.Point, bool, error) {
	if err = store.MapError(err); errors.Is(err, store.ErrNotFound) {
		return watchtower.Point{}, false, nil
	}
	if err != nil {
		return watchtower.Point{}, false, fmt.Errorf("read searched block: %w", err)
	}
	at := watchtower.Point{Height: int32(row.Height)} //nolint:gosec // written from it
	copy(at.Hash[:], row.Hash)
	return at, true, nil
}

// FirstTip makes a block the first tip, unless there is one already.
func (s *Store) FirstTip(ctx context.Context, tip watchtower.Point) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := towerdb.New(tx)
		if _, ok, err := point(q.Tip(ctx)); err != nil || ok {
			return err
		}
		return setTip(ctx, q, tip)
	})
}

// SetTip makes a block the tip without searching it: the first one, or where
// another program's lookout stands. Blocks above it are forgotten.
func (s *Store) SetTip(ctx context.Context, tip watchtower.Point) error {
	return s.search(ctx, func(ctx context.Context, q *towerdb.Queries) error { return setTip(ctx, q, tip) })
}

// search is a transaction of whoever searches blocks.
func (s *Store) search(ctx context.Context, f func(context.Context, *towerdb.Queries) error) error {
	return s.db.WriteFenced(ctx, s.fence, func(ctx context.Context, tx *store.Tx) error {
		return f(ctx, towerdb.New(tx))
	})
}

func setTip(ctx context.Context, q *towerdb.Queries, tip watchtower.Point) error {
	if err := q.DeleteBlocksFrom(ctx, int64(tip.Height)); err != nil {
		return fmt.Errorf("forget blocks: %w", err)
	}
	if err := q.InsertBlock(ctx, towerdb.InsertBlockParams{Height: int64(tip.Height), Hash: tip.Hash[:]}); err != nil {
		return fmt.Errorf("store block: %w", err)
	}
	return nil
}

// Told is a breach that changed, with what its story has to say of it.
type Told struct {
	watchtower.Breach
	Text string
}

// Searched is what one block brought.
type Searched struct {
	At watchtower.Point
	// New breaches; one that is known already stays as it is.
	New []Told
	// Changed are known breaches.
	Changed []Told
	// Keep is the lowest height whose hash is still kept.
	Keep int32
}

// Commit stores a searched block and what was found in it, in one transaction:
// whoever comes back after a crash finds either both or neither. The block must
// follow the tip.
func (s *Store) Commit(ctx context.Context, block Searched) error {
	return s.search(ctx, func(ctx context.Context, q *towerdb.Queries) error {
		tip, ok, err := point(q.Tip(ctx))
		if err != nil {
			return err
		}
		if ok && block.At.Height != tip.Height+1 {
			return fmt.Errorf("block %d was searched while the tip is %d: another process searches as well", block.At.Height, tip.Height)
		}
		if err := q.InsertBlock(ctx, towerdb.InsertBlockParams{Height: int64(block.At.Height), Hash: block.At.Hash[:]}); err != nil {
			return fmt.Errorf("store block: %w", err)
		}
		if err := q.DeleteBlocksBelow(ctx, int64(block.Keep)); err != nil {
			return fmt.Errorf("forget old blocks: %w", err)
		}
		for _, b := range block.New {
			if err := insertBreach(ctx, q, b); err != nil {
				return err
			}
		}
		return tell(ctx, q, block.Changed)
	})
}

// Rewind makes an earlier searched block the tip again, with what that takes
// back.
func (s *Store) Rewind(ctx context.Context, to watchtower.Point, changed []Told) error {
	return s.search(ctx, func(ctx context.Context, q *towerdb.Queries) error {
		if err := setTip(ctx, q, to); err != nil {
			return err
		}
		return tell(ctx, q, changed)
	})
}

// Tell stores breaches that changed.
func (s *Store) Tell(ctx context.Context, changed []Told) error {
	if len(changed) == 0 {
		return nil
	}
	return s.search(ctx, func(ctx context.Context, q *towerdb.Queries) error { return tell(ctx, q, changed) })
}

func tell(ctx context.Context, q *towerdb.Queries, changed []Told) error {
	for _, b := range changed {
		if err := q.SetBreach(ctx, towerdb.SetBreachParams{
			ID: b.ID[:], SeenHeight: int64(b.SeenAt.Height), SeenHash: b.SeenAt.Hash[:], MissingSince: int64(b.MissingSince),
			State: string(b.State), Final: b.Final, SpendHeight: int64(b.Spend.At.Height), SpendHash: b.Spend.At.Hash[:],
			SpendTx: b.Spend.TxID[:], SpendPath: string(b.Spend.Path), Attempts: b.Attempts, Problem: b.Problem, ChangedMs: b.ChangedAt.UnixMilli(),
		}); err != nil {
			return fmt.Errorf("store breach %x: %w", b.ID, err)
		}
		if err := story(ctx, q, b); err != nil {
			return err
		}
	}
	return nil
}

func story(ctx context.Context, q *towerdb.Queries, b Told) error {
	if b.Text == "" {
		return nil
	}
	if err := q.AddStory(ctx, towerdb.AddStoryParams{Breach: b.ID[:], AtMs: b.ChangedAt.UnixMilli(), Text: b.Text}); err != nil {
		return fmt.Errorf("story of breach %x: %w", b.ID, err)
	}
	return nil
}

func insertBreach(ctx context.Context, q *towerdb.Queries, b Told) error {
	if err := q.InsertBreach(ctx, towerdb.InsertBreachParams{
		ID: b.ID[:], Tenant: b.Tenant, SessionID: b.Session[:], Seq: int64(b.Seq), CommitTx: b.CommitTx[:], SeenHeight: int64(b.SeenAt.Height),
		SeenHash: b.SeenAt.Hash[:], MissingSince: int64(b.MissingSince), Justice: append([]byte{}, b.Justice...), JusticeTx: b.JusticeTx[:],
		ToLocal: int64(b.ToLocal), SweptSat: b.SweptSat, FeeSat: b.FeeSat, State: string(b.State), Final: b.Final,
		SpendHeight: int64(b.Spend.At.Height), SpendHash: b.Spend.At.Hash[:], SpendTx: b.Spend.TxID[:], SpendPath: string(b.Spend.Path),
		Attempts: b.Attempts, Problem: b.Problem, FoundMs: b.FoundAt.UnixMilli(), ChangedMs: b.ChangedAt.UnixMilli(),
	}); err != nil {
		return fmt.Errorf("store breach %x: %w", b.ID, err)
	}
	return story(ctx, q, b)
}

func breachOf(row towerdb.TowerBreach) watchtower.Breach {
	//nolint:gosec // every column was written from these types
	b := watchtower.Breach{
		Tenant: row.Tenant, Seq: uint16(row.Seq), SeenAt: watchtower.Point{Height: int32(row.SeenHeight)}, MissingSince: int32(row.MissingSince),
		Justice: row.Justice, ToLocal: uint32(row.ToLocal), SweptSat: row.SweptSat, FeeSat: row.FeeSat,
		State: watchtower.BreachState(row.State), Final: row.Final,
		Spend:    watchtower.Spend{At: watchtower.Point{Height: int32(row.SpendHeight)}, Path: watchtower.Path(row.SpendPath)},
		Attempts: row.Attempts, Problem: row.Problem, FoundAt: time.UnixMilli(row.FoundMs), ChangedAt: time.UnixMilli(row.ChangedMs),
	}
	copy(b.ID[:], row.ID)
	copy(b.Session[:], row.SessionID)
	for _, h := range []struct {
		into *chainhash.Hash
		from []byte
	}{{&b.CommitTx, row.CommitTx}, {&b.SeenAt.Hash, row.SeenHash}, {&b.JusticeTx, row.JusticeTx}, {&b.Spend.At.Hash, row.SpendHash}, {&b.Spend.TxID, row.SpendTx}} {
		copy(h.into[:], h.from)
	}
	return b
}

// Open are the breaches that are not final.
func (s *Store) Open(ctx context.Context) (out []watchtower.Breach, err error) {
	return s.breaches(ctx, func(ctx context.Context, q *towerdb.Queries) ([]towerdb.TowerBreach, error) {
		return q.OpenBreaches(ctx)
	})
}

func (s *Store) breaches(ctx context.Context, read func(context.Context, *towerdb.Queries) ([]towerdb.TowerBreach, error)) (out []watchtower.Breach, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		rows, err := read(ctx, towerdb.New(tx))
		if err != nil {
			return fmt.Errorf("read breaches: %w", err)
		}
		for _, r := range rows {
			out = append(out, breachOf(r))
		}
		return nil
	})
	return out, err
}

// Known gives a breach, open or over; false when there is none of that name.
func (s *Store) Known(ctx context.Context, id watchtower.BreachID) (b watchtower.Breach, known bool, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		row, err := towerdb.New(tx).GetBreach(ctx, id[:])
		if err = store.MapError(err); errors.Is(err, store.ErrNotFound) {
			known = false
			return nil
		}
		if err != nil {
			return fmt.Errorf("read breach %x: %w", id, err)
		}
		b, known = breachOf(row), true
		return nil
	})
	return b, known, err
}

// BuriedAbove are the breaches that are over by what a block above a height shows.
func (s *Store) BuriedAbove(ctx context.Context, height int32) (out []watchtower.Breach, err error) {
	return s.breaches(ctx, func(ctx context.Context, q *towerdb.Queries) ([]towerdb.TowerBreach, error) {
		return q.BuriedAbove(ctx, int64(height))
	})
}

// Cursor is where a list of breaches, newest first, goes on.
type Cursor struct {
	FoundMs int64
	ID      []byte
}

// Breaches lists breaches, newest first: a tenant's, or with tenant 0 all.
func (s *Store) Breaches(ctx context.Context, tenant int64, after Cursor, limit int) (out []watchtower.Breach, err error) {
	if after.FoundMs == 0 {
		after.FoundMs = math.MaxInt64
	}
	if after.ID == nil {
		after.ID = []byte{}
	}
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		q := towerdb.New(tx)
		var rows []towerdb.TowerBreach
		var err error
		if tenant == 0 {
			rows, err = q.ListBreaches(ctx, towerdb.ListBreachesParams{FoundMs: after.FoundMs, ID: after.ID, Limit: page(limit)})
		} else {
			rows, err = q.ListTenantBreaches(ctx, towerdb.ListTenantBreachesParams{Tenant: tenant, FoundMs: after.FoundMs, ID: after.ID, Limit: page(limit)})
		}
		if err != nil {
			return fmt.Errorf("list breaches: %w", err)
		}
		for _, r := range rows {
			out = append(out, breachOf(r))
		}
		return nil
	})
	return out, err
}

// Line is one entry of a story.
type Line struct {
	At   time.Time
	Text string
}

// Breach shows one breach with its story: of one tenant, or with tenant 0 of any.
func (s *Store) Breach(ctx context.Context, tenant int64, id watchtower.BreachID) (out watchtower.Breach, lines []Line, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		lines = nil
		q := towerdb.New(tx)
		row, err := q.GetBreach(ctx, id[:])
		if err = store.MapError(err); errors.Is(err, store.ErrNotFound) || err == nil && tenant != 0 && row.Tenant != tenant {
			return errkind.New(errkind.NotFound, "There is no such breach: list them.")
		}
		if err != nil {
			return fmt.Errorf("read breach: %w", err)
		}
		out = breachOf(row)
		told, err := q.Story(ctx, id[:])
		if err != nil {
			return fmt.Errorf("read story: %w", err)
		}
		for _, l := range told {
			lines = append(lines, Line{At: time.UnixMilli(l.AtMs), Text: l.Text})
		}
		return nil
	})
	return out, lines, err
}

// Tally counts breaches of a state.
type Tally struct {
	State    watchtower.BreachState
	Breaches int64
	SweptSat int64
}

// Tally counts breaches by state.
func (s *Store) Tally(ctx context.Context) (out []Tally, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		rows, err := towerdb.New(tx).CountBreaches(ctx)
		if err != nil {
			return fmt.Errorf("count breaches: %w", err)
		}
		for _, r := range rows {
			out = append(out, Tally{State: watchtower.BreachState(r.State), Breaches: r.Breaches, SweptSat: r.SweptSat})
		}
		return nil
	})
	return out, err
}
