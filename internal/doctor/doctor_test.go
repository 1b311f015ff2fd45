package doctor

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

func testNow() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// healthy is a gateway about which there is nothing to say, except for the one
// standing note on the acceptor.
func healthy() Facts {
	f := Facts{
		Now: testNow(), Address: "localhost:10009", MacaroonFile: "lnd.macaroon",
		Info: ln.NodeInfo{
			PubKey: ln.PubKey{2, 7}, Alias: "gateway", Network: "mainnet", BlockHeight: 900_000, BestHeaderAt: testNow().Add(-10 * time.Minute),
			SyncedToChain: true, SyncedToGraph: true, RequireInterceptor: true, StoreFinalResolutions: true,
			Features: map[uint32]string{51: "zero-conf", 47: "scid-alias", 729: "unknown"},
		},
		Version: lnd.Version{Major: 0, Minor: 21, Patch: 2, PreRelease: "beta", Text: "0.21.2-beta", BuildTags: append(neededTags(), "kvdb_sqlite")},
		Channels: []ln.Channel{
			{}, {},
		},
		Coins: []ln.Coin{
			{AmountSat: 1_000_000}, {AmountSat: 1_000_000}, {AmountSat: 1_000_000}, {AmountSat: 1_000_000}, {AmountSat: 500},
		},
		Balance: ln.Balances{ConfirmedSat: 4_000_500, ReservedSat: 0},
		Settings: lnd.Settings{
			"bitcoin.basefee": "0 mSAT", "bitcoin.feerate": "0 mSAT", "bitcoin.timelockdelta": "80", "invoices.holdexpirydelta": "18",
			"grpc.server-ping-time": "3s", "grpc.server-ping-timeout": "5s", "num-restricted-slots": "1000", "rejecthtlc": "false",
			"minchansize": "1000000",
		},
		Extras:  []Extra{{For: lnd.ForJoint, Setting: "joint.enabled"}, {For: lnd.ForSwaps, Setting: "swaps.enabled"}, {For: lnd.ForClosing, Setting: "lsp.x"}},
		Sluiced: Sluiced{GatewayNodeKey: ln.PubKey{2, 7}, Accepting: true, BlockHeight: 900_000, FeeRateSatPerKW: 500, FeeCeilingSatPerKW: 50_000},
	}
	want := DefaultWant()
	f.Sluiced.Settings = &want
	return f
}

func byCheck(t *testing.T, findings []Finding) map[string]Finding {
	t.Helper()
	out := map[string]Finding{}
	for _, f := range findings {
		require.NotContains(t, out, f.Check, "two findings of one name")
		require.NotEmpty(t, f.Title)
		require.NotEmpty(t, f.Found)
		if f.Level == Fail || f.Level == Warn {
			require.NotEmpty(t, f.Fix, "%s: %s has no fix", f.Check, f.Found)
		}
		out[f.Check] = f
	}
	return out
}

func TestHealthyGateway(t *testing.T) {
	for check, f := range byCheck(t, Examine(healthy(), healthy().Want())) {
		if check == "acceptor" {
			require.Equal(t, Note, f.Level)
			require.Contains(t, f.Found, "minchansize=1000000")
			continue
		}
		require.Equal(t, OK, f.Level, "%s: %s", check, f.Found)
		require.Empty(t, f.Lines, check)
	}
}

