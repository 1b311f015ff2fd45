package app

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/obs"
	"github.com/sluice-lsp/sluice/lsp"
	lspengine "github.com/sluice-lsp/sluice/lsp/engine"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/liquidity"
)

// Config is sluiced's configuration file.
type Config struct {
	DataDir     string            `toml:"data_dir" help:"where sluiced keeps its database, certificate and macaroon" required:"true"`
	Lnd         LndConfig         `toml:"lnd" help:"the gateway's lnd"`
	Database    DatabaseConfig    `toml:"database" help:"where state is kept"`
	RPC         RPCConfig         `toml:"rpc" help:"what sluiced listens on"`
	Log         obs.LogConfig     `toml:"log" help:"what is logged, and how"`
	Trace       obs.TraceConfig   `toml:"trace" help:"OpenTelemetry traces; off without an endpoint"`
	Limits      auth.Limits       `toml:"limits" help:"how often callers may call"`
	Interceptor InterceptorConfig `toml:"interceptor" help:"how held payments are bounded"`
	Proxy       ProxyConfig       `toml:"proxy" help:"programs of others that want lnd's interceptor as well"`
	Acceptor    AcceptorConfig    `toml:"acceptor" help:"who may open channels to the gateway"`
	LSP         LSPConfig         `toml:"lsp" help:"channels on demand"`
	Joint       JointConfig       `toml:"joint" help:"channels that wallets fund together with the gateway"`
	Backups     BackupsConfig     `toml:"backups" help:"the vault: what wallets store here, readable only to them"`
	Holds       HoldsConfig       `toml:"holds" help:"payments that wait for wallets that are offline"`
	Swaps       SwapsConfig       `toml:"swaps" help:"swaps between Lightning and the chain, for stock Loop clients"`
	Watchtower  WatchtowerConfig  `toml:"watchtower" help:"the watchtower: it punishes breaches of channels whose owner is away"`
	LSPS        LSPSConfig        `toml:"lsps" help:"LSPS: any wallet that speaks it buys channels over its Lightning connection"`
}

// LndConfig says how to reach the gateway's lnd.
type LndConfig struct {
	Address  string            `toml:"address" help:"host:port of lnd's gRPC listener" required:"true"`
	TLSCert  string            `toml:"tls_cert" help:"path of lnd's tls.cert" required:"true"`
	Macaroon config.SecretFile `toml:"macaroon_file" help:"path of a macaroon for sluiced; 'sluiced macaroon -c FILE' prints how to bake one" required:"true"`
	Network  string            `toml:"network" help:"the bitcoin network" oneof:"mainnet|testnet|signet|regtest"`
}

// DatabaseConfig says where state is kept.
type DatabaseConfig struct {
	Engine  string            `toml:"engine" help:"sqlite (a file in data_dir) or postgres" oneof:"sqlite|postgres"`
	DSNFile config.SecretFile `toml:"dsn_file" help:"path of a file that holds PostgreSQL's connection string"`
}

// RPCConfig says what sluiced listens on.
type RPCConfig struct {
	Listen   string          `toml:"listen" help:"host:port for gRPC" required:"true"`
	REST     string          `toml:"rest_listen" help:"host:port for REST; empty turns it off"`
	Admin    string          `toml:"admin_listen" help:"loopback host:port for metrics and health; empty turns it off"`
	TLSHosts []string        `toml:"tls_hosts" help:"names and addresses for the certificate, besides localhost"`
	LoginFor config.Duration `toml:"login_for" help:"how long a wallet's login lasts" min:"1m" max:"30d"`
	Profile  bool            `toml:"profiling" help:"serve profiles on the admin address"`
}

