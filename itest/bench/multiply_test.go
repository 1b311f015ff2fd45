package main

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	interceptorstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	lspstore "github.com/sluice-lsp/sluice/lsp/store"
)

// A copy has every row of its model, in every table, and shares no name with it.
func TestMultiplyCopiesEveryRowUnderNamesOfItsOwn(t *testing.T) {
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "sluice.db")
	db, err := store.Open(ctx, store.Config{Path: path})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	for _, migrate := range []func(context.Context, *store.DB) error{fsm.Migrate, ledger.Migrate, payhash.Migrate, interceptorstore.Migrate, lspstore.Migrate} {
		require.NoError(t, migrate(ctx, db))
	}
	m := model{id: "01M7WSSWJ1F974MX1V7GFMW64A", hash: ln.Hash{7}, scid: ln.NewSCID(16_100_001, 2, 3)}
	text := `{"id":"` + m.id + `","hash":"` + m.hash.String() + `","scid":"` + m.scid.String() + `"}`
	require.NoError(t, db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		for _, statement := range []struct {
			text string
			args []any
		}{
			{`INSERT INTO lsp_payments (id, machine, client, payment_hash, jit_scid, amount_msat, fee_msat, capacity_sat, bolt11, state,
				reason, terminal, held_msat, created_ms, updated_ms, expires_ms)
				VALUES (?, 'jit', x'02', ?, ?, 1, 1, 1, '', 'paid', '', 1, 0, 1, 1, 1)`, []any{m.id, m.hash[:], m.scid.Bytes()}},
			{`INSERT INTO fsm_instances VALUES ('jit', ?, 'paid', ?, 1, 1, 0, 1, 1)`, []any{m.id, text}},
			{`INSERT INTO fsm_instances VALUES ('opening', ?, 'buried', ?, 1, 1, 0, 1, 1)`, []any{m.id + "-open-1", text}},
			{`INSERT INTO fsm_events VALUES ('jit', ?, 1, 'start', ?, '', 'offered', 1)`, []any{m.id, text}},
		} {
			if _, err := tx.ExecContext(ctx, statement.text, statement.args...); err != nil {
				return err
			}
		}
		return nil
	}))
	require.NoError(t, multiply(ctx, path, m, 3))

	require.NoError(t, db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		count := func(query string, args ...any) (n int) {
			require.NoError(t, tx.QueryRowContext(ctx, query, args...).Scan(&n))
			return n
		}
		require.Equal(t, 4, count("SELECT COUNT(DISTINCT id) FROM lsp_payments"))
		require.Equal(t, 4, count("SELECT COUNT(DISTINCT payment_hash) FROM lsp_payments"))
		require.Equal(t, 4, count("SELECT COUNT(DISTINCT jit_scid) FROM lsp_payments"))
		require.Equal(t, 4, count("SELECT COUNT(*) FROM fsm_instances WHERE machine = 'opening' AND id LIKE '%-open-1'"))
		require.Equal(t, 4, count("SELECT COUNT(*) FROM fsm_events"))
		for _, name := range []string{m.id, m.hash.String(), m.scid.String()} {
			require.Equal(t, 2, count("SELECT COUNT(*) FROM fsm_instances WHERE data LIKE '%' || ? || '%'", name), "only the model's two rows name %s", name)
		}
		return nil
	}))
}