// Each ailment changes exactly the findings that it should, to the level that
// it should, and the fix has the exact line.
func TestAilments(t *testing.T) {
	away := errors.New("not told")
	one := func(check string, l Level) map[string]Level { return map[string]Level{check: l} }
	tests := []struct {
		name string
		ail  func(*Facts, *Want)
		want map[string]Level
		line string
	}{
		{"old", func(f *Facts, _ *Want) { f.Version.Patch = 1 }, one("version", Fail), ""},
		{"older", func(f *Facts, _ *Want) { f.Version.Minor, f.Version.Patch = 20, 9 }, one("version", Fail), ""},
		{"newer", func(f *Facts, _ *Want) { f.Version.Minor, f.Version.Patch = 22, 0 }, nil, ""},
		{"version unknown", func(f *Facts, _ *Want) { f.NoVers = away }, map[string]Level{"version": Warn, "build_tags": Note}, ""},
		{"no router tag", func(f *Facts, _ *Want) {
			f.Version.BuildTags = slices.DeleteFunc(f.Version.BuildTags, func(s string) bool { return s == "routerrpc" })
		}, one("build_tags", Fail), `make install tags="chainrpc invoicesrpc peersrpc routerrpc signrpc walletrpc"`},
		{"other network", func(_ *Facts, w *Want) { w.Network = "signet" }, one("network", Fail), ""},
		{"right missing", func(f *Facts, _ *Want) { f.Missing = []string{"/lnrpc.Lightning/OpenChannel"} }, one("rights", Fail), "sluiced macaroon -c sluiced.toml"},
		{"method absent", func(f *Facts, _ *Want) { f.Absent = []string{"/routerrpc.Router/XAddLocalChanAliases"} }, one("rights", Fail), ""},
		{"a right of swaps missing, and swaps on", func(f *Facts, _ *Want) {
			f.Extras[1].Missing, f.Sluiced.Swaps = []string{"/routerrpc.Router/SendPaymentV2"}, true
		}, one("rights", Fail), "sluiced macaroon -c sluiced.toml"},
		{"a right of swaps missing, and swaps off", func(f *Facts, _ *Want) { f.Extras[1].Missing = []string{"/routerrpc.Router/SendPaymentV2"} }, nil, ""},
		{"a method of swaps absent, and swaps on", func(f *Facts, _ *Want) {
			f.Extras[1].Absent, f.Sluiced.Swaps = []string{"/routerrpc.Router/SendPaymentV2"}, true
		}, one("rights", Fail), ""},
		{"rights unknown", func(f *Facts, _ *Want) { f.NoRights = away }, one("rights", Warn), ""},
		{"chain behind", func(f *Facts, _ *Want) { f.Info.SyncedToChain = false }, one("chain_sync", Fail), ""},
		{"graph behind", func(f *Facts, _ *Want) { f.Info.SyncedToGraph = false }, one("graph_sync", Warn), ""},
		{"clock slow", func(f *Facts, _ *Want) { f.Now = f.Now.Add(-3 * time.Hour) }, one("clock", Fail), "timedatectl set-ntp true"},
		{"clock a little slow", func(f *Facts, _ *Want) { f.Now = f.Now.Add(-time.Hour) }, nil, ""},
		{"clock fast", func(f *Facts, _ *Want) { f.Now = f.Now.Add(5 * time.Hour) }, one("clock", Warn), ""},
		{"regtest's old block", func(f *Facts, _ *Want) { f.Now, f.Info.Network = f.Now.Add(5*time.Hour), "regtest" }, nil, ""},
		{"no requireinterceptor", func(f *Facts, _ *Want) { f.Info.RequireInterceptor = false }, one("require_interceptor", Fail), "requireinterceptor=true"},
		{"no final resolutions", func(f *Facts, _ *Want) { f.Info.StoreFinalResolutions = false }, one("final_resolutions", Warn), "store-final-htlc-resolutions=true"},
		{"rejecthtlc", func(f *Facts, _ *Want) { f.Settings["rejecthtlc"] = "true" }, one("reject_htlc", Fail), "rejecthtlc=false"},
		{"no zero-conf", func(f *Facts, _ *Want) { delete(f.Info.Features, 51) }, one("zero_conf", Fail), "protocol.zero-conf=true"},
		{"no alias", func(f *Facts, _ *Want) { delete(f.Info.Features, 47) }, one("scid_alias", Fail), "protocol.option-scid-alias=true"},
		{"zero-conf mandatory", func(f *Facts, _ *Want) { delete(f.Info.Features, 51); f.Info.Features[50] = "zero-conf" }, nil, ""},
		{"no LSPS bit", func(f *Facts, _ *Want) { delete(f.Info.Features, 729) }, one("lsps", Warn), "protocol.custom-nodeann=729"},
		{"wumbo wanted", func(_ *Facts, w *Want) { w.MaxChannelSat = 20_000_000 }, one("big_channels", Fail), "protocol.wumbo-channels=true"},
		{"wumbo there", func(f *Facts, w *Want) { w.MaxChannelSat, f.Info.Features[19] = 20_000_000, "wumbo" }, nil, ""},
		{"default base fee", func(f *Facts, _ *Want) { f.Settings["bitcoin.basefee"] = "1000 mSAT" }, one("default_fees", Warn), "bitcoin.basefee=0"},
		{"default fee rate", func(f *Facts, _ *Want) { f.Settings["bitcoin.feerate"] = "1" }, one("default_fees", Warn), "bitcoin.feerate=0"},
		{"delta larger", func(f *Facts, _ *Want) { f.Settings["bitcoin.timelockdelta"] = "144" }, one("timelock_delta", Fail), "bitcoin.timelockdelta=80"},
		{"delta smaller", func(f *Facts, _ *Want) { f.Settings["bitcoin.timelockdelta"] = "40" }, nil, ""},
		{"hold delta larger", func(f *Facts, _ *Want) { f.Settings["invoices.holdexpirydelta"] = "40" }, one("hold_expiry_delta", Warn), "invoices.holdexpirydelta=18"},
		{"hold delta larger, and Sluice may not read it", func(f *Facts, _ *Want) {
			f.Settings["invoices.holdexpirydelta"], f.Missing = "40", []string{lnd.SettingsMethod}
		}, map[string]Level{"hold_expiry_delta": Fail, "rights": Fail}, "invoices.holdexpirydelta=18"},
		{"slow pings", func(f *Facts, _ *Want) { f.Settings["grpc.server-ping-time"] = "1m0s" }, one("grpc_pings", Warn), "grpc.server-ping-time=2s"},
		{"few slots", func(f *Facts, _ *Want) { f.Settings["num-restricted-slots"] = "100" }, one("restricted_slots", Warn), "num-restricted-slots=1000"},
		{"settings unknown", func(f *Facts, _ *Want) { f.Settings, f.NoSettings = nil, away }, map[string]Level{
			"reject_htlc": Note, "default_fees": Note, "timelock_delta": Note, "hold_expiry_delta": Note, "grpc_pings": Note, "restricted_slots": Note,
		}, "bitcoin.basefee=0"},
		{"garbled settings", func(f *Facts, _ *Want) {
			for k := range f.Settings {
				f.Settings[k] = "?"
			}
		}, map[string]Level{"default_fees": Note, "timelock_delta": Note, "hold_expiry_delta": Note, "grpc_pings": Note, "restricted_slots": Note}, ""},
		{"no coins", func(f *Facts, _ *Want) { f.Coins = nil }, one("coins", Fail), "lncli newaddress p2tr"},
		{"dust only", func(f *Facts, _ *Want) { f.Coins = f.Coins[4:] }, one("coins", Fail), ""},
		{"one big coin", func(f *Facts, _ *Want) { f.Coins = []ln.Coin{{AmountSat: 10_000_000}} }, one("coins", Warn), `lncli sendmany '{"ADDRESS1": 2000000, "ADDRESS2": 2000000}'`},
		{"coins beyond 21 million", func(f *Facts, _ *Want) { f.Coins[0].AmountSat = 1 << 63 }, one("coins", Fail), ""},
		{"coins unknown", func(f *Facts, _ *Want) { f.NoCoins = away }, one("coins", Note), ""},
		{"one big coin that sluiced cuts", func(f *Facts, w *Want) { f.Coins, w.Cut = []ln.Coin{{AmountSat: 10_000_000}}, true }, one("coins", Note), ""},
		{"too little to be cut", func(f *Facts, w *Want) { f.Coins, w.Cut = []ln.Coin{{AmountSat: 400_000}}, true }, one("coins", Warn), "lncli newaddress p2tr"},
		{"kept beside the reserve", func(_ *Facts, w *Want) { w.KeepSat = 4_000_000 }, one("reserve", Fail), ""},
		{"settings not said", func(_ *Facts, w *Want) { w.Said = false }, one("settings", Note), ""},
		{"no reserve", func(f *Facts, _ *Want) { f.Balance.ConfirmedSat = 19_999 }, one("reserve", Fail), ""},
		{"thin reserve", func(f *Facts, _ *Want) { f.Balance.ConfirmedSat = 39_999 }, one("reserve", Warn), ""},
		{"reserve of many channels is capped", func(f *Facts, _ *Want) { f.Channels = make([]ln.Channel, 5000); f.Balance.ConfirmedSat = 200_000 }, nil, ""},
		{"channels unknown", func(f *Facts, _ *Want) { f.NoChannels = away }, map[string]Level{"reserve": Note, "dead_links": Note}, ""},
		{"a channel without a link", func(f *Facts, _ *Want) {
			f.Channels[1].Peer, f.Connected = ln.PubKey{2, 9}, []ln.PubKey{{2, 8}, {2, 9}}
		}, one("dead_links", Warn), "lncli listpeers"},
		{"a channel whose peer is away", func(f *Facts, _ *Want) {
			f.Channels[1].Peer, f.Connected = ln.PubKey{2, 9}, []ln.PubKey{{2, 8}}
		}, nil, ""},
		{"an HTLC near its expiry", func(f *Facts, _ *Want) {
			f.Channels[1].Active, f.Channels[1].Htlcs = true, []ln.ChannelHtlc{{Expiry: f.Info.BlockHeight + 36}}
		}, one("dead_links", Warn), "lncli disconnect PEER"},
		{"an HTLC with time left", func(f *Facts, _ *Want) {
			f.Channels[1].Active, f.Channels[1].Htlcs = true, []ln.ChannelHtlc{{Expiry: f.Info.BlockHeight + 37}, {Incoming: true, Expiry: f.Info.BlockHeight + 19}}
		}, nil, ""},
		{"peers unknown", func(f *Facts, _ *Want) { f.NoConnected = away }, one("dead_links", Note), ""},
		{"many pending", func(f *Facts, _ *Want) {
			f.Pending = slices.Repeat([]ln.PendingChannel{{Kind: ln.PendingOpen}}, 26)
		}, one("pending_channels", Warn), "lncli pendingchannels"},
		{"many closing", func(f *Facts, _ *Want) {
			f.Pending = slices.Repeat([]ln.PendingChannel{{Kind: ln.PendingForceClose}}, 26)
		}, nil, ""},
		{"sluiced away", func(f *Facts, _ *Want) { f.NoSluiced = away }, map[string]Level{"sluiced": Note, "database": Note, "offers": Note, "acceptor": Warn}, "minchansize=1000000"},
		{"no fee estimate", func(f *Facts, _ *Want) { f.Sluiced.FeeRateSatPerKW, f.Sluiced.FeeRateStale = 0, true }, one("offers", Warn), "lncli wallet estimatefeerate 6"},
		{"old fee estimate", func(f *Facts, _ *Want) { f.Sluiced.FeeRateStale = true }, one("offers", Warn), "lncli wallet estimatefeerate 6"},
		{"fees at the ceiling", func(f *Facts, _ *Want) { f.Sluiced.FeeRateSatPerKW = 50_000 }, nil, ""},
		{"fees above the ceiling", func(f *Facts, _ *Want) { f.Sluiced.FeeRateSatPerKW = 50_001 }, one("offers", Warn), ""},
		{"a menu too dear", func(f *Facts, _ *Want) { f.Sluiced.NoOffers = "too dear" }, one("offers", Warn), ""},
		{"sluiced of another node", func(f *Facts, _ *Want) { f.Sluiced.GatewayNodeKey[5] = 1 }, one("sluiced", Fail), ""},
		{"sluiced behind", func(f *Facts, _ *Want) { f.Sluiced.BlockHeight -= 3 }, one("sluiced", Warn), ""},
		{"sluiced one block behind", func(f *Facts, _ *Want) { f.Sluiced.BlockHeight-- }, nil, ""},
		{"a database put back", func(f *Facts, _ *Want) { f.Sluiced.RestoredReason = "lnd has channel 1:0" }, one("database", Warn), "sluicectl reconcile"},
		{"business stopped", func(f *Facts, _ *Want) { f.Sluiced.Accepting = false }, one("sluiced", Note), "sluicectl business start"},
	}
	well := byCheck(t, Examine(healthy(), healthy().Want()))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			facts, want := healthy(), healthy().Want()
			tt.ail(&facts, &want)
			var lines []string
			got := byCheck(t, Examine(facts, want))
			require.Len(t, got, len(well))
			for check, f := range got {
				expected := well[check].Level
				if l, ok := tt.want[check]; ok {
					expected = l
				}
				require.Equal(t, expected, f.Level, "%s: %s", check, f.Found)
				if expected != OK {
					lines = append(lines, f.Lines...)
				}
			}
			if tt.line != "" {
				require.Contains(t, lines, tt.line)
			}
		})
	}
}