// InterceptorConfig bounds what is held, and says where the interceptor runs
// when it is a process of its own.
type InterceptorConfig struct {
	Address           string            `toml:"address" help:"host:port of an interceptor that runs as a process of its own (sluiced run interceptor); empty runs it in this process"`
	TLSCert           string            `toml:"tls_cert" help:"path of that process's tls.cert"`
	Macaroon          config.SecretFile `toml:"macaroon_file" help:"path of that process's operator.macaroon"`
	FailSafetyBlocks  uint32            `toml:"fail_safety_blocks" help:"a held payment is failed so many blocks before lnd would" min:"1" max:"100"`
	NearBlocks        uint32            `toml:"near_blocks" help:"its service is warned so many blocks before that" min:"1" max:"200"`
	MaxHeldPerChannel int               `toml:"max_held_per_channel" help:"held payments per incoming channel, of its 483 slots; as many as holds.htlcs_per_incoming_channel and\nlsp.held_htlcs_per_channel together, whose payments would be refused here otherwise" min:"1" max:"482"`
	MaxHeld           int               `toml:"max_held" help:"held payments in all" min:"1"`
	MaxHeldSat        config.Sat        `toml:"max_held_sat" help:"sats held in all"`
	LeaseFor          config.Duration   `toml:"lease_for" help:"how long a standby waits for a silent owner" min:"2s" max:"1m"`
	AbsentGrace       config.Duration   `toml:"absent_grace" help:"how long a service may be away before its policy applies" min:"1s"`
	KeepRows          config.Duration   `toml:"keep_rows" help:"how long records of held payments are kept once they are over" min:"30d"`
}

// AcceptorConfig says who may open channels to the gateway.
type AcceptorConfig struct {
	MinSat            config.Sat `toml:"min_sat" help:"smallest channel"`
	MaxSat            config.Sat `toml:"max_sat" help:"largest channel"`
	MaxPendingPerPeer int        `toml:"max_pending_per_peer" help:"channels that one peer may have opening at once" min:"1"`
	ZeroConfFrom      []string   `toml:"zero_conf_from" help:"node keys that may open zero-conf channels to us: each could double-spend and take what was forwarded"`
	Deny              []string   `toml:"deny" help:"node keys that may not open channels"`
}

