package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// model is a stored payment that others are made from.
type model struct {
	id   string
	hash ln.Hash
	scid ln.SCID
}

// copiedTable is a table whose rows belong to one payment, and how they name it.
type copiedTable struct{ table, where string }

func copied() []copiedTable {
	return []copiedTable{
		{"lsp_payments", "id = ?1"},
		{"lsp_openings", "payment_id = ?1"},
		{"fsm_instances", "id = ?1 OR id LIKE ?1 || '-%'"},
		{"fsm_events", "id = ?1 OR id LIKE ?1 || '-%'"},
		{"fsm_outbox", "id = ?1 OR id LIKE ?1 || '-%'"},
		{"interceptor_routes", "scid = ?2"},
		{"interceptor_rows", "payment_hash = ?3"},
		{"ledger_entries", "reference = ?1 OR reference LIKE ?1 || '-%'"},
	}
}

// rowSet are a table's rows that belong to the model.
type rowSet struct {
	table   string
	columns []string
	rows    [][]any
}

// multiply stores n more payments like the model in a stopped sluiced's SQLite file: the
// same rows in every table, under ids, hashes and SCIDs of their own. It is
// what n such payments would have left, without opening n channels. The books
// get no lines, so that their sums stay lnd's.
func multiply(ctx context.Context, database string, m model, n int) error {
	db, err := sql.Open("sqlite", database+"?_txlock=immediate")
	if err != nil {
		return fmt.Errorf("sluiced's database: %w", err)
	}
	defer func() { _ = db.Close() }()
	sets, err := readModel(ctx, db, m)
	if err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("store payments: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	for i := range n {
		if err := storeOne(ctx, tx, sets, m, int64(i)); err != nil {
			return fmt.Errorf("store payment %d like %s: %w", i+1, m.id, err)
		}
	}
	return tx.Commit()
}

func readModel(ctx context.Context, db *sql.DB, m model) ([]rowSet, error) {
	var sets []rowSet
	for _, t := range copied() {
		set, err := readTable(ctx, db, t, m)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", t.table, err)
		}
		sets = append(sets, set)
	}
	return sets, nil
}

func readTable(ctx context.Context, db *sql.DB, t copiedTable, m model) (set rowSet, err error) {
	rows, err := db.QueryContext(ctx, "SELECT * FROM "+t.table+" WHERE "+t.where, m.id, m.scid.Bytes(), m.hash[:])
	if err != nil {
		return set, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	set.table = t.table
	if set.columns, err = rows.Columns(); err != nil {
		return set, err
	}
	for rows.Next() {
		values, into := make([]any, len(set.columns)), make([]any, len(set.columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return set, err
		}
		set.rows = append(set.rows, values)
	}
	return set, rows.Err()
}

// storeOne writes the model's rows with its names exchanged for new ones,
// wherever they stand: in columns, in states and in reasons.
func storeOne(ctx context.Context, tx *sql.Tx, sets []rowSet, m model, serial int64) error {
	id, err := ulid.New(ulid.Timestamp(time.Now()), rand.Reader)
	if err != nil {
		return err
	}
	secret, err := newSecret()
	if err != nil {
		return err
	}
	var raw [8]byte
	copy(raw[:], secret.hash[:])
	n := binary.BigEndian.Uint64(raw[:])
	scid := ln.NewSCID(16_100_000+uint32(n%100_000), uint32(n>>20)&0xffffff, uint16(n>>48)) //nolint:gosec // the parts are masked
	names := strings.NewReplacer(
		m.id, id.String(), m.hash.String(), secret.hash.String(), m.scid.String(), scid.String(),
		fmt.Sprintf("%d", uint64(m.scid)), fmt.Sprintf("%d", uint64(scid)),
	)
	for _, set := range sets {
		marks := strings.TrimSuffix(strings.Repeat("?,", len(set.columns)), ",")
		insert := "INSERT INTO " + set.table + " (" + strings.Join(set.columns, ",") + ") VALUES (" + marks + ")"
		for j, row := range set.rows {
			row = slices.Clone(row)
			for i, v := range row {
				switch v := v.(type) {
				case string:
					row[i] = names.Replace(v)
				case []byte:
					switch {
					case len(v) == 0:
						row[i] = []byte{} // empty, which a nil slice is not
					case bytes.Equal(v, m.hash[:]):
						row[i] = secret.hash[:]
					case bytes.Equal(v, m.scid.Bytes()):
						row[i] = scid.Bytes()
					}
				case int64:
					// The interceptor counts rows and HTLCs; nothing else is unique.
					if c := set.columns[i]; set.table == "interceptor_rows" && (c == "id" || c == "htlc_id") {
						row[i] = v + serial + 1
					}
				}
			}
			if set.table == "ledger_entries" {
				// Some keys name the payment, others an HTLC: all get a name of their own.
				row[slices.Index(set.columns, "entry_key")] = fmt.Sprintf("bench/%s/%d", id, j)
			}
			if _, err := tx.ExecContext(ctx, insert, row...); err != nil {
				return fmt.Errorf("%s: %w", set.table, err)
			}
		}
	}
	return nil
}