// TestRightsTellWhatTheyLack: what is off, or cannot be known to be on, is named and is no
// failure.
func TestRightsTellWhatTheyLack(t *testing.T) {
	f := healthy()
	for i := range f.Extras {
		f.Extras[i].Missing = []string{"/x.Y/Z"}
	}
	found := func() string { return byCheck(t, Examine(f, DefaultWant()))["rights"].Found }
	require.Contains(t, found(), "not those for joint fundings, swaps, closing channels (needed if you set lsp.x)")
	f.NoSluiced = errors.New("away")
	require.Contains(t, found(), "swaps (needed if you set swaps.enabled)")
	f.Extras[1].Missing = nil
	require.Contains(t, found(), "those for swaps as well; not those for joint fundings (needed")
}

// What lnd is judged by is what sluiced says of itself, where it does.
func TestWhatLndIsJudgedBy(t *testing.T) {
	f := healthy()
	own := DefaultWant()
	own.MaxChannelSat, own.CltvDelta = 20_000_000, 144
	f.Sluiced.Settings = &own
	w := f.Want()
	require.True(t, w.Said)
	require.EqualValues(t, 20_000_000, w.MaxChannelSat)
	require.EqualValues(t, 144, w.CltvDelta)
	require.Equal(t, Fail, byCheck(t, Examine(f, w))["big_channels"].Level, "this lnd opens none so large")

	f.NoSluiced = errors.New("away")
	require.Equal(t, DefaultWant(), f.Want())
	f.NoSluiced, f.Sluiced.Settings = nil, nil
	require.Equal(t, DefaultWant(), f.Want(), "an older sluiced does not say")
}