// LSPConfig is the business of channels on demand.
type LSPConfig struct {
	URIs             []string        `toml:"uris" help:"how wallets reach the gateway's node, as KEY@HOST:PORT; empty asks lnd"`
	CltvDelta        uint32          `toml:"cltv_delta" help:"lnd's bitcoin.timelockdelta" min:"18" max:"2016"`
	Menu             []MenuItem      `toml:"menu" help:"what channels cost while the chain is cheap, from cheap to dear; see fee_margin_percent"`
	Tokens           []TokenItem     `toml:"token" help:"tokens (bLIP-52) with menus of their own; sluicectl menus changes them while sluiced runs"`
	OfferFor         config.Duration `toml:"offer_for" help:"how long a price stands; the longer, the further the chain's fees can leave it behind" min:"10m" max:"2h"`
	PromiseKeyFor    config.Duration `toml:"promise_key_for" help:"how long prices are promised under one key before the next;\nan old key is accepted until what it promised has expired, then deleted" min:"1d" max:"365d"`
	Taproot          bool            `toml:"taproot" help:"open simple taproot channels instead of anchor channels"`
	MinChannel       config.Sat      `toml:"min_channel_sat" help:"smallest channel on demand" min:"20000"`
	MaxChannel       config.Sat      `toml:"max_channel_sat" help:"largest channel on demand"`
	Headroom         config.Sat      `toml:"headroom_sat" help:"capacity beyond the payment"`
	HeadroomPPM      uint32          `toml:"headroom_ppm" help:"capacity beyond the payment, in parts per million of it"`
	StressPercent    uint32          `toml:"stress_percent" help:"how much of today's commitment fee a channel must afford, in percent" min:"100" max:"2000"`
	ReservePerChan   config.Sat      `toml:"reserve_per_channel_sat" help:"kept on chain to bump commitments, per channel"`
	MaxReserve       config.Sat      `toml:"max_reserve_sat" help:"kept on chain for that at most"`
	Keep             config.Sat      `toml:"keep_sat" help:"kept on chain besides, whatever is asked for: the coins above are what channels are funded with"`
	MaxUnconfirmed   int             `toml:"max_unconfirmed_depth" help:"longest chain of unconfirmed change to build on; 0 spends confirmed coins only" min:"0" max:"20"`
	PoolCoins        int             `toml:"pool_coins" help:"cut the wallet's coins so that there are so many confirmed ones of pool_coin_sat, each for one channel; 0 leaves them alone" min:"0" max:"500"`
	PoolCoin         config.Sat      `toml:"pool_coin_sat" help:"the size of each: a channel on demand, its chain fee, and a little change" min:"30000"`
	PoolLow          int             `toml:"pool_low" help:"with fewer confirmed ones it no longer waits for cheap blocks" min:"0" max:"500"`
	PoolCheap        uint64          `toml:"pool_cheap_sat_per_kw" help:"blocks are cheap up to this fee rate" min:"253"`
	PoolMaxCoins     int             `toml:"pool_max_coins" help:"with many opens a day the pool grows up to so many; 0 keeps to pool_coins" min:"0" max:"500"`
	PoolMaxCoin      config.Sat      `toml:"pool_max_coin_sat" help:"where channels are larger than pool_coin_sat the size is doubled up to this; 0 keeps to it"`
	PoolJoinFrom     int             `toml:"pool_join_from" help:"in cheap blocks, so many coins below pool_coin_sat are joined into one; 0 never" min:"0" max:"500"`
	CloseUnused      uint32          `toml:"close_unused_after_blocks" help:"close channels on demand over which nothing was paid for so many blocks, with their wallet's node and no earlier than the menu promised (min_lifetime_blocks);\n0 never, else at least 1008. The macaroon needs one right more"`
	FeeTarget        int32           `toml:"fee_target_blocks" help:"funding transactions aim to confirm within so many blocks" min:"1" max:"1008"`
	FeeFloor         uint64          `toml:"fee_floor_sat_per_kw" help:"lowest fee rate (250 sat/kw is 1 sat/vbyte)" min:"253"`
	FeeCeiling       uint64          `toml:"fee_ceiling_sat_per_kw" help:"highest fee rate that is ever paid; while the network asks more, no channels are offered" min:"253"`
	FeeStaleAfter    config.Duration `toml:"fee_stale_after" help:"no channels are offered while the fee estimate is older" min:"1m"`
	FeeMargin        uint32          `toml:"fee_margin_percent" help:"how much of an opening's expected chain fee the least fee of every offer covers, in percent:\na menu item below it is raised, and the smallest payment with it; 0 leaves the menu as it is written" max:"1000"`
	FeeInputs        int             `toml:"fee_expected_inputs" help:"how many coins an opening is expected to spend" min:"1" max:"50"`
	FeeCoverClosing  bool            `toml:"fee_cover_closing" help:"let the least fee also cover a cooperative close at today's rate"`
	FeeTolerance     uint32          `toml:"fee_tolerance_percent" help:"what was promised is kept while the funding transaction pays at most so many percent of the opening fee;\nabove that the payment goes back to its payer; 0 opens whatever it costs" max:"10000"`
	BumpAfter        uint32          `toml:"bump_after_blocks" help:"a funding transaction is bumped after so many blocks; 0 never"`
	CollectFor       config.Duration `toml:"collect_for" help:"how long the first part waits for the others and for the wallet" min:"10s" max:"10m"`
	HoldFor          config.Duration `toml:"hold_for" help:"longest that a wallet may ask to have a payment wait for it while it is offline, once all parts are there; 0 is collect_for for all" max:"7d"`
	OpenFor          config.Duration `toml:"open_for" help:"how long a channel open may take" min:"5s" max:"10m"`
	HoldMargin       uint32          `toml:"hold_margin_blocks" help:"held payments go back so many blocks before lnd would take them back; more than interceptor.fail_safety_blocks" min:"7"`
	PayMargin        uint32          `toml:"pay_margin_blocks" help:"blocks between the end of a payment of ours and of the one it is paid from" min:"20"`
	HoldExpiryDelta  uint32          `toml:"hold_expiry_delta" help:"at least what lnd's invoices.holdexpirydelta is taken for; lnd is asked as well" min:"1"`
	MaxConfs         uint32          `toml:"max_confirmations" help:"most confirmations that a wallet may ask for" min:"1" max:"20"`
	RequestsEach     int             `toml:"open_requests_per_client" help:"agreements that one client may have open; 0 no limit"`
	Requests         int             `toml:"open_requests" help:"agreements open in all; 0 no limit"`
	UnpaidEach       config.Sat      `toml:"unpaid_per_client_sat" help:"capacity opened for one client and not paid for yet; 0 no limit"`
	Unpaid           config.Sat      `toml:"unpaid_sat" help:"capacity opened and not paid for in all; 0 no limit"`
	Unconfirmed      config.Sat      `toml:"unconfirmed_sat" help:"capacity of channels whose funding is in no block yet, in all: above it no channels on demand are offered or opened;\nan order that is paid for is opened all the same, and counts; 0 no limit"`
	HeldEach         config.Sat      `toml:"held_per_client_sat" help:"sats held for one client; 0 no limit"`
	Held             config.Sat      `toml:"held_sat" help:"sats held for channels in all; 0 no limit"`
	HoldCostEach     uint64          `toml:"held_sat_blocks_per_client" help:"sats held for one client, each times the blocks it may be held for; 0 no limit"`
	HoldCost         uint64          `toml:"held_sat_blocks" help:"the same in all; 0 no limit"`
	HeldHtlcsEach    int             `toml:"held_htlcs_per_client" help:"HTLCs held for one client, on demand, by hold invoices and for orders; 0 no limit"`
	HeldHtlcs        int             `toml:"held_htlcs" help:"the same in all; 0 no limit"`
	HeldHtlcsChannel int             `toml:"held_htlcs_per_channel" help:"of those, HTLCs that came in on one channel, of its 483 slots; together with interceptor.max_held_per_channel\nat most 482; 0 no limit" max:"482"`
	OpensPerHourEach int             `toml:"opens_per_hour_per_client" help:"channels opened for one client per hour; 0 no limit"`
	OpensPerHour     int             `toml:"opens_per_hour" help:"channels opened per hour in all; 0 no limit"`
	NewcomersPercent uint32          `toml:"newcomers_percent" help:"share of each limit in all that clients may use together who have not paid for a channel yet" min:"1" max:"100"`
	ForgetUnpaid     config.Duration `toml:"forget_unpaid_after" help:"a channel that nobody paid for no longer counts as unpaid when it is so old; 0s never"`
	Trust            string          `toml:"trust" help:"when the funding of a channel on demand is published only once its payment is claimed, so that the wallet must trust this gateway with it:\nnever, under_attack (opens that nobody pays for), or always" oneof:"never|under_attack|always"`
	TrustEach        int             `toml:"trust_unclaimed_per_client" help:"so many channels of one client that were negotiated within trust_window and not paid for are an attack of that client; 0 never" min:"0"`
	TrustAll         int             `toml:"trust_unclaimed" help:"so many in all are one of which every client bears the consequence that has not paid for a channel yet; 0 never" min:"0"`
	TrustWindow      config.Duration `toml:"trust_window" help:"how far back such channels are counted" min:"10m" max:"7d"`
	OpenForLostRoom  bool            `toml:"open_for_lost_room" help:"open a channel without a fee when the room that an agreement without a fee counted on is gone; off, its payment goes back"`
	ReconnectAfter   config.Duration `toml:"reconnect_after" help:"a connected peer whose channels stay inactive so long, or active with an HTLC near its expiry that does not go, is connected anew, each time after a longer wait: lnd does not do it; what one side alone has signed after an eighth of it is made to go on by a payment of one satoshi that fails; 0s never"`
	Orders           OrdersConfig    `toml:"orders" help:"channels that wallets buy outright (LSPS1)"`
	KeepHistory      config.Duration `toml:"keep_history" help:"how long stories of finished payments are kept; the books are kept for ever" min:"30d"`
}

