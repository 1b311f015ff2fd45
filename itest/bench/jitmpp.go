package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/engine"
	"github.com/sluice-lsp/sluice/lsp/lsps2"
)

const (
	mppParts    = 10
	mppAtOnce   = 32
	aimPartsPS  = 1_000
	aimMPPRatio = 0.5
	mppMsat     = 100_000_000
)

// runJitMPP gathers payments of 10 parts, with everything durable that is
// durable in sluiced, from the first part until each is resumed; and inserts
// the rows that this made into tables without anything around them, as many
// transactions at once and one for each part. The figures of the last line are
// those of the database with the lower ratio.
func runJitMPP(ctx context.Context, b *bench) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, 14*time.Minute)
	defer cancel()
	var worst, parts float64
	var more, res result
	for _, kind := range databases() {
		m, err := b.measureMPP(ctx, kind)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		ratio := m.bare.Seconds() / m.gathered.Seconds()
		perS := float64(m.parts) / m.gathered.Seconds()
		b.say("%s: %d payments of %d parts gathered in %s (%.0f parts/s); %d rows inserted barely, a transaction for each part, in %s: ratio %.2f",
			kind, m.parts/mppParts, mppParts, m.gathered.Round(time.Millisecond), perS, m.rows, m.bare.Round(time.Millisecond), ratio)
		more.add(string(kind)+"_parts_per_s", "%.0f", perS)
		more.add(string(kind)+"_ratio", "%.2f", ratio)
		if worst == 0 || ratio < worst {
			worst, parts = ratio, perS
		}
	}
	res.add("parts_per_s", "%.0f", parts)
	res.add("ratio_to_inserts", "%.2f", worst)
	res = append(res, more...)
	b.say("aims: %d parts/s, and a ratio of %.1f", aimPartsPS, aimMPPRatio)
	if worst < aimMPPRatio {
		return res, errMissed
	}
	return res, nil
}

type mpp struct {
	parts, rows    int
	gathered, bare time.Duration
}

func (b *bench) measureMPP(ctx context.Context, kind store.Engine) (mpp, error) {
	d, err := openDesk(ctx, kind, b.sets, true)
	if err != nil {
		return mpp{}, err
	}
	defer d.close()
	select {
	case <-d.holds.attached:
	case <-ctx.Done():
		return mpp{}, ctx.Err()
	}
	scids := make([]ln.SCID, b.sets)
	business := engine.LSPS2{Engine: d.engine}
	for i := range scids {
		menu, err := business.Menu(ctx, clientKey(i), "")
		if err != nil {
			return mpp{}, err
		}
		bought, err := business.Buy(ctx, clientKey(i), lsps2.BuyRequest{Params: menu[0], SizeMsat: mppMsat, HasSize: true})
		if err != nil {
			return mpp{}, err
		}
		scids[i] = bought.SCID
	}
	before, err := countRows(ctx, d.db)
	if err != nil {
		return mpp{}, err
	}
	m := mpp{parts: b.sets * mppParts}
	if m.gathered, err = b.gather(ctx, d, scids); err != nil {
		return mpp{}, err
	}
	after, err := countRows(ctx, d.db)
	if err != nil {
		return mpp{}, err
	}
	m.rows, m.bare, err = insertBarely(ctx, d.db, before, after, m.parts)
	return m, err
}