func TestUnreachableLndIsTheOnlyFinding(t *testing.T) {
	got := Examine(Facts{NoInfo: errors.New("lnd does not answer")}, DefaultWant())
	require.Len(t, got, 1)
	require.Equal(t, Fail, Worst(got))
	require.Contains(t, got[0].Fix, "unlock")

	got = Examine(Facts{NoInfo: errors.New("deadline exceeded"), Silent: true}, DefaultWant())
	require.Len(t, got, 1)
	require.Contains(t, got[0].Fix, "restart lnd")
}

func TestWorst(t *testing.T) {
	require.Equal(t, OK, Worst(nil))
	require.Equal(t, Warn, Worst([]Finding{{Level: Note}, {Level: Warn}, {Level: OK}}))
	require.Equal(t, Fail, Worst([]Finding{{Level: Fail}, {Level: Warn}}))
}

// fakeNode answers rights by a table and everything else emptily.
type fakeNode struct {
	permission func(method string) (lnd.Permission, error)
	asked      []string
}

func (f *fakeNode) Info(context.Context) (ln.NodeInfo, error)                    { return healthy().Info, nil }
func (f *fakeNode) Version(context.Context) (lnd.Version, error)                 { return healthy().Version, nil }
func (f *fakeNode) ListChannels(context.Context) ([]ln.Channel, error)           { return nil, nil }
func (f *fakeNode) PendingChannels(context.Context) ([]ln.PendingChannel, error) { return nil, nil }
func (f *fakeNode) ConnectedPeers(context.Context) ([]ln.PubKey, error)          { return nil, nil }
func (f *fakeNode) ListCoins(context.Context, int32) ([]ln.Coin, error)          { return nil, nil }
func (f *fakeNode) WalletBalance(context.Context) (ln.Balances, error)           { return ln.Balances{}, nil }
func (f *fakeNode) Settings(context.Context) (lnd.Settings, error)               { return nil, ln.ErrPermission }
func (f *fakeNode) CheckPermission(_ context.Context, _ []byte, m string) (lnd.Permission, error) {
	f.asked = append(f.asked, m)
	return f.permission(m)
}