// MenuItem is one price (bLIP-52, opening_fee_params).
type MenuItem struct {
	MinFee       config.Msat `toml:"min_fee_msat" help:"least fee"`
	PPM          uint32      `toml:"proportional_ppm" help:"proportional fee in parts per million of the payment"`
	MinLifetime  uint32      `toml:"min_lifetime_blocks" help:"the channel stays open at least so long"`
	MaxSelfDelay uint32      `toml:"max_client_to_self_delay_blocks" help:"largest to_self_delay that a wallet may ask of us"`
	MinPayment   config.Msat `toml:"min_payment_size_msat" help:"smallest payment"`
	MaxPayment   config.Msat `toml:"max_payment_size_msat" help:"largest payment"`
}

// TokenItem is the menu for who names a token.
type TokenItem struct {
	Token string     `toml:"token" help:"printable ASCII without spaces"`
	Menu  []MenuItem `toml:"menu" help:"what channels cost with it"`
}

func (m MenuItem) params() lsp.OpeningFeeParams {
	return lsp.OpeningFeeParams{
		MinFeeMsat: m.MinFee.Amount(), ProportionalPPM: m.PPM, MinLifetimeBlocks: m.MinLifetime,
		MaxClientToSelfDelay: m.MaxSelfDelay, MinPaymentSizeMsat: m.MinPayment.Amount(), MaxPaymentSizeMsat: m.MaxPayment.Amount(),
	}
}

