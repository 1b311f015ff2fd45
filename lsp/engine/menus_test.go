package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/lsps2"
	lspstore "github.com/sluice-lsp/sluice/lsp/store"
)

func menuItem(fee ln.Msat, ppm uint32) lsp.OpeningFeeParams {
	return lsp.OpeningFeeParams{
		MinFeeMsat: fee, ProportionalPPM: ppm, MinLifetimeBlocks: 1008, MaxClientToSelfDelay: 2016, MinPaymentSizeMsat: 1_000, MaxPaymentSizeMsat: 1_000_000_000,
	}
}

// TestMenusOfTokens: each token has its menu, changed at run time and kept; what
// bLIP-52 forbids is refused at once, and at the start.
func TestMenusOfTokens(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		ctx := t.Context()
		require.NoError(t, lspstore.Migrate(ctx, db))
		now := time.UnixMilli(1_700_000_000_000)
		cfg := Defaults()
		cfg.Tokens = []TokenMenu{{Token: "FRIENDS", Items: []lsp.OpeningFeeParams{menuItem(500_000, 100)}}}
		start := func() (*Engine, error) {
			e := &Engine{cfg: cfg, db: db, opt: Options{Now: func() time.Time { return now }}, menus: &menus{configured: configuredMenus(cfg)}, log: zap.NewNop()}
			return e, e.loadMenus(ctx)
		}
		e, err := start()
		require.NoError(t, err)
		fee := func(token string) ln.Msat {
			t.Helper()
			items, err := e.menus.of(token, now)
			require.NoError(t, err)
			return items[0].MinFeeMsat
		}
		unknown := func(token string) {
			t.Helper()
			_, err := e.menus.of(token, now)
			require.ErrorIs(t, err, lsps2.ErrToken)
		}
		require.Equal(t, cfg.Menu[0].MinFeeMsat, fee(""))
		require.EqualValues(t, 500_000, fee("FRIENDS"))
		unknown("friends")
		unknown("SALE")

		require.NoError(t, e.SetMenu(ctx, "SALE", []lsp.OpeningFeeParams{menuItem(1_000, 0), menuItem(1_000, 1)}, now.Add(time.Hour)))
		require.NoError(t, e.SetMenu(ctx, "FRIENDS", []lsp.OpeningFeeParams{menuItem(7_000, 0)}, time.Time{}))
		require.NoError(t, e.SetMenu(ctx, "", []lsp.OpeningFeeParams{menuItem(9_000_000, 0)}, time.Time{}))
		for range 2 {
			require.EqualValues(t, 1_000, fee("SALE"))
			require.EqualValues(t, 7_000, fee("FRIENDS"))
			require.EqualValues(t, 9_000_000, fee(""))
			e, err = start() // and after a restart
			require.NoError(t, err)
		}
		now = now.Add(time.Hour)
		unknown("SALE")
		require.NoError(t, e.WithdrawToken(ctx, "FRIENDS"))
		unknown("FRIENDS")
		require.NoError(t, e.WithdrawToken(ctx, "SALE"))
		require.ErrorIs(t, e.WithdrawToken(ctx, "SALE"), errkind.NotFound)
		require.NoError(t, e.ResetMenu(ctx, "FRIENDS"))
		require.EqualValues(t, 500_000, fee("FRIENDS"))
		require.NoError(t, e.ResetMenu(ctx, ""))
		require.Equal(t, cfg.Menu[0].MinFeeMsat, fee(""))
		require.ErrorIs(t, e.ResetMenu(ctx, ""), errkind.NotFound)

		for name, items := range map[string][]lsp.OpeningFeeParams{
			"no item":      nil,
			"out of order": {menuItem(2_000, 0), menuItem(1_000, 1)},
			"twice":        {menuItem(2_000, 0), menuItem(2_000, 0)},
			"no payment":   {{MinFeeMsat: 1, MinPaymentSizeMsat: 2, MaxPaymentSizeMsat: 1}},
		} {
			require.ErrorIs(t, e.SetMenu(ctx, "X", items, time.Time{}), errkind.Invalid, name)
			bad := cfg
			bad.Network, bad.Self = "regtest", ln.PubKey{2, 1}
			require.NoError(t, bad.Validate())
			bad.Tokens = []TokenMenu{{Token: "X", Items: items}}
			require.Error(t, bad.Validate(), "refused at the start: %s", name)
		}
		good := []lsp.OpeningFeeParams{menuItem(1_000, 0)}
		for _, token := range []string{"a b", "ä", "x\n", strings.Repeat("x", MaxToken+1)} {
			require.ErrorIs(t, e.SetMenu(ctx, token, good, time.Time{}), errkind.Invalid, token)
		}
		require.ErrorIs(t, e.SetMenu(ctx, "X", good, now), errkind.Invalid)
		require.ErrorIs(t, e.SetMenu(ctx, "", good, now.Add(time.Hour)), errkind.Invalid)
		require.ErrorIs(t, e.WithdrawToken(ctx, ""), errkind.Invalid)
		twice := cfg
		twice.Tokens = append(twice.Tokens, twice.Tokens[0])
		require.Error(t, twice.Validate())
	})
}

func TestPublicInbound(t *testing.T) {
	channel := func(remote, reserve ln.Sat, active, private bool) ln.Channel {
		return ln.Channel{RemoteSat: remote, RemoteReserveSat: reserve, Active: active, Private: private}
	}
	require.EqualValues(t, 0, publicInbound(nil))
	require.EqualValues(t, 990_000_000+5_000, publicInbound([]ln.Channel{
		channel(1_000_000, 10_000, true, false), channel(5, 0, true, false),
		channel(7_000_000, 0, true, true), channel(7_000_000, 0, false, false), channel(10_000, 10_000, true, false), channel(5_000, 10_000, true, false),
	}))
	refused := errInbound()
	require.ErrorIs(t, refused, lsp.ErrTooLarge)
	code := lsps2.Refusal(refused)
	require.Contains(t, code.Error(), "203")
}
