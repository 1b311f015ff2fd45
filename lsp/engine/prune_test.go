package engine

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/opening"
	lspstore "github.com/sluice-lsp/sluice/lsp/store"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// listed is an lnd that lists channels.
type listed struct {
	Channels
	open    []ln.Channel
	pending []ln.PendingChannel
	err     error
}

func (l listed) ListChannels(context.Context) ([]ln.Channel, error)           { return l.open, l.err }
func (l listed) PendingChannels(context.Context) ([]ln.PendingChannel, error) { return l.pending, nil }

func outpoint(n uint32) ln.Outpoint { return ln.Outpoint{TxID: ln.TxID{7}, Index: n} }

const (
	noChannel = iota
	failedOpen
	closedChannel
	unpaidChannel
	openChannel
	pendingChannel
	openGoesOn
	openEffectLeft
	kinds
)

// story is one payment as the database has it, and whether it must go.
type story struct {
	id                  string
	machine, state      string
	updated             time.Time
	terminal, effectOut bool
	channel             int
	goes                bool
}

func (s story) write(ctx context.Context, t *testing.T, db *store.DB) {
	t.Helper()
	put := func(ctx context.Context, tx *store.Tx, query string, args ...any) error {
		_, err := tx.ExecContext(ctx, query, args...)
		return err
	}
	instance := func(ctx context.Context, tx *store.Tx, machine, id string, over, effectOut bool) error {
		done := int64(1)
		if effectOut {
			done = 0
		}
		if err := put(ctx, tx, `INSERT INTO fsm_instances VALUES ($1, $2, 'x', '{}', 1, $3, 0, 0, 0)`, machine, id, over); err != nil {
			return err
		}
		if err := put(ctx, tx, `INSERT INTO fsm_events VALUES ($1, $2, 1, 'start', '{}', 'a', 'b', 0)`, machine, id); err != nil {
			return err
		}
		return put(ctx, tx, `INSERT INTO fsm_outbox VALUES ($1, $2, 1, 0, 'e', '{}', 0, $3, 0, '')`, machine, id, done)
	}
	require.NoError(t, db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := put(ctx, tx, `INSERT INTO lsp_payments (id, machine, client, payment_hash, amount_msat, fee_msat, capacity_sat,
			bolt11, state, reason, terminal, held_msat, created_ms, updated_ms, expires_ms)
			VALUES ($1, $2, $3, $4, 1, 0, 0, '', $5, '', $6, 0, 0, $7, 0)`,
			s.id, s.machine, []byte{1}, []byte(s.id), s.state, s.terminal, s.updated.UnixMilli()); err != nil {
			return err
		}
		machine := jit.Machine().Name
		if s.machine == machineWrap {
			machine = wrap.Machine().Name
		}
		if err := instance(ctx, tx, machine, s.id, s.terminal, s.effectOut); err != nil {
			return err
		}
		if s.channel == noChannel {
			return nil
		}
		point := ""
		switch s.channel {
		case closedChannel, unpaidChannel:
			point = outpoint(0).String()
		case openChannel:
			point = outpoint(1).String()
		case pendingChannel:
			point = outpoint(2).String()
		}
		over, state := s.channel != openGoesOn, "buried"
		if s.channel == failedOpen {
			state = "failed"
		}
		if err := put(ctx, tx, `INSERT INTO lsp_openings (id, payment_id, client, capacity_sat, chain_fee_sat, outpoint,
			zero_conf, paid, confirmed, state, reason, terminal, created_ms, updated_ms, unpaid)
			VALUES ($1, $2, $3, 1, 1, $4, TRUE, FALSE, TRUE, $5, '', $6, 0, 0, $7)`,
			s.id+"-1", s.id, []byte{1}, point, state, over, s.channel == unpaidChannel); err != nil {
			return err
		}
		return instance(ctx, tx, opening.Machine().Name, s.id+"-1", over, s.channel == openEffectLeft)
	}))
}