// DefaultConfig is safe for a small gateway on mainnet.
func DefaultConfig() Config {
	home, err := os.UserHomeDir()
	if err != nil {
		home = "."
	}
	b := lspengine.Defaults()
	menu := make([]MenuItem, 0, len(b.Menu))
	for _, m := range b.Menu {
		menu = append(menu, MenuItem{
			MinFee: config.Msat(m.MinFeeMsat), PPM: m.ProportionalPPM, MinLifetime: m.MinLifetimeBlocks,
			MaxSelfDelay: m.MaxClientToSelfDelay, MinPayment: config.Msat(m.MinPaymentSizeMsat), MaxPayment: config.Msat(m.MaxPaymentSizeMsat),
		})
	}
	return Config{
		DataDir: filepath.Join(home, ".sluice"),
		Lnd: LndConfig{
			Address: "127.0.0.1:10009", TLSCert: filepath.Join(home, ".lnd", "tls.cert"),
			Macaroon: config.SecretFile(filepath.Join(home, ".sluice", "lnd.macaroon")), Network: "mainnet",
		},
		Database: DatabaseConfig{Engine: "sqlite"},
		RPC: RPCConfig{
			Listen: "127.0.0.1:10200", REST: "127.0.0.1:10280", Admin: "127.0.0.1:10290", LoginFor: config.Duration(24 * time.Hour),
		},
		Log:    obs.DefaultLogConfig(),
		Limits: auth.DefaultLimits(),
		Interceptor: InterceptorConfig{
			FailSafetyBlocks: 6, NearBlocks: 12, MaxHeldPerChannel: 300, MaxHeld: 2000, MaxHeldSat: 1_000_000_000,
			LeaseFor: config.Duration(6 * time.Second), AbsentGrace: config.Duration(30 * time.Second),
			KeepRows: config.Duration(180 * 24 * time.Hour),
		},
		Backups:    defaultBackups(),
		Joint:      defaultJoint(),
		Swaps:      defaultSwaps(),
		LSPS:       defaultLSPS(),
		Proxy:      defaultProxy(),
		Holds:      defaultHolds(),
		Watchtower: defaultWatchtower(),
		Acceptor:   AcceptorConfig{MinSat: 100_000, MaxSat: 1_000_000_000, MaxPendingPerPeer: 2},
		LSP: LSPConfig{
			CltvDelta: b.CltvDelta, Menu: menu, OfferFor: config.Duration(b.OfferFor), PromiseKeyFor: config.Duration(b.PromiseKeyFor),
			MinChannel: config.Sat(b.Capacity.MinSat), MaxChannel: config.Sat(b.Capacity.MaxSat),
			Headroom: config.Sat(b.Capacity.HeadroomSat), HeadroomPPM: b.Capacity.HeadroomPPM, StressPercent: b.Capacity.StressPercent,
			ReservePerChan: config.Sat(b.ReservePerChan), MaxReserve: config.Sat(b.MaxReserveSat), MaxUnconfirmed: b.MaxUnconfirmed,
			PoolCoin: 1_000_000, PoolLow: 5, PoolCheap: 2_500, PoolJoinFrom: 20,
			FeeTarget: b.Fees.TargetBlocks, FeeFloor: uint64(b.Fees.Floor), FeeCeiling: uint64(b.Fees.Ceiling),
			FeeStaleAfter: config.Duration(b.Fees.StaleAfter), BumpAfter: b.BumpAfterBlocks,
			FeeMargin: b.Prices.MarginPercent, FeeInputs: 1, FeeTolerance: b.Prices.TolerancePercent,
			ReconnectAfter: config.Duration(2 * time.Minute), CollectFor: config.Duration(b.CollectFor), HoldFor: config.Duration(b.HoldFor), OpenFor: config.Duration(b.OpenFor),
			HoldMargin: b.HoldMarginBlocks, PayMargin: b.PayMarginBlocks, HoldExpiryDelta: b.HoldExpiryDelta, MaxConfs: b.MaxConfs,
			RequestsEach: b.Caps.Client.OpenRequests, Requests: b.Caps.All.OpenRequests,
			UnpaidEach: config.Sat(b.Caps.Client.UnpaidSat), Unpaid: config.Sat(b.Caps.All.UnpaidSat), Unconfirmed: config.Sat(b.Caps.All.UnconfirmedSat),
			HeldEach: config.Sat(b.Caps.Client.HeldSat), Held: config.Sat(b.Caps.All.HeldSat),
			HoldCostEach: b.Caps.Client.HeldSatBlocks, HoldCost: b.Caps.All.HeldSatBlocks,
			HeldHtlcsEach: b.Caps.Client.HeldHtlcs, HeldHtlcs: b.Caps.All.HeldHtlcs, HeldHtlcsChannel: b.Caps.IncomingHtlcs,
			NewcomersPercent: b.Caps.NewcomersPercent, ForgetUnpaid: config.Duration(b.ForgetUnpaidAfter),
			OpenForLostRoom: b.OpenForLostRoom,
			Trust:           string(b.Trust.Mode), TrustEach: b.Trust.UnclaimedEach, TrustAll: b.Trust.Unclaimed, TrustWindow: config.Duration(b.Trust.Window),
			OpensPerHourEach: b.Caps.Client.OpensLastHour, OpensPerHour: b.Caps.All.OpensLastHour,
			KeepHistory: config.Duration(b.KeepHistory), Orders: defaultOrders(b),
		},
	}
}

