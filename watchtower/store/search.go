package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lightningnetwork/lnd/watchtower/blob"
	"github.com/lightningnetwork/lnd/watchtower/wtdb"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/watchtower/store/towerdb"
)

// Match is an update whose hint was asked for, and whose it is.
type Match struct {
	Tenant int64
	wtdb.Match
}

// hintsPerQuery is how many hints one statement asks for.
const hintsPerQuery = 400

// Matches finds every update under one of the hints.
func (s *Store) Matches(ctx context.Context, hints []blob.BreachHint) (out []Match, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		for rest := hints; len(rest) > 0; {
			n := min(len(rest), hintsPerQuery)
			found, err := matches(ctx, tx, rest[:n])
			if err != nil {
				return fmt.Errorf("search for hints: %w", err)
			}
			out, rest = append(out, found...), rest[n:]
		}
		return nil
	})
	return out, err
}

// matches is written by hand: sqlc has no list of values that both databases
// take.
func matches(ctx context.Context, tx *store.Tx, hints []blob.BreachHint) (out []Match, err error) {
	var query strings.Builder
	query.WriteString(`SELECT u.hint, u.seq, u.blob, s.tenant, s.session_id, s.blob_type, s.max_updates, s.reward_base, s.reward_rate,
    s.sweep_fee_rate, s.reward_address, s.last_applied, s.client_last_applied
FROM tower_updates u JOIN tower_sessions s ON s.num = u.session WHERE u.hint IN (`)
	args := make([]any, 0, len(hints))
	for i := range hints {
		if i > 0 {
			query.WriteByte(',')
		}
		fmt.Fprintf(&query, "$%d", i+1)
		args = append(args, hints[i][:])
	}
	query.WriteString(")")
	rows, err := tx.QueryContext(ctx, query.String(), args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var (
			hint, encrypted []byte
			seq             int64
			r               towerdb.TowerSession
		)
		if err := rows.Scan(&hint, &seq, &encrypted, &r.Tenant, &r.SessionID, &r.BlobType, &r.MaxUpdates, &r.RewardBase, &r.RewardRate,
			&r.SweepFeeRate, &r.RewardAddress, &r.LastApplied, &r.ClientLastApplied); err != nil {
			return nil, err
		}
		info := sessionOf(r)
		m := Match{Tenant: r.Tenant, Match: wtdb.Match{ID: info.ID, SeqNum: uint16(seq), EncryptedBlob: encrypted, SessionInfo: &info}} //nolint:gosec // written from it
		copy(m.Hint[:], hint)
		out = append(out, m)
	}
	return out, rows.Err()
}

// Held is an update as it is held.
type Held struct {
	Hint blob.BreachHint
	Seq  uint16
	Blob []byte
}

// Updates reads what is held under a sequence number of a tenant's session.
func (s *Store) Updates(ctx context.Context, tenant int64, id wtdb.SessionID, seq uint16) (out []Held, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		q := towerdb.New(tx)
		row, err := q.GetSession(ctx, towerdb.GetSessionParams{Tenant: tenant, SessionID: id[:]})
		if err != nil {
			return err
		}
		rows, err := q.UpdatesBySeq(ctx, towerdb.UpdatesBySeqParams{Session: row.Num, Seq: int64(seq)})
		if err != nil {
			return err
		}
		for _, r := range rows {
			h := Held{Seq: uint16(r.Seq), Blob: r.Blob} //nolint:gosec // written from it
			copy(h.Hint[:], r.Hint)
			out = append(out, h)
		}
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, wtdb.ErrSessionNotFound
	}
	return out, err
}