// gather offers every part of every payment and waits until all are resumed.
func (b *bench) gather(ctx context.Context, d *desk, scids []ln.SCID) (time.Duration, error) {
	var resumed atomic.Int64
	turns, all := make(chan struct{}, mppAtOnce), make(chan struct{})
	var once sync.Once
	want := int64(len(scids) * mppParts)
	d.holds.resumed = func(n int) {
		if n == 0 {
			return
		}
		if resumed.Add(int64(n)) == want {
			once.Do(func() { close(all) })
		}
		<-turns
	}
	began := time.Now()
	for i, scid := range scids {
		select {
		case turns <- struct{}{}:
		case err := <-d.holds.failed:
			return 0, err
		case <-ctx.Done():
			return 0, fmt.Errorf("%d of %d parts were resumed: %w", resumed.Load(), want, ctx.Err())
		}
		hash := ln.Hash{byte(i), byte(i >> 8), 7}
		for p := range mppParts {
			d.holds.queue <- interceptor.Row{
				ID:   int64(i*mppParts + p + 1),
				Key:  ln.CircuitKey{ChanID: ln.NewSCID(700_000, 1, 0), HtlcID: uint64(i*mppParts + p)}, //nolint:gosec // not negative
				Hash: hash, IncomingMsat: mppMsat / mppParts, OutgoingMsat: mppMsat / mppParts, IncomingExpiry: quietHeight + 200, OutgoingExpiry: quietHeight + 120,
				OutgoingSCID: scid, AutoFailHeight: quietHeight + 181, FailHeight: quietHeight + 175, OfferHeight: quietHeight,
				Handler: handlerName, State: interceptor.StateHeld, OfferedAt: time.Now(), Version: 1,
			}
		}
	}
	select {
	case <-all:
		return time.Since(began), nil
	case err := <-d.holds.failed:
		return 0, err
	case <-ctx.Done():
		return 0, fmt.Errorf("%d of %d parts were resumed: %w", resumed.Load(), want, ctx.Err())
	}
}

// mppTables are those that gathering adds rows to.
func mppTables() []string { return []string{"interceptor_rows", "fsm_events", "fsm_outbox"} }

func countRows(ctx context.Context, db *store.DB) (map[string]int, error) {
	out := map[string]int{}
	err := db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		for _, table := range mppTables() {
			var n int
			if err := tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM "+table).Scan(&n); err != nil { //nolint:gosec // fixed names
				return err
			}
			out[table] = n
		}
		return nil
	})
	return out, err
}

// row is one to insert again.
type row struct {
	table string
	cells []any
}

// insertBarely inserts as many rows as were added, copied from those tables,
// into tables without indexes: their share of each part in a transaction of its
// own, as many at once as payments were gathered.
func insertBarely(ctx context.Context, db *store.DB, before, after map[string]int, parts int) (int, time.Duration, error) {
	var rows []row
	for _, table := range mppTables() {
		if err := db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.ExecContext(ctx, "CREATE TABLE bare_"+table+" AS SELECT * FROM "+table+" WHERE 1 = 0") //nolint:gosec // fixed names
			return err
		}); err != nil {
			return 0, 0, err
		}
		added, err := lastRows(ctx, db, table, after[table]-before[table])
		if err != nil {
			return 0, 0, err
		}
		rows = append(rows, added...)
	}
	if len(rows) < parts {
		return 0, 0, fmt.Errorf("%d parts made %d rows: they were not made durable", parts, len(rows))
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(mppAtOnce)
	began := time.Now()
	for p := range parts {
		share := rows[p*len(rows)/parts : (p+1)*len(rows)/parts]
		group.Go(func() error {
			return db.Write(groupCtx, func(ctx context.Context, tx *store.Tx) error {
				for _, r := range share {
					marks := make([]string, len(r.cells))
					for i := range marks {
						marks[i] = fmt.Sprintf("$%d", i+1)
					}
					if _, err := tx.ExecContext(ctx, "INSERT INTO bare_"+r.table+" VALUES ("+strings.Join(marks, ", ")+")", r.cells...); err != nil { //nolint:gosec // fixed names
						return err
					}
				}
				return nil
			})
		})
	}
	err := group.Wait()
	return len(rows), time.Since(began), err
}

func lastRows(ctx context.Context, db *store.DB, table string, n int) ([]row, error) {
	var out []row
	err := db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = out[:0]
		rows, err := tx.QueryContext(ctx, fmt.Sprintf("SELECT * FROM %s LIMIT %d", table, n)) //nolint:gosec // fixed names
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		columns, err := rows.Columns()
		if err != nil {
			return err
		}
		for rows.Next() {
			r := row{table: table, cells: make([]any, len(columns))}
			into := make([]any, len(columns))
			for i := range into {
				into[i] = &r.cells[i]
			}
			if err := rows.Scan(into...); err != nil {
				return err
			}
			out = append(out, r)
		}
		return rows.Err()
	})
	return out, err
}