// lateForward is by how much more than the interceptor's safety a forward's time lock must
// fall: lnd fails what is held 19 blocks before it expires, and forwards nothing that
// expires within 3.
const lateForward = 19 - 3

// Validate checks what tags cannot.
func (c Config) Validate() error {
	if c.Database.Engine == "postgres" && c.Database.DSNFile == "" {
		return fmt.Errorf("database.dsn_file is missing: with postgres it names a file (mode 0600) that holds the connection string")
	}
	if c.Interceptor.Address != "" && (c.Interceptor.TLSCert == "" || c.Interceptor.Macaroon == "") {
		return fmt.Errorf("interceptor.tls_cert and interceptor.macaroon_file are needed with interceptor.address")
	}
	if c.Interceptor.Address == "" && c.LSP.HoldMargin <= c.Interceptor.FailSafetyBlocks {
		return fmt.Errorf("lsp.hold_margin_blocks is %d and interceptor.fail_safety_blocks %d: the interceptor would fail some parts of a payment while others are forwarded; make the margin the larger one", c.LSP.HoldMargin, c.Interceptor.FailSafetyBlocks)
	}
	if least := c.Interceptor.FailSafetyBlocks + lateForward; c.Interceptor.Address == "" && c.LSP.CltvDelta < least {
		return fmt.Errorf("lsp.cltv_delta is %d, and interceptor.fail_safety_blocks %d: what is resumed shortly before lnd would fail it could be forwarded so late that its end is not known in time; raise lsp.cltv_delta and lnd's bitcoin.timelockdelta to %d or more", c.LSP.CltvDelta, c.Interceptor.FailSafetyBlocks, least)
	}
	if held := c.Interceptor.MaxHeldPerChannel + c.LSP.HeldHtlcsChannel; c.Interceptor.Address == "" && c.LSP.HeldHtlcsChannel > 0 && held >= lsp.ChannelSlots {
		return fmt.Errorf("interceptor.max_held_per_channel and lsp.held_htlcs_per_channel are %d together: what is intercepted and what hold invoices accept could take all %d slots of a channel; lower one", held, lsp.ChannelSlots)
	}
	if asked := c.Holds.Incoming + c.LSP.HeldHtlcsChannel; c.Interceptor.Address == "" && c.Holds.Enabled && asked > c.Interceptor.MaxHeldPerChannel {
		return fmt.Errorf("holds.htlcs_per_incoming_channel and lsp.held_htlcs_per_channel are %d together, interceptor.max_held_per_channel is %d: the interceptor would refuse what is new where these make room for it; raise it, or lower one of these", asked, c.Interceptor.MaxHeldPerChannel)
	}
	if _, err := c.lspConfig(ln.PubKey{2}, nil); err != nil {
		return err
	}
	if _, err := c.LSPS.limits(); err != nil {
		return err
	}
	if _, err := c.LSPS.Webhooks.settings(); err != nil {
		return err
	}
	if err := c.Proxy.validate(); err != nil {
		return err
	}
	for _, list := range [][]string{c.Acceptor.ZeroConfFrom, c.Acceptor.Deny} {
		if _, err := keySet(list); err != nil {
			return fmt.Errorf("acceptor: %w", err)
		}
	}
	return nil
}