func TestGatherChecksEveryRight(t *testing.T) {
	gather := func(permission func(string) (lnd.Permission, error)) (Facts, *fakeNode) {
		n := &fakeNode{permission: permission}
		return Gather(t.Context(), Sources{
			Node: n, Peers: n, Wallet: n, Settings: n, Macaroon: []byte{1}, Now: testNow,
			Sluiced: func(context.Context) (Sluiced, error) { return Sluiced{}, errors.New("away") },
		}), n
	}
	f, n := gather(func(m string) (lnd.Permission, error) {
		switch m {
		case "/routerrpc.Router/HtlcInterceptor":
			return lnd.Absent, nil
		case "/lnrpc.Lightning/OpenChannel":
			return lnd.Refused, nil
		}
		return lnd.Allowed, nil
	})
	asked := len(lnd.GatewayRights())
	for _, x := range lnd.GatewayExtras() {
		asked += len(x.Rights)
	}
	require.Len(t, n.asked, asked)
	require.Equal(t, []string{"/lnrpc.Lightning/OpenChannel"}, f.Missing)
	require.Len(t, f.Extras, 3)
	require.Equal(t, []string{"/routerrpc.Router/HtlcInterceptor"}, f.Absent)
	require.NoError(t, f.NoRights)
	require.ErrorIs(t, f.NoSettings, ln.ErrPermission)

	f, _ = gather(func(string) (lnd.Permission, error) { return "", ln.ErrPermission })
	require.Equal(t, []string{"/lnrpc.Lightning/CheckMacaroonPermissions"}, f.Missing)
	f, n = gather(func(string) (lnd.Permission, error) { return "", ln.ErrUnavailable })
	require.ErrorIs(t, f.NoRights, ln.ErrUnavailable)
	require.Len(t, n.asked, 1, "a lost connection is not asked again for every right")
}