// left are the ids that each table still knows.
func left(ctx context.Context, t *testing.T, db *store.DB) map[string]map[string]bool {
	t.Helper()
	out := map[string]map[string]bool{}
	require.NoError(t, db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		for table, column := range map[string]string{
			"lsp_payments": "id", "lsp_openings": "payment_id", "fsm_instances": "id", "fsm_events": "id", "fsm_outbox": "id",
		} {
			rows, err := tx.QueryContext(ctx, "SELECT DISTINCT "+column+" FROM "+table)
			if err != nil {
				return err
			}
			out[table] = map[string]bool{}
			for rows.Next() {
				var id string
				if err := rows.Scan(&id); err != nil {
					return err
				}
				out[table][id] = true
			}
			if err := rows.Err(); err != nil {
				return err
			}
			if err := rows.Close(); err != nil {
				return err
			}
		}
		return nil
	}))
	return out
}

func TestPruneDeletesWholeStoriesThatNothingNeeds(t *testing.T) {
	now := time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)
	var stories []story
	for _, machine := range []string{machineJit, machineWrap} {
		for _, state := range []string{"paid", "lost"} {
			for _, age := range []int{179, 181, 400} {
				for kind := range kinds {
					for _, terminal := range []bool{true, false} {
						for _, effectOut := range []bool{true, false} {
							stories = append(stories, story{
								id: fmt.Sprintf("p%04d", len(stories)), machine: machine, state: state,
								updated: now.AddDate(0, 0, -age), terminal: terminal, effectOut: effectOut, channel: kind,
								goes: age > 180 && terminal && !effectOut && !(machine == machineWrap && state == "lost") &&
									(kind == noChannel || kind == failedOpen || kind == closedChannel),
							})
						}
					}
				}
			}
		}
	}
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		ctx := t.Context()
		db := open()
		for _, migrate := range []func(context.Context, *store.DB) error{fsm.Migrate, ledger.Migrate, payhash.Migrate, lspstore.Migrate} {
			require.NoError(t, migrate(ctx, db))
		}
		for _, s := range stories {
			s.write(ctx, t, db)
		}
		cfg := Defaults()
		cfg.Network, cfg.Self = "regtest", ln.PubKey{2}
		node := listed{
			open: []ln.Channel{{Outpoint: outpoint(1)}}, pending: []ln.PendingChannel{{Outpoint: outpoint(2)}},
		}
		fenced := false
		engine := func(node listed) *Engine {
			e, err := New(Options{
				DB: db, Node: Node{Channels: node}, Config: cfg, Now: func() time.Time { return now },
				Fence: func(context.Context, *store.Tx) error {
					if fenced {
						return store.ErrLeaseLost
					}
					return nil
				},
			})
			require.NoError(t, err)
			t.Cleanup(e.stop)
			return e
		}
		before := left(ctx, t, db)

		away := node
		away.err = ln.ErrUnavailable
		_, err := engine(away).prune(ctx)
		require.ErrorIs(t, err, ln.ErrUnavailable)
		require.Equal(t, before, left(ctx, t, db), "without lnd's word nothing is deleted")
		e := engine(node)
		fenced = true
		_, err = e.prune(ctx)
		require.ErrorIs(t, err, store.ErrLeaseLost)
		require.Equal(t, before, left(ctx, t, db), "without the lease nothing is deleted")
		fenced = false

		want := 0
		for _, s := range stories {
			if !s.goes {
				continue
			}
			want++
			delete(before["lsp_payments"], s.id)
			if s.channel == failedOpen {
				delete(before["lsp_openings"], s.id)
			}
			for _, table := range []string{"fsm_instances", "fsm_events", "fsm_outbox"} {
				delete(before[table], s.id)
				delete(before[table], s.id+"-1")
			}
		}
		require.Positive(t, want)
		require.Greater(t, len(stories), 5*prunePage, "more than one page")
		n, err := e.prune(ctx)
		require.NoError(t, err)
		require.Equal(t, want, n)
		require.Equal(t, before, left(ctx, t, db))
		n, err = e.prune(ctx)
		require.NoError(t, err)
		require.Zero(t, n)
	})
}