// MissingFiles says which files of lnd's are not where the settings say, and
// what to do: sluiced does not start without them.
func (c Config) MissingFiles() []string {
	var out []string
	for _, f := range []struct{ setting, path, fix string }{
		{"lnd.tls_cert", c.Lnd.TLSCert, "it is lnd's tls.cert, which lnd writes when it first starts"},
		{"lnd.macaroon_file", string(c.Lnd.Macaroon), "`sluiced macaroon -c FILE` prints how to bake it"},
	} {
		if _, err := os.Stat(f.path); err != nil {
			out = append(out, fmt.Sprintf("%s: %v: %s", f.setting, err, f.fix))
		}
	}
	return out
}

func keySet(keys []string) (map[ln.PubKey]bool, error) {
	out := make(map[ln.PubKey]bool, len(keys))
	for _, text := range keys {
		key, err := ln.ParsePubKey(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		out[key] = true
	}
	return out, nil
}

// lspConfig turns settings into the engine's configuration.
func (c Config) lspConfig(self ln.PubKey, uris []string) (lspengine.Config, error) {
	s := c.LSP
	out := lspengine.Defaults()
	out.Network, out.Self, out.URIs, out.CltvDelta = c.Lnd.Network, self, uris, s.CltvDelta
	if len(s.URIs) > 0 {
		out.URIs = s.URIs
	}
	out.Menu = nil
	for _, m := range s.Menu {
		out.Menu = append(out.Menu, m.params())
	}
	for _, t := range s.Tokens {
		menu := lspengine.TokenMenu{Token: t.Token}
		for _, m := range t.Menu {
			menu.Items = append(menu.Items, m.params())
		}
		out.Tokens = append(out.Tokens, menu)
	}
	out.OfferFor, out.PromiseKeyFor = s.OfferFor.Std(), s.PromiseKeyFor.Std()
	out.Prices = lsp.ChainPrices{OpeningWU: funding.OpeningWU(s.FeeInputs), MarginPercent: s.FeeMargin, TolerancePercent: s.FeeTolerance}
	if s.FeeCoverClosing {
		out.Prices.ClosingWU = funding.ClosingWU
	}
	if s.Taproot {
		out.Type = ln.CommitmentSimpleTaproot
	}
	out.Capacity.MinSat, out.Capacity.MaxSat = s.MinChannel.Amount(), s.MaxChannel.Amount()
	out.Capacity.HeadroomSat, out.Capacity.HeadroomPPM, out.Capacity.StressPercent = s.Headroom.Amount(), s.HeadroomPPM, s.StressPercent
	out.ReservePerChan, out.MaxReserveSat, out.MaxUnconfirmed = s.ReservePerChan.Amount(), s.MaxReserve.Amount(), s.MaxUnconfirmed
	out.KeepSat = s.Keep.Amount()
	out.MinReserveSat = min(out.MinReserveSat, out.MaxReserveSat)
	out.Pool = liquidity.Policy{
		Coins: s.PoolCoins, CoinSat: s.PoolCoin.Amount(), Low: s.PoolLow, CheapRate: ln.FeeRateSatPerKW(s.PoolCheap), JoinFrom: s.PoolJoinFrom,
		MaxCoins: s.PoolMaxCoins, MaxCoinSat: s.PoolMaxCoin.Amount(),
	}
	out.Unused.AfterBlocks = s.CloseUnused
	out.Fees.TargetBlocks, out.Fees.Floor, out.Fees.Ceiling = s.FeeTarget, ln.FeeRateSatPerKW(s.FeeFloor), ln.FeeRateSatPerKW(s.FeeCeiling)
	out.Fees.StaleAfter, out.BumpAfterBlocks = s.FeeStaleAfter.Std(), s.BumpAfter
	out.CollectFor, out.HoldFor, out.OpenFor = s.CollectFor.Std(), s.HoldFor.Std(), s.OpenFor.Std()
	out.HoldMarginBlocks, out.PayMarginBlocks, out.HoldExpiryDelta, out.MaxConfs = s.HoldMargin, s.PayMargin, s.HoldExpiryDelta, s.MaxConfs
	client, all := &out.Caps.Client, &out.Caps.All
	client.OpenRequests, all.OpenRequests = s.RequestsEach, s.Requests
	client.UnpaidSat, all.UnpaidSat = s.UnpaidEach.Amount(), s.Unpaid.Amount()
	all.UnconfirmedSat = s.Unconfirmed.Amount()
	client.HeldSat, all.HeldSat = s.HeldEach.Amount(), s.Held.Amount()
	client.HeldSatBlocks, all.HeldSatBlocks = s.HoldCostEach, s.HoldCost
	client.HeldHtlcs, all.HeldHtlcs, out.Caps.IncomingHtlcs = s.HeldHtlcsEach, s.HeldHtlcs, s.HeldHtlcsChannel
	out.Caps.NewcomersPercent, out.ForgetUnpaidAfter, out.OpenForLostRoom = s.NewcomersPercent, s.ForgetUnpaid.Std(), s.OpenForLostRoom
	client.OpensLastHour, all.OpensLastHour = s.OpensPerHourEach, s.OpensPerHour
	out.Trust = lsp.TrustPolicy{Mode: lsp.TrustMode(s.Trust), UnclaimedEach: s.TrustEach, Unclaimed: s.TrustAll, Window: s.TrustWindow.Std()}
	out.KeepHistory, out.Orders = s.KeepHistory.Std(), s.Orders.engine(s.MaxChannel.Amount())
	return out, out.Validate()
}
